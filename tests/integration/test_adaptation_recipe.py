"""The recipe of docs/adaptation.md, on stock configs of the installed mmseg."""

from __future__ import annotations

import re
from pathlib import Path

import mmseg
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from .helpers import ROOT

STOCK = Path(mmseg.__file__).parent / '.mim/configs'
DOCUMENT = ROOT / 'docs/adaptation.md'
# By the end of their names: the number of GPUs differs between releases.
CONFIGS = (
    'segformer/segformer_mit-b0_*-160k_cityscapes-1024x1024.py',
    'pspnet/pspnet_r50-d8_*-40k_cityscapes-512x1024.py',
    'ocrnet/ocrnet_hr18s_*-40k_cityscapes-512x1024.py',
    'upernet/upernet_r50_*-40k_cityscapes-512x1024.py',
)


def recipe(stock: Path, folder: Path) -> Config:
    """The lines of the document, on a config."""
    text = DOCUMENT.read_text().split('## Any config, adapted')[1]
    lines = text.split('```python\n')[1].split('```')[0]
    assert len(lines.splitlines()) <= 15
    lines = re.sub(r"^_base_ = \['.*'\]", f'_base_ = [{str(stock)!r}]', lines)
    path = folder / 'adapted.py'
    path.write_text(lines.replace('pipeline=...', 'pipeline=[]'))
    return Config.fromfile(path)


def stock_config(pattern: str) -> Path:
    found = sorted(STOCK.glob(pattern))
    assert found, f'{pattern} is not among the configs of mmseg'
    return found[0]


@pytest.mark.parametrize('pattern', CONFIGS)
def test_any_config_is_adapted(pattern: str, tmp_path: Path) -> None:
    stock = stock_config(pattern)
    cfg = recipe(stock, tmp_path)
    plain = Config.fromfile(stock)
    assert cfg.model.student == plain.model
    source, target = cfg.train_dataloader.dataset.datasets
    assert source == plain.train_dataloader.dataset
    assert not any(step.type == 'LoadAnnotations' for step in target.pipeline)
    assert cfg.train_dataloader.sampler.batch_size == cfg.train_dataloader.batch_size
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    assert [term.name for term in model.terms] == ['mix']
    assert type(model.student).__name__ == plain.model.type


def test_the_document_names_a_config_that_exists() -> None:
    (name,) = re.findall(r"_base_ = \['(.*)'\]", DOCUMENT.read_text())
    assert stock_config(f'*/{name}').name == name
