"""CTC heads and SpecAugment: sizes, the loss against torch and by hand, independence of the batch, masks and warps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from downstream.asr.heads import HEADS, BiLSTM, CTCHead, CTCHeadConfig, Linear, bidirectional, make_head
from downstream.asr.specaugment import (
    SpecAugmentConfig,
    draw_masks,
    draw_warp,
    spec_augment,
    time_warp,
)

OFF = SpecAugmentConfig(enabled=False)


def small(name: str, specaugment: SpecAugmentConfig = OFF, seed: int = 0, **values: float) -> CTCHead:
    torch.manual_seed(seed)
    return make_head(12, 7, CTCHeadConfig(name=name, size=10, hidden=8, **values), specaugment)


def ragged(lengths: list[int], dim: int = 12) -> tuple[list[Tensor], Tensor, Tensor]:
    features = [torch.randn(n, dim) for n in lengths]
    return features, torch.nn.utils.rnn.pad_sequence(features, batch_first=True), torch.tensor(lengths)


def test_sizes_are_superbs() -> None:
    """43 M parameters for 1,024 features (s3prl.md, section 1); fairseq's is one matrix."""
    head = BiLSTM(1024, 32, CTCHeadConfig(), SpecAugmentConfig())
    # projection, two directions of (4 gates x 1024) x (input + 1024 + 2 biases) for inputs of 1024 and 2048, output
    lstms = 2 * 4096 * (1024 + 1024 + 2) + 2 * 4096 * (2048 + 1024 + 2)
    assert sum(p.numel() for p in head.parameters()) == 1024 * 1025 + lstms + 2049 * 32 == 43_090_976
    assert {name: tuple(p.shape) for name, p in head.named_parameters() if "bias" not in name} == {
        "projector.weight": (1024, 1024),
        "rnns.0.weight_ih_l0": (4096, 1024),
        "rnns.0.weight_hh_l0": (4096, 1024),
        "rnns.0.weight_ih_l0_reverse": (4096, 1024),
        "rnns.0.weight_hh_l0_reverse": (4096, 1024),
        "rnns.1.weight_ih_l0": (4096, 2048),
        "rnns.1.weight_hh_l0": (4096, 1024),
        "rnns.1.weight_ih_l0_reverse": (4096, 2048),
        "rnns.1.weight_hh_l0_reverse": (4096, 1024),
        "linear.weight": (32, 2048),
    }
    assert head.dropout.p == 0.2
    linear = Linear(768, 32, CTCHeadConfig(), SpecAugmentConfig())
    assert sum(p.numel() for p in linear.parameters()) == 768 * 32 + 32
    assert linear.final_dropout.p == 0
    assert linear.proj.weight.abs().max() <= (6 / (768 + 32)) ** 0.5  # Xavier's bound
    assert linear.proj.weight.abs().max() > 0.95 * (6 / (768 + 32)) ** 0.5
    assert linear.proj.bias.eq(0).all()


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_prediction_is_the_same_alone_and_in_any_batch(name: str) -> None:
    head = small(name).eval()
    features, batch, lengths = ragged([1, 60, 15, 33, 2])
    noisy = batch + 100 * (torch.arange(60)[None, :, None] >= lengths[:, None, None])  # padding must not be looked at
    together, noisy_together = head.predict(batch, lengths), head.predict(noisy, lengths)
    for i, frames in enumerate(features):
        (alone,) = head.predict(frames[None], lengths[i : i + 1])
        assert alone.shape == (len(frames), 7)
        assert alone.dtype == torch.float32
        torch.testing.assert_close(alone.exp().sum(1), torch.ones(len(frames)))
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(noisy_together[i], alone, rtol=1e-5, atol=1e-6)
        assert not together[i].requires_grad


