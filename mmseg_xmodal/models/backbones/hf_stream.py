"""Encoders of the `transformers` library as streams.

Library: https://github.com/huggingface/transformers (Apache-2.0; the weights have terms
of their own, those of DINOv3 among them). DINOv2, DINOv3, SigLIP, CLIP, ViT, ConvNeXt,
Swin and the other backbones of the library.

What is added is the same as for :class:`TimmStream`, but for exchange between stages.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_xmodal.compat import import_extra
from mmseg_xmodal.registry import MODELS

from ..converters.encoders import initialise_encoders, require_local
from ..converters.initialiser import InitReport
from ..converters.mit import Converted
from ..layers.encoder_stream import Encoder, EncoderStream, pick_levels
from ..layers.tuning import Tuning, base_name, to_adapted_names

# Vision models without a backbone class in the library: the norm behind their blocks.
_TOKEN_MODELS = dict(
    clip_vision_model='post_layernorm',
    siglip_vision_model='post_layernorm',
    vit='layernorm',
)
# Norms that the library puts behind the stages of a backbone; no checkpoint has them.
_NEW = 'hidden_states_norms.'


def _plain(value: Any) -> Any:
    """Take mmengine's config types off."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def read_config(config: str | Mapping[str, Any]) -> Any:
    """Make a configuration of the library.

    Args:
        config: Fields with ``model_type``, or a folder with a ``config.json``. Of a
            model of images and texts the image part is taken.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If ``model_type`` is missing or unknown.
    """
    transformers = import_extra('transformers', 'encoders')
    if isinstance(config, str):
        require_local(config, f'config={config!r}', config)
        found = transformers.AutoConfig.from_pretrained(config, local_files_only=True)
    else:
        fields = _plain(config)
        kind = fields.pop('model_type', None)
        if kind not in transformers.CONFIG_MAPPING:
            raise ValueError(
                f'config of the backbone has model_type={kind!r}, which transformers '
                f'{transformers.__version__} does not know. Set it, such as '
                "config=dict(model_type='dinov2', hidden_size=384, ...), or give a "
                'folder with a config.json.'
            )
        found = transformers.AutoConfig.for_model(kind, **fields)
    return getattr(found, 'vision_config', found)


def _changed(config: Any, **changes: Any) -> Any:
    """Copy a configuration with other fields; what depends on them is set anew."""
    depends = ('stage_names', 'out_features', 'out_indices', 'transformers_version')
    fields = {k: v for k, v in config.to_dict().items() if k.lstrip('_') not in depends}
    fields.pop('model_type', None)
    return type(config)(**{**fields, **changes})


def _depth(config: Any) -> int | list[int]:
    """Blocks, or blocks per stage."""
    return list(getattr(config, 'depths', [])) or config.num_hidden_layers


def _is_backbone(config: Any) -> bool:
    auto = import_extra('transformers.models.auto.modeling_auto', 'encoders')
    known = dict(auto.MODEL_FOR_BACKBONE_MAPPING_NAMES)
    if config.model_type in known:
        return True
    if config.model_type in _TOKEN_MODELS:
        return False
    raise ValueError(
        f'model_type={config.model_type!r} gives no maps, expected one of '
        f'{sorted({*known, *_TOKEN_MODELS})}. Change `config` of the backbone.'
    )


def _build(config: Any) -> nn.Module:
    """Build with random weights, in float32 whatever the configuration says."""
    transformers = import_extra('transformers', 'encoders')
    config = copy.deepcopy(config)
    if _is_backbone(config):
        return transformers.AutoBackbone.from_config(config, dtype=torch.float32)
    encoder = transformers.AutoModel.from_config(config, dtype=torch.float32)
    if getattr(encoder, 'pooler', None) is not None:
        encoder.pooler = None
    return encoder


def _run_backbone(encoder: Any, x: Tensor) -> Sequence[Tensor]:
    return encoder(x).feature_maps


