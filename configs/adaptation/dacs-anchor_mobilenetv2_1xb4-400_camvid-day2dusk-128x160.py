"""MobileNetV2 on CamVid, from day to dusk without labels: DACS and an anchor.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain.
Recipe:   DACS; the feature distance of DAFormer (https://arxiv.org/abs/2111.14887).
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./dacs_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
things = [6, 8, 9, 10]  # SignSymbol, Car, Pedestrian, Bicyclist
anchor = dict(type='mmseg_xmodal.FeatureAnchor', classes=things, weight=0.005)
model = dict(anchor='copy', terms=[anchor, *_base_.model.terms])
