"""Inference on files and arrays: our functions, and what the stock ones say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadAnnotations
from mmengine import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import INFERENCERS as ROOT_INFERENCERS
from mmengine.runner import Runner, save_checkpoint
from mmseg.apis import MMSegInferencer, inference_model

from mmseg_xmodal.apis import XModalInferencer, inference_xmodal, init_model
from mmseg_xmodal.apis.inference import build_pipeline, sample_info
from mmseg_xmodal.datasets.transforms import LoadLabels
from mmseg_xmodal.structures import DomainOntology, ModalityLayout

CONFIG = Path(__file__).parents[1] / 'configs' / 'cmx_tiny.py'
SHIPPED = Path(__file__).parents[2] / 'configs'
LEAVES = sorted(
    path.relative_to(SHIPPED).as_posix()
    for path in SHIPPED.rglob('*.py')
    if '_base_' not in path.parts
)
CLASSES = ('far', 'near', 'red', 'hole')
PALETTE = [[60, 60, 60], [0, 160, 0], [220, 40, 40], [40, 40, 220]]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Random but fixed weights, with what else a runner saves."""
    torch.manual_seed(0)
    model = init_model(CONFIG, device='cpu')
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE))
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    logged = dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])})
    saved = dict(state_dict=model.state_dict(), meta=meta, message_hub=logged)
    save_checkpoint(saved, str(path))
    return str(path)


@pytest.fixture(scope='module')
def model(checkpoint):
    return init_model(CONFIG, checkpoint, device='cpu')


@pytest.fixture
def inferencer(checkpoint):
    return XModalInferencer(str(CONFIG), checkpoint, device='cpu', show_progress=False)


def files(root, index):
    return dict(
        rgb=f'{root}/rgb/val/{index:03d}.png', depth=f'{root}/depth/val/{index:03d}.png'
    )


def arrays(root, index):
    paths = files(root, index)
    return dict(
        rgb=cv2.imread(paths['rgb']),
        depth=cv2.imread(paths['depth'], cv2.IMREAD_UNCHANGED),
    )


def label(sample):
    return sample.pred_sem_seg.data[0].numpy()


@pytest.fixture(scope='module')
def runner_predictions(checkpoint, rgbd_root, tmp_path_factory):
    """What the runner's test loop predicts for the same files."""
    cfg = Config.fromfile(CONFIG)
    cfg.test_dataloader.dataset.data_root = str(rgbd_root)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = None
    cfg.param_scheduler = None
    cfg.custom_hooks = []
    cfg.load_from = checkpoint
    cfg.work_dir = str(tmp_path_factory.mktemp('runner'))
    cfg.visualizer.name = cfg.experiment_name = 'apis'
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    runner.model.eval()
    loader = Runner.build_dataloader(cfg.test_dataloader)
    with torch.no_grad():
        return [label(runner.model.test_step(batch)[0]) for batch in loader]


def test_files_give_what_the_test_loop_gives(model, rgbd_root, runner_predictions):
    results = inference_xmodal(model, [files(rgbd_root, i) for i in range(8)])
    assert len(results) == 8
    for result, expected in zip(results, runner_predictions, strict=True):
        np.testing.assert_array_equal(label(result), expected)
    assert len({len(np.unique(label(r))) for r in results} | {1}) > 1, 'one class only'


def test_arrays_and_path_objects_equal_files(model, rgbd_root):
    expected = inference_xmodal(model, files(rgbd_root, 2))
    paths = {name: Path(path) for name, path in files(rgbd_root, 2).items()}
    mixed = dict(files(rgbd_root, 2), depth=arrays(rgbd_root, 2)['depth'])
    for sample in (arrays(rgbd_root, 2), paths, mixed):
        result = inference_xmodal(model, sample)
        assert torch.equal(result.seg_logits.data, expected.seg_logits.data)


def test_samples_of_different_sizes_keep_their_sizes(model, rgbd_root):
    large = {n: cv2.resize(a, (150, 100)) for n, a in arrays(rgbd_root, 0).items()}
    first, second = inference_xmodal(model, [large, files(rgbd_root, 0)])
    assert label(first).shape == (100, 150)
    assert label(second).shape == (64, 96)


def test_config_of_the_model_stays_as_it_is(model, rgbd_root):
    before = model.cfg.pretty_text
    inference_xmodal(model, arrays(rgbd_root, 0))
    assert model.cfg.pretty_text == before


