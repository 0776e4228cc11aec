"""What the metrics of all tasks share: partial labels, processes, names."""

from __future__ import annotations

import mmengine.dist.dist as dist
import pytest
import torch
from mmengine.registry import METRICS

from mmseg_xmodal.evaluation import DepthMapMetric, TaskIoUMetric

from .samples import evaluate, sample


def depth(error: float, labelled: bool = True, **kwargs):
    fields = dict(pred_depth_map=torch.full((1, 2, 3), 2.0 + error))
    if labelled:
        fields['gt_depth_map'] = torch.full((1, 2, 3), 2.0)
    return sample(**fields, **kwargs)


def test_keys_begin_with_the_task():
    ours = METRICS.build(dict(type='mmseg_xmodal.DepthMapMetric'))
    assert isinstance(ours, DepthMapMetric)
    assert set(evaluate(ours, [depth(1)])) >= {'depth/rmse', 'depth/delta1'}
    named = DepthMapMetric(task='range', prefix='lidar')
    assert all(key.startswith('lidar/') for key in evaluate(named, [depth(1)]))


def test_samples_without_truth_are_left_out():
    samples = [
        depth(1),
        depth(5, labelled=False),
        depth(7, task_valid=dict(depth=False)),
        depth(3, task_valid=dict(depth=True, det=False)),
    ]
    assert evaluate(DepthMapMetric(), samples)['depth/mae'] == pytest.approx(2)


def test_no_sample_with_truth_is_an_error():
    with pytest.raises(ValueError, match=r"none of 1 samples.*'depth'.*LoadTargets"):
        evaluate(DepthMapMetric(), [depth(1, labelled=False)])


def test_missing_and_misshapen_predictions_are_named():
    only = sample(gt_depth_map=torch.ones(1, 2, 3), pred_edge_map=torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match=r"a.png.*pred_edge_map.*'pred_depth_map'"):
        evaluate(DepthMapMetric(), [only])
    sizes = sample(gt_depth_map=torch.ones(1, 2, 3))
    sizes.set_data(dict(pred_depth_map=depth(1).pred_depth_map[:, :2]))
    with pytest.raises(ValueError, match=r'\(1, 2, 3\).*\(1, 2, 2\).*after Resize'):
        evaluate(DepthMapMetric(), [sizes])
    with pytest.raises(ValueError, match=r"'depth_map'.*'gt_<name>'"):
        DepthMapMetric(target='depth_map')


def label_map(value: int):
    return dict(
        pred_cover=torch.zeros(1, 2, 3).long(), gt_cover=torch.full((1, 2, 3), value)
    )


@pytest.mark.parametrize(
    ('metric', 'unlabelled'),
    [
        (DepthMapMetric(), depth(9, labelled=False)),
        (
            TaskIoUMetric(task='cover', classes=('a', 'b')),
            sample(pred_cover=torch.zeros(1, 2, 3).long()),
        ),
    ],
)
def test_two_processes_give_what_one_gives(metric, unlabelled, monkeypatch):
    # Five samples over two ranks: the sampler repeats the first one at the end.
    good = [depth(k, **label_map(k % 2)) for k in range(3)]
    samples = [good[0], unlabelled, good[1], good[2], unlabelled]
    alone = evaluate(metric, samples)
    metric.process(None, [s.to_dict() for s in (samples[1], samples[3], samples[0])])
    other = list(metric.results)
    metric.results.clear()
    metric.process(None, [s.to_dict() for s in (samples[0], samples[2], samples[4])])
    monkeypatch.setattr(dist, 'get_dist_info', lambda *a: (0, 2))
    monkeypatch.setattr(dist, 'all_gather_object', lambda own: [own, other])
    monkeypatch.setattr(
        'mmengine.evaluator.metric.collect_results',
        lambda own, size, device, **kwargs: dist._collect_results_device(own, size),
    )
    assert metric.evaluate(len(samples)) == pytest.approx(alone, nan_ok=True)
