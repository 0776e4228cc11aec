"""Read foreign checkpoints without running what is pickled in them."""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmseg_xmodal import compat

# Averaged weights come first, where a file has both: the official loader of DFormer and
# timm's take these.
_WRAPPERS = (
    'state_dict_ema',
    'state_dict',
    'model',
    'model_state_dict',
    'module',
    'segmenter',
)


def read_checkpoint(path: str | Path, allow_pickle: bool = False) -> Any:
    """Load a file or URL with ``weights_only=True``, or a safetensors file.

    Args:
        path: Local file, or an http(s) address (cached by torch hub).
        allow_pickle: Run whatever code is pickled in the file. Only for files that
            you would run as a program.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no torch checkpoint, or holds pickled code.
    """
    text = str(path)
    try:
        if text.startswith(('http://', 'https://')):
            return torch.hub.load_state_dict_from_url(
                text, map_location='cpu', weights_only=not allow_pickle
            )
        if not Path(text).is_file():
            raise FileNotFoundError(
                f'Checkpoint {text!r} does not exist. Give the path of a .pth file.'
            )
        if text.endswith('.safetensors'):
            return _read_safetensors(text)
        # Anew: the forks' loader takes its safe globals, ours among them, away again.
        compat.allow_mmengine_checkpoints()
        return torch.load(text, map_location='cpu', weights_only=not allow_pickle)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        if allow_pickle:
            raise ValueError(
                f'{text!r} cannot be read as a checkpoint, pickled code included: '
                f'{_first_line(error)}. It is damaged, or no file of torch.save. '
                'Download it anew.'
            ) from error
        raise ValueError(
            f'{text!r} cannot be read as a checkpoint of plain tensors: '
            f'{_first_line(error)}. Files with pickled code are refused. If you trust '
            'its author as much as a program of his, write its tensors alone to '
            'another file: python tools/model_converters/convert.py unwrap '
            f'{shlex.quote(text)} OUT.pth --allow-pickle (for `pretrained`; with the '
            'name of a method in place of unwrap it converts a whole network).'
        ) from error


def _read_safetensors(path: str) -> dict[str, Tensor]:
    library = compat.import_extra('safetensors.torch', 'encoders')
    broken = compat.import_extra('safetensors', 'encoders').SafetensorError
    try:
        return library.load_file(path)
    except broken as error:
        raise ValueError(
            f'{path!r} cannot be read as a safetensors file: {error}. Download it anew.'
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wanted = [line for line in lines if 'GLOBAL' in line or 'Unsupported' in line]
    return (wanted or lines or [type(error).__name__])[0].rstrip('.')


def load_state(path: str | Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint.

    Wrappers (``state_dict``, ``model``, ...) and the prefix ``module.`` of DDP are
    taken off. Averaged weights (``state_dict_ema``) are taken where a file has them.

    Args:
        path: See :func:`read_checkpoint`.
        allow_pickle: See :func:`read_checkpoint`.

    Returns:
        Name to tensor.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no state dict.
    """
    content = read_checkpoint(path, allow_pickle)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f'{str(path)!r} holds a {type(content).__name__}, expected a dict of '
            f'tensors, or one under a key of {_WRAPPERS}. Save model.state_dict().'
        )
    foreign = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(
            f'{str(path)!r} holds entries that are no tensors: {shorten(foreign)}. '
            f'Expected a state dict, or one under a key of {_WRAPPERS}.'
        )
    state = dict(content)
    if all(key.startswith('module.') for key in state):
        state = {key[len('module.') :]: value for key, value in state.items()}
    return state


def shorten(names: Iterable[str], limit: int = 20) -> str:
    """List names in a message: the first ones and the count of the rest."""
    names = list(names)
    text = ', '.join(repr(name) for name in names[:limit])
    rest = len(names) - limit
    return f'[{text}]' if rest <= 0 else f'[{text} and {rest} more]'
