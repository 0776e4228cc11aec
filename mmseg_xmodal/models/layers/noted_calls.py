"""Note what parts of a network get and give while it computes its loss."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def noted_outputs(heads: Sequence[nn.Module], into: list[Tensor]) -> Iterator[None]:
    """Append the first map that each head gives inside of the block, without a graph.

    mmseg's heads call ``self.forward`` in their loss, which no forward hook sees: for
    the length of the block it is an attribute of the head itself.

    Args:
        heads: Modules; ``into`` gets their outputs in this order.
        into: What the outputs are appended to when the block ends. A head that gives
            none, or no tensor, is left out with all that follow.
    """
    found: dict[int, Tensor] = {}

    def forward(*args: Any, index: int, own: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        if isinstance(output, Tensor):
            found.setdefault(index, output.detach())
        return output

    for i, head in enumerate(heads):
        noting: Any = functools.partial(forward, index=i, own=head.forward)
        head.__dict__['forward'] = noting
    try:
        yield
    finally:
        for head in heads:
            del head.__dict__['forward']
    for i in range(len(heads)):
        if i not in found:
            break
        into.append(found[i])


@contextmanager
def noted_calls(
    module: nn.Module | None, into: list[tuple[Any, Any]]
) -> Iterator[None]:
    """Append inputs and output of each call of a module inside of the block.

    Args:
        module: None = do nothing.
        into: What the pairs are appended to, with their graph.
    """
    if module is None:
        yield
        return

    def note(_: nn.Module, args: Any, output: Any) -> None:
        into.append((args, output))

    handle = module.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()
