"""Fixtures: numbers of official code, and where they lie."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .fill import checksum, fill_state, make_input

HERE = Path(__file__).parent / 'fixtures'
VARIABLE = 'XMODAL_PARITY_FIXTURES'


class NoRunner(Exception):
    """A fixture that nothing here can run yet: listed as one expected failure."""


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
        small = self.meta['cases'][case]['small']
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

    def compare(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """Compare every recorded output at its tolerance.

        Args:
            outputs: Name in the fixture to the whole map.

        Returns:
            Largest difference by name.
        """
        recorded = self.arrays()
        differences = {}
        specs = self._by_array() or self.meta.get('outputs') or self._stated(outputs)
        assert set(outputs) >= set(specs), (
            f'no value for {sorted(set(specs) - set(outputs))}'
        )
        for name, spec in specs.items():
            ours = outputs[name][parse_slicing(spec.get('slicing'))]
            official = torch.from_numpy(recorded[name])
            torch.testing.assert_close(
                ours,
                official,
                rtol=spec['rtol'],
                atol=spec['atol'],
                msg=lambda text, name=name: f'{self.name}, output {name}: {text}',
            )
            differences[name] = (ours - official).abs().max().item()
        return differences

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

    def _stated(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Tolerances that the fixture states in words, for all and by section."""
        settings = self.meta.get('settings') or self.meta['sections']
        stated = self.meta['tolerance']
        text = stated if isinstance(stated, str) else ', '.join(stated.values())
        arrays = self.meta.get('arrays', {})
        specs = {}
        for name in names:
            if arrays.get(name, {}).get('compare') == 'exact':
                specs[name] = dict(rtol=0.0, atol=0.0)
                continue
            specs[name] = parse_tolerance(text)
            for part in name.split('.'):
                own = settings.get(part, {}).get('tolerance', '')
                specs[name].update(parse_tolerance(own))
        return specs


def parse_tolerance(text: str) -> dict[str, float]:
    """Read a text such as ``rtol 1e-4, atol 1e-5 unless ...``."""
    found = re.findall(r'\b([ra]tol) (\d+(?:\.\d+)?(?:e-?\d+)?)', text)
    return {key: float(number) for key, number in found}


def parse_slicing(text: str | None) -> tuple[slice, ...]:
    """Read a slicing such as ``[:, ::8]``."""
    if not text:
        return ()
    parts = text.strip('[]').split(',')
    fields = [[int(n) if n.strip() else None for n in p.split(':')] for p in parts]
    return tuple(slice(*f) for f in fields)


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
