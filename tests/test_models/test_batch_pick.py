from __future__ import annotations

import pytest
import torch

from mmseg_xmodal.models.layers.batch_pick import pick


@pytest.mark.parametrize('places', [(0, 2), (1, 2), (3,), (0, 1, 2, 3)])
def test_a_nest_of_maps_keeps_its_form(places: tuple[int, ...]):
    one, two = torch.randn(4, 3), torch.randn(4, 2, 2)
    picked = pick(dict(a=(one, [two, None]), b=()), places)
    assert torch.equal(picked['a'][0], one[list(places)])
    assert torch.equal(picked['a'][1][0], two[list(places)])
    assert isinstance(picked['a'], tuple)
    assert picked['a'][1][1] is None
    assert picked['b'] == ()


def test_nothing_is_copied_without_need():
    maps = torch.randn(4, 3)
    assert pick(maps, range(4)) is maps
    assert pick(maps, [1, 2]).data_ptr() == maps[1].data_ptr()


def test_gradients_reach_the_picked_samples_only():
    maps = torch.randn(4, 3, requires_grad=True)
    pick(maps, [0, 1, 3]).sum().backward()
    assert torch.equal(maps.grad[:, 0], torch.tensor([1.0, 1.0, 0.0, 1.0]))
