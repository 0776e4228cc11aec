from .adaptation_ddp import AdaptationDistributedDataParallel

__all__ = ['AdaptationDistributedDataParallel']
