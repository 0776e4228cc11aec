"""The model inside of a wrapper of distributed training."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseTTAModel


def unwrapped(model: Any) -> Any:
    """The model itself, for hooks, loops and constructors that reach into it.

    DeepSpeed's engine is none of mmengine's registered wrappers, but holds the model
    under the same name. Test-time augmentation does so too, and stays.

    Args:
        model: Of a runner.
    """
    return model if isinstance(model, BaseTTAModel) else getattr(model, 'module', model)
