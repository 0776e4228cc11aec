"""MiT-B0 on RGB, from the maps of one game to those of another without labels: AdvEnt.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md); in several processes
          with model_wrapper_cfg, see README.md
Hardware: CPU, 1 thread. 2 images of each domain. From scratch, lr 1e-3; the
          discriminator has the optimiser and the weight of the official code.
Published: none, the data set is made here. Measured: not run.
"""

_base_ = ['./dacs_mit-b0_1xb4-1k_vizdoom2vizdoom-120x160.py']
model = dict(
    terms=[
        dict(
            type='mmseg_xmodal.OutputAdversarial',
            reads='self_information',
            optimizer='own',
        )
    ]
)
optim_wrapper = dict(
    constructor='mmseg_xmodal.AdversarialOptimWrapperConstructor',
    discriminator=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)),
)
# No teacher is needed.
custom_hooks = [dict(type='mmseg_xmodal.RandomStateHook')]
