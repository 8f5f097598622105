"""Who gets gradients, and at which rate.

========  ==========================================================================
frozen    the upstream is fixed; head and layer weights are trained (SUPERB)
probe     the upstream is fixed; the head is trained on one state
partial   the last ``tune.top_blocks`` transformer blocks are trained too
finetune  everything is trained, the convolutional extractor only if asked for
lora      low-rank adapters of the attention are trained (Hu et al., 2021), by PEFT
========  ==========================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.config import FeaturizerConfig, OptimConfig, TuneConfig
from benchmark.errors import BenchmarkError
from benchmark.engine.featurizer import SingleLayer, StateStatistics, WeightedSum
from benchmark.interfaces import Batch, Head, HiddenStates, Upstream


def choose_parameters(upstream: Upstream, regime: str, tune: TuneConfig) -> bool:
    """Set which of the upstream's parameters get gradients; returns whether any does.

    Raises:
        BenchmarkError: the upstream has nothing that the regime could train, or PEFT is needed and not installed.
    """
    name = getattr(upstream, "info", {}).get("name", type(upstream).__name__)
    upstream.requires_grad_(False)
    if regime in ("frozen", "probe"):
        return False
    if regime == "finetune":
        upstream.requires_grad_(True)
        if upstream.extractor is not None:
            upstream.extractor.requires_grad_(tune.extractor)
    elif regime == "partial":
        count = tune.top_blocks or 0
        if count > len(upstream.blocks):
            raise BenchmarkError(
                f"tune.top_blocks is {count}, but upstream '{name}' has {len(upstream.blocks)} transformer blocks"
            )
        for block in upstream.blocks[-count:]:
            block.requires_grad_(True)
    else:
        _add_adapters(upstream, tune)
    if not any(parameter.requires_grad for parameter in upstream.parameters()):
        raise BenchmarkError(f"upstream '{name}' has no parameters to train in regime '{regime}'; leave it frozen")
    return True


def _add_adapters(upstream: Upstream, tune: TuneConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BenchmarkError("regime 'lora' needs PEFT: pip install -e '.[lora]'") from error
    config = LoraConfig(
        r=tune.lora_rank,
        lora_alpha=tune.lora_alpha,  # PEFT divides by the rank; a float is as good
        lora_dropout=tune.lora_dropout,
        target_modules=list(tune.lora_targets),
        bias="none",
    )
    try:
        inject_adapter_in_model(config, upstream)
    except ValueError as error:  # no layer of these names
        raise BenchmarkError(f"tune.lora_targets {list(tune.lora_targets)}: {error}") from error


class Pairing(nn.Module):
    """An upstream, a featurizer and a head: what a run trains."""

    def __init__(
        self, upstream: Upstream, head: Head, regime: str, featurizer: FeaturizerConfig, tune: TuneConfig | None = None
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.featurizer: WeightedSum | SingleLayer
        if featurizer.state is None:
            self.featurizer = WeightedSum(upstream.num_states, normalize=featurizer.normalize)
        else:
            self.featurizer = SingleLayer(featurizer.state, upstream.num_states, normalize=featurizer.normalize)
        self.head = head
        tune = tune or TuneConfig()
        self.upstream_trains = choose_parameters(upstream, regime, tune)
        self.freeze_updates = tune.freeze_updates
        self.updates = 0
        """Updates so far, kept by the trainer; before ``freeze_updates`` of them the upstream gets no gradient."""
        self._upstream_checked = False
        self.train()

    def train(self, mode: bool = True) -> Pairing:
        """As in torch, except that a frozen upstream stays in evaluation mode."""
        super().train(mode)
        if not self.upstream_trains:
            self.upstream.eval()
        return self

    def _hidden(self, batch: Batch) -> HiddenStates:
        if batch.hidden is not None:
            return batch.hidden
        # as in fairseq's Wav2VecEncoder, the waiting upstream is in training mode (dropout, masks), without gradient
        trains = self.upstream_trains and self.updates >= self.freeze_updates
        context: AbstractContextManager[Any] = nullcontext() if trains else torch.no_grad()
        with context:
            hidden: HiddenStates = self.upstream(batch.wavs, batch.wav_lens, keep=self.featurizer.keep)
        if not self._upstream_checked:
            self._check(batch, hidden)
            self._upstream_checked = True
        return hidden

    def _check(self, batch: Batch, hidden: HiddenStates) -> None:
        """Refuse states that are not what :class:`Upstream` promises: somebody's plug-in may be wrong."""
        upstream, keep = self.upstream, self.featurizer.keep
        states = upstream.num_states if keep is None else len(keep)
        expected = upstream.output_lengths(batch.wav_lens)
        problems = []
        if len(hidden.states) != states:
            problems.append(f"{len(hidden.states)} states, expected {states}")
        for k, state in enumerate(hidden.states):
            if state.dim() != 3 or (state.shape[0], state.shape[2]) != (len(batch.ids), upstream.hidden_size):
                expected_shape = f"({len(batch.ids)}, frame, {upstream.hidden_size})"
                problems.append(f"state {k} of shape {list(state.shape)}, expected {expected_shape}")
            elif state.shape[1] < int(hidden.lengths.max()):
                problems.append(f"state {k} of {state.shape[1]} frames for lengths of {int(hidden.lengths.max())}")
        if hidden.lengths.tolist() != expected.tolist():
            problems.append(f"lengths {hidden.lengths.tolist()}, output_lengths says {expected.tolist()}")
        if problems:
            name = upstream.info.get("name")
            raise BenchmarkError(f"upstream '{name}' returned {'; '.join(problems[:3])} (for {batch.ids[0]} …)")

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar."""
        hidden = self._hidden(batch)
        return self.head.loss(self.featurizer(hidden), hidden.lengths, batch.targets)

    def predict(self, batch: Batch, statistics: StateStatistics | None = None) -> list[Any]:
        """One prediction an utterance; counts the states' contributions into ``statistics``."""
        hidden = self._hidden(batch)
        features = self.featurizer(hidden)
        if statistics is not None and isinstance(self.featurizer, WeightedSum):
            statistics.add(self.featurizer, hidden, features)
        return self.head.predict(features, hidden.lengths)

    def trained_state(self) -> dict[str, Tensor]:
        """The state dict without what stays as the upstream's checkpoint file has it."""
        kept = self._untrained()
        return {key: value for key, value in self.state_dict().items() if key not in kept}

    def _untrained(self) -> set[str]:
        """Names of the upstream's parameters and buffers that no update changes."""
        if not self.upstream_trains:
            return {key for key in self.state_dict() if key.startswith("upstream.")}
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """The way back; strict."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        absent = sorted(set(missing) - self._untrained())
        if absent or unexpected:
            raise KeyError(f"missing {absent[:5]}, unexpected {unexpected[:5]}")


def optimizer(pairing: Pairing, config: OptimConfig) -> torch.optim.Optimizer:
    """One optimizer with a rate for the head, one for the layer weights and one for the upstream, or, with
    ``layer_decay``, one for each of its blocks."""

    def group(name: str, parameters: Iterable[nn.Parameter], lr: float | None, scale: float = 1.0) -> dict[str, Any]:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return {"params": trained, "lr": scale * (config.lr if lr is None else lr), "name": name}

    groups = [
        group("head", pairing.head.parameters(), None),
        group("weights", pairing.featurizer.parameters(), config.weights_lr),
    ]
    if config.layer_decay == 1:
        groups.append(group("upstream", pairing.upstream.parameters(), config.upstream_lr))
    else:
        blocks = pairing.upstream.blocks
        left = {id(parameter): parameter for parameter in pairing.upstream.parameters()}
        for below, block in enumerate(reversed(blocks)):
            parameters = [left.pop(id(parameter)) for parameter in block.parameters()]
            scale = config.layer_decay**below
            groups.append(group(f"block {len(blocks) - 1 - below}", parameters, config.upstream_lr, scale))
        groups.append(group("input", left.values(), config.upstream_lr, config.layer_decay ** len(blocks)))
    kinds: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.name](
        [group for group in groups if group["params"]],
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
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
