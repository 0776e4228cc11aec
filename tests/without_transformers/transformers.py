"""Stands before the real package in processes that do not need it.

mmengine imports ``transformers`` for one optimiser wherever it is installed, with all
that it imports: four of the seven seconds that a process takes to start. Machines
without the extra [encoders] are like this.
"""

raise ImportError('transformers is hidden, see tests/without_transformers')
