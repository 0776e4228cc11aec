"""Leave out the steps whose losses are not numbers.

A multi-task model with ``on_bad_loss='skip'`` marks a batch with a NaN loss
(``loss.multitask.skip``). Its loss is then a zero, but a plain optimiser would still
decay weights and go on with its momentum: only the wrapper can leave the step out.

How an unaware wrapper is found out: such a model sends *every* scalar through a node
whose backward pass raises unless the wrapper has acknowledged it. The first training
step fails, before the optimiser has done anything.
"""

from __future__ import annotations

from typing import Any

from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor

from mmseg_xmodal.registry import OPTIM_WRAPPERS


class SkipBadLosses:
    """Mixin that stands before a class of mmengine's optimiser wrappers.

    The backward pass runs in any case, so that DDP completes its reduction; the loss of
    a skipped batch is a zero and adds nothing to the gradients. With accumulation, a
    skipped batch counts as one of zero gradient, and a step is left out only where all
    batches since the last one were skipped. The loss scale of AMP stays as it is when a
    step is left out.

    A wrapper that overrides ``update_params`` calls :meth:`note` itself.
    """

    _noted: tuple[int, int] = (0, 0)  # batches since the last step: good, skipped

    def note(self, loss: Tensor) -> bool:
        """Read and acknowledge whether the batch is to be skipped.

        Args:
            loss: What ``parse_losses`` of the model has returned. That of another model
                is never skipped.
        """
        batch = getattr(loss, 'multitask', None)
        skip = False
        if batch is not None:
            batch.acknowledged = True
            skip = batch.skip
        good, skipped = self._noted
        self._noted = (good + (not skip), skipped + skip)
        return skip

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As in mmengine, aware of skipped batches."""
        self.note(loss)
        super().update_params(loss, *args, **kwargs)  # type: ignore[misc]

    def step(self, **kwargs: Any) -> None:
        """Step, unless all batches since the last one were skipped."""
        good, skipped = self._noted
        self._noted = (0, 0)
        if good or not skipped:
            super().step(**kwargs)  # type: ignore[misc]


@OPTIM_WRAPPERS.register_module()
class SkippingOptimWrapper(SkipBadLosses, OptimWrapper):
    """mmengine's ``OptimWrapper`` for multi-task models with ``on_bad_loss='skip'``.

    Args:
        optimizer: The optimiser.
        accumulative_counts: As in mmengine.
        clip_grad: As in mmengine.
    """


@OPTIM_WRAPPERS.register_module()
class SkippingAmpOptimWrapper(SkipBadLosses, AmpOptimWrapper):
    """The same in mixed precision. Set it in the config: ``--amp`` wants a stock type.

    Args:
        loss_scale: As in mmengine.
        dtype: As in mmengine; ``'bfloat16'`` needs no loss scale.
        kwargs: As for :class:`SkippingOptimWrapper`.
    """
