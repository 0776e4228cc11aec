"""Interactions between tasks: any size, gradients, bad input, in a model."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_xmodal.registry import MODELS

from .helpers import TINY, rand, randomise, without_gradient

CHANNELS = (8, 12, 16)
TASKS = dict(seg=5, depth=1, normal=3)
SIZES = ((16, 12), (8, 6), (4, 3))
ODD = ((13, 9), (7, 5), (4, 3))
SMALL = ((1, 1), (1, 1), (1, 1))
NAMES = ('MultiScaleDistillation', 'InvertedPyramidAttention')
GN = dict(type='GN', num_groups=1)
# A narrow gate has a ReLU over one unit, which is dead for half of all weights.
ARGUMENTS = dict(
    MultiScaleDistillation=dict(reduction=1),
    InvertedPyramidAttention=dict(channels=6, stage_channels=16),
)


def build(name, tasks=None, **kwargs):
    torch.manual_seed(0)
    arguments = dict(in_channels=CHANNELS, tasks=tasks or TASKS) | ARGUMENTS[name]
    return MODELS.build(dict(type=f'mmseg_xmodal.{name}', **arguments | kwargs))


def pyramid(sizes=SIZES, batch=2):
    return [
        rand(batch, c, *size, seed=i)
        for i, (c, size) in enumerate(zip(CHANNELS, sizes, strict=True))
    ]


def everything(result):
    """All maps of a result."""
    pyramids, first = result
    return [x for maps in [*pyramids.values(), *first.values()] for x in maps]


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('sizes', [SIZES, ODD, SMALL])
@pytest.mark.parametrize('tasks', [TASKS, dict(seg=5)])
@pytest.mark.parametrize('name', NAMES)
def test_shapes_for_any_size_and_any_number_of_tasks(name, tasks, sizes, train):
    module = build(name, tasks).train(train)
    pyramids, first = module(pyramid(sizes))
    assert set(pyramids) == set(first) == set(tasks)
    places = sizes if name == 'MultiScaleDistillation' else sizes[:1]
    for maps in pyramids.values():
        assert isinstance(maps, tuple)
        assert [tuple(m.shape) for m in maps] == [
            (2, c, *size) for c, size in zip(module.out_channels, places, strict=True)
        ]
    places = sizes if name == 'MultiScaleDistillation' else sizes[-1:]
    for task, maps in first.items():
        assert [tuple(m.shape) for m in maps] == [(2, tasks[task], *s) for s in places]
    assert all(x.isfinite().all() for x in everything((pyramids, first)))


@pytest.mark.parametrize('sizes', [SIZES, ODD])
@pytest.mark.parametrize('tasks', [TASKS, dict(seg=5)])
@pytest.mark.parametrize('name', NAMES)
def test_gradients_reach_every_parameter_and_level(name, tasks, sizes):
    module = build(name, tasks)
    feats = [x.requires_grad_() for x in pyramid(sizes)]
    maps = everything(module(feats))
    sum((x * rand(*x.shape, seed=9)).sum() for x in maps).backward()
    assert without_gradient(module) == []
    assert all((x.grad.abs().sum((0, 2, 3)) > 0).all() for x in feats)


@pytest.mark.parametrize('name', NAMES)
def test_every_task_sees_every_other_one(name):
    module = build(name).eval()
    feats = pyramid()
    first = module.initial[0] if hasattr(module, 'initial') else module.preliminary
    before = module(feats)[0]
    for task in TASKS:
        parameter = next(first[task].parameters())
        saved = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(2)
        after = module(feats)[0]
        assert all(not torch.equal(before[t][0], after[t][0]) for t in TASKS), task
        with torch.no_grad():
            parameter.copy_(saved)


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_does_not_depend_on_the_order_of_the_tasks(name):
    module, other = build(name), build(name, dict(reversed(TASKS.items())))
    randomise(module)
    other.load_state_dict(module.state_dict())
    results = [m.eval()(pyramid()) for m in (module, other)]
    pairs = [
        (a, b)
        for part in (0, 1)
        for task in TASKS
        for a, b in zip(results[0][part][task], results[1][part][task], strict=True)
    ]
    assert len(pairs) > len(TASKS)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize('name', NAMES)
def test_bf16_autocast_trains_and_stays_close(name):
    module = build(name, norm_cfg=GN)
    with torch.autocast('cpu', torch.bfloat16):
        maps = everything(module(pyramid()))
        sum(x.float().square().mean() for x in maps).backward()
    exact = everything(module(pyramid()))
    # bf16 keeps 8 bits, and about 20 layers follow each other.
    for low, full in zip(maps, exact, strict=True):
        assert (low.float() - full).abs().mean() < 0.03 * full.abs().mean() + 0.01
    assert without_gradient(module) == []


@pytest.mark.parametrize('name', NAMES)
def test_group_norm_trains_on_one_pixel_of_one_image(name):
    maps = everything(build(name, norm_cfg=GN)(pyramid(SMALL, batch=1)))
    assert all(x.isfinite().all() for x in maps)


def test_one_task_has_no_mask_and_no_distillation():
    module = build('MultiScaleDistillation', dict(seg=5))
    assert len(module.distil) == 0
    assert [p.scores for p in module.propagate] == [None, None]


def test_messages_are_passed_from_stage_to_stage_with_the_same_keys():
    module = build('InvertedPyramidAttention')
    seen = []
    for stage in module.stages:
        stage.attention.register_forward_hook(lambda _, a, out: seen.append((a, out)))
    module(pyramid(ODD))
    (first, one), (second, two), (third, three) = seen
    assert first[2] is None
    assert second[2] is one[1]
    assert third[2] is two[1]
    assert three[1] is None
    assert one[1].values.shape == (2, 2, 3 * 2 * 2, 3 * 2 * 2)
    assert two[1].values.shape == (2, 2, 3 * 4 * 3, 3 * 2 * 2)


def test_fewer_stages_read_the_coarsest_levels():
    module = build('InvertedPyramidAttention', stages=2, message_passing=False)
    feats = [x.requires_grad_() for x in pyramid()]
    pyramids, _ = module(feats)
    assert pyramids['seg'][0].shape == (2, 6, 8, 6)
    pyramids['seg'][0].square().sum().backward()
    assert [x.grad is None for x in feats] == [True, False, False]


def test_channels_per_task_may_be_chosen():
    module = build('MultiScaleDistillation', channels=4)
    assert module.out_channels == [4, 4, 4]
    assert [m.shape[1] for m in module(pyramid())[0]['depth']] == [4, 4, 4]
    assert build('MultiScaleDistillation').out_channels == list(CHANNELS)


@pytest.mark.parametrize('name', NAMES)
def test_stock_heads_read_the_pyramids(name):
    module = build(name).eval()
    pyramids, _ = module(pyramid())
    common = dict(channels=4, num_classes=5, norm_cfg=dict(type='BN'))
    levels = list(range(len(module.out_channels)))
    lists = dict(in_channels=module.out_channels, in_index=levels)
    for cfg in (
        dict(type='mmseg.FCNHead', in_channels=module.out_channels[0], in_index=0),
        dict(type='mmseg.SegformerHead', **lists),
    ):
        head = MODELS.build(cfg | common).eval()
        assert head(pyramids['seg']).shape == (2, 5, 16, 12)


@pytest.mark.parametrize('name', NAMES)
def test_another_pyramid_is_refused(name):
    module = build(name)
    feats = pyramid()
    with pytest.raises(ValueError, match=r'expected 3 levels of \[8, 12, 16\].*neck'):
        module(feats[:2])
    with pytest.raises(ValueError, match=r'\(2, 16, 4, 3\), \(2, 12'):
        module(feats[::-1])
    with pytest.raises(ValueError, match='expected 3 levels'):
        module([x[0] for x in feats])
    with pytest.raises(ValueError, match='largest map first'):
        module(pyramid(SIZES[::-1]))
    with pytest.raises(ValueError, match='no empty one'):
        module(pyramid(((4, 3), (2, 1), (1, 0))))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(tasks={'a.b': 1}), "{'a.b': 1}, expected one dense task.*without dots"),
        (dict(tasks=dict(seg=0)), "{'seg': 0}.*one channel or more"),
        (dict(in_channels=[]), r'in_channels=\[\]'),
        (dict(in_channels=[8, 0]), r'in_channels=\[8, 0\]'),
    ],
)
def test_bad_tasks_and_channels_are_refused(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(name, **kwargs)


@pytest.mark.parametrize('name', NAMES)
def test_no_task_is_refused(name):
    kind = MODELS.get(f'mmseg_xmodal.{name}')
    with pytest.raises(ValueError, match=r'tasks=\{\}.*take the interaction out'):
        kind(in_channels=CHANNELS, tasks={})


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(stages=4), 'stages=4, expected 1 to 3'),
        (dict(stages=0), 'stages=0, expected 1 to 3'),
        (dict(num_heads=3), r'\[16, 8, 4\] channels, expected 3 multiples of num_he'),
        (dict(stage_channels=[8, 8]), r'\[8, 8\] channels, expected 3'),
    ],
)
def test_stages_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build('InvertedPyramidAttention', **kwargs)


@pytest.mark.parametrize('channels', [[4, 4], [4, 4, 0]])
def test_channels_that_do_not_fit_are_refused(channels):
    with pytest.raises(ValueError, match=r'channels=\[4, 4.*3, one for each of'):
        build('MultiScaleDistillation', channels=channels)


def multitask(name, **kwargs):
    """A tiny model: segmentation by a stock head, depth and edges by ours."""
    torch.manual_seed(0)
    channels = list(TINY['embed_dims'])
    interaction = dict(type=f'mmseg_xmodal.{name}', in_channels=channels)
    if name == 'MultiScaleDistillation':
        interaction.update(channels=8)
        read = dict(in_channels=[8] * 4, in_index=[0, 1, 2, 3])
    else:
        interaction.update(channels=8, num_heads=2)
        read = dict(in_channels=[8], in_index=[0])
    return MODELS.build(
        dict(
            type='mmseg_xmodal.MultiTaskEncoderDecoder',
            backbone=dict(
                type='mmseg_xmodal.MixTransformer', variant=TINY, in_channels=3
            ),
            decode_head=dict(
                type='mmseg.SegformerHead',
                channels=8,
                num_classes=3,
                dropout_ratio=0.0,
                norm_cfg=dict(type='BN'),
                **read,
            ),
            task_heads=dict(
                depth=dict(type='mmseg_xmodal.DepthHead', channels=8, **read),
                edge=dict(type='mmseg_xmodal.EdgeHead', channels=8, **read),
            ),
            interaction=interaction,
            **kwargs,
        )
    )


def labelled(i, fields=('gt_sem_seg', 'gt_depth_map', 'gt_edge_map')):
    """A sample whose left and right half differ in everything."""
    right = torch.zeros(1, 64, 64)
    right[..., 32:] = 1
    data = dict(
        gt_sem_seg=right.long() + i,
        gt_depth_map=1 + 3 * right,
        gt_edge_map=right.to(torch.uint8),
    )
    sample = SegDataSample(
        metainfo=dict(img_path=f'{i}.png', img_shape=(64, 64), ori_shape=(64, 64))
    )
    sample.set_data({name: PixelData(data=data[name]) for name in fields})
    return sample


@pytest.mark.parametrize('name', NAMES)
def test_a_model_learns_with_supervised_first_predictions(name):
    model = multitask(name).train()
    inputs, samples = rand(2, 3, 64, 64), [labelled(0), labelled(1)]
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    totals = []
    for _ in range(5):
        losses = model.loss(inputs, samples)
        total, _ = model.parse_losses(losses)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.9 * totals[0]
    levels = 4 if name == 'MultiScaleDistillation' else 1
    last = {key for key in losses if '.loss' in key and '_init' not in key}
    first = {key for key in losses if '.loss' in key} - last
    assert {key.partition('.')[0] for key in last} == set(model.tasks)
    assert first == {f'{key}_init{i}' for key in last for i in range(levels)}


@pytest.mark.parametrize('name', NAMES)
def test_a_task_without_labels_still_reaches_every_parameter(name):
    model = multitask(name).train()
    samples = [labelled(i, ['gt_sem_seg', 'gt_edge_map']) for i in range(2)]
    total, _ = model.parse_losses(model.loss(rand(2, 3, 64, 64), samples))
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('name', NAMES)
def test_windows_and_odd_pictures_are_predicted(name):
    test_cfg = dict(mode='slide', crop_size=(45, 45), stride=(30, 30))
    model = multitask(name, test_cfg=test_cfg).eval()
    with torch.no_grad():
        (sample,) = model.predict(rand(1, 3, 65, 75))
    assert sample.pred_sem_seg.data.shape == (1, 65, 75)
    assert sample.pred_depth_map.data.shape == (1, 65, 75)
    assert sample.pred_edge_map.data.isfinite().all()
