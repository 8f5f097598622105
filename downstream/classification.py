"""What tasks that learn classes share, and classification as a task.

Shapes: ``batch`` utterances, ``class`` training classes.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics
from benchmark.data.manifest import OWN_DATA
from benchmark.errors import BenchmarkError, shorten
from benchmark.evaluation import About, Classes, clusters_of
from benchmark.files import Content
from benchmark.interfaces import (
    Corpus,
    Evaluation,
    Head,
    NeighbourHead,
    Seconds,
    Splits,
    Target,
    Task,
    Utterance,
)
from benchmark.registry import suggest
from downstream import recover
from downstream.classifier import Classifier
from downstream.confusion import confusion_files
from downstream.embedders import EmbedderConfig
from downstream.knn import NearestNeighbours
from downstream.losses import LossConfig
from downstream.splits import hold_out, labelled, values, warn_of_unknown

log = logging.getLogger("wavbench")


class LabelTask(Task):
    """A task whose head is trained to recognise a label of the training utterances.

    The classes are the label's values in ``splits.train``: those that a label budget left.
    """

    head: ClassVar[type[Classifier]] = Classifier
    """What is trained; it says what is predicted."""
    plural: ClassVar[str] = "classes"
    """What the classes are called in messages and in the vocabulary."""

    @classmethod
    @abstractmethod
    def label(cls, config: Any) -> str:
        """The name of the label."""

    @classmethod
    def requires(cls, config: Any) -> tuple[str, ...]:
        """The label."""
        return (cls.label(config),)

    @classmethod
    def strata(cls, config: Any) -> tuple[str, ...]:
        """The label, and speakers within each of its values."""
        return tuple(dict.fromkeys((cls.label(config), "speaker")))

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise :class:`BenchmarkError` for options out of range."""
        config.head.check()
        config.loss.check()

    def __init__(self, config: Any, splits: Splits, seconds: Mapping[str, Seconds]) -> None:
        super().__init__(config, splits, seconds)
        known = splits.vocabulary
        names = self.class_names(config, splits.train) if known is None else self.known_classes(known)
        self.classes: Mapping[str, int] = {name: index for index, name in enumerate(names)}
        """Value of the label -> class."""

    @classmethod
    def class_names(cls, config: Any, train: Sequence[Utterance]) -> list[str]:
        """What the training utterances allow to recognise, in the order of the classes."""
        return sorted(values(train, cls.label(config)))

    @classmethod
    def known_classes(cls, vocabulary: Mapping[str, Any]) -> list[str]:
        """What a trained run recognises, in the order of the classes."""
        return list(vocabulary[cls.plural])

    def targets(self, utterances: Sequence[Utterance]) -> Tensor:
        """(batch,) int64: the class of each utterance."""
        name = self.label(self.config)
        return torch.tensor([self.classes[str(utterance.label(name))] for utterance in utterances])

    def vocabulary(self) -> dict[str, Any]:
        """The label's values in the order of the classes, under :attr:`plural`."""
        return {self.plural: list(self.classes)}

    @classmethod
    def make_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """A fresh classifier of the vocabulary; raises :class:`BenchmarkError` where it has fewer than 2 classes."""
        names = vocabulary[cls.plural]
        if len(names) < 2:
            raise BenchmarkError(
                f"at least 2 {cls.plural} are needed to train on, training data have {shorten(names) or 'none'}; check "
                "the training data, or take a larger --budget or a smaller data.min_seconds"
            )
        return cls.head(feature_size, len(names), config.head, config.loss)

    @classmethod
    def make_linear_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """The head ``mean`` with as large a ``size`` as a linear map of full rank needs."""
        if (config.head.name, config.loss.name) != ("mean", "softmax"):
            raise BenchmarkError(
                "probe.solver=exact solves linear classifiers on mean states with cross-entropy, not head "
                f"'{config.head.name}' with loss '{config.loss.name}': add -o task.head.name=mean "
                "task.loss.name=softmax, or leave it out"
            )
        size = min(feature_size, len(vocabulary[cls.plural]))
        return cls.make_head(replace(config, head=replace(config.head, size=size)), vocabulary, feature_size)

    @classmethod
    def make_neighbour_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> NeighbourHead:
        """Nearest neighbours vote for the classes; ``head`` and ``loss`` of the options are not used."""
        return NearestNeighbours(feature_size, len(vocabulary[cls.plural]))


