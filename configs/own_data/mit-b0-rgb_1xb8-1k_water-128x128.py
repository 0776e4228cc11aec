"""One MiT-B0 on the RGB of the same tiles, water against land.

Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights.
Published: none, the data are the user's. Measured: README.md here.
"""

_base_ = ['./mit-b0-rgb_1xb8-1k_landcover-128x128.py']
classes = ('land', 'water')
data = dict(
    metainfo=dict(classes=classes), data_prefix=dict(seg_map_path='labels_water')
)
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
model = dict(decode_head=dict(num_classes=2))
