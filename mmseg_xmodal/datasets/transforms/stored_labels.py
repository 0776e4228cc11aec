"""Load pseudo-labels that an earlier model wrote to files."""

from __future__ import annotations

from pathlib import Path

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures.stored_labels import KEY, label_path


@TRANSFORMS.register_module()
class LoadPseudoLabels(BaseTransform):
    """Load what ``PseudoLabelWriter`` wrote, beside an image without truth.

    Put it right after the image is loaded: the labels go through resizing, cropping and
    flipping with the image. ``PackXModalInputs(raster_keys=['gt_pseudo_labels'])``
    packs them, and the term ``StoredPseudoLabels`` learns from them.

    Args:
        folder: Where the labels are: ``out_dir`` of the writer.
        img_root: Folder of the images; their paths below it are those of the labels.

    Shape:
        - gt_pseudo_labels: (H, W) uint8, 255 = unsure
    """

    def __init__(self, folder: str, img_root: str) -> None:
        self.folder, self.img_root = folder, img_root

    def transform(self, results: dict) -> dict:
        """Add the labels to a sample.

        Raises:
            FileNotFoundError: If there are none for this image.
            ValueError: If they have another size than the image, or the image does not
                lie in ``img_root``.
        """
        path = label_path(self.folder, self.img_root, results['img_path'], repr(self))
        if not Path(path).is_file():
            raise FileNotFoundError(
                f'{self}: there are no pseudo-labels of {results["img_path"]!r} at '
                f'{str(path)!r}. Write them by stock test.py with '
                "test_evaluator=dict(type='mmseg_xmodal.PseudoLabelWriter', ...), or "
                'correct folder.'
            )
        content = fileio.get(str(path))
        labels = mmcv.imfrombytes(content, flag='unchanged', backend='cv2')
        if labels.shape != results['img'].shape[:2]:
            raise ValueError(
                f'{self}: {str(path)!r} is {labels.shape}, expected '
                f'{results["img"].shape[:2]} (height, width) of '
                f'{results["img_path"]!r}. Put it right after the image is loaded, '
                'before anything that resizes.'
            )
        results[KEY] = labels.astype(np.uint8)
        results.setdefault('seg_fields', []).append(KEY)
        return results

    def __repr__(self) -> str:
        return f'LoadPseudoLabels(folder={self.folder!r}, img_root={self.img_root!r})'
