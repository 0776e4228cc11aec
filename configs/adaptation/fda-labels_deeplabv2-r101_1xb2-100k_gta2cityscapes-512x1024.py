"""FDA, pseudo-labels: what three bands together write of Cityscapes, train.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/test.py THIS_FILE BANDS.pth ($TOOLS: see README.md)
          BANDS.pth: see fda-ensemble_*. Labels go to `labels`, for fda-selftrain_*.
Hardware: 1 GPU.
Recipe:   the surest 34 % of each class, at least all above a confidence of 0.9.
Published: no figure. Measured: not run.
"""

_base_ = ['./fda-ensemble_deeplabv2-r101_1xb2-100k_gta2cityscapes-512x1024.py']
labels = 'work_dirs/fda-labels_gta2cityscapes'
images = 'data/cityscapes/leftImg8bit'
unlabelled = [t for t in _base_.test_pipeline if t.type != 'LoadAnnotations']
test_dataloader = dict(
    dataset=dict(
        split='train', data_prefix=dict(seg_map_path=None), pipeline=unlabelled
    )
)
test_evaluator = dict(
    _delete_=True,
    type='mmseg_xmodal.PseudoLabelWriter',
    out_dir=labels,
    img_root=images,
)
