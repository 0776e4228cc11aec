"""The optimiser of a plain segmentor, for that segmentor as a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from torch import nn

from mmseg_xmodal.registry import OPTIM_WRAPPER_CONSTRUCTORS

from ..unwrap import unwrapped


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class StudentOptimWrapperConstructor:
    """Apply a constructor that knows a segmentor's parts to the student of another.

    Constructors with layer-wise rates (ConvNeXt, BEiT and MAE configs of mmseg) look
    for ``model.backbone`` and for names that begin with it, which they find in the
    student only::

        optim_wrapper = dict(
            constructor='mmseg_xmodal.StudentOptimWrapperConstructor',
            student_constructor='LearningRateDecayOptimizerConstructor')

    Parameters outside of the student, those of adaptation terms, have the base rate.

    Args:
        optim_wrapper_cfg: As in mmengine, with ``student_constructor``, by default
            ``'DefaultOptimWrapperConstructor'``.
        paramwise_cfg: For that constructor.

    Raises:
        ValueError: When called, if the model has no student.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        cfg = dict(optim_wrapper_cfg)
        kind = cfg.pop('student_constructor', 'DefaultOptimWrapperConstructor')
        self.constructor: Any = MMENGINE_CONSTRUCTORS.build(
            dict(type=kind, optim_wrapper_cfg=cfg, paramwise_cfg=paramwise_cfg)
        )

    def __call__(self, model: nn.Module) -> Any:
        """Build the optimiser wrapper."""
        bare = unwrapped(model)
        student = getattr(bare, 'student', None)
        if student is None:
            raise ValueError(
                f'StudentOptimWrapperConstructor: the {type(bare).__name__} has no '
                "student, expected type='mmseg_xmodal.DomainAdaptiveSegmentor'. Name "
                'student_constructor as optim_wrapper.constructor instead.'
            )
        wrapper = self.constructor(student)
        own = {id(p) for p in student.parameters()}
        rest = {
            name: parameter
            for name, parameter in bare.named_parameters()
            if parameter.requires_grad and id(parameter) not in own
        }
        if rest:
            group: dict[str, Any] = dict(params=list(rest.values()))
            # torch wants names for all groups or for none.
            if 'param_names' in wrapper.optimizer.param_groups[0]:
                group['param_names'] = list(rest)
            wrapper.optimizer.add_param_group(group)
        return wrapper
