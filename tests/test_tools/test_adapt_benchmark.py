"""adapt.py: its table on results that are made up, and its costs on small input."""

from __future__ import annotations

import argparse
import json
import re

import pytest
import torch
from mmengine.config import Config

from tests.benchmark_scripts import load_script
from tests.integration.helpers import ROOT

ADAPT = load_script('adapt')
COST, PROCESSES = ADAPT.adapt_cost, ADAPT.adapt_processes
DACS = 'dacs_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py'
DACS_PATH = str(ROOT / 'configs/adaptation' / DACS)


def made_up(scores: dict[str, list[float]], prefix: str = '') -> dict:
    """Results of experiment.py: mIoU by label and seed, and two classes."""
    runs = [
        {
            'label': label,
            'seed': seed,
            'metrics': {
                'aAcc': 90.0,
                f'{prefix}mIoU': value,
                f'{prefix}IoU.sky': value + 10,
                f'{prefix}IoU.pole': None if label == 'oracle' else value - 10,
            },
        }
        for label, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return {'runs': runs, 'settings': {'iters': 4}, 'environment': {}}


SCORES = {'source-only': [30.0, 34.0], 'dacs': [40.0, 38.0], 'oracle': [46.0, 42.0]}


def test_the_gap_closed_lies_between_both_ends():
    result = ADAPT.collect(made_up(SCORES), 'mIoU')
    assert result['header'] == ['config', 'mIoU', 'gap closed', 'sky', 'pole']
    assert result['rows'] == [
        ['source-only', '32.00 ± 2.83', '0%', '42.0', '22.0'],
        # 10 of 16 and 4 of 8 points; 7 of 12 in the mean.
        ['dacs', '39.00 ± 1.41', '58% (50 to 62)', '49.0', '29.0'],
        ['oracle', '44.00 ± 2.83', '100%', '54.0', ''],
    ]
    assert result['gap_closed']['dacs']['seeds'] == [0.625, 0.5]


def test_without_a_gap_there_is_no_share():
    worse = SCORES | {'oracle': [29.0, 33.0]}
    rows = ADAPT.collect(made_up(worse), 'mIoU')['rows']
    assert rows[1][2] == 'no gap'


def test_metrics_of_a_domain_bring_its_classes():
    trained = made_up(SCORES, 'target/')
    result = ADAPT.collect(trained, 'target/mIoU')
    assert result['header'] == ['config', 'target/mIoU', 'gap closed', 'sky', 'pole']
    with pytest.raises(ValueError, match=r"--metric mIoU is not.*'target/mIoU'"):
        ADAPT.collect(trained, 'mIoU')


def test_both_ends_are_found_beside_the_first_config(tmp_path):
    entries = ADAPT.complete([DACS_PATH, f'mine={tmp_path}/a_b.py'])
    assert [e.partition('=')[0] for e in entries] == [
        'source-only',
        'dacs',
        'mine',
        'oracle',
    ]
    assert ADAPT.experiment_name(entries) == f'adapt_{DACS[5:-3]}'
    kept = ADAPT.complete([f'dacs={DACS_PATH}', 'source-only=a.py', 'oracle=b.py'])
    assert kept == [f'dacs={DACS_PATH}', 'source-only=a.py', 'oracle=b.py']
    with pytest.raises(FileNotFoundError, match=r"'source-only', nor .*only_b\.py"):
        ADAPT.complete([f'{tmp_path}/a_b.py'])


def test_it_writes_what_reports_show(tmp_path, monkeypatch, capsys):
    asked = []

    def train(args, name, configs):
        asked.append((name, configs, args.seeds))
        return made_up(SCORES)

    monkeypatch.setattr(ADAPT.variants, 'train', train)
    out = tmp_path / 'benchmarks/adapt.json'
    ADAPT.main([DACS_PATH, '--seeds', '0', '1', '--out', str(out)])
    assert asked[0][0] == f'adapt_{DACS[5:-3]}'
    assert [e.partition('=')[0] for e in asked[0][1]] == list(SCORES)
    assert asked[0][2] == [0, 1]
    written = json.loads(out.read_text())
    assert written['command'].startswith('python tools/benchmark/adapt.py configs/')
    assert '58% (50 to 62)' in capsys.readouterr().out
    from xbench import document

    region = '<!-- report:adapt -->\n<!-- /report -->'
    filled = document.fill(region, out.parent, 'README.md')
    assert re.search(r'\| dacs +\| 39\.00 ± 1\.41 \| 58% \(50 to 62\) \|', filled)


def test_the_shipped_configs_differ_in_what_they_compare_only():
    entries = ADAPT.shipped()
    labels = [ADAPT.label_of(entry) for entry in entries]
    assert labels[0] == 'source-only'
    assert labels[-1] == 'oracle'
    assert ADAPT.label_of(DACS_PATH) in labels
    configs = {
        label: Config.fromfile(path)
        for label, path in zip(labels, entries, strict=True)
    }
    first = configs['source-only']
    for label, cfg in configs.items():
        student = cfg.model.get('student', cfg.model)
        assert student == first.model
        for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'test_dataloader'):
            assert cfg[key] == first[key]
        assert cfg.train_dataloader.batch_size == first.train_dataloader.batch_size
        held_back = 'labels_heldback' in str(cfg.train_dataloader)
        assert held_back == (label == 'oracle')
        if 'student' in cfg.model:
            _, target = cfg.train_dataloader.dataset.datasets
            assert 'seg_map_path' not in target.data_prefix


