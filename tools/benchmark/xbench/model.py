"""Build what is measured: our model, its published form, and a synthetic batch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import Tensor, nn

from .common import ROOT

Logits = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, list], Tensor]


@dataclass
class Form:
    """One of the forms that are compared.

    Args:
        name: ``'ours'`` or ``'published'``.
        module: What holds the parameters.
        logits: Maps the input to logits. Shape: (N, C, H, W) to (N, K, h, w).
        loss: Maps input and data samples to a scalar.
    """

    name: str
    module: nn.Module
    logits: Logits
    loss: Loss


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config and enter its scope.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the config has no model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'There is no config {path}. Check the path.')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    if 'model' not in cfg:
        raise ValueError(
            f'{path} has no `model`. Give a leaf config, not a part from _base_.'
        )
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return cfg


def build_model(cfg: Config, seed: int, device: str) -> nn.Module:
    """Build the segmentor with generic weights; nothing is downloaded.

    SyncBN becomes BN, as in any run on one device. Every parameter and BN statistic is
    drawn at random, so that a comparison of outputs sees all of them: zero biases and
    unit gains would hide differences.
    """
    from mmseg.registry import MODELS

    model_cfg = cfg.model.copy()
    model_cfg.pop('pretrained', None)
    model_cfg.pop('init_cfg', None)
    torch.manual_seed(seed)
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    _randomise(model, torch.Generator().manual_seed(seed))
    return model.to(device)


def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * noise(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith('running_mean'):
                buffer.add_(0.1 * noise(buffer))
            elif name.endswith('running_var'):
                buffer.mul_((0.2 * noise(buffer)).exp())


def input_channels(cfg: Config) -> tuple[int, int]:
    """Return the numbers of value and validity channels that the model reads."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if 'modalities' not in preprocessor:
        return 3, 0  # a stock RGB config
    from mmseg_xmodal.structures import ModalityLayout

    layout = ModalityLayout(preprocessor['modalities'])
    validity = bool(preprocessor.get('validity', False))
    return layout.num_values, len(layout.names) if validity else 0


def make_batch(
    cfg: Config,
    num_classes: int,
    size: tuple[int, int],
    batch: int,
    seed: int,
    device: str,
) -> tuple[Tensor, list]:
    """Draw a normalised input and labels.

    Shape:
        - input: (batch, values + validity, H, W); values are standard normal, validity
          is 1 everywhere.
        - labels: (1, H, W) per sample, one twentieth of them 255 (ignored).
    """
    from mmseg.structures import SegDataSample

    values, validity = input_channels(cfg)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, values, *size, generator=generator)
    if validity:
        x = torch.cat([x, torch.ones(batch, validity, *size)], dim=1)
    samples = []
    for _ in range(batch):
        label = torch.randint(max(num_classes, 2), (1, *size), generator=generator)
        label[torch.rand(1, *size, generator=generator) < 0.05] = 255
        sample = SegDataSample(
            metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size)
        )
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample.to(device))
    return x.to(device), samples


def our_form(model: Any) -> Form:
    """Wrap the segmentor; the loss is its own, auxiliary heads included."""

    def logits(x: Tensor) -> Tensor:
        return _one_tensor(model(x, mode='tensor'), 'the model of the config')

    def loss(x: Tensor, samples: list) -> Tensor:
        return model.parse_losses(model(x, samples, mode='loss'))[0]

    return Form('ours', model, logits, loss)


def published_form(model: Any, backbone_type: str, source: str, device: str) -> Form:
    """Wrap the published form; its loss is the decode head's on its logits.

    A form with several outputs has a method ``outputs``, which gives what the head's
    ``loss_by_feat`` takes.

    Args:
        model: Our segmentor, whose weights the published form takes.
        backbone_type: Key in the table of published forms, as in the config.
        source: ``'published'`` or a Python file with a dict ``PUBLISHED``.
        device: Where the published form goes.

    Raises:
        ValueError: If the backbone has no published form, or if the model has an
            auxiliary head, which no published form computes.
    """
    table = _published_table(source)
    if backbone_type not in table:
        raise ValueError(
            f'--against {source}: no published form for the backbone '
            f'{backbone_type!r}; there are {sorted(table)}. '
            'Leave --against out, or add one.'
        )
    if getattr(model, 'with_auxiliary_head', False):
        raise ValueError(
            '--against compares equal work, but the config has an auxiliary head, '
            'which published forms leave out. Add '
            '--cfg-options model.auxiliary_head=None.'
        )
    module = table[backbone_type](model).to(device)

    def logits(x: Tensor) -> Tensor:
        return _one_tensor(module(x), f'the published form of {backbone_type}')

    def loss(x: Tensor, samples: list) -> Tensor:
        outputs = module.outputs(x) if hasattr(module, 'outputs') else logits(x)
        losses = model.decode_head.loss_by_feat(outputs, samples)
        return model.parse_losses(losses)[0]

    return Form('published', module, logits, loss)


def _published_table(source: str) -> dict[str, Callable[[nn.Module], nn.Module]]:
    if source == 'published':
        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))
        return importlib.import_module('tests.reference_forms').PUBLISHED
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"--against got {source!r}, expected 'published' or a Python file that "
            'holds a dict PUBLISHED.'
        )
    spec = importlib.util.spec_from_file_location('published_forms', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PUBLISHED


def _one_tensor(output: Any, where: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f'{where} returns a {type(output).__name__} in tensor mode, expected one '
            'tensor of logits. Benchmark a config with a single-output decode head.'
        )
    return output


def autocast(device: str, precision: str) -> AbstractContextManager:
    """Return the context of a precision: ``'fp32'`` or ``'bf16'`` (autocast)."""
    if precision == 'fp32':
        return nullcontext()
    return torch.autocast(device.split(':')[0], torch.bfloat16)
