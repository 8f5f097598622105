"""What an upstream, a task and a head are, and the data that passes between them.

Notation in shapes: ``batch`` utterances, ``sample`` audio samples, ``frame`` upstream frames, ``dim`` features.

Over 500 lines: most of them say what plug-ins have to do, which is best read in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.files import Content

if TYPE_CHECKING:
    from benchmark.evaluation import About, Items

Seconds = float


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of one audio file and what is known about it.

    >>> utterance = Utterance("id10001/1zcIwhmdeo4/00001.wav", "/data/…/00001.wav", labels={"emotion": "calm"})
    >>> utterance.label("emotion")
    'calm'
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
    gender: str | None = None
    """``f`` or ``m``, where the corpus says so; label budgets for ASR are balanced by it."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Anything else that a task may ask for by name: emotion, keyword, intent."""

    @property
    def place(self) -> tuple[str, Seconds, Seconds | None]:
        """Where its audio is: path, start and duration."""
        return self.path, self.start, self.duration

    def label(self, name: str) -> str | None:
        """A known field (``speaker``, ``language``, ...) or one of :attr:`labels`; ``None`` where it is not known."""
        value: str | None = getattr(self, name) if name in LABEL_FIELDS else self.labels.get(name)
        return value


LABEL_FIELDS = ("text", "speaker", "language", "session", "split", "gender")
"""Fields of :class:`Utterance` that label it."""


@dataclass(frozen=True, slots=True)
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
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)
    """Verification trial lists by name; empty for corpora without."""


@dataclass(frozen=True)
class Splits:
    """What :meth:`Task.split` takes of a corpus. The engine hands the task a copy with fewer training utterances."""

    corpus: str
    """Name of the corpus that ``test`` is of."""
    train: Sequence[Utterance]
    dev: Sequence[Utterance]
    test: Sequence[Utterance]
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Evaluation set -> whatever the task scores it by beside the utterances: a trial list, a part of ``test``."""
    vocabulary: Mapping[str, Any] | None = None
    """Of a trained run, where :meth:`Task.split_test` left ``train`` and ``dev`` empty; see :meth:`Task.vocabulary`."""
    sources: tuple[str, ...] = ()
    """Names of other corpora that a part of ``test`` is of, which the engine finds out."""

    def __getitem__(self, name: str) -> Sequence[Utterance]:
        """The split ``train``, ``dev`` or ``test``."""
        split: Sequence[Utterance] = getattr(self, name)
        return split


@dataclass(frozen=True)
class Target:
    """What is scored in place of the protocol's own test set (``-m evaluate``)."""

    name: str
    """A split or trial list of ``corpus``."""
    corpus: Corpus
    """The run's own corpus, or other data."""


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
    hidden: HiddenStates | None = None
    """The states, where a feature store had them; ``wavs`` is empty then."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with a function applied to all tensors that training needs on its device."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return type(value)(apply(item) for item in value) if isinstance(value, tuple | list) else value

        hidden = self.hidden
        if hidden is not None:
            hidden = replace(hidden, states=apply(hidden.states), lengths=apply(hidden.lengths))
        return Batch(apply(self.wavs), apply(self.wav_lens), apply(self.targets), self.ids, hidden)

    def pin_memory(self) -> Batch:
        """In memory from which a GPU copies by itself; torch's data loader asks for it."""
        return self.map(Tensor.pin_memory)


@dataclass
class HiddenStates:
    """What an upstream returns."""

    states: list[Tensor]
    """num_states x (batch, frame, dim). Frames at and beyond an utterance's length are zero."""
    lengths: Tensor
    """(batch,) int64: valid frames."""
    norms: Tensor | None = None
    """(batch, num_states): sums over frames of each state's L2 norm, and"""
    gram: Tensor | None = None
    """(batch, num_states, num_states): of the inner products of states; where the states are means over time."""
    frames: Tensor | None = None
    """(batch,): frames that each mean is of."""

    def __getitem__(self, key: str) -> Any:
        """``hidden_states`` (the list) or ``last_hidden_state``: the keys of what s3prl's upstreams return."""
        return {"hidden_states": self.states, "last_hidden_state": self.states[-1]}[key]


