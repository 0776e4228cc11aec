"""The second measurement of FAMO.

Paper: Liu, Feng, Stone, Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS
2023, https://arxiv.org/abs/2306.03792. Clean room, nothing copied.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import nn

from mmseg_xmodal.models.balancing import FAMO
from mmseg_xmodal.models.layers.norm_statistics import statistics_kept
from mmseg_xmodal.registry import HOOKS

from ..unwrap import unwrapped


@HOOKS.register_module()
class FAMOHook(Hook):
    """Run the model once more on the same batch after each step, for its losses.

    Without gradients, in training mode, on the very input that the step has seen (the
    output of the preprocessor). Running statistics of norms are put back: they count
    every batch once. Dropout draws anew, as in the official code. With accumulation the
    last batch before a step is measured.

    Raises:
        ValueError: If the model has no ``FAMO`` that waits for it (when training
            starts).
    """

    # Before random states are taken for a checkpoint: this draws numbers.
    priority = 'ABOVE_NORMAL'

    def __init__(self) -> None:
        self._seen: Any = None

    def before_train(self, runner: Any) -> None:
        """Find the balancer, and listen to the preprocessor."""
        model = unwrapped(runner.model)
        balancer = getattr(model, 'balancer', None)
        if not isinstance(balancer, FAMO) or not balancer.second_forward:
            raise ValueError(
                f'FAMOHook: the balancer of the model is {type(balancer).__name__}, '
                "expected balancer=dict(type='mmseg_xmodal.FAMO') with "
                'second_forward=True. Set it in the model, or take the hook out of '
                'custom_hooks.'
            )
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise ValueError(
                f'FAMOHook: optim_wrapper is a {type(runner.optim_wrapper).__name__}, '
                'expected one optimiser for the whole model.'
            )
        balancer.hooked = True
        self._handle = model.data_preprocessor.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen = output

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Measure, if the iteration has ended with a step."""
        seen, self._seen = self._seen, None
        wrapper = runner.optim_wrapper
        if not wrapper.should_update():
            return
        model = unwrapped(runner.model)
        with (
            torch.no_grad(),
            statistics_kept(model),
            wrapper.optim_context(model),
            model.balancer.measuring(),
        ):
            model.parse_losses(model(**seen, mode='loss'))

    def after_train(self, runner: Any) -> None:
        """Let go of the preprocessor."""
        self._handle.remove()
        unwrapped(runner.model).balancer.hooked = False
