# DAFormer's adaptation (daformer_uda_mit-b5.py) of HRDA's student: the crop of 1024 at
# half size, and crops of 512 of it at full size.
_base_ = ['./daformer_uda_mit-b5.py']
model = dict(
    student=dict(
        type='mmseg_xmodal.MultiResolutionSegmentor',
        scale_attention=dict(
            type='mmseg_xmodal.DAFormerHead',
            in_channels=[64, 128, 320, 512],
            channels=256,
            embed_dims=256,
            fusion='conv1',
        ),
        detail_size=(512, 512),
        test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(512, 512)),
    )
)
