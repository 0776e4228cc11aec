"""What the runners of CMX with MiT and with Swin streams share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import Official, convert_official

from ..fixture import Fixture
from .names import check_head, require_decoder

# As the official code calls them; a fixture may have other names.
STREAMS = ('rgb', 'x')
_HEAD_BN = 'decode_head.linear_fuse.1'


def head_eps(fixture: Fixture) -> float:
    """Eps of the decoder's BN.

    Official training sets the ``bn_eps`` of its config (1e-3); official evaluation
    builds the network without a criterion, which leaves 1e-5 whatever the config says.
    So what the fixture reports of the layer comes first.
    """
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        if _HEAD_BN in names:
            return float(eps)
    return float((fixture.meta.get('constructor') or {}).get('bn_eps') or 1e-5)


def pair_config(fixture: Fixture, official: Official) -> dict:
    """Our config, read from the shapes of the weights.

    Args:
        fixture: With weights.
        official: Family of the weights.

    Raises:
        NoRunner: If the decoder is not built.
    """
    require_decoder(fixture, 'MLPDecoder', 'CMX')
    config = official.config(fixture.shapes())
    head, modalities = config['decode_head'], config['backbone']['modalities']
    check_head(fixture, head, 'decoder_embed_dim')
    head['norm_cfg'] = dict(type='BN', eps=head_eps(fixture))
    return dict(
        config,
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        test_cfg=dict(mode='whole'),
    )


def _record(
    model: nn.Module,
    case: str,
    outputs: dict[str, Tensor],
    fusing: Callable[[nn.Module], nn.Module],
    streams: Sequence[str],
) -> list:
    """Hook the intermediate maps; return the handles."""

    def rectified(index: int):
        def hook(_module, _args, result) -> None:
            for feat, *names in zip(result[0], STREAMS, streams, strict=True):
                for name in names:
                    outputs[f'{case}_rect{index}_{name}'] = feat

        return hook

    def fused(index: int):
        def hook(_module, _args, result) -> None:
            outputs[f'{case}_fused{index}'] = result[1]

        return hook

    handles = []
    for index, fusion in enumerate(model.backbone.fusions, 1):
        handles.append(fusion.rectify.register_forward_hook(rectified(index)))
        handles.append(fusing(fusion).register_forward_hook(fused(index)))
    return handles


def run_cases(
    fixture: Fixture,
    model: nn.Module,
    official: Official,
    fusing: Callable[[nn.Module], nn.Module],
) -> dict[str, Tensor]:
    """Load, run and record every case.

    Args:
        fixture: With weights and inputs.
        model: Ours, in eval mode.
        official: Family of the weights.
        fusing: From the fusion of a stage to the module that gives the fused map.
    """
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(official, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        streams = fixture.streams(case)
        stack = torch.cat([inputs[name] for name in streams], 1)
        handles = _record(model, case, outputs, fusing, streams)
        with torch.no_grad():
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
        for handle in handles:
            handle.remove()
    return outputs
