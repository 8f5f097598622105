"""Classification by any label: emotion, keyword, intent; whatever the manifests name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark.errors import BenchmarkError
from downstream.classification import ClassificationTask, HeldOutConfig

RESERVED = ("id", "path", "start", "duration", "labels", "posteriors")
"""Names of columns of manifests and of predictions that are not labels."""


@dataclass
class ClassifyConfig(HeldOutConfig):
    """Options of classification by any label."""

    label: str = ""
    """What is recognised: a field of utterances (``speaker``, ``language``, ``gender``) or any other label."""
    classes: list[str] = field(default_factory=list)
    """Use these values of the label alone, of all splits; empty: all that there are."""
    balance: bool = False
    """Draw the training utterances of all values with equal chances, with replacement; else each once an epoch."""


class LabelClassification(ClassificationTask):
    """One class a value of the label ``task.label`` in the training data."""

    Config = ClassifyConfig

    @classmethod
    def label(cls, config: ClassifyConfig) -> str:
        """``task.label``; raises :class:`BenchmarkError` where it is not set."""
        if not config.label:
            raise BenchmarkError("task.label is not set: name the label to recognise, as in --label emotion")
        if config.label in RESERVED:
            raise BenchmarkError(
                f"task.label is '{config.label}', which is not a label: {', '.join(RESERVED)} are reserved"
            )
        return config.label

    def chances(self) -> Sequence[float] | None:
        """One over the training utterances of the same class, where ``task.balance`` says so."""
        if not self.config.balance:
            return None
        classes = [utterance.label(self.config.label) for utterance in self.splits.train]
        counts = Counter(classes)
        return [1 / counts[value] for value in classes]
