"""MMDetHead: heads of mmdet where it can be imported, a helpful error elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample

from mmseg_xmodal.models.decode_heads import MMDetHead
from mmseg_xmodal.models.decode_heads.mmdet_head import import_mmdet
from mmseg_xmodal.models.layers import rank_presence
from mmseg_xmodal.models.layers.heatmap import gaussian_radius
from mmseg_xmodal.registry import MODELS

from .head_cases import SIZE, WIDTHS, feats, instances, sample, total

BOXES = [[2.0, 3, 30, 25], [10, 8, 50, 35]]
FPN = dict(type='FPN', in_channels=WIDTHS, out_channels=8, num_outs=5)
NMS = dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, max_per_img=10)
NMS.update(nms=dict(type='nms', iou_threshold=0.5))
SMALL = dict(in_channels=8, feat_channels=8, num_classes=3)
HEADS = dict(
    fcos=dict(
        head=SMALL
        | dict(type='mmdet.FCOSHead', stacked_convs=1, strides=[4, 8, 16, 32, 64])
        | dict(norm_cfg=None),
        neck=FPN,
        test_cfg=NMS,
    ),
    retina=dict(
        head=SMALL
        | dict(type='mmdet.RetinaHead', stacked_convs=1)
        | dict(
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[4, 8, 16, 32, 64],
            ),
            train_cfg=dict(
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=0.5,
                    neg_iou_thr=0.4,
                    min_pos_iou=0,
                    ignore_iof_thr=0.5,
                ),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
        ),
        neck=FPN | dict(type='mmdet.FPN'),
        test_cfg=NMS,
    ),
    centernet=dict(
        head=SMALL | dict(type='mmdet.CenterNetHead'),
        in_index=[0],
        test_cfg=dict(topk=10, local_maximum_kernel=3, max_per_img=10),
    ),
)


@pytest.fixture(scope='module')
def _mmdet() -> None:
    try:
        import_mmdet()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    """The scope of a user's config."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def _head(name: str, **changes: Any) -> MMDetHead:
    cfg = dict(type='mmseg_xmodal.MMDetHead', **HEADS[name])
    head = MODELS.build(cfg | changes)
    head.init_weights()
    return head


def _sample(boxes: Any = BOXES, **fields: Any) -> Any:
    labels = list(range(len(boxes)))
    return sample(gt_instances=instances(boxes, labels), **fields)


@pytest.mark.usefixtures('_mmdet')
@pytest.mark.parametrize('name', HEADS)
def test_trains_and_predicts(name: str) -> None:
    head = _head(name)
    crowd = instances([[40.0, 20, 56, 36]])
    samples = [_sample(), _sample([], ignored_instances=crowd)]
    losses = head.loss(feats(), samples)
    assert all(isinstance(v, torch.Tensor) and v.shape == () for v in losses.values())
    total(losses).backward()
    assert torch.isfinite(total(losses))
    assert [n for n, p in head.named_parameters() if p.grad is None] == []
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.isfinite(total(head.loss(feats(), samples)))
    head.eval()
    with torch.no_grad():
        if name == 'centernet':
            # Untrained it gives boxes inside out, which are left out.
            head.head.wh_head[-1].bias.fill_(3)
        fields = head.predict(feats(), [s.metainfo for s in samples])
    assert [list(f) for f in fields] == [['pred_instances']] * 2
    for field in fields:
        found = field['pred_instances']
        assert 0 < len(found) <= 10
        assert found.bboxes.shape == (len(found), 4)
        assert (found.bboxes[:, 2:] <= torch.tensor(SIZE[::-1])).all()


@pytest.mark.usefixtures('_mmdet')
def test_pictures_without_boxes() -> None:
    for name in HEADS:
        head = _head(name)
        loss = total(head.loss(feats(), [_sample([]), _sample([])]))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is not None for p in head.parameters())


@pytest.mark.usefixtures('_mmdet')
def test_heads_that_wait_for_all_ranks_are_known() -> None:
    found = {name: rank_presence._waiting(_head(name)) for name in HEADS}
    assert found == dict(fcos={'FCOSHead'}, retina=set(), centernet=set())


@pytest.mark.usefixtures('_mmdet')
def test_is_what_the_head_itself_says() -> None:
    """The adapter changes neither losses nor boxes."""
    det = importlib.import_module('mmdet.structures')
    head, samples = _head('fcos'), [_sample(), _sample(BOXES[:1])]
    own = []
    for each in samples:
        new = det.DetDataSample(metainfo=dict(img_shape=SIZE, batch_input_shape=SIZE))
        new.gt_instances = each.gt_instances
        own.append(new)
    expected = head.head.loss(head.neck(feats()), own)
    torch.testing.assert_close(head.loss(feats(), samples), dict(expected))
    meta = dict(img_shape=SIZE, ori_shape=(18, 14), scale_factor=(4.0, 2.0))
    for each in (*own, *samples):
        each.set_metainfo(meta)
    head.eval()
    with torch.no_grad():
        theirs = head.head.predict(head.neck(feats()), own, rescale=True)
        ours = head.predict(feats(), [s.metainfo for s in samples])
    for found, field in zip(theirs, ours, strict=True):
        assert len(found) > 2
        torch.testing.assert_close(field['pred_instances'].bboxes, found.bboxes)
        assert torch.equal(field['pred_instances'].scores, found.scores)


