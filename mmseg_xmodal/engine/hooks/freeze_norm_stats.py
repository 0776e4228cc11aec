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

    With a norm of the ``student`` in ``DomainAdaptiveSegmentor`` its like in the
    ``teacher`` is kept so too: both must see images in the same way.

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
        norms = {
            name: module
            for name, module in unwrapped(runner.model).named_modules()
            if isinstance(module, _BatchNorm)
        }
        found = [name for name in norms if name.startswith(self.prefix)]
        # The model gives the teacher the modes of the student in train(), which is
        # before this hook changes those.
        pairs = ((n, n.replace('student.', 'teacher.', 1)) for n in found)
        likes = [t for s, t in pairs if s.startswith('student.') and t in norms]
        self._norms = [norms[name] for name in dict.fromkeys([*found, *likes])]
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
