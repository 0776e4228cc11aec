"""Make label maps of several tasks from the PASCAL-Context package of ASTMT.

    python tools/dataset_converters/pascal_context_mt.py data/PASCALContext

reads, for the images of ROOT/ImageSets/Context/{train,val}.txt,

    semseg/VOC12/ID.png, else semseg/pascal-context/ID.png   21 classes
    human_parts/ID.mat                        objects with parts (PASCAL-Part)
    pascal-context/trainval/ID.mat            LabelMap of PASCAL-Context
    normals_distill/ID.png, sal_distill/ID.png
    json/context_classes.json                 PASCAL-Context's name -> id
    json/nyu_classes.json                     names of NYU's classes

and writes ROOT/multitask/{semseg,human_parts,saliency,normals,edges}/ID.png, which
`PASCALContextMTDataset` reads.

Human parts are 255 (ignored) all over an image in which no person has parts, or
without a file. Normals stay where the class of PASCAL-Context is one of NYU, and are
grey, no vector, elsewhere: the network they come from knew no others. Edges are the
places where the Laplacian of the LabelMap is not 0, thinned to one pixel.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

GREY = 128  # nearest to the vector 0 in 2 x / 255 - 1
PERSON = 'person'
# Part names of PASCAL-Part, without the l or r of the side, by class.
PARTS: dict[int, tuple[str, ...]] = {
    1: ('head', 'eye', 'ear', 'ebrow', 'nose', 'mouth', 'hair'),
    2: ('torso', 'neck'),
    3: ('uarm',),
    4: ('larm', 'hand'),
    5: ('uleg',),
    6: ('lleg', 'foot'),
}
_OF_PART = {
    side + name: number
    for number, names in PARTS.items()
    for name in names
    for side in ('', 'l', 'r')
}


def read_mat(path: Path, variable: str) -> Any:
    """One variable of a MATLAB file (version 5: data only, nothing is run).

    Raises:
        ValueError: If the file cannot be read or lacks the variable.
    """
    try:
        content = loadmat(path, variable_names=[variable], simplify_cells=True)
    except (MatReadError, ValueError, OSError, NotImplementedError) as error:
        raise ValueError(f'{path}: no MATLAB file of version 5 ({error})') from error
    if variable not in content:
        raise ValueError(f'{path} has no variable {variable!r}. Unpack it again.')
    return content[variable]


def read_image(path: Path) -> np.ndarray:
    """Pixels as stored: ids of palette images, RGB of colour images.

    Raises:
        ValueError: If the file cannot be decoded.
    """
    try:
        return np.asarray(Image.open(path))
    except (OSError, SyntaxError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error


def human_parts(anno: Any, size: tuple[int, int]) -> np.ndarray:
    """Parts of all persons of an image, 255 all over where there is none.

    Args:
        anno: ``anno`` of PASCAL-Part: ``objects`` with ``class``, ``mask`` and
            ``parts`` of ``part_name`` and ``mask``.
        size: Height and width in pixels.

    Raises:
        ValueError: If a part of a person is unknown.
    """
    labels = np.zeros(size, np.uint8)
    for person in _listed(anno['objects']):
        if person['class'] != PERSON:
            continue
        for part in _listed(person['parts']):
            if part['part_name'] not in _OF_PART:
                raise ValueError(
                    f'unknown part {part["part_name"]!r} of a person, expected one of '
                    f'{sorted(_OF_PART)}'
                )
            labels[part['mask'] > 0] = _OF_PART[part['part_name']]
    return labels if labels.any() else np.full(size, 255, np.uint8)


def _listed(value: Any) -> list[Any]:
    """The elements of a MATLAB array of structures: one of them comes bare."""
    if isinstance(value, dict):
        return [value]
    return [each for each in np.atleast_1d(value) if isinstance(each, dict)]


def edges(label_map: np.ndarray) -> np.ndarray:
    """1 where classes meet, one pixel wide.

    Shape:
        - label_map, output: (H, W)
    """
    laplacian = cv2.Laplacian(label_map.astype(np.float64), cv2.CV_64F)
    return thin(laplacian != 0).astype(np.uint8)


def thin(mask: np.ndarray) -> np.ndarray:
    """Take pixels off both sides of lines until they are one pixel wide.

    Source: Guo and Hall, Parallel thinning with two-subiteration algorithms,
    Communications of the ACM 32, 1989, https://doi.org/10.1145/62065.62074, the
    algorithm of MATLAB's ``bwmorph(..., 'thin')``.

    Shape:
        - mask, output: (H, W) bool
    """
    mask = mask.astype(bool)
    while True:
        before = mask
        for half in (0, 4):
            mask = mask & ~_removable(mask, half)
        if (mask == before).all():
            return mask


def _removable(mask: np.ndarray, half: int) -> np.ndarray:
    """Pixels that one half of an iteration takes off."""
    padded = np.pad(mask, 1)
    h, w = mask.shape
    # The eight neighbours against the clock, from the right.
    steps = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
    x = [padded[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] for dy, dx in steps]
    n = [x[i % 8] for i in range(16)]
    crossings = sum(
        (~n[i] & (n[i + 1] | n[i + 2])).astype(np.int8) for i in range(0, 8, 2)
    )
    even = sum((n[i] | n[i + 1]).astype(np.int8) for i in range(0, 8, 2))
    odd = sum((n[i] | n[i + 1]).astype(np.int8) for i in range(1, 9, 2))
    few = np.minimum(even, odd)
    side = (n[1 + half] | n[2 + half] | ~n[7 + half]) & n[half]
    return (crossings == 1) & (few >= 2) & (few <= 3) & ~side


def normals(
    stored: np.ndarray, label_map: np.ndarray, valid: Sequence[int]
) -> np.ndarray:
    """Normals of the classes that the network knew, grey elsewhere.

    Shape:
        - stored, output: (H, W, 3) uint8
        - label_map: (H, W)
    """
    known = np.isin(label_map, list(valid))
    return np.where(known[..., None], stored[..., :3], GREY).astype(np.uint8)


def shared_classes(folder: Path, more: Sequence[str]) -> list[int]:
    """Ids of PASCAL-Context's classes that NYU has too.

    Args:
        folder: That of the JSON files.
        more: Further names of PASCAL-Context that count as shared.

    Raises:
        FileNotFoundError: If a JSON file is missing.
        ValueError: If no class is shared, or ``more`` holds no class.
    """
    loaded = []
    for name in ('context_classes.json', 'nyu_classes.json'):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} does not exist. It comes with the package; give its folder '
                'with --json, or leave the normals out with --tasks.'
            )
        loaded.append(json.loads(path.read_text(encoding='utf-8')))
    context, nyu = loaded
    if not isinstance(context, dict):
        context = {name: number for number, name in enumerate(context, 1)}
    unknown = sorted(set(more) - set(context))
    shared = sorted(context[n] for n in {*nyu, *more} if n in context)
    if unknown or not shared:
        raise ValueError(
            f'{folder}: {len(shared)} classes are shared, and --shared has the unknown '
            f'{unknown}. Expected context_classes.json as name -> id and names of it.'
        )
    return shared


class Converter:
    """Makes the maps of one image.

    Args:
        root: The package.
        shared: Ids of the classes with normals.
    """

    def __init__(self, root: Path, shared: Sequence[int]) -> None:
        self.root, self.shared = root, shared

    def folder(self, task: str) -> Path:
        return self.root / 'multitask' / task

    def write(self, task: str, stem: str) -> bool:
        """Write one map; returns whether all of it is ignored."""
        array = getattr(self, task)(stem)
        Image.fromarray(array).save(self.folder(task) / f'{stem}.png')
        return bool((array == 255).all())

    def semseg(self, stem: str) -> np.ndarray:
        folders = [self.root / 'semseg' / n for n in ('VOC12', 'pascal-context')]
        found = [f / f'{stem}.png' for f in folders if (f / f'{stem}.png').is_file()]
        return read_image((found or [folders[0] / f'{stem}.png'])[0])

    def human_parts(self, stem: str) -> np.ndarray:
        with Image.open(self.root / 'JPEGImages' / f'{stem}.jpg') as image:
            size = image.height, image.width
        path = self.root / 'human_parts' / f'{stem}.mat'
        if not path.is_file():
            return np.full(size, 255, np.uint8)
        try:
            return human_parts(read_mat(path, 'anno'), size)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f'{path}: {error}') from error

    def saliency(self, stem: str) -> np.ndarray:
        path = self.root / 'sal_distill' / f'{stem}.png'
        return (read_image(path) > 127).astype(np.uint8)

    def normals(self, stem: str) -> np.ndarray:
        path = self.root / 'normals_distill' / f'{stem}.png'
        return normals(read_image(path), self._label_map(stem), self.shared)

    def edges(self, stem: str) -> np.ndarray:
        return edges(self._label_map(stem))

    def _label_map(self, stem: str) -> np.ndarray:
        path = self.root / 'pascal-context/trainval' / f'{stem}.mat'
        return read_mat(path, 'LabelMap')


TASKS = ('semseg', 'human_parts', 'saliency', 'normals', 'edges')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path)
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--splits', nargs='+', default=['train', 'val'])
    parser.add_argument('--json', type=Path, help='folder of the JSON files')
    parser.add_argument(
        '--shared', nargs='+', default=[], help='further classes with normals'
    )
    parser.add_argument('--threads', type=int, default=4, help='files read at a time')
    args = parser.parse_args(argv)
    try:
        run(args)
    except (ValueError, FileNotFoundError) as error:
        print(f'pascal_context_mt.py: {error}', file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Convert what the command line asks for.

    Raises:
        ValueError: If a file cannot be read.
        FileNotFoundError: If one is missing.
    """
    stems: list[str] = []
    for split in args.splits:
        text = (args.root / 'ImageSets/Context' / f'{split}.txt').read_text()
        stems += [line.strip() for line in text.splitlines() if line.strip()]
    shared: list[int] = []
    if 'normals' in args.tasks:
        shared = shared_classes(args.json or args.root / 'json', args.shared)
    converter = Converter(args.root, shared)
    for task in args.tasks:
        folder = converter.folder(task)
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(args.threads) as pool:
            done = pool.map(functools.partial(converter.write, task), stems)
            console = Console(stderr=True)
            void = sum(track(done, task, len(stems), console=console))
        print(f'{folder}: {len(stems)} files, {void} ignored all over')


if __name__ == '__main__':
    sys.exit(main())
