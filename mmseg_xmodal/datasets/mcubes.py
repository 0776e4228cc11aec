"""MCubeS: materials of street scenes in RGB, polarisation and near infrared.

Paper: Multimodal Material Segmentation, CVPR 2022.
"""

from __future__ import annotations

from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures.palette import class_colours

from .lists import ListedSegDataset


@DATASETS.register_module()
class MCubeSDataset(ListedSegDataset):
    """RGB with angle and degree of linear polarisation and NIR, 20 materials.

    The angle comes as its sine and cosine, in a folder each. Lists are
    ``list_folder/train.txt`` and ``list_folder/test.txt``.

    Shape:
        rgb: (1024, 1224, 3); nir: (1024, 1224); aolp_sin, aolp_cos, dolp: (1024, 1224)
        float, in [-1, 1], [-1, 1] and [0, 1]; labels: (1024, 1224) uint8, 0 to 19,
        255 = ignore.

    Args:
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    METAINFO = dict(
        classes=(
            'asphalt',
            'concrete',
            'metal',
            'road marking',
            'fabric',
            'glass',
            'plaster',
            'plastic',
            'rubber',
            'sand',
            'gravel',
            'ceramic',
            'cobblestone',
            'brick',
            'grass',
            'wood',
            'leaf',
            'water',
            'human',
            'sky',
        ),
        palette=class_colours(21)[1:],
    )
    FOLDERS = dict(
        rgb='polL_color',
        aolp_sin='polL_aolp_sin',
        aolp_cos='polL_aolp_cos',
        dolp='polL_dolp',
        nir='NIR_warped',
        seg_map_path='GT',
    )
    SUFFIXES = dict(aolp_sin='.npy', aolp_cos='.npy', dolp='.npy')
