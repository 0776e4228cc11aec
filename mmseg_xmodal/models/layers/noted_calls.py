"""Note what parts of a network get and give while it computes its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Note = Callable[[tuple[Any, ...], Any], None]


# Swapping functions is not for graphs: compiled code is to find them swapped.
@torch.compiler.disable
def note_calls(module: nn.Module, note: Note) -> Callable[[], None]:
    """Tell a function of each call of a module, until it is stopped.

    Meanwhile ``forward`` is an attribute of the module itself. It is no forward hook,
    since ``torch.compile`` does not look for hooks again: a graph made in a pass
    without one would be used in a pass with one. It does look for such an attribute.
    mmseg's heads also call ``self.forward`` in their loss, which no hook sees.

    Args:
        module: Several may note it at a time, and stop in any order.
        note: Called with the positional arguments and the output, with their graph.

    Returns:
        Stops it; may be called again.
    """
    notes = getattr(module.__dict__.get('forward'), 'notes', None)
    if notes is None:
        notes = _replace_forward(module)
    notes.append(note)
    return functools.partial(_stop_noting, module, notes, note)


@torch.compiler.disable
def _stop_noting(module: nn.Module, notes: list[Note], note: Note) -> None:
    if note in notes:
        notes.remove(note)
        if not notes:
            _restore_forward(module)


def _replace_forward(module: nn.Module) -> list[Note]:
    own: Any = module.forward
    notes: list[Note] = []

    # A closure: compiled code knows it again in the next step, which it does not with
    # a functools.partial.
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        for note in notes:
            note(args, output)
        return output

    noting: Any = forward
    noting.notes, noting.before = notes, module.__dict__.get('forward')
    module.__dict__['forward'] = noting
    return notes


def _restore_forward(module: nn.Module) -> None:
    before = module.__dict__['forward'].before
    if before is None:
        del module.__dict__['forward']
    else:
        module.__dict__['forward'] = before


@contextmanager
def noted_outputs(heads: Sequence[nn.Module], into: list[Tensor]) -> Iterator[None]:
    """Append the first map that each head gives inside of the block, without a graph.

    Args:
        heads: Modules; ``into`` gets their outputs in this order.
        into: What the outputs are appended to when the block ends. A head that gives
            none, or no tensor, is left out with all that follow.
    """
    found: dict[int, Tensor] = {}

    def first(index: int) -> Note:
        def note(args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and index not in found:
                found[index] = output.detach()

        return note

    with ExitStack() as stack:
        for i, head in enumerate(heads):
            stack.callback(note_calls(head, first(i)))
        yield
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

    def note(args: tuple[Any, ...], output: Any) -> None:
        into.append((args, output))

    stop = note_calls(module, note)
    try:
        yield
    finally:
        stop()
