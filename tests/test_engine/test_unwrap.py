"""What counts as a wrapper of distributed training."""

from __future__ import annotations

import pytest
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import nn

from mmseg_xmodal.engine.unwrap import unwrapped
from tests.test_models.adaptation_toys import student_cfg


class Holder(BaseModel):
    """A model with a part called ``module``."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(1, 1)

    def forward(self, inputs):
        return self.module(inputs)


@pytest.mark.usefixtures('one_process')
def test_a_wrapper_is_taken_off():
    model = Holder()
    assert unwrapped(MMDistributedDataParallel(model)) is model


def test_what_holds_another_model_stays():
    model = Holder()
    assert unwrapped(model) is model
    tta = MMSEG_MODELS.build(
        dict(type='mmseg_xmodal.XModalTTAModel', module=student_cfg())
    )
    assert unwrapped(tta) is tta
