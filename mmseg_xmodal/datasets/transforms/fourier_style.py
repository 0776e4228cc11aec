"""Training images in the style of another domain, by their low frequencies.

Paper: FDA, Yang and Soatto, "Fourier Domain Adaptation for Semantic Segmentation", CVPR
2020, https://arxiv.org/abs/2004.05498. The official code has no licence and was not
opened; written from the paper and a description. Clean room, nothing copied.

Difference: the result is rounded and clipped to uint8, which the transforms after it
expect. The published training keeps real numbers that may leave 0 to 255, as the term
``FourierDomainAdaptation`` does, which takes the styles from the batch.
"""

# Stock transforms draw from numpy's global state, which the samplers seed.
# ruff: noqa: NPY002
from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmengine import fileio

from mmseg_xmodal.ops.spectrum import check_band, swap_amplitude
from mmseg_xmodal.registry import TRANSFORMS

from .decoding import read_raster
from .on_modalities import OnModalities
from .stack import to_dtype


@TRANSFORMS.register_module()
class FourierStyle(BaseTransform):
    """Give the colour of an image the low frequencies of a drawn style image.

    In a stack of ``LoadModalities`` the modality ``name`` changes and all others stay;
    else ``img`` is the colour image, as stock mmseg loads it. Phases, and so edges and
    labels, stay.

    Put it behind the crop: the style image is resized (bilinear, without keeping its
    shape) to the size that the image has there, which the band refers to.

    Args:
        style_root: Folder with images of the other domain, searched with its
            subfolders at the first sample.
        suffix: Ending of their files, or several.
        ann_file: Text file with one path per line, relative to ``style_root``, without
            the suffix (of which there is one then); '' = all files.
        beta: Half of the band as a share of the shorter side, in [0, 0.5]; published:
            0.01, 0.05, 0.09.
        mode: ``'corner'`` or ``'centered'``, see :func:`swap_amplitude`.
        prob: Share of the images that are changed, in [0, 1].
        name: The colour modality.
        backend_args: mmengine file backend. Defaults to the local disk.

    Shape:
        - img: (H, W, 3), BGR, values from 0 to 255, or the stack (H, W, C); uint8 stays
          uint8, real numbers of a plain ``img`` are neither rounded nor clipped

    Raises:
        ValueError: If ``beta``, ``mode``, ``prob`` or ``suffix`` cannot be used.
    """

    def __init__(
        self,
        style_root: str,
        suffix: str | Sequence[str] = ('.png', '.jpg', '.jpeg'),
        ann_file: str = '',
        beta: float = 0.01,
        mode: str = 'corner',
        prob: float = 1.0,
        name: str = 'rgb',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        check_band('FourierStyle', beta, mode)
        self.suffixes = (suffix,) if isinstance(suffix, str) else tuple(suffix)
        if not 0 <= prob <= 1 or (ann_file and len(self.suffixes) != 1):
            raise ValueError(
                f'FourierStyle has prob={prob}, suffix={suffix!r} and ann_file='
                f"{ann_file!r}, expected a share in [0, 1], and one suffix ('.png') "
                'beside an ann_file.'
            )
        self.style_root, self.ann_file = style_root, ann_file
        self.beta, self.mode, self.prob = beta, mode, prob
        self.name, self.backend_args = name, backend_args
        self._found: list[str] | None = None

    def transform(self, results: dict) -> dict | None:
        """Change the colour, or not.

        Raises:
            ValueError: If there is no colour image or no modality ``name``, or a style
                image is no uint8 one.
            FileNotFoundError: If there are no style images.
        """
        styles = self._styles()
        go, index = self._draw(len(styles))
        if not go:
            return results
        path = osp.join(self.style_root, styles[index])
        img = results['img']
        layout = results.get('modality_layout')
        channels = img.shape[-1] if img.ndim == 3 else 1
        if layout is not None and channels == layout.stack_channels:
            if layout[self.name].order is None:
                raise ValueError(
                    f'FourierStyle: the modality {self.name!r} has no order, expected '
                    "a colour modality (order='rgb' or 'bgr'). Correct name."
                )
            part = OnModalities(
                [self.name], [lambda one: {**one, 'img': self._styled(one, path)}]
            )
            return part.transform(results)
        if channels != 3:
            raise ValueError(
                f'FourierStyle ({results.get("img_path")!r}) got an image of the shape '
                f'{img.shape}, expected (H, W, 3), or the stack of LoadModalities.'
            )
        results['img'] = self._styled(results, path)
        return results

    @cache_randomness
    def _draw(self, count: int) -> tuple[bool, int]:
        """Whether to change the image, and the style image."""
        return np.random.rand() < self.prob, int(np.random.rand() * count)

    def _styled(self, results: dict, path: str) -> np.ndarray:
        """The colour image with the style of a file.

        Shape:
            - output: (H, W, 3)
        """
        img = results['img']
        style = self._read(path)
        size = (img.shape[1], img.shape[0])
        if style.shape[:2] != img.shape[:2]:
            style = cv2.resize(style, size, interpolation=cv2.INTER_LINEAR)
        mixed = swap_amplitude(_planes(img), _planes(style), self.beta, self.mode)
        return to_dtype(mixed.permute(1, 2, 0).contiguous().numpy(), img.dtype)

    def _read(self, path: str) -> np.ndarray:
        """A style image as (h, w, 3) BGR; grey is repeated, alpha left out."""
        style, is_bgr = read_raster(path, 'style image', None, self.backend_args)
        if style.ndim == 2:
            style = style[..., None]
        if style.dtype != np.uint8 or style.shape[-1] not in (1, 3, 4):
            raise ValueError(
                f'FourierStyle: {path!r} holds {style.dtype} of the shape '
                f'{style.shape}, expected a colour image in uint8. Convert it, or '
                'leave it out by suffix or ann_file.'
            )
        if style.shape[-1] == 1:
            return np.repeat(style, 3, axis=-1)
        style = style[..., :3]
        return style if is_bgr else style[..., ::-1]

    def _styles(self) -> list[str]:
        """Paths of the style images, sorted, from the first sample on."""
        if self._found is None:
            found = self._listed() if self.ann_file else self._searched()
            if not found:
                where = self.ann_file or f'{self.style_root!r} (with its subfolders)'
                raise FileNotFoundError(
                    f'FourierStyle found no images: {where} has none of '
                    f'{list(self.suffixes)}. Correct style_root, suffix or ann_file.'
                )
            self._found = found
        return self._found

    def _listed(self) -> list[str]:
        """What ``ann_file`` names."""
        if not fileio.isfile(self.ann_file, backend_args=self.backend_args):
            raise FileNotFoundError(
                f'FourierStyle: ann_file {self.ann_file!r} does not exist, expected a '
                'text file with one path per line. Correct ann_file.'
            )
        text = fileio.get_text(self.ann_file, backend_args=self.backend_args)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return [line + self.suffixes[0] for line in lines]

    def _searched(self) -> list[str]:
        """What lies in ``style_root``."""
        if not fileio.isdir(self.style_root, backend_args=self.backend_args):
            raise FileNotFoundError(
                f'FourierStyle: the folder {self.style_root!r} does not exist, '
                'expected one with images of the other domain. Correct style_root.'
            )
        return sorted(
            fileio.list_dir_or_file(
                self.style_root,
                list_dir=False,
                suffix=self.suffixes,
                recursive=True,
                backend_args=self.backend_args,
            )
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(style_root={self.style_root!r}, suffix='
            f'{self.suffixes}, ann_file={self.ann_file!r}, beta={self.beta}, '
            f'mode={self.mode!r}, prob={self.prob}, name={self.name!r})'
        )


def _planes(img: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W) float32."""
    return torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1), np.float32))
