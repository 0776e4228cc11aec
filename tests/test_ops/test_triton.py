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


def test_kernels_under_the_interpreter():
    """A process of its own: Triton reads the switch when a kernel is declared."""
    if importlib.util.find_spec('triton') is None:
        pytest.skip("Triton is not installed: pip install 'mmseg_xmodal[ops]' (Linux)")
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
            *('--confcutdir', str(HERE), str(HERE / 'triton_interpreted.py')),
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
    assert int(passed.group(1)) >= 15
    assert 'skipped' not in done.stdout
