"""Who gets gradients, and at which rate.

========  ==========================================================================
frozen    the upstream is fixed; head and layer weights are trained (SUPERB)
probe     the upstream is fixed; the head is trained on one state
finetune  everything is trained
========  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.config import FeaturizerConfig, OptimConfig
from benchmark.errors import BenchmarkError
from benchmark.featurizer import SingleLayer, StateStatistics, WeightedSum
from benchmark.interfaces import Batch, Head, HiddenStates, Upstream


class Pairing(nn.Module):
    """An upstream, a featurizer and a head: what a run trains."""

    def __init__(self, upstream: Upstream, head: Head, regime: str, featurizer: FeaturizerConfig) -> None:
        super().__init__()
        self.upstream = upstream
        self.featurizer: WeightedSum | SingleLayer
        if featurizer.state is None:
            self.featurizer = WeightedSum(upstream.num_states, normalize=featurizer.normalize)
        else:
            self.featurizer = SingleLayer(featurizer.state, upstream.num_states, normalize=featurizer.normalize)
        self.head = head
        self.upstream_trains = regime == "finetune"
        if self.upstream_trains and not any(True for _ in upstream.parameters()):
            raise BenchmarkError(f"upstream '{upstream.info.get('name')}' has no parameters to fine-tune; leave out -f")
        self._upstream_checked = False
        self.upstream.requires_grad_(self.upstream_trains)
        self.train()

    def train(self, mode: bool = True) -> Pairing:
        """As in torch, except that a frozen upstream stays in evaluation mode."""
        super().train(mode)
        if not self.upstream_trains:
            self.upstream.eval()
        return self

    def _hidden(self, batch: Batch) -> HiddenStates:
        context: AbstractContextManager[Any] = nullcontext() if self.upstream_trains else torch.no_grad()
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
        """The state dict without a frozen upstream, whose values its checkpoint file holds."""
        return {
            key: value
            for key, value in self.state_dict().items()
            if self.upstream_trains or not key.startswith("upstream.")
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """The way back; strict."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [key for key in missing if self.upstream_trains or not key.startswith("upstream.")]
        if missing or unexpected:
            raise KeyError(f"missing {missing[:5]}, unexpected {unexpected[:5]}")


def optimizer(pairing: Pairing, config: OptimConfig) -> torch.optim.Optimizer:
    """One optimizer with up to three rates: head, layer weights, upstream."""

    def group(name: str, parameters: Iterable[nn.Parameter], lr: float | None) -> dict[str, Any]:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return {"params": trained, "lr": config.lr if lr is None else lr, "name": name}

    groups = [
        group("head", pairing.head.parameters(), None),
        group("weights", pairing.featurizer.parameters(), config.weights_lr),
        group("upstream", pairing.upstream.parameters(), config.upstream_lr),
    ]
    kinds: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.name](
        [group for group in groups if group["params"]],
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def scheduler(
    optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up, then constant or linear down to zero; a factor on every group's rate."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / (config.warmup_steps + 1)
        if config.schedule == "constant":
            return 1.0
        return max(0.0, (max_steps - step) / max(1, max_steps - config.warmup_steps))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
