"""Domain adaptation in several processes.

mmengine's ``MMDistributedDataParallel`` calls the model for all losses and goes
backward once: a training step of the model itself never runs under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, all_reduce_params
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from mmseg_xmodal.registry import MODEL_WRAPPERS

BUCKET = 25  # megabytes reduced at once, as in torch's DDP


@MODEL_WRAPPERS.register_module()
class AdaptationDistributedDataParallel(MMDistributedDataParallel):
    """The wrapper under which ``DomainAdaptiveSegmentor`` takes a step of its own.

    It is needed for ``backward='sequential'`` and for terms with ``optimizer='own'``:
    ``model_wrapper_cfg=dict(type='mmseg_xmodal.AdaptationDistributedDataParallel')``.
    There the gradients, summed over the backward passes and over accumulated batches,
    are averaged over the processes once, right before the optimiser's step; a parameter
    that some process did not use counts as 0 there. Other models of adaptation go
    backward once, as under the stock wrapper.

    Args:
        module: The ``DomainAdaptiveSegmentor``.
        kwargs: Of ``MMDistributedDataParallel``, such as ``broadcast_buffers=False``,
            which is mmengine's default where no wrapper is named.

    Raises:
        TypeError: If the model is another.
    """

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        if not hasattr(module, 'own_train_step'):
            raise TypeError(
                f'AdaptationDistributedDataParallel got a {type(module).__name__}, '
                "expected type='mmseg_xmodal.DomainAdaptiveSegmentor'. Remove "
                'model_wrapper_cfg.type.'
            )
        super().__init__(module=module, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One step of the model, gradients averaged over the processes."""
        if not self.module.needs_own_step:
            return super().train_step(data, optim_wrapper)
        if self.will_sync_module_buffers():
            self._sync_buffers()
        return self.module.own_train_step(data, optim_wrapper, self._average)

    @torch.no_grad()
    def _average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over the processes, in place.

        torch's hooks, which do so during one backward pass, stay idle here: its
        ``forward`` never ran.
        """
        trained = [p for p in parameters if p.requires_grad]
        has = [p.grad is not None for p in trained]
        used = torch.tensor(has, dtype=torch.int32, device=trained[0].device)
        all_reduce(used, op='max', group=self.process_group)
        grads = []
        for parameter, anywhere in zip(trained, used.tolist(), strict=True):
            if not anywhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        all_reduce_params(
            grads, bucket_size_mb=BUCKET, op='mean', group=self.process_group
        )