@pytest.mark.parametrize("name", sorted(HEADS))
def test_the_loss_is_torchs_of_each_utterance_alone(name: str) -> None:
    head = small(name).eval()
    features, batch, lengths = ragged([20, 9, 14])
    labels = [[1, 2, 2, 3], [5], [6, 1, 4]]
    losses = []
    for frames, row in zip(features, labels, strict=True):
        (log_posteriors,) = head.predict(frames[None], torch.tensor([len(frames)]))
        sizes = torch.tensor([len(frames)]), torch.tensor([len(row)])
        losses.append(F.ctc_loss(log_posteriors[:, None], torch.tensor([row]), *sizes, reduction="sum") / len(row))
    padded = torch.tensor([[1, 2, 2, 3], [5, 0, 0, 0], [6, 1, 4, 0]])
    targets = padded, torch.tensor([4, 1, 3])
    torch.testing.assert_close(head.loss(batch, lengths, targets), torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)
    junk = padded.where(torch.arange(4) < targets[1][:, None], 3)  # what labels are padded with does not matter
    torch.testing.assert_close(head.loss(batch, lengths, (junk, targets[1])), head.loss(batch, lengths, targets))


def test_the_loss_by_hand() -> None:
    """Two frames, one label: the paths are (a, a), (a, blank), (blank, a)."""
    head = Linear(3, 3, CTCHeadConfig(name="linear"), OFF)
    with torch.no_grad():
        head.proj.weight.copy_(torch.eye(3))
    p = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    expected = -torch.log(torch.tensor(0.3 * 0.1 + 0.3 * 0.6 + 0.5 * 0.1))
    loss = head.loss(p.log()[None], torch.tensor([2]), (torch.tensor([[1]]), torch.tensor([1])))
    torch.testing.assert_close(loss, expected)


def test_an_utterance_that_does_not_fit_counts_as_zero() -> None:
    head = small("linear")
    _, batch, lengths = ragged([6, 2])
    labels, counts = torch.tensor([[1, 2, 3], [4, 4, 4]]), torch.tensor([3, 3])
    loss = head.loss(batch, lengths, (labels, counts))
    fits = head.loss(batch[:1], lengths[:1], (labels[:1], counts[:1]))
    torch.testing.assert_close(loss, fits / 2)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", sorted(HEADS))
