"""Random numbers that are drawn for a batch as a whole: masks, dropped layers.

Where processes share a batch (``benchmark/engine/distributed.py``), each draws them for all of its utterances, from a
generator that all seed alike, and keeps those of its own. So they do not depend on the number of processes. Elsewhere
the functions here change nothing: the generator is torch's own, and a batch is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """What a process has of a batch."""

    frames: Sequence[int]
    """Of each utterance of the whole batch."""
    rows: Sequence[int]
    """Which of them are this process's."""
    generator: torch.Generator
    """On the CPU, in the same state in all processes."""


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextlib.contextmanager
def shared(share: Share | None) -> Iterator[None]:
    """Draw for a batch of which this process has a share; ``None``: it has all of it."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def are_shared() -> bool:
    """Whether this process has a share of a batch."""
    return _share.get() is not None


def generator() -> torch.Generator | None:
    """What to draw from; ``None``: torch's own generator of the CPU."""
    share = _share.get()
    return None if share is None else share.generator


def whole(lengths: Sequence[int]) -> Sequence[int]:
    """The frames of all utterances of the batch of which ``lengths`` are this process's."""
    share = _share.get()
    return lengths if share is None else share.frames


def own(drawn: Tensor) -> Tensor:
    """This process's rows of what was drawn for the whole batch, (utterance, …)."""
    share = _share.get()
    return drawn if share is None else drawn[torch.tensor(share.rows, dtype=torch.int64)]
