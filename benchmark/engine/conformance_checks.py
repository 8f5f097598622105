"""The checks behind :mod:`benchmark.engine.conformance`: each looks for one kind of fault and yields it in words."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property

import torch
from torch import Tensor

from benchmark.engine.precision import Precision
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream

TOLERANCE = 1e-4
"""Largest difference between two ways to compute a hidden state, as a share of its largest value."""
TOLERANCE_GPU = 1e-2
"""The same between a CPU and a GPU, which may round the factors of products to 10 bits."""
TOLERANCE_HALF = 0.2
"""Largest root mean square of what bfloat16 changes, as a share of that of the hidden state."""
LARGEST_COPY = 2 * 2**30
"""Bytes of parameters above which an upstream is not copied to try other types of numbers."""


class Skip(Exception):
    """The check does not apply, or cannot be tried here."""


class Trial:
    """An upstream, noise for it, and what it makes of the noise.

    Raises:
        BenchmarkError: the upstream lacks an attribute.
    """

    def __init__(self, upstream: Upstream) -> None:
        for name in ("sample_rate", "hidden_size", "num_states", "frame_shift"):
            value = getattr(upstream, name, None)
            if not isinstance(value, int) or value < 1:
                raise BenchmarkError(f"the upstream's {name} is {value!r}, expected a whole number of 1 or more")
        self.upstream, self.rate = upstream, upstream.sample_rate
        self.noise = 0.1 * torch.randn(4 * self.rate, generator=torch.Generator().manual_seed(0))

    def frames(self, samples: int) -> int:
        """What ``output_lengths`` says."""
        return int(self.upstream.output_lengths(torch.tensor([samples]))[0])

    def alone(self, samples: int) -> HiddenStates:
        """The states of so many samples of noise, without any padding."""
        return self.upstream([self.noise[:samples]])

    @cached_property
    def shortest(self) -> int:
        """Samples of the shortest utterance with a frame."""
        enough = (self.upstream.output_lengths(torch.arange(2 * self.rate)) >= 1).nonzero()
        if not len(enough):
            raise BenchmarkError("output_lengths gives no frame of two seconds")
        return max(int(enough[0]), 1)

    @cached_property
    def samples(self) -> list[int]:
        """Of the utterances of a ragged batch."""
        return [int(1.3 * self.rate), int(0.7 * self.rate), self.rate, self.shortest]

    @cached_property
    def wavs(self) -> list[Tensor]:
        """A ragged batch."""
        return [self.noise[:samples] for samples in self.samples]

    @cached_property
    def together(self) -> HiddenStates:
        """Its states."""
        return self.upstream(self.wavs)

    def padded(self, extra: int = 0) -> tuple[Tensor, Tensor]:
        """The ragged batch as (batch, sample), with more zeros behind the longest, and (batch,), where the upstream
        is."""
        device = next((parameter.device for parameter in self.upstream.parameters()), self.noise.device)
        wavs = torch.nn.utils.rnn.pad_sequence(self.wavs, batch_first=True)
        return torch.nn.functional.pad(wavs, (0, extra)).to(device), torch.tensor(self.samples, device=device)

    def copy(self) -> Upstream:
        """A copy to be changed."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.upstream.parameters())
        if size > LARGEST_COPY:
            raise Skip(f"its {size / 2**30:.1f} GiB of parameters are not copied for this")
        return copy.deepcopy(self.upstream)


# -- shapes, lengths -----------------------------------------------------------------------------------------------


def shapes(trial: Trial) -> Iterator[str]:
    """The number, the sizes and the type of states; lengths."""
    upstream, hidden = trial.upstream, trial.together
    if len(hidden.states) != upstream.num_states:
        yield f"there are {len(hidden.states)} states, num_states is {upstream.num_states}"
    batch, longest = len(trial.samples), int(hidden.lengths.max()) if hidden.lengths.numel() else 0
    if hidden.lengths.shape != (batch,) or hidden.lengths.is_floating_point():
        yield f"lengths are {_described(hidden.lengths)}, expected ({batch},) of int64"
    wrong = {
        k: _described(state)
        for k, state in enumerate(hidden.states)
        if state.dim() != 3
        or (len(state), state.shape[2]) != (batch, upstream.hidden_size)
        or state.shape[1] < longest
        or state.dtype != torch.float32
    }
    if wrong:
        expected = f"({batch}, {longest}, {upstream.hidden_size}) of float32"
        yield f"{_states(wrong)}: {next(iter(wrong.values()))}, expected {expected}"


