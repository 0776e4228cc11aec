"""GeminiFusion with Swin: norms of each stream, official and ImageNet weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal.models.backbones import GeminiFusion
from mmseg_xmodal.models.converters import (
    convert_official,
    convert_shared_swin,
    convert_swin,
    load_state,
)
from mmseg_xmodal.models.converters.cmx_swin import CMX_SWIN
from mmseg_xmodal.models.converters.geminifusion import GEMINIFUSION, gemini_key
from mmseg_xmodal.models.layers.shared_swin import SharedSwin
from mmseg_xmodal.models.layers.swin import Swin
from mmseg_xmodal.models.layers.swin_sizes import SWIN_VARIANTS
from mmseg_xmodal.registry import MODELS
from tests.reference_forms.geminifusion import PublishedGeminiSwin

from .helpers import RGBD, rand, randomise

TINY = dict(embed_dim=16, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), window=3)
_LEAVES = ('weight', 'bias')


def _official(form: nn.Module) -> dict[str, Tensor]:
    """The state dict as official files have it, with the constants of the windows."""
    state = form.state_dict()
    for name, module in form.named_modules():
        if hasattr(module, 'relative_position_index'):
            key = f'{name}.relative_position_index'
            state[key] = module.relative_position_index.view(module.side**2, -1)
    return state


def _form(variant=TINY, classes: int = 3) -> PublishedGeminiSwin:
    return PublishedGeminiSwin(variant, embed_dim=16, num_classes=classes).eval()


# -------------------------------------------------------------------- norms


def test_norms_at_the_ends_are_each_streams_own() -> None:
    with torch.device('meta'):
        encoder = SharedSwin('swin_t')
    norms = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.LayerNorm)}
    ends = ['patch_embed.norm', *(f'stages.{i}.norm' for i in range(4))]
    own = {f'{end}.{stream}' for end in ends for stream in (0, 1)}
    assert {name for name, norm in norms.items() if norm.eps == 1e-6} == own
    shared = {name for name, norm in norms.items() if norm.eps == 1e-5}
    assert shared == norms.keys() - own
    assert len(shared) == 2 * 12 + 3


def test_each_stream_goes_through_its_own_norms() -> None:
    """Without the exchange a stream knows nothing of the other one's norms."""
    encoder = SharedSwin(TINY).eval()
    randomise(encoder)
    parts = [rand(1, 3, 40, 40), rand(1, 3, 40, 40)]

    def run() -> list[list[Tensor]]:
        with torch.no_grad():
            return encoder(parts, lambda level, block, tokens, size, proj: tokens)

    before = run()
    for end in (encoder.patch_embed, *encoder.stages):
        nn.init.constant_(end.norm[1].weight, 0.3)
        nn.init.constant_(end.norm[1].bias, -2.0)
        after = run()
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[0], new[0])
        assert any(
            not torch.equal(old[1], new[1])
            for old, new in zip(before, after, strict=True)
        )
        before = after


# --------------------------------------------------------- official weights


@pytest.mark.parametrize('variant', SWIN_VARIANTS)
def test_every_size_converts_strictly(variant: str) -> None:
    with torch.device('meta'):
        official = _official(_form(variant, 37))
        config = GEMINIFUSION.config(official)
        assert config['backbone']['variant'] == variant
        assert config['decode_head']['num_classes'] == 37
        model = MODELS.build(config)
        converted = convert_official(GEMINIFUSION, official)
        model.load_state_dict(converted, strict=True)


@pytest.mark.parametrize('window', [3, 7, 12])
def test_released_files_give_the_published_numbers(window: int, tmp_path: Path) -> None:
    """In double precision, which shows an eps of 1e-5 in place of 1e-6."""
    form = _form(TINY | dict(window=window)).double()
    randomise(form)
    state = {f'module.{key}': value for key, value in _official(form).items()}
    torch.save(dict(segmenter=state, epoch_start=3), tmp_path / 'swin.pth.tar')
    official = load_state(tmp_path / 'swin.pth.tar')
    model = MODELS.build(GEMINIFUSION.config(official)).double().eval()
    model.load_state_dict(convert_official(GEMINIFUSION, official), strict=True)
    x = rand(2, 6, 72, 88, dtype=torch.float64)
    with torch.no_grad():
        maps = model.extract_feat(x)
        for ours, *both in zip(maps, *form.maps(x), strict=True):
            torch.testing.assert_close(ours, torch.cat(both, 1))
        logits = model.decode_head.stream_logits(maps)
        for ours, expected in zip(logits, form.outputs(x), strict=True):
            torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(model(x, mode='tensor'), form(x))


