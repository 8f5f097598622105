"""Classification by any label: emotion, keyword, intent; whatever the manifests name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.metrics import METRICS
from benchmark.registry import suggest
from downstream.classification import ClassificationTask, HeldOutConfig


@dataclass
class ClassifyConfig(HeldOutConfig):
    """Options of classification by any label."""

    label: str = ""
    """What is recognised: a field of utterances (``speaker``, ``language``, ``gender``) or any other label."""
    classes: list[str] = field(default_factory=list)
    """Use these values of the label alone, of all splits; empty: all that there are."""
    selection: str = "accuracy"
    """The metric of dev that chooses the checkpoint: any that is declared of classes, such as ``macro_accuracy`` (the
    unweighted average recall)."""


class LabelClassification(ClassificationTask):
    """One class a value of the label ``task.label`` in the training data."""

    Config = ClassifyConfig

    @classmethod
    def label(cls, config: ClassifyConfig) -> str:
        """``task.label``; raises :class:`BenchmarkError` where it is not set."""
        if not config.label:
            raise BenchmarkError("task.label is not set: name the label to recognise, as in --label emotion")
        return config.label

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise :class:`BenchmarkError` for options out of range."""
        super().check(config)
        known = [metric.name for metric in METRICS.values() if "classes" in metric.compute]
        if config.selection not in known:
            raise BenchmarkError(
                f"'{config.selection}' (task.selection) is not a metric of classes. " + suggest(config.selection, known)
            )

    @property
    def selection(self) -> str:
        """``task.selection``."""
        return str(self.config.selection)
