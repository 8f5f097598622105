"""Speaker identification: which of the training speakers is it?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.errors import shorten
from benchmark.evaluation import Classes
from downstream.classification import ClassificationConfig, ClassificationTask

log = logging.getLogger("wavbench")


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
    keeps_posteriors = False
    shown = 5

    @classmethod
    def label(cls, config: Any) -> str:
        """``speaker``."""
        return "speaker"

    def report_lost(self, name: str, lost: Sequence[str]) -> None:
        """Speakers of whom a label budget left no training utterance count as not recognised."""
        log.warning("%s: %d speakers have no training utterance: %s", name, len(lost), shorten(lost))

    def files(self, split: str, sets: Mapping[str, Classes]) -> dict[str, str | bytes]:
        """``predictions.jsonl`` of test, ``predictions_dev.jsonl`` of dev."""
        return {"predictions.jsonl" if split == "test" else f"predictions_{split}.jsonl": self.lines(sets[split])}
