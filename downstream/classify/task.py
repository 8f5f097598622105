"""Classification by any label: emotion, keyword, intent; whatever the manifests name."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmark.errors import BenchmarkError
from downstream.classification import ClassificationTask, HeldOutConfig


@dataclass
class ClassifyConfig(HeldOutConfig):
    """Options of classification by any label."""

    label: str = ""
    """What is recognised: a field of utterances (``speaker``, ``language``, ``gender``) or any other label."""
    classes: list[str] = field(default_factory=list)
    """Use these values of the label alone, of all splits; empty: all that there are."""


class LabelClassification(ClassificationTask):
    """One class a value of the label ``task.label`` in the training data."""

    Config = ClassifyConfig

    @classmethod
    def label(cls, config: ClassifyConfig) -> str:
        """``task.label``; raises :class:`BenchmarkError` where it is not set."""
        if not config.label:
            raise BenchmarkError("task.label is not set: name the label to recognise, as in --label emotion")
        return config.label
