"""Whether an upstream keeps what :class:`benchmark.interfaces.Upstream` promises, in words, with what to do.

:func:`examine` makes every check of :data:`CHECKS` on noise and silence; nothing is trained, no file is read. The
upstream is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmark.engine import conformance_checks as checks
from benchmark.engine.conformance_checks import Skip, Trial
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream


@dataclass(frozen=True)
class Check:
    """One promise, and how it is checked."""

    name: str
    promise: str
    advice: str
    """What to do where it is not kept."""
    problems: Callable[[Trial], Iterator[str]]
    """What is wrong; raises :class:`Skip` where the check does not apply or cannot be tried."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: Check
    outcome: str
    """``ok``, ``wrong``, or ``skipped``."""
    details: tuple[str, ...] = ()
    """What is wrong, or why it was skipped."""


def examine(upstream: Upstream) -> list[Finding]:
    """Make all checks.

    Args:
        upstream: in evaluation mode.

    Returns:
        one finding a check, in their order. Where the shapes are wrong, the others are skipped.

    Raises:
        BenchmarkError: the upstream lacks ``sample_rate``, ``hidden_size``, ``num_states`` or ``frame_shift``.
    """
    trial = Trial(upstream)
    found: list[Finding] = []
    for check in CHECKS:
        if found and found[0].outcome == "wrong":
            found.append(Finding(check, "skipped", ("the shapes have to be right first",)))
            continue
        try:
            with torch.no_grad():
                details = tuple(check.problems(trial))
        except Skip as reason:
            found.append(Finding(check, "skipped", (str(reason),)))
            continue
        except Exception as error:  # whatever the upstream raises
            details = (f"it fails with {checks.failure(error)}",)
        found.append(Finding(check, "wrong" if details else "ok", details))
    return found


def check(upstream: Upstream) -> None:
    """:func:`examine`, for code that cannot go on with an upstream that is not as promised.

    Raises:
        BenchmarkError: lists what is wrong, and what to do.
    """
    wrong = [finding for finding in examine(upstream) if finding.outcome == "wrong"]
    if wrong:
        name = getattr(upstream, "info", {}).get("name", type(upstream).__name__)
        lines = (f"{finding.check.name}: {'; '.join(finding.details)}. {finding.check.advice}" for finding in wrong)
        raise BenchmarkError(f"upstream '{name}' does not keep its contract:\n  " + "\n  ".join(lines))


CHECKS = (
    Check(
        "shapes",
        "as many states as num_states, each (batch, frame, hidden_size) of float32, and lengths (batch,)",
        "Return HiddenStates(states, lengths), with states as num_states and hidden_size announce them.",
        checks.shapes,
    ),
    Check(
        "lengths",
        "output_lengths gives the frames of forward for every input length",
        "Off by one is the commonest fault: a convolution without padding gives (samples - kernel) // stride + 1 "
        "frames, windows that are centred samples // stride + 1. Compute output_lengths layer by layer with the same "
        "numbers, return it as lengths, and cut the states to the longest. It is 0 where there is no frame.",
        checks.lengths,
    ),
    Check(
        "determinism",
        "the same input gives the same states",
        "Something random is at work in evaluation mode: dropout without training=self.training, masking, LayerDrop.",
        checks.deterministic,
    ),
    Check(
        "input",
        "forward leaves its input as it was",
        "Write wavs = wavs / scale, not wavs /= scale: others use the same tensor.",
        checks.unchanged_input,
    ),
    Check(
        "batches",
        "an utterance has the same states alone and in a batch",
        "Mask the padding in attention, normalise over an utterance's own samples and frames only, and use packed "
        "sequences in recurrent layers that run backwards. Where that is impossible, run utterances one by one.",
        checks.batches,
    ),
    Check(
        "zeros",
        "frames beyond an utterance's length are zero",
        "Multiply every state by (torch.arange(frames) < lengths[:, None])[..., None] before it is returned.",
        checks.zeros,
    ),
    Check(
        "padding",
        "zeros behind the longest utterance change nothing",
        "Compute everything from wav_lens, and nothing from wavs.shape[1].",
        checks.more_padding,
    ),
    Check(
        "keep",
        "keep=[…] gives these states and no others, with the same values",
        "Return [states[k] for k in keep]; blocks above max(keep) need not run.",
        checks.keep,
    ),
    Check(
        "one frame",
        "the shortest utterance that has a frame works",
        "The standard deviation over a single frame is not a number: leave it out there. Where forward needs more "
        "samples, let output_lengths be 0 below that; the engine then refuses such utterances by name.",
        checks.one_frame,
    ),
    Check(
        "silence",
        "silence has finite states",
        "Add a small number to deviations and energies before dividing by them or taking their logarithm.",
        checks.silence,
    ),
    Check(
        "gradient",
        "what is to be trained gets a gradient, and training mode gives as many states",
        "Take torch.no_grad, torch.inference_mode and detach out of forward: the engine uses them where nothing is "
        "trained. LayerDrop must not change the number of states. Frozen runs do not need this.",
        checks.gradient,
    ),
    Check(
        "float64",
        "float64 gives the same states",
        "Something inside rounds to fewer digits, or subtracts large numbers that are nearly equal.",
        checks.float64,
    ),
    Check(
        "bfloat16",
        "trainer.precision=bf16 works, on a copy, and changes little",
        "Compute spectra, logarithms and norms in float32: with torch.autocast(wavs.device.type, enabled=False). "
        "Runs in float32 do not need this.",
        checks.bfloat16,
    ),
    Check(
        "device",
        "the upstream can be moved to a GPU",
        "self.register_buffer(name, tensor, persistent=False) for tensors that are no parameters; make new ones with "
        "device=wavs.device.",
        checks.device,
    ),
)
"""In the order in which they are made."""
