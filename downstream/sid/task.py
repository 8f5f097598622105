"""Speaker identification: which of the training speakers is it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.evaluation import Classes
from benchmark.files import Content
from downstream.classification import ClassificationConfig, ClassificationTask


class SpeakerIdentification(ClassificationTask):
    """Classify utterances by the training speakers, of whom dev and test are other utterances.

    The metrics are those of :class:`ClassificationTask` and top5_accuracy. Of dev, too, predictions are kept
    (``predictions_dev.jsonl``), with the posterior of the predicted speaker alone.
    """

    Config = ClassificationConfig
    plural = "speakers"
    holds_out = False
    groups = ()
    more_metrics = ("top5_accuracy",)
    counts_lost = True
    keeps_posteriors = False
    shown = 5

    @classmethod
    def label(cls, config: Any) -> str:
        """``speaker``."""
        return "speaker"

    def files(self, split: str, sets: Mapping[str, Classes]) -> dict[str, Content]:
        """``predictions.jsonl`` of test, ``predictions_dev.jsonl`` of dev."""
        return {"predictions.jsonl" if split == "test" else f"predictions_{split}.jsonl": self.lines(sets[split])}
