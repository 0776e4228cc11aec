# FDA with one band: beta 0.01 (further bands: 0.05, 0.09), entropy from the start, no
# auxiliary head.
_base_ = ['./deeplabv2_uda_r101.py']
model = dict(
    student=dict(auxiliary_head=None),
    terms=[
        dict(type='mmseg_xmodal.FourierDomainAdaptation', beta=0.01),
        dict(
            type='mmseg_xmodal.EntropyMinimization',
            kind='charbonnier',
            weight=0.005,
            normaliser=2.9444,
        ),
    ],
)
