"""The same SegFormer-B0 with FastSegformerHead: equal weights, equal numbers.

Command:  python tools/benchmark/speed.py THIS_FILE --shape 480 640 --threads 1
          --against tests/reference_forms/segformer_head.py
Hardware: CPU, 1 thread. Published: none, the data set is made here.
Measured: speed only, README.md beside it.
"""

_base_ = ['./segformer_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(decode_head=dict(type='mmseg_xmodal.FastSegformerHead'))
