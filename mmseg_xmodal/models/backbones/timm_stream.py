"""Encoders of the `timm` library as streams.

Library: https://github.com/huggingface/pytorch-image-models (Apache-2.0; the weights
have terms of their own, those of DINOv3 among them). ConvNeXt, Swin, DINOv2, DINOv3,
SigLIP and many more.

What is added: any number of input channels, any input size, four maps from a plain ViT
(ViTDet's simple feature pyramid, https://arxiv.org/abs/2203.16527), LoRA or freezing,
strict loading of local files, and exchange between the stages of hierarchical encoders.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.compat import import_extra
from mmseg_xmodal.registry import MODELS

from ..converters.encoders import initialise_encoders, require_local
from ..converters.initialiser import InitReport, keep_layout
from ..converters.io import load_state
from ..converters.mit import Converted
from ..layers.encoder_stream import Encoder, EncoderStream, pick_levels
from ..layers.tuning import Tuning, base_name, to_adapted_names

_OURS = {
    'in_chans': 'in_channels',
    'pretrained': 'pretrained',
    'checkpoint_path': 'pretrained',
    'out_indices': 'out_indices',
    'features_only': None,
    'num_classes': None,
}
# Class of timm: what stands before its stages, and the list of these.
_STAGED = dict(
    ConvNeXt=('stem', 'stages'),
    PyramidVisionTransformerV2=('patch_embed', 'stages'),
    SwinTransformer=('patch_embed', 'layers'),
    SwinTransformerV2=('patch_embed', 'layers'),
)


def create(model: str, in_channels: int = 3, **kwargs: Any) -> Any:
    """Build a timm model with random weights.

    Args:
        model: Name, with or without a tag for its weights.
        in_channels: Channels of the input.
        **kwargs: For its constructor.

    Raises:
        ValueError: If timm has no such model, or an argument belongs elsewhere.
    """
    timm = import_extra('timm', 'encoders')
    if not timm.is_model(model):
        close = difflib.get_close_matches(model.split('.')[0], timm.list_models(), 5)
        raise ValueError(
            f'timm {timm.__version__} has no model {model!r}; names like it are '
            f'{close or "none"} (see timm.list_models()). Names of a hub are not '
            'taken, nothing is fetched from the network. Change `model` of the '
            'backbone.'
        )
    for key in set(kwargs) & set(_OURS):
        remedy = f'use {_OURS[key]} of the backbone' if _OURS[key] else 'leave it out'
        raise ValueError(f'model_args of the backbone has {key!r}; {remedy}.')
    return timm.create_model(model, pretrained=False, in_chans=in_channels, **kwargs)


def _describe(model: str, args: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Build without memory; add the arguments that let it take any input size."""
    with torch.device('meta'):
        twin = create(model, **args)
    if not hasattr(twin, 'forward_intermediates'):
        raise ValueError(
            f'timm {model} has no forward_intermediates method, so its maps cannot be '
            'had. Choose another `model` in the backbone.'
        )
    known = inspect.signature(type(twin).__init__).parameters
    args = dict(args)
    if 'dynamic_img_size' in known:
        args.setdefault('dynamic_img_size', True)
    elif 'strict_img_size' in known:
        args.setdefault('strict_img_size', False)
    return twin, args


def _img_size(twin: Any, args: Mapping[str, Any]) -> tuple[int, int] | None:
    """The one input size that a model takes, or None."""
    any_size = args.get('dynamic_img_size') or args.get('strict_img_size') is False
    if any_size or not twin.pretrained_cfg.get('fixed_input_size'):
        return None
    size = args.get('img_size', twin.pretrained_cfg['input_size'][1:])
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _run(encoder: Any, x: Tensor, indices: list[int], norm: bool) -> Sequence[Tensor]:
    return encoder.forward_intermediates(
        x, indices=indices, norm=norm, stop_early=True, intermediates_only=True
    )


def _build(
    model: str,
    in_channels: int,
    args: Mapping[str, Any],
    indices: list[int],
    norm: bool,
) -> nn.Module:
    encoder = create(model, in_channels, **args)
    encoder.reset_classifier(0, '')
    if hasattr(encoder, 'prune_intermediate_layers'):
        encoder.prune_intermediate_layers(indices, prune_norm=not norm)
    return encoder


