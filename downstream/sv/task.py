"""Speaker verification: train on known speakers, score trials of unknown ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import evaluation, metrics, plots
from benchmark.errors import BenchmarkError, MissingData, shorten
from benchmark.evaluation import About
from benchmark.interfaces import Corpus, Evaluation, NeighbourHead, Splits, Target, Utterance
from benchmark.registry import suggest
from benchmark.text import escape
from downstream import recover
from downstream.classification import LabelTask
from downstream.classifier import Classifier
from downstream.embedders import EmbedderConfig
from downstream.knn import MeanState
from downstream.losses import LossConfig
from downstream.splits import labelled, values
from downstream.sv.norm import AdaptiveSNorm, NormConfig, cohort_utterances
from downstream.sv.scoring import Floats, cosines, stack
from downstream.sv.trials import MOST_UTTERANCES, TrialList, check, connected, hold_out_speakers, make_trials

log = logging.getLogger("wavbench")


@dataclass
class SVConfig:
    """Options of speaker verification."""

    train_split: str = "dev"
    """The publisher's split to train on, dev speakers taken out. VoxCeleb calls its training set ``dev``."""
    dev_split: str | None = None
    """The split whose utterances dev trials are made of, with speakers of its own; ``null``, or a split that is not
    there: speakers are held out of ``train_split``."""
    test_split: str | None = None
    """The split whose utterances test trials are made of where there is no list ``trials``; ``null``: none."""
    trials: str = "veri_test2"
    """The trial list behind the ``test`` metrics."""
    more_trials: list[str] = field(default_factory=lambda: ["veri_test"])
    """Lists that are scored beside it, under their own names, where the corpus has them."""
    dev_speakers: int = 40
    """Speakers in dev trials; held out of training, at most 20 % of the speakers and at least 2."""
    dev_utterances: int = 40
    """Utterances taken of each speaker, spread over its sessions, where trials are made."""
    dev_trials: int = 20000
    """At most this many trials are made, half of them target trials."""
    dev_seed: int = 0
    """Decides which speakers, utterances and trials (and which utterances are the cohort); part of the protocol, not
    varied with the run's seed."""
    selection: str = "eer"
    """The metric of dev that chooses the checkpoint: any that is declared for trials."""
    head: EmbedderConfig = field(default_factory=EmbedderConfig)
    """See :class:`downstream.embedders.EmbedderConfig`."""
    loss: LossConfig = field(default_factory=LossConfig)
    """See :class:`downstream.losses.LossConfig`."""
    norm: NormConfig = field(default_factory=NormConfig)
    """See :class:`downstream.sv.norm.NormConfig`."""


class SpeakerEncoder(Classifier):
    """A speaker classifier that predicts embeddings."""

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """One embedding (size,) an utterance, float32."""
        return list(self.embed(features, lengths).float().cpu())


