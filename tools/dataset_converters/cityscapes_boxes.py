"""Make boxes from the instance ids of Cityscapes.

    python tools/dataset_converters/cityscapes_boxes.py data/cityscapes

reads ROOT/gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png and writes
ROOT/annotations/boxes_SPLIT.json, in the format of COCO, for `CityscapesBoxesDataset`.

An id of an object is 1000 x class + number: its box is the extent of its pixels, its
area their number. An id below 1000 is a class whose objects were not told apart: each
connected region of it becomes a crowd (`iscrowd=1`), which training and metrics ignore.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

# Ids of Cityscapes' label files.
THINGS = {
    24: 'person',
    25: 'rider',
    26: 'car',
    27: 'truck',
    28: 'bus',
    31: 'train',
    32: 'motorcycle',
    33: 'bicycle',
}
SUFFIX = '_gtFine_instanceIds.png'


def boxes_of(ids: np.ndarray) -> list[dict[str, Any]]:
    """Objects and crowds in one map of instance ids.

    Args:
        ids: The map.

    Shape:
        - ids: (H, W) integers

    Returns:
        ``category_id``, ``bbox`` (x, y, width, height in pixels), ``area`` and
        ``iscrowd`` of each.
    """
    found = []
    for value in np.unique(ids).tolist():
        category, crowd = (value // 1000, 0) if value >= 1000 else (value, 1)
        if category not in THINGS:
            continue
        mask = (ids == value).astype(np.uint8)
        if crowd:
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            regions = stats[1:].tolist()  # the first is the background
        else:
            regions = [[*cv2.boundingRect(mask), int(mask.sum())]]
        found += [
            dict(category_id=category, bbox=box, area=area, iscrowd=crowd)
            for *box, area in regions
        ]
    return found


def read_ids(path: Path) -> np.ndarray:
    """Read a map of instance ids.

    Raises:
        ValueError: If it is no 16 bit grey image.
    """
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if ids is None or ids.ndim != 2 or ids.dtype != np.uint16:
        got = 'no image' if ids is None else f'{ids.dtype} {ids.shape}'
        raise ValueError(
            f'{path} holds {got}, expected a grey image of 16 bits. Unpack '
            'gtFine_trainvaltest.zip again.'
        )
    return ids


def convert(root: Path, split: str, threads: int) -> dict[str, Any]:
    """Boxes of one split, as COCO has them.

    Raises:
        FileNotFoundError: If there are no files of instance ids.
    """
    folder = root / 'gtFine' / split
    paths = sorted(folder.rglob(f'*{SUFFIX}'))
    if not paths:
        raise FileNotFoundError(
            f'No file *{SUFFIX} below {folder}. Give the folder that holds gtFine and '
            'leftImg8bit.'
        )

    def one(path: Path) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        ids = read_ids(path)
        return (ids.shape[0], ids.shape[1]), boxes_of(ids)

    images, annotations = [], []
    with ThreadPoolExecutor(threads) as pool:
        results = track(
            pool.map(one, paths), split, len(paths), console=Console(stderr=True)
        )
        for path, ((height, width), boxes) in zip(paths, results, strict=True):
            number = len(images)
            stem = path.relative_to(folder).as_posix().removesuffix(SUFFIX)
            name = f'{stem}_leftImg8bit.png'
            images.append(dict(id=number, file_name=name, width=width, height=height))
            for box in boxes:
                numbers = dict(id=len(annotations), image_id=number)
                annotations.append(numbers | box)
    categories = [dict(id=i, name=name) for i, name in THINGS.items()]
    return dict(images=images, annotations=annotations, categories=categories)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.partial')
    partial.write_text(json.dumps(content), encoding='utf-8')
    os.replace(partial, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path)
    parser.add_argument('--splits', nargs='+', default=['train', 'val'])
    parser.add_argument('--threads', type=int, default=4, help='files read at a time')
    args = parser.parse_args(argv)
    try:
        for split in args.splits:
            content = convert(args.root, split, args.threads)
            path = args.root / 'annotations' / f'boxes_{split}.json'
            write_json(path, content)
            crowds = sum(a['iscrowd'] for a in content['annotations'])
            print(
                f'{path}: {len(content["images"])} images, '
                f'{len(content["annotations"]) - crowds} boxes, {crowds} crowds'
            )
    except (ValueError, FileNotFoundError) as error:
        print(f'cityscapes_boxes.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
