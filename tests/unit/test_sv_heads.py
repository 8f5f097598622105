"""SV heads and losses: sizes, operations against slow formulas, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from downstream.sv.heads import (
    HEADS,
    LOSSES,
    AMSoftmax,
    HeadConfig,
    LossConfig,
    Softmax,
    XVector,
    make_head,
    repeat_short,
    statistics_pooling,
)

SMALL = HeadConfig(size=16, pooled=24)


@pytest.fixture
def xvector() -> XVector:
    torch.manual_seed(0)
    return XVector(12, 5, SMALL, LossConfig())


def test_sizes_are_superbs() -> None:
    """6.24 M parameters for 1,024 features, 0.62 M in AM-softmax for 1,211 speakers (s3prl.md, section 1)."""
    head = XVector(1024, 1211, HeadConfig(), LossConfig())
    objective = sum(p.numel() for p in head.objective.parameters())
    assert objective == 620_032
    assert sum(p.numel() for p in head.parameters()) - objective == 6_241_244
    assert {name: tuple(p.shape) for name, p in head.named_parameters() if not name.endswith("bias")} == {
        "connector.weight": (512, 1024),
        "tdnn.0.weight": (512, 512, 5),
        "tdnn.1.weight": (512, 512, 3),
        "tdnn.2.weight": (512, 512, 3),
        "tdnn.3.weight": (512, 512, 1),
        "tdnn.4.weight": (1500, 512, 1),
        "linear1.weight": (512, 3000),
        "linear2.weight": (512, 512),
        "objective.W": (512, 1211),
    }


def one_by_one(head: XVector, frames: Tensor) -> Tensor:
    """The x-vector of one utterance (frame, dim), every frame spliced by hand."""
    x = frames @ head.connector.weight.T + head.connector.bias
    for layer, (kernel, dilation) in zip(head.tdnn, [(5, 1), (3, 2), (3, 3), (1, 1), (1, 1)], strict=True):
        assert isinstance(layer, nn.Conv1d)
        # columns of the spliced frame: (kernel, feature)
        weight = layer.weight.transpose(1, 2).reshape(layer.weight.shape[0], -1)
        spliced = [
            torch.cat([x[t + k * dilation] for k in range(kernel)]) for t in range(len(x) - (kernel - 1) * dilation)
        ]
        x = torch.relu(torch.stack(spliced) @ weight.T + layer.bias)
    pooled = torch.cat([x.mean(0), x.std(0)])
    return torch.relu(head.linear1.weight @ pooled + head.linear1.bias)


def test_xvector_is_the_formula(xvector: XVector) -> None:
    frames = torch.randn(40, 12)
    (embedding,) = xvector.predict(frames[None], torch.tensor([40]))
    torch.testing.assert_close(embedding, one_by_one(xvector, frames).detach(), rtol=1e-5, atol=1e-6)
    assert embedding.shape == (16,)
    assert not embedding.requires_grad
    assert embedding.max() > 0


def test_training_adds_a_layer_before_the_loss(xvector: XVector) -> None:
    features, lengths, targets = torch.randn(3, 30, 12), torch.tensor([30, 22, 30]), torch.tensor([4, 0, 2])
    embeddings = torch.stack([one_by_one(xvector, f[:n]) for f, n in zip(features, lengths, strict=True)])
    expected = xvector.objective(torch.relu(xvector.linear2(embeddings)), targets)
    loss = xvector.loss(features, lengths, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in xvector.parameters())


@pytest.mark.parametrize("name", sorted(HEADS))
def test_an_embedding_is_the_same_alone_and_in_any_batch(name: str) -> None:
    torch.manual_seed(1)
    head = make_head(12, 5, HeadConfig(name=name, size=16, pooled=24), LossConfig())
    lengths = torch.tensor([1, 60, 15, 14, 33, 16, 7])
    features = [torch.randn(n, 12) for n in lengths.tolist()]
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    noisy = batch + 100 * (torch.arange(60)[None, :, None] >= lengths[:, None, None])  # padding must not be looked at
    together, noisy_together = head.predict(batch, lengths), head.predict(noisy, lengths)
    for i, frames in enumerate(features):
        (alone,) = head.predict(frames[None], lengths[i : i + 1])
        assert alone.isfinite().all()
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(noisy_together[i], alone, rtol=1e-5, atol=1e-6)


def test_pooling_is_mean_and_unbiased_deviation() -> None:
    x = torch.randn(3, 4, 9, dtype=torch.float32) * 3 + 50
    x[1, 2] = 7.0  # constant: deviation 0
    lengths = torch.tensor([9, 5, 2])
    x = x.requires_grad_()
    pooled = statistics_pooling(x, lengths)
    expected = torch.stack([torch.cat([u[:, :n].mean(1), u[:, :n].std(1)]) for u, n in zip(x, lengths, strict=True)])
    torch.testing.assert_close(pooled, expected, rtol=1e-6, atol=1e-5)
    direction = torch.randn_like(pooled)
    (gradient,) = torch.autograd.grad((pooled * direction).sum(), x)
    (wanted,) = torch.autograd.grad((expected * direction).sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
    assert statistics_pooling(x[:, :, :1], torch.ones(3, dtype=torch.long))[:, 4:].eq(0).all()


def test_short_utterances_repeat_their_frames() -> None:
    features = torch.arange(1.0, 11).reshape(2, 5, 1)
    repeated, lengths = repeat_short(features, torch.tensor([2, 5]), least=7)
    assert lengths.tolist() == [7, 7]
    assert repeated[:, :, 0].tolist() == [[1, 2, 1, 2, 1, 2, 1], [6, 7, 8, 9, 10, 6, 7]]
    same, lengths = repeat_short(features, torch.tensor([5, 5]), least=5)
    assert same is features
    with pytest.raises(BenchmarkError, match="without a single frame"):
        repeat_short(features, torch.tensor([5, 0]), least=3)


def test_amsoftmax_is_the_formula() -> None:
    torch.manual_seed(2)
    loss = AMSoftmax(6, 4, LossConfig(scale=30.0, margin=0.4))
    x, targets = torch.randn(5, 6), torch.tensor([3, 0, 1, 1, 2])
    total = 0.0
    for vector, target in zip(x, targets.tolist(), strict=True):
        cosines = [float(vector @ w / (vector.norm() * w.norm())) for w in loss.W.detach().T]
        true = torch.tensor(30 * (cosines[target] - 0.4), dtype=torch.float64).exp()
        others = sum(torch.tensor(30 * c, dtype=torch.float64).exp() for i, c in enumerate(cosines) if i != target)
        total -= float((true / (true + others)).log())
    assert loss(x, targets).item() == pytest.approx(total / 5, rel=1e-5)
    assert loss(7 * x, targets).item() == pytest.approx(total / 5, rel=1e-5)


def test_softmax_is_cross_entropy() -> None:
    loss = Softmax(6, 4, LossConfig("softmax"))
    x, targets = torch.randn(5, 6), torch.tensor([3, 0, 1, 1, 2])
    torch.testing.assert_close(loss(x, targets), F.cross_entropy(x @ loss.fc.weight.T + loss.fc.bias, targets))


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_learns_with_every_loss(head: str, loss: str) -> None:
    torch.manual_seed(3)
    model = make_head(8, 4, HeadConfig(name=head, size=16, pooled=16), LossConfig(loss))
    targets = torch.arange(16) % 4
    centres = torch.randn(4, 1, 8)
    features, lengths = centres[targets] + torch.randn(16, 25, 8), torch.full((16,), 25)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model.loss(features, lengths, targets).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = model.loss(features, lengths, targets)
        value.backward()
        optimizer.step()
    assert value.item() < 0.3 * first


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown head 'xvectr' .*Did you mean 'xvector'"):
        make_head(8, 4, HeadConfig(name="xvectr"), LossConfig())
    with pytest.raises(BenchmarkError, match=r"unknown loss 'am_softmax' .*Did you mean 'amsoftmax'"):
        make_head(8, 4, HeadConfig(), LossConfig("am_softmax"))
    with pytest.raises(BenchmarkError, match=r"task.head.size must be positive, got 0"):
        make_head(8, 4, HeadConfig(size=0), LossConfig())
