"""CMX-B0 on RGB + depth, the maps of two games with labels: upper bound on the second.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each game, all with labels. From scratch, lr 1e-3.
Published: none, the data set is made here. Measured: README.md beside it.
"""

_base_ = ['./oracle_mit-b0_1xb4-1k_vizdoom2vizdoom-120x160.py']
backbone = dict(type='mmseg_xmodal.CMX', variant='mit_b0', drop_path_rate=0.1)
backbone['modalities'] = _base_.modalities
model = dict(backbone=dict(_delete_=True, **backbone))
