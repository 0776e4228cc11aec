"""Losses."""

from .ohem import OHEMCrossEntropyLoss

__all__ = ['OHEMCrossEntropyLoss']