def _args(**changes):
    given = dict(shape=[64, 96], repeats=1, threads=1, device='cpu', no_memory=True)
    return argparse.Namespace(**(given | changes))


def test_costs_of_a_step_without_its_augmentation(monkeypatch):
    def run_once(steps, repeats, device):
        for step in steps.values():
            step()
        return {'supervised': [10.0], 'summed': [40.0], 'sequential': [45.0]}

    # Real steps, made-up seconds: nothing here depends on the load of the machine.
    monkeypatch.setattr(COST.measure, 'time_alternately', run_once)
    threads = torch.get_num_threads()
    paths = {'dacs': DACS_PATH, 'source-only': DACS_PATH.replace('dacs', 'source-only')}
    found = COST.measure_all(_args(), paths)
    torch.set_num_threads(threads)
    assert list(found) == ['dacs']
    assert found['dacs']['images'] == {'source': 2, 'target': 2, 'size': [64, 96]}
    forms = found['dacs']['forms']
    assert forms['supervised']['augmentation_seconds']['median'] == 0
    assert forms['supervised']['ratio']['median'] == 1
    for form, seconds in (('summed', 40.0), ('sequential', 45.0)):
        augmentation = forms[form]['augmentation_seconds']['median']
        assert augmentation > 0
        assert forms[form]['ratio']['median'] == pytest.approx(
            (seconds - augmentation) / 10
        )
        assert forms[form]['peak_mib'] is None
    header, rows = COST.as_table(found)
    assert [row[:2] for row in rows] == [['dacs', form] for form in COST.FORMS]
    assert all(len(row) == len(header) for row in rows)


def test_costs_need_a_config_that_adapts():
    paths = {'oracle': DACS_PATH.replace('dacs', 'oracle')}
    with pytest.raises(ValueError, match=r"\['oracle'\].*DomainAdaptiveSegmentor"):
        COST.measure_all(_args(), paths)


def test_the_made_up_batch_is_what_the_preprocessor_of_the_student_reads():
    name = DACS_PATH.replace(DACS, 'dacs_cmx-mit-b0_1xb4-1k_vizdoom2vizdoom-120x160.py')
    batch = COST.made_up_batch(Config.fromfile(name), (20, 24), sources=1, targets=2)
    # Three of colour, one of depth, and where depth is valid.
    assert [tuple(x.shape) for x in batch['inputs']] == [(5, 20, 24)] * 3
    assert batch['inputs'][0].dtype == torch.float32
    source, *targets = batch['data_samples']
    assert source.gt_sem_seg.data.shape == (1, 20, 24)
    assert source.domain == 'source'
    assert all('gt_sem_seg' not in t and t.domain == 'target' for t in targets)


def test_the_stopwatch_adds_up_and_draws_as_before():
    from mmseg_xmodal.models.layers.photometric import StrongAugmentation

    watch = COST.Stopwatch(StrongAugmentation(jitter=0.25), 'cpu')
    assert watch.jitter == 0.25
    images = torch.zeros(1, 3, 8, 8)
    assert watch(images, [], watch.draw(1)) is images
    once = watch.seconds
    watch(images, [], watch.draw(1))
    assert watch.seconds > once > 0


def test_peak_memory_is_asked_of_a_fresh_process(monkeypatch):
    def here(module, request, what):
        assert module == 'xbench.adapt_cost'
        return COST._measure_here(request)

    monkeypatch.setattr(COST.memory, 'in_fresh_process', here)
    args = _args(no_memory=False, shape=[128, 160])
    threads = torch.get_num_threads()
    peaks = [COST._peak(args, DACS_PATH, f, args.shape) for f in COST.FORMS]
    torch.set_num_threads(threads)
    supervised, summed, sequential = peaks
    # Two graphs against one; the sequential step keeps one at a time.
    assert 10 < supervised < sequential < 0.8 * summed


@pytest.mark.slow
def test_throughput_of_two_processes(monkeypatch):
    # The form whose wrapper is ours.
    monkeypatch.setattr(PROCESSES, 'FORMS', ('sequential',))
    found = PROCESSES.measure_all(_args(processes=2), {'dacs': DACS_PATH})
    header, (row,) = PROCESSES.as_table(found)
    assert row[:3] == ['dacs', 'sequential', '2']
    assert len(row) == len(header)
    values = found['dacs']['sequential']
    alone, together = (values[key]['median'] for key in ('alone', 'together'))
    assert values['throughput']['median'] == pytest.approx(2 * alone / together)


def test_throughput_needs_processes_that_work(monkeypatch):
    paths = {'dacs': DACS_PATH}
    with pytest.raises(ValueError, match='--processes is 1, expected 2 or more'):
        PROCESSES.measure_all(_args(processes=1), paths)
    monkeypatch.setattr(PROCESSES.sys, 'executable', 'false')
    with pytest.raises(RuntimeError, match=r'Process 0 of 2 \(summed of .*status 1'):
        PROCESSES.measure_all(_args(processes=2), paths)
