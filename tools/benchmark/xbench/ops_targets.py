"""What the attention operations are meant to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# On CUDA, how many times as fast as another form. mmcv's has float32 only, and is
# compared with ours in bf16.
_FASTER = {'mmcv (fp32)': 1.5, 'grid_sample': 3.0}
# Shares of the memory of the composition and of einsum, and of the copy bandwidth.
_MEMORY, _CRISS_CROSS, _BANDWIDTH = 0.25, 0.25, 0.6
_CRISS_CROSS_SIZE = '128x256'


def verdicts(
    found: Sequence[Mapping[str, Any]], bandwidth: float, cuda: bool
) -> list[dict[str, Any]]:
    """Say of each target what was measured and whether it is met.

    Args:
        found: Cases of ``ops.py`` at full size.
        bandwidth: Of a copy, bytes per second.
        cuda: Whether the targets of a GPU are meant, or those of a CPU.

    Returns:
        ``what``, a sentence, and ``met`` of each.
    """
    results = []
    for entry in found:
        name = f'{entry["name"]}, {entry["dtype"]}, {entry["mode"]}'
        if entry['name'].startswith('deformable'):
            own = _on_gpu(entry, bandwidth) if cuda else _on_cpu(entry)
        elif _CRISS_CROSS_SIZE in entry['name'] and 'criss-cross' in entry['name']:
            own = _memory(entry, 'einsum', _CRISS_CROSS)
        else:
            continue
        results += [{'what': f'{name}: {text}', 'met': met} for text, met in own]
    return results


def _on_gpu(entry: Mapping[str, Any], bandwidth: float) -> Iterator[tuple[str, bool]]:
    for form, wanted in _FASTER.items():
        training = entry['dtype'] == 'bf16' and entry['mode'] == 'training'
        if training or not form.startswith('mmcv'):
            yield from _speed(entry, form, wanted)
    yield from _memory(entry, 'grid_sample', _MEMORY)
    share = entry['bytes'] / entry['forms']['ours']['seconds'] / bandwidth
    yield (
        f'{share:.0%} of copy bandwidth, wanted {_BANDWIDTH:.0%}',
        share >= _BANDWIDTH,
    )


def _on_cpu(entry: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    # mmcv's own form for a CPU is such a composition.
    yield from _speed(entry, 'grid_sample', 1.0)
    yield from _memory(entry, 'grid_sample', 1.0)


def _speed(
    entry: Mapping[str, Any], form: str, wanted: float
) -> Iterator[tuple[str, bool]]:
    seconds = entry['forms'].get(form, {}).get('seconds')
    if seconds is not None:
        ratio = seconds / entry['forms']['ours']['seconds']
        yield f'{ratio:.2f}x {form}, wanted {wanted}x', ratio >= wanted


def _memory(
    entry: Mapping[str, Any], form: str, wanted: float
) -> Iterator[tuple[str, bool]]:
    mib = entry['forms'].get(form, {}).get('mib')
    if mib:
        share = entry['forms']['ours']['mib'] / mib
        yield f'{share:.2f} of the memory of {form}, wanted {wanted}', share <= wanted