def test_other_files_are_refused() -> None:
    with torch.device('meta'):
        official = _official(_form())
        less = {k: v for k, v in official.items() if 'norm2.ln_1' not in k}
        with pytest.raises(ValueError, match=r'2 keys are missing.*stages\.2\.norm\.1'):
            convert_official(GEMINIFUSION, less)
        less = {k: v for k, v in official.items() if 'k_noise' not in k}
        with pytest.raises(ValueError, match=r'5 keys are missing.*key_noise'):
            convert_official(GEMINIFUSION, less)
        more = official | {'encoder.body.norm0.module.weight': torch.zeros(16)}
        with pytest.raises(ValueError, match=r'1 keys are not.*norm0\.module'):
            convert_official(GEMINIFUSION, more)
        less = {k: v for k, v in official.items() if '.layers.3.' not in k}
        with pytest.raises(ValueError, match=r'size None.*encoder\.body\.layers'):
            convert_official(GEMINIFUSION, less)
        with pytest.raises(ValueError, match=r'looks like official GeminiFusion'):
            convert_official(CMX_SWIN, official)
    # Not by the name of what each stream has for itself, nor without a wrapper.
    assert gemini_key('encoder.body.norm0.weight') is None
    assert gemini_key('encoder.body.layers.0.blocks.0.mlp.fc1.weight') is None
    assert gemini_key('encoder.body.absolute_pos_embed') is None


# --------------------------------------------------------- ImageNet weights


def _imagenet(source: Swin) -> dict[str, Tensor]:
    """The official layout of a classifier, which has no norms of the output."""
    state = {}
    for key, value in source.state_dict().items():
        if not key.startswith('stages.'):
            state[key] = value
        elif '.norm.' not in key or 'downsample' in key:
            state[key.replace('stages.', 'layers.', 1)] = value
    return state | {'head.weight': torch.zeros(2, 128), 'norm.weight': torch.ones(128)}


def test_imagenet_weights_reach_the_norms_of_both_streams(tmp_path: Path) -> None:
    source = Swin(TINY)
    randomise(source)
    torch.save(dict(model=_imagenet(source)), tmp_path / 'swin.pth')
    model = GeminiFusion(RGBD, TINY, pretrained=str(tmp_path / 'swin.pth'))
    randomise(model, seed=1)
    model.init_weights()
    encoder = model.encoder
    new = [
        f'stages.{i}.norm.{j}.{leaf}'
        for i in range(4)
        for j in (0, 1)
        for leaf in _LEAVES
    ]
    assert sorted(model.init_report.new) == sorted(new)
    count = len(encoder.state_dict()) - len(new)
    assert model.init_report.loaded == {'rgb+depth': count}
    for norm in encoder.patch_embed.norm:
        assert torch.equal(norm.weight, source.patch_embed.norm.weight)
        assert torch.equal(norm.bias, source.patch_embed.norm.bias)
    for stage in encoder.stages:
        for norm in stage.norm:
            assert (norm.weight == 1).all()
            assert (norm.bias == 0).all()
    block, wanted = encoder.stages[0].blocks[1], source.stages[0].blocks[1]
    assert torch.equal(block.norm1.weight, wanted.norm1.weight)
    downsample = encoder.stages[0].downsample
    assert torch.equal(downsample.norm.bias, source.stages[0].downsample.norm.bias)


def test_output_norms_of_a_detector_reach_both_streams() -> None:
    source = Swin(TINY)
    randomise(source)
    state = convert_shared_swin(source.state_dict()).state
    for stream in (0, 1):
        own, shared = f'stages.2.norm.{stream}.weight', 'stages.2.norm.weight'
        assert torch.equal(state[own], source.state_dict()[shared])
    SharedSwin(TINY).load_state_dict(state, strict=True)


def test_norms_that_are_each_streams_own_stay_so() -> None:
    source = SharedSwin(TINY)
    randomise(source)
    converted = convert_shared_swin(source.state_dict())
    state = converted.state
    assert not converted.new
    assert state.keys() == source.state_dict().keys()
    for key, value in source.state_dict().items():
        assert torch.equal(state[key], value), key
    # What would happen otherwise: initial values beside them.
    assert 'stages.0.norm.weight' in convert_swin(source.state_dict()).state
