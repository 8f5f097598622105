"""Language identification: train a classifier of languages, report how well it tells and detects them."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics, plots
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation, Task, Utterance
from benchmark.data.manifest import OWN_DATA, some
from benchmark.registry import suggest
from downstream.heads import Classifier, HeadConfig, LossConfig, check_names, nested
from downstream.lid.splits import hold_out

log = logging.getLogger("wavbench")

P_TARGET = 0.5
"""Prior of a language in Cavg and on the DET plot (NIST LRE, OLR)."""


@dataclass
class LIDConfig:
    """Options of language identification."""

    train_split: str = "train"
    """The publisher's split to train on."""
    dev_split: str | None = "dev"
    """The publisher's split to choose the checkpoint on. ``null``, or own data without one: held out of training."""
    test_split: str = "test"
    """The publisher's split behind the ``test`` metrics."""
    dev_share: float = 0.1
    """Where dev is held out: at most this share of each language's utterances, by whole speakers or sessions."""
    dev_utterances: int = 100
    """Where dev is held out: at most this many utterances a language."""
    dev_seed: int = 0
    """Where dev is held out: decides which; part of the protocol, not varied with the run's seed."""
    languages: list[str] = field(default_factory=list)
    """Use these alone, of all splits; empty: all that there are."""
    shared_speakers: bool = False
    """Whether dev and test may have speakers or sessions of training; they are counted in a warning."""
    buckets: list[float] = field(default_factory=lambda: [5.0, 20.0])
    """Edges, in seconds, of the durations between which test utterances are scored by themselves as well."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(name="mean"))
    """See :class:`downstream.heads.HeadConfig`."""
    loss: LossConfig = field(default_factory=lambda: LossConfig(name="softmax"))
    """See :class:`downstream.heads.LossConfig`."""

    def __post_init__(self) -> None:
        self.head = nested(HeadConfig, "head", self.head)
        self.loss = nested(LossConfig, "loss", self.loss)


class LanguageIdentification(Task):
    """One class a language of the training data; a prediction is the log-posteriors of all.

    The checkpoint is chosen by macro accuracy: where training data are imbalanced so is a dev set held out of them, and
    accuracy would be won by giving rare languages up.

    Raises:
        BenchmarkError: an option out of range; a split that is not there; an utterance without a language; a language
            of dev or test that training has not; speakers or sessions of training in dev or test, unless
            ``shared_speakers``.
    """

    Config = LIDConfig
    selection = "macro_accuracy"
    higher_is_better = True
    requires = ("language",)
    strata = ("language", "speaker")

    def __init__(self, config: LIDConfig, corpus: Corpus) -> None:
        self.config, self.corpus = config, corpus.name
        check_names(config.head, config.loss)
        _check_options(config)
        train = self._split(corpus, config.train_split, "train")
        if _has_dev(config, corpus):
            dev = self._split(corpus, str(config.dev_split), "dev")
        else:
            held = hold_out(train, config.dev_share, config.dev_utterances, config.dev_seed)
            dev = [utterance for utterance in train if utterance.id in held]
            train = [utterance for utterance in train if utterance.id not in held]
            log.info("dev: %d of %d utterances, held out of '%s'", len(dev), len(dev) + len(train), config.train_split)
        test = self._split(corpus, config.test_split, "test")
        self.splits = {"train": train, "dev": dev, "test": test}
        if unknown := sorted(set(config.languages) - _languages(train)):
            raise BenchmarkError(
                f"task.languages names {some(unknown)}, of which '{config.train_split}' of '{corpus.name}' has no "
                f"utterance. " + suggest(unknown[0], sorted(_languages(train)))
            )
        for name in ("dev", "test"):
            self._check(name, self.splits[name], shared_speakers=config.shared_speakers)
        absent = sorted(_languages(train) - _languages(test))
        if absent:
            log.info(
                "%d of the %d training languages do not occur in test, which averages over the others: %s",
                len(absent), len(_languages(train)), some(absent, 8),
            )  # fmt: skip

    def _split(self, corpus: Corpus, name: str, role: str) -> list[Utterance]:
        """A split of the corpus, sorted by id, of the languages that are used."""
        if not corpus.splits.get(name):
            where = (
                f"With own data give it as --{name} FILE"
                if corpus.name == OWN_DATA
                else suggest(name, sorted(corpus.splits))
            )
            raise BenchmarkError(f"corpus '{corpus.name}' has no split '{name}' (task.{role}_split). {where}")
        nameless = [utterance.id for utterance in corpus.splits[name] if not utterance.language]
        if nameless:
            raise BenchmarkError(
                f"{len(nameless)} utterances of '{name}' of '{corpus.name}' have no language: {some(nameless)}. Every "
                "utterance needs one, in manifests the field 'language'"
            )
        wanted = set(self.config.languages)
        found = [utterance for utterance in corpus.splits[name] if not wanted or utterance.language in wanted]
        if not found:
            raise BenchmarkError(
                f"'{name}' of '{corpus.name}' has no utterance of task.languages ({some(sorted(wanted), 8)}); it has "
                f"{some(sorted(_languages(corpus.splits[name])), 8)}"
            )
        return sorted(found, key=lambda utterance: utterance.id)

    def _check(self, name: str, utterances: Sequence[Utterance], *, shared_speakers: bool) -> None:
        """Refuse languages, speakers and sessions that a dev or test set should not have."""
        train = self.splits["train"]
        unseen = sorted(_languages(utterances) - _languages(train))
        if unseen:
            ids = [utterance.id for utterance in utterances if utterance.language in unseen]
            raise BenchmarkError(
                f"{name} has {len(unseen)} languages that training has not: {some(unseen)} ({len(ids)} utterances: "
                f"{some(ids)}). They could never be recognised: add training data, take them out, or list the "
                "languages to use in task.languages"
            )
        for kind in ("speaker", "session"):
            known = {getattr(utterance, kind) for utterance in train} - {None}
            shared = [utterance for utterance in utterances if getattr(utterance, kind) in known]
            if not shared:
                continue
            names = sorted({str(getattr(utterance, kind)) for utterance in shared})
            found = f"{len(names)} {kind}s of {name} are in training too: {some(names)} ({len(shared)} utterances)"
            if not shared_speakers:
                raise BenchmarkError(
                    f"{found}. A classifier can know a voice or a recording rather than a language, and looks better "
                    f"than it is; take them out of either, or say task.shared_speakers=true"
                )
            log.warning("%s; a language may be recognised by them", found)

    @cached_property
    def languages(self) -> dict[str, int]:
        """Training language -> class. Read off ``splits["train"]`` at first use, so after a label budget cut it."""
        found = sorted(_languages(self.splits["train"]))
        for name in ("dev", "test"):
            lost = sorted(_languages(self.splits[name]) - set(found))
            if lost:
                raise BenchmarkError(
                    f"no training utterance of {len(lost)} languages of {name} is left: {some(lost)}. Take a larger "
                    "--budget or a smaller data.min_seconds, or list the languages to use in task.languages"
                )
        return {language: index for index, language in enumerate(found)}

    def targets(self, utterances: Sequence[Utterance]) -> Tensor:
        """(batch,) int64: the class of each utterance's language."""
        return torch.tensor([self.languages[str(utterance.language)] for utterance in utterances])

    def inventory(self) -> dict[str, Any]:
        """``languages``: in the order of the classes."""
        return {"languages": list(self.languages)}

    @classmethod
    def make_head(cls, config: LIDConfig, inventory: Mapping[str, Any], feature_size: int) -> Classifier:
        """A fresh classifier of the inventory's languages; raises when there are fewer than 2."""
        languages = inventory["languages"]
        if len(languages) < 2:
            raise BenchmarkError(
                f"training data have {len(languages)} language ({some(languages)}); at least 2 are needed to tell apart"
            )
        return Classifier(feature_size, len(languages), config.head, config.loss)

    def retarget(self, name: str, corpus: Corpus) -> None:
        """Test on a split of the task's own corpus, on ``dev`` where it was held out of training, or on the ``test``
        manifest of other data. Utterances, speakers and sessions of training are counted in a warning, whatever
        ``shared_speakers`` says."""
        if name == "dev" and corpus.name == self.corpus and name not in corpus.splits:
            self.splits["test"] = self.splits["dev"]
            return
        utterances = self._split(corpus, name, "test")
        self._check(name, utterances, shared_speakers=True)
        trained = {utterance.id for utterance in self.splits["train"]} if corpus.name == self.corpus else set()
        seen = [utterance.id for utterance in utterances if utterance.id in trained]
        if seen:
            log.warning("training has seen %d of the %d utterances of %s", len(seen), len(utterances), name)
        self.splits["test"] = utterances
        self.corpus = corpus.name

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score log-posteriors.

        Averages over languages are over those that occur in the evaluation set, each of which counts the same;
        ``languages`` says how many (the N of Cavg), ``utterances`` of how many utterances the set is. ``eer``, ``cavg``
        and ``min_cavg`` detect each of these languages in each utterance, by LLRs against all other training languages
        (:func:`benchmark.metrics.detection_llrs`); a set of one language has none.

        Args:
            split: ``dev`` or ``test``.
            predictions: utterance id -> log-posteriors (language,), a tensor or array.

        Returns:
            accuracy, macro_accuracy, macro_f1 and eer in percent, cavg and min_cavg in [0, 1]; of test also by
            duration, and files: ``predictions.jsonl`` (an utterance a line, log-posteriors in the order of the columns
            of the next), ``confusion.csv``, ``confusion.png`` and ``det.png``.
        """
        utterances = self.splits[split]
        logs = self._stack(utterances, predictions)
        references = np.array([self.languages[str(utterance.language)] for utterance in utterances])
        best = logs.argmax(1)
        llrs = metrics.detection_llrs(logs)
        sets = {split: np.ones(len(utterances), dtype=bool)}
        if split == "test":
            sets |= self._buckets(utterances)
        result = Evaluation({
            name: _scores(references[members], best[members], llrs[members]) for name, members in sets.items()
        })  # fmt: skip
        if split == "test":
            result.files = self._files(utterances, references, logs, llrs, sets)
        return result

    def _stack(self, utterances: Sequence[Utterance], predictions: Mapping[str, Any]) -> NDArray[np.float32]:
        """(utterance, language) log-posteriors."""
        rows = []
        for utterance in utterances:
            if utterance.id not in predictions:
                raise BenchmarkError(f"no prediction of utterance {utterance.id}")
            row = np.asarray(predictions[utterance.id], dtype=np.float32)
            if row.shape != (len(self.languages),):
                raise BenchmarkError(
                    f"the prediction of utterance {utterance.id} has shape {row.shape}, expected one log-posterior for "
                    f"each of the {len(self.languages)} training languages"
                )
            if not np.isfinite(row).all():
                raise BenchmarkError(
                    f"the prediction of utterance {utterance.id} is not finite; look at its audio, and at the training "
                    "loss"
                )
            rows.append(row)
        return np.stack(rows)

    def _buckets(self, utterances: Sequence[Utterance]) -> dict[str, NDArray[np.bool_]]:
        """Evaluation set -> which utterances; those that are empty left out."""
        if not self.config.buckets:
            return {}
        seconds = np.array([self.seconds[utterance.id] for utterance in utterances])
        edges = [0.0, *self.config.buckets]
        found = {f"test_{low:g}-{high:g}s": (low <= seconds) & (seconds < high) for low, high in pairwise(edges)}
        found[f"test_{edges[-1]:g}s+"] = seconds >= edges[-1]
        return {name: members for name, members in found.items() if members.any()}

    def _files(
        self,
        utterances: Sequence[Utterance],
        references: NDArray[np.int64],
        logs: NDArray[np.float32],
        llrs: NDArray[np.float64],
        sets: Mapping[str, NDArray[np.bool_]],
    ) -> dict[str, str | bytes]:
        names = list(self.languages)
        best = logs.argmax(1)
        lines = [
            json.dumps(
                {
                    "id": utterance.id,
                    "speaker": utterance.speaker or utterance.session,
                    "reference": utterance.language,
                    "prediction": names[choice],
                    "seconds": round(self.seconds[utterance.id], 3),
                    "log_posteriors": [float(f"{value:.6g}") for value in row],
                },
                ensure_ascii=False,
            )
            for utterance, choice, row in zip(utterances, best.tolist(), logs.tolist(), strict=True)
        ]
        matrix = metrics.confusion_matrix(references, best, len(names))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["reference", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
        spoken = len(np.unique(references))
        title = f"{self.corpus}: {len(utterances):,} utterances of {spoken} of {len(names)} languages"
        files: dict[str, str | bytes] = {
            "predictions.jsonl": "".join(f"{line}\n" for line in lines),
            "confusion.csv": table.getvalue(),
            "confusion.png": plots.confusion(matrix, names, title),
        }
        curves = {
            name: metrics.det_curve(*metrics.language_pairs(references[members], llrs[members]))
            for name, members in sets.items()
            if len(np.unique(references[members])) > 1
        }
        if curves:
            shown = dict(list(curves.items())[:4])
            files["det.png"] = plots.det(shown, f"{title},\neach against each", p_target=P_TARGET)
        return files

    @classmethod
    def present(cls, config: LIDConfig, inventory: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """``language``, the most probable one, and ``posteriors`` of all, the highest first."""
        posteriors = np.exp(np.asarray(prediction, dtype=np.float64))
        if posteriors.shape != (len(inventory["languages"]),):
            raise BenchmarkError(
                f"a prediction of shape {posteriors.shape} does not fit {len(inventory['languages'])} languages"
            )
        order = np.argsort(-posteriors, kind="stable").tolist()
        ranked = {inventory["languages"][index]: float(f"{posteriors[index]:.6g}") for index in order}
        return {"language": next(iter(ranked)), "posteriors": ranked}


def _scores(
    references: NDArray[np.int64], predictions: NDArray[np.int64], llrs: NDArray[np.float64]
) -> dict[str, float]:
    """The metrics of one evaluation set; those that one language does not define left out."""
    languages = len(np.unique(references))
    found = {
        "accuracy": metrics.accuracy(references, predictions),
        "macro_accuracy": metrics.macro_accuracy(references, predictions),
        "macro_f1": metrics.macro_f1(references, predictions),
    }
    if languages > 1:
        found["eer"] = metrics.eer(*metrics.language_pairs(references, llrs))
        found["cavg"] = metrics.cavg(references, llrs, P_TARGET)
        found["min_cavg"] = metrics.min_cavg(references, llrs, P_TARGET)
    return found | {"languages": languages, "utterances": len(references)}


def _has_dev(config: LIDConfig, corpus: Corpus) -> bool:
    return config.dev_split is not None and bool(corpus.splits.get(config.dev_split) or corpus.name != OWN_DATA)


def _languages(utterances: Iterable[Utterance]) -> set[str]:
    return {str(utterance.language) for utterance in utterances}


def _check_options(config: LIDConfig) -> None:
    if not 0 < config.dev_share < 1:
        raise BenchmarkError(f"task.dev_share must be more than 0 and less than 1, got {config.dev_share}")
    if config.dev_utterances < 1:
        raise BenchmarkError(f"task.dev_utterances must be at least 1, got {config.dev_utterances}")
    if not all(low < high for low, high in pairwise([0.0, *config.buckets])):
        raise BenchmarkError(f"task.buckets must be seconds above 0, in increasing order, got {config.buckets}")
