from .param_groups import ParamGroupOptimWrapperConstructor

__all__ = ['ParamGroupOptimWrapperConstructor']
