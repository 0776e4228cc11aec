from .multi_source import MultiSourceSampler
from .rare_class import RareClassIndex, RareClassSampler
from .seeded import (
    SeededDefaultSampler,
    SeededIndex,
    SeededInfiniteSampler,
    derive_seed,
    seeded_rng,
)

__all__ = [
    'MultiSourceSampler',
    'RareClassIndex',
    'RareClassSampler',
    'SeededDefaultSampler',
    'SeededIndex',
    'SeededInfiniteSampler',
    'derive_seed',
    'seeded_rng',
]