@MODELS.register_module()
class TimmStream(EncoderStream):
    """An encoder of timm.

    Args:
        model: Name in timm, such as ``'convnext_tiny'`` or
            ``'vit_small_patch14_reg4_dinov2'``; a tag behind a dot is allowed.
        model_args: For its constructor: ``drop_path_rate``, ``img_size``, sizes.
        in_channels: Channels of the input.
        pretrained: Local file (.safetensors, .pth, .bin) in a layout that timm reads,
            or ``dict(checkpoint=..., first_conv='sum')``, see
            :func:`initialise_streams`. Loaded by :meth:`init_weights`; position
            embeddings of another size are resampled as timm does it.
        out_indices: Levels, or blocks of a plain ViT, that are handed out, from 0; None
            = the last four levels, or the last block.
        pyramid_channels: Of the four maps made from a plain ViT, see
            :class:`ViTPyramid`; None = its own maps.
        level_norm: Put a LayerNorm behind each map of a hierarchical encoder, as
            detection and segmentation frameworks do; timm's maps come without.
        tuning: ``'full'``, ``'frozen'``, ``'lora'``, or a dict, see :class:`Tuning`.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, in_channels, H, W)
        - output: one map per level, (B, out_channels[i], ceil(H / strides[i]),
          ceil(W / strides[i])); strides 4, 8, 16, 32 for most

    Raises:
        ImportError: If timm, or peft for LoRA, is absent.
        ValueError: If timm has no such model, or the options do not fit it.
    """

    def __init__(
        self,
        model: str,
        model_args: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        pretrained: str | Mapping[str, Any] | None = None,
        out_indices: Sequence[int] | None = None,
        pyramid_channels: int | Sequence[int] | None = 256,
        level_norm: bool = True,
        tuning: str | Mapping[str, Any] | Tuning = 'full',
        init_cfg: dict | list | None = None,
    ) -> None:
        twin, args = _describe(model, model_args or {})
        plain = len({level['reduction'] for level in twin.feature_info}) == 1
        label = f'timm {model}'
        indices = pick_levels(out_indices, len(twin.feature_info), plain, label)
        encoder = Encoder(
            label,
            functools.partial(_build, model, in_channels, args, indices, plain),
            functools.partial(_run, indices=indices, norm=plain),
            plain,
            _img_size(twin, args),
        )
        super().__init__(
            encoder,
            in_channels,
            pretrained,
            pyramid_channels,
            level_norm,
            tuning,
            init_cfg,
        )
        self.model, self.model_args, self.out_indices = model, args, indices
        self.init_report: InitReport | None = None

    def init_weights(self) -> None:
        """Load ``pretrained``; the encoder was initialised by timm when it was made."""
        super().init_weights()
        if self.pretrained is not None:
            self.init_report = initialise_encoders({'encoder': self}, self.pretrained)

    def read_pretrained(self, path: str) -> Converted:
        """Read a local file of timm weights.

        Args:
            path: The file.

        Returns:
            The weights by the names of ``encoder``. What belongs to parts that were
            left out (the classifier, unused blocks) is skipped.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        require_local(path, f'pretrained={path!r}', f'timm/{self.model}')
        inside = keep_layout(load_state(path))
        with torch.device('meta'):
            whole = create(self.model, **self.model_args)
        state, resampled = _filter(whole, inside.state)
        own = {base_name(name) for name in self.encoder.state_dict()}
        left_out = [k for k in state if k not in own and k in whole.state_dict()]
        state = {k: v for k, v in state.items() if k not in left_out}
        return Converted(
            to_adapted_names(self.encoder, state),
            f'timm, resampled {resampled}' if resampled else 'timm',
            (*inside.skipped, *left_out),
            complete=True,
        )

    @property
    def not_staged(self) -> str:
        """Why the streams cannot exchange between its stages; empty = they can."""
        if self.plain:
            return f'{self.label} is a plain ViT, all its blocks have one stride'
        if self._parts() is None:
            return f'{self.label} is none of {sorted(_STAGED)}'
        return ''

    def _parts(self) -> tuple[str, str] | None:
        for base in type(self.encoder).__mro__:
            if base.__module__.startswith('timm.') and base.__name__ in _STAGED:
                return _STAGED[base.__name__]
        return None

    def forward_stages(self, x: Tensor) -> Generator[Tensor, Tensor | None, None]:
        """Yield each level's map; continue from the map that ``send()`` hands back.

        The next stage continues from its own map plus what the exchange changed: the
        norm and the cut are for the yielded map only.
        """
        parts = self._parts()
        assert parts is not None  # staged_forward has asked not_staged
        size = (x.shape[2], x.shape[3])
        last = getattr(self.encoder, 'output_fmt', 'NCHW') == 'NHWC'
        x = getattr(self.encoder, parts[0])(self.pad(x))
        for i, stage in enumerate(getattr(self.encoder, parts[1])):
            x = stage(x)
            if i not in self.out_indices:
                continue
            whole = x.permute(0, 3, 1, 2) if last else x
            level = self.finish(whole, self.out_indices.index(i), size)
            replacement = yield level
            if replacement is not None and replacement is not level:
                rows = whole.shape[2] - level.shape[2]
                columns = whole.shape[3] - level.shape[3]
                change = F.pad(replacement - level, (0, columns, 0, rows))
                x = x + (change.permute(0, 2, 3, 1) if last else change)


def _fits(value: Tensor, own: Tensor | None) -> bool:
    """Whether shapes agree; input channels of a convolution are adapted later."""
    if own is None or own.ndim != value.ndim:
        return False
    return own.shape == value.shape or (
        own.ndim == 4 and own[0, 0].shape == value[0, 0].shape
    )


def _filter(
    whole: Any, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Let timm bring weights into its layout and size; list what it resampled."""
    own = whole.state_dict()
    change = getattr(sys.modules[type(whole).__module__], 'checkpoint_filter_fn', None)
    if change is None or all(_fits(v, own.get(k)) for k, v in state.items()):
        return dict(state), []
    changed = change(dict(state), whole)
    resampled = [
        f'{k} {tuple(state[k].shape)} to {tuple(v.shape)}'
        for k, v in changed.items()
        if k in state and state[k].shape != v.shape
    ]
    return changed, resampled
