"""Fixtures: numbers of official code, and where they lie."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .fill import checksum, fill_state, make_input

HERE = Path(__file__).parent / 'fixtures'
VARIABLE = 'XMODAL_PARITY_FIXTURES'


class NoRunner(Exception):
    """What nothing here can run yet: listed as one expected failure.

    Args:
        reason: Names the fixture and what has no runner.
        outputs: Of the rest of the fixture, which is compared all the same.
        arrays: Recorded arrays that have no runner.
    """

    def __init__(
        self,
        reason: str,
        outputs: Mapping[str, Tensor] | None = None,
        arrays: Iterable[str] = (),
    ) -> None:
        super().__init__(reason)
        self.outputs, self.arrays = dict(outputs or {}), set(arrays)


@dataclasses.dataclass(frozen=True)
class Fixture:
    """One fixture: what was computed, and the numbers.

    Args:
        name: File name without ending.
        meta: The JSON file.
        path: The JSON file's path.
    """

    name: str
    meta: dict[str, Any]
    path: Path

    @property
    def repositories(self) -> list[str]:
        """Official repositories whose numbers these are, without trailing signs."""
        stated = self.meta.get('repository') or []
        stated = [stated] if isinstance(stated, str) else stated
        return [url.rstrip('/').removesuffix('.git') for url in stated]

    @property
    def variant(self) -> str:
        """Variant of the network, for messages."""
        return str(self.meta.get('variant'))

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The numbers by name."""
        return np.load(self.path.with_suffix('.npz'))

    def official_state(self, case: str) -> dict[str, Tensor]:
        """Weights of a case under official keys, proved by the checksum."""
        return self.official_weights(self.meta['cases'][case]['small'])

    def official_weights(self, small: bool = False) -> dict[str, Tensor]:
        """Weights under official keys, proved by the checksum.

        Args:
            small: See :func:`fill_state`.
        """
        state = fill_state(self.meta['state_dict'], small)
        expected = self.meta['fill_checksum_small' if small else 'fill_checksum']
        assert checksum(state) == expected, 'the fill rule is not that of the fixture'
        return state

    def inputs(self, case: str) -> dict[str, Tensor]:
        """Inputs of a case by stream."""
        spec = self.meta['cases'][case]
        return {
            i['stream']: make_input(i['name'], i['shape'], spec['small'])
            for i in spec['inputs']
        }

    def shapes(self) -> dict[str, Tensor]:
        """Official state dict without memory, for those who read sizes only."""
        shapes = self.meta['state_dict']
        return {key: torch.empty(shapes[key], device='meta') for key in shapes}

    def streams(self, case: str | None = None) -> list[str]:
        """Names of the inputs in their order, but the colour image first.

        Args:
            case: None = the first one.
        """
        cases = self.meta['cases']
        spec = cases[next(iter(cases)) if case is None else case]
        names = [i['stream'] for i in spec['inputs']]
        return sorted(names, key=lambda name: name not in ('rgb', 'img'))

    def check(self, name: str, value: Tensor, spec: Mapping[str, Any]) -> float:
        """Compare one output.

        Args:
            name: In the fixture.
            value: Ours, the whole map.
            spec: Its tolerance, and the part of it that is recorded.

        Returns:
            Largest difference.
        """
        ours = value[parse_slicing(spec.get('slicing'))]
        official = torch.from_numpy(np.asarray(self.arrays()[name]))
        torch.testing.assert_close(
            ours,
            official,
            rtol=spec['rtol'],
            atol=spec['atol'],
            msg=lambda text: f'{self.name}, output {name}: {text}',
        )
        return (ours.double() - official.double()).abs().max().item()

    def compare(
        self, outputs: Mapping[str, Tensor], without: Iterable[str] = ()
    ) -> dict[str, float]:
        """Compare every recorded output at its tolerance.

        Args:
            outputs: Name in the fixture to the whole map. Where the tolerance is that
                of the whole fixture nothing tells an output from an input: inputs are
                among them.
            without: Recorded arrays that have no runner.

        Returns:
            Largest difference by name.
        """
        specs = self._by_array() or self._by_output() or self._stated()
        lost = set(specs) - set(outputs) - set(without)
        assert not lost, f'{self.name}: no value for {sorted(lost)}'
        return {
            name: self.check(name, outputs[name], spec)
            for name, spec in specs.items()
            if name in outputs
        }

    def _by_array(self) -> dict[str, dict[str, float]]:
        """Tolerances that stand beside each array; what has none is exact."""
        arrays = self.meta.get('arrays', {})
        if not any('rtol' in spec for spec in arrays.values()):
            return {}
        exact = dict(rtol=0.0, atol=0.0)
        return {
            name: {key: spec[key] for key in exact} if 'rtol' in spec else exact
            for name, spec in arrays.items()
        }

    def _by_output(self) -> dict[str, dict[str, Any]]:
        """Tolerances and slices of the outputs; some fixtures have texts there."""
        outputs = self.meta.get('outputs') or {}
        told = any(isinstance(spec, Mapping) for spec in outputs.values())
        return outputs if told else {}

    def _stated(self) -> dict[str, dict[str, Any]]:
        """Tolerances that are stated for all that is recorded, and by section."""
        settings = self.meta.get('settings') or self.meta.get('sections') or {}
        stated = self.meta['tolerance']
        nested = stated if isinstance(stated, Mapping) else {}
        listed = self.meta.get('arrays', {})
        specs = {}
        for name, array in self.arrays().items():
            specs[name] = dict(rtol=0.0, atol=0.0)
            if listed.get(name, {}).get('compare') == 'exact':
                continue
            # A text may be that of a type.
            called = f'{name} {array.dtype}'
            specs[name].update(parse_tolerance(stated, called))
            for part in name.split('.'):
                section = settings.get(part)
                own = section.get('tolerance') if isinstance(section, Mapping) else None
                for of_part in (nested.get(part), own):
                    if of_part is not None:
                        specs[name].update(parse_tolerance(of_part, called))
        return specs