class SpeakerVerification(LabelTask):
    """Train a speaker classifier, verify by the cosine of embeddings.

    ``train`` is the corpus' training split without the dev speakers; ``dev`` and ``test`` are the utterances that occur
    in their trials, and ``sets`` the trial lists. Everything is determined by the corpus' ids and ``dev_seed``,
    whatever order they come in.

    Raises:
        BenchmarkError: an option out of range; a split or trial list that is not there; too few speakers; speakers that
            training sees in dev or test; and what :func:`downstream.sv.trials.check` refuses.
    """

    Config = SVConfig
    head = SpeakerEncoder
    plural = "speakers"
    scoring = ("norm",)

    @classmethod
    def label(cls, config: Any) -> str:
        """``speaker``."""
        return "speaker"

    @classmethod
    def make_neighbour_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> NeighbourHead:
        """Trials are scored by the cosine of mean states; no neighbours are asked."""
        return MeanState()

    @classmethod
    def check(cls, config: SVConfig) -> None:
        """Raise :class:`BenchmarkError` for options out of range."""
        super().check(config)
        metrics.check_selection(config.selection, evaluation.Trials.kind)
        config.norm.check()
        if min(config.dev_speakers, config.dev_utterances, config.dev_trials) < 2:
            raise BenchmarkError("task.dev_speakers, task.dev_utterances and task.dev_trials must be at least 2")
        if config.dev_speakers * config.dev_utterances > MOST_UTTERANCES:
            raise BenchmarkError(
                f"task.dev_speakers * task.dev_utterances must be at most {MOST_UTTERANCES}, got "
                f"{config.dev_speakers} * {config.dev_utterances}; take fewer utterances of each speaker"
            )

    @classmethod
    def split(cls, config: SVConfig, corpus: Corpus, target: Target | None = None) -> Splits:
        """Hold out dev speakers, read or make the trials.

        Args:
            config: the options.
            corpus: with the training data.
            target: a trial list, or a split that trials are made of, scored as ``test`` and nothing beside it. A split
                of own data is scored by the list that came with it (``--trials``), where one did; ``dev`` of the run's
                own corpus may be the dev trials of held-out speakers.
        """
        cls.check(config)
        pool = labelled(corpus, config.train_split, "train_split", "speaker")
        if config.dev_split is not None and config.dev_split in corpus.splits:
            train, dev = pool, labelled(corpus, config.dev_split, "dev_split", "speaker")
            both = values(train, "speaker") & values(dev, "speaker")
            if both:
                raise BenchmarkError(
                    f"{len(both)} speakers are both in '{config.train_split}' and in '{config.dev_split}': "
                    f"{shorten(sorted(both))}. Verification is of speakers that training has not seen; take them out "
                    f"of one of the two, or leave '{config.dev_split}' out: dev speakers are then held out of training"
                )
        else:
            dev_speakers = hold_out_speakers(values(pool, "speaker"), config)
            dev = [utterance for utterance in pool if utterance.speaker in dev_speakers]
            train = [utterance for utterance in pool if utterance.speaker not in dev_speakers]
        trained = values(train, "speaker")
        dev_trials = _dev_trials(config, corpus, dev)
        source = corpus if target is None else target.corpus
        own = {utterance.id: utterance for split in (*corpus.splits.values(), dev) for utterance in split}  # dev's win
        check("dev", dev_trials, own, trained)
        if target is None:
            tests = _protocol_trials(config, corpus)
        elif target.name == "dev" and source.name == corpus.name and "dev" not in source.trials:
            tests = {"dev": dev_trials}
        else:
            tests = {target.name: _target_trials(config, target)}
        there = {utterance.id: utterance for split in source.splits.values() for utterance in split}
        for name, trials in tests.items():
            check(name, trials, there, trained)
        test, sets = _scored(tests, there)
        return Splits(
            source.name,
            train=sorted(train, key=lambda utterance: utterance.id),
            dev=[own[name] for name in dev_trials.ids],
            test=test,
            sets={"dev": dev_trials, **sets},
        )

    @classmethod
    def split_test(
        cls, config: SVConfig, corpus: Corpus, vocabulary: Mapping[str, Any], name: str | None = None
    ) -> Splits | None:
        """Read or make the trials as :meth:`split` does. The speakers that training has seen are in the vocabulary."""
        cls.check(config)
        if config.norm.name != "none":
            raise MissingData(
                f"task.norm.name is '{config.norm.name}': the cohort of score normalisation is of training utterances, "
                "which are not there. Score without it: -o task.norm.name=none"
            )
        if name is None:
            tests = _protocol_trials(config, corpus)
        elif name == "dev" and name not in corpus.trials:
            if config.dev_split is None or config.dev_split not in corpus.splits:
                raise MissingData("the dev trials are of speakers held out of training data, which are not there")
            dev = labelled(corpus, config.dev_split, "dev_split", "speaker")
            tests = {name: _dev_trials(config, corpus, dev)}
        else:
            tests = {name: _target_trials(config, Target(name, corpus))}
        there = {utterance.id: utterance for split in corpus.splits.values() for utterance in split}
        trained = set(cls.known_classes(vocabulary))
        for key, trials in tests.items():
            check(key, trials, there, trained)
        return Splits(corpus.name, (), (), *_scored(tests, there), vocabulary=vocabulary)

    def support(self, split: str) -> Sequence[Utterance]:
        """The cohort of score normalisation, at test: ``norm.utterances`` of each training speaker."""
        if split != "test" or self.config.norm.name == "none":
            return ()
        return cohort_utterances(self.splits.train, self.config.norm, self.config.dev_seed)

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score trials by cosine and, at test and where ``norm`` says so, by normalised cosine as well.

        Args:
            split: ``dev``, or ``test`` for all of the other lists.
            predictions: utterance id -> embedding, a one-dimensional tensor or array.

        Returns:
            eer in percent, min_dcf_p01 and min_dcf_p05, cllr, min_cllr, act_dcf_p01 and act_dcf_p05 of the cosines as
            if they were LLRs, and whatever else is declared of trials, by evaluation set
            (normalised: ``<set>_snorm``); ``scores*.txt``: ``label enrolment test score`` a trial, in the list's order;
            at test ``det*.png``.
        """
        sets: dict[str, evaluation.Trials] = {}
        result = Evaluation(metrics={}, sets=sets)
        cohort = self.support(split)
        norm = AdaptiveSNorm(cohort, predictions, self.config.norm) if cohort else None
        speaker = {utterance.id: utterance.speaker for utterance in self.splits[split]}
        drawn: dict[str, dict[str, tuple[NDArray[Any], Floats]]] = {}  # raw and normalised apart
        for name, trials in self.splits.sets.items():
            if (name == "dev") != (split == "dev"):
                continue
            rows = stack(trials.ids, predictions)  # (utterance, size)
            scored = {name: cosines(trials, rows)}
            if norm is not None:
                rows -= norm.mean  # in place: of E and H there are 145,000
                scored[f"{name}_snorm"] = norm(trials, rows)
            speakers = [speaker[utterance] for utterance in trials.ids]
            clusters = connected(trials, speakers) if None in speakers else [str(speaker) for speaker in speakers]
            for key, scores in scored.items():
                items = evaluation.Trials(
                    trials.ids, clusters, "speaker", trials.labels, trials.enrolment, trials.test, scores
                )
                result.metrics[key] = metrics.score(items)
                if key == name:  # dev has no normalised scores to calibrate these by
                    sets[name] = items
                if key == split:
                    result.items = items
                result.files["scores.txt" if key == "test" else f"scores_{key}.txt"] = _lines(trials, scores)
                drawn.setdefault(key.removeprefix(name), {})[key] = trials.labels, scores
        if split == "test":
            for suffix, lines in drawn.items():
                result.files[f"det{suffix}.png"] = partial(self._draw, lines)
        return result

    def _draw(self, scored: Mapping[str, tuple[NDArray[Any], Floats]]) -> bytes:
        curves = {name: metrics.det_curve(labels, scores) for name, (labels, scores) in scored.items()}
        return plots.png(plots.det(curves, f"Speaker verification, {self.splits.corpus}"))

    @classmethod
    def recover(cls, folder: Path) -> About | None:
        """See :func:`downstream.recover.trials`."""
        return recover.trials(folder)

    @classmethod
    def present(cls, config: SVConfig, vocabulary: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """``{"embedding": [...]}``."""
        return {"embedding": np.asarray(prediction, dtype=np.float32).tolist()}


def _dev_trials(config: SVConfig, corpus: Corpus, dev: Sequence[Utterance]) -> TrialList:
    """The dev trials, of utterances of ``task.dev_split`` or, where there is none, of held-out speakers."""
    advice = "it needs at least two speakers, one of them with two utterances"
    if config.dev_split not in corpus.splits:
        advice = "a different task.dev_seed holds out others"
    return _made("dev", dev, config, advice, speakers=config.dev_speakers)


def _scored(
    tests: Mapping[str, TrialList], utterances: Mapping[str, Utterance]
) -> tuple[list[Utterance], dict[str, TrialList]]:
    """The utterances of the test trials, sorted by id, and the evaluation sets: the first list is ``test``."""
    first, *others = tests
    ids = {name for trials in tests.values() for name in trials.ids}
    return [utterances[name] for name in sorted(ids)], {"test": tests[first], **{name: tests[name] for name in others}}


def _protocol_trials(config: SVConfig, corpus: Corpus) -> dict[str, TrialList]:
    """The test trials and, by name, the lists that are scored beside them."""
    if config.trials in corpus.trials:
        tests = {config.trials: TrialList(corpus.trials[config.trials])}
    elif config.test_split is not None:
        tests = {config.test_split: _made_of(config.test_split, config, corpus)}
    else:
        raise BenchmarkError(
            f"corpus '{corpus.name}' has no trial list '{config.trials}' (task.trials). "
            + suggest(config.trials, sorted(corpus.trials))
        )
    absent = [name for name in config.more_trials if name not in corpus.trials]
    if absent:
        log.warning("%s has no trial list %s (task.more_trials): not scored", corpus.name, ", ".join(absent))
    for name in config.more_trials:
        if name in corpus.trials:
            try:
                tests[name] = TrialList(corpus.trials[name])
            except BenchmarkError as error:
                log.warning("%s (task.more_trials): not scored. %s", name, error)
    return tests


def _target_trials(config: SVConfig, target: Target) -> TrialList:
    corpus, name = target.corpus, target.name
    if name in corpus.trials:
        return TrialList(corpus.trials[name])
    if name not in corpus.splits:
        raise BenchmarkError(
            f"'{name}' is neither a trial list nor a split of '{corpus.name}'. "
            + suggest(name, sorted({*corpus.trials, *corpus.splits}))
        )
    return TrialList(corpus.trials["trials"]) if "trials" in corpus.trials else _made_of(name, config, corpus)


def _made_of(name: str, config: SVConfig, corpus: Corpus) -> TrialList:
    advice = "it needs at least two speakers, one of them with two utterances; or give a list (--trials FILE)"
    return _made(name, labelled(corpus, name, "test_split", "speaker"), config, advice)


def _made(
    name: str, utterances: Sequence[Utterance], config: SVConfig, advice: str, speakers: int | None = None
) -> TrialList:
    trials = make_trials(utterances, config, speakers=speakers)
    if not trials:
        raise BenchmarkError(
            f"no {name} trials can be made of the speakers {shorten(sorted(values(utterances, 'speaker')))}: " + advice
        )
    return TrialList(trials)


def _lines(trials: TrialList, scores: Floats) -> str:
    """``label enrolment test score`` a trial; nine digits give every float32 back. White space in ids is escaped."""
    ids = [escape(name) for name in trials.ids]
    columns = (trials.labels, trials.enrolment, trials.test, scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return "".join([f"{label} {ids[a]} {ids[b]} {score:.9g}\n" for label, a, b, score in rows])