def _run_tokens(
    encoder: Any, x: Tensor, indices: list[int], patch: int, norm: str
) -> Sequence[Tensor]:
    out = encoder(x, output_hidden_states=True, interpolate_pos_encoding=True)
    size = (x.shape[2] // patch, x.shape[3] // patch)
    final = getattr(getattr(encoder, 'vision_model', encoder), norm)
    maps = []
    for i in indices:
        # The class token, where there is one, stands first.
        tokens = final(out.hidden_states[i + 1])[:, -size[0] * size[1] :]
        maps.append(tokens.transpose(1, 2).unflatten(2, size))
    return maps


@MODELS.register_module()
class HFStream(EncoderStream):
    """An encoder of transformers.

    Args:
        config: Fields with ``model_type``, such as ``dict(model_type='dinov2',
            hidden_size=384, num_attention_heads=6)``, or a local folder with a
            ``config.json``.
        in_channels: Channels of the input.
        pretrained: Local folder with ``config.json`` and weights, or
            ``dict(checkpoint=folder, first_conv='sum')``, see
            :func:`initialise_streams`. Loaded by :meth:`init_weights`.
        out_indices: Levels, or blocks of a plain ViT, that are handed out, from 0; None
            = the last four levels, or the last block.
        pyramid_channels: Of the four maps made from a plain ViT, see
            :class:`ViTPyramid`; None = its own maps.
        tuning: ``'full'``, ``'frozen'``, ``'lora'``, or a dict, see :class:`Tuning`.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, in_channels, H, W)
        - output: one map per level, (B, out_channels[i], ceil(H / strides[i]),
          ceil(W / strides[i])); strides 4, 8, 16, 32 for most

    Raises:
        FileNotFoundError: If a folder does not exist; nothing is fetched.
        ImportError: If transformers, or peft for LoRA, is absent.
        ValueError: If the configuration or the options do not fit.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any],
        in_channels: int = 3,
        pretrained: str | Mapping[str, Any] | None = None,
        out_indices: Sequence[int] | None = None,
        pyramid_channels: int | Sequence[int] | None = 256,
        tuning: str | Mapping[str, Any] | Tuning = 'full',
        init_cfg: dict | list | None = None,
    ) -> None:
        whole = read_config(config)
        label = f'transformers {whole.model_type}'
        depth = _depth(whole)
        plain = isinstance(depth, int)
        total = depth if isinstance(depth, int) else len(depth)
        indices = pick_levels(out_indices, total, plain, label)
        changes: dict[str, Any] = dict(num_channels=in_channels)
        if plain:
            # Blocks behind the last one that is handed out are not built.
            changes['num_hidden_layers'] = max(indices) + 1
        if _is_backbone(whole):
            stem = int('stem' in whole.stage_names)
            changes['out_indices'] = [i + stem for i in indices]
            run: Any = _run_backbone
        else:
            if whole.model_type == 'siglip_vision_model':
                changes['vision_use_head'] = False
            run = functools.partial(
                _run_tokens,
                indices=indices,
                patch=whole.patch_size,
                norm=_TOKEN_MODELS[whole.model_type],
            )
        built = _changed(whole, **changes)
        super().__init__(
            Encoder(label, functools.partial(_build, built), run, plain),
            in_channels,
            pretrained,
            pyramid_channels,
            False,  # the library's backbones norm their maps
            tuning,
            init_cfg,
        )
        self.config, self.changes, self.out_indices = whole, changes, indices
        self.init_report: InitReport | None = None

    def init_weights(self) -> None:
        """Load ``pretrained``; the library initialised the encoder when it made it."""
        super().init_weights()
        if self.pretrained is not None:
            self.init_report = initialise_encoders({'encoder': self}, self.pretrained)

    def read_pretrained(self, path: str) -> Converted:
        """Read a local folder by the library, which knows all its layouts.

        Args:
            path: Folder with ``config.json`` and weights.

        Returns:
            The weights by the names of ``encoder``.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If tensors are missing or have another shape.
        """
        require_local(path, f'pretrained={path!r}', path)
        if not (Path(path) / 'config.json').is_file():
            raise FileNotFoundError(
                f'pretrained={path!r} has no config.json; expected a folder as '
                'save_pretrained() writes it. Change `pretrained` of the backbone.'
            )
        stored = read_config(path)
        if _depth(stored) != _depth(self.config):
            raise ValueError(
                f'pretrained={path!r} has {stored.model_type} with {_depth(stored)} '
                f'blocks, config has {self.config.model_type} with '
                f'{_depth(self.config)}. Set config of the backbone to the same folder.'
            )
        changes = dict(self.changes, num_channels=stored.num_channels)
        try:
            source, info = type(self.encoder).from_pretrained(
                path,
                config=_changed(self.config, **changes),
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f'pretrained={path!r} does not load into {self.label}: {error}. Choose '
                'the folder of the same model and size.'
            ) from error
        missing = [key for key in info['missing_keys'] if _NEW not in key]
        if missing:
            raise ValueError(
                f'pretrained={path!r} lacks {len(missing)} tensors of {self.label}: '
                f'{sorted(missing)[:8]}. Choose the folder of the same model and size.'
            )
        own = self.encoder.state_dict()
        state = to_adapted_names(self.encoder, source.state_dict())
        return Converted(
            {key: value for key, value in state.items() if key in own},
            'transformers',
            tuple(sorted(info['unexpected_keys'])),
            new=tuple(key for key in own if base_name(key) in info['missing_keys']),
        )