def lengths(trial: Trial) -> Iterator[str]:
    """``output_lengths`` and ``frame_shift`` beside what ``forward`` gives, over many input lengths."""
    upstream, rate, shift = trial.upstream, trial.rate, trial.upstream.frame_shift
    samples = torch.arange(3 * rate)
    counts = upstream.output_lengths(samples)
    if counts.is_floating_point() or counts.shape != samples.shape:
        yield f"output_lengths gives {_described(counts)} of (batch,) lengths, expected whole numbers (batch,)"
        return
    if int(counts.min()) < 0 or bool((counts.diff() < 0).any()):
        yield "output_lengths is below 0, or falls as utterances get longer"
    got = trial.frames(3 * rate) - trial.frames(rate)
    if abs(got - 2 * rate / shift) > 1:
        real = f"a frame every {2 * rate / got:.4g} samples" if got > 0 else "no more frames of 3 s than of 1 s"
        yield f"frame_shift is {shift} samples, but output_lengths gives {real}"
    rises = (counts[rate : rate + shift + 1].diff() > 0).nonzero().flatten().tolist()
    step, shortest = rate + 1 + (rises[0] if rises else 0), trial.shortest
    tried = {shortest, shortest + 1, shortest + shift, shortest + shift - 1, step - 1, step, rate - 1, 2 * rate + 37}
    tried |= {rate + part * shift // 8 for part in range(9)}
    wrong = [problem for n in sorted(tried) for problem in _lengths_of(trial, n)]
    if wrong:
        yield f"{len(wrong)} of {len(tried)} input lengths: {'; '.join(wrong[:3])}{'; …' if len(wrong) > 3 else ''}"


def _lengths_of(trial: Trial, samples: int) -> Iterator[str]:
    said = trial.frames(samples)
    try:
        hidden = trial.alone(samples)
    except Exception as error:  # whatever the upstream raises
        yield f"of {samples:,} samples output_lengths says {_frames(said)}, forward fails with {failure(error)}"
        return
    rows = sorted({state.shape[1] for state in hidden.states})
    if hidden.lengths.tolist() != [said] or rows != [said]:
        gives = f"{' or '.join(map(str, rows))} in states and {hidden.lengths.tolist()} in lengths"
        yield f"of {samples:,} samples output_lengths says {_frames(said)}, forward gives {gives}"


def one_frame(trial: Trial) -> Iterator[str]:
    """The shortest utterance that has a frame."""
    hidden, samples = trial.alone(trial.shortest), trial.shortest
    if hidden.lengths.tolist() != [trial.frames(samples)]:
        yield f"of {samples:,} samples forward gives {hidden.lengths.tolist()} frames, not {trial.frames(samples)}"
    yield from _infinite(hidden, f"the shortest utterance with a frame, of {samples:,} samples,")


# -- padding -------------------------------------------------------------------------------------------------------


def batches(trial: Trial) -> Iterator[str]:
    """Each utterance alone, and in the ragged batch."""
    for row, samples in enumerate(trial.samples):
        what = f"an utterance of {samples / trial.rate:.3g} s alone and in a batch of {len(trial.samples)}"
        if problems := list(_differing(what, (trial.alone(samples), 0), (trial.together, row))):
            yield from problems
            return


def zeros(trial: Trial) -> Iterator[str]:
    """Frames beyond the lengths."""
    if wrong := _nonzero(trial.together):
        yield f"{_states(wrong)}: frames beyond an utterance's length are not zero"


def more_padding(trial: Trial) -> Iterator[str]:
    """The ragged batch with half a second of zeros behind it."""
    padded = trial.upstream(*trial.padded(extra=trial.rate // 2))
    yield from _all_differing("without and with half a second of zeros behind the batch", trial.together, padded)
    if not _nonzero(trial.together) and (wrong := _nonzero(padded)):
        yield f"{_states(wrong)}: the frames of half a second of zeros behind the batch are not zero"


def _nonzero(hidden: HiddenStates) -> list[int]:
    rows = list(enumerate(hidden.lengths.tolist()))
    return [k for k, state in enumerate(hidden.states) if any(bool(state[row, n:].any()) for row, n in rows)]


# -- what is computed ----------------------------------------------------------------------------------------------


def deterministic(trial: Trial) -> Iterator[str]:
    """Twice the same batch, from different random states."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = trial.upstream(trial.wavs)
        torch.manual_seed(2)
        yield from _all_differing("the same batch twice", first, trial.upstream(trial.wavs))


def unchanged_input(trial: Trial) -> Iterator[str]:
    """The tensors that forward was given."""
    wavs, lengths = trial.padded()
    before = wavs.clone(), lengths.clone()
    trial.upstream(wavs, lengths)
    if not torch.equal(wavs, before[0]):
        yield "forward changes the waveforms that it is given"
    if not torch.equal(lengths, before[1]):
        yield "forward changes wav_lens"


def keep(trial: Trial) -> Iterator[str]:
    """The last state, the first, one between, the first and the last."""
    last, whole = trial.upstream.num_states - 1, trial.together
    for chosen in dict.fromkeys([(last,), (0,), (last // 2,), tuple(sorted({0, last}))]):
        kept = trial.upstream(trial.wavs, keep=list(chosen))
        wanted = HiddenStates([whole.states[k] for k in chosen], whole.lengths)
        if len(kept.states) != len(chosen):
            yield f"keep={list(chosen)} gives {len(kept.states)} states"
        elif any(_all_differing("", wanted, kept)):
            yield f"keep={list(chosen)} does not give {_states(chosen)} as they are without keep"


def silence(trial: Trial) -> Iterator[str]:
    """A second of zeros, alone and beside noise."""
    quiet = torch.zeros(trial.rate)
    for what, wavs in (("a second of silence", [quiet]), ("silence beside noise", [trial.wavs[0], quiet])):
        hidden = trial.upstream(wavs)
        problems = list(_infinite(hidden, what))
        frames, said = int(hidden.lengths[-1]), trial.frames(trial.rate)
        if frames != said:
            problems.append(f"{_frames(frames)} of {what}, of noise of that length {said}")
        if problems:
            yield from problems
            return


def gradient(trial: Trial) -> Iterator[str]:
    """From the last state to the parameters, of every block; the number of states in training mode."""
    upstream = trial.upstream
    if not upstream.trainable:
        raise Skip("it says that it cannot be trained")
    named = {name: parameter for name, parameter in upstream.named_parameters() if parameter.is_floating_point()}
    if not named:
        raise Skip("it has no parameters, so nothing of it can be trained")
    own = {id(module) for module in upstream.modules()}
    if any(id(module) not in own for module in (*upstream.blocks, *filter(None, [upstream.extractor]))):
        yield "blocks or extractor are no modules of the upstream"
    with _all_trained(upstream), torch.enable_grad():
        last = upstream(trial.wavs[:2]).states[-1]
        if not last.requires_grad:
            yield "the states carry no gradient, though parameters are to be trained"
            return
        weights = torch.randn(last.shape[-1], generator=torch.Generator().manual_seed(0)).to(last.device)
        found = torch.autograd.grad((last * weights).sum(), list(named.values()), allow_unused=True)
    reached = {name: value for name, value in zip(named, found, strict=True) if value is not None and bool(value.any())}
    if bad := [name for name, value in reached.items() if not value.isfinite().all()]:
        yield f"the gradient of {bad[0]} has infinite or NaN values"
    if not reached:
        yield "no parameter gets a gradient from the last state"
    ids = {id(named[name]) for name in reached}
    if idle := [k for k, block in enumerate(upstream.blocks) if not ids & {id(p) for p in block.parameters()}]:
        yield f"{_numbered('block', idle)} {'gets' if len(idle) == 1 else 'get'} no gradient from the last state"
    with _all_trained(upstream), torch.random.fork_rng():
        upstream.train()
        if (count := len(upstream(trial.wavs[:2]).states)) != upstream.num_states:
            yield f"in training mode there are {count} states, num_states is {upstream.num_states}"


@contextmanager
def _all_trained(upstream: Upstream) -> Iterator[None]:
    """Every parameter gets a gradient; afterwards everything is as before."""
    trained = [(parameter, parameter.requires_grad) for parameter in upstream.parameters()]
    modes = [(module, module.training) for module in upstream.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in upstream.buffers()]  # BatchNorm's are updated in training mode
    try:
        for parameter, _ in trained:
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        yield
    finally:
        for parameter, was in trained:
            parameter.requires_grad_(was)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


# -- numbers and devices -------------------------------------------------------------------------------------------


def float64(trial: Trial) -> Iterator[str]:
    """A copy in float64."""
    wavs, lengths = trial.padded()
    double = trial.copy().double()
    try:
        hidden = double(wavs.double(), lengths)
    except Exception as error:  # whatever the upstream raises
        raise Skip(f"it does not run in float64, which nothing asks of it ({_short(error)})") from error
    yield from _all_differing("in float32 and in float64", trial.together, hidden, tolerance=10 * TOLERANCE)


def bfloat16(trial: Trial) -> Iterator[str]:
    """A copy as the engine has it for ``trainer.precision=bf16``."""
    wavs, lengths = trial.padded()
    precision = Precision("bf16", wavs.device)
    with precision.autocast():
        hidden = precision.frozen(trial.copy())(wavs, lengths)
    if len(hidden.states) != trial.upstream.num_states:
        yield f"there are {len(hidden.states)} states, in float32 {trial.upstream.num_states}"
    for k, (exact, rounded) in enumerate(zip(trial.together.states, hidden.states, strict=False)):
        change = float((rounded.float() - exact).norm() / exact.norm().clamp(min=1e-12))
        if not change <= TOLERANCE_HALF:  # nor NaN
            yield f"state {k} changes by {change:.0%}"
            return


def device(trial: Trial) -> Iterator[str]:
    """A copy on a GPU; without one, tensors that would stay behind."""
    if not torch.cuda.is_available():
        left = _left_behind(trial.upstream)
        if not left or not _mixes_devices(trial):
            raise Skip("there is no CUDA device here")
        yield f"{', '.join(left[:5])}: plain tensors, which .to(device) leaves where they are"
        return
    hidden = trial.copy().cuda()(trial.wavs)
    if {tensor.device.type for tensor in (*hidden.states, hidden.lengths)} != {"cuda"}:
        yield "states or lengths are not on the GPU that the upstream was moved to"
        return
    yield from _all_differing("on a CPU and on a GPU", trial.together, hidden, tolerance=TOLERANCE_GPU)


def _left_behind(upstream: Upstream) -> list[str]:
    """Attributes that are tensors but neither parameters nor buffers."""
    return [
        f"{name}.{key}".removeprefix(".")
        for name, module in upstream.named_modules()
        for key, value in vars(module).items()
        for tensor in (value if isinstance(value, list | tuple) else [value])
        if isinstance(tensor, Tensor) and tensor.dim() > 0
    ]


def _mixes_devices(trial: Trial) -> bool:
    """Whether a copy on torch's device ``meta``, which has shapes and no numbers, meets tensors of the CPU."""
    with suppress(Skip):
        moved = trial.copy().to("meta")
        wavs, lengths = trial.padded()
        try:
            moved(wavs.to("meta"), lengths.to("meta"))
        except Exception as error:  # also for what cannot be computed without numbers
            return "device" in str(error) and "cpu" in str(error)
    return False


# -- words ---------------------------------------------------------------------------------------------------------


def _all_differing(
    what: str, first: HiddenStates, second: HiddenStates, *, tolerance: float = TOLERANCE
) -> Iterator[str]:
    """The first utterance of two results for the same batch whose states differ."""
    for row in range(len(first.lengths)):
        if problems := list(_differing(what, (first, row), (second, row), tolerance=tolerance)):
            yield from problems
            return


def _differing(
    what: str, first: tuple[HiddenStates, int], second: tuple[HiddenStates, int], *, tolerance: float = TOLERANCE
) -> Iterator[str]:
    """Which states differ between a row of one result and a row of another."""
    (one, i), (other, j) = first, second
    frames = int(one.lengths[i]), int(other.lengths[j])
    if frames[0] != frames[1]:
        yield f"{what}: {_frames(frames[0])} and {frames[1]}"
        return
    shares: dict[int, float] = {}
    for k, (a, b) in enumerate(zip(one.states, other.states, strict=False)):
        a, b = a[i, : frames[0]].double().cpu(), b[j, : frames[0]].double().cpu()
        if not a.numel():
            continue
        share = float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) if a.shape == b.shape else float("inf")
        if not share <= tolerance:  # nor NaN
            shares[k] = share
    if shares:
        most = max(shares.values())
        verb = "differs" if len(shares) == 1 else "differ"
        yield f"{what}: {_states(shares)} {verb} by up to {most:.2g} of the largest value"


def _infinite(hidden: HiddenStates, what: str) -> Iterator[str]:
    if bad := [k for k, state in enumerate(hidden.states) if not state.isfinite().all()]:
        yield f"{what} gives infinite or NaN values in {_states(bad)}"


def _states(numbers: Iterable[int]) -> str:
    """``state 3``, ``states 1, 2, 3, 4 …``."""
    return _numbered("state", list(numbers))


def _numbered(noun: str, numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:4])) + (" …" if len(numbers) > 4 else "")
    return f"{noun} {shown}" if len(numbers) == 1 else f"{noun}s {shown}"


def _frames(count: int) -> str:
    return f"{count} frame" if count == 1 else f"{count} frames"


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def failure(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {_short(error)}"


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
