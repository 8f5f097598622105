"""What an upstream, a task and a head are, and the data that passes between them.

Notation in shapes: ``batch`` utterances, ``sample`` audio samples, ``frame`` upstream frames, ``dim`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

Seconds = float


@dataclass(frozen=True)
class Utterance:
    """One stretch of one audio file and what is known about it.

    >>> Utterance(id="id10001/1zcIwhmdeo4/00001.wav", path="/data/…/00001.wav", speaker="id10001")
    """

    id: str
    """Unique within its corpus."""
    path: str
    """Audio file, anything that libsndfile reads."""
    start: Seconds = 0.0
    duration: Seconds | None = None
    """``None``: to the end of the file."""
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    session: str | None = None
    """The recording that the utterance was cut from (VoxCeleb: the video)."""
    split: str | None = None


@dataclass(frozen=True)
class Trial:
    """One verification trial: do these two utterances have the same speaker?"""

    label: int
    """1 same speaker, 0 different."""
    enrolment: str
    """Utterance id."""
    test: str
    """Utterance id."""


@dataclass
class Corpus:
    """A corpus as its reader found it on disk, validated."""

    name: str
    splits: dict[str, list[Utterance]]
    """The publisher's splits, under the publisher's names."""
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    """Verification trial lists by name; empty for corpora without."""


@dataclass
class Batch:
    """Utterances on their way to an upstream."""

    wavs: Tensor
    """(batch, sample) float32 in [-1, 1] at the upstream's rate, padded with zeros."""
    wav_lens: Tensor
    """(batch,) int64: valid samples."""
    targets: Any
    """What :meth:`Task.targets` returned, or ``None`` when predicting."""
    ids: list[str]


@dataclass
class HiddenStates:
    """What an upstream returns."""

    states: list[Tensor]
    """num_states x (batch, frame, dim). Frames at and beyond an utterance's length are zero."""
    lengths: Tensor
    """(batch,) int64: valid frames."""


class Upstream(nn.Module, ABC):
    """Waveform -> hidden states.

    The states of an utterance are the same alone and padded in any batch.
    """

    sample_rate: int
    """Hz."""
    hidden_size: int
    """Features per frame."""
    num_states: int
    """Transformer blocks + 1: state 0 is the input of block 0, the last is the encoder's output."""
    frame_shift: int
    """Samples from one frame to the next."""
    info: dict[str, Any]
    """What ``result.json`` keeps of it: checkpoint, sha256, licence …; ``benchmark.registry.load_upstream`` adds name
    and origin."""

    @abstractmethod
    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Valid frames (batch,) of waveforms with ``wav_lens`` (batch,) valid samples."""

    @abstractmethod
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states.

        Args:
            wavs: (batch, sample) float32.
            wav_lens: (batch,) valid samples.
            keep: which states to return, in increasing order; ``None`` for all. Blocks above the last are not run.
        """


class Head(nn.Module, ABC):
    """Features -> loss or predictions. Made by :meth:`Task.make_head`; its parameters are always trained."""

    @abstractmethod
    def loss(self, features: Tensor, lengths: Tensor, targets: Any) -> Tensor:
        """Mean loss, a scalar. ``features`` (batch, frame, dim); ``lengths`` (batch,) valid frames."""

    @abstractmethod
    def predict(self, features: Tensor, lengths: Tensor) -> list[Any]:
        """One prediction an utterance (an embedding, log-posteriors, token ids), on the CPU."""


@dataclass
class Evaluation:
    """What :meth:`Task.evaluate` returns."""

    metrics: dict[str, dict[str, float]]
    """Evaluation set -> metric -> value. Rates in percent; costs (minDCF, Cavg) in [0, 1]."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> text, to keep in the experiment folder."""


class Task(ABC):
    """A downstream task on one corpus: which utterances, which targets, which head, which metric."""

    Config: ClassVar[type]
    """A dataclass: the task's options, as written under ``task:`` in a protocol card."""
    selection: ClassVar[str]
    """The metric of the ``dev`` evaluation set that chooses the checkpoint."""
    higher_is_better: ClassVar[bool]

    splits: dict[str, list[Utterance]]
    """``train``, ``dev`` and ``test``."""

    @abstractmethod
    def __init__(self, config: Any, corpus: Corpus) -> None: ...

    @abstractmethod
    def targets(self, utterances: Sequence[Utterance]) -> Any:
        """The training targets of a batch of utterances of the ``train`` split."""

    @abstractmethod
    def make_head(self, feature_size: int) -> Head:
        """A freshly initialised head for features of ``feature_size``."""

    @abstractmethod
    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score the predictions (utterance id -> prediction) of a whole split, ``dev`` or ``test``."""
