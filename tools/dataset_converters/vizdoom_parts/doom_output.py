"""Files of the data set: images, boxes, statistics, progress."""

from __future__ import annotations

import json
import sys
import time
import wave
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from doom_classes import CLASSES, OBJECT_CLASSES
from doom_frame import Frame

# Averaged pixel art: no filter and the fastest level give the smallest file in the
# least time (2.5 ms and 92 kB at 320x240; the default takes 4.4 ms for as much).
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, 'IMWRITE_PNG_FILTER'):
    _PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]

AUDIO_RATE = 22050
LEAST_TRAIN_SHARE = 0.005
LEAST_VAL_FRAMES = 0.05


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON with sorted keys, so that equal content is equal bytes."""
    text = json.dumps(content, indent=indent, sort_keys=True)
    path.write_text(text + '\n', encoding='utf-8')


class SplitWriter:
    """Writes the samples of one split and counts its classes.

    Args:
        root: Folder of the data set.
        split: `train`, `val` or `test`.
        audio: Whether there will be sound.
    """

    def __init__(self, root: Path, split: str, audio: bool = False) -> None:
        self.root, self.split = root, split
        self.pixels = np.zeros(len(CLASSES) + 1, dtype=np.int64)
        self.frames_with = np.zeros(len(CLASSES) + 1, dtype=np.int64)
        self.frames: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        for part in ('rgb', 'depth', 'labels', *(['audio'] if audio else [])):
            (root / part / split).mkdir(parents=True)

    def add(self, stem: str, frame: Frame, facts: dict[str, Any]) -> None:
        """Write one sample.

        Args:
            stem: File name without suffix.
            frame: The sample.
            facts: What `frames_{split}.json` says of it.

        Raises:
            OSError: If a file cannot be written.
        """
        for part, image in (
            ('rgb', frame.bgr),
            ('depth', frame.depth),
            ('labels', frame.classes),
        ):
            path = self.root / part / self.split / f'{stem}.png'
            path.write_bytes(cv2.imencode('.png', image, _PNG)[1])
        counts = frame.counts
        self.pixels += counts
        self.frames_with += counts > 0
        self.frames.append({'stem': stem, **facts})
        height, width = frame.classes.shape
        number = len(self._images) + 1
        self._images.append(
            {'id': number, 'file_name': f'{stem}.png', 'width': width, 'height': height}
        )
        for box in frame.boxes:
            self._annotations.append(
                {
                    'id': len(self._annotations) + 1,
                    'image_id': number,
                    'category_id': box.class_id,
                    'bbox': box.bbox,
                    'area': box.area,
                    'iscrowd': 0,
                    'type': box.name,
                    'distance': round(box.distance, 3),
                }
            )

    def add_audio(self, stem: str, samples: np.ndarray) -> None:
        """Write the sound of a sample, int16 (samples, 2), as wav."""
        path = self.root / 'audio' / self.split / f'{stem}.wav'
        with wave.open(str(path), 'wb') as file:
            file.setnchannels(samples.shape[1])
            file.setsampwidth(2)
            file.setframerate(AUDIO_RATE)
            file.writeframes(np.ascontiguousarray(samples, dtype='<i2').tobytes())

    def close(self) -> None:
        """Write the boxes and the list of frames."""
        categories = [
            {'id': CLASSES.index(name), 'name': name, 'supercategory': 'object'}
            for name in OBJECT_CLASSES
        ]
        boxes = {
            'images': self._images,
            'annotations': self._annotations,
            'categories': categories,
        }
        # Without line breaks: with them json takes half a millisecond a frame.
        write_json(self.root / f'boxes_{self.split}.json', boxes, indent=None)
        write_json(self.root / f'frames_{self.split}.json', self.frames, indent=None)

    def statistics(self) -> dict[str, Any]:
        """Number and share of the pixels and of the frames, by class name."""
        names = (*CLASSES, 'ignored')
        pixels = self.pixels / max(self.pixels.sum(), 1)
        frames = self.frames_with / max(len(self.frames), 1)
        return {
            'frames': len(self.frames),
            'boxes': len(self._annotations),
            'pixel_count': dict(zip(names, self.pixels.tolist(), strict=True)),
            'frame_count': dict(zip(names, self.frames_with.tolist(), strict=True)),
            'pixel_share': {
                n: round(float(v), 5) for n, v in zip(names, pixels, strict=True)
            },
            'frame_share': {
                n: round(float(v), 5) for n, v in zip(names, frames, strict=True)
            },
        }


def table(statistics: dict[str, dict[str, Any]]) -> str:
    """Class statistics of all splits as text: pixels and frames, and per cent."""
    lines = [
        f'{split}: {s["frames"]} frames, {s["boxes"]} boxes'
        for split, s in statistics.items()
    ]
    heads = (f'{s + " px":>14}{"%":>7}{"frames":>8}{"%":>7}' for s in statistics)
    lines.append(f'{"class":<10}{"".join(heads)}')
    for name in (*CLASSES, 'ignored'):
        cells = ''.join(
            f'{s["pixel_count"][name]:14d}{100 * s["pixel_share"][name]:7.2f}'
            f'{s["frame_count"][name]:8d}{100 * s["frame_share"][name]:7.1f}'
            for s in statistics.values()
        )
        lines.append(f'{name:<10}{cells}')
    return '\n'.join(lines)


def too_rare(statistics: dict[str, dict[str, Any]]) -> list[str]:
    """Sentences on the classes that are rarer than the data set wants."""
    found = []
    for name in CLASSES:
        pixels = statistics['train']['pixel_share'][name]
        frames = statistics['val']['frame_share'][name]
        if pixels < LEAST_TRAIN_SHARE:
            found.append(f'{name}: {pixels:.2%} of the training pixels, wanted 0.5 %')
        if frames < LEAST_VAL_FRAMES:
            found.append(f'{name}: in {frames:.1%} of the val frames, wanted 5 %')
    return found


class Progress:
    """A bar on stderr; where that is no terminal, a line each tenth of the way.

    Args:
        total: Number of frames.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._shown = total, 0, -1
        self._start = time.perf_counter()
        self._live = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """One more frame; `what` says where it was taken."""
        self._done += 1
        mark = self._done * (100 if self._live else 10) // self._total
        if mark == self._shown:
            return
        self._shown = mark
        rate = self._done / max(time.perf_counter() - self._start, 1e-6)
        share = self._done / self._total
        bar = '#' * int(30 * share)
        left = (self._total - self._done) / rate
        line = (
            f'[{bar:<30}] {self._done}/{self._total} frames, {rate:.0f}/s, '
            f'{left:.0f} s left, {what}'
        )
        sys.stderr.write(f'\r{line:<100}' if self._live else line + '\n')
        sys.stderr.flush()

    def close(self) -> float:
        """End the line. Returns the frames per second."""
        if self._live:
            sys.stderr.write('\n')
        return self._done / max(time.perf_counter() - self._start, 1e-6)
