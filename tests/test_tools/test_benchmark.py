"""speed.py, loader.py and experiment.py on models of a few channels."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from tests.benchmark_scripts import load_script

from xbench import measure, memory, model, runs, summary  # isort: skip  # path above

TESTS = Path(__file__).resolve().parents[1]
CONFIG = str(TESTS / 'configs' / 'bench_tiny.py')
TINY = ['--shape', '64', '64', '--batch', '2', '--repeats', '2']

FORMS = """
import copy
from torch import nn

class Plain(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, x):
        return {forward}

PUBLISHED = {{'MixVisionTransformer': Plain}}
"""


def write_forms(folder: Path, forward: str = "self.model(x, mode='tensor')") -> str:
    path = folder / 'forms.py'
    path.write_text(FORMS.format(forward=forward))
    return str(path)


# --------------------------------------------------------------------- speed


def test_speed_writes_both_forms_and_their_ratios(tmp_path, capsys):
    out = tmp_path / 'speed.json'
    forms = write_forms(tmp_path)
    load_script('speed').main(
        [CONFIG, *TINY, '--no-memory', '--against', forms, '--out', str(out)]
    )
    result = json.loads(out.read_text())
    assert result['comparison']['passed']
    assert result['settings']['input'] == [2, 4, 64, 64]
    ours, published = result['forms']['ours'], result['forms']['published']
    assert ours['parameters'] == published['parameters'] > 0
    assert ours['flops'] == published['flops'] > 0
    for mode in ('forward', 'train'):
        seconds = ours[mode]['seconds']
        assert 0 < seconds['q1'] <= seconds['median'] <= seconds['q3']
        assert result['ratios'][mode]['time']['median'] > 0
    assert result['environment']['versions']['torch'] == torch.__version__
    assert str(tmp_path) not in out.read_text()
    assert '**published / ours**' in capsys.readouterr().out


@pytest.mark.parametrize(
    'forward',
    [
        "self.model(x, mode='tensor') * (1 + 3e-4)",
        "self.model(x, mode='tensor') + x.mean() * float('nan')",
        # equal in eval mode, where inference folds, different in training
        "self.model(x, mode='tensor') + 1e-2 * self.training",
        # equal outputs, another gradient
        "self.model(x + 0.1 * (x.detach() - x), mode='tensor')",
    ],
    ids=['scaled', 'nan', 'training only', 'gradient only'],
)
def test_speed_refuses_unequal_outputs(tmp_path, capsys, forward):
    out = tmp_path / 'speed.json'
    forms = write_forms(tmp_path, forward)
    arguments = [CONFIG, *TINY, '--no-memory', '--against', forms, '--out', str(out)]
    with pytest.raises(SystemExit) as stopped:
        load_script('speed').main(arguments)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert 'DIFFERENT' in printed.out
    assert 'nothing was timed' in printed.err
    assert not out.exists()


def test_speed_refuses_another_output_size(tmp_path, capsys):
    forms = write_forms(tmp_path, "self.model(x, mode='tensor')[..., 1:]")
    with pytest.raises(SystemExit) as stopped:
        load_script('speed').main([CONFIG, *TINY, '--against', forms])
    assert stopped.value.code == 1
    assert 'ours gives (2, 3, 16, 16)' in capsys.readouterr().err


def test_speed_names_a_missing_published_form(tmp_path, capsys):
    forms = tmp_path / 'forms.py'
    forms.write_text("PUBLISHED = {'other': None}")
    with pytest.raises(SystemExit):
        load_script('speed').main([CONFIG, *TINY, '--against', str(forms)])
    error = capsys.readouterr().err
    assert "no published form for the backbone 'MixVisionTransformer'" in error
    assert "['other']" in error


def test_speed_refuses_cuda_where_there_is_none(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        load_script('speed').main([CONFIG, '--device', 'cuda'])
    assert 'torch sees no CUDA device here' in capsys.readouterr().err


def test_bf16_is_held_to_the_published_error(tmp_path):
    cfg = model.load_config(CONFIG)
    network = model.build_model(cfg, 0, 'cpu')
    kind = 'MixVisionTransformer'
    forms = [
        model.our_form(network),
        model.published_form(network, kind, write_forms(tmp_path), 'cpu'),
    ]
    x, samples = model.make_batch(cfg, 3, (64, 64), 2, 0, 'cpu')
    result = measure.compare(forms, (x, samples), (x, samples), 'bf16', 1e-4)
    check = result['checks']['logits in bf16']
    assert result['passed']
    assert 0 < check['relative'] <= 2 * check['published_relative']


def test_comparison_leaves_weights_statistics_and_rates_alone(tmp_path):
    cfg = model.load_config(CONFIG)
    network = model.build_model(cfg, 0, 'cpu')
    form = model.our_form(network)
    x, samples = model.make_batch(cfg, 3, (64, 64), 2, 0, 'cpu')
    before = {k: v.clone() for k, v in network.state_dict().items()}
    measure.compare([form, form], (x, samples), (x, samples), 'fp32', 1e-4)
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name
    assert network.decode_head.dropout.p == 0.1
    assert all(p.grad is None for p in network.parameters())


def test_dropout_is_off_in_every_kind_of_layer():
    from mmcv.cnn.bricks import DropPath as MMCVDropPath

    from mmseg_xmodal.models.layers.drop_path import DropPath

    layers = nn.ModuleList(
        [
            nn.Dropout(0.5),
            nn.Dropout2d(0.5),
            nn.MultiheadAttention(4, 2, dropout=0.5),
            MMCVDropPath(0.5),
            DropPath(0.5),
        ]
    ).train()
    x = torch.ones(8, 4, 2, 2)
    with measure._without_dropout(layers):
        for i in (0, 1, 3, 4):
            assert torch.equal(layers[i](x), x), layers[i]
        assert layers[2].dropout == 0.0
    assert layers[0].p == layers[2].dropout == layers[3].drop_prob == 0.5
    assert layers[4].rate == 0.5


def test_weights_are_generic_and_seeded():
    cfg = model.load_config(CONFIG)
    first, same, other = (model.build_model(cfg, s, 'cpu') for s in (0, 0, 1))
    for (name, a), (_, b) in zip(
        first.state_dict().items(), same.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
        if a.is_floating_point() and a.numel() > 1:
            assert a.unique().numel() > 1, f'{name} is constant'
    name, weight = next(iter(other.named_parameters()))
    assert not torch.equal(weight, first.get_parameter(name))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in first.modules())


def test_flops_of_a_parameter_that_is_an_argument():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Parameter(torch.ones(2, 3))
            self.inner = nn.Linear(3, 5)

        def forward(self, x):
            return self.inner(self.query)

    module = Asking()
    form = model.Form('ours', module, module, module)
    assert measure.flops(form, torch.ones(1)) == 2 * 2 * 3 * 5
    assert all(p.requires_grad for p in module.parameters())


def test_flops_see_fused_attention():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    module = Attention()
    form = model.Form('ours', module, module.forward, lambda x, s: x.sum())
    # two products of (8, 4) with (4, 8) and of (8, 8) with (8, 4), 2 per multiply-add
    assert measure.flops(form, torch.ones(1, 1, 8, 4)) == 2 * (2 * 8 * 8 * 4)


def test_rounds_alternate():
    calls: list[str] = []
    steps = {name: lambda n=name: calls.append(n) for name in 'ab'}
    seconds = measure.time_alternately(steps, repeats=2, device='cpu', warmup=1)
    assert ''.join(calls) == 'baabba'
    assert {name: len(values) for name, values in seconds.items()} == {'a': 2, 'b': 2}


def test_ratio_is_per_round():
    assert measure.ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0])['median'] == 2.0
    assert measure.spread([4.0]) == {'median': 4.0, 'q1': 4.0, 'q3': 4.0}


def test_validity_channels_are_counted():
    cfg = Config.fromfile(CONFIG)
    assert model.input_channels(cfg) == (4, 0)
    cfg.model.data_preprocessor.validity = True
    assert model.input_channels(cfg) == (4, 2)
    x, _ = model.make_batch(cfg, 3, (8, 8), 1, 0, 'cpu')
    assert x.shape == (1, 6, 8, 8)
    assert x[:, 4:].min() == 1


def request(**changes) -> dict:
    return {
        **dict(config=CONFIG, options={}, shape=[512, 512], batch=1, seed=0),
        **dict(threads=1, against=None, form='ours', mode='forward', precision='fp32'),
        **changes,
    }


@pytest.mark.slow
def test_cpu_memory_grows_with_the_input():
    # The stem alone gives 4 x 128 x 128 floats; the input exists before the step.
    peak = memory.cpu_peak(request())
    assert 0.25 < peak < 256
    assert memory.cpu_peak(request(shape=[1024, 1024])) > 2 * peak


@pytest.mark.slow
def test_cpu_memory_reports_a_failure():
    with pytest.raises(RuntimeError, match=r'(?s)absent\.py.*--no-memory'):
        memory.cpu_peak(request(config='absent.py'))


# -------------------------------------------------------------------- loader

LOADER = """
_base_ = ['{tiny}']
train_dataloader = dict(dataset=dict(data_root='{root}'))
"""


def test_loader_counts_samples(tmp_path, rgbd_root, capsys):
    config = tmp_path / 'config.py'
    tiny = TESTS / 'configs' / 'cmx_tiny.py'
    config.write_text(LOADER.format(tiny=tiny, root=rgbd_root))
    out = tmp_path / 'loader.json'
    arguments = ['--workers', '0', '--samples', '6', '--repeats', '2']
    load_script('loader').main([str(config), *arguments, '--out', str(out)])
    (entry,) = json.loads(out.read_text())['results']
    assert entry['workers'] == 0
    assert entry['samples_per_second']['median'] > 0
    assert entry['first_batch_seconds']['median'] > 0
    assert 'samples/s' in capsys.readouterr().out


def test_loader_needs_a_loader(capsys):
    with pytest.raises(SystemExit):
        load_script('loader').main([CONFIG])
    assert 'has no `train_dataloader`' in capsys.readouterr().err


# ---------------------------------------------------------------- experiment

STUB = """
import json, os, sys
from pathlib import Path
tool = Path(__file__).stem
config = Path(sys.argv[1])
work = Path(sys.argv[sys.argv.index('--work-dir') + 1])
with open(config.parent / 'calls', 'a') as calls:
    calls.write(f'{tool} {os.environ["OMP_NUM_THREADS"]}\\n')
