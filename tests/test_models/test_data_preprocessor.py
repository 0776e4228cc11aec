from __future__ import annotations

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch.testing import assert_close

from mmseg_xmodal.models.data_preprocessor import ModalityPreprocessor

RGB = dict(
    channels=3, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], order='rgb'
)
DEPTH8 = dict(channels=1, mean=[100.0], std=[50.0], dtype='uint8', invalid=0)
METRES = dict(channels=1, mean=[2.0], std=[0.5], invalid=0)


def build(modalities, **kwargs):
    return ModalityPreprocessor(modalities, **kwargs)


def sample(size, labelled=True, **meta):
    out = SegDataSample(metainfo=dict(img_path='a.png', img_shape=tuple(size), **meta))
    if labelled:
        labels = torch.ones(1, *size, dtype=torch.long)
        out.gt_sem_seg = PixelData(data=labels)
    return out


def rgb(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def test_rgb_alone_equals_the_stock_preprocessor():
    stock = MMSEG_MODELS.build(
        dict(
            type='SegDataPreProcessor',
            mean=RGB['mean'],
            std=RGB['std'],
            bgr_to_rgb=True,
            size_divisor=8,
        )
    )
    sizes = [(8, 10), (6, 13)]
    batches = [
        dict(
            inputs=[rgb(s, i) for i, s in enumerate(sizes)],
            data_samples=[sample(s) for s in sizes],
        )
        for _ in range(2)
    ]
    want = stock(batches[0], training=True)
    got = build(dict(rgb=RGB), size_divisor=8)(batches[1], training=True)
    assert torch.equal(got['inputs'], want['inputs'])
    for ours, theirs in zip(got['data_samples'], want['data_samples'], strict=True):
        assert ours.metainfo == theirs.metainfo
        assert torch.equal(ours.gt_sem_seg.data, theirs.gt_sem_seg.data)


def test_test_cfg_equals_the_stock_preprocessor():
    cfg = dict(test_cfg=dict(size_divisor=16))
    stock = MMSEG_MODELS.build(
        dict(
            type='SegDataPreProcessor',
            mean=RGB['mean'],
            std=RGB['std'],
            bgr_to_rgb=True,
            **cfg,
        )
    )
    batches = [
        dict(inputs=[rgb((9, 17))], data_samples=[sample((9, 17))]) for _ in range(2)
    ]
    want, got = stock(batches[0]), build(dict(rgb=RGB), **cfg)(batches[1])
    assert torch.equal(got['inputs'], want['inputs'])
    assert got['data_samples'][0].metainfo == want['data_samples'][0].metainfo
    # Labels keep their size in testing.
    assert got['data_samples'][0].gt_sem_seg.shape == (9, 17)


def test_network_order_bgr_keeps_the_memory_order():
    flipped = dict(RGB, order='bgr', mean=RGB['mean'][::-1], std=RGB['std'][::-1])
    batch = dict(inputs=[rgb((4, 4))])
    as_rgb = build(dict(rgb=RGB))(batch)['inputs']
    as_bgr = build(dict(rgb=flipped))(batch)['inputs']
    assert torch.equal(as_bgr, as_rgb.flip(1))


def test_division_threshold_and_fill_in_a_float_stack():
    stack = torch.zeros(2, 1, 4)
    stack[1] = torch.tensor([1.0, 0.75, 0.5, 0.0])
    stack[0] = 3.0 * stack[1]
    out = build(dict(depth=dict(METRES, fill=0.0)), validity=True)(dict(inputs=[stack]))
    values, validity = out['inputs'][0]
    # (3 - 2) / .5 = 2 where valid; fill (0 - 2) / .5 = -4 at and below the threshold.
    assert values.tolist() == [[2.0, 2.0, -4.0, -4.0]]
    assert validity.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_the_default_fill_is_zero_after_normalisation():
    stack = torch.zeros(2, 3, 3)
    out = build(dict(depth=METRES))(dict(inputs=[stack]))['inputs']
    assert out.shape == (1, 1, 3, 3)
    assert (out == 0).all()


def test_a_uint8_stack_divides_by_255():
    modalities = dict(rgb=RGB, depth=DEPTH8)
    stack = torch.cat([rgb((2, 3)), torch.zeros(2, 2, 3, dtype=torch.uint8)])
    stack[3, 0] = torch.tensor([150, 113, 60])
    stack[4, 0] = torch.tensor([255, 191, 100])
    out = build(modalities, validity=True)(dict(inputs=[stack]))['inputs'][0]
    assert out.shape == (6, 2, 3)
    assert out[4].eq(1).all(), 'rgb has no validity channel in the stack: all real'
    assert out[5].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert_close(out[3, 0], torch.tensor([1.0, (113 * 255 / 191 - 100) / 50, 0.0]))


def test_a_uint8_value_stays_in_its_type():
    """Rounded value 200 over rounded weight 199 would be 256.3."""
    stack = torch.tensor([[[200]], [[199]]], dtype=torch.uint8)
    out = build(dict(depth=dict(DEPTH8, mean=[0.0], std=[1.0])))(dict(inputs=[stack]))
    assert out['inputs'].item() == 255


def test_padding_is_invalid_and_never_a_value():
    modalities = dict(rgb=RGB, depth=DEPTH8)
    stacks = [
        torch.full((5, 4, 6), 255, dtype=torch.uint8),
        torch.full((5, 7, 3), 255, dtype=torch.uint8),
    ]
    pre = build(modalities, validity=True, size=(8, 8), pad_val=-3, seg_pad_val=254)
    samples = [sample((4, 6)), sample((7, 3))]
    out = pre(dict(inputs=stacks, data_samples=samples), training=True)
    for stack, x, s in zip(stacks, out['inputs'], out['data_samples'], strict=True):
        h, w = stack.shape[-2:]
        outside = torch.ones(8, 8, dtype=torch.bool)
        outside[:h, :w] = False
        assert (x[:4][:, outside] == -3).all()
        assert (x[4:][:, outside] == 0).all()
        assert (x[4:][:, ~outside] == 1).all()
        assert (s.gt_sem_seg.data[0][outside] == 254).all()
        assert (s.gt_sem_seg.data[0][~outside] == 1).all()
        assert s.img_shape == (h, w)
        assert s.pad_shape == (8, 8)
        assert s.padding_size == (0, 8 - w, 0, 8 - h)


def test_a_batch_of_different_sizes_pads_to_the_largest():
    pre = build(dict(rgb=RGB))
    for training in (True, False):
        batch = dict(
            inputs=[rgb((4, 9)), rgb((6, 5))],
            data_samples=[sample((4, 9)), sample((6, 5))],
        )
        out = pre(batch, training=training)
        assert out['inputs'].shape == (2, 3, 6, 9)
        key = 'padding_size' if training else 'img_padding_size'
        assert out['data_samples'][0].get(key) == (0, 0, 0, 2)


def test_unlabelled_samples_pass():
    samples = [sample((4, 4), labelled=False), sample((4, 4))]
    batch = dict(inputs=[rgb((4, 4)), rgb((4, 4))], data_samples=samples)
    out = build(dict(rgb=RGB), size=(6, 6))(batch, training=True)
    assert 'gt_sem_seg' not in out['data_samples'][0]
    assert out['data_samples'][0].pad_shape == (6, 6)
    assert out['data_samples'][1].gt_sem_seg.shape == (6, 6)


def test_without_samples_and_with_a_tensor():
    batch = torch.stack([rgb((4, 5)), rgb((4, 5), seed=1)])
    out = build(dict(rgb=RGB), size=(6, 6))(dict(inputs=batch), training=True)
    assert out['data_samples'] is None
    assert out['inputs'].shape == (2, 3, 6, 6)


@pytest.mark.parametrize('has_validity', [True, False])
def test_kept_modalities_mask_the_others(has_validity):
    modalities = dict(rgb=RGB, depth=dict(DEPTH8, fill=50.0))
    if not has_validity:
        del modalities['depth']['invalid']
    channels = 5 if has_validity else 4
    stack = torch.full((channels, 3, 3), 255, dtype=torch.uint8)
    pre = build(modalities, validity=True)
    everything = pre(dict(inputs=[stack]))['inputs']
    pre.kept_modalities = {'rgb'}
    masked = pre(dict(inputs=[stack]))['inputs']
    assert pre.kept_modalities == {'rgb'}
    assert torch.equal(masked[:, :3], everything[:, :3])
    assert (masked[:, 3] == -1).all()
    assert (masked[:, 4] == 1).all()
    assert (masked[:, 5] == 0).all()
    # In training nothing is masked.
    trained = pre(dict(inputs=[stack]), training=True)['inputs']
    assert torch.equal(trained, everything)
    pre.kept_modalities = None
    assert torch.equal(pre(dict(inputs=[stack]))['inputs'], everything)


def test_masked_equals_missing():
    modalities = dict(rgb=RGB, depth=DEPTH8)
    stack = torch.full((5, 3, 3), 255, dtype=torch.uint8)
    missing = stack.clone()
    missing[3:] = 0
    pre = build(modalities, validity=True)
    want = pre(dict(inputs=[missing]))['inputs']
    pre.kept_modalities = ['rgb']
    assert torch.equal(pre(dict(inputs=[stack]))['inputs'], want)


def test_batch_augments_are_built_and_run_in_order_in_training_only():
    calls = []

    @MMSEG_MODELS.register_module(name='ToyAugment', force=True)
    class ToyAugment:
        def __init__(self, amount):
            self.amount = amount

        def __call__(self, inputs, samples):
            calls.append(self.amount)
            return inputs + self.amount, samples

    try:
        cfg = dict(type='mmseg.ToyAugment', amount=2.0)
        pre = build(dict(rgb=RGB), batch_augments=[cfg, ToyAugment(3.0)])
        plain = build(dict(rgb=RGB))(dict(inputs=[rgb((4, 4))]))['inputs']
        out = pre(dict(inputs=[rgb((4, 4))]), training=True)['inputs']
        assert calls == [2.0, 3.0]
        assert_close(out, plain + 5)
        pre(dict(inputs=[rgb((4, 4))]))
        assert len(calls) == 2
        single = build(dict(rgb=RGB), batch_augments=cfg)
        assert len(single.batch_augments) == 1
    finally:
        MMSEG_MODELS.module_dict.pop('ToyAugment')


def test_inputs_are_not_changed_and_the_state_dict_is_empty():
    pre = build(dict(depth=METRES), validity=True)
    stack = torch.rand(2, 4, 4)
    before = stack.clone()
    pre(dict(inputs=[stack]))
    assert torch.equal(stack, before)
    assert pre.state_dict() == {}


@pytest.mark.parametrize(
    ('kwargs', 'pattern'),
    [
        (dict(size=(4, 4), size_divisor=4), r'size=\(4, 4\) and size_divisor=4'),
        (dict(validity_threshold=1.0), r'validity_threshold is 1\.0.*\(0, 1\)'),
        (dict(test_cfg=dict(scale=3)), r"\['scale'\].*'size' or 'size_divisor'"),
        (dict(test_cfg=dict(size=(4, 4), size_divisor=4)), r'test_cfg has size='),
    ],
)
def test_wrong_arguments(kwargs, pattern):
    with pytest.raises(ValueError, match=pattern):
        build(dict(rgb=RGB), **kwargs)


def test_labels_of_another_size_than_the_image():
    batch = dict(inputs=[rgb((4, 4))], data_samples=[sample((8, 8))])
    with pytest.raises(ValueError, match=r"gt_sem_seg of 'a\.png'.*\(8, 8\).*\(4, 4\)"):
        build(dict(rgb=RGB))(batch, training=True)


def test_wrong_kept_modalities():
    pre = build(dict(rgb=RGB))
    with pytest.raises(ValueError, match="'nir' is not one of.*change the name"):
        pre.kept_modalities = {'nir'}
    with pytest.raises(ValueError, match='empty'):
        pre.kept_modalities = set()
