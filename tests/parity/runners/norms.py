"""The norm layers of our networks against those that a fixture lists."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..fixture import Fixture


def check_eps(
    model: nn.Module,
    fixture: Fixture,
    rename: Callable[[str], str | None],
    skip: Callable[[str], bool] = lambda key: False,
) -> None:
    """Every norm layer has the official eps (the cases hardly show that of some).

    Args:
        model: Ours.
        fixture: With the eps by official name.
        rename: From an official key to ours.
        skip: Whether an official key has no place in ours: that of an auxiliary head.
    """
    modules = dict(model.named_modules())
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        for key in (f'{name}.weight' for name in names):
            if skip(key):
                continue
            ours = (rename(key) or '').removesuffix('.weight')
            found = getattr(modules.get(ours), 'eps', None)
            assert found == float(eps), (fixture.name, key, ours, found, eps)
