from .seeded import (
    SeededDefaultSampler,
    SeededIndex,
    SeededInfiniteSampler,
    seeded_rng,
)

__all__ = [
    'SeededDefaultSampler',
    'SeededIndex',
    'SeededInfiniteSampler',
    'seeded_rng',
]
