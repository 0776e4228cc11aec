"""Segmentors that predict together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS as MMSEG_MODELS
from torch.nn import functional as F

from mmseg_xmodal.models import XModalTTAModel
from tests import python_process
from tests.integration.helpers import ROOT

from .adaptation_toys import CLASSES, SIZE, batch, head, student_cfg, wrapper

TOOL = ROOT / 'tools/model_converters/ensemble.py'


def member(index: int = 1, **kwargs: Any) -> dict:
    """A toy; index 0 predicts at stride 2, 1 at stride 8."""
    own = head((6, 8)[index], index, 1.0, **kwargs)
    return student_cfg() | dict(decode_head=own, auxiliary_head=None)


def build(members: list[dict], seed: int = 0, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    cfg = dict(type='mmseg_xmodal.SegmentorEnsemble', members=members, **kwargs)
    model = MMSEG_MODELS.build(cfg).eval()
    for name, parameter in model.named_parameters():
        if 'conv_seg' in name:
            parameter.data.mul_(30)
    return model


def test_probabilities_are_averaged_where_heads_predict() -> None:
    model = build([member(0), member(1)], weights=[3, 1])
    x = torch.randn(2, 3, *SIZE)
    expected = torch.zeros(2, CLASSES, *SIZE)
    for part, share in zip(model.members, (0.75, 0.25), strict=True):
        small = part.decode_head(part.backbone(x)).softmax(dim=1)
        assert small.shape[2] < SIZE[0]
        expected += share * F.interpolate(small, SIZE, mode='bilinear')
    logits = model.encode_decode(x, [])
    torch.testing.assert_close(logits.softmax(dim=1), expected)
    torch.testing.assert_close(model(x), logits)
    assert [len(feats) for feats in model.extract_feat(x)] == [2, 2]


def test_one_member_predicts_as_alone() -> None:
    """But for where the softmax is taken."""
    model = build([member()])
    (alone,) = model.members
    small = torch.randn(2, 3, *SIZE)
    own = alone.decode_head(alone.backbone(small))
    mean = F.interpolate(own.softmax(1), SIZE, mode='bilinear')
    torch.testing.assert_close(model.encode_decode(small, []).exp(), mean)


def test_binary_heads() -> None:
    parts = [member(i, out_channels=1, threshold=0.4) for i in (0, 1)]
    for part in parts:
        part['decode_head']['num_classes'] = 2
        part['decode_head']['loss_decode']['use_sigmoid'] = True
    model = build(parts)
    x = torch.randn(1, 3, *SIZE)
    mean = sum(
        F.interpolate(p.decode_head(p.backbone(x)).sigmoid(), SIZE, mode='bilinear')
        for p in model.members
    )
    torch.testing.assert_close(model.encode_decode(x, []).sigmoid(), mean / 2)
    assert model.decode_head.threshold == 0.4


def test_slide_inference_and_tta() -> None:
    slide = ConfigDict(mode='slide', crop_size=SIZE, stride=SIZE)
    model = build([member(), member(0)], test_cfg=slide)
    data = batch(each=1)
    image, sample = data['inputs'][0], data['data_samples'][0]
    sample.set_metainfo(dict(ori_shape=(SIZE[0], 2 * SIZE[1])))
    wide = torch.cat([image, image], dim=2)
    (got,) = model.test_step(dict(inputs=[wide], data_samples=[sample]))
    logits = got.seg_logits.data
    window = model.data_preprocessor(dict(inputs=[image]), False)['inputs']
    expected = model.encode_decode(window, [])[0]
    torch.testing.assert_close(logits, torch.cat([expected, expected], dim=2))

    views = dict(inputs=[[wide], [wide.flip(2)]], data_samples=[[sample], [sample]])
    views['data_samples'][1] = [sample.clone()]
    views['data_samples'][1][0].set_metainfo(
        dict(flip=True, flip_direction='horizontal')
    )
    (merged,) = XModalTTAModel(model).test_step(views)
    window = model.data_preprocessor(dict(inputs=[image.flip(2)]), False)['inputs']
    other = model.encode_decode(window, [])[0].flip(2)
    mean = (expected.softmax(0) + other.softmax(0)) / 2
    torch.testing.assert_close(
        merged.seg_logits.data.softmax(0), torch.cat([mean, mean], dim=2)
    )


def test_the_tool_joins_plain_and_adapted_checkpoints(tmp_path: Path) -> None:
    adapted = wrapper()
    torch.save(dict(state_dict=adapted.state_dict()), tmp_path / 'a.pth')
    torch.manual_seed(9)
    plain = MMSEG_MODELS.build(student_cfg())
    torch.save(plain.state_dict(), tmp_path / 'b.pth')
    files = [str(tmp_path / name) for name in ('a.pth', 'b.pth', 'out.pth')]
    done = python_process.run(TOOL, *files)
    assert done.returncode == 0, done.stderr
    model = build([student_cfg()] * 2)
    state = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    model.load_state_dict(state, strict=True)
    for own, other in zip(model.members, (adapted.student, plain), strict=True):
        for key, value in own.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key

    done = python_process.run(TOOL, '--network', 'teacher', *files[1:])
    assert done.returncode == 1
    assert "b.pth: network='teacher' and a state with the parts" in done.stderr
    done = python_process.run(TOOL, files[0], files[0])
    assert done.returncode == 2
    assert 'name another file to write' in done.stderr


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r'members=\[\], expected the config of at'):
        build([])
    with pytest.raises(ValueError, match=r'weights=\[1.0\] for 2 members, expected'):
        build([member(), member()], weights=[1])
    with pytest.raises(ValueError, match='above 0 for each'):
        build([member(), member()], weights=[1, 0])
    other = member()
    other['decode_head'] = dict(other['decode_head'], num_classes=7)
    with pytest.raises(ValueError, match=r'have \[4, 7\] output channels'):
        build([member(), other])
    other = member() | dict(data_preprocessor=dict(type='mmseg.SegDataPreProcessor'))
    with pytest.raises(ValueError, match='different data_preprocessors'):
        build([member(), other])
    with pytest.raises(NotImplementedError, match='predicts only. Train its members'):
        build([member()]).loss(torch.zeros(1, 3, *SIZE), [])
