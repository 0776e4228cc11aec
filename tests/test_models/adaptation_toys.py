"""A small student, batches of two domains, and the step of DAFormer and MIC by hand."""

from __future__ import annotations

import colorsys
import copy
import math
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mmseg_xmodal.models.layers.photometric import Jitter, Photometric
from mmseg_xmodal.registry import DATASETS, MODELS

CLASSES = 4
SIZE = (32, 48)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 55.0)


@MODELS.register_module()
class AdaptToyBackbone(nn.Module):
    """Two maps at strides 2 and 8, with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(6, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.Tanh()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        return first, self.second(first)


def head(in_channels: int, index: int, weight: float, **kwargs: Any) -> dict:
    loss = dict(type='mmseg.CrossEntropyLoss', loss_weight=weight)
    return dict(
        type='mmseg.FCNHead',
        in_channels=in_channels,
        in_index=index,
        channels=8,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        norm_cfg=dict(type='BN'),
        num_classes=CLASSES,
        loss_decode=loss,
        **kwargs,
    )


def student_cfg(**kwargs: Any) -> dict:
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg.SegDataPreProcessor',
            mean=MEAN,
            std=STD,
            bgr_to_rgb=True,
            size=SIZE,
        ),
        backbone=dict(type='mmseg_xmodal.AdaptToyBackbone'),
        decode_head=head(8, 1, 1.0),
        auxiliary_head=head(6, 0, 0.4),
        train_cfg=dict(),
        test_cfg=ConfigDict(mode='whole'),
        **kwargs,
    )


def wrapper(terms: list | None = None, seed: int = 0, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    cfg = dict(student=student_cfg(), terms=terms or []) | kwargs
    model = MMSEG_MODELS.build(dict(type='mmseg_xmodal.DomainAdaptiveSegmentor', **cfg))
    # Heads start at N(0, 0.01): no confident pixel otherwise.
    for name, parameter in model.student.decode_head.named_parameters():
        if 'conv_seg' in name:
            parameter.data.mul_(10)
    model.teacher.load_state_dict(model.student.state_dict())
    return model.train()


def blobs(generator: torch.Generator) -> Tensor:
    """Labels in pieces of 8 pixels, 255 among them."""
    grid = torch.randint(
        0, CLASSES + 1, (SIZE[0] // 8, SIZE[1] // 8), generator=generator
    )
    grid[grid == CLASSES] = 255
    return grid.repeat_interleave(8, 0).repeat_interleave(8, 1)[None]


def sample(domain: str | None, label: Tensor | None, **meta: Any) -> SegDataSample:
    meta = dict(img_path='x.png', ori_shape=SIZE, img_shape=SIZE) | meta
    if domain is not None:
        meta['domain'] = domain
    out = SegDataSample(metainfo=meta)
    if label is not None:
        out.gt_sem_seg = PixelData(data=label)
    return out


def batch(seed: int = 0, each: int = 2) -> dict[str, list]:
    """Source images, then as many of the target."""
    g = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for i in range(2 * each):
        image = torch.randint(0, 256, (3, *SIZE), generator=g, dtype=torch.uint8)
        inputs.append(image)
        samples.append(
            sample('source', blobs(g)) if i < each else sample('target', None)
        )
    return dict(inputs=inputs, data_samples=samples)


@DATASETS.register_module()
class AdaptToyImages(Dataset):
    """Two images of the source, two of the target, and so on."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def full_init(self) -> None:
        """Nothing to load."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, idx: int) -> dict[str, Any]:
        data = batch(int(idx) // 4)
        return {key: value[int(idx) % 4] for key, value in data.items()}


DRAWS = {
    'mix.classes': [[1, 255], [0, 3]],
    'mix.augment': [
        Photometric(Jitter(0.1, 0.9, 1.15, -0.08, (2, 0, 3, 1)), 0.8),
        Photometric(Jitter(-0.15, 1.1, 0.85, 0.12, (3, 1, 0, 2)), 0.3),
    ],
    'masked.augment': [
        Photometric(Jitter(-0.05, 1.2, 1.0, 0.2, (0, 1, 2, 3)), None),
        Photometric(None, 1.1),
    ],
    'masked.uniform': torch.tensor(
        [[[[0.1, 0.9, 0.71], [0.7, 0.5, 0.8]]], [[[0.99, 0.2, 0.3], [0.72, 0.0, 0.6]]]]
    ),
}


def slow_photometric(colour: Tensor, draw: Photometric) -> Tensor:
    """Jitter and blur of one image (3, H, W), pixel by pixel, by other libraries."""
    pixels = colour.double().numpy().copy()
    if draw.jitter is not None:
        jitter = draw.jitter
        for step in jitter.order:
            if step == 0:
                pixels = np.clip(pixels + jitter.brightness, 0, 1)
            elif step == 1:
                pixels = np.clip(pixels * jitter.contrast, 0, 1)
            else:
                factor = jitter.saturation if step == 2 else 1.0
                turn = jitter.hue if step == 3 else 0.0
                for y in range(pixels.shape[1]):
                    for x in range(pixels.shape[2]):
                        h, s, v = colorsys.rgb_to_hsv(*pixels[:, y, x])
                        s = min(max(s * factor, 0), 1)
                        pixels[:, y, x] = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
    if draw.sigma is not None:
        for axis in (1, 2):
            tenth = math.ceil(0.1 * pixels.shape[axis])
            radius = math.floor(tenth - 0.5 + tenth % 2) // 2
            pixels = gaussian_filter1d(
                pixels, draw.sigma, axis=axis, mode='mirror', radius=radius
            )
    return torch.from_numpy(pixels).float()


class HandWritten:
    """The step of DAFormer, and of MIC on top, in the order of their descriptions.

    Args:
        student: Is copied.
        optimiser: Makes an optimiser of the student's parameters.
        things: Thing classes; none = without feature distance.
        masked: Whether MIC's pass follows.
        threshold: Of the pseudo-labels.
        rows: Rows at the top and at the bottom that do not teach.
    """

    def __init__(
        self,
        student: nn.Module,
        optimiser: Any,
        things: list[int],
        masked: bool,
        threshold: float,
        rows: tuple[int, int],
        momentum: float = 0.999,
    ) -> None:
        self.student, self.teacher = copy.deepcopy(student), copy.deepcopy(student)
        self.anchor = copy.deepcopy(student.backbone).eval()
        self.optimiser = optimiser(self.student.parameters())
        self.things, self.masked = things, masked
        self.threshold, self.rows, self.momentum = threshold, rows, momentum
        self.t = 0
        # In training mode, so its norms use the statistics of the batch.
        self.student.train()
        self.teacher.train()

    def logits(self, net: Any, x: Tensor) -> tuple[Any, list[Tensor]]:
        feats = net.backbone(x)
        outs = [net.decode_head(feats), net.auxiliary_head(feats)]
        return feats, [F.interpolate(o, SIZE, mode='bilinear') for o in outs]

    def ce(self, outs: list[Tensor], label: Tensor, weight: Tensor) -> Tensor:
        """Mean over all pixels, ignored ones included; weights are not normalised."""
        total = 0.0
        for out, factor in zip(outs, (1.0, 0.4), strict=True):
            loss = F.cross_entropy(out, label, ignore_index=255, reduction='none')
            total = total + factor * (loss * weight).mean()
        return total

    def step(self, images: list[Tensor], truth: Tensor, draws: dict) -> dict:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        x = (torch.stack(images)[:, [2, 1, 0]].float() - mean) / std
        source, target = x[:2], x[2:]
        self.optimiser.zero_grad()
        share = 0.0 if self.t == 0 else min(1 - 1 / (self.t + 1), self.momentum)
        with torch.no_grad():
            for mine, other in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                mine.copy_(share * mine + (1 - share) * other)
        found = {}
        ones = torch.ones(2, *SIZE)
        feats, outs = self.logits(self.student, source)
        found['source'] = self.ce(outs, truth, ones)
        found['source'].backward(retain_graph=True)
        if self.things:
            found['anchor'] = 0.005 * self.distance(feats[-1], source, truth)
            found['anchor'].backward()
        with torch.no_grad():
            feats = self.teacher.backbone(target)
            out = self.teacher.decode_head(feats)
            p = F.interpolate(out, SIZE, mode='bilinear').softmax(1)
        confidence, label = p.max(1)
        weight = ones * (confidence >= self.threshold).sum() / confidence.numel()
        weight[:, : self.rows[0]] = 0
        weight[:, SIZE[0] - self.rows[1] :] = 0
        mixed, y, w = source.clone(), truth.clone(), ones.clone()
        for i, classes in enumerate(draws['mix.classes']):
            outside = ~sum(truth[i] == c for c in classes).bool()
            mixed[i][:, outside] = target[i][:, outside]
            y[i][outside], w[i][outside] = label[i][outside], weight[i][outside]
        mixed = self.augment(mixed, draws['mix.augment'], mean, std)
        found['mix'] = self.ce(self.logits(self.student, mixed)[1], y, w)
        found['mix'].backward()
        if self.masked:
            images_ = self.augment(target, draws['masked.augment'], mean, std)
            keep = (draws['masked.uniform'] > 0.7).float()
            keep = keep.repeat_interleave(16, 2).repeat_interleave(16, 3)
            outs = self.logits(self.student, images_ * keep)[1]
            found['masked'] = self.ce(outs, label, weight)
            found['masked'].backward()
        self.optimiser.step()
        self.t += 1
        return {k: v.item() for k, v in found.items()}

    def distance(self, feat: Tensor, x: Tensor, truth: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self.anchor(x)[-1]
        kept = []
        for i in range(2):
            for row in range(feat.shape[2]):
                for col in range(feat.shape[3]):
                    cell = truth[i, row * 8 : row * 8 + 8, col * 8 : col * 8 + 8]
                    values, counts = cell.unique(return_counts=True)
                    best = int(values[counts.argmax()])
                    if best in self.things and counts.max() >= 0.75 * cell.numel():
                        kept.append((feat - reference)[i, :, row, col].norm())
        return torch.stack(kept).mean()

    def augment(
        self, x: Tensor, draws: list[Photometric], mean: Tensor, std: Tensor
    ) -> Tensor:
        colour = (x * std + mean) / 255
        changed = [slow_photometric(c, d) for c, d in zip(colour, draws, strict=True)]
        return (torch.stack(changed) * 255 - mean) / std
