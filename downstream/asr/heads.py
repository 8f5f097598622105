"""CTC heads.

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``dim`` features of the upstream, ``symbol`` of the alphabet.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Head
from benchmark.registry import suggest
from downstream.asr.specaugment import SpecAugmentConfig, spec_augment
from downstream.asr.text import BLANK


@dataclass
class CTCHeadConfig:
    """Which head, and how large."""

    name: str = "bilstm"
    """A key of ``HEADS`` in ``downstream/asr/heads.py``: ``bilstm`` (SUPERB's, for frozen features) or ``linear``
    (fairseq's, for fine-tuning)."""
    size: int = 1024
    """bilstm: features are projected to this size first."""
    hidden: int = 1024
    """bilstm: units per layer and direction."""
    layers: int = 2
    """bilstm: layers."""
    dropout: float = 0.2
    """bilstm: of each layer's output, the last one included."""
    final_dropout: float = 0.0
    """linear: of the features (fairseq: ``final_dropout``)."""

    def check(self) -> None:
        """Raise on an unknown name and on values out of range."""
        if self.name not in HEADS:
            raise BenchmarkError(f"unknown head '{self.name}' (task.head.name). " + suggest(self.name, sorted(HEADS)))
        for key in ("size", "hidden", "layers"):
            if getattr(self, key) < 1:
                raise BenchmarkError(f"task.head.{key} must be positive, got {getattr(self, key)}")
        for key in ("dropout", "final_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise BenchmarkError(f"task.head.{key} must be at least 0 and below 1, got {getattr(self, key)}")


class CTCHead(Head):
    """What CTC heads share: SpecAugment in training, the loss, log posteriors.

    The loss is torch's mean: each utterance's negative log likelihood divided by its number of labels, then averaged
    (as in s3prl; fairseq divides the sum by the number of utterances). An utterance that has no alignment counts as 0
    (``zero_infinity``, as in s3prl and fairseq); the engine drops such utterances before training.
    """

    def __init__(self, specaugment: SpecAugmentConfig) -> None:
        super().__init__()
        self.specaugment = specaugment

    @abstractmethod
    def logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, frame, symbol)."""

    def log_posteriors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, frame, symbol), float32."""
        return self.logits(features, lengths).float().log_softmax(dim=2)

    def loss(self, features: Tensor, lengths: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        """CTC loss; ``targets``: labels (batch, label) with arbitrary padding, and how many are valid (batch,)."""
        if self.training:
            features = spec_augment(features, lengths, self.specaugment)
        labels, counts = targets
        log_posteriors = self.log_posteriors(features, lengths).transpose(0, 1)
        with torch.autocast(features.device.type, enabled=False):
            return F.ctc_loss(log_posteriors, labels, lengths, counts, blank=BLANK, zero_infinity=True)

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Log posteriors (valid frames, symbol) of each utterance, float32."""
        log_posteriors = self.log_posteriors(features, lengths).cpu()
        return [row[:length].clone() for row, length in zip(log_posteriors, lengths.tolist(), strict=True)]


def bidirectional(rnn: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """One bidirectional layer over utterances as if each were alone: backwards from its last valid frame.

    Args:
        rnn: one layer, bidirectional, batch first.
        x: (batch, frame, input).
        lengths: (batch,) valid frames, at least 1.

    Returns:
        (batch, frame, 2 * hidden); values in the padding are meaningless.
    """
    if x.device.type != "cpu":
        packed, _ = rnn(pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]
    # On the CPU, packed sequences have no fused kernel and training takes 5 to 15 times as long. Each direction runs
    # over padded sequences in which valid frames come first; for the backward direction they are reversed.
    frames = torch.arange(x.shape[1])
    place = torch.where(frames < lengths[:, None], lengths[:, None] - 1 - frames, frames)[:, :, None]
    start = (x.new_zeros(1, len(x), rnn.hidden_size),) * 2
    directions = []
    for suffix in ("_l0", "_l0_reverse"):
        weights = [getattr(rnn, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        ordered = x if suffix == "_l0" else x.gather(1, place.expand_as(x))
        y: Tensor = torch.lstm(ordered, start, weights, True, 1, 0.0, rnn.training, False, True)[0]
        directions.append(y if suffix == "_l0" else y.gather(1, place.expand_as(y)))
    return torch.cat(directions, dim=2)


class BiLSTM(CTCHead):
    """SUPERB's ASR head: Linear to ``size``, bidirectional LSTM layers each followed by dropout, Linear to the symbols.

    Sizes, operations and initialisation (in this order, with torch's defaults) are those of s3prl ec8064b5
    ``downstream/asr/{expert,model}.py`` with ``config.yaml``: 43 M parameters for 1,024 features.

    Args:
        feature_size: dim.
        symbols: of the alphabet.
        config: sizes and dropout.
        specaugment: applied to the features in training.
    """

    def __init__(self, feature_size: int, symbols: int, config: CTCHeadConfig, specaugment: SpecAugmentConfig) -> None:
        super().__init__(specaugment)
        self.projector = nn.Linear(feature_size, config.size)
        sizes = [config.size] + [2 * config.hidden] * (config.layers - 1)
        self.rnns = nn.ModuleList(nn.LSTM(size, config.hidden, bidirectional=True, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(2 * config.hidden, symbols)

    def logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, frame, symbol)."""
        x = self.projector(features)
        for rnn in self.rnns:
            assert isinstance(rnn, nn.LSTM)
            x = self.dropout(bidirectional(rnn, x, lengths))
        logits: Tensor = self.linear(x)
        return logits


class Linear(CTCHead):
    """fairseq's CTC head: dropout, then one linear layer, Xavier-uniform with zero bias.

    ``Wav2VecEncoder`` of fairseq 0.12.2 ``models/wav2vec/wav2vec2_asr.py``.
    """

    def __init__(self, feature_size: int, symbols: int, config: CTCHeadConfig, specaugment: SpecAugmentConfig) -> None:
        super().__init__(specaugment)
        self.final_dropout = nn.Dropout(config.final_dropout)
        self.proj = nn.Linear(feature_size, symbols)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) -> (batch, frame, symbol)."""
        logits: Tensor = self.proj(self.final_dropout(features))
        return logits


HEADS: dict[str, type[BiLSTM | Linear]] = {"bilstm": BiLSTM, "linear": Linear}
"""Name -> class, constructed as ``cls(feature_size, symbols, head_config, specaugment_config)``."""


def make_head(feature_size: int, symbols: int, head: CTCHeadConfig, specaugment: SpecAugmentConfig) -> CTCHead:
    """A newly initialised head of the kind ``head.name``."""
    head.check()
    specaugment.check()
    return HEADS[head.name](feature_size, symbols, head, specaugment)
