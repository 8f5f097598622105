"""Shared heads and losses: sizes, operations against slow formulas, and independence of the batch."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from downstream.classifier import Classifier
from downstream.embedders import ASP, ECAPA, EMBEDDERS, EmbedderConfig, MeanPooling, XVector
from downstream.losses import LOSSES, AAMSoftmax, AMSoftmax, LossConfig, Softmax
from downstream.pooling import AttentiveStatistics, repeat_short, statistics_pooling, weighted_statistics
from downstream.sv.task import SpeakerEncoder

HEADS = sorted(EMBEDDERS)
OBJECTIVES = sorted(LOSSES)
both = pytest.mark.parametrize(("head", "loss"), [(head, loss) for head in HEADS for loss in OBJECTIVES])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(name: str) -> EmbedderConfig:
    return EmbedderConfig(name, size=16, pooled=24, channels=16, attention=8, heads=4)


def make(name: str, loss: str = "amsoftmax", kind: type[Classifier] = SpeakerEncoder, seed: int = 0) -> Classifier:
    """A small head in evaluation mode, its batch normalisation as if it had been trained."""
    torch.manual_seed(seed)
    head = kind(12, 5, small(name), LossConfig(loss))
    with torch.no_grad():
        for parameter in head.embedder.parameters():
            parameter.mul_(1.5)  # so that what goes in can be told from what comes out
    for module in head.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
            nn.init.normal_(module.bias)
    return head.eval()


def ragged(lengths: list[int], seed: int = 1) -> tuple[list[Tensor], Tensor, Tensor]:
    """Utterances (frame, 12); them padded with zeros; their lengths."""
    torch.manual_seed(seed)
    features = [torch.randn(n, 12) for n in lengths]
    return features, nn.utils.rnn.pad_sequence(features, batch_first=True), torch.tensor(lengths)


# --- Sizes ------------------------------------------------------------------------------------------------------------


def numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_xvector_has_superbs_sizes() -> None:
    """6.24 M parameters for 1,024 features, 0.62 M in AM-softmax for 1,211 speakers (s3prl.md, section 1)."""
    head = SpeakerEncoder(1024, 1211, EmbedderConfig(), LossConfig())
    assert (numel(head.embedder), numel(head.objective)) == (6_241_244, 620_032)
    assert {name: tuple(p.shape) for name, p in head.named_parameters() if not name.endswith("bias")} == {
        "embedder.connector.weight": (512, 1024),
        "embedder.tdnn.0.weight": (512, 512, 5),
        "embedder.tdnn.1.weight": (512, 512, 3),
        "embedder.tdnn.2.weight": (512, 512, 3),
        "embedder.tdnn.3.weight": (512, 512, 1),
        "embedder.tdnn.4.weight": (1500, 512, 1),
        "embedder.linear1.weight": (512, 3000),
        "embedder.linear2.weight": (512, 512),
        "objective.W": (512, 1211),
    }


def test_sizes_of_none_are_the_heads_own() -> None:
    sizes = {name: EMBEDDERS[name](80, EmbedderConfig(name)).size for name in HEADS}
    assert sizes == {"xvector": 512, "mean": 256, "asp": 512, "ecapa": 192, "mhfa": 256}
    # ECAPA-TDNN, section 4 and table 1: 6.2 M parameters with 512 channels, 14.7 M with 1,024, for 80 features
    assert round(numel(ECAPA(80, EmbedderConfig("ecapa"))) / 1e6, 1) == 6.2
    assert round(numel(ECAPA(80, EmbedderConfig("ecapa", channels=1024))) / 1e6, 1) == 14.7
    sid = Classifier(768, 1251, EmbedderConfig("mean"), LossConfig("softmax"))
    assert {name: tuple(p.shape) for name, p in sid.named_parameters()} == {
        "embedder.connector.weight": (256, 768),
        "embedder.connector.bias": (256,),
        "objective.fc.weight": (1251, 256),
        "objective.fc.bias": (1251,),
    }
    margins = {name: LOSSES[name](4, 3, LossConfig(name)) for name in ("amsoftmax", "aamsoftmax")}
    assert [(m.scale, m.margin) for m in margins.values()] == [(30.0, 0.4), (30.0, 0.2)]  # type: ignore[union-attr]


# --- Independence of the batch ----------------------------------------------------------------------------------------

LENGTHS = [1, 60, 15, 14, 33, 16, 7]


@both
def test_predictions_are_the_same_alone_and_in_any_batch(head: str, loss: str) -> None:
    features, batch, lengths = ragged(LENGTHS)
    longer = F.pad(batch, (0, 0, 0, 23))
    noisy = batch + 100 * (torch.arange(60)[None, :, None] >= lengths[:, None, None])  # padding must not be looked at
    for kind in (SpeakerEncoder, Classifier):
        model = make(head, loss, kind)
        alone = [model.predict(x[None], lengths[i : i + 1])[0] for i, x in enumerate(features)]
        assert all(prediction.isfinite().all() for prediction in alone)
        assert not torch.allclose(alone[0], alone[1], atol=1e-3)
        for padded in (batch, longer, noisy):
            for prediction, expected in zip(model.predict(padded, lengths), alone, strict=True):
                torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=1e-5)


@both
def test_losses_and_gradients_do_not_see_padding(head: str, loss: str) -> None:
    """In training mode, too: the batch is the same, only its padding is longer and not zero."""
    _, batch, lengths = ragged(LENGTHS)
    targets = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    noisy = F.pad(batch, (0, 0, 0, 23))
    noisy = noisy + 10 * (torch.arange(83)[None, :, None] >= lengths[:, None, None])
    first = make(head, loss).train()
    second = copy.deepcopy(first)
    values = []
    for model, features in ((first, batch), (second, noisy)):
        value = model.loss(features, lengths, targets)
        value.backward()
        values.append(value)
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    for (name, one), (_, other) in zip(first.named_buffers(), second.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_batch_normalisation_counts_valid_frames_only() -> None:
    """The statistics are those of ``nn.BatchNorm1d`` over the utterances' frames, one after the other."""
    model = make("ecapa").train()
    embedder = model.embedder
    assert isinstance(embedder, ECAPA)
    features, batch, lengths = ragged([9, 30, 4])
    block = embedder.first
    before = block.norm.norm.running_mean.clone(), block.norm.norm.running_var.clone()
    embedder.embed(batch, lengths)
    frames = torch.cat([F.relu(block.conv(x.T[None]))[0] for x in features], dim=1)  # (channels, all valid frames)
    expected = 0.9 * before[0] + 0.1 * frames.mean(1), 0.9 * before[1] + 0.1 * frames.var(1)
    torch.testing.assert_close(block.norm.norm.running_mean, expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(block.norm.norm.running_var, expected[1], rtol=1e-5, atol=1e-6)


def test_batches_of_one_cannot_be_normalised() -> None:
    _, batch, lengths = ragged([20])
    with pytest.raises(BenchmarkError, match=r"batches of one utterance; set trainer\.batch_size to 2"):
        make("ecapa").train().loss(batch, lengths, torch.tensor([0]))


@pytest.mark.parametrize("head", HEADS)
def test_utterances_without_frames_are_refused(head: str) -> None:
    with pytest.raises(BenchmarkError, match="without a single frame"):
        make(head).predict(torch.zeros(2, 5, 12), torch.tensor([5, 0]))


@both
def test_losses_are_float32_under_autocast(head: str, loss: str) -> None:
    _, batch, lengths = ragged([30, 22, 17, 30])
    model, targets = make(head, loss), torch.tensor([0, 1, 2, 3])
    whole = model.loss(batch, lengths, targets)
    with torch.autocast("cpu", torch.bfloat16):
        value = model.train().loss(batch, lengths, targets)
        predicted = model.eval().loss(batch, lengths, targets)
        posteriors = model.log_posteriors(batch, lengths)
    assert value.dtype == posteriors.dtype == torch.float32
    torch.testing.assert_close(predicted, whole, rtol=0.05, atol=0.5)
    torch.testing.assert_close(posteriors.exp().sum(1), torch.ones(4), rtol=1e-5, atol=1e-5)
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- Pooling ----------------------------------------------------------------------------------------------------------

lengths_of_batches = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_batches, padding=st.integers(0, 5), offset=st.sampled_from([0.0, 50.0]), seed=st.integers(0))
def test_pooling_is_that_of_each_utterance_by_itself(
    lengths: list[int], padding: int, offset: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**63)
    x = 3 * torch.randn(len(lengths), 4, max(lengths) + padding, generator=generator) + offset
    count = torch.tensor(lengths)
    utterances = [u[:, :n] for u, n in zip(x, lengths, strict=True)]
    plain = torch.stack([torch.cat([u.mean(1), u.std(1) if u.shape[1] > 1 else u.new_zeros(4)]) for u in utterances])
    torch.testing.assert_close(statistics_pooling(x, count), plain, rtol=1e-5, atol=1e-4)
    pooling = AttentiveStatistics(4, 3, context=seed % 2 == 1)
    nn.init.normal_(pooling.score.weight, std=2.0)
    weights = pooling.weights(x, count)
    torch.testing.assert_close(weights.sum(2), torch.ones(weights.shape[:2]))
    for w, n in zip(weights, lengths, strict=True):
        assert w[:, n:].eq(0).all()
    expected = []
    for u, w in zip(utterances, weights, strict=True):
        h = pooling.hidden.weight[:, :, 0] @ u + pooling.hidden.bias[:, None]
        if pooling.context is not None:
            spread = u.std(1) if u.shape[1] > 1 else u.new_zeros(4)
            h = h + (pooling.context.weight @ torch.cat([u.mean(1), spread]))[:, None]
        scores = pooling.score.weight[:, :, 0] @ torch.tanh(h) + pooling.score.bias[:, None]
        a = scores.exp() / scores.exp().sum(1, keepdim=True)
        torch.testing.assert_close(w[:, : u.shape[1]], a, rtol=1e-3, atol=1e-4)
        mean = (a * u).sum(1)
        expected.append(torch.cat([mean, (a * (u - mean[:, None]) ** 2).sum(1).sqrt()]))
    torch.testing.assert_close(pooling(x, count), torch.stack(expected), rtol=1e-3, atol=2e-3)


