"""Hooks that the integration configs load through ``custom_imports``."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
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


@HOOKS.register_module()
class CountOwnSteps(Hook):
    """Count how often the model took its own training step, in ``steps{rank}.json``."""

    def before_train(self, runner: Any) -> None:
        self.steps = 0
        model = getattr(runner.model, 'module', runner.model)
        own = model.own_train_step

        @functools.wraps(own)
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            return own(*args, **kwargs)

        model.own_train_step = counting

    def after_train(self, runner: Any) -> None:
        path = Path(runner.work_dir, f'steps{get_rank()}.json')
        path.write_text(json.dumps(self.steps))
