"""Scores without labels, and the checkpoint that is best by them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.dataset import sampler
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor

from mmseg_xmodal.engine import LabelFreeSelectionHook
from mmseg_xmodal.engine.hooks import label_free_pass
from mmseg_xmodal.evaluation.label_free import LabelFreeScores
from tests.forked import in_two_processes
from tests.test_models.adaptation_toys import CLASSES, student_cfg, wrapper

from .adaptation_run import MIX, TargetImages, adaptation, images, log_text, resumed

HOOK = dict(type='mmseg_xmodal.LabelFreeSelectionHook')
SCORES = ('entropy', 'infomax', 'agreement')


def score(*maps: Tensor, other: Tensor | None = None) -> dict[str, float]:
    scores = LabelFreeScores()
    for one in maps:
        scores.add(one, other)
    return scores.compute()


def one_hot(label: int, size: tuple[int, int] = (2, 3)) -> Tensor:
    return torch.eye(CLASSES)[label].view(-1, 1, 1).expand(-1, *size)


def near(**expected: float) -> Any:
    return pytest.approx(expected, abs=1e-7)  # logarithms in float32


def test_scores_of_known_predictions() -> None:
    even = torch.full((CLASSES, 2, 3), 1 / CLASSES)
    assert score(even) == near(entropy=1, infomax=0)
    # One class everywhere: sure, and worth nothing.
    assert score(one_hot(1), one_hot(1)) == near(entropy=0, infomax=0)
    # A third of the pixels is of class 2; the rest of class 1.
    p = 2 / 3
    spread = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(CLASSES)
    found = score(one_hot(1, (2, 4)), one_hot(2, (2, 2)))
    assert found == near(entropy=0, infomax=spread)
    half = torch.cat([one_hot(0, (1, 3)), one_hot(3, (1, 3))], dim=1)
    assert score(half, other=one_hot(3))['agreement'] == 0.5


@pytest.mark.parametrize('agreement', [False, True])
def test_a_process_without_images_waits_for_the_others(
    tmp_path: Path, agreement: bool
) -> None:
    """Fewer images than processes; the scores are those of the images, everywhere."""
    other = one_hot(1) if agreement else None
    half = torch.cat([one_hot(0, (1, 3)), one_hot(1, (1, 3))], dim=1)

    def work(rank: int) -> dict[str, float]:
        return score(*[half][rank:], other=other)

    expected = score(half, other=other)
    assert ('agreement' in expected) is agreement
    assert in_two_processes(tmp_path, work) == [near(**expected)] * 2


def test_no_image_in_any_process_is_an_error_in_all(tmp_path: Path) -> None:
    for said in in_two_processes(tmp_path, lambda rank: score()):
        assert said.startswith('ValueError: There are no images to score')


def best_files(work_dir: Path) -> list[str]:
    return sorted(p.name for p in work_dir.glob('best_*'))


def test_it_keeps_the_best_and_changes_no_weight(tmp_path: Path) -> None:
    runner = adaptation(tmp_path / 'a', [HOOK], validate=2)
    runner.train()
    history = json.loads((tmp_path / 'a' / 'label_free_selection.json').read_text())
    assert [r['iter'] for r in history] == [2, 4, 6, 8]
    best = max(history, key=lambda r: r['infomax'])
    assert best_files(tmp_path / 'a') == [f'best_infomax_iter_{best["iter"]}.pth']
    path = str(tmp_path / 'a' / best_files(tmp_path / 'a')[0])
    saved = CheckpointLoader.load_checkpoint(path, 'cpu')
    assert saved['meta']['iter'] == best['iter']
    assert saved['label_free_selection'][-1] == best
    text = log_text(tmp_path / 'a')
    assert f'select/agreement: {history[0]["agreement"]:.4f}' in text

    # The best checkpoint has the weights of that iteration, and those that score so.
    model = wrapper([MIX, dict(type='mmseg_xmodal.MaskedConsistency', block=16)])
    model.load_state_dict(saved['state_dict'])
    by_hand = LabelFreeScores()
    model.eval()
    for i in range(len(TargetImages())):
        item = TargetImages()[i]
        data = dict(
            inputs=[item['inputs']], data_samples=[item['data_samples'].clone()]
        )
        out = model.test_step(data)[0].seg_logits.data.softmax(0)
        by_hand.add(out)
    assert by_hand.compute()['infomax'] == pytest.approx(best['infomax'], abs=1e-6)

    plain = adaptation(tmp_path / 'b', [], validate=2)
    plain.train()
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[key]), key


def test_batches_have_no_truth_and_no_image_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second of two processes: the sampler gives it image 0 to fill up."""
    for module in (label_free_pass, sampler):
        monkeypatch.setattr(module, 'get_rank', lambda: 1, raising=False)
        monkeypatch.setattr(module, 'get_world_size', lambda: 2, raising=False)
        monkeypatch.setattr(module, 'get_dist_info', lambda: (1, 2), raising=False)
    loader = Runner.build_dataloader(images())
    assert len(loader.sampler) == 3
    found = list(label_free_pass.unlabelled_batches(loader))
    samples = [s for batch in found for s in batch['data_samples']]
    assert len(samples) == 2
    assert not any('gt_sem_seg' in s for s in samples)
    assert samples[0].img_path == 'x.png'
    last = TargetImages()[3]['inputs']
    assert torch.equal(found[-1]['inputs'][-1], last)