def test_statistics_pooling_has_the_gradient_of_std() -> None:
    """Of ``torch.std`` in float64: in float32 its gradient is off by 1e-4 where two frames lie close together."""
    x = torch.randn(3, 4, 9) * 3 + 50
    x[1, 2] = 7.0  # constant: deviation 0
    lengths = torch.tensor([9, 5, 2])
    exact, x = x.double().requires_grad_(), x.requires_grad_()
    pooled = statistics_pooling(x, lengths)
    utterances = [u[:, :n] for u, n in zip(exact, lengths, strict=True)]
    expected = torch.stack([torch.cat([u.mean(1), u.std(1)]) for u in utterances])
    torch.testing.assert_close(pooled.double(), expected, rtol=1e-6, atol=1e-5)
    direction = torch.randn_like(pooled)
    (gradient,) = torch.autograd.grad((pooled * direction).sum(), x)
    (wanted,) = torch.autograd.grad((expected * direction).sum(), exact)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-5)
    assert statistics_pooling(x[:, :, :1], torch.ones(3, dtype=torch.long))[:, 4:].eq(0).all()


def test_weighted_deviation_does_not_cancel() -> None:
    """s3prl's ``sqrt(mean(x²) - mean(x)² + 1e-8)`` is NaN or wrong here."""
    x = (1000 + 0.01 * torch.randn(2, 3, 50)).requires_grad_()
    weights = torch.full((2, 1, 50), 1 / 50)
    pooled = weighted_statistics(x, weights)
    torch.testing.assert_close(pooled[:, 3:], x.double().std(2, correction=0).float(), rtol=1e-2, atol=0)
    assert not torch.allclose((x.square().mean(2) - x.mean(2) ** 2 + 1e-8).sqrt(), pooled[:, 3:], rtol=0.1)
    constant = torch.full((1, 3, 5), 4.0, requires_grad=True)
    weighted_statistics(constant, torch.full((1, 1, 5), 0.2)).sum().backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_attention_without_weights_is_statistics() -> None:
    """With equal scores, mean and (biased) deviation: what is learned starts near statistics pooling."""
    pooling = AttentiveStatistics(6, 4)
    nn.init.zeros_(pooling.score.weight)
    x = torch.randn(2, 6, 11)
    expected = torch.cat([x.mean(2), x.std(2, correction=0)], dim=1)
    torch.testing.assert_close(pooling(x, torch.tensor([11, 11])), expected)


