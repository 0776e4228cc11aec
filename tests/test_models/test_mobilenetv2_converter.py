"""torchvision's MobileNetV2 in mmseg's backbone: the same features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.models.converters import convert_official, recognise
from mmseg_xmodal.models.converters.mobilenetv2 import MOBILENETV2
from mmseg_xmodal.registry import MODELS
from tests.integration.helpers import ROOT
from tests.tool_scripts import load_tool

CONVERT = load_tool('model_converters/convert')

# Expansion, width, blocks and first stride of each layer: the table of the paper.
LAYERS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class PlainForm:
    """The paper's network as a plain forward; its weights are drawn on the way.

    ``state`` has them in torchvision's layout afterwards.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def unit(
        self, x: Tensor, conv: str, norm: str, width: int, **options: int
    ) -> Tensor:
        """Convolution and norm with running statistics."""
        kernel = options.pop('kernel', 1)
        inner = x.shape[1] // options.get('groups', 1)
        weight = self.draw(f'{conv}.weight', (width, inner, kernel, kernel), 0.5)
        x = F.conv2d(x, weight, padding=kernel // 2, **options)
        scale = self.draw(f'{norm}.weight', (width,), 0.1)
        shift = self.draw(f'{norm}.bias', (width,), 0.1)
        mean = self.draw(f'{norm}.running_mean', (width,), 0.1)
        variance = self.draw(f'{norm}.running_var', (width,), 0.1)
        self.state.setdefault(f'{norm}.num_batches_tracked', torch.tensor(7))
        return F.batch_norm(x, mean, variance, scale, shift)

    def draw(self, name: str, size: tuple[int, ...], spread: float) -> Tensor:
        if name not in self.state:
            value = torch.randn(size, generator=self.generator) * spread
            # Scales and variances lie around 1.
            near_one = len(size) == 1 and name.endswith(('.weight', 'running_var'))
            self.state[name] = 1 + 0.5 * value if near_one else value
        return self.state[name]

    def __call__(self, x: Tensor) -> list[Tensor]:
        at = 'features.0'
        x = F.relu6(self.unit(x, f'{at}.0', f'{at}.1', 32, kernel=3, stride=2))
        outputs, number = [], 0
        for expansion, width, blocks, first in LAYERS:
            for block in range(blocks):
                number += 1
                at = f'features.{number}.conv'
                stride = 1 if block else first
                inner, start, step = x.shape[1] * expansion, x, 0
                if expansion > 1:
                    x = F.relu6(self.unit(x, f'{at}.0.0', f'{at}.0.1', inner))
                    step = 1
                deep = dict(kernel=3, stride=stride, groups=inner)
                unit = self.unit(x, f'{at}.{step}.0', f'{at}.{step}.1', inner, **deep)
                x = self.unit(
                    F.relu6(unit), f'{at}.{step + 1}', f'{at}.{step + 2}', width
                )
                if stride == 1 and start.shape == x.shape:
                    x = x + start
            outputs.append(x)
        # What the backbone has no place for.
        self.unit(x, 'features.18.0', 'features.18.1', 1280)
        self.draw('classifier.1.weight', (1000, 1280), 0.1)
        self.draw('classifier.1.bias', (1000,), 0.1)
        return outputs


@pytest.fixture(scope='module')
def drawn() -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
    """A checkpoint, an input and the features of the plain form."""
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    form = PlainForm()
    return form.state, x, form(x)


def test_features_are_those_of_the_plain_form(drawn):
    state, x, wanted = drawn
    backbone = MODELS.build(MOBILENETV2.config(state) | dict(out_indices=range(7)))
    backbone.load_state_dict(convert_official(MOBILENETV2, state), strict=True)
    backbone.eval()
    for got, want in zip(backbone(x), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert min(want.std() for want in wanted) > 0.1


def test_the_layout_is_that_of_torchvision(drawn):
    models = pytest.importorskip('torchvision.models')
    with torch.device('meta'):
        theirs = models.mobilenet_v2().state_dict()
    shapes = {key: value.shape for key, value in drawn[0].items()}
    assert shapes == {key: value.shape for key, value in theirs.items()}


def test_another_network_is_refused(drawn):
    state = dict(drawn[0])
    assert recognise(state) == [MOBILENETV2]
    with pytest.raises(ValueError, match=r'no MobileNetV2.*first keys.*conv1\.weight'):
        convert_official(MOBILENETV2, {'conv1.weight': torch.zeros(1)})
    del state['features.5.conv.1.1.bias']
    with pytest.raises(ValueError, match=r'1 keys are missing.*layer3\.1\.conv\.1\.bn'):
        convert_official(MOBILENETV2, state)


def test_the_command_line_writes_what_init_cfg_reads(drawn, tmp_path, capsys):
    source, target = tmp_path / 'in.pth', tmp_path / 'out.pth'
    torch.save(drawn[0], source)
    command = ['mobilenetv2', str(source), str(target), '--config']
    family = 'configs/adaptation/{}_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py'
    for method in ('source-only', 'dacs'):
        assert CONVERT.main([*command, str(ROOT / family.format(method))]) == 0
    init_cfg = dict(type='Pretrained', checkpoint=str(target))
    backbone = MODELS.build(dict(type='mmseg.MobileNetV2', init_cfg=init_cfg))
    backbone.init_weights()
    written = torch.load(target, weights_only=True)['state_dict']
    assert all(
        value.equal(written[key]) for key, value in backbone.state_dict().items()
    )
    other = ROOT / 'configs/cmx/cmx_mit-b2_1xb4-1k_vizdoom-120x160.py'
    assert CONVERT.main([*command, str(other)]) == 1
    assert "They fit backbone=dict(type='mmseg.Mobile" in capsys.readouterr().err