def test_missing_modality_is_taken_where_the_config_allows_it(checkpoint, rgbd_root):
    cfg = Config.fromfile(CONFIG)
    for part in (cfg.test_pipeline[0], cfg.model.data_preprocessor, cfg.model.backbone):
        part.modalities.depth.may_be_missing = True
    lenient = init_model(cfg, checkpoint, device='cpu')
    full = inference_xmodal(lenient, files(rgbd_root, 1))
    rgb_only = inference_xmodal(lenient, dict(rgb=files(rgbd_root, 1)['rgb']))
    explicit = inference_xmodal(lenient, dict(files(rgbd_root, 1), depth=None))
    assert torch.equal(rgb_only.seg_logits.data, explicit.seg_logits.data)
    assert not torch.equal(rgb_only.seg_logits.data, full.seg_logits.data)


@pytest.mark.parametrize(
    ('sample', 'error', 'message'),
    [
        ('a.png', TypeError, r"str, expected a dict.*dict\(rgb='path/of/rgb', depth="),
        (dict(rgb='a.png'), ValueError, r"\['rgb'\].*missing: \['depth'\]"),
        (dict(rgb='a', depth='b', nir='c'), ValueError, r"Unknown: \['nir'\]"),
        (dict(rgb='a', depth=3), TypeError, r"'depth' is a int, expected a path or"),
        (dict(rgb='no/a.png', depth='b.png'), FileNotFoundError, r'no/a\.png'),
        (
            dict(rgb=np.zeros((4, 4, 3), np.uint8), depth=np.zeros((5, 4), np.uint8)),
            ValueError,
            r'rgb is 4 x 4.*depth is 5 x 4.*resize_to',
        ),
    ],
)
def test_wrong_samples_are_refused_with_the_remedy(model, sample, error, message):
    with pytest.raises(error, match=message):
        inference_xmodal(model, sample)


def test_models_without_modalities_are_pointed_to_mmseg(model, rgbd_root):
    plain = torch.nn.Module()
    plain.data_preprocessor = torch.nn.Identity()
    with pytest.raises(TypeError, match=r'mmseg\.apis\.inference_model'):
        inference_xmodal(plain, files(rgbd_root, 0))


def test_config_without_test_pipeline_is_refused(model, rgbd_root, monkeypatch):
    cfg = Config.fromfile(CONFIG)
    cfg.pop('test_pipeline')
    monkeypatch.setattr(model, 'cfg', cfg)
    with pytest.raises(ValueError, match="no 'test_pipeline'.*top level"):
        inference_xmodal(model, files(rgbd_root, 0))


def stored_array(modality) -> np.ndarray:
    """What a file of a modality may hold."""
    channels = 1 + max(modality.bands or (modality.channels - 1,))
    return np.full((48, 256, channels), 7, modality.dtype)


@pytest.mark.parametrize('name', LEAVES)
def test_the_pipeline_of_every_config_takes_samples_without_labels(name):
    cfg = Config.fromfile(SHIPPED / name)
    model = cfg.model
    while 'data_preprocessor' not in model:
        model = model.members[0] if 'members' in model else model.student
    layout = ModalityLayout.build(model.data_preprocessor.modalities)
    sample = {modality.name: stored_array(modality) for modality in layout}
    packed = build_pipeline(cfg)(sample_info(sample, layout))
    assert packed['inputs'].shape[0] == layout.stack_channels
    assert 'gt_sem_seg' not in packed['data_samples']


@pytest.mark.parametrize('load', [LoadAnnotations, LoadLabels, LoadLabels()])
def test_label_loading_is_left_out_also_as_a_class_or_an_object(load):
    cfg = Config.fromfile(CONFIG)
    steps = list(cfg.test_pipeline)
    assert steps[-2].type == 'LoadAnnotations'
    steps[-2] = dict(type=load) if isinstance(load, type) else load
    built = build_pipeline(dict(test_pipeline=steps))
    assert len(built.transforms) == len(steps) - 1


def test_stock_inference_model_says_what_to_use(checkpoint, rgbd_root):
    stock = init_model(CONFIG, checkpoint, device='cpu')
    with pytest.raises(ValueError, match=r'XModalInferencer or inference_xmodal'):
        inference_model(stock, files(rgbd_root, 0)['rgb'])
    # For arrays mmseg puts its own loader into our transform's place.
    with pytest.raises(TypeError, match=r"LoadImageFromFile.*'modalities'"):
        inference_model(stock, arrays(rgbd_root, 0)['rgb'])


def test_stock_inferencer_refuses_our_pipeline(checkpoint):
    # The message is mmseg's own: it looks for one literal transform name and gives a
    # plug-in no place to speak. This test tells when that changes.
    with pytest.raises(ValueError, match='LoadImageFromFile is not found'):
        MMSegInferencer(str(CONFIG), checkpoint, device='cpu')


