"""MobileNetV2 on CamVid, from day to dusk without labels: DACS, colours as they are.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain.
Recipe:   terms of DACS (https://arxiv.org/abs/2007.08702) without augmentation.
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./dacs_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
terms = _base_.model.terms
terms[0].augment = None
model = dict(terms=terms)
