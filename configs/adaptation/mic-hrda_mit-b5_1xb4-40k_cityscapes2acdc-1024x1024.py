"""MIC on HRDA: MiT-B5 from Cityscapes with labels to ACDC without.

Data:     docs/datasets.md, "Street scenes": Cityscapes and ACDC.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a Titan RTX, 24 GB.
Published: not printed here (ACDC test server; see https://arxiv.org/abs/2212.01322).
Measured: not run.
"""

_base_ = ['./hrda_mit-b5_1xb4-40k_cityscapes2acdc-1024x1024.py']
term = dict(
    type='mmseg_xmodal.MaskedConsistency', block=64, images='both', augment=None
)
model = dict(terms=[*_base_.model.terms, term])