@dataclass
class ClassificationConfig:
    """Options of every classification task."""

    train_split: str = "train"
    """The publisher's split to train on."""
    dev_split: str | None = "dev"
    """The publisher's split that chooses the checkpoint. ``null``, or own data without one: held out of training, where
    the task does so."""
    test_split: str = "test"
    """The publisher's split behind the ``test`` metrics."""
    head: EmbedderConfig = field(default_factory=lambda: EmbedderConfig("mean"))
    """See :class:`downstream.embedders.EmbedderConfig`."""
    loss: LossConfig = field(default_factory=lambda: LossConfig("softmax"))
    """See :class:`downstream.losses.LossConfig`."""
    selection: str = "accuracy"
    """The metric of dev that chooses the checkpoint: any that is declared for classes, such as ``macro_accuracy`` (the
    unweighted average recall)."""


@dataclass
class HeldOutConfig(ClassificationConfig):
    """Options of classification tasks whose dev and test sets are of other speakers and sessions than training."""

    dev_share: float = 0.1
    """Where dev is held out: at most this share of each class' utterances, by whole speakers or sessions."""
    dev_utterances: int = 100
    """Where dev is held out: at most this many utterances a class."""
    dev_seed: int = 0
    """Where dev is held out: decides which; part of the protocol, not varied with the run's seed."""
    shared_speakers: bool = False
    """Whether dev and test may have speakers or sessions of training; they are counted in a warning."""


