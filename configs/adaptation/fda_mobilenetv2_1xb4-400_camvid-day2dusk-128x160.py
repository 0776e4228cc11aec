"""MobileNetV2 on CamVid, from day to dusk without labels: FDA.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain.
Recipe:   FDA's smallest band and its entropy (https://arxiv.org/abs/2004.05498).
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./dacs_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
fourier = dict(type='mmseg_xmodal.FourierDomainAdaptation', beta=0.01)
entropy = dict(
    type='mmseg_xmodal.EntropyMinimization', kind='charbonnier', weight=0.005
)
model = dict(terms=[fourier, entropy])
