"""MIC on HRDA: MiT-B5 from GTA5 with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a Titan RTX, 24 GB.
Published: 75.9 mIoU, Cityscapes val, 19 classes, mean of three seeds
          (https://github.com/lhoyer/MIC, README).
Measured: not run.
"""

_base_ = ['./hrda_mit-b5_1xb4-40k_gta2cityscapes-1024x1024.py']
term = dict(type='mmseg_xmodal.MaskedConsistency', block=64)
model = dict(terms=[*_base_.model.terms, term])
