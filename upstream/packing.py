"""Ragged utterances end to end, without padding: what a batch computes on.

A layer that looks at one frame at a time (linear layers, LayerNorm, dropout) needs to know nothing of utterances; the
others ask the :class:`Packing` which rows are whose. Nothing is computed on padding, and an utterance has the same
hidden states in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor


def one_by_one(device: torch.device) -> bool:
    """Whether utterances go through convolutions one after the other: activations then fit a CPU's caches."""
    return device.type != "cuda"


class Packing:
    """Which rows of (row, …) tensors belong to which utterance.

    Args:
        lengths: rows of each utterance, on the host, so that nothing waits for the device.
        device: where the tensors are.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths, self.device = list(lengths), device
        self.longest, self.rows = max(self.lengths), sum(self.lengths)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(row, …) -> (frame, …) of each utterance, as views."""
        return torch.split(x, self.lengths)

    def pack(self, x: Tensor) -> Tensor:
        """(utterance, frame, …) -> (row, …)."""
        if len(self.lengths) == 1:
            return x[0, : self.rows]
        return x.flatten(0, 1).index_select(0, self._places(x.size(1)))

    def pad(self, x: Tensor) -> Tensor:
        """(row, …) -> (utterance, longest, …), zeros beyond an utterance's end."""
        if len(self.lengths) == 1:
            return x.unsqueeze(0)
        padded = x.new_zeros(len(self.lengths) * self.longest, *x.shape[1:])
        padded = padded.index_copy(0, self._places(self.longest), x)
        return padded.view(len(self.lengths), self.longest, *x.shape[1:])

    def apart(self, x: Tensor, gap: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function of (1, row, …), such as a convolution, with ``gap`` rows of zeros between utterances.

        Args:
            x: (row, …).
            gap: rows, at least as many as ``function`` looks to either side.
            function: gives as many rows as it gets.
        """
        if len(self.lengths) == 1:
            return function(x.unsqueeze(0))[0]
        places = self._spread(gap)
        spread = x.new_zeros(self.rows + gap * (len(self.lengths) - 1), *x.shape[1:]).index_copy(0, places, x)
        return function(spread.unsqueeze(0))[0].index_select(0, places)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, prefix: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Scaled dot-product attention within each utterance; (row, head, dim) each -> the same.

        ``prefix``: keys and values (place, head, dim) that every utterance has beside its own.
        """
        if self.one_by_one():
            parts = []
            for one, two, three in zip(*map(self.split, (q, k, v)), strict=True):
                if prefix is not None:
                    two, three = torch.cat((prefix[0], two)), torch.cat((prefix[1], three))
                parts.append(_attend(one[None], two[None], three[None], dropout)[0])
            return torch.cat(parts)
        if prefix is not None:
            keys, values = (with_prefix(self.pad(x), of) for x, of in zip((k, v), prefix, strict=True))
            valid = F.pad(self._valid, (len(prefix[0]), 0), value=True)
            return self.pack(_attend(self.pad(q), keys, values, dropout, valid))
        if q.dtype in (torch.bfloat16, torch.float16) and not dropout:
            from torch.nn.attention.varlen import varlen_attn

            attended = varlen_attn(q, k, v, self._bounds, self._bounds, self.longest, self.longest)
            return cast(Tensor, attended)
        return self.pack(_attend(self.pad(q), self.pad(k), self.pad(v), dropout, self._valid))

    def one_by_one(self) -> bool:
        """Whether attention is computed for one utterance after the other, which is faster on a CPU."""
        return len(self.lengths) == 1 or self.device.type != "cuda"

    @cached_property
    def utterance(self) -> Tensor:
        """(row,) the utterance of each row."""
        return self._send(torch.repeat_interleave(torch.tensor(self.lengths)))

    @cached_property
    def _bounds(self) -> Tensor:
        """(utterance + 1,) first rows, and the number of rows."""
        return self._send(F.pad(torch.tensor(self.lengths).cumsum(0), (1, 0)).int())

    @cached_property
    def _valid(self) -> Tensor:
        """(utterance, 1, 1, frame), True where attention may look."""
        frames = torch.arange(self.longest)
        return self._send(frames < torch.tensor(self.lengths)[:, None])[:, None, None, :]

    def _places(self, frames: int) -> Tensor:
        """(row,) of each row, its place among utterances of ``frames`` frames."""
        return self._gathered(lambda i, _: i * frames, frames)

    def _spread(self, gap: int) -> Tensor:
        """(row,) of each row, its place where utterances are ``gap`` rows apart."""
        return self._gathered(lambda i, first: first + i * gap, -gap)

    def _gathered(self, start: Callable[[int, int], int], key: int) -> Tensor:
        if key not in self._indices:
            first, parts = 0, []
            for i, length in enumerate(self.lengths):
                parts.append(torch.arange(length) + start(i, first))
                first += length
            self._indices[key] = self._send(torch.cat(parts))
        return self._indices[key]

    @cached_property
    def _indices(self) -> dict[int, Tensor]:
        return {}

    def _send(self, x: Tensor) -> Tensor:
        """To the device, without waiting for it."""
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x


def with_prefix(x: Tensor, prefix: Tensor) -> Tensor:
    """(utterance, frame, …) and (place, …) -> (utterance, place + frame, …)."""
    return torch.cat((prefix.expand(len(x), *prefix.shape), x), dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor | None = None) -> Tensor:
    """Attention of (utterance, frame, head, dim); ``mask`` (utterance, 1, 1, frame)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout).transpose(1, 2)