def parse_tolerance(
    stated: str | float | Mapping[str, Any], called: str = ''
) -> dict[str, float]:
    """Read a tolerance in words, as numbers, or both.

    Args:
        stated: Text such as ``rtol 1e-4, atol 1e-5 unless ...``; one number, which
            bounds the difference; or a dict of ``rtol``, ``atol`` and texts, where a
            number counts more than a text, and dicts are those of sections.
        called: Words of the array. Of several texts those count whose key has one of
            them; all of them if none has. Of several numbers the smallest counts.
    """
    if isinstance(stated, Mapping):
        numbers = {k: float(stated[k]) for k in ('rtol', 'atol') if k in stated}
        if numbers:
            return numbers
        texts = {key: text for key, text in stated.items() if isinstance(text, str)}
        own = [text for key, text in texts.items() if _share_word(key, called)]
        stated = ', '.join(own or texts.values())
    if not isinstance(stated, str):
        return dict(rtol=0.0, atol=float(stated))
    found: dict[str, float] = {}
    for key, text in re.findall(r'\b([ra]tol) (\d+(?:\.\d+)?(?:e-?\d+)?)', stated):
        found[key] = min(float(text), found.get(key, float(text)))
    return found


def _share_word(first: str, second: str) -> bool:
    """Whether both have a word, one of them maybe in the plural."""
    words, others = (
        set(re.findall('[a-z0-9]+', text.lower())) for text in (first, second)
    )

    def plural(own: set[str]) -> set[str]:
        return {word + end for word in own for end in ('', 's', 'es')}

    return bool(words & plural(others) | plural(words) & others)


def parse_slicing(text: str | None) -> tuple[slice | int | EllipsisType, ...]:
    """Read a slicing such as ``[:, ::8]`` or ``[0, ..., :16]``."""
    if not text:
        return ()
    return tuple(map(_parse_place, text.strip().strip('[]').split(',')))


def _parse_place(text: str) -> slice | int | EllipsisType:
    text = text.strip()
    if text == '...':
        return Ellipsis
    if ':' not in text:
        return int(text)
    return slice(*(int(n) if n.strip() else None for n in text.split(':')))


def logits_cases(
    fixtures: Iterable[Fixture], output: str = 'logits'
) -> list[tuple[Fixture, str]]:
    """Every fixture with every case whose logits it records.

    Args:
        fixtures: Which ones.
        output: Name of the output, without the case.
    """
    return [
        (fixture, case)
        for fixture in fixtures
        for case in fixture.meta.get('cases') or ()
        if f'{case}_{output}' in fixture.meta.get('outputs', {})
    ]


def _folder(path: Path) -> dict[str, Fixture]:
    files = sorted(path.glob('*.json'))
    if not files:
        raise FileNotFoundError(f'{path} holds no parity fixture (*.json).')
    return {f.stem: Fixture(f.stem, json.loads(f.read_text()), f) for f in files}


def all_fixtures() -> list[Fixture]:
    """Fixtures of this folder and of ``$XMODAL_PARITY_FIXTURES``, both.

    Raises:
        FileNotFoundError: If the variable names no folder with fixtures.
    """
    found = _folder(HERE)
    extra = os.environ.get(VARIABLE)
    if extra:
        if not Path(extra).is_dir():
            raise FileNotFoundError(f'${VARIABLE} is {extra!r}, which is no folder.')
        for name, fixture in _folder(Path(extra)).items():
            # Both are run where two folders share a name.
            if name in found:
                fixture = dataclasses.replace(fixture, name=f'extra/{name}')
            found[fixture.name] = fixture
    return [found[name] for name in sorted(found)]