def test_short_utterances_repeat_their_frames() -> None:
    features = torch.arange(1.0, 11).reshape(2, 5, 1)
    repeated, lengths = repeat_short(features, torch.tensor([2, 5]), least=7)
    assert lengths.tolist() == [7, 7]
    assert repeated[:, :, 0].tolist() == [[1, 2, 1, 2, 1, 2, 1], [6, 7, 8, 9, 10, 6, 7]]
    same, lengths = repeat_short(features, torch.tensor([5, 5]), least=5)
    assert same is features


# --- Embedders against their formulas ---------------------------------------------------------------------------------


def xvector_by_hand(net: XVector, frames: Tensor) -> Tensor:
    """The x-vector of one utterance (frame, dim), every frame spliced by hand."""
    x = frames @ net.connector.weight.T + net.connector.bias
    for layer, (kernel, dilation) in zip(net.tdnn, [(5, 1), (3, 2), (3, 3), (1, 1), (1, 1)], strict=True):
        assert isinstance(layer, nn.Conv1d)
        # columns of the spliced frame: (kernel, feature)
        weight = layer.weight.transpose(1, 2).reshape(layer.weight.shape[0], -1)
        spliced = [
            torch.cat([x[t + k * dilation] for k in range(kernel)]) for t in range(len(x) - (kernel - 1) * dilation)
        ]
        x = torch.relu(torch.stack(spliced) @ weight.T + layer.bias)
    pooled = torch.cat([x.mean(0), x.std(0)])
    return torch.relu(net.linear1.weight @ pooled + net.linear1.bias)


