"""What a joint model costs beside single-task ones, and a gradient rule beside none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from . import measure, model


def trained_parameters(network: nn.Module) -> int:
    """Parameters of the tasks that the model runs."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def forward_steps(
    networks: Mapping[str, nn.Module], x: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """One inference step of each network: eval mode, all heads, raw outputs.

    Shape:
        - x: (B, C, H, W)
    """

    def step(network: nn.Module) -> Callable[[], Any]:
        def run() -> None:
            with torch.no_grad():
                network(x, mode='tensor')

        return run

    return {name: step(network.eval()) for name, network in networks.items()}


def training_steps(
    cfg: Config, wrappers: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, Callable[[], Any]]:
    """One training step of the joint model under each optimiser wrapper.

    Args:
        cfg: Config of the joint model; its own training data give the batch.
        wrappers: Name to the entries of ``optim_wrapper`` besides the optimiser.
        seed: Of weights and batch.
    """
    loader = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    data = next(iter(Runner.build_dataloader(loader, seed=seed)))
    steps = {}
    for name, entries in wrappers.items():
        network = model.build_model(cfg, seed, 'cpu').train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        wrapper = OPTIM_WRAPPERS.build(dict(entries, optimizer=optimizer))
        steps[name] = lambda n=network, w=wrapper: n.train_step(data, w)
    return steps


def medians(
    steps: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Median seconds, and all of them, of steps that run in turn."""
    seconds = measure.time_alternately(dict(steps), repeats, 'cpu')
    return {n: measure.spread(v)['median'] for n, v in seconds.items()}, seconds
