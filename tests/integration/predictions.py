"""Predictions of trained checkpoints in this process, and what must hold of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS
from mmseg.apis import init_model
from torch import Tensor, nn

SIZE = (64, 96)  # of the images, and of the input of the networks
# Overrides of the TTA pipelines here: all views are the plain one.
PLAIN_VIEWS = (
    'tta_pipeline.1.transforms.0.1.scale_factor=1.0',
    'tta_pipeline.1.transforms.1.1.prob=0.0',
)


class _Predictor:
    """A network, and the first two images of its test set."""

    def __init__(self, config: Path, checkpoint: Path) -> None:
        self.network = init_model(str(config), str(checkpoint), device='cpu')
        self.cfg = self.network.cfg
        data = dict(self.cfg.test_dataloader.dataset, serialize_data=False)
        self.pipeline = data['pipeline']
        self.data = DATASETS.build(data)

    def maps(
        self, model: nn.Module, pipeline: list, mirrored: bool = False
    ) -> list[Tensor]:
        """Class probabilities, and depth where the network has it, of each image."""
        self.data.pipeline = Compose(pipeline)
        if mirrored:
            self.data.pipeline.transforms.insert(1, _mirror)
        with torch.no_grad():
            samples = model.test_step(pseudo_collate([self.data[0], self.data[1]]))
        found = []
        for sample in samples:
            found.append(sample.seg_logits.data.softmax(0))
            if 'pred_depth_map' in sample:
                found.append(sample.pred_depth_map.data)
        return found


def _mirror(results: dict[str, Any]) -> dict[str, Any]:
    results['img'] = np.ascontiguousarray(results['img'][:, ::-1])
    return results


def check_slide(config: Path, checkpoint: Path) -> None:
    """One window over the whole image is whole inference; smaller ones are not."""
    predictor = _Predictor(config, checkpoint)
    network = predictor.network
    whole = predictor.maps(network, predictor.pipeline)
    for crop in (SIZE, (48, 64)):
        network.test_cfg.update(mode='slide', crop_size=crop, stride=(32, 32))
        slide = predictor.maps(network, predictor.pipeline)
        for x, y in zip(slide, whole, strict=True):
            assert x.isfinite().all()
            assert torch.allclose(x, y, atol=1e-4) == (crop == SIZE), crop


def check_views(config: Path, checkpoint: Path) -> None:
    """The mean of views mirrors with the image; that of one view is the view.

    A view that is not flipped back, or of another image, would break one or the other.
    """
    predictor = _Predictor(config, checkpoint)
    pipeline = predictor.cfg.tta_pipeline
    model = MODELS.build(dict(predictor.cfg.tta_model, module=predictor.network))
    plain = predictor.maps(predictor.network, predictor.pipeline)
    merged = predictor.maps(model, pipeline)
    mirrored = predictor.maps(model, pipeline, mirrored=True)
    one_view = copy.deepcopy(pipeline)
    for choices in one_view[1].transforms:
        del choices[1:]
    single = predictor.maps(model, one_view)
    for a, b, c, d in zip(plain, merged, mirrored, single, strict=True):
        # Of a depth in metres and of probabilities, after a logarithm and a softmax.
        torch.testing.assert_close(d, a, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(c.flip(-1), b, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(b, a, atol=1e-3)
