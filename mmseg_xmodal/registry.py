"""The registry nodes that this package fills.

Every node is a child of the *mmengine root* registry, a sibling of mmseg's. With
``locations`` this makes ``type='mmseg_xmodal.X'`` resolve from any scope: stock tools
need no ``custom_imports``, and ``default_scope`` stays ``'mmseg'``.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import INFERENCERS as MMENGINE_INFERENCERS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry

from mmseg_xmodal import compat

# Naming any of our types imports this module, so checkpoints load from then on.
compat.allow_mmengine_checkpoints()

SCOPE = 'mmseg_xmodal'


def _child(name: str, parent: Registry, location: str) -> Registry:
    return Registry(
        name, parent=parent, scope=SCOPE, locations=[f'mmseg_xmodal.{location}']
    )


# segmentors, backbones, fusion modules, heads, preprocessors
MODELS = _child('model', MMENGINE_MODELS, 'models')
# data sets
DATASETS = _child('dataset', MMENGINE_DATASETS, 'datasets')
# data pipelines
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'datasets.transforms')
# samplers that hand a seed to each sample
DATA_SAMPLERS = _child('data sampler', MMENGINE_DATA_SAMPLERS, 'datasets.samplers')
# hooks: random states, panels
HOOKS = _child('hook', MMENGINE_HOOKS, 'engine')
# test loops over subsets of the modalities
LOOPS = _child('loop', MMENGINE_LOOPS, 'engine')
# which parameters decay, and how fast each learns
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'engine'
)
# optimiser wrappers that weigh the gradients of tasks
OPTIM_WRAPPERS = _child('optimizer wrapper', MMENGINE_OPTIM_WRAPPERS, 'engine')
# training steps of our own in several processes
MODEL_WRAPPERS = _child('model_wrapper', MMENGINE_MODEL_WRAPPERS, 'engine')
# metrics of every task
METRICS = _child('metric', MMENGINE_METRICS, 'evaluation')
# panels with every modality
VISUALIZERS = _child('visualizer', MMENGINE_VISUALIZERS, 'visualization')
# inference from files
INFERENCERS = _child('inferencer', MMENGINE_INFERENCERS, 'apis')

__all__ = [
    'MODELS',
    'DATASETS',
    'TRANSFORMS',
    'DATA_SAMPLERS',
    'HOOKS',
    'LOOPS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'OPTIM_WRAPPERS',
    'MODEL_WRAPPERS',
    'METRICS',
    'VISUALIZERS',
    'INFERENCERS',
]
