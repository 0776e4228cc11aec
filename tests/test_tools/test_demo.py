"""What the demo reports, without its training."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.tool_scripts import load_tool


@pytest.fixture(scope='module')
def demo() -> ModuleType:
    return load_tool('demo/run')


def test_panels_of_earlier_runs_are_not_reported(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'panels' / 'vis'

    def write(*names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / f'{name}.png').write_bytes(b'')

    write('test_000_0', 'test_007_1')
    # The one is written again, the other is of a run with more panels.
    monkeypatch.setattr(demo, 'call', lambda *_: write('test_000_0', 'test_003_1'))
    found = demo.draw_panels(10, tmp_path, tmp_path, 'name', 2)
    assert [path.stem for path in found] == ['test_000_0', 'test_003_1']
