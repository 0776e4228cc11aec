"""FDA, three bands together: the mean of DeepLabV2 from SYNTHIA to Cityscapes.

Data:     docs/datasets.md, "Street scenes": SYNTHIA and Cityscapes.
Command:  python tools/model_converters/ensemble.py B01.pth B05.pth B09.pth BANDS.pth
          python $TOOLS/test.py THIS_FILE BANDS.pth ($TOOLS: see README.md)
          B01, B05, B09: checkpoints of the file below, or of fda-selftrain_*, trained
          with --cfg-options model.terms.0.beta=0.01, 0.05 and 0.09.
Hardware: 1 GPU. There is nothing to train.
Published: not printed for these classes.
Measured: not run.
"""

_base_ = ['./fda_deeplabv2-r101_1xb2-100k_synthia2cityscapes-512x1024.py']
member = _base_.model.student
model = dict(
    _delete_=True,
    type='mmseg_xmodal.SegmentorEnsemble',
    members=[member, member, member],
)
