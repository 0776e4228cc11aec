"""Whether an exporter reads the code: it takes plain operations, of any size."""

from __future__ import annotations

import torch

# Since PyTorch 2.7.
_is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def is_exporting() -> bool:
    """Whether ``torch.export`` or ``torch.onnx`` is recording."""
    return _is_exporting() or torch.onnx.is_in_onnx_export()
