"""Panels, shares and curves of pseudo-labels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mmseg_xmodal.engine import PseudoLabelHook
from mmseg_xmodal.engine.hooks.pseudo_label_watch import take_census
from mmseg_xmodal.models import ModalityPreprocessor
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule
from mmseg_xmodal.visualization.drift import plot_drift
from mmseg_xmodal.visualization.mix_panels import input_views, mix_panel
from tests.test_models.adaptation_toys import CLASSES, SIZE, batch, wrapper

from .adaptation_run import MIX, adaptation, log_text, resumed

PALETTE = [[200, 0, 0], [0, 160, 0], [0, 0, 200], [200, 200, 0]]
HOOK = dict(
    type='mmseg_xmodal.PseudoLabelHook', interval=4, log_interval=2, measure_interval=1
)


def drift(work_dir: Path) -> dict:
    return json.loads((work_dir / 'pseudo_labels' / 'drift.json').read_text())


def weights(runner: Any) -> dict[str, torch.Tensor]:
    return runner.model.state_dict()


def test_it_writes_what_it_says_and_changes_no_weight(tmp_path: Path) -> None:
    shown = adaptation(tmp_path / 'a', [HOOK], 5)
    shown.train()
    folder = tmp_path / 'a' / 'pseudo_labels'
    written = sorted(p.name for p in folder.iterdir())
    assert written == ['drift.json', 'drift.png', 'iter_4.png']
    numbers = drift(tmp_path / 'a')
    assert numbers['iterations'] == [2, 4]
    assert np.sum(numbers['shares'], axis=1) == pytest.approx([1, 1])
    assert len(numbers['sure']) == 2
    assert all(0 <= s <= 1 for s in numbers['sure'])
    scalars = [
        json.loads(line)
        for path in (tmp_path / 'a').rglob('scalars.json')
        for line in path.read_text().splitlines()
    ]
    logged = [s for s in scalars if 'pseudo_labels/share/b' in s]
    assert [s['step'] for s in logged] == [2, 4]
    assert logged[1]['pseudo_labels/share/b'] == numbers['shares'][1][1]
    assert 'shares of the classes: a: ' in log_text(tmp_path / 'a')
    mixer = shown.model.terms[0]
    assert not mixer.keep_last
    assert mixer.last_mix is None
    assert not mixer._forward_hooks

    plain = adaptation(tmp_path / 'b', [], 5)
    plain.train()
    for key, value in weights(plain).items():
        assert torch.equal(value, weights(shown)[key]), key


def test_a_resumed_run_continues_the_curves(tmp_path: Path) -> None:
    """The checkpoint stands between two log entries."""
    hook = HOOK | dict(log_interval=3, interval=100)
    adaptation(tmp_path / 'whole', [hook]).train()
    part = resumed(tmp_path / 'part', tmp_path / 'whole' / 'iter_4.pth', [hook])
    part.train()
    assert drift(tmp_path / 'part') == drift(tmp_path / 'whole')
    assert drift(tmp_path / 'part')['iterations'] == [3, 6]


def test_a_census_counts_what_may_teach() -> None:
    model = wrapper([MIX])
    data = model.data_preprocessor(batch(), True)
    step = model_step(model, data)
    rule = PseudoLabelRule(threshold=0.3, ignore_top=8, unsure='ignore')
    census = take_census(step, rule)
    p = step.teacher_logits.softmax(1)[:, :, 8:]
    confidence, label = p.max(1)
    expected = [int((label == c).sum()) for c in range(CLASSES)]
    assert census.pseudo.tolist() == expected
    assert census.sure == int((confidence >= 0.3).sum()) > 0
    truth = step.source.labels()
    assert census.source.tolist() == [int((truth == c).sum()) for c in range(CLASSES)]
    assert float(census.shares.sum()) == pytest.approx(1)


def model_step(model: Any, data: dict) -> Any:
    """The step that terms get."""
    found: list[Any] = []
    handle = model.terms[0].register_forward_hook(
        lambda _, args, __: found.append(*args)
    )
    model.loss(**data)
    handle.remove()
    return found[0]


def test_the_last_mix_is_kept_on_request_only() -> None:
    model = wrapper([MIX])
    data = model.data_preprocessor(batch(), True)
    model.loss(**data)
    assert model.terms[0].last_mix is None
    model.terms[0].keep_last = True
    model.next_draws = {'mix.classes': [[0, 1], [2]], 'mix.augment': None}
    model.loss(**data)
    mix = model.terms[0].last_mix
    assert not any(t.requires_grad for t in (mix.source, mix.target, mix.mixed))
    pasted = torch.isin(
        data['data_samples'][0].gt_sem_seg.data[0], torch.tensor([0, 1])
    )
    assert torch.equal(mix.labels.label[0][~pasted], mix.pseudo.label[0][~pasted])
    assert torch.equal(mix.target, data['inputs'][2:])


def test_panel_shows_images_labels_and_weights() -> None:
    model = wrapper([MIX], pseudo_labels=dict(threshold=0.26, ignore_bottom=8))
    raw = batch()
    for s in raw['data_samples']:
        s.set_metainfo(dict(img_path=f'{s.domain}.png'))
    data = model.data_preprocessor(raw, True)
    model.terms[0].keep_last = True
    model.loss(**data)
    mix = model.terms[0].last_mix
    view = input_views(mix.source[0], model.data_preprocessor)['image']
    rgb = raw['inputs'][0].flip(0).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(view.values, rgb, atol=1e-3)
    panel = mix_panel(mix, model.data_preprocessor, 'abcd', PALETTE, count=2)
    single = mix_panel(mix, model.data_preprocessor, 'abcd', PALETTE, count=1)
    width = SIZE[1] * 5  # grown by a whole factor to at least 240
    assert panel.shape[1] == 6 * width + 7 * 8
    assert panel.shape[0] > 1.8 * single.shape[0]
    colours = {tuple(c) for c in panel.reshape(-1, 3)}
    seen = set(mix.labels.label.unique().tolist()) - {255}
    assert {tuple(PALETTE[i]) for i in seen} <= colours


def test_panel_of_several_modalities() -> None:
    modalities = dict(
        rgb=dict(channels=3, order='rgb', mean=[9, 9, 9], std=[2, 2, 2]),
        depth=dict(channels=1, mean=[2.0], std=[4.0], unit='m', invalid=0),
    )
    preprocessor = ModalityPreprocessor(modalities, validity=True)
    image = torch.zeros(6, 4, 8)
    image[3], image[4], image[5, :, 4:] = 0.5, 1, 1
    views = input_views(image, preprocessor)
    assert views['depth'].values[0, 0, 0] == 4
    assert views['depth'].unit == 'm'
    assert views['depth'].valid[0].tolist() == [False] * 4 + [True] * 4
    assert views['rgb'].colour
    assert (views['rgb'].values == 9).all()


def test_curves_of_a_rare_class_and_of_many_classes(tmp_path: Path) -> None:
    shares = np.full((3, 25), 0.04)
    shares[:, 0] = [0.04, 0.001, 0]
    names = [f'name{i}' for i in range(25)]
    palette = [[255, 255, 255]] * 25
    sure = np.array([np.nan, 0.5, 0.9])
    path = tmp_path / 'new' / 'drift.png'
    plot_drift(path, [1, 2, 3], shares, shares[0], sure, names, palette)
    image = cv2.imread(str(path))
    assert image.shape == (660, 1100, 3)


def test_refusals() -> None:
    for wrong in (dict(interval=0), dict(log_interval=50, measure_interval=7)):
        with pytest.raises(ValueError, match='PseudoLabelHook has interval'):
            PseudoLabelHook(**wrong)
    runner = SimpleNamespace(iter=0, model=wrapper([MIX]))
    with pytest.raises(ValueError, match=r"term='other'.*\['mix'\] mix images"):
        PseudoLabelHook(term='other').before_train(runner)
    entropy = dict(type='mmseg_xmodal.EntropyMinimization')
    runner = SimpleNamespace(iter=0, model=wrapper([entropy]))
    with pytest.raises(ValueError, match=r"terms \['entropy'\].*ClassMixSelfTraining"):
        PseudoLabelHook().before_train(runner)
