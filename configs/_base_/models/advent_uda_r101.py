# AdvEnt as published: discriminators of self-information, with their own optimiser.
_base_ = ['./deeplabv2_uda_r101.py']
model = dict(
    terms=[
        dict(
            type='mmseg_xmodal.OutputAdversarial',
            reads='self_information',
            optimizer='own',
        )
    ],
)