class Upstream(nn.Module, ABC):
    """Waveform -> hidden states. A subclass sets the attributes and implements :meth:`output_lengths`, :meth:`forward`.

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
    """What ``result.json`` records about it: checkpoint, sha256, licence …; ``benchmark.registry.load_upstream`` adds
    name and origin. ``settings``: of one without sha256, a digest of what decides its states beside its parameters and
    options."""
    batch_seconds: Seconds = 0.0
    """Audio that a pass should be of at least, where its weights are read anew at each; 0: any."""
    trainable: bool = True
    """Whether it can be trained; else it is used frozen."""
    centred: bool = False
    """The mean of a state over an utterance is zero: a head that sees no more than means learns nothing of it."""
    sharded: bool = False
    """Several processes have parts of it, gathered for a block at a time: all of them have to make the same passes."""
    exports: Mapping[str, Callable[[Any, Path], str]] = {}
    """Formats of other libraries -> function that writes the upstream (its first argument) to a path that does not
    exist yet, and returns how to load it from there. ``wavbench export`` writes the first format by default."""

    @property
    def extractor(self) -> nn.Module | None:
        """The convolutional feature extractor, which fine-tuning does not train unless ``tune.extractor`` says so;
        ``None``: there is none."""
        return None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last, for regimes that treat them differently; empty: there are none."""
        return ()

    @abstractmethod
    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Valid frames (batch,) of waveforms with ``wav_lens`` (batch,) valid samples."""

    def __call__(
        self,
        wavs: Tensor | Sequence[Tensor | np.ndarray[Any, Any]],
        wav_lens: Tensor | None = None,
        *,
        keep: Sequence[int] | None = None,
    ) -> HiddenStates:
        """Compute hidden states of ``upstream([wav1, wav2])`` or of a padded batch.

        Args:
            wavs: a list of waveforms (sample,) of any lengths, as tensors or arrays, which are moved to the upstream's
                device; or a tensor (batch, sample). Floating-point samples in [-1, 1] at :attr:`sample_rate`.
            wav_lens: (batch,) valid samples of a tensor; ``None``: all are valid.
            keep: see :meth:`forward`.

        Raises:
            BenchmarkError: ``wavs`` are neither.
        """
        if wav_lens is None:
            parameter = next(self.parameters(), None)
            wavs, wav_lens = _pad(wavs, None if parameter is None else parameter.device)
        elif not isinstance(wavs, Tensor):
            raise BenchmarkError("wav_lens goes with a padded (batch, sample) tensor only; a list needs no lengths")
        states: HiddenStates = super().__call__(wavs, wav_lens, keep=keep)
        return states

    @abstractmethod
    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states of a padded batch; subclasses implement this, users call the upstream itself.

        Args:
            wavs: (batch, sample) float32.
            wav_lens: (batch,) valid samples.
            keep: which states to return, in increasing order; ``None`` for all. Blocks above the last are not run.
        """


