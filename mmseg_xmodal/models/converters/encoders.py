"""Weights of foundation encoders from local files into streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..layers.encoder_stream import EncoderStream
from ..layers.first_conv import find_first_conv
from ..layers.tuning import base_name
from .initialiser import InitReport, initialise_streams


def require_local(path: str, what: str, name: str) -> None:
    """Refuse what is no local path: nothing is ever fetched while building.

    Args:
        path: Given by the config.
        what: Where it stands and what is expected, such as ``"pretrained='x'"``.
        name: To be downloaded by hand, such as ``'timm/convnext_atto.d2_in1k'``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f'{what} is no local path, and nothing is fetched from the network. '
            f'Download it once (hf download {name} --local-dir weights/NAME, or by '
            'hand) and give the path.'
        )


def initialise_encoders(
    streams: Mapping[str, EncoderStream], pretrained: str | Mapping[str, Any]
) -> InitReport:
    """Load one checkpoint into the encoders of all streams, and say what was loaded.

    Args:
        streams: Stream name to its backbone, all of one kind.
        pretrained: As for :func:`initialise_streams`.

    Returns:
        The report, which is logged as well.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit, or a random first convolution would be
            frozen.
    """
    kinds = {(stream.label, str(stream.tuning)) for stream in streams.values()}
    if len(kinds) > 1:
        raise ValueError(
            f'pretrained is one checkpoint for streams of {sorted(kinds)}, expected '
            'equal encoders and tuning. Set pretrained in each of the backbone configs.'
        )
    encoders = {name: stream.encoder for name, stream in streams.items()}
    reader = next(iter(streams.values()))
    report = initialise_streams(encoders, pretrained, reader.read_pretrained, str)
    for name, what in report.adapted.items():
        layer, conv = find_first_conv(encoders[name])
        if what.endswith("'random'") and not conv.weight.requires_grad:
            raise ValueError(
                f'The first convolution {base_name(layer)!r} of {name!r} keeps random '
                f"weights (first_conv='random') that tuning={streams[name].tuning} "
                "does not train. Take first_conv='sum', or train it: "
                f"tuning=dict(mode='{streams[name].tuning.mode}', "
                f"also=['{base_name(layer)}'])."
            )
    return report
