"""Upstream + featurizer + head: the module that a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.config import FeaturizerConfig, RunConfig, TuneConfig, find_regime
from benchmark.engine.featurizer import Featurizer, StateStatistics, WeightedSum, feature_size, make_featurizer
from benchmark.engine.regimes import apply_regime
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch, Head, HiddenStates, Task, Upstream


def make_head(run: RunConfig, task: type[Task], vocabulary: Mapping[str, Any], upstream: Upstream) -> Head:
    """A freshly initialised head of a run."""
    makers = {"gradient": task.make_head, "exact": task.make_linear_head, "knn": task.make_neighbour_head}
    return makers[run.probe.solver](run.task, vocabulary, feature_size(run.featurizer, upstream))


class Model(nn.Module):
    """An upstream, a featurizer and a head: what a run trains.

    Args:
        upstream: its ``requires_grad`` is set by the regime.
        head: always trained.
        regime: its name; decides which parameters of the upstream are trained.
        featurizer: which layer the head sees, or their weighted sum.
        tune: options of the regime.
    """

    def __init__(
        self, upstream: Upstream, head: Head, regime: str, featurizer: FeaturizerConfig, tune: TuneConfig | None = None
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.featurizer: Featurizer = make_featurizer(featurizer, upstream, head)
        self.head = head
        tune = tune or TuneConfig()
        rule = find_regime(regime)
        self.upstream_trains = rule.trains_upstream
        apply_regime(rule, upstream, tune)
        self.freeze_updates = tune.freeze_updates
        self.updates = 0
        """Updates so far, kept by the trainer; before ``freeze_updates`` of them the upstream gets no gradient."""
        self._upstream_checked = False
        self.train()

    def train(self, mode: bool = True) -> Model:
        """As in torch, except that a frozen upstream stays in evaluation mode."""
        super().train(mode)
        if not self.upstream_trains:
            self.upstream.eval()
        return self

    @property
    def mean_suffices(self) -> bool:
        """Whether only the mean of each state over an utterance's frames matters."""
        return self.head.mean_suffices and self.featurizer.linear

    def _hidden(self, batch: Batch) -> HiddenStates:
        if batch.hidden is not None:
            return batch.hidden
        # as in fairseq's Wav2VecEncoder, an upstream that is not trained yet runs in training mode, without gradient
        trains = self.upstream_trains and self.updates >= self.freeze_updates
        context: AbstractContextManager[Any] = nullcontext() if trains else torch.no_grad()
        with context:
            hidden: HiddenStates = self.upstream(batch.wavs, batch.wav_lens, keep=self.featurizer.keep)
        if not self._upstream_checked:
            self._check(batch, hidden)
            self._upstream_checked = True
        return hidden

    def _check(self, batch: Batch, hidden: HiddenStates) -> None:
        """Check that the states are what :class:`Upstream` promises: a plug-in may be wrong."""
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

    def forward(self, batch: Batch | None) -> Tensor:
        """Mean loss of a batch, a scalar; of none 0, which depends on all parameters that have gradients."""
        if batch is None:
            used = [parameter.sum() for parameter in self.parameters() if parameter.grad is not None]
            return torch.stack(used).sum() * 0
        hidden = self._hidden(batch)
        return self.head.loss(self.featurizer(hidden), hidden.lengths, batch.targets)

    def predict(self, batch: Batch, statistics: StateStatistics | None = None) -> list[Any]:
        """One prediction an utterance; counts the states' contributions into ``statistics``."""
        hidden = self._hidden(batch)
        features = self.featurizer(hidden)
        predictions = self.head.predict(features, hidden.lengths)
        if statistics is not None and isinstance(self.featurizer, WeightedSum):
            statistics.add(self.featurizer, hidden, features)
        return predictions

    def trained_state(self) -> dict[str, Tensor]:
        """The state dict without what stays as the upstream's checkpoint file has it."""
        if not self.upstream_trains:  # without a look at the upstream: probes that train together ask again and again
            parts = {"featurizer": self.featurizer, "head": self.head}
            return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
        kept = self._untrained()
        return {key: value for key, value in self.state_dict().items() if key not in kept}

    def _untrained(self) -> set[str]:
        """Names of the upstream's parameters and buffers that no update changes."""
        if not self.upstream_trains:
            return self._of_upstream()
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    def _of_upstream(self) -> set[str]:
        return {key for key in self.state_dict() if key.startswith("upstream.")}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`trained_state` returned; strict."""
        self._load(state, self._untrained())

    def load_head(self, state: Mapping[str, Tensor]) -> None:
        """Load the head and layer weights, :meth:`trained_state` of a model with a frozen upstream; strict."""
        self._load(state, self._of_upstream())

    def _load(self, state: Mapping[str, Tensor], left_out: set[str]) -> None:
        missing, unexpected = self.load_state_dict(state, strict=False)
        absent = sorted(set(missing) - left_out)
        if absent or unexpected:
            raise KeyError(f"missing {absent[:5]}, unexpected {unexpected[:5]}")
