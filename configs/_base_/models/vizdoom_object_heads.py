# Heads for the boxes of ViZDoom's objects and for the monsters in sight, on the four
# maps of a MiT-B0.
pyramid = [32, 64, 160, 256]
object_heads = dict(
    det=dict(
        type='mmseg_xmodal.CenterDetectionHead', in_channels=pyramid, num_classes=6
    ),
    cls=dict(
        type='mmseg_xmodal.ClassificationHead',
        in_channels=[256],
        num_classes=9,
        multi_label=True,
    ),
)