def _pad(wavs: Any, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """A list of waveforms, or a tensor (batch, sample) -> the latter in float32, and the lengths (batch,)."""
    if isinstance(wavs, Tensor) and wavs.dim() == 2 and wavs.is_floating_point():
        return wavs.float(), torch.full((len(wavs),), wavs.size(1), device=wavs.device)
    if not isinstance(wavs, (list, tuple)) or not wavs:
        got = _describe(wavs) if not isinstance(wavs, (list, tuple)) else "an empty list"
        raise BenchmarkError(
            f"got {got}; expected a list of 1-D waveforms, or a tensor (batch, sample) of floating-point samples"
        )
    rows = []
    for i, wav in enumerate(wavs):
        if isinstance(wav, np.ndarray) and np.issubdtype(wav.dtype, np.floating):
            wav = torch.tensor(np.ascontiguousarray(wav, dtype=np.float32)) if wav.ndim == 1 else wav
        if not isinstance(wav, Tensor) or wav.dim() != 1 or not wav.is_floating_point():
            raise BenchmarkError(
                f"waveform {i} is {_describe(wav)}; expected a 1-D tensor or array of floating-point samples in "
                "[-1, 1] (one channel; divide 16-bit integers by 32768)"
            )
        rows.append(wav.to(device, torch.float32))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(
        [len(row) for row in rows], device=rows[0].device
    )


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


class Regime(ABC):
    """Which parameters of the upstream are trained. Register one by ``benchmark.registry.regimes``."""

    trains_upstream: ClassVar[bool] = True
    """Whether the upstream, or adapters of it, get gradients; the protocol card's ``finetune`` values apply then."""
    single_layer: ClassVar[bool] = False
    """Whether the head sees one layer (``featurizer.layer``, which must be given) in place of the weighted sum."""

    @abstractmethod
    def apply(self, upstream: Upstream, tune: Any) -> None:
        """Set ``requires_grad`` of the upstream's parameters, all of which come without it.

        Args:
            upstream: may be changed in place (adapters).
            tune: the run's :class:`benchmark.config.TuneConfig`.

        Raises:
            BenchmarkError: the upstream does not have what the regime trains.
        """

    def check(self, tune: Any) -> None:
        """Raise :class:`BenchmarkError` on options (``tune``) that do not fit the regime."""
        if tune.top_blocks is not None:
            raise BenchmarkError("tune.top_blocks (--top-blocks K) goes with regime 'partial' only")

    def merge(self, upstream: Upstream) -> None:
        """Bring a trained upstream back to the modules that it was loaded with; called before it is exported."""
        return


class Head(nn.Module, ABC):
    """Features -> loss or predictions. Made by :meth:`Task.make_head`; its parameters are always trained."""

    mean_suffices: bool = False
    """Whether only the mean of the features over an utterance's frames matters, as with a linear layer before mean
    pooling: then a feature store keeps no more than that."""
    attends: bool = False
    """Whether it takes keys beside features, by which it attends to frames: the weighted sum of the layers is then two,
    of weights of their own, and features are (batch, frame, 2 * dim), keys first. Of a single layer, both are the
    layer, and features are (batch, frame, dim)."""

    @abstractmethod
    def loss(self, features: Tensor, lengths: Tensor, targets: Any) -> Tensor:
        """Mean loss, a scalar. ``features`` (batch, frame, dim); ``lengths`` (batch,) valid frames."""

    @abstractmethod
    def predict(self, features: Tensor, lengths: Tensor) -> list[Any]:
        """One prediction an utterance (an embedding, log-posteriors, token ids), on the CPU."""

    def set_linear(self, weight: Tensor, bias: Tensor, mean: Tensor) -> None:
        """Of heads that :meth:`Task.make_linear_head` makes: become the classifier whose logits of an utterance are
        ``weight @ (x - mean) + bias``, ``x`` being the mean of its features.

        Args:
            weight: (class, dim) float64.
            bias: (class,).
            mean: (dim,): of the training utterances.
        """
        raise NotImplementedError


class NeighbourHead(Head):
    """A head that is not trained: it compares utterances with those of training by the means of their features. Made by
    :meth:`Task.make_neighbour_head`."""

    mean_suffices = True

    @abstractmethod
    def remember(self, features: Tensor, targets: Any, neighbours: int) -> None:
        """Take over the training utterances.

        Args:
            features: (utterance, dim): means over frames.
            targets: as :meth:`Task.targets` gives them.
            neighbours: how many of them predictions come from.
        """

    @abstractmethod
    def predict_by(self, features: Tensor, lengths: Tensor, neighbours: Sequence[int]) -> dict[int, list[Any]]:
        """Number of neighbours -> :meth:`predict`; only the first where their number does not matter."""

    def loss(self, features: Tensor, lengths: Tensor, targets: Any) -> Tensor:
        """There is none."""
        raise NotImplementedError


@dataclass
class Evaluation:
    """What :meth:`Task.evaluate` returns."""

    metrics: dict[str, dict[str, float]]
    """Evaluation set -> metric -> value. Rates in percent; costs without unit (DCF, Cavg) or in bits (Cllr)."""
    items: Items | None = None
    """What the metrics of the set ``test`` (or ``dev``) are computed from, with clusters; kept in the experiment folder
    for intervals over the test set. See :mod:`benchmark.evaluation`."""
    sets: Mapping[str, Items] = field(default_factory=dict)
    """Evaluation set -> its items, of those whose scores are on one scale with those of ``dev``: a calibration that is
    fitted on ``dev`` is applied to them (:mod:`benchmark.calibration`)."""
    files: dict[str, Content] = field(default_factory=dict)
    """File name -> content, to keep in the experiment folder."""


class Task(ABC):
    """A downstream task on one corpus: which utterances, which targets, which head, which metric.

    The engine calls :meth:`split`, takes training utterances out (those that are too short, those beyond a label
    budget), and makes the task from what is left. A task does not change after it is made.

    Args:
        config: the options, of :attr:`Config`.
        splits: from :meth:`split`, ``train`` cut by the engine.
        seconds: utterance id -> duration, of every utterance of the splits.
    """

    Config: ClassVar[type]
    """A dataclass: the task's options, as written under ``task:`` in a protocol card."""
    scoring: ClassVar[tuple[str, ...]] = ()
    """Options that change how predictions are scored and nothing else; ``-m evaluate`` may change them."""
    croppable: ClassVar[bool] = True
    """Whether a stretch of a training utterance has the labels of the whole."""

    def __init__(self, config: Any, splits: Splits, seconds: Mapping[str, Seconds]) -> None:
        self.config, self.splits, self.seconds = config, splits, seconds

    @classmethod
    @abstractmethod
    def split(cls, config: Any, corpus: Corpus, target: Target | None = None) -> Splits:
        """Choose the splits of a corpus and check them; a pure function.

        Args:
            config: the options.
            corpus: as its reader found it.
            target: score this in place of the protocol's own test set; training data and labels stay as they are.

        Raises:
            BenchmarkError: names whatever is wrong, before training.
        """

    @classmethod
    def split_test(
        cls, config: Any, corpus: Corpus, vocabulary: Mapping[str, Any], name: str | None = None
    ) -> Splits | None:
        """What a trained run is scored on where its training data are not there; a pure function.

        Args:
            config: the options.
            corpus: what there is of the run's own, or other data.
            vocabulary: of the run, from its checkpoint.
            name: a split or trial list of ``corpus``; ``None``: the protocol's own test set.

        Returns:
            ``test`` as :meth:`split` chooses it, with empty ``train`` and ``dev``, and the vocabulary. A task that is
            made of it evaluates ``test`` to the same metrics. ``None``: the task needs its training data.

        Raises:
            BenchmarkError: names whatever is wrong.
        """
        return None

    @property
    def selection(self) -> str:
        """The metric of the ``dev`` evaluation set that chooses the checkpoint: the option ``selection``."""
        return str(self.config.selection)

    def rank(self, dev: Mapping[str, float], error: float) -> tuple[float, ...]:
        """Where a checkpoint comes among others and among those of a search's other candidates: the lowest is the best.

        Args:
            dev: its metrics.
            error: its value of :attr:`selection` where lower is better, else the distance from the ceiling; what this
                method returns by default.
        """
        return (error,)

    @classmethod
    def requires(cls, config: Any) -> tuple[str, ...]:
        """Names of labels (:meth:`Utterance.label`) that must be known of every utterance: ``speaker``, ``text`` …"""
        return ()

    @classmethod
    def strata(cls, config: Any) -> tuple[str, ...]:
        """Names of labels between whose values a label budget balances the audio, outermost first."""
        return ("speaker",)

    @classmethod
    def frames_needed(cls, config: Any, splits: Splits) -> Callable[[Utterance], int] | None:
        """Frames below which a training utterance cannot be learned from; those with fewer are dropped and counted.

        ``None``: one frame is enough for any.
        """
        return None

    def chances(self) -> Sequence[float] | None:
        """Of each training utterance, its relative chance to be drawn; ``None``: all are drawn once an epoch."""
        return None

    @abstractmethod
    def targets(self, utterances: Sequence[Utterance]) -> Any:
        """The training targets of a batch of utterances of the ``train`` split."""

    @abstractmethod
    def vocabulary(self) -> dict[str, Any]:
        """What it takes, beside the options, to make the head and to read its predictions without the corpus: classes,
        alphabet. Plain data; kept in checkpoints."""

    @classmethod
    @abstractmethod
    def make_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """A freshly initialised head for features of ``feature_size``."""

    @classmethod
    def make_linear_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """A head with :meth:`Head.set_linear`, for ``probe.solver=exact``: one class an utterance (:meth:`targets`),
        cross-entropy, a linear map of full rank of mean features.

        Raises:
            BenchmarkError: the task has none, or its options ask for another head or loss.
        """
        raise BenchmarkError("probe.solver=exact is for tasks with one class an utterance; this one has other targets")

    @classmethod
    def make_neighbour_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> NeighbourHead:
        """The head of ``probe.solver=knn``.

        Raises:
            BenchmarkError: the task has none.
        """
        raise BenchmarkError("probe.solver=knn is for tasks with one class an utterance; this one has other targets")

    @abstractmethod
    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score the predictions (utterance id -> prediction) of a whole split, ``dev`` or ``test``.

        Args:
            split: the metrics of ``dev`` must hold an evaluation set ``dev``, those of ``test`` one named ``test``.
            predictions: of the split's utterances and of those that :meth:`support` names.
        """

    def support(self, split: str) -> Sequence[Utterance]:
        """Training utterances whose predictions :meth:`evaluate` needs beside the split's own: a cohort."""
        return ()

    @classmethod
    def recover(cls, folder: Path) -> About | None:
        """What ``evaluation.json`` would say of a run that was written before it existed; ``None``: nothing is known.

        Raises:
            OSError, ValueError, LookupError, TypeError: a file of the run is not as expected.
        """
        return None

    @classmethod
    def present(cls, config: Any, vocabulary: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """A prediction as ``wavbench predict`` writes it: a JSON object of plain data."""
        raise BenchmarkError(f"{cls.__name__} does not say how its predictions are written")
