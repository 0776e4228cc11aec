"""MIC on HRDA: MiT-B5 from SYNTHIA with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": SYNTHIA and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a Titan RTX, 24 GB.
Published: not printed here (Cityscapes val, 16 classes; see
          https://arxiv.org/abs/2212.01322).
Measured: not run.
"""

_base_ = ['./hrda_mit-b5_1xb4-40k_synthia2cityscapes-1024x1024.py']
term = dict(type='mmseg_xmodal.MaskedConsistency', block=64)
model = dict(terms=[*_base_.model.terms, term])
