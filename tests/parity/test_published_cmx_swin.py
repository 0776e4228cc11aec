"""The published form of CMX with Swin streams has the official numbers."""

import pytest
import torch

from tests.reference_forms.cmx_swin import PublishedCMXSwin

from .fixture import all_fixtures


@pytest.mark.parametrize('case', ['a', 'b', 'e'])
def test_published_form_has_the_official_numbers(case: str) -> None:
    fixture = next(f for f in all_fixtures() if f.name == 'cmx_swin_s')
    model = PublishedCMXSwin('swin_s').eval()
    model.load_state_dict(fixture.official_state(case), strict=True)
    inputs = fixture.inputs(case)
    with torch.no_grad():
        logits = model(torch.cat([inputs['rgb'], inputs['x']], 1))
    name = f'{case}_logits'
    spec = fixture.meta['outputs'][name]
    official = torch.from_numpy(fixture.arrays()[name])
    torch.testing.assert_close(logits, official, rtol=spec['rtol'], atol=spec['atol'])
