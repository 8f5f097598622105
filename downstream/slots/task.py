"""Classification by several labels at once, all of which have to be right: an intent's action, object and location."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from benchmark.evaluation import Classes
from benchmark.files import Content
from benchmark.interfaces import Corpus, Head, NeighbourHead, Splits, Target, Utterance
from downstream.classification import ClassificationTask, HeldOutConfig
from downstream.classifier import Classifier
from downstream.confusion import confusion_files
from downstream.embedders import EmbedderConfig
from downstream.losses import LossConfig
from downstream.splits import labelled, values

SEPARATOR = "|"
"""Between the values of a combination: ``activate|lights|kitchen``."""
MOST = 10_000
"""Combinations that a head may have."""


@dataclass
class SlotsConfig(HeldOutConfig):
    """Options of classification by several labels."""

    labels: list[str] = field(default_factory=list)
    """What is recognised: names of labels, the *slots*."""


class SlotClassifier(Classifier):
    """One linear layer whose outputs are the values of all slots, one slot after the other.

    The loss is the sum of the slots' cross-entropies. The classes are the combinations of one value of each slot, the
    last slot's changing fastest; the log-posterior of a combination is the sum of its values', so that the most
    probable combination is that of the most probable values. As s3prl ec8064b5, ``downstream/fluent_commands``.

    Args:
        feature_size: dim.
        sizes: values of each slot.
        head: the embedder.
        loss: ``softmax``.
    """

    def __init__(self, feature_size: int, sizes: Sequence[int], head: EmbedderConfig, loss: LossConfig) -> None:
        super().__init__(feature_size, sum(sizes), head, loss)
        self.sizes = list(sizes)

    def logits(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Of each slot: (batch, value), in float32."""
        logits = self.objective.logits(self.embedder.classified(self.embed(features, lengths)))
        return torch.split(logits, self.sizes, dim=1)

    def loss(self, features: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean over the batch of the sum over slots; ``targets`` (batch, slot) int64 are values."""
        slots = zip(self.logits(features, lengths), targets.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(logits, target) for logits, target in slots]).sum()

    def log_posteriors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, combination), in float32."""
        first, *others = [logits.log_softmax(1) for logits in self.logits(features, lengths)]
        for logs in others:
            first = (first[:, :, None] + logs[:, None]).flatten(1)
        return first


class SlotClassification(ClassificationTask):
    """One class a combination of the values that ``task.labels`` have in training, whether it occurs there or not.

    An utterance is right where all its labels are. Beside that, the confusion of each label is kept
    (``confusion_<label>.csv`` and ``.png``), and in ``predictions.jsonl`` the posterior of the prediction.
    """

    Config = SlotsConfig
    plural = "combinations"
    keeps_posteriors = False

    @classmethod
    def check(cls, config: SlotsConfig) -> None:
        """Raise :class:`BenchmarkError` for options out of range."""
        super().check(config)
        if len(set(config.labels)) < 2 or len(set(config.labels)) < len(config.labels):
            raise BenchmarkError(f"task.labels must name two or more labels, each once, got {config.labels}")
        if config.loss.name != "softmax":
            raise BenchmarkError(f"task.loss.name is '{config.loss.name}'; several labels at once need softmax")

    @classmethod
    def label(cls, config: SlotsConfig) -> str:
        """The label that :meth:`split` adds: all of ``task.labels`` together."""
        return "+".join(config.labels)

    @classmethod
    def requires(cls, config: SlotsConfig) -> tuple[str, ...]:
        """``task.labels``."""
        return tuple(config.labels)

    @classmethod
    def slot_values(cls, config: SlotsConfig, train: Sequence[Utterance]) -> dict[str, list[str]]:
        """Label -> its values, sorted."""
        return {name: sorted(values(train, name)) for name in config.labels}

    @classmethod
    def class_names(cls, config: SlotsConfig, train: Sequence[Utterance]) -> list[str]:
        """The combinations, in the order of :class:`SlotClassifier`."""
        return cls._combinations(cls.slot_values(config, train))

    @classmethod
    def known_classes(cls, vocabulary: Mapping[str, Any]) -> list[str]:
        """The combinations of the values that a trained run recognises, in the order of :class:`SlotClassifier`."""
        return cls._combinations(vocabulary["slots"])

    @classmethod
    def _combinations(cls, slots: Mapping[str, Sequence[str]]) -> list[str]:
        if prod(map(len, slots.values())) > MOST:
            counts = ", ".join(f"{len(found):,} of {name}" for name, found in slots.items())
            raise BenchmarkError(f"task.labels have more than {MOST:,} combinations of values: {counts}; name fewer")
        return [SEPARATOR.join(combination) for combination in product(*slots.values())]

    @classmethod
    def split(cls, config: SlotsConfig, corpus: Corpus, target: Target | None = None) -> Splits:
        """As :meth:`ClassificationTask.split`, of utterances that have the label of all ``task.labels`` together."""
        cls.check(config)
        if target is not None:
            target = replace(target, corpus=cls._joined(config, target.corpus))
        return super().split(config, cls._joined(config, corpus), target)

    @classmethod
    def split_test(
        cls, config: SlotsConfig, corpus: Corpus, vocabulary: Mapping[str, Any], name: str | None = None
    ) -> Splits | None:
        """As :meth:`ClassificationTask.split_test`, of utterances that have the label of all together."""
        cls.check(config)
        return super().split_test(config, cls._joined(config, corpus), vocabulary, name)

    @classmethod
    def _joined(cls, config: SlotsConfig, corpus: Corpus) -> Corpus:
        def joined(utterance: Utterance) -> Utterance:
            found = [utterance.label(name) or "" for name in config.labels]
            if any(SEPARATOR in value for value in found):
                raise BenchmarkError(
                    f"utterance {utterance.id} has a '{SEPARATOR}' in a label ({', '.join(found)}), which stands "
                    "between the values of a combination; write another character"
                )
            labels = {**utterance.labels, cls.label(config): SEPARATOR.join(found)}
            return replace(utterance, labels=labels)

        return replace(corpus, splits={name: list(map(joined, those)) for name, those in corpus.splits.items()})

    @classmethod
    def _split(cls, config: SlotsConfig, corpus: Corpus, name: str, option: str) -> list[Utterance]:
        for slot in config.labels:
            labelled(corpus, name, option, slot)  # names the one that is not known
        return super()._split(config, corpus, name, option)

    @cached_property
    def slots(self) -> dict[str, list[str]]:
        """Label -> the values that can be recognised."""
        known = self.splits.vocabulary
        return self.slot_values(self.config, self.splits.train) if known is None else dict(known["slots"])

    def targets(self, utterances: Sequence[Utterance]) -> Tensor:
        """(batch, slot) int64: the value of each label."""
        rows = [[found.index(str(u.label(name))) for name, found in self.slots.items()] for u in utterances]
        return torch.tensor(rows)

    def vocabulary(self) -> dict[str, Any]:
        """``slots``: label -> its values."""
        return {"slots": self.slots}

    @classmethod
    def make_head(cls, config: SlotsConfig, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """A fresh classifier; raises :class:`BenchmarkError` where no label has two values."""
        sizes = [len(found) for found in vocabulary["slots"].values()]
        if max(sizes) < 2:
            raise BenchmarkError(
                f"nothing is to be recognised: in the training data, {shorten(vocabulary['slots'], 8)} have one value "
                "each; check them, or take a larger --budget"
            )
        return SlotClassifier(feature_size, sizes, config.head, config.loss)

    @classmethod
    def make_linear_head(cls, config: SlotsConfig, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """Raises :class:`BenchmarkError`: there is a classifier for each label."""
        raise BenchmarkError("probe.solver=exact solves one classifier; this task has one for each of task.labels")

    @classmethod
    def make_neighbour_head(
        cls, config: SlotsConfig, vocabulary: Mapping[str, Any], feature_size: int
    ) -> NeighbourHead:
        """Raises :class:`BenchmarkError`: what neighbours vote for is one label."""
        raise BenchmarkError("probe.solver=knn asks neighbours for one label; this task has several (task.labels)")

    def files(self, split: str, sets: Mapping[str, Classes]) -> dict[str, Content]:
        """``predictions.jsonl`` and the confusion of each label, of test."""
        if split != "test":
            return {}
        items = sets[split]
        files: dict[str, Content] = {items.file: self.lines(items)}
        shape = [len(found) for found in self.slots.values()]
        places = [np.unravel_index(classes, shape) for classes in (items.references, items.predictions)]
        for (name, found), references, predictions in zip(self.slots.items(), *places, strict=True):
            title = f"{self.splits.corpus}: {name} of {len(items):,} utterances"
            files |= confusion_files(f"confusion_{name}", references, predictions, found, title)
        return files

    @classmethod
    def present(cls, config: SlotsConfig, vocabulary: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """The most probable value of each label, and the posterior of their combination."""
        slots: Mapping[str, Sequence[str]] = vocabulary["slots"]
        logs = np.asarray(prediction, dtype=np.float64)
        shape = [len(found) for found in slots.values()]
        if logs.shape != (prod(shape),):
            raise BenchmarkError(f"a prediction of shape {logs.shape} does not fit {prod(shape)} combinations")
        best = int(logs.argmax())
        places = np.unravel_index(best, shape)
        chosen = {name: found[int(place)] for (name, found), place in zip(slots.items(), places, strict=True)}
        return {**chosen, "posterior": float(f"{np.exp(logs[best]):.6g}")}
