"""Checkpoint converters: strictness, messages, the command line."""

import argparse
import json
import os
import pickle
import re
import runpy
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from mmengine.runner import load_checkpoint

from mmseg_xmodal.models.converters import (
    OFFICIAL,
    Official,
    convert_mit,
    convert_official,
    load_state,
    recognise,
)
from mmseg_xmodal.models.converters.cmx import CMX
from mmseg_xmodal.models.converters.daformer import daformer_head_config
from mmseg_xmodal.registry import MODELS
from tests import python_process
from tests.parity.fill import fill_state

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / 'tests/parity/fixtures'
SHAPES = json.loads((FIXTURES / 'cmx_mit_b0.json').read_text())['state_dict']


@pytest.fixture(scope='module')
def official() -> dict:
    return fill_state(SHAPES)


def _tool(*args: object) -> CompletedProcess[str]:
    return python_process.run('tools/model_converters/convert.py', *args, cwd=ROOT)


def _mit(official: dict) -> dict:
    """The first stream, as a file of ImageNet weights."""
    return {
        key.removeprefix('backbone.'): value
        for key, value in official.items()
        if key.startswith(('backbone.patch', 'backbone.block', 'backbone.norm'))
    }


def _cmx(variant: str, pretrained: Path) -> torch.nn.Module:
    modalities = dict(rgb=dict(channels=3), x=dict(channels=3))
    cfg = dict(type='mmseg_xmodal.CMX', modalities=modalities, variant=variant)
    return MODELS.build(dict(cfg, pretrained=str(pretrained)))


def test_missing_and_extra_keys_are_listed(official: dict) -> None:
    less = dict(official)
    del less['backbone.FRMs.2.channel_weights.mlp.0.bias']
    with pytest.raises(ValueError, match=r'1 keys are missing.*rectify\.channel_w'):
        convert_official(CMX, less)
    more = official | {'aux_head.conv.weight': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'1 keys are not expected.*aux_head\.conv'):
        convert_official(CMX, more)
    with pytest.raises(ValueError, match=r'no official CMX.*size None.*patch_embed1-4'):
        convert_official(CMX, {'conv1.weight': torch.zeros(1)})


def test_mit_layouts_are_checked() -> None:
    with pytest.raises(ValueError, match='no MiT weights.*conv1'):
        convert_mit({'conv1.weight': torch.zeros(1)})
    state = {'patch_embed1.proj.weight': torch.zeros(1), 'pos': torch.zeros(1)}
    with pytest.raises(ValueError, match="1 keys fit no rule.*segformer.*'pos'"):
        convert_mit(state)


def test_state_dicts_are_unwrapped(tmp_path) -> None:
    state = {'module.a.weight': torch.ones(2)}
    path = tmp_path / 'a.pth'
    for content in (state, dict(model=state, epoch=3), dict(state_dict=state)):
        torch.save(content, path)
        assert list(load_state(path)) == ['a.weight']
    averaged = {'module.a.weight': torch.full((2,), 3.0)}
    torch.save(dict(state_dict=state, state_dict_ema=averaged), path)
    assert torch.equal(load_state(path)['a.weight'], averaged['module.a.weight'])


class Hostile:
    def __reduce__(self):
        return os.system, ('echo ran > ran.txt',)


def test_unusable_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'bad.pth'
    torch.save(dict(model={'a': torch.ones(1)}, extra=Hostile()), path)
    with pytest.raises(ValueError, match=r'bad\.pth.*[Uu]nsupported|GLOBAL.*refused'):
        load_state(path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match='pickled code are refused'):
        load_state(path)
    assert not (tmp_path / 'ran.txt').exists()
    path.write_bytes(b'no checkpoint')
    with pytest.raises(ValueError, match='cannot be read as a checkpoint'):
        load_state(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match='holds a list, expected a dict'):
        load_state(path)
    torch.save(dict(epoch=3), path)
    with pytest.raises(ValueError, match="no tensors: .'epoch'"):
        load_state(path)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        load_state(tmp_path / 'nowhere.pth')


def test_files_that_leave_to_run_does_not_help(tmp_path) -> None:
    """Nobody is advised to give the option that was given."""
    path = tmp_path / 'bad.pth'
    for content in (b'no checkpoint', b'', b'PK\x03\x04 cut off'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'bad\.pth.*Download it anew') as error:
            load_state(path, allow_pickle=True)
        assert '--allow-pickle' not in str(error.value)
        assert 'refused' not in str(error.value)
    done = _tool('unwrap', path, tmp_path / 'out.pth', '--allow-pickle')
    assert done.returncode == 1
    assert 'Download it anew' in done.stderr
    assert '--allow-pickle' not in done.stderr


def test_command_line(official: dict, tmp_path) -> None:
    source, target = tmp_path / 'in.pth', tmp_path / 'out' / 'ours.pth'
    torch.save(dict(model=official, optimizer=None, epoch=3, iteration=7), source)
    done = _tool('cmx', source, target)
    assert done.returncode == 0, done.stderr
    assert "variant='mit_b0'" in done.stdout
    assert 'num_classes=40' in done.stdout
    assert "order='bgr'" in done.stdout
    modalities = dict(rgb=dict(channels=3), x=dict(channels=3))
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(
                type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
            ),
            backbone=dict(
                type='mmseg_xmodal.CMX', modalities=modalities, variant='mit_b0'
            ),
            decode_head=dict(
                type='mmseg_xmodal.CMXHead',
                in_channels=[32, 64, 160, 256],
                num_classes=40,
            ),
        )
    )
    load_checkpoint(model, str(target), strict=True)
    own = model.backbone.streams[1].stages[0].norm.weight
    assert torch.equal(own, official['backbone.extra_norm1.weight'])


