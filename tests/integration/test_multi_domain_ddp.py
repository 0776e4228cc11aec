"""One domain a rank, two processes on the CPU (gloo), under the stock wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch.utils.data import Dataset

from mmseg_xmodal.registry import DATASETS
from tests.test_models.adaptation_toys import SIZE, blobs, head, sample, student_cfg

from .test_ddp import _reports, _train

PLAIN = student_cfg()
MODEL = dict(
    type='mmseg_xmodal.MultiDomainEncoderDecoder',
    decode_heads=dict(day=head(8, 1, 1.0), night=dict(head(8, 1, 1.0), num_classes=3)),
    auxiliary_heads=dict(night=dict(head(6, 0, 0.4), num_classes=3)),
    domain_norm=True,
    **{k: PLAIN[k] for k in ('data_preprocessor', 'backbone', 'train_cfg')},
    test_cfg=dict(mode='whole'),
)


@DATASETS.register_module()
class TwoDomainToyImages(Dataset):
    """Day at even places, night with a class less at odd ones."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def full_init(self) -> None:
        """Nothing to load."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, idx: int) -> dict[str, Any]:
        g = torch.Generator().manual_seed(int(idx))
        image = torch.randint(0, 256, (3, *SIZE), generator=g, dtype=torch.uint8)
        label = blobs(g)
        if idx % 2:
            label[label == 3] = 255
        return dict(inputs=image, data_samples=sample(('day', 'night')[idx % 2], label))


def test_ranks_with_other_domains_agree(tmp_path: Path) -> None:
    """No rank waits for the other, and both get the gradients of both heads."""
    values = dict(
        default_scope='mmseg',
        custom_imports=dict(
            imports=['mmseg.models', 'tests.integration.test_multi_domain_ddp']
        ),
        work_dir=str(tmp_path / 'run'),
        model=MODEL,
        # Rank 0 gets the even places, rank 1 the odd ones.
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(type='mmseg_xmodal.TwoDomainToyImages'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
    )
    path = tmp_path / 'run.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    _train(tmp_path, path)
    first, second = _reports(tmp_path / 'run')
    assert first['wrapper'] == 'MMDistributedDataParallel'
    assert first['equal']
    assert second['equal']
    assert first['finite']
    assert first['losses'] != second['losses']
    # Written by rank 0, which has seen no night.
    checkpoint = CheckpointLoader.load_checkpoint(
        str(tmp_path / 'run/iter_2.pth'), 'cpu'
    )
    logged = checkpoint['message_hub']['log_scalars']
    assert 'train/night.loss_absent' in logged
    assert 'train/night.decode.loss_ce' not in logged
    names = [k for k in checkpoint['state_dict'] if not _is_statistic(k)]
    states = checkpoint['optimizer']['state'].values()
    for name, state in zip(names, states, strict=True):
        # A bias right before a batch norm has no gradient.
        if name.endswith('weight'):
            assert state['momentum_buffer'].abs().sum() > 0, name


def _is_statistic(key: str) -> bool:
    return key.rpartition('.')[2] in (
        'running_mean',
        'running_var',
        'num_batches_tracked',
    )
