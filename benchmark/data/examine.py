"""What the audio of utterances is like: its headers and, decoded, whether it is complete, finite, silent or clipped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from benchmark.data import headers
from benchmark.errors import BenchmarkError
from benchmark.interfaces import LABEL_FIELDS, Seconds, Utterance
from benchmark.tables import Table

_CHUNK = 64
"""Files that a worker is given at a time."""
_BLOCK = 2**16
"""Samples that are decoded at a time; where decoding breaks off is known to a block."""
_FULL_SCALE = 1 - 2**-15
"""The largest 16-bit sample, as a float."""

_Spans = tuple[str, list[tuple[int, int]]]
"""A file, and (first frame, number of frames) of each stretch to decode."""


@dataclass
class Report:
    """What the audio of an utterance is like."""

    seconds: Seconds | None = None
    """``None``: it cannot be used."""
    format: str = ""
    """``16000 Hz, 1 channel``."""
    problems: list[str] = field(default_factory=list)


def examine(
    utterances: Sequence[Utterance], *, decode: bool = False, workers: int | None = None, clipped: float = 0.01
) -> list[Report]:
    """Read the headers of all audio, and decode it if asked to, in parallel.

    A file is read once, however many utterances lie in it. Of a file that cannot be read as a whole, the first
    utterance reports it for all.

    Args:
        utterances: whose audio to look at.
        decode: decode it as well: all samples there, finite, not all the same, not clipped.
        workers: threads that read headers (default: 8), processes that decode (default: one per core).
        clipped: the share of samples at full scale above which this is a problem.

    Returns:
        A report per utterance.

    Raises:
        BenchmarkError: a worker process died.
    """
    by_file: dict[str, list[int]] = {}
    for index, utterance in enumerate(utterances):
        by_file.setdefault(utterance.path, []).append(index)
    found = headers.read(by_file, workers=workers or 8)
    reports = [Report() for _ in utterances]
    usable: list[int] = []
    spans: list[_Spans] = []
    for path, indices in by_file.items():
        header = found[path]
        if isinstance(header, str):
            several = f" ({len(indices):,} utterances of it)" if len(indices) > 1 else ""
            reports[indices[0]].problems.append(f"utterance {utterances[indices[0]].id}: {path} {header}{several}")
            continue
        spans.append((path, []))
        for index in indices:
            reports[index].format = header.format
            try:
                span = headers.span(utterances[index], header.frames, header.rate)
            except headers.AudioError as error:
                reports[index].problems.append(str(error))
            else:
                reports[index].seconds = span[1] / header.rate
                usable.append(index)
                spans[-1][1].append(span)
    if decode:
        decoded = _decode_all(spans, workers or _cores(), clipped)
        for index, problems in zip(usable, decoded, strict=True):
            name = f"utterance {utterances[index].id}: {utterances[index].path}"
            reports[index].problems += [f"{name} {problem}" for problem in problems]
    return reports


def _decode_all(files: Sequence[_Spans], workers: int, clipped: float) -> Iterator[list[str]]:
    """What is wrong with each stretch of each file."""
    chunks = [files[first : first + _CHUNK] for first in range(0, len(files), _CHUNK)]
    with _pool(workers) as run, tqdm(total=len(files), desc="decoding", unit="file", leave=False, delay=1.0) as bar:
        for chunk, problems in zip(chunks, run(_decode, chunks, [clipped] * len(chunks)), strict=True):
            yield from problems
            bar.update(len(chunk))


@contextmanager
def _pool(workers: int) -> Iterator[Any]:
    """A ``map`` in processes; in this one where there is one worker."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    context.set_forkserver_preload(["benchmark.data.examine"])  # imported once, not by every worker
    quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=quiet)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise BenchmarkError(
            "a worker process died while decoding: out of memory, or a file that crashes libsndfile. --workers 1 "
            "decodes one file after another in this process"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(files: Sequence[_Spans], clipped: float) -> list[list[str]]:
    problems: list[list[str]] = []
    for path, spans in files:
        try:
            with soundfile.SoundFile(path) as file:
                problems += [list(_listen(file, first, frames, clipped)) for first, frames in spans]
        except (soundfile.SoundFileError, OSError) as error:
            problems += [[f"cannot be read as audio ({error})"] for _ in spans]
    return problems


def _listen(file: Any, first: int, frames: int, clipped: float) -> Iterator[str]:
    """What is wrong with ``frames`` samples of an open file from ``first`` on."""
    done = bad = full = 0
    first_bad = 0
    low, high = np.inf, -np.inf
    try:
        file.seek(first)
        while done < frames:
            block = file.read(min(_BLOCK, frames - done), dtype="float32", always_2d=True)  # (sample, channel)
            if not len(block):
                break
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                first_bad = first_bad if bad else done + int(finite.argmin())
                bad += int((~finite).sum())
            else:
                mono = block.mean(axis=1)
                low, high = min(low, float(mono.min())), max(high, float(mono.max()))
            full += int((np.abs(block) >= _FULL_SCALE).any(axis=1).sum())
            done += len(block)
    except (soundfile.SoundFileError, OSError) as error:
        yield f"cannot be decoded beyond {done / file.samplerate:.3f} s ({error}); fetch the file again"
        return
    if done < frames:
        yield f"ends early: its header promises {frames} samples from {first}, {done} could be decoded; fetch it again"
    if bad:
        yield f"has {bad:,} samples that are NaN or infinite, first at {(first + first_bad) / file.samplerate:.3f} s"
    elif low == high:
        yield f"is silent: all samples are {low:g}"
    elif max(high, -low) > 10:
        yield f"has samples up to {max(high, -low):g}, where 1 is full scale: it was written without scaling"
    elif full > clipped * done:
        yield f"is clipped: {100 * full / done:.1f} % of its samples at full scale (--max-clipped {100 * clipped:g})"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --------------------------------------------------------------------------------------------------------- summaries


def usable(splits: Mapping[str, Sequence[Utterance]], reports: Sequence[Report]) -> dict[str, list[Utterance]]:
    """The utterances whose audio can be used, with their durations; splits without any are left out.

    Args:
        splits: by name.
        reports: of all utterances, split after split.
    """
    remaining = iter(reports)
    kept = {
        name: [
            replace(utterance, duration=report.seconds)
            for utterance, report in zip(utterances, [next(remaining) for _ in utterances], strict=True)
            if report.seconds
        ]
        for name, utterances in splits.items()
    }
    return {name: utterances for name, utterances in kept.items() if utterances}


def summary(splits: Mapping[str, Sequence[Utterance]], reports: Sequence[Report], labels: Sequence[str] = ()) -> str:
    """A table of the splits (utterances, hours, numbers of speakers, languages and values of other labels, quantiles of
    durations, which must be known) and the formats of their audio."""
    others = [name for name in dict.fromkeys(labels) if name not in LABEL_FIELDS]
    rows = []
    for name, utterances in splits.items():
        seconds = np.array([utterance.duration for utterance in utterances], dtype=np.float64)
        values = [{u.label(label) for u in utterances} - {None} for label in ("speaker", "language", *others)]
        quantiles = [f"{q:.2f}" for q in np.quantile(seconds, [0, 0.05, 0.5, 0.95, 1])]
        hours = f"{seconds.sum() / 3600:,.2f}"
        rows.append([name, len(utterances), hours, *(len(found) or None for found in values), *quantiles])
    columns = ["split", "utterances", "hours", "speakers", "languages", *others]
    table = Table([*columns, "min s", "5 %", "median", "95 %", "max s"], rows).text()
    counts = Counter(report.format for report in reports if report.format)
    note = "; channels are averaged, rates converted when loading" if len(counts) > 1 else ""
    formats = "; ".join(f"{name}: {count:,} utterances" for name, count in counts.most_common())
    return f"{table}\naudio: {formats}{note}"