class ClassificationTask(LabelTask):
    """One class a value of the label in training; a prediction is the log-posteriors of all classes.

    Where the options have an entry named :attr:`plural` that is not empty, only utterances of these values are used.

    Raises:
        BenchmarkError: an option out of range; a split that is not there or empty; an utterance without the label; a
            value of dev or test that training does not have, or that a label budget left without training data;
            speakers or sessions of training in dev or test, unless ``shared_speakers``.
    """

    Config: ClassVar[type] = HeldOutConfig
    holds_out: ClassVar[bool] = True
    """Whether a dev set is held out of training where there is none."""
    groups: ClassVar[tuple[str, ...]] = ("speaker", "session")
    """Labels by which dev is held out, and whose values dev and test must not share with training."""
    more_metrics: ClassVar[tuple[str, ...]] = ()
    """Reported beside those that every classification task reports."""
    counts_lost: ClassVar[bool] = False
    """Whether classes of which training had no utterance count as not recognised, where a label budget left none;
    else they are refused."""
    keeps_posteriors: ClassVar[bool] = True
    """Whether ``predictions.jsonl`` has the log-posteriors of all classes; else only that of the prediction."""
    shown: ClassVar[int | None] = None
    """Of how many classes :meth:`present` gives the posterior; ``None``: of all."""

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise :class:`BenchmarkError` for options out of range."""
        super().check(config)
        metrics.check_selection(config.selection, Classes.kind)
        if not cls.holds_out:
            return
        if not 0 < config.dev_share < 1:
            raise BenchmarkError(f"task.dev_share must be more than 0 and less than 1, got {config.dev_share}")
        if config.dev_utterances < 1:
            raise BenchmarkError(f"task.dev_utterances must be at least 1, got {config.dev_utterances}")

    @classmethod
    def split(cls, config: Any, corpus: Corpus, target: Target | None = None) -> Splits:
        """The publisher's splits, sorted by id; see the class for what is refused.

        Args:
            config: the options.
            corpus: with the training data.
            target: a split that is scored as ``test``; ``dev`` of the run's own corpus may be what was held out of
                training. Utterances, speakers and sessions of training are counted in a warning, whatever
                ``shared_speakers`` says.
        """
        cls.check(config)
        train = cls._split(config, corpus, config.train_split, "train_split")
        held_out = cls.holds_out and (
            config.dev_split is None or (corpus.name == OWN_DATA and not corpus.splits.get(config.dev_split))
        )
        if held_out:
            share, most, seed = config.dev_share, config.dev_utterances, config.dev_seed
            held = hold_out(train, cls.label(config), cls._groups(config), share, most, seed)
            dev = [utterance for utterance in train if utterance.id in held]
            train = [utterance for utterance in train if utterance.id not in held]
            log.info("dev: %d of %d utterances, held out of '%s'", len(dev), len(dev) + len(train), config.train_split)
        else:
            dev = cls._split(config, corpus, str(config.dev_split), "dev_split")
        cls._check_chosen(config, corpus, train)
        cls._compare(config, "dev", dev, train, warn=held_out)
        source = corpus if target is None else target.corpus
        if target is None:
            test = cls._split(config, corpus, config.test_split, "test_split")
            cls._compare(config, "test", test, train)
        elif target.name == "dev" and source.name == corpus.name and "dev" not in source.splits:
            test = dev
        else:
            test = cls._split(config, source, target.name, "test_split")
            cls._compare(config, "test", test, train, warn=True)
            trained = {utterance.id for utterance in train} if source.name == corpus.name else set()
            if seen := sum(utterance.id in trained for utterance in test):
                log.warning("training has seen %d of the %d utterances of %s", seen, len(test), target.name)
        absent = sorted(values(train, cls.label(config)) - values(test, cls.label(config)))
        if absent:
            log.info(
                "%d %s of training do not occur in test; averages are over the others: %s",
                len(absent), cls.plural, shorten(absent, 8),
            )  # fmt: skip
        return Splits(source.name, train, dev, test)

    @classmethod
    def split_test(
        cls, config: Any, corpus: Corpus, vocabulary: Mapping[str, Any], name: str | None = None
    ) -> Splits | None:
        """A split as :meth:`split` chooses it. Which of its speakers and sessions training has seen is not known."""
        cls.check(config)
        if name == "dev" and name not in corpus.splits and config.dev_split in corpus.splits:
            name = str(config.dev_split)
        test = cls._split(config, corpus, name or config.test_split, "test_split")
        known = set(cls.known_classes(vocabulary))
        if not (cls.counts_lost and values(test, cls.label(config)) & known):
            cls._refuse_unseen(config, "test", test, known)
        if name is not None:
            warn_of_unknown(name)
        return Splits(corpus.name, (), (), test, vocabulary=vocabulary)

    @classmethod
    def _groups(cls, config: Any) -> list[str]:
        return [name for name in cls.groups if name != cls.label(config)]

    @classmethod
    def _chosen(cls, config: Any) -> set[str]:
        return set(getattr(config, cls.plural, ()))

    @classmethod
    def _split(cls, config: Any, corpus: Corpus, name: str, option: str) -> list[Utterance]:
        """A split, sorted by id, of the classes that are used."""
        label, chosen = cls.label(config), cls._chosen(config)
        utterances = labelled(corpus, name, option, label)
        kept = [utterance for utterance in utterances if not chosen or utterance.label(label) in chosen]
        if not kept:
            raise BenchmarkError(
                f"'{name}' of '{corpus.name}' has no utterance of task.{cls.plural} ({shorten(sorted(chosen), 8)}); it "
                f"has {shorten(sorted(values(utterances, label)), 8)}"
            )
        return sorted(kept, key=lambda utterance: utterance.id)

    @classmethod
    def _check_chosen(cls, config: Any, corpus: Corpus, train: Sequence[Utterance]) -> None:
        chosen = cls._chosen(config)
        there = values(train, cls.label(config)) if chosen else set()
        unknown = sorted(chosen - there)
        if unknown:
            raise BenchmarkError(
                f"task.{cls.plural} names {shorten(unknown)}, of which '{config.train_split}' of '{corpus.name}' has "
                "no utterance. " + suggest(unknown[0], sorted(there))
            )

    @classmethod
    def _compare(
        cls, config: Any, name: str, utterances: Sequence[Utterance], train: Sequence[Utterance], *, warn: bool = False
    ) -> None:
        """Refuse classes, speakers and sessions that a dev or test set should not have; of the latter two, warn where
        ``warn`` or the options say so."""
        label = cls.label(config)
        cls._refuse_unseen(config, name, utterances, set(cls.class_names(config, train)))
        for kind in cls._groups(config):
            trained = {utterance.label(kind) for utterance in train} - {None}
            shared = [utterance for utterance in utterances if utterance.label(kind) in trained]
            if not shared:
                continue
            names = shorten(sorted(values(shared, kind)))
            message = (
                f"{name} shares {len(values(shared, kind))} {kind}s with training: {names} ({len(shared)} utterances)"
            )
            if not (warn or config.shared_speakers):
                raise BenchmarkError(
                    f"{message}. A classifier can recognise a voice or a recording rather than the {label}, and looks "
                    "better than it is; take them out of either, or set task.shared_speakers=true"
                )
            log.warning("%s; a classifier may recognise these rather than the %s", message, label)

    @classmethod
    def _refuse_unseen(cls, config: Any, name: str, utterances: Sequence[Utterance], known: set[str]) -> None:
        label = cls.label(config)
        unseen = values(utterances, label) - known
        if unseen:
            ids = [utterance.id for utterance in utterances if utterance.label(label) in unseen]
            listed = f", or list the {cls.plural} to use in task.{cls.plural}" if hasattr(config, cls.plural) else ""
            raise BenchmarkError(
                f"{name} has {len(unseen)} {cls.plural} that training does not have: {shorten(sorted(unseen))} "
                f"({len(ids)} utterances: {shorten(ids)}). They could never be recognised: add training data or take "
                f"them out{listed}"
            )

    def __init__(self, config: Any, splits: Splits, seconds: Mapping[str, Seconds]) -> None:
        super().__init__(config, splits, seconds)
        for name in ("dev", "test"):
            lost = sorted(values(splits[name], self.label(config)) - self.classes.keys())
            if lost:
                self.report_lost(name, lost)

    def report_lost(self, name: str, lost: Sequence[str]) -> None:
        """Called where a label budget left no training utterance of classes of ``name`` (``dev`` or ``test``)."""
        if self.counts_lost:
            log.warning("%s: %d %s have no training utterance: %s", name, len(lost), self.plural, shorten(lost))
            return
        listed = (
            f", or list the {self.plural} to use in task.{self.plural}" if hasattr(self.config, self.plural) else ""
        )
        raise BenchmarkError(
            f"no training utterance of {len(lost)} {self.plural} of {name} is left: {shorten(lost)}. Take a larger "
            f"--budget or a smaller data.min_seconds{listed}"
        )

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score log-posteriors.

        Averages over classes are over those that occur in the evaluation set, each of which counts the same.

        Args:
            split: ``dev`` or ``test``.
            predictions: utterance id -> log-posteriors (class,), a tensor or array.

        Returns:
            accuracy, macro_accuracy (unweighted average recall) and macro_f1 in percent, :attr:`more_metrics`, and what
            else is declared of classes; of test also files: ``predictions.jsonl`` (an utterance a line, log-posteriors
            in the order of the columns of the next), ``confusion.csv`` and ``confusion.png``.
        """
        items = self._items(split, predictions)
        sets = {split: items, **(self.parts(items) if split == "test" else {})}
        result = Evaluation({name: self.score(part) for name, part in sets.items()}, items, sets)
        if split == "dev" and self.selection not in result.metrics[split]:
            raise BenchmarkError(
                f"{self.selection}, which chooses the checkpoint, is not defined on dev; does dev have only one class?"
            )
        if not self.keeps_posteriors:
            result.items = replace(items, log_posteriors=None)
        result.files = self.files(split, sets)
        return result

    def _items(self, split: str, predictions: Mapping[str, Any]) -> Classes:
        utterances, label = self.splits[split], self.label(self.config)
        logs = stack([utterance.id for utterance in utterances], predictions, len(self.classes))
        number = dict(self.classes)  # values without training data come after the head's classes
        references = [number.setdefault(str(utterance.label(label)), len(number)) for utterance in utterances]
        cluster, clusters = clusters_of(utterances)
        return Classes(
            ids=[utterance.id for utterance in utterances],
            clusters=clusters,
            cluster=cluster,
            names=list(number),
            references=np.array(references),
            predictions=logs.argmax(1),  # ties go to the first class
            log_posteriors=logs,
        )

    def parts(self, items: Classes) -> dict[str, Classes]:
        """Parts of ``test`` that are evaluation sets of their own, by name."""
        return {}

    def score(self, items: Classes) -> dict[str, float]:
        """The metrics of one evaluation set."""
        return metrics.score(items, (*self.more_metrics, self.selection))

    def files(self, split: str, sets: Mapping[str, Classes]) -> dict[str, Content]:
        """What the experiment folder keeps of the evaluation sets of a split."""
        if split != "test":
            return {}
        items = sets[split]
        matrix = confusion_files(
            "confusion", items.references, items.predictions, list(self.classes), self.title(items)
        )
        return {items.file: self.lines(items), **matrix}

    def title(self, items: Classes) -> str:
        """Of figures."""
        present = len(np.unique(items.references))
        return f"{self.splits.corpus}: {len(items):,} utterances of {present} of {len(self.classes)} {self.plural}"

    def lines(self, items: Classes) -> str:
        """The content of ``predictions.jsonl``."""
        utterances = {utterance.id: utterance for name in ("dev", "test") for utterance in self.splits[name]}
        logs = cast(NDArray[np.float32], items.log_posteriors)
        lines = []
        for row, name in enumerate(items.ids):
            choice = int(items.predictions[row])
            line = {
                "id": name,
                "speaker": utterances[name].speaker or utterances[name].session,
                "reference": items.names[items.references[row]],
                "prediction": items.names[choice],
            }
            if self.keeps_posteriors:
                line["seconds"] = round(self.seconds[name], 3)
                line["log_posteriors"] = [float(f"{value:.6g}") for value in logs[row].tolist()]
            else:
                line["posterior"] = round(float(np.exp(logs[row, choice])), 6)
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        return "".join(lines)

    @classmethod
    def recover(cls, folder: Path) -> About | None:
        """See :func:`downstream.recover.classes`."""
        return recover.classes(folder)

    @classmethod
    def present(cls, config: Any, vocabulary: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """The label's most probable value under the label's name, and the ``posteriors`` of the :attr:`shown` most
        probable ones, the highest first."""
        names = vocabulary[cls.plural]
        posteriors = np.exp(np.asarray(prediction, dtype=np.float64))
        if posteriors.shape != (len(names),):
            raise BenchmarkError(f"a prediction of shape {posteriors.shape} does not fit {len(names)} {cls.plural}")
        order = np.argsort(-posteriors, kind="stable")[: cls.shown].tolist()
        ranked = {names[index]: float(f"{posteriors[index]:.6g}") for index in order}
        return {cls.label(config): next(iter(ranked)), "posteriors": ranked}


def stack(ids: Sequence[str], predictions: Mapping[str, Any], classes: int) -> NDArray[np.float32]:
    """Log-posteriors (utterance, class); :class:`BenchmarkError` names an utterance without usable ones."""
    rows = np.empty((len(ids), classes), dtype=np.float32)
    for i, name in enumerate(ids):
        if name not in predictions:
            raise BenchmarkError(f"no prediction of utterance {name}")
        row = np.asarray(predictions[name], dtype=np.float32)
        if row.shape != (classes,):
            raise BenchmarkError(
                f"the prediction of utterance {name} must be {classes} log-posteriors, got shape {row.shape}"
            )
        if not np.isfinite(row).all():
            raise BenchmarkError(
                f"the prediction of utterance {name} is not finite; look at its audio, and at the training loss"
            )
        rows[i] = row
    return rows
