import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Models are initialised at random: the same numbers in every run."""
    torch.manual_seed(0)
