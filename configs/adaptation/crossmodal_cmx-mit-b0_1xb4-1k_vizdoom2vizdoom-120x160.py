"""CMX-B0 on RGB + depth, from map to map: DACS, and modalities that teach each other.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain. From scratch, lr 1e-3.
Published: none, the data set is made here. Measured: README.md beside it. Its twin
without the last term is dacs_cmx-mit-b0_1xb4-1k_vizdoom2vizdoom-120x160.py.
"""

_base_ = ['./dacs_cmx-mit-b0_1xb4-1k_vizdoom2vizdoom-120x160.py']
agreement = dict(type='mmseg_xmodal.CrossModalAgreement', source=1.0, target=0.1)
model = dict(terms=[*_base_.model.terms, agreement])