def test_inferencer_is_a_stock_inferencer_and_registered():
    assert issubclass(XModalInferencer, MMSegInferencer)
    found = ROOT_INFERENCERS.get('mmseg_xmodal.XModalInferencer')
    assert found is XModalInferencer


def test_inferencer_on_one_sample(inferencer, rgbd_root, runner_predictions):
    out = inferencer(files(rgbd_root, 3))
    np.testing.assert_array_equal(out['predictions'], runner_predictions[3])
    assert out['visualization'] == []


@pytest.mark.parametrize('batch_size', [1, 3])
def test_inferencer_on_a_list_writes_panels_and_labels(
    inferencer, rgbd_root, runner_predictions, tmp_path, batch_size
):
    samples = [files(rgbd_root, i) for i in range(3)] + [arrays(rgbd_root, 3)]
    out = inferencer(
        samples, out_dir=str(tmp_path), batch_size=batch_size, return_vis=True
    )
    stems = ['000000_000', '000001_001', '000002_002', '000003']
    for folder in ('vis', 'pred'):
        written = sorted(path.stem for path in (tmp_path / folder).iterdir())
        assert written == stems
    for i, (stem, prediction) in enumerate(zip(stems, out['predictions'], strict=True)):
        np.testing.assert_array_equal(prediction, runner_predictions[i])
        png = cv2.imread(str(tmp_path / 'pred' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(png, prediction)
        panel = cv2.imread(str(tmp_path / 'vis' / f'{stem}.png'))[..., ::-1]
        np.testing.assert_array_equal(panel, out['visualization'][i])
        # rgb, depth and prediction, 96 pixels wide and enlarged threefold; no truth.
        assert panel.shape[1] == 3 * 288 + 4 * 8
        for class_id in np.unique(prediction):
            assert (panel == PALETTE[class_id]).all(axis=2).any()


def test_inferencer_returns_data_samples_and_lists_for_lists(inferencer, rgbd_root):
    out = inferencer([files(rgbd_root, 0)], return_datasamples=True)
    (sample,) = out['predictions']
    assert sample.pred_sem_seg.shape == (64, 96)


def test_inferencer_refuses_a_wrong_sample_before_it_starts(
    inferencer, rgbd_root, tmp_path
):
    samples = [files(rgbd_root, 0), dict(rgb='a.png')]
    with pytest.raises(ValueError, match=r"missing: \['depth'\]"):
        inferencer(samples, out_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_classes_come_from_checkpoint_then_config_then_caller(checkpoint, tmp_path):
    state = XModalInferencer(str(CONFIG), checkpoint, device='cpu').model.state_dict()
    bare = tmp_path / 'bare.pth'
    torch.save(dict(state_dict=state), bare)
    cfg = Config.fromfile(CONFIG)
    from_config = XModalInferencer(cfg, str(bare), device='cpu')
    assert from_config.model.dataset_meta['classes'] == CLASSES
    assert from_config.model.dataset_meta['palette'] == PALETTE
    given = XModalInferencer(cfg, checkpoint, classes=list('abcd'), device='cpu')
    assert given.visualizer.dataset_meta['classes'] == list('abcd')
    cfg.pop('test_dataloader')
    with pytest.warns(UserWarning, match='random weights'):
        unknown = XModalInferencer(cfg, device='cpu')
    assert unknown.model.dataset_meta['classes'][3] == 'class 3'


@pytest.mark.parametrize('wrapped', [False, True])
def test_classes_of_the_config_are_those_of_its_ontology(tmp_path, wrapped):
    cfg = Config.fromfile(CONFIG)
    cfg.model.decode_head.num_classes = 16
    with pytest.warns(UserWarning, match='random weights'):
        state = XModalInferencer(cfg, device='cpu').model.state_dict()
    bare = tmp_path / 'bare.pth'
    torch.save(dict(state_dict=state), bare)
    shared = DomainOntology.build('synthia16')
    for ontology in ('synthia16', dict(classes=shared.classes, map=dict(shared.map))):
        dataset = dict(type='mmseg_xmodal.SYNTHIADataset', ontology=ontology)
        if wrapped:
            dataset = dict(type='RepeatDataset', dataset=dataset, times=2)
        cfg.test_dataloader.dataset = dataset
        meta = XModalInferencer(cfg, str(bare), device='cpu').model.dataset_meta
        assert meta['classes'] == shared.classes
        assert meta['palette'] == shared.metainfo['palette']
        assert len(meta['classes']) == 16


def test_progress_is_shown_on_demand(checkpoint, rgbd_root, capsys):
    inferencer = XModalInferencer(str(CONFIG), checkpoint, device='cpu')
    inferencer([files(rgbd_root, 0), files(rgbd_root, 1)])
    assert 'Inference' in capsys.readouterr().out
