"""MobileNetV2 on CamVid, from day to dusk without labels: MinEnt.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain.
Recipe:   term and weight of MinEnt (https://arxiv.org/abs/1811.12833).
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./dacs_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
entropy = dict(type='mmseg_xmodal.EntropyMinimization', weight=0.001)
model = dict(terms=[entropy])