def test_xvector_is_the_formula() -> None:
    head, frames = make("xvector"), torch.randn(40, 12)
    assert isinstance(head.embedder, XVector)
    (embedding,) = head.predict(frames[None], torch.tensor([40]))
    torch.testing.assert_close(embedding, xvector_by_hand(head.embedder, frames).detach(), rtol=1e-5, atol=1e-6)
    assert embedding.shape == (16,)
    assert not embedding.requires_grad
    assert embedding.max() > 0


def test_the_xvectors_loss_sees_one_more_layer() -> None:
    head = make("xvector").train()
    net = head.embedder
    assert isinstance(net, XVector)
    features, lengths, targets = torch.randn(3, 30, 12), torch.tensor([30, 22, 30]), torch.tensor([4, 0, 2])
    embeddings = torch.stack([xvector_by_hand(net, f[:n]) for f, n in zip(features, lengths, strict=True)])
    deeper = torch.relu(net.linear2(embeddings))
    loss = head.loss(features, lengths, targets)
    torch.testing.assert_close(loss, head.objective(deeper, targets), rtol=1e-5, atol=1e-5)
    expected = head.objective.logits(deeper).log_softmax(1)
    torch.testing.assert_close(head.log_posteriors(features, lengths), expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in head.parameters())


def test_mean_and_asp_are_the_formulas() -> None:
    frames = torch.randn(9, 12)
    mean, asp = make("mean").embedder, make("asp").embedder
    assert isinstance(mean, MeanPooling)
    assert isinstance(asp, ASP)
    expected = (frames @ mean.connector.weight.T + mean.connector.bias).mean(0)
    torch.testing.assert_close(mean.embed(frames[None], torch.tensor([9]))[0], expected)
    x = torch.relu(frames @ asp.connector.weight.T + asp.connector.bias)  # (frame, pooled)
    hidden, score = asp.pooling.hidden, asp.pooling.score
    e = [
        score.weight[0, :, 0] @ torch.tanh(hidden.weight[:, :, 0] @ row + hidden.bias) + score.bias[0] for row in x
    ]  # a number a frame
    a = torch.stack(e).softmax(0)[:, None]
    mean_of, square = (a * x).sum(0), (a * x * x).sum(0)
    expected = asp.linear(torch.cat([mean_of, (square - mean_of**2).clamp(min=0).sqrt()]))
    torch.testing.assert_close(asp.embed(frames[None], torch.tensor([9]))[0], expected, rtol=1e-4, atol=1e-5)


