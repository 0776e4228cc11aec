"""Where the files of a data set lie: keys and folders as the config states them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_xmodal.structures import ModalityLayout

LABELS = 'seg_map_path'


def check_keys(
    argument: str, got: Mapping[str, Any], layout: ModalityLayout, extra: str
) -> None:
    """Compare the keys of an argument with the modalities.

    Raises:
        ValueError: If one is neither a modality nor ``extra``.
    """
    unknown = sorted(set(got) - {*layout.names, extra})
    if unknown:
        raise ValueError(
            f'{argument} has the keys {unknown}, expected modalities '
            f'{list(layout.names)} or {extra!r}. Correct {argument} or add the '
            'modality to `modalities`.'
        )


def folders_of(
    layout: ModalityLayout, stated: Mapping[str, str | None]
) -> dict[str, str]:
    """The folder of each modality that samples may have, and of the labels.

    Args:
        layout: The modalities; the folder of one has its name where none is stated.
        stated: Folder by modality, and of the labels under ``seg_map_path``. None says
            that no sample has it.

    Raises:
        ValueError: If it is None for a required modality, or for all of them.
    """
    keys = [*layout.names, *([LABELS] if LABELS in stated else [])]
    folders = {key: stated.get(key, key) for key in keys}
    absent = [name for name in layout.names if folders[name] is None]
    required = [name for name in absent if not layout[name].may_be_missing]
    if required:
        raise ValueError(
            f'data_prefix[{required[0]!r}] is None, which says that no sample has this '
            'modality, but it is required. Give its folder, or set '
            f"modalities[{required[0]!r}]['may_be_missing']=True."
        )
    if len(absent) == len(layout.names):
        raise ValueError(
            f'data_prefix is None for every modality {absent}, expected the folder of '
            'at least one of them. Give it.'
        )
    return {key: folder for key, folder in folders.items() if folder is not None}
