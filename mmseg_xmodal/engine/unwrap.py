"""The model inside of a wrapper of distributed training."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper


def unwrapped(model: Any) -> Any:
    """The model itself, for hooks, loops and constructors that reach into it.

    What merely holds another model, as one for test-time augmentation does, stays.

    Args:
        model: Of a runner.
    """
    return model.module if is_model_wrapper(model) else model
