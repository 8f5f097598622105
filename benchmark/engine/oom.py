"""When a batch does not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch


class DoesNotFit(Exception):
    """Torch could not allocate memory for this batch."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch


_CPU = ("can't allocate memory", "not enough memory")
"""In the messages of the RuntimeError that torch raises on the CPU."""


@contextlib.contextmanager
def noticed(batch: Batch) -> Iterator[None]:
    """Raise :class:`DoesNotFit` where torch cannot allocate memory, on a GPU or on the CPU."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _CPU):
            raise DoesNotFit(batch) from error
        raise


def smaller(size: int) -> int:
    """The largest power of two below a size."""
    return 1 << ((size - 1).bit_length() - 1)


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch in parts of at most ``size`` utterances; each is padded to its own longest utterance."""
    if len(batch.ids) <= size:
        yield batch
        return
    for first in range(0, len(batch.ids), size):
        part = slice(first, first + size)
        lens = batch.wav_lens[part]
        hidden = batch.hidden
        if hidden is not None:
            frames = int(hidden.lengths[part].max())
            sums = {name: getattr(hidden, name) for name in ("norms", "gram", "frames")}
            hidden = replace(
                hidden,
                states=[state[part, :frames] for state in hidden.states],
                lengths=hidden.lengths[part],
                **{name: None if value is None else value[part] for name, value in sums.items()},
            )
        yield Batch(batch.wavs[part, : int(lens.max())], lens, _cut(batch.targets, part), batch.ids[part], hidden)


def _cut(targets: Any, part: slice) -> Any:
    """The targets of some utterances: the first dimension of every tensor is the batch."""
    if targets is None or isinstance(targets, torch.Tensor):
        return None if targets is None else targets[part]
    if isinstance(targets, tuple | list):
        return type(targets)(_cut(item, part) for item in targets)
    raise BenchmarkError(f"targets of type {type(targets).__name__} cannot be split into smaller batches")


def explain(doing: str, batch: Batch, sample_rate: int, advice: Sequence[str]) -> BenchmarkError:
    """What is said of a batch that does not fit."""
    longest = int(batch.wav_lens.argmax())
    seconds = float(batch.wav_lens[longest]) / sample_rate
    return BenchmarkError(
        f"{doing}: out of memory for a batch of {len(batch.ids)} utterances, of which {batch.ids[longest]} is the "
        f"longest ({seconds:.1f} s). {'; or '.join(advice)}"
    )
