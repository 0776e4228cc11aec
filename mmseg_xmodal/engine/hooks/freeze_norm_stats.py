"""Batch norm that keeps its statistics while it trains."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_xmodal.registry import HOOKS

from ..unwrap import unwrapped


@HOOKS.register_module()
class FreezeNormStatsHook(Hook):
    """Keep every batch norm in eval mode during training.

    It normalises with its running statistics and does not update them; weight and bias
    learn as ever. TokenFusion and GeminiFusion train so, for batches of two images.

    Args:
        prefix: Only norms whose name begins with this, such as ``'decode_head'``.
            Defaults to all.

    Raises:
        ValueError: If no batch norm has such a name (when training starts).
    """

    def __init__(self, prefix: str = '') -> None:
        self.prefix = prefix
        self._norms: list[_BatchNorm] = []

    def before_train(self, runner: Any) -> None:
        """Find the norms."""
        self._norms = [
            module
            for name, module in unwrapped(runner.model).named_modules()
            if isinstance(module, _BatchNorm) and name.startswith(self.prefix)
        ]
        if not self._norms:
            raise ValueError(
                f'FreezeNormStatsHook: no batch norm of the model has a name that '
                f'begins with {self.prefix!r}. Correct prefix, or take the hook out of '
                'custom_hooks.'
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Undo the ``model.train()`` of the loop, which comes at its own moments."""
        for norm in self._norms:
            norm.eval()
