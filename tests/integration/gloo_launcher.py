"""Train configs one after the other in two processes on the CPU.

``train.py --launcher pytorch`` calls ``torch.cuda.set_device`` and so cannot start
without CUDA. Here the gloo group exists before the runner is built, which then leaves
it alone.

    python -m tests.integration.gloo_launcher RANK WORLD_SIZE STORE CONFIG [CONFIG ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner


def main() -> None:
    """Train and leave ``rank{i}.json`` in the work folder of each config."""
    rank, world_size, store, *configs = sys.argv[1:]
    os.environ['LOCAL_RANK'] = rank
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=int(rank),
        world_size=int(world_size),
    )
    for path in configs:
        cfg = Config.fromfile(path)
        cfg.launcher = 'pytorch'
        # That of the config, if it names one.
        wrapper = cfg.get('model_wrapper_cfg', dict(type='MMDistributedDataParallel'))
        cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
        runner = Runner.from_cfg(cfg)
        runner.train()
        flat = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
        all_flat = [torch.empty_like(flat) for _ in range(int(world_size))]
        dist.all_gather(all_flat, flat)
        report = dict(
            wrapper=type(runner.model).__name__,
            equal=all(torch.equal(other, flat) for other in all_flat),
            finite=bool(flat.isfinite().all()),
            losses=runner.message_hub.get_scalar('train/loss').data[0].tolist(),
        )
        Path(cfg.work_dir, f'rank{rank}.json').write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
