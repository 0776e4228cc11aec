"""The Triton kernels on a CPU, through Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


FILES = {
    'triton_interpreted.py': 15,
    'triton_interpreted_criss_cross.py': 15,
    'triton_interpreted_modality.py': 20,
}


def test_kernels_under_the_interpreter():
    """A process of its own: Triton reads the switch when a kernel is declared."""
    if importlib.util.find_spec('triton') is None:
        pytest.skip("Triton is not installed: pip install 'mmseg_xmodal[ops]' (Linux)")
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
            *('--confcutdir', str(HERE), *(str(HERE / name) for name in FILES)),
        ],
        cwd=HERE.parents[1],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r'(\d+) passed', done.stdout)
    assert passed is not None, done.stdout[-2000:]
    assert int(passed.group(1)) >= sum(FILES.values())
    assert 'skipped' not in done.stdout