def ecapa_by_hand(net: ECAPA, frames: Tensor) -> Tensor:
    """The embedding of one utterance (frame, dim) in evaluation mode: no masks, plain modules."""

    def tdnn(block: nn.Module, x: Tensor, dilation: int = 1) -> Tensor:
        conv, norm = block.conv, block.norm.norm
        reach = dilation * (conv.kernel_size[0] - 1) // 2
        y = torch.relu(F.conv1d(F.pad(x, (reach, reach)), conv.weight, conv.bias, dilation=dilation))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (y - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]

    x = tdnn(net.first, frames.T)
    outputs = []
    for dilation, block in zip((2, 3, 4), net.blocks, strict=True):
        inside = tdnn(block.before, x)
        width = len(inside) // 8
        parts = [inside[:width]]
        for k in range(1, 8):
            part = inside[k * width : (k + 1) * width]
            parts.append(tdnn(block.res2[k - 1], part + parts[-1] if k > 1 else part, dilation))
        inside = tdnn(block.after, torch.cat(parts))
        gate = torch.sigmoid(block.excite(torch.relu(block.squeeze(inside.mean(1)))))
        x = x + gate[:, None] * inside
        outputs.append(x)
    y = tdnn(net.aggregation, torch.cat(outputs))  # (pooled, frame)
    whole = torch.cat([y.mean(1), y.std(1)])[:, None].expand(-1, y.shape[1])
    weight = torch.cat([net.pooling.hidden.weight[:, :, 0], net.pooling.context.weight], dim=1)  # type: ignore[union-attr]
    hidden = torch.tanh(weight @ torch.cat([y, whole]) + net.pooling.hidden.bias[:, None])
    a = (net.pooling.score.weight[:, :, 0] @ hidden + net.pooling.score.bias[:, None]).softmax(1)
    mean = (a * y).sum(1)
    pooled = torch.cat([mean, (a * (y - mean[:, None]) ** 2).sum(1).sqrt()])
    norm = net.norm
    pooled = (pooled - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return net.linear(pooled)


def test_ecapa_is_the_formula() -> None:
    net, frames = make("ecapa").embedder, torch.randn(25, 12)
    assert isinstance(net, ECAPA)
    torch.testing.assert_close(
        net.embed(frames[None], torch.tensor([25]))[0], ecapa_by_hand(net, frames), rtol=1e-4, atol=1e-4
    )


# --- Losses -----------------------------------------------------------------------------------------------------------


def with_margin(name: str, cosine: float, margin: float) -> float:
    """What the true class' cosine becomes, by the angle."""
    if name == "amsoftmax":
        return cosine - margin
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    return math.cos(angle + margin) if angle < math.pi - margin else cosine - margin * math.sin(margin)


@pytest.mark.parametrize("name", ["amsoftmax", "aamsoftmax"])
@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.4), (30.0, 0.2), (15.0, 0.3), (20.0, 0.0)])
def test_margin_losses_are_the_formulas(name: str, scale: float, margin: float) -> None:
    torch.manual_seed(2)
    loss = LOSSES[name](6, 4, LossConfig(name, scale, margin))
    assert isinstance(loss, AMSoftmax)
    targets = torch.tensor([3, 0, 1, 1, 2, 3])
    x = torch.randn(6, 6)
    x[5] = -loss.W.detach()[:, 3] + 0.02 * torch.randn(6)  # nearly opposite: beyond π - margin
    total = 0.0
    for vector, target in zip(x.double(), targets.tolist(), strict=True):
        cosines = [float(vector @ w / (vector.norm() * w.norm())) for w in loss.W.detach().double().T]
        true = math.exp(scale * with_margin(name, cosines[target], margin))
        total -= math.log(true / (true + sum(math.exp(scale * c) for i, c in enumerate(cosines) if i != target)))
    assert loss(x, targets).item() == pytest.approx(total / 6, rel=1e-5)
    assert loss(7 * x, targets).item() == pytest.approx(total / 6, rel=1e-5)
    logits = scale * F.normalize(x, dim=1) @ F.normalize(loss.W, dim=0)
    torch.testing.assert_close(loss.logits(x), logits, rtol=1e-5, atol=1e-4)
    if margin == 0:
        torch.testing.assert_close(loss(x, targets), F.cross_entropy(logits, targets), rtol=1e-4, atol=1e-4)


