from __future__ import annotations

import pytest

from mmseg_xmodal.progress import slow_progress


def test_the_bar_appears_late_only(capsys: pytest.CaptureFixture) -> None:
    assert list(slow_progress('abc', 3, 'Long', after=60)) == list('abc')
    assert capsys.readouterr().err == ''
    assert list(slow_progress('abc', 3, 'Long', after=0)) == list('abc')
    assert 'Long' in capsys.readouterr().err
