from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import Runner
from torch import nn

from mmseg_xmodal.engine.loops.modality_subset import check_subsets, default_subsets
from mmseg_xmodal.structures import ModalityLayout

from .toy import loader

NAMES = ('rgb', 'depth', 'nir')


class _Preprocessor(BaseDataPreprocessor):
    def __init__(self) -> None:
        super().__init__()
        rgb = dict(rgb=dict(channels=3, order='rgb'))
        self.layout = ModalityLayout(rgb | {n: dict(channels=1) for n in NAMES[1:]})
        self.kept_modalities: set[str] | None = None


class _Model(BaseModel):
    """Predicts which modalities it was given."""

    def forward(self, x: Any, index: Any, mode: str) -> list[dict]:
        return [dict(kept=self.data_preprocessor.kept_modalities) for _ in index]


class _Wrapped(BaseModel):
    """As TTA models are: the segmentor is a submodule, `test_step` goes to it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def test_step(self, data: Any) -> Any:
        return self.module.test_step(data)

    def forward(self) -> None:
        raise NotImplementedError


class _Metric(BaseMetric):
    def __init__(self, output_dir: str | None = None) -> None:
        super().__init__()
        self.output_dir = output_dir

    def process(self, data_batch: Any, data_samples: Any) -> None:
        if self.output_dir is not None:
            (Path(self.output_dir) / 'prediction.txt').write_text('done')
        self.results += [len(sample['kept']) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(kept=sum(results) / len(results), note='text')


class _Spy(Hook):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.subsets: list[tuple[str, ...]] = []
        self.metrics: dict = {}

    def before_test_epoch(self, runner: Any) -> None:
        self.calls.append('before')

    def after_test_iter(self, runner: Any, batch_idx: int, **_: Any) -> None:
        if batch_idx == 0:
            self.subsets.append(runner.test_loop.current_subset)

    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        self.calls.append('after')
        self.metrics = metrics


def _runner(
    tmp_path: Path, model: nn.Module, spy: _Spy, metric: Any = None, **test_cfg: Any
) -> Runner:
    return Runner(
        model=model,
        work_dir=str(tmp_path),
        test_dataloader=loader(0, dict(type='DefaultSampler', shuffle=False)),
        test_evaluator=[metric or _Metric()],
        test_cfg=dict(type='mmseg_xmodal.ModalitySubsetTestLoop', **test_cfg),
        custom_hooks=[spy],
        experiment_name=f'subsets-{tmp_path.name}',
        default_scope='mmengine',
    )


@pytest.mark.parametrize('wrapped', [False, True], ids=['plain', 'wrapped'])
def test_every_subset_is_masked_prefixed_and_logged(tmp_path: Path, wrapped: bool):
    model = _Model(data_preprocessor=_Preprocessor())
    spy = _Spy()
    runner = _runner(tmp_path, _Wrapped(model) if wrapped else model, spy)
    metrics = runner.test()
    assert {k: v for k, v in metrics.items() if k.endswith('/kept')} == {
        'rgb+depth+nir/kept': 3,
        'rgb+depth/kept': 2,
        'rgb+nir/kept': 2,
        'depth+nir/kept': 2,
        'rgb/kept': 1,
        'depth/kept': 1,
        'nir/kept': 1,
    }
    assert spy.calls == ['before', 'after']  # hooks that swap weights need pairs
    assert spy.metrics == metrics
    assert spy.subsets == runner.test_loop.subsets
    assert model.data_preprocessor.kept_modalities is None
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'Modality subset 2/7: rgb + depth (5 batches' in log
    assert '| rgb+depth+nir | 3.00 |' in log


def test_mask_and_folders_are_put_back_after_an_error(tmp_path: Path):
    model = _Model(data_preprocessor=_Preprocessor())
    model.data_preprocessor.kept_modalities = {'nir'}
    metric = _Metric(str(tmp_path / 'out'))
    runner = _runner(tmp_path, model, _Spy(), metric, subsets=[['rgb']])
    runner._test_loop = runner.build_test_loop(runner._test_loop)
    runner.test_loop.run_iter = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        runner.test_loop.run()
    assert model.data_preprocessor.kept_modalities == {'nir'}
    assert metric.output_dir == str(tmp_path / 'out')


def test_written_predictions_go_to_one_folder_per_subset(tmp_path: Path):
    metric = _Metric(str(tmp_path / 'out'))
    model = _Model(data_preprocessor=_Preprocessor())
    subsets = [['depth', 'rgb'], ['nir']]
    _runner(tmp_path, model, _Spy(), metric, subsets=subsets).test()
    written = sorted(p.parent.name for p in (tmp_path / 'out').rglob('*.txt'))
    assert written == ['nir', 'rgb+depth']


class _Writer(_Metric):
    """Its folder is called as that of ``PseudoLabelWriter``."""

    def __init__(self, out_dir: Path) -> None:
        super().__init__()
        self.out_dir = out_dir

    def process(self, data_batch: Any, data_samples: Any) -> None:
        (self.out_dir / 'label.txt').write_text('done')
        super().process(data_batch, data_samples)


def test_written_labels_go_to_one_folder_per_subset(tmp_path: Path):
    metric = _Writer(tmp_path / 'out')
    model = _Model(data_preprocessor=_Preprocessor())
    subsets = [['depth', 'rgb'], ['nir']]
    _runner(tmp_path, model, _Spy(), metric, subsets=subsets).test()
    written = sorted(p.parent.name for p in (tmp_path / 'out').rglob('*.txt'))
    assert written == ['nir', 'rgb+depth']
    assert metric.out_dir == tmp_path / 'out'


def test_model_without_masking_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match='kept_modalities.*ModalityPreprocessor'):
        _runner(tmp_path, _Model(), _Spy()).test()


def test_default_subsets():
    assert default_subsets(('a', 'b')) == [('a', 'b'), ('a',), ('b',)]
    assert len(default_subsets('abcde')) == 31
    six = default_subsets('abcdef')
    assert [len(s) for s in six] == [6] + [5] * 6 + [1] * 6


@pytest.mark.parametrize(
    ('subsets', 'message'),
    [
        ([['rgb', 'sonar']], r"got \['sonar'\] in the subset .*'depth'.*Correct"),
        ([[]], r'got the subset \[\].*non-empty'),
        (['rgb'], "got the subset 'rgb'.*non-empty list"),
        ([['rgb', 'nir'], ['nir', 'rgb']], r"\['rgb', 'nir'\] twice"),
        ([], 'no subset'),
    ],
)
def test_bad_subsets_are_refused(subsets: list, message: str):
    with pytest.raises(ValueError, match=message):
        check_subsets(subsets, NAMES)


def test_subsets_follow_the_order_of_the_modalities():
    assert check_subsets([['nir', 'rgb']], NAMES) == [('rgb', 'nir')]
