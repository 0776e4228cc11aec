"""What a converter of official checkpoints has to say, and the checks that all share.

An :class:`Official` tells our config from the shapes of a checkpoint and translates one
entry after the other. The model of that config, built without memory, is the list of
what must come out: a key that is missing, left over or of another shape is an error
that names it, and names the published network that the file fits instead, if any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .io import shorten

State = Mapping[str, Tensor]
_LISTED = 20  # keys in a message


@dataclasses.dataclass(frozen=True)
class Official:
    """One family of official checkpoints.

    Args:
        name: On the command line, such as ``'cmx'``.
        title: For messages, such as ``'official CMX (MiT streams, MLP decoder)'``.
        config: From an official state dict to the config of our ``EncoderDecoder``
            (without preprocessor), read from shapes and keys. Raises ``ValueError``
            with what it got and expected where the state is none of this family.
        translate: From an official key and tensor to our keys and tensors; ``None``
            for a key that is unknown, ``{}`` for one that needs no place (constants).
        notes: Lines for the user: what the official inputs look like.
        variants: Sizes that ``config`` can tell, for messages.
    """

    name: str
    title: str
    config: Callable[[State], dict[str, Any]]
    translate: Callable[[str, Tensor], Mapping[str, Tensor] | None]
    notes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()


Translate = Callable[[str, Tensor], Mapping[str, Tensor] | None]
OFFICIAL: dict[str, Official] = {}


def renaming(rename: Callable[[str], str | None]) -> Translate:
    """Make ``translate`` of a family whose tensors stay as they are.

    Args:
        rename: From an official key to ours; None for an unknown one, ``''`` for a
            constant that needs no place.
    """

    def translate(key: str, value: Tensor) -> dict[str, Tensor] | None:
        ours = rename(key)
        return None if ours is None else ({ours: value} if ours else {})

    return translate


def mlp_head(state: State, kind: str, prefix: str = 'decode_head.') -> dict[str, Any]:
    """Read the config of an MLP decoder from its weights.

    Args:
        state: Official key to tensor.
        kind: Name of our head, such as ``'CMXHead'``.
        prefix: Before ``linear_pred`` and ``linear_c1``.

    Raises:
        ValueError: If weights that tell the config are missing.
    """
    names = [f'{prefix}linear_c{i}.proj.weight' for i in range(1, 5)]
    names.append(f'{prefix}linear_pred.weight')
    lacking = [name for name in names if name not in state]
    if lacking:
        raise ValueError(
            f'The MLP decoder under {prefix!r} lacks {lacking}, expected all of '
            f'{names}. Give the file that the official repository offers.'
        )
    *levels, classifier = (state[name] for name in names)
    classes, channels = classifier.shape[:2]
    return dict(
        type=f'mmseg_xmodal.{kind}',
        in_channels=[level.shape[1] for level in levels],
        channels=channels,
        num_classes=classes,
    )


def register_official(official: Official) -> Official:
    """Make a family known to ``convert.py`` and to the messages of the others."""
    OFFICIAL[official.name] = official
    return official


def _expected(config: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.device('meta'):
        return MODELS.build(dict(config)).state_dict()


def convert_official(official: Official, state: State) -> dict[str, Tensor]:
    """Convert an official state dict into that of our model.

    Args:
        official: The family that ``state`` is said to belong to.
        state: Official key to tensor.

    Returns:
        Our key to tensor; loads strictly into the model of ``official.config(state)``.

    Raises:
        ValueError: If the state is of another family, a key is missing or has no place,
            or a shape differs.
    """
    try:
        expected = _expected(official.config(state))
    except ValueError as error:
        raise ValueError(f'{error}{_suggestion(official, state)}') from error
    converted: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        entries = official.translate(key, value)
        # An entry that the model lacks is left over under its official name.
        if entries is None or any(ours not in expected for ours in entries):
            unknown.append(key)
        else:
            converted.update(entries)
    missing = [key for key in expected if key not in converted]
    problems = []
    if missing:
        problems.append(
            f'{len(missing)} keys are missing (by our names): '
            f'{shorten(missing, _LISTED)}'
        )
    if unknown:
        problems.append(
            f'{len(unknown)} keys are not expected: {shorten(unknown, _LISTED)}'
        )
    wrong = [
        f'{key}: got {tuple(value.shape)}, expected {tuple(expected[key].shape)}'
        for key, value in converted.items()
        if value.shape != expected[key].shape
    ]
    if wrong:
        problems.append(
            f'{len(wrong)} tensors have another shape: {shorten(wrong, 10)}'
        )
    if problems:
        raise ValueError(
            f'The checkpoint is not {official.title}: {"; ".join(problems)}. Give the '
            f'file that the official repository offers.{_suggestion(official, state)}'
        )
    return converted


def recognise(state: State) -> list[Official]:
    """List the families whose official checkpoints look like this.

    Args:
        state: Key to tensor.
    """
    found = []
    for official in OFFICIAL.values():
        try:
            official.config(state)
        except ValueError:
            continue
        share = sum(official.translate(k, v) is not None for k, v in state.items())
        if share > 0.9 * len(state):
            found.append(official)
    return found


def _suggestion(asked: Official, state: State) -> str:
    others: Iterable[str] = [
        f'{o.title} (convert.py {o.name} ...)' for o in recognise(state) if o != asked
    ]
    text = ' or '.join(others)
    return f' It looks like {text}.' if text else ''
