from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from benchmark.engine.featurizer import Featurizer, SingleLayer, StateStatistics, WeightedSum, combine
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates


def hidden(num_states: int = 3) -> HiddenStates:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 3])
    states = [10**k * torch.randn(2, 5, 4, generator=generator) for k in range(num_states)]
    for state in states:
        state[1, 3:] = 0
    return HiddenStates(states, lengths)


def test_the_sum_is_softmax_weighted_and_starts_uniform() -> None:
    made, states = WeightedSum(3), hidden()
    torch.testing.assert_close(made(states), torch.stack(states.states).mean(0))
    made.weights.data = torch.tensor([0.3, -1.0, 2.0])
    shares = made.weights.softmax(0)
    torch.testing.assert_close(made(states), torch.einsum("k,kbfd->bfd", shares, torch.stack(states.states)))
    made(states).sum().backward()
    assert made.weights.grad is not None


def products(shares: torch.Tensor, states: Sequence[torch.Tensor]) -> torch.Tensor:
    """What ``combine`` is, by operations that autograd knows."""
    return torch.stack([share * state for share, state in zip(shares, states, strict=True)]).sum(0)


@pytest.mark.parametrize("states_train", [False, True])
def test_the_sum_has_the_gradients_of_its_products(states_train: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    trained = [shares, *(state.requires_grad_() for state in states if states_train)]
    found, expected = (
        torch.autograd.grad(function(shares, states).pow(3).sum(), trained) for function in (combine, products)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("made", [WeightedSum(3), WeightedSum(3, keys=True), SingleLayer(1, 3)])
def test_means_side_by_side_are_featurised_as_each(made: Featurizer) -> None:
    """As a stack of probes does it: several runs at once, from means of the states that they take."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 2, 1 if made.keep else 3, 4, generator=generator)  # (run, batch, state, dim)
    weights = {name: torch.randn(6, *value.shape, generator=generator) for name, value in made.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(_OfMeans(made), named(weights), states)
        return found.pow(3).sum()

    def named(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"featurizer.{name}": value for name, value in weights.items()}

    together = {name: value.clone().requires_grad_() for name, value in weights.items()}
    losses = torch.func.vmap(loss)(together, states)
    if together:
        losses.sum().backward()
    for i in range(6):
        alone = {name: value[i].clone().requires_grad_() for name, value in weights.items()}
        slices = HiddenStates([states[i][:, k : k + 1] for k in range(states.shape[2])], torch.ones(2).long())
        expected = torch.func.functional_call(made, alone, slices).pow(3).sum()
        torch.testing.assert_close(losses[i], expected)
        if together:
            expected.backward()
            for name, weight in alone.items():
                torch.testing.assert_close(together[name].grad[i], weight.grad)


class _OfMeans(torch.nn.Module):
    def __init__(self, featurizer: Featurizer) -> None:
        super().__init__()
        self.featurizer = featurizer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.featurizer.of_means(states)


@pytest.mark.parametrize("dtypes", [[torch.bfloat16] * 3, [torch.bfloat16, torch.float32, torch.bfloat16]])
def test_states_of_less_precision_are_summed_too(dtypes: list[torch.dtype]) -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(3, generator=generator).requires_grad_()
    states = [torch.randn(2, 50, 4, generator=generator).to(dtype) for dtype in dtypes]
    found = combine(shares, states)
    assert found.dtype == torch.promote_types(*dtypes[:2])
    found.float().sum().backward()
    assert shares.grad is not None
    torch.testing.assert_close(shares.grad, torch.stack([state.float().sum() for state in states]), rtol=0.02, atol=0.1)


def test_normalised_states_weigh_alike() -> None:
    made, states = WeightedSum(3, normalize=True), hidden()
    expected = sum(torch.nn.functional.layer_norm(state, (4,)) for state in states.states) / 3
    torch.testing.assert_close(made(states), expected)


def test_one_state() -> None:
    made = SingleLayer(-1, 3)
    assert made.keep == [2]
    state = hidden().states[2]
    assert torch.equal(made(HiddenStates([state], torch.tensor([5, 3]))), state)
    with pytest.raises(BenchmarkError, match=r"layer 3 does not exist: this upstream has 3 layers"):
        SingleLayer(3, 3)
    with pytest.raises(BenchmarkError, match=r"layer -4 .* 0 \(input .* to 2 \(output .*, or -3 to -1, counted"):
        SingleLayer(-4, 3)


def test_statistics_are_those_of_the_valid_frames() -> None:
    made, states = WeightedSum(3), hidden()
    made.weights.data = torch.tensor([0.3, -1.0, 2.0])
    counted = StateStatistics(3)
    for i in range(2):  # in two batches, one of them padded
        part = HiddenStates([state[i : i + 1] for state in states.states], states.lengths[i : i + 1])
        counted.add(made, part, made(part))
    found = counted.summary(made)

    frames = [torch.cat([state[0, :5], state[1, :3]]).double() for state in states.states]
    weights = made.weights.detach().double().softmax(0)
    summed = sum(weight * frame for weight, frame in zip(weights, frames, strict=True))
    assert found["layer_weights"] == pytest.approx(weights.tolist())
    assert found["layer_norms"] == pytest.approx([frame.norm(dim=-1).mean().item() for frame in frames], rel=1e-5)
    total = (summed * summed).sum()
    shares = [float((weight * (frame * summed).sum()) / total) for weight, frame in zip(weights, frames, strict=True)]
    assert found["layer_shares"] == pytest.approx(shares, rel=1e-5)
    assert sum(found["layer_shares"]) == pytest.approx(1)
    assert found["layer_shares"][2] > 0.9 > found["layer_weights"][2]  # the loud state dominates whatever its weight