def test_an_own_loader_and_interval(tmp_path: Path) -> None:
    """No validation in the config; four images in two batches."""
    hook = HOOK | dict(
        dataloader=images(), interval=3, save_best='entropy', max_batches=2
    )
    runner = adaptation(tmp_path, [hook], 7)
    runner.train()
    history = json.loads((tmp_path / 'label_free_selection.json').read_text())
    assert [r['iter'] for r in history] == [3, 6]
    best = min(history, key=lambda r: r['entropy'])
    assert best_files(tmp_path) == [f'best_entropy_iter_{best["iter"]}.pth']
    scalars = [
        json.loads(line)
        for path in tmp_path.rglob('scalars.json')
        for line in path.read_text().splitlines()
    ]
    logged = {s['step']: s for s in scalars if 'select/entropy' in s}
    assert logged[3]['select/entropy'] == history[0]['entropy']
    # No other hook puts the random states back here.
    plain = adaptation(tmp_path / 'plain', [], 7)
    plain.train()
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[key]), key


def test_a_resumed_run_compares_with_what_was_before(tmp_path: Path) -> None:
    """The validation of iteration 4 came after its checkpoint."""
    adaptation(tmp_path / 'whole', [HOOK], validate=2).train()
    work_dir = tmp_path / 'part'
    adaptation(work_dir, [HOOK], 4, validate=2).train()
    part = resumed(work_dir, work_dir / 'iter_4.pth', [HOOK], validate=2)
    part.train()
    name = 'label_free_selection.json'
    whole = json.loads((tmp_path / 'whole' / name).read_text())
    assert json.loads((work_dir / name).read_text()) == whole
    assert best_files(work_dir) == best_files(tmp_path / 'whole')


def test_a_best_file_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    adaptation(tmp_path, [HOOK], 4, validate=2).train()
    for path in tmp_path.glob('best_*'):
        path.unlink()
    resumed(tmp_path, tmp_path / 'iter_4.pth', [HOOK], length=6, validate=2).train()
    assert 'is not there any more' in log_text(tmp_path)
    assert best_files(tmp_path) == ['best_infomax_iter_6.pth']


def test_a_stock_model_has_no_agreement(tmp_path: Path) -> None:
    runner = adaptation(tmp_path, [], model=student_cfg(), validate=4)
    hook = LabelFreeSelectionHook()
    hook.before_train(runner)
    runner.val_loop  # noqa: B018 builds it
    assert set(hook._score(runner)) == {'entropy', 'infomax'}
    hook = LabelFreeSelectionHook(save_best='agreement')
    with pytest.raises(ValueError, match='EncoderDecoder has no teacher'):
        hook.before_train(runner)


def test_refusals() -> None:
    for wrong in (
        dict(save_best='miou'),
        dict(scores=['entropy'], save_best='infomax'),
    ):
        with pytest.raises(ValueError, match='expected some of'):
            LabelFreeSelectionHook(**wrong)
    with pytest.raises(ValueError, match='interval=0'):
        LabelFreeSelectionHook(interval=0)
    runner = SimpleNamespace(model=wrapper([MIX]), val_loop=None, iter=0)
    with pytest.raises(ValueError, match='has no dataloader'):
        LabelFreeSelectionHook(interval=5).before_train(runner)
    with pytest.raises(ValueError, match='scores at each validation'):
        LabelFreeSelectionHook(images()).before_train(runner)
