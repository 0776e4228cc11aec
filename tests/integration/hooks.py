"""Hooks that the integration configs load through ``custom_imports``."""

from __future__ import annotations

import os
import signal
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm


@HOOKS.register_module()
class KillAtIteration(Hook):
    """End the process without any goodbye."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, **_: Any) -> None:
        if runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class FreezeBatchNorm(Hook):
    """Use running statistics, so that the split of a batch over ranks is exact."""

    def before_train_iter(self, runner: Any, **_: Any) -> None:
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
