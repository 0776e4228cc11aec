"""The model inside of a wrapper of distributed training."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel


def unwrapped(model: Any) -> Any:
    """The model itself, for hooks, loops and constructors that reach into it.

    DeepSpeed's engine is none of mmengine's registered wrappers, but holds the model
    under the same name. A model may have a part of that name, as that of test-time
    augmentation has, and stays.

    Args:
        model: Of a runner.
    """
    return model if isinstance(model, BaseModel) else getattr(model, 'module', model)
