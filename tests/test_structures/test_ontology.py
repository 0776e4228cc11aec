"""DomainOntology: presets, own maps, lookup tables, refusals."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from mmseg.datasets import CityscapesDataset

from mmseg_xmodal.structures import DomainOntology

NAMES = CityscapesDataset.METAINFO['classes']
COLOURS = CityscapesDataset.METAINFO['palette']


def test_presets_are_cityscapes_without_some():
    whole = DomainOntology.build('cityscapes19')
    assert whole.classes == NAMES
    assert whole.metainfo['palette'] == COLOURS
    assert whole.label_map(NAMES) == {i: i for i in range(19)}
    for count, lost in ((16, {9, 14, 16}), (13, {3, 4, 5, 9, 14, 16})):
        ontology = DomainOntology.build(f'synthia{count}')
        kept = [i for i in range(19) if i not in lost]
        assert ontology.num_classes == len(ontology.classes) == count
        assert ontology.classes == tuple(NAMES[i] for i in kept)
        assert ontology.metainfo['palette'] == [COLOURS[i] for i in kept]
        labels = np.array([[*range(19), 255]], np.uint8)
        expected = [kept.index(i) if i in kept else 255 for i in (*range(19), 255)]
        reduced = ontology.reduce_labels(labels)
        assert reduced.dtype == np.uint8
        assert reduced.tolist() == [expected]


def test_classes_can_be_merged_renamed_and_dropped():
    ontology = DomainOntology(
        ['human', 'ground'],
        map=dict(person='human', rider='human', road='ground', sky=None, boat=None),
    )
    # One map for several lists; a shared name needs no entry.
    assert ontology.label_map(['sky', 'rider', 'person', 'road']) == {
        0: 255,
        1: 0,
        2: 0,
        3: 1,
    }
    assert ontology.label_map(['ground', 'boat']) == {0: 1, 1: 255}
    assert ontology.lookup(['ground', 'boat']).tolist() == [1] + 255 * [255]
    assert len(set(ontology.palette)) == 2


def test_it_is_a_value():
    ontology = DomainOntology.build(dict(classes=['a'], palette=[[1, 2, 3]]))
    assert DomainOntology.build(ontology) is ontology
    for again in (pickle.loads(pickle.dumps(ontology)), copy.deepcopy(ontology)):
        assert again == ontology
        assert hash(again) == hash(ontology)
    assert ontology != DomainOntology(['a'], map=dict(b='a'), palette=[[1, 2, 3]])
    with pytest.raises(dataclasses.FrozenInstanceError):
        ontology.classes = ('b',)
    with pytest.raises(TypeError):
        ontology.map['b'] = 'a'


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"'synthia12', expected one of \['citysc"):
        DomainOntology.build('synthia12')
    for wrong in (dict(), dict(classes=['a'], clases=['b']), ['a']):
        with pytest.raises(ValueError, match='expected a name of'):
            DomainOntology.build(wrong)
    for classes in ([], ['a', 'a']):
        with pytest.raises(ValueError, match='all different'):
            DomainOntology(classes)
    with pytest.raises(ValueError, match=r"maps \{'b': 'c'\}"):
        DomainOntology(['a'], map=dict(b='c'))
    with pytest.raises(ValueError, match='2 colours for 1'):
        DomainOntology(['a'], palette=[[0, 0, 0], [1, 1, 1]])
    with pytest.raises(ValueError, match=r"becomes of \['boat'\].*Add them to `map`"):
        DomainOntology.build('synthia16').label_map(['road', 'boat'])
    for labels in ([-1], [256]):
        with pytest.raises(ValueError, match='expected 0 to 255'):
            DomainOntology.build('synthia16').reduce_labels(np.array(labels))
