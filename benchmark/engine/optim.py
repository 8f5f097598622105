"""Optimizers with a learning rate for each part of the model, and schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from benchmark.config import OptimConfig
from benchmark.engine.model import Model


def optimizer(model: Model, config: OptimConfig) -> torch.optim.Optimizer:
    """One optimizer with a rate for the head, one for the layer weights and one for the upstream, or, with
    ``layer_decay``, one for each of its blocks."""

    def group(name: str, parameters: Iterable[nn.Parameter], lr: float | None, scale: float = 1.0) -> dict[str, Any]:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return {"params": trained, "lr": scale * (config.lr if lr is None else lr), "name": name}

    groups = [
        group("head", model.head.parameters(), None),
        group("weights", model.featurizer.parameters(), config.weights_lr),
    ]
    if config.layer_decay == 1:
        groups.append(group("upstream", model.upstream.parameters(), config.upstream_lr))
    else:
        blocks = model.upstream.blocks
        left = {id(parameter): parameter for parameter in model.upstream.parameters()}
        for below, block in enumerate(reversed(blocks)):
            parameters = [left.pop(id(parameter)) for parameter in block.parameters()]
            scale = config.layer_decay**below
            groups.append(group(f"block {len(blocks) - 1 - below}", parameters, config.upstream_lr, scale))
        groups.append(group("input", left.values(), config.upstream_lr, config.layer_decay ** len(blocks)))
    kinds: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.name](
        [group for group in groups if group["params"]] or groups[:1],  # a head that is not trained
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,  # on a CPU, too, one pass over all numbers
    )


def factor(config: OptimConfig, step: int, max_steps: int) -> float:
    """What every rate is multiplied with in the update after ``step`` updates."""
    if config.schedule == "tri_stage":  # fairseq/optim/lr_scheduler/tri_stage_lr_scheduler.py
        rise, hold, decay = (int(share * max_steps) for share in config.phases)
        if step < rise:
            return config.init_scale + (1 - config.init_scale) * step / rise
        if step < rise + hold:
            return 1.0
        if step <= rise + hold + decay and decay:
            return math.exp(math.log(config.final_scale) * (step - rise - hold) / decay)
        return config.final_scale
    if config.schedule == "one_cycle":  # torch.optim.lr_scheduler.OneCycleLR
        top = 0.3 * max_steps - 1
        first, last = 1 / 25, 1e-4 / 25
        if step <= top:
            return first + (1 - first) * (1 - math.cos(math.pi * step / top)) / 2
        return last + (1 - last) * (1 + math.cos(math.pi * (step - top) / (max_steps - 1 - top))) / 2
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    return max(0.0, (max_steps - step) / max(1, max_steps - config.warmup_steps))


def scheduler(
    optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """:func:`factor` on every group's rate."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(config, step, max_steps))
