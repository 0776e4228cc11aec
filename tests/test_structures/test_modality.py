from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_xmodal.structures import Modality, ModalityLayout

RGB = dict(channels=3, order='rgb')


def test_channels_of_the_two_stacks():
    layout = ModalityLayout(
        dict(
            rgb=RGB,
            depth=dict(channels=1, invalid=0, dtype='uint8'),
            nir=dict(channels=2),
        )
    )
    assert layout.num_values == 6
    assert layout.value_slice('nir') == slice(4, 6)
    # rgb is plain uint8 and brings no validity into the stack
    assert layout.stack_channels == 8
    assert layout.stack_validity_index('rgb') is None
    assert layout.stack_validity_index('depth') == 6
    assert layout.stack_validity_index('nir') == 7
    assert layout.input_channels(True) == 9
    assert layout.input_validity_index('rgb') == 6


@pytest.mark.parametrize(
    ('depth', 'dtype', 'valid'),
    [
        (dict(dtype='uint8', invalid=0), np.uint8, 255),
        (dict(dtype='uint8', scale=0.1), np.float32, 1),
        (dict(dtype='uint16'), np.float32, 1),
        (dict(), np.float32, 1),
    ],
)
def test_the_stack_is_uint8_only_when_every_modality_is(depth, dtype, valid):
    layout = ModalityLayout(dict(rgb=RGB, depth=dict(channels=1, **depth)))
    assert layout.stack_dtype is dtype
    assert layout.validity_max == valid
    assert layout['depth'].has_validity


def test_split_with_and_without_validity():
    layout = ModalityLayout(dict(rgb=RGB, depth=dict(channels=1)))
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    values, valid = layout.split(x)
    assert values['rgb'].flatten().tolist() == [0, 1, 2]
    assert values['depth'].item() == 3
    assert valid is not None
    assert (valid['rgb'].item(), valid['depth'].item()) == (4, 5)
    assert layout.split(x[:, :4])[1] is None


def test_split_refuses_other_channel_counts():
    layout = ModalityLayout(dict(rgb=RGB, depth=dict(channels=1)))
    with pytest.raises(
        ValueError, match=r'got 3 channels.*make 4 \(or 6 .*modalities=modalities'
    ):
        layout.split(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (dict(channels=0), r"\['channels'\] is 0, expected a positive integer"),
        (dict(channels=1, order='rgb'), r"\['order'\] is 'rgb', expected None unless"),
        (dict(channels=1, dtype='int8'), r"\['dtype'\] is 'int8', expected one of"),
        (
            dict(channels=2, mean=[1, 2, 3]),
            r"\['mean'\] is \[1, 2, 3\], expected 1 or 2",
        ),
        (dict(channels=1, std=0), r"\['std'\] is \(0.0,\), expected positive"),
    ],
)
def test_wrong_fields_are_refused_with_the_place(fields, message):
    with pytest.raises(ValueError, match=r"modalities\['depth'\]" + message):
        Modality(name='depth', **fields)


def test_unknown_fields_and_modalities_are_listed():
    with pytest.raises(TypeError, match=r"Unknown here: \['chanels'\]"):
        ModalityLayout(dict(depth=dict(chanels=1)))
    with pytest.raises(ValueError, match='modalities is empty'):
        ModalityLayout({})
    with pytest.raises(ValueError, match=r"'thermal' is not one of \['rgb'\]"):
        ModalityLayout(dict(rgb=RGB)).value_slice('thermal')


def test_order_survives_the_sorted_keys_of_a_written_config():
    depth = dict(channels=1)
    for modalities in (
        dict(rgb=RGB, depth=depth, nir=depth),
        dict(depth=depth, nir=depth, rgb=RGB),
    ):
        assert ModalityLayout(modalities).names == ('rgb', 'depth', 'nir')


def test_rgb_is_first_even_among_colour():
    """Official weights expect it so, with HHA read as colour in the second stream."""
    assert ModalityLayout(dict(hha=RGB, rgb=RGB)).names == ('rgb', 'hha')


def test_a_list_keeps_its_order():
    listed = [dict(name='thermal', channels=1), dict(name='rgb', **RGB)]
    assert ModalityLayout(listed).names == ('thermal', 'rgb')
    with pytest.raises(ValueError, match=r"modalities\[1\]\['name'\] is 'thermal'"):
        ModalityLayout([listed[0], listed[0]])
