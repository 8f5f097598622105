"""Hidden states -> one feature sequence: the learned weighted sum over layers, or one layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates


class WeightedSum(nn.Module):
    """softmax(weights) over all states, initialised uniform (SUPERB, 2105.01051, section 2).

    Args:
        num_states: of the upstream.
        normalize: normalise each state over its features first, without learned scale.
    """

    def __init__(self, num_states: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_states))
        self.normalize = normalize
        self.keep: Sequence[int] | None = None

    def forward(self, hidden: HiddenStates) -> Tensor:
        """num_states x (batch, frame, dim) -> (batch, frame, dim)."""
        shares = torch.softmax(self.weights, dim=0)
        total = shares[0] * self.prepare(hidden.states[0])
        for share, state in zip(shares[1:], hidden.states[1:], strict=True):
            total = total + share * self.prepare(state)
        return total

    def prepare(self, state: Tensor) -> Tensor:
        """A state as it enters the sum."""
        return nn.functional.layer_norm(state, state.shape[-1:]) if self.normalize else state


def check_layer(layer: int, num_states: int) -> None:
    """Raise :class:`BenchmarkError` where an upstream has no such layer; negative ones count from the last."""
    if not -num_states <= layer < num_states:
        raise BenchmarkError(
            f"layer {layer} does not exist: this upstream has {num_states} layers, 0 (input of the first block) to "
            f"{num_states - 1} (output of the encoder)"
        )


class SingleLayer(nn.Module):
    """One state alone; blocks above it are not run."""

    def __init__(self, layer: int, num_states: int, *, normalize: bool = False) -> None:
        super().__init__()
        check_layer(layer, num_states)
        self.keep: Sequence[int] | None = [layer % num_states]
        self.normalize = normalize

    def forward(self, hidden: HiddenStates) -> Tensor:
        """1 x (batch, frame, dim) -> (batch, frame, dim)."""
        (state,) = hidden.states
        return nn.functional.layer_norm(state, state.shape[-1:]) if self.normalize else state


class StateStatistics:
    """What the weighted sum is made of, over the frames of an evaluation.

    In pre-norm models the states are un-normalised residuals whose norms grow with depth, so the softmax weights alone
    do not tell how much a state contributes. With s = Σ_k w_k h_k, a state's share is E[w_k ⟨h_k, s⟩] / E[⟨s, s⟩]: the
    shares sum to one, and one is negative where a state points against the sum.
    """

    def __init__(self, num_states: int) -> None:
        self.frames = 0
        self.norms = torch.zeros(num_states, dtype=torch.float64)
        self.inner = torch.zeros(num_states, dtype=torch.float64)

    @torch.no_grad()
    def add(self, featurizer: WeightedSum, hidden: HiddenStates, features: Tensor) -> None:
        """Count in one batch; ``features`` (batch, frame, dim) is the weighted sum."""
        if hidden.gram is not None and hidden.norms is not None and hidden.frames is not None:
            self.frames += round(float(hidden.frames.sum()))
            self.norms += hidden.norms.double().sum(0).cpu()
            weights = torch.softmax(featurizer.weights, dim=0).double().cpu()
            self.inner += hidden.gram.double().sum(0).cpu() @ weights
            return
        valid = torch.arange(features.shape[1], device=features.device) < hidden.lengths.to(features.device)[:, None]
        summed = features[valid].float()  # (valid frames, dim)
        self.frames += len(summed)
        for k, state in enumerate(hidden.states):
            self.norms[k] += state[valid].float().norm(dim=-1).sum().double().cpu()
            self.inner[k] += (featurizer.prepare(state)[valid].float() * summed).sum().double().cpu()

    def summary(self, featurizer: WeightedSum) -> dict[str, list[float]]:
        """``layer_weights`` (softmax), ``layer_norms`` (mean L2 norm of a frame), ``layer_shares``."""
        weights = torch.softmax(featurizer.weights.detach().double().cpu(), dim=0)
        contribution = weights * self.inner
        return {
            "layer_weights": weights.tolist(),
            "layer_norms": (self.norms / max(self.frames, 1)).tolist(),
            "layer_shares": (contribution / contribution.sum()).nan_to_num().tolist(),  # 0 where all features are
        }
