"""Speaker verification: train on known speakers, score trials of unknown ones."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation, Head, Task, Trial, Utterance
from benchmark.metrics import eer, min_dcf
from benchmark.registry import suggest
from downstream.sv.heads import HeadConfig, LossConfig, check_names, make_head

DEV_SHARE = 0.2
"""At most this share of the speakers is held out for dev, so that small corpora keep speakers to train on."""
MOST_DEV_UTTERANCES = 5000
"""Bound on dev_speakers * dev_utterances: all pairs of them are listed (12.5 million, 0.3 GB for a moment)."""
_CHUNK = 16384
"""Trials scored at a time: 64 MB for embeddings of 512."""


@dataclass
class SVConfig:
    """Options of speaker verification."""

    train_split: str = "dev"
    """The publisher's split to train on, dev speakers taken out. VoxCeleb calls its training set ``dev``."""
    trials: str = "veri_test2"
    """The trial list behind the ``test`` metrics."""
    more_trials: list[str] = field(default_factory=lambda: ["veri_test"])
    """Lists that are scored beside it, under their own names, where the corpus has them."""
    dev_speakers: int = 40
    """Speakers held out of training for dev trials; at most 20 % of the speakers, at least 2."""
    dev_utterances: int = 40
    """Utterances taken of each dev speaker, spread over its sessions, to keep dev evaluation affordable."""
    dev_trials: int = 20000
    """At most this many dev trials, half of them target trials."""
    dev_seed: int = 0
    """Decides which speakers, utterances and trials; part of the protocol, not varied with the run's seed."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """See :class:`downstream.sv.heads.HeadConfig`."""
    loss: LossConfig = field(default_factory=LossConfig)
    """See :class:`downstream.sv.heads.LossConfig`."""

    def __post_init__(self) -> None:
        self.head = _nested(HeadConfig, "head", self.head)
        self.loss = _nested(LossConfig, "loss", self.loss)


class SpeakerVerification(Task):
    """Train a speaker classifier, verify by the cosine of embeddings.

    ``train`` is the corpus' training split without the dev speakers; ``dev`` and ``test`` are the utterances that occur
    in their trials. Everything is determined by the corpus' ids and ``dev_seed``, whatever order they come in.

    Raises:
        BenchmarkError: an option out of range; a split or trial list that is not there; too few speakers; trials of
            utterances that are not there, of speakers that training sees, or of one class only.
    """

    Config = SVConfig
    selection = "eer"
    higher_is_better = False

    def __init__(self, config: SVConfig, corpus: Corpus) -> None:
        self.config = config
        check_names(config.head, config.loss)
        if min(config.dev_speakers, config.dev_utterances, config.dev_trials) < 2:
            raise BenchmarkError("task.dev_speakers, task.dev_utterances and task.dev_trials must be at least 2")
        if config.dev_speakers * config.dev_utterances > MOST_DEV_UTTERANCES:
            raise BenchmarkError(
                f"task.dev_speakers * task.dev_utterances must be at most {MOST_DEV_UTTERANCES}, got "
                f"{config.dev_speakers} * {config.dev_utterances}; take fewer utterances of each speaker"
            )
        if config.train_split not in corpus.splits:
            raise BenchmarkError(
                f"corpus '{corpus.name}' has no split '{config.train_split}' (task.train_split). "
                + suggest(config.train_split, sorted(corpus.splits))
            )
        utterances = {utterance.id: utterance for split in corpus.splits.values() for utterance in split}
        for utterance in utterances.values():
            if utterance.speaker is None:
                raise BenchmarkError(
                    f"utterance {utterance.id} of '{corpus.name}' has no speaker; verification needs it"
                )

        pool = corpus.splits[config.train_split]
        dev_speakers = hold_out_speakers({str(utterance.speaker) for utterance in pool}, config)
        self.trials = {"dev": make_trials([u for u in pool if u.speaker in dev_speakers], config)}
        if config.trials not in corpus.trials:
            raise BenchmarkError(
                f"corpus '{corpus.name}' has no trial list '{config.trials}' (task.trials). "
                + suggest(config.trials, sorted(corpus.trials))
            )
        self.trials["test"] = corpus.trials[config.trials]
        self.trials |= {name: corpus.trials[name] for name in config.more_trials if name in corpus.trials}

        train = sorted((u for u in pool if u.speaker not in dev_speakers), key=lambda utterance: utterance.id)
        trained = {utterance.speaker for utterance in train}
        for name, trials in self.trials.items():
            self._check_trials(config.trials if name == "test" else name, trials, utterances, trained)
        in_dev = _ids(self.trials["dev"])
        in_test = {name for key, trials in self.trials.items() if key != "dev" for name in _ids(trials)}
        self.splits = {
            "train": train,
            "dev": [utterances[name] for name in sorted(in_dev)],
            "test": [utterances[name] for name in sorted(in_test)],
        }

    @staticmethod
    def _check_trials(
        name: str, trials: list[Trial], utterances: Mapping[str, Utterance], trained: set[str | None]
    ) -> None:
        ids = _ids(trials)
        absent = sorted(ids - utterances.keys())
        if absent:
            raise BenchmarkError(
                f"trial list '{name}' names {len(absent)} utterances that the corpus does not have: {_some(absent)}"
            )
        seen = sorted({str(utterances[i].speaker) for i in ids} & {str(speaker) for speaker in trained})
        if seen:
            raise BenchmarkError(
                f"trial list '{name}' has {len(seen)} speakers that training sees: {_some(seen)}. Its error rates "
                "would be those of known speakers and look better than they are; train without these speakers or "
                "score another list"
            )
        if {trial.label for trial in trials} != {0, 1}:
            raise BenchmarkError(
                f"trial list '{name}' needs target (1) and nontarget (0) trials, it has one class only"
            )

    @cached_property
    def speakers(self) -> dict[str, int]:
        """Training speaker -> class. Read off ``splits["train"]`` at first use, so after a label budget cut it."""
        names = sorted({str(utterance.speaker) for utterance in self.splits["train"]})
        return {name: index for index, name in enumerate(names)}

    def targets(self, utterances: Sequence[Utterance]) -> Tensor:
        """(batch,) int64: the class of each utterance's speaker."""
        return torch.tensor([self.speakers[str(utterance.speaker)] for utterance in utterances])

    def make_head(self, feature_size: int) -> Head:
        """A fresh head with a class a training speaker; raises when fewer than 2 are left."""
        if len(self.speakers) < 2:
            raise BenchmarkError(
                f"{len(self.speakers)} speakers are left to train on, at least 2 are needed; take a larger --budget or "
                "a smaller data.min_seconds"
            )
        return make_head(feature_size, len(self.speakers), self.config.head, self.config.loss)

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score trials by cosine.

        Args:
            split: ``dev``, or ``test`` for all of the other lists.
            predictions: utterance id -> embedding, a one-dimensional tensor or array.

        Returns:
            eer in percent, min_dcf_p01 and min_dcf_p05 by evaluation set; ``scores*.txt``: ``label enrolment test
            score`` a trial, in the list's order.
        """
        result = Evaluation(metrics={})
        for name, trials in self.trials.items():
            if (name == "dev") != (split == "dev"):
                continue
            scores = cosine_scores(trials, predictions)
            labels = np.array([trial.label for trial in trials])
            result.metrics[name] = {
                "eer": eer(labels, scores),
                "min_dcf_p01": min_dcf(labels, scores, p_target=0.01),
                "min_dcf_p05": min_dcf(labels, scores, p_target=0.05),
            }
            # nine digits give every float32 back
            lines = [
                f"{t.label} {t.enrolment} {t.test} {s:.9g}\n" for t, s in zip(trials, scores.tolist(), strict=True)
            ]
            result.files["scores.txt" if name == "test" else f"scores_{name}.txt"] = "".join(lines)
        return result


def hold_out_speakers(speakers: set[str], config: SVConfig) -> set[str]:
    """The dev speakers: those first in the order of a hash of seed and name, so that adding a speaker to the corpus
    moves at most one.

    Raises:
        BenchmarkError: fewer than 4 speakers, 2 on either side.
    """
    count = max(2, min(config.dev_speakers, int(DEV_SHARE * len(speakers))))
    if len(speakers) < count + 2:
        raise BenchmarkError(
            f"split '{config.train_split}' has {len(speakers)} speakers; at least {count + 2} are needed: "
            f"{count} for dev trials and 2 to train on"
        )
    return set(sorted(speakers, key=lambda speaker: _hash(config.dev_seed, speaker))[:count])


def make_trials(utterances: list[Utterance], config: SVConfig) -> list[Trial]:
    """Balanced trials between the utterances of the dev speakers.

    Of each speaker at most ``dev_utterances`` utterances take part, one of each session in turn. Target trials pair
    different sessions, or, of a speaker who has one session only, the utterances of it. As many target as nontarget
    trials are drawn, at most ``dev_trials`` together.

    Returns:
        trials sorted by enrolment and test id.
    """
    chosen = sorted(_spread(utterances, config), key=lambda utterance: utterance.id)
    speaker = np.unique([str(u.speaker) for u in chosen], return_inverse=True)[1]
    # an utterance that names no session is taken for one of its own
    session = np.unique([f"{u.speaker} {u.session or u.id}" for u in chosen], return_inverse=True)[1]
    one_session = np.array([len(np.unique(session[speaker == s])) == 1 for s in range(speaker.max() + 1)])

    first, second = np.triu_indices(len(chosen), k=1)
    same = speaker[first] == speaker[second]
    target = np.flatnonzero(same & ((session[first] != session[second]) | one_session[speaker[first]]))
    nontarget = np.flatnonzero(~same)
    count = min(len(target), len(nontarget), config.dev_trials // 2)
    if count == 0:
        raise BenchmarkError(
            f"no dev trials can be made: the held-out speakers {_some(sorted({str(u.speaker) for u in chosen}))} have "
            "one utterance each; a different task.dev_seed holds out others"
        )
    random = np.random.RandomState(config.dev_seed)  # its stream is frozen (NEP 19), default_rng's is not
    drawn = np.concatenate([random.permutation(pairs)[:count] for pairs in (target, nontarget)])
    return [Trial(int(same[p]), chosen[first[p]].id, chosen[second[p]].id) for p in np.sort(drawn)]


def _spread(utterances: list[Utterance], config: SVConfig) -> list[Utterance]:
    """At most ``dev_utterances`` a speaker, as many of each session as of the others where there are enough."""
    speakers: defaultdict[str, defaultdict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utterance in sorted(utterances, key=lambda utterance: _hash(config.dev_seed, utterance.id)):
        speakers[str(utterance.speaker)][utterance.session or utterance.id].append(utterance)
    chosen: list[Utterance] = []
    for sessions in speakers.values():
        in_turn = sorted(
            ((turn, _hash(config.dev_seed, session), utterance.id, utterance)
             for session, those in sessions.items() for turn, utterance in enumerate(those)),
            key=lambda item: item[:3],
        )  # fmt: skip
        chosen += [utterance for *_, utterance in in_turn[: config.dev_utterances]]
    return chosen


def cosine_scores(trials: Sequence[Trial], embeddings: Mapping[str, Any]) -> NDArray[np.float32]:
    """Cosine of the two embeddings of each trial (trial,); 0 where one of them is all zeros.

    Raises:
        BenchmarkError: an utterance has no embedding, or one that is not finite or of another size than the others.
    """
    index = {name: i for i, name in enumerate(sorted(_ids(trials)))}
    rows: list[NDArray[np.float32]] = []
    for name in index:
        if name not in embeddings:
            raise BenchmarkError(f"no embedding of utterance {name}, which a trial names")
        row = np.asarray(embeddings[name], dtype=np.float32)
        if row.ndim != 1 or (rows and row.shape != rows[0].shape):
            raise BenchmarkError(
                f"the embedding of utterance {name} has shape {row.shape}, expected "
                f"{rows[0].shape if rows else 'one dimension'}"
            )
        if not np.isfinite(row).all():
            raise BenchmarkError(
                f"the embedding of utterance {name} is not finite; look at its audio, and at the training loss"
            )
        rows.append(row)
    matrix = np.stack(rows)  # (utterance, size)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    enrolment = np.array([index[trial.enrolment] for trial in trials])
    test = np.array([index[trial.test] for trial in trials])
    scores = np.empty(len(trials), dtype=np.float32)
    for start in range(0, len(trials), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores[part] = np.einsum("td,td->t", matrix[enrolment[part]], matrix[test[part]])
    return scores


def _nested(kind: type[Any], key: str, value: Any) -> Any:
    """A nested option group that a card gave as a mapping."""
    if not isinstance(value, Mapping):
        return value
    known = list(kind.__dataclass_fields__)
    for name in value:
        if name not in known:
            raise BenchmarkError(f"unknown option 'task.{key}.{name}'. " + suggest(str(name), known))
    return kind(**value)


def _ids(trials: Sequence[Trial]) -> set[str]:
    return {name for trial in trials for name in (trial.enrolment, trial.test)}


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _some(items: list[str], most: int = 3) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
