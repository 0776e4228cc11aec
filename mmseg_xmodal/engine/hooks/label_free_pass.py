"""One pass over images without their labels, that leaves no trace in a training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank, get_world_size
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.evaluation.label_free import LabelFreeScores
from mmseg_xmodal.models.layers.logit_probabilities import (
    gives_scores,
    logit_probabilities,
)
from mmseg_xmodal.progress import slow_progress

from .random_state import capture_random_state, restore_random_state

Batch = Mapping[str, Any]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode inside of the block; modes and random states are put back."""
    state = capture_random_state()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        restore_random_state(state)


def unlabelled_batches(loader: Any, max_batches: int | None = None) -> Iterator[Batch]:
    """Batches of a loader without truth, each image once, with a bar if it takes long.

    Args:
        loader: Data loader.
        max_batches: How many at most; None = all.
    """
    # Samplers of several processes repeat images until all have as many.
    left = len(loader.dataset)
    if isinstance(loader.sampler, DefaultSampler):
        left = len(range(get_rank(), left, get_world_size()))
    total = len(loader)  # some samplers never end
    total = total if max_batches is None else min(total, max_batches)
    batches = itertools.islice(loader, total)
    for batch in slow_progress(batches, total, 'Label-free scores'):
        samples = [_without_truth(s) for s in batch['data_samples'][:left]]
        if samples:
            yield dict(batch, inputs=batch['inputs'][:left], data_samples=samples)
        left -= len(samples)


@torch.no_grad()
def score_batches(
    batches: Iterable[Batch], preprocessor: Any, network: Any, other: Any = None
) -> dict[str, float]:
    """Scores of a network over all processes.

    Args:
        batches: What a data loader gives.
        preprocessor: Makes the inputs.
        network: A segmentor; is scored.
        other: One more, for the agreement of both.

    Raises:
        ValueError: If there are no images.
    """
    scores = LabelFreeScores()
    for batch in batches:
        data = preprocessor(batch, False)
        inputs, samples = data['inputs'], data['data_samples']
        # The second network must not find what the first one wrote.
        copies = [sample.clone() for sample in samples]
        first = _probabilities(network, inputs, samples)
        second: list[Any] = [None] * len(first)
        if other is not None:
            second = _probabilities(other, inputs, copies)
        for own, others in zip(first, second, strict=True):
            scores.add(own, others)
    return scores.compute()


def _without_truth(sample: SegDataSample) -> SegDataSample:
    out = type(sample)(metainfo=sample.metainfo)
    out.set_data({k: v for k, v in sample.items() if not k.startswith('gt_')})
    return out


def _probabilities(
    network: Any, inputs: Tensor, samples: list[SegDataSample]
) -> list[Tensor]:
    """(C, H, W) of each image, at its original size, as testing predicts it."""
    scores = gives_scores(network)
    found = []
    for sample in network.predict(inputs, samples):
        logits = sample.seg_logits.data.float()
        # mmseg stores the sigmoid of one channel, and what the head gives of several.
        if len(logits) == 1:
            found.append(torch.cat([1 - logits, logits]))
        else:
            found.append(logit_probabilities(logits[None], scores)[0])
    return found
