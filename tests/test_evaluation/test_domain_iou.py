"""IoU by domain: the stock numbers of each domain's samples alone."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmseg_xmodal.evaluation import DomainIoUMetric

from .samples import evaluate, sample

CLASSES = ('road', 'sky', 'car', 'train')


def samples(count: int, seed: int, **meta: str) -> list:
    """Random maps of the first three classes; the predictions are right by half."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        truth = rng.integers(0, 3, (1, 6, 7))
        guess = rng.integers(0, 3, truth.shape)
        pred = np.where(rng.random(truth.shape) < 0.5, guess, truth)
        truth[:, 0] = 255
        made.append(sample(gt_sem_seg=truth, pred_sem_seg=pred))
        made[-1].set_metainfo(meta)
    return made


DAY, DUSK = samples(3, 0, source='day'), samples(2, 1, source='dusk')


def test_each_domain_has_the_stock_results_of_its_own_samples():
    options = dict(iou_metrics=['mIoU', 'mFscore'])
    # In turn: a batch holds both.
    mixed = [DAY[0], DUSK[0], DAY[1], DUSK[1], DAY[2]]
    found = evaluate(DomainIoUMetric(**options), mixed, classes=CLASSES)
    wanted = {}
    for name, own in (('day', DAY), ('dusk', DUSK)):
        stock = evaluate(IoUMetric(**options), own, classes=CLASSES)
        wanted |= {f'{name}/{key}': value for key, value in stock.items()}
    assert found == pytest.approx(wanted)
    assert found['day/mIoU'] != found['dusk/mIoU']


def test_means_over_some_classes_and_over_domains():
    metric = DomainIoUMetric(
        classes_for={'mIoU2': ['sky', 'car'], 'mIoU1': ['train']},
        across='harmonic',
        per_class=True,
        prefix='test',
    )
    found = evaluate(metric, DAY + DUSK, classes=CLASSES)
    day = {c: found[f'test/day/IoU.{c}'] for c in CLASSES}
    # Rounded to hundredths on both sides.
    assert found['test/day/mIoU2'] == pytest.approx(
        (day['sky'] + day['car']) / 2, abs=0.011
    )
    assert math.isnan(day['train'])
    assert math.isnan(found['test/harmonic/mIoU1'])
    both = [found['test/day/mIoU'], found['test/dusk/mIoU']]
    harmonic = statistics.harmonic_mean(both)
    assert found['test/harmonic/mIoU'] == round(harmonic, 2) < statistics.fmean(both)


def test_a_name_of_an_ontology_stands_for_its_classes():
    metric = DomainIoUMetric(classes_for={'mIoU13': 'synthia13'})
    assert len(metric.classes_for['mIoU13']) == 13
    assert 'train' not in metric.classes_for['mIoU13']


def test_the_domain_is_what_the_key_says():
    one = samples(1, 2, domain='target', source='a', condition='fog')
    assert 'target/mIoU' in evaluate(DomainIoUMetric(), one, classes=CLASSES)
    fog = evaluate(DomainIoUMetric(key='condition'), one, classes=CLASSES)
    assert 'fog/mIoU' in fog
    with pytest.raises(ValueError, match=r"none of \('weather',\).*extra_meta_keys"):
        evaluate(DomainIoUMetric(key='weather'), one, classes=CLASSES)


def test_what_cannot_be_used_is_named():
    with pytest.raises(ValueError, match="across='median'.*'harmonic'"):
        DomainIoUMetric(across='median')
    with pytest.raises(ValueError, match='names other than.*mIoU'):
        DomainIoUMetric(classes_for={'mIoU': ['sky']})
    metric = DomainIoUMetric(classes_for={'few': ['sky', 'boat']})
    with pytest.raises(ValueError, match=r"'few'.*\['boat'\].*road"):
        evaluate(metric, DAY, classes=CLASSES)
    named = samples(1, 0, source='mean')
    with pytest.raises(ValueError, match='another name'):
        evaluate(DomainIoUMetric(across='mean'), named, classes=CLASSES)


def test_predictions_can_be_written_without_truth(tmp_path):
    bare = sample(pred_sem_seg=torch.ones(1, 4, 4).long())
    metric = DomainIoUMetric(format_only=True, output_dir=str(tmp_path))
    assert evaluate(metric, [bare], classes=CLASSES) == {}
    assert (tmp_path / 'a.png').is_file()