if (config.parent / 'fail').exists():
    sys.exit('planned failure')
work.mkdir(parents=True, exist_ok=True)
if tool == 'train':
    (work / 'iter_30.pth').write_text('')
else:
    (work / 'stamp').mkdir()
    result = {'mIoU': 40.0 + len(config.parent.parent.name), 'IoU.far': None, 'time': 1}
    (work / 'stamp' / 'stamp.json').write_text(json.dumps(result))
"""


@pytest.fixture
def stub_tools(tmp_path, monkeypatch):
    for tool in ('train', 'test'):
        (tmp_path / f'{tool}.py').write_text(textwrap.dedent(STUB))
    monkeypatch.setattr(runs, 'stock_tool', lambda name: tmp_path / name)


def run_experiment(folder: Path, *arguments: str) -> dict:
    tiny = TESTS / 'configs' / 'cmx_tiny.py'
    out = folder / 'out.json'
    load_script('experiment').main(
        [
            *['--name', 'x', '--configs', f'a={tiny}', f'bb={tiny}', '--seeds', '0'],
            *['1', '--iters', '30', '--work-dir', str(folder / 'work')],
            *['--out', str(out), *arguments],
        ]
    )
    return json.loads(out.read_text())


def test_a_run_names_every_device_it_was_trained_on(tmp_path):
    run = runs.Run('a', Config(), 0, 4, tmp_path)
    assert run.device() == 'CPU'
    (tmp_path / 'train.log').write_text('    CUDA: True\n    GPU 0,1: A card\n')
    assert run.device() == 'A card'
    # Interrupted, and resumed elsewhere: the log of the tool begins anew.
    (tmp_path / 'train' / 'stamp').mkdir(parents=True)
    (tmp_path / 'train' / 'stamp' / 'stamp.log').write_text('    GPU 0: Another\n')
    assert run.device() == 'A card, Another'


def test_experiment_collects_and_resumes(tmp_path, stub_tools, capsys):
    result = run_experiment(tmp_path, '--threads', '1')
    got = [(r['label'], r['seed'], r['metrics']) for r in result['runs']]
    assert got == [
        (label, seed, {'mIoU': 40.0 + len(label), 'IoU.far': None})
        for seed in (0, 1)
        for label in ('a', 'bb')
    ]
    assert '| bb' in capsys.readouterr().out
    folder = tmp_path / 'work' / 'x' / 'a' / 'seed_1'
    assert (folder / 'calls').read_text() == 'train 1\ntest 1\n'
    # a run whose test was interrupted is tested again, not trained again
    (folder / 'test' / 'stamp' / 'stamp.json').unlink()
    (folder / 'test' / 'stamp').rmdir()
    assert run_experiment(tmp_path, '--threads', '1') == result
    assert (folder / 'calls').read_text() == 'train 1\ntest 1\ntest 1\n'
    other = tmp_path / 'work' / 'x' / 'bb' / 'seed_0' / 'calls'
    assert other.read_text() == 'train 1\ntest 1\n'


def test_experiment_refuses_the_folder_of_another_budget(tmp_path, stub_tools, capsys):
    run_experiment(tmp_path)
    with pytest.raises(SystemExit):
        run_experiment(tmp_path, '--iters', '31')
    assert 'holds a run of another config or budget' in capsys.readouterr().err


def test_experiment_shows_why_a_run_failed(tmp_path, stub_tools, capsys):
    folder = tmp_path / 'work' / 'x' / 'bb' / 'seed_0'
    folder.mkdir(parents=True)
    (folder / 'fail').touch()
    with pytest.raises(SystemExit) as stopped:
        run_experiment(tmp_path)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert 'train.py ended with status 1' in error
    assert 'planned failure' in error
    assert not (tmp_path / 'out.json').exists()


def test_experiment_refuses_unequal_budgets(tmp_path, capsys):
    tiny = TESTS / 'configs' / 'cmx_tiny.py'
    other = tmp_path / 'other.py'
    other.write_text(f"_base_ = ['{tiny}']\ntrain_dataloader = dict(batch_size=4)\n")
    with pytest.raises(SystemExit):
        load_script('experiment').main(
            ['--name', 'x', '--configs', str(tiny), str(other)]
        )
    assert 'cmx_tiny: 20 x 2, other: 20 x 4' in capsys.readouterr().err


def test_experiment_refuses_one_label_for_two_configs(capsys):
    tiny = str(TESTS / 'configs' / 'cmx_tiny.py')
    with pytest.raises(SystemExit):
        load_script('experiment').main(['--name', 'x', '--configs', tiny, tiny])
    assert "labels ['cmx_tiny']" in capsys.readouterr().err


def test_budget_seed_and_data_reach_the_config():
    tiny = str(TESTS / 'configs' / 'cmx_tiny.py')
    schedule = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
        dict(type='PolyLR', by_epoch=False, begin=4, end=20),
    ]
    options = dict(param_scheduler=schedule)
    cfg = runs.resolve(tiny, 7, 100, 'elsewhere', 2, options)
    assert cfg.train_cfg.max_iters == 100
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 20), (20, 100)]
    assert cfg.randomness.seed == 7
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == 'elsewhere'
        assert loader.num_workers == 2
    assert cfg.test_evaluator.type == 'mmseg.ClassIoUMetric'
    assert cfg.custom_imports.imports == ['xbench.class_iou']
    assert cfg.default_hooks.checkpoint.interval == 10
    assert cfg.default_hooks.logger.interval == 5
    short = runs.resolve(tiny, 7, 2, None, None, options)
    assert [(s.type, s.begin, s.end) for s in short.param_scheduler] == [
        ('PolyLR', 0, 2)
    ]


def test_summary_leaves_null_out():
    results = [
        {'label': 'a', 'metrics': {'mIoU': value, 'IoU.x': per_class}}
        for value, per_class in ((40.0, None), (42.0, 8.0))
    ]
    got = summary.over_seeds(results)['a']
    assert got['mIoU'] == dict(mean=41.0, min=40.0, max=42.0, n=2, std=2**0.5)
    assert got['IoU.x'] == dict(mean=8.0, min=8.0, max=8.0, n=1)


def test_class_iou_agrees_with_the_stock_mean():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    from xbench.class_iou import ClassIoUMetric

    metric = ClassIoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    truth = torch.tensor([[[0, 0, 1, 255]]])
    predicted = torch.tensor([[[0, 1, 1, 1]]])
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=predicted)
    )
    metric.process({}, [sample.to_dict()])
    got = metric.compute_metrics(metric.results)
    assert got['IoU.a'] == got['IoU.b'] == got['mIoU'] == 50.0
    assert got['IoU.c'] != got['IoU.c'], 'absent from truth and prediction: nan'


@pytest.mark.slow
def test_experiment_through_the_stock_tools(tmp_path, rgbd_root):
    tiny = str(TESTS / 'configs' / 'cmx_tiny.py')
    out = tmp_path / 'out.json'
    load_script('experiment').main(
        [
            *['--name', 'x', '--configs', f'tiny={tiny}', '--iters', '4'],
            *['--data-root', str(rgbd_root), '--work-dir', str(tmp_path / 'work')],
            *['--out', str(out)],
        ]
    )
    (run,) = json.loads(out.read_text())['runs']
    per_class = [v for k, v in run['metrics'].items() if k.startswith('IoU.')]
    assert len(per_class) == 4
    assert run['metrics']['mIoU'] == pytest.approx(sum(per_class) / 4, abs=0.02)


def test_operations_do_not_depend_on_slices(monkeypatch):
    from mmseg_xmodal.models.layers import slices
    from mmseg_xmodal.models.layers.mit import MixFFN

    ffn = MixFFN(16, 160)
    form = model.Form('ours', ffn, lambda x: ffn(x, (12, 10)), None)
    x = torch.randn(1, 120, 16)
    whole = measure.flops(form, x)
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    assert measure.flops(form, x) == whole == 2 * 120 * 160 * (16 + 9 + 16)