def test_command_line_says_what_is_wrong(official: dict, tmp_path) -> None:
    source, target = tmp_path / 'in.pth', tmp_path / 'ours.pth'
    key = 'decode_head.linear_fuse.0.weight'
    torch.save(official | {key: torch.zeros(512, 1024, 1, 1)}, source)
    done = _tool('cmx', source, target)
    assert done.returncode == 1
    assert 'got (512, 1024, 1, 1), expected (512, 2048, 1, 1)' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not target.exists()


def test_config_of_another_variant_is_named(official: dict, tmp_path) -> None:
    source, target = tmp_path / 'in.pth', tmp_path / 'ours.pth'
    torch.save(official, source)
    config = 'configs/cmx/cmx_mit-b2_1xb4-1k_vizdoom-120x160.py'
    done = _tool('cmx', source, target, '--config', config)
    assert done.returncode == 1
    assert f'do not fit the model of {config}' in done.stderr
    assert 'keys that it needs are missing' in done.stderr
    assert "variant='mit_b0'" in done.stderr
    assert not target.exists()


def test_another_method_is_recognised(official: dict) -> None:
    nothing = Official('none', 'official Nothing', _refuse, lambda key, value: None)
    with pytest.raises(ValueError, match=r'no Nothing.*looks like official CMX .*cmx'):
        convert_official(nothing, official)


def _refuse(state):
    raise ValueError('This is no Nothing.')


def test_pickled_code_runs_only_when_asked_for(official: dict, tmp_path) -> None:
    source, target = tmp_path / 'in.pth', tmp_path / 'ours.pth'
    torch.save(dict(model=official, arguments=argparse.Namespace(lr=1)), source)
    done = _tool('cmx', source, target)
    assert done.returncode == 1
    assert 'argparse.Namespace' in done.stderr
    assert '--allow-pickle' in done.stderr
    done = _tool('cmx', source, target, '--allow-pickle')
    assert done.returncode == 0, done.stderr
    assert len(torch.load(target, weights_only=True)['state_dict']) == len(official)


def test_a_refused_backbone_file_loads_as_the_error_advises(
    official: dict, tmp_path, monkeypatch
) -> None:
    mit = _mit(official)
    path, name = tmp_path / 'mit b0.pth.tar', 'OUT.pth'
    torch.save(dict(state_dict=mit, args=argparse.Namespace(lr=1)), path)
    model = _cmx('mit_b0', path)
    with pytest.raises(ValueError, match='Namespace') as error:
        model.init_weights()
    command = re.search(
        r'python (tools\S+) (unwrap .+ --allow-pickle)', str(error.value)
    )
    assert command[1] == 'tools/model_converters/convert.py'
    advised = shlex.split(command[2])
    assert str(path) in advised
    target = tmp_path / name
    done = _tool(*(target if part == name else part for part in advised))
    assert done.returncode == 0, done.stderr
    model.pretrained = str(target)
    model.init_weights()
    own = model.streams[1].stages[0].norm.weight
    assert torch.equal(own, mit['norm1.weight'])


def test_unwrapping_needs_leave_and_no_config(tmp_path, capsys) -> None:
    main = runpy.run_path(str(ROOT / 'tools/model_converters/convert.py'))['main']
    path, target = str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth')
    state = {'module.a.weight': torch.ones(2)}
    torch.save(dict(model=state, args=argparse.Namespace(lr=1)), path)
    assert main(['unwrap', path, target]) == 1
    with pytest.raises(SystemExit):
        main(['unwrap', path, target, '--config', 'a.py', '--allow-pickle'])
    assert 'drop --config' in capsys.readouterr().err
    assert not Path(target).exists()
    assert main(['unwrap', path, target, '--allow-pickle']) == 0
    written = torch.load(target, weights_only=True)
    assert torch.equal(written['state_dict']['a.weight'], torch.ones(2))


@pytest.mark.parametrize(
    ('name', 'fixture'),
    [
        ('cmx', 'cmx_mit_b0'),
        ('cmx-swin', 'cmx_swin_s'),
        ('cmnext', 'cmnext_b2_m1'),
        ('mmsformer', 'mmsformer_b2_m3'),
        ('stitchfusion', 'stitchfusion_b2_m3'),
    ],
)
def test_a_head_without_one_of_its_keys(name: str, fixture: str) -> None:
    shapes = json.loads((FIXTURES / f'{fixture}.json').read_text())['state_dict']
    state = {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}
    head = [key for key in state if key.startswith('decode_head.')]
    assert recognise(state) == [OFFICIAL[name]]
    assert len(head) >= 15
    for key in head:
        less = {k: v for k, v in state.items() if k != key}
        with pytest.raises(ValueError, match=re.escape(key)):
            convert_official(OFFICIAL[name], less)


def test_a_daformer_head_without_its_classifier_or_its_first_level() -> None:
    names = ('conv_seg', 'embed_layers.0.proj', 'fuse_layer.conv')
    state = {f'{name}.weight': torch.empty(2, 2) for name in names}
    for name in names[:2]:
        less = {k: v for k, v in state.items() if not k.startswith(name)}
        with pytest.raises(ValueError, match=rf"lacks \['{re.escape(name)}.weight'\]"):
            daformer_head_config(less, '')


def test_weights_of_another_size_name_it(official: dict, tmp_path) -> None:
    torch.save(_mit(official), tmp_path / 'mit.pth')
    model = _cmx('mit_b1', tmp_path / 'mit.pth')
    with pytest.raises(ValueError, match=r"other shapes.*fits variant='mit_b0'"):
        model.init_weights()
