# DACS: class mixing by the classes of the image, jitter and blur, no auxiliary head.
# The leaf adds EMATeacherHook(momentum=0.99, when='after').
_base_ = ['./deeplabv2_uda_r101.py']
model = dict(
    student=dict(auxiliary_head=None),
    terms=[
        dict(
            type='mmseg_xmodal.ClassMixSelfTraining',
            classes_from='image',
            augment=dict(jitter=0.25),
        )
    ],
)
