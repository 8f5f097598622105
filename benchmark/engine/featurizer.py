"""Hidden states -> one feature sequence: the learned weighted sum over layers, convolutions over them, or one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmark.config import FeaturizerConfig
from benchmark.engine.sharding import plain
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Head, HiddenStates, Upstream


class Featurizer(nn.Module):
    """num_states x (batch, frame, dim), or those in ``keep`` -> (batch, frame, feature)."""

    linear = True
    """Whether it commutes with a mean over frames."""
    keep: Sequence[int] | None = None
    """Which states it takes; ``None``: all."""
    normalize: bool
    """Whether each state is normalised over its features first, without learned scale."""

    def prepare(self, state: Tensor) -> Tensor:
        """A state as it enters the features."""
        return nn.functional.layer_norm(state, state.shape[-1:]) if self.normalize else state

    def of_means(self, states: Tensor) -> Tensor:
        """Where :attr:`linear`: (batch, state, dim), means over time of the states that it takes, normalised before
        where it would -> (batch, 1, feature)."""
        raise NotImplementedError


class WeightedSum(Featurizer):
    """softmax(weights) over all states, initialised uniform (SUPERB, 2105.01051, section 2).

    Args:
        num_states: of the upstream.
        normalize: normalise each state over its features first, without learned scale.
        keys: a second sum before the first, of weights of its own: see :attr:`benchmark.interfaces.Head.attends`.
    """

    def __init__(self, num_states: int, *, normalize: bool = False, keys: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_states))
        self.key_weights = nn.Parameter(torch.zeros(num_states)) if keys else None
        self.normalize = normalize

    def forward(self, hidden: HiddenStates) -> Tensor:
        """num_states x (batch, frame, dim) -> (batch, frame, dim); with keys (batch, frame, 2 * dim)."""
        values = self._sum(self.weights, hidden)
        return values if self.key_weights is None else torch.cat([self._sum(self.key_weights, hidden), values], dim=2)

    def of_means(self, states: Tensor) -> Tensor:
        """See :meth:`Featurizer.of_means`. As one product: means are small, and most of :func:`combine` would be
        overhead; on a GPU by numbers, since its matrix products may be rounded (``trainer.tf32``)."""

        def summed(weights: Tensor) -> Tensor:
            shares = torch.softmax(weights, dim=0)[:, None]
            return (shares * states).sum(1, keepdim=True) if states.is_cuda else shares.t() @ states

        values = summed(self.weights)
        return values if self.key_weights is None else torch.cat([summed(self.key_weights), values], dim=2)

    def _sum(self, weights: Tensor, hidden: HiddenStates) -> Tensor:
        return combine(torch.softmax(weights, dim=0), [self.prepare(state) for state in hidden.states])


def combine(shares: Tensor, states: Sequence[Tensor]) -> Tensor:
    """(state,) shares and as many tensors of one shape -> the sum of their products."""
    return cast(Tensor, _Combination.apply(shares, *states))  # type: ignore[no-untyped-call]


class _Combination(torch.autograd.Function):
    """:func:`combine`, reading each state once forward and once backward: as products and sums of their own, most of an
    update of a small head would be memory that comes and goes."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor, *states: Tensor) -> Tensor:
        """The sum."""
        ctx.save_for_backward(shares, *states)
        total = shares[0] * states[0]
        for share, state in zip(shares[1:], states[1:], strict=True):
            total = total.addcmul_(state, share) if total.dtype == state.dtype else total + share * state
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the shares and of each state."""
        shares, *states = ctx.saved_tensors
        of_shares = None
        if ctx.needs_input_grad[0]:
            of_shares = torch.stack([_inner(gradient, state) for state in states]).to(shares.dtype)
        wanted = ctx.needs_input_grad[1:]
        return of_shares, *(
            (gradient * share).to(state.dtype) if want else None
            for share, state, want in zip(shares, states, wanted, strict=True)
        )


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two tensors of one shape, in float32 at least; by rows, since ``torch.dot`` of so many numbers
    loses digits."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return cast(Tensor, torch.linalg.vecdot(a.to(dtype), b.to(dtype)).sum())


class HierarchicalConvolution(Featurizer):
    """Convolutions over the layer axis, of each frame alone, each followed by ReLU (Shih and Harwath: Interface Design
    for Self-Supervised Speech Models, Interspeech 2024, 2406.12209).

    Kernel 5, stride 3, padding 2; as many as 3 can be divided out of the number of states, rounding down, so that few
    places along the axis are left: 2 of Base's 13 states, 3 of Large's 25. All channels are ``dim`` but those of the
    last, ``dim // places``: its places side by side are the features, a channel's next to each other. As the authors'
    code (atosystem/SSL_Interface 5efeeee, ``interfaces/hconvInterface.py``), which asks for ``places`` to divide
    ``dim``; here there are fewer features otherwise. Of fewer than 3 states, for which theirs has none, there is one
    convolution.

    Args:
        num_states: of the upstream.
        dim: its features.
        normalize: normalise each state over its features first, without learned scale.
    """

    KERNEL, STRIDE, PADDING = 5, 3, 2
    linear = False

    def __init__(self, num_states: int, dim: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        count, places = 1, self._places(num_states)
        while self.STRIDE ** (count + 1) <= num_states:
            count, places = count + 1, self._places(places)
        widths = [dim] * (count - 1) + [dim // places]
        self.size = places * widths[-1]
        """Features."""
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, width, self.KERNEL, self.STRIDE, self.PADDING) for width in widths
        )

    def _places(self, states: int) -> int:
        return (states + 2 * self.PADDING - self.KERNEL) // self.STRIDE + 1

    def forward(self, hidden: HiddenStates) -> Tensor:
        """num_states x (batch, frame, dim) -> (batch, frame, :attr:`size`)."""
        x = torch.stack([self.prepare(state) for state in hidden.states], dim=3)  # (batch, frame, dim, state)
        batch, frame = x.shape[:2]
        x = x.flatten(0, 1)
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return x.reshape(batch, frame, -1)


def feature_size(config: FeaturizerConfig, upstream: Upstream) -> int:
    """Features of a frame, as the head sees it; a head that attends sees keys of the same size beside them."""
    if config.name == "hconv" and config.layer is None:
        with torch.device("meta"):
            return HierarchicalConvolution(upstream.num_states, upstream.hidden_size).size
    return upstream.hidden_size


def make_featurizer(config: FeaturizerConfig, upstream: Upstream, head: Head) -> Featurizer:
    """A freshly initialised featurizer; :class:`BenchmarkError` where it does not go with the head."""
    states, normalize = upstream.num_states, config.normalize
    if config.layer is not None:
        return SingleLayer(config.layer, states, normalize=normalize)
    if config.name == "weighted_sum":
        return WeightedSum(states, normalize=normalize, keys=head.attends)
    if head.attends:
        raise BenchmarkError(
            f"featurizer.name={config.name} does not go with this head, which takes two weighted sums of the layers; "
            "choose another task.head.name, or featurizer.name=weighted_sum"
        )
    return HierarchicalConvolution(states, upstream.hidden_size, normalize=normalize)


def check_layer(layer: int, num_states: int) -> None:
    """Raise :class:`BenchmarkError` where an upstream has no such layer; negative ones count from the last."""
    if not -num_states <= layer < num_states:
        raise BenchmarkError(
            f"layer {layer} does not exist: this upstream has {num_states} layers, 0 (input of the first block) to "
            f"{num_states - 1} (output of the encoder), or -{num_states} to -1, counted from the last"
        )


class SingleLayer(Featurizer):
    """One state alone; blocks above it are not run."""

    def __init__(self, layer: int, num_states: int, *, normalize: bool = False) -> None:
        super().__init__()
        check_layer(layer, num_states)
        self.keep = [layer % num_states]
        self.normalize = normalize

    def forward(self, hidden: HiddenStates) -> Tensor:
        """1 x (batch, frame, dim) -> (batch, frame, dim)."""
        (state,) = hidden.states
        return self.prepare(state)

    def of_means(self, states: Tensor) -> Tensor:
        """See :meth:`Featurizer.of_means`."""
        return states


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
        """Count in one batch; ``features`` (batch, frame, dim) is the weighted sum, which keys may precede."""
        if hidden.gram is not None and hidden.norms is not None and hidden.frames is not None:
            self.frames += round(float(hidden.frames.sum()))
            self.norms += hidden.norms.double().sum(0).cpu()
            weights = torch.softmax(featurizer.weights, dim=0).double().cpu()
            self.inner += hidden.gram.double().sum(0).cpu() @ weights
            return
        valid = torch.arange(features.shape[1], device=features.device) < hidden.lengths.to(features.device)[:, None]
        padded = not valid.all()

        def chosen(state: Tensor) -> Tensor:
            """(batch, frame, dim) -> (valid frame, dim)."""
            return (state[valid] if padded else state.flatten(0, 1)).float()

        summed = chosen(features[..., -hidden.states[0].shape[2] :])
        self.frames += len(summed)
        for k, state in enumerate(hidden.states):
            self.norms[k] += chosen(state).norm(dim=-1).sum().double().cpu()
            self.inner[k] += _inner(chosen(featurizer.prepare(state)), summed).double().cpu()

    def merge(self, other: StateStatistics) -> None:
        """Count in what another process has counted."""
        self.frames += other.frames
        self.norms += other.norms
        self.inner += other.inner

    def summary(self, featurizer: WeightedSum) -> dict[str, list[float]]:
        """``layer_weights`` (softmax), with keys ``layer_key_weights`` (the same of them), ``layer_norms`` (mean L2
        norm of a frame), ``layer_shares``."""
        weights = torch.softmax(plain(featurizer.weights.detach()).double().cpu(), dim=0)
        contribution = weights * self.inner
        of_keys = {}
        if featurizer.key_weights is not None:
            keys = plain(featurizer.key_weights.detach()).double().cpu()
            of_keys = {"layer_key_weights": torch.softmax(keys, dim=0).tolist()}
        return of_keys | {
            "layer_weights": weights.tolist(),
            "layer_norms": (self.norms / max(self.frames, 1)).tolist(),
            "layer_shares": (contribution / contribution.sum()).nan_to_num().tolist(),  # 0 where all features are
        }
