"""Speaker verification: train on known speakers, score trials of unknown ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark import metrics, plots
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation, Utterance
from benchmark.data.manifest import some
from benchmark.registry import suggest
from downstream.heads import HeadConfig, LossConfig, SpeakerEncoder, check_names, nested
from downstream.speakers import SpeakerTask, need_speakers, split_of
from downstream.sv.norm import AdaptiveSNorm, NormConfig, check_norm, cohort_utterances
from downstream.sv.scoring import Floats, cosines, stack
from downstream.sv.trials import MOST_UTTERANCES, Trials, check, hold_out_speakers, make_trials

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
    head: HeadConfig = field(default_factory=HeadConfig)
    """See :class:`downstream.heads.HeadConfig`."""
    loss: LossConfig = field(default_factory=LossConfig)
    """See :class:`downstream.heads.LossConfig`."""
    norm: NormConfig = field(default_factory=NormConfig)
    """See :class:`downstream.sv.norm.NormConfig`."""

    def __post_init__(self) -> None:
        self.head = nested(HeadConfig, "head", self.head)
        self.loss = nested(LossConfig, "loss", self.loss)
        self.norm = nested(NormConfig, "norm", self.norm)


class SpeakerVerification(SpeakerTask):
    """Train a speaker classifier, verify by the cosine of embeddings.

    ``train`` is the corpus' training split without the dev speakers; ``dev`` and ``test`` are the utterances that occur
    in their trials. Everything is determined by the corpus' ids and ``dev_seed``, whatever order they come in.

    Raises:
        BenchmarkError: an option out of range; a split or trial list that is not there; too few speakers; speakers that
            training sees in dev or test; and what :func:`downstream.sv.trials.check` refuses.
    """

    Config = SVConfig
    head = SpeakerEncoder
    scoring = ("norm",)
    selection = "eer"
    higher_is_better = False

    def __init__(self, config: SVConfig, corpus: Corpus) -> None:
        self.config, self.corpus = config, corpus.name
        check_names(config.head, config.loss)
        check_norm(config.norm)
        _check_options(config)
        pool = split_of(corpus, config.train_split, "train_split")
        need_speakers(corpus, pool, "verification")
        utterances = {utterance.id: utterance for split in corpus.splits.values() for utterance in split}

        if config.dev_split is not None and config.dev_split in corpus.splits:
            dev = corpus.splits[config.dev_split]
            need_speakers(corpus, dev, "verification")
            train = list(pool)
            both = sorted({str(u.speaker) for u in train} & {str(u.speaker) for u in dev})
            if both:
                raise BenchmarkError(
                    f"{len(both)} speakers are both in '{config.train_split}' and in '{config.dev_split}': "
                    f"{some(both)}. Verification is of speakers that training has not seen; take them out of one of "
                    f"the two, or leave '{config.dev_split}' out: dev speakers are then held out of training"
                )
            advice = "it needs at least two speakers, one of them with two utterances"
        else:
            dev_speakers = hold_out_speakers({str(u.speaker) for u in pool}, config)
            dev = [u for u in pool if u.speaker in dev_speakers]
            train = [u for u in pool if u.speaker not in dev_speakers]
            advice = "a different task.dev_seed holds out others"
        trained = {str(utterance.speaker) for utterance in train}
        self.trials = {"dev": Trials(_made("dev", dev, config, advice, speakers=config.dev_speakers))}
        check("dev", self.trials["dev"], utterances, trained)

        self.trials["test"] = self._test_trials(corpus, utterances, trained)
        for name in config.more_trials:
            if name in corpus.trials:
                self.trials[name] = Trials(corpus.trials[name])
                check(name, self.trials[name], utterances, trained)
        absent = [name for name in config.more_trials if name not in corpus.trials]
        if absent:
            log.warning("%s has no trial list %s (task.more_trials): not scored", corpus.name, ", ".join(absent))

        self.splits = {
            "train": sorted(train, key=lambda utterance: utterance.id),
            "dev": [utterances[name] for name in self.trials["dev"].ids],
            "test": self._tested(utterances),
        }

    def _test_trials(self, corpus: Corpus, utterances: Mapping[str, Utterance], trained: set[str]) -> Trials:
        config = self.config
        if config.trials in corpus.trials:
            trials, name = Trials(corpus.trials[config.trials]), config.trials
        elif config.test_split is not None:
            name = config.test_split
            split = split_of(corpus, name, "test_split")
            trials = Trials(self._made_of(name, split, corpus))
        else:
            raise BenchmarkError(
                f"corpus '{corpus.name}' has no trial list '{config.trials}' (task.trials). "
                + suggest(config.trials, sorted(corpus.trials))
            )
        check(name, trials, utterances, trained)
        return trials

    def _made_of(self, name: str, split: list[Utterance], corpus: Corpus) -> Trials:
        need_speakers(corpus, split, "verification")
        advice = "it needs at least two speakers, one of them with two utterances; or give a list (--trials FILE)"
        return Trials(_made(name, split, self.config, advice))

    def _tested(self, utterances: Mapping[str, Utterance]) -> list[Utterance]:
        """The utterances of all lists but dev's, sorted by id."""
        ids = {name for key, trials in self.trials.items() if key != "dev" for name in trials.ids}
        return [utterances[name] for name in sorted(ids)]

    def support(self, split: str) -> Sequence[Utterance]:
        """The cohort of score normalisation, at test: ``norm.utterances`` of each training speaker."""
        if split != "test" or self.config.norm.name == "none":
            return ()
        return cohort_utterances(self.splits["train"], self.config.norm, self.config.dev_seed)

    def retarget(self, name: str, corpus: Corpus) -> None:
        """Score the trial list ``name``, or trials made of the split ``name``, as ``test``; nothing beside it.

        A split of own data is scored by the list that came with it (``--trials``), where one did.
        """
        utterances = {utterance.id: utterance for split in corpus.splits.values() for utterance in split}
        if name in corpus.trials:
            trials = Trials(corpus.trials[name])
        elif name in corpus.splits and "trials" in corpus.trials:
            trials = Trials(corpus.trials["trials"])
        elif name in corpus.splits:
            trials = self._made_of(name, corpus.splits[name], corpus)
        else:
            raise BenchmarkError(
                f"'{name}' is neither a trial list nor a split of '{corpus.name}'. "
                + suggest(name, sorted({*corpus.trials, *corpus.splits}))
            )
        check(name, trials, utterances, {str(utterance.speaker) for utterance in self.splits["train"]})
        self.corpus = corpus.name
        self.trials = {"dev": self.trials["dev"], "test": trials}
        self.splits["test"] = self._tested(utterances)

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score trials by cosine and, at test and where ``norm`` says so, by normalised cosine as well.

        Args:
            split: ``dev``, or ``test`` for all of the other lists.
            predictions: utterance id -> embedding, a one-dimensional tensor or array.

        Returns:
            eer in percent, min_dcf_p01 and min_dcf_p05 by evaluation set (normalised: ``<set>_snorm``);
            ``scores*.txt``: ``label enrolment test score`` a trial, in the list's order; at test ``det*.png``.
        """
        result = Evaluation(metrics={})
        cohort = self.support(split)
        norm = AdaptiveSNorm(cohort, predictions, self.config.norm) if cohort else None
        curves: dict[str, dict[str, metrics.DetCurve]] = {}  # raw and normalised apart: four lines can be told apart
        for name, trials in self.trials.items():
            if (name == "dev") != (split == "dev"):
                continue
            rows = stack(trials.ids, predictions)  # (utterance, size)
            scored = {name: cosines(trials, rows)}
            if norm is not None:
                rows -= norm.mean  # in place: of E and H there are 145,000
                scored[f"{name}_snorm"] = norm(trials, rows)
            for key, scores in scored.items():
                result.metrics[key] = {
                    "eer": metrics.eer(trials.labels, scores),
                    "min_dcf_p01": metrics.min_dcf(trials.labels, scores, p_target=0.01),
                    "min_dcf_p05": metrics.min_dcf(trials.labels, scores, p_target=0.05),
                }
                result.files["scores.txt" if key == "test" else f"scores_{key}.txt"] = _lines(trials, scores)
                curves.setdefault(key.removeprefix(name), {})[key] = metrics.det_curve(trials.labels, scores)
        if split == "test":
            for suffix, lines in curves.items():
                result.files[f"det{suffix}.png"] = plots.det(lines, f"Speaker verification, {self.corpus}")
        return result

    @classmethod
    def present(cls, config: SVConfig, inventory: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """``{"embedding": [...]}``."""
        return {"embedding": np.asarray(prediction, dtype=np.float32).tolist()}


def _check_options(config: SVConfig) -> None:
    if min(config.dev_speakers, config.dev_utterances, config.dev_trials) < 2:
        raise BenchmarkError("task.dev_speakers, task.dev_utterances and task.dev_trials must be at least 2")
    if config.dev_speakers * config.dev_utterances > MOST_UTTERANCES:
        raise BenchmarkError(
            f"task.dev_speakers * task.dev_utterances must be at most {MOST_UTTERANCES}, got "
            f"{config.dev_speakers} * {config.dev_utterances}; take fewer utterances of each speaker"
        )


def _made(
    name: str, utterances: Sequence[Utterance], config: SVConfig, advice: str, speakers: int | None = None
) -> Trials:
    trials = make_trials(utterances, config, speakers=speakers)
    if not trials:
        raise BenchmarkError(
            f"no {name} trials can be made of the speakers {some(sorted({str(u.speaker) for u in utterances}))}: "
            + advice
        )
    return Trials(trials)


def _lines(trials: Trials, scores: Floats) -> str:
    """``label enrolment test score`` a trial; nine digits give every float32 back."""
    ids, columns = trials.ids, (trials.labels, trials.enrolment, trials.test, scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return "".join([f"{label} {ids[a]} {ids[b]} {score:.9g}\n" for label, a, b, score in rows])
