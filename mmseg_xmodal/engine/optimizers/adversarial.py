"""An optimiser for the student, and one for the discriminators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmseg_xmodal.registry import OPTIM_WRAPPER_CONSTRUCTORS

from ..unwrap import unwrapped

# That of AdaptSegNet and ADVENT.
PUBLISHED = dict(type='Adam', lr=1e-4, betas=(0.9, 0.99))
# Of the student's wrapper alone.
_STUDENT_ONLY = ('optimizer', 'clip_grad')


class AdversarialOptimWrapperDict(OptimWrapperDict):
    """The optimiser wrappers ``student`` and ``discriminator``.

    mmengine's class leaves the count of iterations to whoever holds one: hooks that ask
    for it (``EMATeacherHook``) fail, and accumulation loses the last batches. Here both
    wrappers count alike, and the student's answers.
    """

    @property
    def inner_count(self) -> int:
        """Iterations of the student."""
        return self['student'].inner_count

    def should_update(self) -> bool:
        """Whether the iteration has ended with a step."""
        return self['student'].should_update()

    def initialize_count_status(
        self, model: nn.Module, cur_iter: int, max_iters: int
    ) -> None:
        """Tell both wrappers where training stands."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of both.

        Raises:
            ValueError: If the state is not that of both.
        """
        if set(state_dict) != set(self.keys()):
            raise ValueError(
                f'The optimiser state has the parts {sorted(map(str, state_dict))}, '
                f'expected {sorted(self.keys())}. Resume with the optim_wrapper that '
                'the checkpoint was written with, or begin from its weights with '
                'load_from.'
            )
        super().load_state_dict(state_dict)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class AdversarialOptimWrapperConstructor:
    """Give the discriminators of ``OutputAdversarial`` an optimiser of their own.

    ``optim_wrapper`` is written as ever, and describes the student's wrapper::

        optim_wrapper = dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=2.5e-4, momentum=0.9, weight_decay=5e-4),
            constructor='mmseg_xmodal.AdversarialOptimWrapperConstructor',
            discriminator=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)))

    Type, accumulation and precision hold for both wrappers, ``clip_grad`` and
    ``paramwise_cfg`` for the student's alone. Schedules in ``param_scheduler`` run on
    both; ``dict(student=[...], discriminator=[...])`` gives each its own.

    Args:
        optim_wrapper_cfg: As in mmengine, with ``discriminator``, the config of an
            optimiser, by default the published Adam above, and
            ``student_constructor``, by default ``'DefaultOptimWrapperConstructor'``.
        paramwise_cfg: For the student's constructor.

    Raises:
        ValueError: When called, if no term has ``optimizer='own'``.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        cfg = dict(optim_wrapper_cfg)
        self.discriminator = dict(cfg.pop('discriminator', PUBLISHED))
        self.constructor = cfg.pop(
            'student_constructor', 'DefaultOptimWrapperConstructor'
        )
        cfg.setdefault('type', 'OptimWrapper')
        self.cfg, self.paramwise_cfg = cfg, paramwise_cfg

    def __call__(self, model: nn.Module) -> AdversarialOptimWrapperDict:
        """Build both wrappers."""
        bare = unwrapped(model)
        terms = getattr(bare, 'terms', [])
        opponents = [net for term in terms for net in term.opponents()]
        if not opponents:
            raise ValueError(
                f'AdversarialOptimWrapperConstructor: the {type(bare).__name__} has no '
                'term with an optimiser of its own, expected one such as dict(type='
                "'mmseg_xmodal.OutputAdversarial', optimizer='own'). Remove "
                'optim_wrapper.constructor, or set it in the term.'
            )
        constructor = MMENGINE_CONSTRUCTORS.build(
            dict(
                type=self.constructor,
                optim_wrapper_cfg=dict(self.cfg),
                paramwise_cfg=self.paramwise_cfg,
            )
        )
        with _without(bare, opponents):
            student = constructor(bare)
        parameters = [p for net in opponents for p in net.parameters()]
        optimizer = OPTIMIZERS.build(dict(self.discriminator, params=parameters))
        shared = {k: v for k, v in self.cfg.items() if k not in _STUDENT_ONLY}
        discriminator = MMENGINE_OPTIM_WRAPPERS.build(dict(shared, optimizer=optimizer))
        return AdversarialOptimWrapperDict(student=student, discriminator=discriminator)


@contextmanager
def _without(model: nn.Module, parts: Sequence[nn.Module]) -> Iterator[None]:
    """Take modules out of a model for the length of the block."""
    ids = {id(part) for part in parts}
    places = [
        (holder, name, part)
        for holder in model.modules()
        for name, part in holder.named_children()
        if id(part) in ids
    ]
    try:
        for holder, name, _ in places:
            # Keeps the place, and with it the order of the keys.
            holder._modules[name] = None
        yield
    finally:
        for holder, name, part in places:
            holder._modules[name] = part
