"""An encoder class of XARES or XARES-LLM as it is: ``-u xares -o upstream.options.source=my_encoder.py:MyEncoder``.

https://github.com/jimbozhang/xares (161f0ef): ``forward(audio) -> features``, ``sampling_rate``, ``hop_size_in_ms``;
https://github.com/xiaomi-research/xares-llm: ``forward(audio, mask) -> (features, mask)``, 16 kHz.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from upstream.adapters import Adapter, find


class Xares(Adapter):
    """An encoder: audio (batch, sample), and a mask of ones where it is valid -> features (batch, frame, dim).

    Args:
        source: the class, as :func:`upstream.adapters.find` says.
        options: given to it.
    """

    def __init__(self, source: str = "", **options: Any) -> None:
        super().__init__(source, find, **options)
        self.sample_rate = int(getattr(self.encoder, "sampling_rate", 16000))
        self.masked = len(inspect.signature(self.encoder.forward).parameters) > 1
        hop = getattr(self.encoder, "hop_size_in_ms", None)
        self.measure(None if hop is None else round(hop * self.sample_rate / 1000))

    def states(self, wav: Tensor) -> list[Tensor]:
        """The features of one waveform, as the only state."""
        audio = wav[None]
        output = self.encoder(audio, torch.ones_like(audio, dtype=torch.int64)) if self.masked else self.encoder(audio)
        features, mask = output if isinstance(output, tuple | list) else (output, None)
        if mask is not None and mask.shape[1] == features.shape[1]:  # some return that of the audio
            features = features[:, : int(mask[0].sum())]
        return [features[0]]