def test_softmax_is_cross_entropy() -> None:
    loss = Softmax(6, 4, LossConfig("softmax"))
    x, targets = torch.randn(5, 6), torch.tensor([3, 0, 1, 1, 2])
    logits = x @ loss.fc.weight.T + loss.fc.bias
    torch.testing.assert_close(loss(x, targets), F.cross_entropy(logits, targets))
    torch.testing.assert_close(loss.logits(x), logits)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_gradients_are_finite_at_extreme_cosines(name: str, sign: float) -> None:
    """Embeddings along, against and (0) without the direction of their class."""
    torch.manual_seed(3)
    loss = LOSSES[name](8, 4, LossConfig(name))
    classes = loss.fc.weight.T if isinstance(loss, Softmax) else loss.W
    for scale in (1e-3, 1.0, 1e3):
        x = (sign * scale * classes.detach().T).clone().requires_grad_()
        for target in range(4):
            loss.zero_grad()
            value = loss(x, torch.full((4,), target))
            (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
            value.backward()
            assert value.isfinite()
            assert gradient.isfinite().all()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


@settings(max_examples=100, deadline=None)
@given(margin=st.floats(0, 0.99), angles=st.lists(st.floats(0, math.pi), min_size=2, max_size=20))
def test_the_angular_margin_is_monotone(margin: float, angles: list[float]) -> None:
    loss = AAMSoftmax(4, 3, LossConfig("aamsoftmax", margin=margin))
    cosines = torch.tensor(sorted(angles), dtype=torch.float64).cos().requires_grad_()
    changed = loss.with_margin(cosines)
    for (a, b), (before, after) in zip(pairwise(cosines.tolist()), pairwise(changed.tolist()), strict=True):
        assert after <= before + 1e-7 or a == b
    assert (changed <= cosines + 1e-7).all()
    (gradient,) = torch.autograd.grad(changed.sum(), cosines)
    assert gradient.isfinite().all()
    assert (gradient > 0).all()


@both
def test_every_head_learns_with_every_loss(head: str, loss: str) -> None:
    torch.manual_seed(3)
    model = Classifier(8, 4, small(head), LossConfig(loss)).train()
    targets = torch.arange(16) % 4
    centres = torch.randn(4, 1, 8)
    features, lengths = centres[targets] + torch.randn(16, 18, 8), torch.full((16,), 18)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model.loss(features, lengths, targets).item()
    for _ in range(40):
        optimizer.zero_grad()
        value = model.loss(features, lengths, targets)
        value.backward()
        optimizer.step()
    assert value.item() < 0.4 * first
    posteriors = torch.stack(model.eval().predict(features, lengths))
    assert (posteriors.argmax(1) == targets).float().mean() > 0.9


# --- Predictions and options ------------------------------------------------------------------------------------------


@both
def test_classifiers_predict_log_posteriors_and_encoders_embeddings(head: str, loss: str) -> None:
    _, batch, lengths = ragged([20, 15])
    classifier, encoder = make(head, loss, Classifier), make(head, loss)
    posteriors, embeddings = classifier.predict(batch, lengths), encoder.predict(batch, lengths)
    assert [tuple(p.shape) for p in posteriors] == [(5,), (5,)]
    assert [tuple(e.shape) for e in embeddings] == [(16,), (16,)]
    for prediction in (*posteriors, *embeddings):
        assert (prediction.dtype, prediction.device.type, prediction.requires_grad) == (torch.float32, "cpu", False)
    torch.testing.assert_close(torch.stack(posteriors).exp().sum(1), torch.ones(2))
    torch.testing.assert_close(torch.stack(posteriors), classifier.log_posteriors(batch, lengths))


def test_bad_options_are_refused() -> None:
    def refused(message: str, head: EmbedderConfig, loss: LossConfig) -> None:
        with pytest.raises(BenchmarkError, match=message):
            Classifier(8, 4, head, loss)

    refused(r"unknown head 'xvectr' .*Did you mean 'xvector'", EmbedderConfig(name="xvectr"), LossConfig())
    refused(r"unknown loss 'am_softmax' .*Did you mean 'amsoftmax'", EmbedderConfig(), LossConfig("am_softmax"))
    refused("task.head.size must be positive, got 0", EmbedderConfig(size=0), LossConfig())
    refused("task.head.attention must be positive, got -1", EmbedderConfig("asp", attention=-1), LossConfig())
    refused("task.head.channels must be a multiple of 8, got 12", EmbedderConfig("ecapa", channels=12), LossConfig())
    refused("task.loss.scale must be positive, got 0", EmbedderConfig(), LossConfig(scale=0.0))
    refused("task.loss.margin must be at least 0 and less than 1, got 30", EmbedderConfig(), LossConfig(margin=30.0))
