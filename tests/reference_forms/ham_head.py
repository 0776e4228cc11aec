"""The light Hamburger head as published: mmseg's own ``LightHamHead``.

DFormer, DFormerv2 and SegNeXt use one and the same head. The only change: the bases of
the NMF are given, since the published form draws them anew in every forward.
"""

from __future__ import annotations

from mmseg.models.decode_heads.ham_head import NMF2D, LightHamHead
from torch import Tensor

from mmseg_xmodal.models.decode_heads import HamHead


class GivenBases(NMF2D):
    """mmseg's NMF with given bases (1, D, R), repeated over the batch."""

    def __init__(self, settings: dict, bases: Tensor) -> None:
        super().__init__(settings)
        self.register_buffer('given', bases, persistent=False)

    def _build_bases(self, B: int, S: int, D: int, R: int, device=None) -> Tensor:
        assert self.given.shape == (S, D, R)
        return self.given.repeat(B, 1, 1)


def published_ham_head(head: HamHead) -> LightHamHead:
    """Build the published form of a head of ours, without its weights."""
    nmf = head.nmf
    settings = dict(
        MD_R=nmf.rank, train_steps=nmf.train_steps, eval_steps=nmf.eval_steps
    )
    stock = LightHamHead(
        in_channels=head.in_channels,
        in_index=head.in_index,
        channels=head.channels,
        ham_channels=head.ham_channels,
        num_classes=head.num_classes,
        out_channels=head.out_channels,
        dropout_ratio=head.dropout_ratio,
        norm_cfg=head.norm_cfg,
        align_corners=head.align_corners,
    )
    assert nmf.bases is not None, 'set bases: random ones cannot be compared'
    stock.hamburger.ham = GivenBases(settings, nmf.bases)
    return stock
