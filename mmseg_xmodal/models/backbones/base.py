"""What all backbones of named methods have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule

from mmseg_xmodal.structures import ModalityLayout

from ..converters.initialiser import InitReport
from ..layers.streams import StreamInput


class StreamBackbone(BaseModule):
    """Input split into streams, pretrained weights, widths of the output.

    A subclass sets ``embed_dims`` and, in ``init_weights``, ``init_report``.

    Args:
        modalities: The `modalities` dict of the config, or its layout.
        streams: Stream name to its modalities; None = one stream per modality.
        placeholder: What stands at invalid pixels, see :class:`StreamInput`.
        pretrained: Weights to start from; excludes ``init_cfg``.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If both ``pretrained`` and ``init_cfg`` are given, or the streams do
            not fit the modalities.
    """

    embed_dims: tuple[int, ...]

    def __init__(
        self,
        modalities: ModalityLayout
        | Mapping[str, Mapping[str, Any]]
        | Sequence[Mapping[str, Any]],
        streams: Mapping[str, Sequence[str]] | None = None,
        placeholder: str | None = None,
        pretrained: str | Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        if init_cfg is not None and pretrained is not None:
            raise ValueError(
                f'{type(self).__name__} got init_cfg={init_cfg} and '
                f'pretrained={pretrained}, expected at most one of them. Take one out '
                'of the backbone config.'
            )
        super().__init__(init_cfg)
        self.pretrained = pretrained
        self.init_report: InitReport | None = None
        self.input = StreamInput(modalities, streams, placeholder)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.embed_dims
