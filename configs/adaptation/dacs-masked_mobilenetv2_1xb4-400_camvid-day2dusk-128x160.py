"""MobileNetV2 on CamVid, from day to dusk without labels: DACS and masked images.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain.
Recipe:   DACS; MIC's masking (https://arxiv.org/abs/2212.01322).
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./dacs_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
masked = dict(type='mmseg_xmodal.MaskedConsistency', block=16, ratio=0.7)
model = dict(terms=[*_base_.model.terms, masked])
