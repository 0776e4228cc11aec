"""Plain published forms of the methods, to prove and to time ours against.

``PUBLISHED`` maps a backbone type of ours to ``build(model)``, which makes the
published form of the whole network (backbone and decode head) of a segmentor of ours.
The result has ``load_from(model)`` and ``forward(x)`` from the stacked input to the
logits before the last upsampling.
"""

from collections.abc import Callable

from torch import nn

from .cmx import build_published_cmx

PUBLISHED: dict[str, Callable[[nn.Module], nn.Module]] = {
    'mmseg_xmodal.CMX': build_published_cmx,
}

__all__ = ['PUBLISHED', 'build_published_cmx']