class _Recorder(torch.nn.Module):
    """Stands in for a head: keeps what it is given, predicts fixed boxes."""

    def __init__(self, boxes: list, **cfg: Any) -> None:
        super().__init__()
        self.boxes, self.cfg = boxes, cfg

    def loss(self, maps: tuple, samples: list) -> dict:
        self.samples = samples
        return dict(loss_a=[torch.ones(2), torch.full((3,), 2.0)], loss_b=maps[0].sum())

    def predict(self, maps: tuple, samples: list, rescale: bool) -> list:
        assert not rescale
        self.samples = samples
        found = InstanceData(bboxes=torch.tensor(self.boxes))
        found.scores, found.labels = torch.ones(len(found)), torch.arange(len(found))
        return [found]


class _Headless(torch.nn.Module):
    def __init__(self, **cfg: Any) -> None:
        super().__init__()


@pytest.fixture
def _recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the stand-in, and let mmdet be absent."""
    monkeypatch.setitem(MODELS.module_dict, '_Recorder', _Recorder)
    monkeypatch.setitem(MODELS.module_dict, '_Headless', _Headless)
    place = 'mmseg_xmodal.models.decode_heads.mmdet_head'
    monkeypatch.setattr(f'{place}.import_mmdet', lambda: None)
    # A data element like mmdet's.
    structures = SimpleNamespace(DetDataSample=SegDataSample)
    monkeypatch.setitem(sys.modules, 'mmdet.structures', structures)


def _recording(
    boxes: list | None = None, kind: str = '_Recorder', **changes: Any
) -> MMDetHead:
    head = dict(type=f'mmseg_xmodal.{kind}', boxes=boxes or BOXES)
    cfg = dict(in_channels=WIDTHS[:1], in_index=[0], test_cfg=dict(a=1))
    return MMDetHead(head, **cfg | changes)


@pytest.mark.usefixtures('_recorder')
def test_data_samples_are_adapted() -> None:
    head = _recording(train_cfg=dict(b=2))
    assert head.head.cfg == dict(train_cfg=dict(b=2), test_cfg=dict(a=1))
    assert isinstance(head.head.cfg['test_cfg'], ConfigDict)
    one = _sample(ignored_instances=instances([[0.0, 0, 5, 5]]))
    one.set_metainfo(dict(img_shape=torch.Size(SIZE), pad_shape=torch.Size((40, 64))))
    losses = head.loss(feats(batch=1), [one])
    # Levels are added up.
    assert float(losses['loss_a']) == 3
    assert losses['loss_b'].shape == ()
    (seen,) = head.head.samples
    assert torch.equal(seen.gt_instances.bboxes, torch.tensor(BOXES))
    assert seen.gt_instances.labels.tolist() == [0, 1]
    assert seen.ignored_instances.bboxes.tolist() == [[0, 0, 5, 5]]
    for key, value in dict(
        batch_input_shape=(40, 64), pad_shape=(40, 64), img_shape=SIZE
    ).items():
        assert seen.metainfo[key] == value
    assert seen.metainfo['scale_factor'] == (1.0, 1.0)
    # The user's sample stays as it is.
    assert one.metainfo['pad_shape'] == torch.Size((40, 64))
    assert 'batch_input_shape' not in one.metainfo


@pytest.mark.usefixtures('_recorder')
def test_views_are_undone() -> None:
    head = _recording([[10.0, 4, 30, 20], [60, 60, 70, 70]])
    meta = dict(img_shape=(40, 60), ori_shape=(20, 30), scale_factor=(2.0, 2.0))
    meta |= dict(flip=True, flip_direction='horizontal', pad_shape=(64, 64))
    found = head.predict(feats(batch=1), [meta])[0]['pred_instances']
    # The second box lies in the padding.
    assert found.bboxes.tolist() == [[15, 2, 25, 10]]
    assert found.labels.tolist() == [0]
    assert not any('gt_instances' in s for s in head.head.samples)


@pytest.mark.usefixtures('_recorder')
def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match='no test_cfg for .*_Recorder.*score_thr'):
        _recording(test_cfg=None)
    with pytest.raises(ValueError, match='has no in_channels.*Give in_channels'):
        _recording(in_channels=None)
    with pytest.raises(ValueError, match='neither img_shape nor pad_shape'):
        _recording().predict(feats(batch=1), [dict(img_path='a.png')])
    with pytest.raises(ValueError, match='has the box .* at index 0'):
        _recording().loss(feats(batch=1), [_sample([[5.0, 5, 5, 9]])])
    with pytest.raises(TypeError, match='has no loss and predict'):
        _recording(kind='_Headless')


def test_without_mmdet_the_error_says_what_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # None in sys.modules is what Python calls an import that fails.
    monkeypatch.setitem(sys.modules, 'mmdet.models', None)
    with pytest.raises(ImportError) as caught:
        _head('fcos')
    message = str(caught.value)
    for part in ('mmdet.models cannot be imported', 'mmcv==2.1.0', 'mmdet==3.3.0'):
        assert part in message
    assert 'mmseg_xmodal.CenterDetectionHead' in message
    assert MODELS.get('mmseg_xmodal.CenterDetectionHead') is not None


@pytest.mark.usefixtures('_mmdet')
def test_radius_is_that_of_mmdet() -> None:
    """Whose roots are those of the rule, other than the published code's."""
    utils = importlib.import_module('mmdet.models.utils')
    sizes = torch.rand(40, 2, dtype=torch.float64) * 80 + 0.5
    expected = [float(utils.gaussian_radius((h, w), 0.7)) for w, h in sizes]
    found = gaussian_radius(sizes, 0.7)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
