"""Every node that we fill resolves ``mmseg_xmodal.X`` from stock mmseg code."""

from __future__ import annotations

import pytest

from tests import python_process

# A node, and a type that it must find from mmseg's registry of the same name.
NODES = {
    'MODELS': 'CMX',
    'DATASETS': 'MultiModalSegDataset',
    'TRANSFORMS': 'LoadModalities',
    'DATA_SAMPLERS': 'SeededInfiniteSampler',
    'HOOKS': 'RandomStateHook',
    'LOOPS': 'ModalitySubsetTestLoop',
    'OPTIM_WRAPPER_CONSTRUCTORS': 'ParamGroupOptimWrapperConstructor',
    'OPTIM_WRAPPERS': 'GradientRuleOptimWrapper',
    'METRICS': 'DepthMapMetric',
    'MODEL_WRAPPERS': 'AdaptationDistributedDataParallel',
    'VISUALIZERS': 'XModalVisualizer',
    'INFERENCERS': 'XModalInferencer',
}


def test_every_node_is_listed_here():
    from mmseg_xmodal import registry

    assert set(registry.__all__) == set(NODES)


@pytest.mark.parametrize('node', NODES)
def test_node_resolves_from_stock_code_without_custom_imports(node: str):
    # A fresh interpreter: nothing of ours has been imported before the look-up.
    code = f"""
import sys
from mmengine.registry import init_default_scope
from mmseg.registry import {node}
assert not any(m.startswith('mmseg_xmodal') for m in sys.modules)
init_default_scope('mmseg')
found = {node}.get('mmseg_xmodal.{NODES[node]}')
assert found is not None and found.__module__.startswith('mmseg_xmodal.'), found
"""
    done = python_process.run('-c', code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize('node', NODES)
def test_names_do_not_collide_with_mmseg(node: str):
    import mmseg.registry

    from mmseg_xmodal import registry

    ours = getattr(registry, node)
    ours.import_from_location()
    theirs = getattr(mmseg.registry, node)
    theirs.import_from_location()
    assert not set(ours.module_dict) & set(theirs.module_dict)
