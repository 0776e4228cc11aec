"""MIC on DAFormer: MiT-B5 from GTA5 with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a RTX 2080 Ti, 11 GB.
Published: not printed here (Cityscapes val, 19 classes; see
          https://arxiv.org/abs/2212.01322).
Measured: not run.
"""

_base_ = ['./daformer_mit-b5_1xb4-40k_gta2cityscapes-512x512.py']
term = dict(type='mmseg_xmodal.MaskedConsistency', block=32)
model = dict(terms=[*_base_.model.terms, term])