def test_autocast_leaves_loss_and_posteriors_in_float32(name: str) -> None:
    head = small(name).eval()
    _, batch, lengths = ragged([12, 7])
    targets = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    exact = head.loss(batch, lengths, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(batch, lengths, targets)
        (first, _) = head.predict(batch, lengths)
    assert loss.dtype == first.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(first.exp().sum(1), torch.ones(12))  # bfloat16 would miss by 1e-3


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_learns(name: str) -> None:
    head = small(name, SpecAugmentConfig(time_warp=2, time_masks=1, time_width=1, feature_masks=0), dropout=0.0).train()
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(1, 7, (4, 5), generator=generator)
    frames = F.one_hot(labels, 12).float().repeat_interleave(3, dim=1)
    frames[:, 2::3] = F.one_hot(torch.tensor(0), 12).float()  # a frame that looks like a blank after each label
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    lengths, targets = torch.full((4,), 15), (labels, torch.full((4,), 5))
    for _ in range(120):
        optimizer.zero_grad()
        head.loss(frames, lengths, targets).backward()
        optimizer.step()
    best = [row.argmax(1) for row in head.eval().predict(frames, lengths)]
    merged = [torch.unique_consecutive(row) for row in best]
    assert [row[row != 0].tolist() for row in merged] == labels.tolist()


def test_a_layer_is_torchs_over_packed_sequences() -> None:
    """Values and gradients; packing is what other devices use."""
    torch.manual_seed(0)
    rnn = nn.LSTM(5, 6, bidirectional=True, batch_first=True)
    _, batch, lengths = ragged([4, 9, 1, 7], dim=5)
    batch.requires_grad_()
    packed = nn.utils.rnn.pack_padded_sequence(batch, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed)[0], batch_first=True)
    found = bidirectional(rnn, batch, lengths)
    valid = (torch.arange(9) < lengths[:, None])[:, :, None]
    torch.testing.assert_close(found * valid, expected, rtol=1e-5, atol=1e-6)
    parameters = [batch, *rnn.parameters()]
    direction = torch.randn_like(expected) * valid
    for ours, theirs in zip(
        torch.autograd.grad((found * direction).sum(), parameters),
        torch.autograd.grad((expected * direction).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dropout_follows_each_layer() -> None:
    """s3prl drops the last layer's output too; ``nn.LSTM(dropout=…)`` would not."""
    head = small("bilstm", layers=1, dropout=0.5).train()
    _, batch, lengths = ragged([9])
    first, second = (head.logits(batch, lengths) for _ in range(2))
    assert not torch.equal(first, second)
    head.eval()
    assert torch.equal(head.logits(batch, lengths), head.logits(batch, lengths))
    linear = small("linear", final_dropout=0.5).train()
    assert not torch.equal(linear.logits(batch, lengths), linear.logits(batch, lengths))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "bilstn"}, "unknown head 'bilstn' .task.head.name.. Did you mean 'bilstm'"),
        ({"hidden": 0}, "task.head.hidden must be positive, got 0"),
        ({"dropout": 1.0}, r"task.head.dropout must be at least 0 and below 1, got 1.0"),
        ({"final_dropout": -0.1}, "task.head.final_dropout"),
    ],
)
def test_refusals(values: dict[str, float], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        make_head(12, 7, CTCHeadConfig(**values), OFF)
    with pytest.raises(BenchmarkError, match=r"task\.specaugment\.time_width is -1"):
        make_head(12, 7, CTCHeadConfig(), SpecAugmentConfig(time_width=-1))


# --- SpecAugment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "center", "moved"), [(30, 12, 15), (30, 15, 12), (9, 1, 2), (40, 34, 39), (7, 7, 7)]
)
def test_a_warp_is_torchs_bicubic_resizing_of_both_sides(length: int, center: int, moved: int) -> None:
    """s3prl ec8064b5 downstream/specaug.py, TimeWarp.time_warp, which calls the same function on both sides."""
    x = torch.randn(2, length + 3, 5)
    lengths = torch.tensor([length, length + 3])
    warped = time_warp(x, lengths, torch.tensor([center, 4]), torch.tensor([moved, 4]))

    def resize(part: Tensor, size: int) -> Tensor:
        if not size:
            return part
        image = part[None, None]
        return F.interpolate(image, (size, part.shape[1]), mode="bicubic", align_corners=False)[0, 0]

    expected = torch.cat([resize(x[0, :center], moved), resize(x[0, center:length], length - moved), x[0, length:]])
    torch.testing.assert_close(warped[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(warped[1], x[1], rtol=1e-6, atol=1e-6)  # a boundary moved to itself


def test_warps_are_drawn_as_s3prl_draws_them() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([50] * 20000 + [11] * 100 + [10] * 100 + [1] * 100)
    center, moved = draw_warp(lengths, window=5)
    long = slice(0, 20000)
    assert center[long].unique().tolist() == list(range(5, 45))  # randint(window, T - window)
    assert (moved - center)[long].unique().tolist() == list(range(-4, 6))  # randint(-window, window) + 1
    assert (moved - center + 4)[long].bincount().min() > 1800  # 2000 each
    assert center[20000:20100].eq(5).all()
    assert moved[20000:20100].unique().tolist() == list(range(1, 11))
    for too_short in (slice(20100, 20200), slice(20200, 20300)):  # T - window <= window
        assert center[too_short].eq(lengths[too_short]).all()
        assert moved[too_short].eq(lengths[too_short]).all()


def test_masks_keep_to_their_bounds() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([100] * 20000 + [30] * 2000 + [1] * 10)
    one = draw_masks(lengths, 100, count=1, width=40)
    widths = one.sum(1)
    assert widths[:20000].unique().tolist() == list(range(41))  # 0 and 40 included
    counts = widths[:20000].bincount()
    assert counts.min() > 380  # 20,000 / 41 = 488 each
    assert counts.max() < 600
    edges = one[:, 1:] != one[:, :-1]
    assert (edges.sum(1) <= 2).all()  # in one piece
    assert widths[:20000].float().mean() == pytest.approx(20, abs=0.3)
    assert one[:20000, 0].any()
    assert one[:20000, 99].any()
    assert not one[20000:22000, 30:].any()  # within the utterance, not within the longest one of the batch
    assert one[20000:22000, 29].any()
    assert one[20000:22000].sum(1).max() == 30
    four = draw_masks(torch.full((20000,), 768), 768, count=4, width=50)
    assert four.sum(1).max() <= 200
    assert four.sum(1).float().mean() == pytest.approx(4 * 25 * (1 - 1.5 * 25 / 768), rel=0.03)  # less what overlaps
    assert not draw_masks(lengths, 100, count=0, width=40).any()
    assert not draw_masks(lengths, 100, count=2, width=0).any()


def test_augmentation_masks_and_leaves_the_rest() -> None:
    config = SpecAugmentConfig(time_warp=0)
    _, batch, lengths = ragged([120, 70, 300], dim=768)
    batch = batch + 100  # no zero by chance
    batch = batch * (torch.arange(300)[None, :, None] < lengths[:, None, None])
    before = batch.clone()
    torch.manual_seed(3)
    augmented = spec_augment(batch, lengths, config)
    assert torch.equal(batch, before)
    changed = augmented != batch
    assert augmented[changed].eq(0).all()
    for row, length in zip(augmented, lengths.tolist(), strict=True):
        frames, columns = row[:length].eq(0).all(1), row[:length].eq(0).all(0)
        assert 0 < columns.sum() <= 200
        assert frames.sum() <= 80
        assert row[:length].eq(0).equal(frames[:, None] | columns[None])
    assert any(row[:n].eq(0).all(1).any() for row, n in zip(augmented, lengths.tolist(), strict=True))


def test_augmentation_is_a_function_of_torchs_seed() -> None:
    _, batch, lengths = ragged([120, 70], dim=60)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(spec_augment(batch, lengths, SpecAugmentConfig(feature_width=10)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert spec_augment(batch, lengths, OFF) is batch
    nothing = SpecAugmentConfig(time_warp=0, time_masks=0, feature_masks=0)
    assert torch.equal(spec_augment(batch, lengths, nothing), batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_is_for_training_only() -> None:
    head = small("linear", SpecAugmentConfig(feature_width=4))
    _, batch, lengths = ragged([40, 30])
    targets = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    plain = small("linear").train().loss(batch, lengths, targets)
    assert torch.equal(head.eval().loss(batch, lengths, targets), plain)
    assert not torch.equal(head.train().loss(batch, lengths, targets), plain)
    before = head.predict(batch, lengths)[0]
    assert torch.equal(before, small("linear").predict(batch, lengths)[0])


def test_gradients_go_through_the_augmentation() -> None:
    """The layer weights learn from augmented features."""
    _, batch, lengths = ragged([40, 30], dim=6)
    batch = batch.double().requires_grad_()
    config = SpecAugmentConfig(time_masks=1, time_width=8, feature_masks=1, feature_width=2)

    def augment(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return spec_augment(x, lengths, config)

    torch.autograd.gradcheck(augment, (batch,), fast_mode=True)
    (gradient,) = torch.autograd.grad(augment(batch).sum(), batch)
    assert gradient[:, :30].any()
    assert gradient.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(dtype: torch.dtype) -> None:
    _, batch, lengths = ragged([40, 30], dim=6)
    assert spec_augment(batch.to(dtype), lengths, SpecAugmentConfig()).dtype == dtype
