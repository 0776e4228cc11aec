"""Label files of street scenes to the 19 train ids of Cityscapes.

What the converters of GTA5, SYNTHIA, Cityscapes, ACDC and Dark Zurich share. Ids as in
https://github.com/mcordts/cityscapesScripts (MIT) and, for SYNTHIA, as its evaluations
use them (https://github.com/lhoyer/MIC, Apache-2.0). Clean room, nothing copied.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

IGNORE = 255
_SHOWN = 20
# Id of the file to train id; GTA5, ACDC and Dark Zurich have the ids of Cityscapes.
CITYSCAPES = {
    old: new
    for new, old in enumerate(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    )
}
# Terrain, truck and train (9, 14, 16) never occur.
SYNTHIA = {
    3: 0,
    4: 1,
    2: 2,
    21: 3,
    5: 4,
    7: 5,
    15: 6,
    9: 7,
    6: 8,
    1: 10,
    10: 11,
    17: 12,
    8: 13,
    19: 15,
    12: 17,
    11: 18,
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where images and labels of a data set lie below its root.

    Args:
        images: Folder of the images.
        labels: Folder of the labels.
        image_suffix: End of the images' names.
        label_suffix: End of the names of the label files that are read.
        out_suffix: End of the names of those that are written, beside them.
        wanted: Whether a stem, such as ``'fog/train/SEQUENCE/NAME'``, has labels.
    """

    images: str
    labels: str
    image_suffix: str
    label_suffix: str
    out_suffix: str
    wanted: Callable[[str], bool] = lambda stem: True

    def stems(self, root: Path, folder: str, suffix: str) -> set[str]:
        """Stems of the files with a suffix."""
        place = root / folder
        paths = (p.relative_to(place).as_posix() for p in place.rglob(f'*{suffix}'))
        # Where '.png' is read and '_labelTrainIds.png' written into one folder.
        longer = self.out_suffix if suffix != self.out_suffix else '\0'
        found = (p.removesuffix(suffix) for p in paths if not p.endswith(longer))
        return {stem for stem in found if self.wanted(stem)}

    def output(self, root: Path, stem: str) -> Path:
        """The label file that is written."""
        return root / self.labels / f'{stem}{self.out_suffix}'

    def source(self, root: Path, stem: str) -> Path:
        """The label file that is read."""
        return root / self.labels / f'{stem}{self.label_suffix}'

    def image(self, root: Path, stem: str) -> Path:
        """The image of a stem."""
        return root / self.images / f'{stem}{self.image_suffix}'

    def find(self, root: Path) -> tuple[list[str], list[str]]:
        """Stems to convert, and those that are done.

        Raises:
            FileNotFoundError: If there are no files, or an image or label is missing.
        """
        images = self.stems(root, self.images, self.image_suffix)
        read = self.stems(root, self.labels, self.label_suffix)
        done = self.stems(root, self.labels, self.out_suffix)
        missing = [self.source(root, s) for s in images - read - done]
        missing += [self.image(root, s) for s in read | done if s not in images]
        if not images or missing:
            lines = [f'  {path}' for path in sorted(missing)[:_SHOWN]]
            raise FileNotFoundError(
                '\n'.join(
                    [
                        f'{len(images)} images *{self.image_suffix} below '
                        f'{root / self.images}, {len(read | done)} labels below '
                        f'{root / self.labels}, {len(missing)} files are missing. '
                        'Unpack all parts of the data set; give the folder that holds '
                        f'{self.images} and {self.labels}.',
                        *lines,
                    ]
                )
            )
        return sorted(images - done), sorted(images & done)


def read_grey(path: Path) -> np.ndarray:
    """Ids of a grey or a palette image.

    Raises:
        ValueError: If the file is no such image.
    """
    try:
        with Image.open(path) as image:
            mode, ids = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    if mode not in ('L', 'P'):
        raise ValueError(
            f'{path} is an image of the mode {mode!r}, expected ids in a grey or a '
            'palette image. Take the label files of the package, not coloured ones.'
        )
    return ids


def train_ids(ids: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    """Train ids of label ids, 255 for every other one.

    Shape:
        - ids: (H, W) integers; the output is uint8
    """
    table = np.full(2**16, IGNORE, np.uint8)
    for old, new in mapping.items():
        table[old] = new
    return table[ids.astype(np.uint16)]


def write_png(path: Path, labels: np.ndarray) -> None:
    """Write a PNG, whole or not at all."""
    done, data = cv2.imencode('.png', labels)
    assert done
    partial = path.with_name(f'{path.name}.partial')
    partial.write_bytes(data.tobytes())
    os.replace(partial, path)


def convert(
    root: Path,
    layout: Layout,
    read: Callable[[Path], np.ndarray],
    mapping: Mapping[int, int],
    workers: int,
    title: str,
) -> tuple[int, int]:
    """Write the labels that are not there yet.

    Returns:
        Files written now, and files that were there.

    Raises:
        FileNotFoundError: See :meth:`Layout.find`.
        ValueError: If a file cannot be read, or has another size than its image.
    """
    wanted, done = layout.find(root)

    def one(stem: str) -> str | None:
        labels = train_ids(read(layout.source(root, stem)), mapping)
        with Image.open(layout.image(root, stem)) as image:
            fits = image.size == labels.shape[::-1]
        if fits:
            write_png(layout.output(root, stem), labels)
        return None if fits else stem

    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(one, wanted)
        shown = track(results, title, len(wanted), console=Console(stderr=True))
        odd = [stem for stem in shown if stem is not None]
    if odd:
        kept = root / 'fitting.txt'
        stems = sorted({*wanted, *done} - set(odd))
        kept.write_text(''.join(f'{stem}\n' for stem in stems), encoding='utf-8')
        raise ValueError(
            f'{len(odd)} label files have another size than their image, such as '
            f'{", ".join(odd[:_SHOWN])}. The others are written; {kept} lists them: '
            f'ann_file={kept.name!r} in the data set leaves these out.'
        )
    return len(wanted), len(done)


def run(
    argv: Sequence[str] | None,
    doc: str | None,
    name: str,
    layout: Layout,
    mapping: Mapping[int, int] = CITYSCAPES,
    read: Callable[[Path], np.ndarray] = read_grey,
) -> int:
    """The command line of a converter; 0 on success."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path)
    parser.add_argument('--workers', type=int, default=4, help='files at a time')
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f'--workers got {args.workers}, expected at least 1')
    try:
        new, old = convert(args.root, layout, read, mapping, args.workers, name)
    except (ValueError, FileNotFoundError) as error:
        print(f'{name}: {error}', file=sys.stderr)
        return 1
    print(f'{args.root / layout.labels}: {new} files written, {old} were there')
    return 0
