"""Decoding audio to find what is incomplete, not finite, silent or clipped. Worker processes load it without torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from benchmark import cores
from benchmark.data import containers, source
from benchmark.data.pieces import BrokenError, Piece, blocks
from benchmark.errors import BenchmarkError

_CHUNK = 64
"""Files that a worker is given at a time."""
_CANCELLED = 0.01
"""Channels whose average has less than this share of their mean power (-20 dB) cancel each other."""
_FULL_SCALE = 1 - 2**-15
"""The largest 16-bit sample, as a float."""

Stretches = tuple[str, int, Sequence[Piece], list[tuple[int, int]]]
"""A file, its rate, its pieces, and (first frame, number of frames) of each stretch to decode."""


def decode_all(files: Sequence[Stretches], clipped: float, workers: int | None = None) -> Iterator[list[str]]:
    """Decode stretches of files, in processes.

    Args:
        files: what to decode.
        clipped: the share of samples at full scale above which this is a problem.
        workers: processes; default: one per core.

    Yields:
        The problems of each stretch.

    Raises:
        BenchmarkError: a process died.
    """
    if workers is None:
        workers = cores.available()
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
    context.set_forkserver_preload(["benchmark.data.decode"])  # imported once, not by every worker
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


def _decode(files: Sequence[Stretches], clipped: float) -> list[list[str]]:
    problems: list[list[str]] = []
    for path, rate, pieces, spans in files:
        hidden = _hidden(path, pieces)
        for first, frames in spans:
            problems.append([*hidden, *_listen(path, rate, pieces, first, frames, clipped)])
            hidden = []
    return problems


def _hidden(path: str, pieces: Sequence[Piece]) -> list[str]:
    """What a file holds that its header does not mention, where all of it has to be read to know."""
    try:
        with source.open_file(path) as file:
            if len(joined := containers.pieces(file, thorough=True)) > max(1, len(pieces)):
                return [f"is {len(joined)} files in one, of which the first is read; split it"]
    except (BrokenError, OSError):
        pass  # said when its header was read, or when it is decoded
    return []


def _listen(path: str, rate: int, pieces: Sequence[Piece], first: int, frames: int, clipped: float) -> Iterator[str]:
    """What is wrong with ``frames`` samples of a file from ``first`` on."""
    done = bad = full = 0
    first_bad = 0
    low, high = np.inf, -np.inf
    power = average_power = 0.0
    try:
        for block in blocks(path, pieces, first, frames):  # (sample, channel)
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                first_bad = first_bad if bad else done + int(finite.argmin())
                bad += int((~finite).sum())
            else:
                mono = block.mean(axis=1)
                low, high = min(low, float(mono.min())), max(high, float(mono.max()))
                if block.shape[1] > 1:
                    power += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
                    average_power += float(np.square(mono, dtype=np.float64).sum())
            full += int((np.abs(block) >= _FULL_SCALE).any(axis=1).sum())
            done += len(block)
    except (soundfile.SoundFileError, OSError) as error:
        yield f"cannot be decoded beyond {done / rate:.3f} s ({error}); fetch the file again"
        return
    if done < frames:
        yield f"ends early: its header promises {frames} samples from {first}, {done} could be decoded; fetch it again"
    if bad:
        yield f"has {bad:,} samples that are NaN or infinite, first at {(first + first_bad) / rate:.3f} s"
    elif average_power < _CANCELLED * power:
        yield "has channels that cancel each other when they are averaged (one is inverted); keep one of them"
    elif low == high:
        yield f"is silent: all samples are {low:g}"
    elif max(high, -low) > 10:
        yield f"has samples up to {max(high, -low):g}, where 1 is full scale: it was written without scaling"
    elif full > clipped * done:
        yield f"is clipped: {100 * full / done:.1f} % of its samples at full scale (--max-clipped {100 * clipped:g})"
