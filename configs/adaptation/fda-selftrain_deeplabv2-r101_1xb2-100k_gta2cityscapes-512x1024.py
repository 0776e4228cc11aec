"""FDA, one band of self-training: DeepLabV2 from GTA5 to Cityscapes.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes;
          the labels that fda-labels_* wrote.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 1 image of each domain.
Recipe:   beta 0.01 (further bands: 0.05, 0.09). Rounds: train, fda-labels_*, again.
Published: of three bands together only, see fda-ensemble_*. Measured: not run.
"""

_base_ = ['./fda_deeplabv2-r101_1xb2-100k_gta2cityscapes-512x1024.py']
labels = 'work_dirs/fda-labels_gta2cityscapes'
images = 'data/cityscapes/leftImg8bit'
model = dict(terms=[*_base_.model.terms, dict(type='mmseg_xmodal.StoredPseudoLabels')])
loaded = dict(type='mmseg_xmodal.LoadPseudoLabels', folder=labels, img_root=images)
target = _base_.target
target.pipeline = [
    target.pipeline[0],
    loaded,
    *target.pipeline[1:-1],
    dict(type='mmseg_xmodal.PackXModalInputs', raster_keys=['gt_pseudo_labels']),
]
train_dataloader = dict(dataset=dict(datasets=[_base_.source, target]))
