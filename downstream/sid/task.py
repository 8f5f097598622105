"""Speaker identification: which of the training speakers is it?"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation, Utterance
from benchmark.data.manifest import some
from benchmark.metrics import accuracy, macro_accuracy
from downstream.heads import Classifier, HeadConfig, LossConfig, check_names, nested
from downstream.speakers import SpeakerTask, need_speakers, split_of

log = logging.getLogger("wavbench")

TOP = 5
"""``top5_accuracy``: the speaker is among so many."""


@dataclass
class SIDConfig:
    """Options of speaker identification."""

    train_split: str = "train"
    """The publisher's split to train on."""
    dev_split: str = "dev"
    """The split that chooses the checkpoint; other utterances of the same speakers."""
    test_split: str = "test"
    """The split that is scored once."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig("mean"))
    """See :class:`downstream.heads.HeadConfig`."""
    loss: LossConfig = field(default_factory=lambda: LossConfig("softmax"))
    """See :class:`downstream.heads.LossConfig`."""

    def __post_init__(self) -> None:
        self.head = nested(HeadConfig, "head", self.head)
        self.loss = nested(LossConfig, "loss", self.loss)


class SpeakerIdentification(SpeakerTask):
    """Classify utterances by the training speakers.

    Raises:
        BenchmarkError: an unknown head or loss; a split that is not there or empty; utterances without a speaker;
            speakers of dev or test whom training does not have.
    """

    Config = SIDConfig
    head = Classifier
    selection = "accuracy"
    higher_is_better = True

    def __init__(self, config: SIDConfig, corpus: Corpus) -> None:
        self.config = config
        check_names(config.head, config.loss)
        self.splits = {
            "train": _split(corpus, config.train_split, "train_split"),
            "dev": _split(corpus, config.dev_split, "dev_split"),
            "test": _split(corpus, config.test_split, "test_split"),
        }
        for option in ("dev_split", "test_split"):
            self._refuse_unknown(getattr(config, option), self.splits[option.removesuffix("_split")])

    def _refuse_unknown(self, name: str, utterances: Sequence[Utterance]) -> None:
        known = {utterance.speaker for utterance in self.splits["train"]}
        unknown = sorted({str(utterance.speaker) for utterance in utterances if utterance.speaker not in known})
        if unknown:
            raise BenchmarkError(
                f"split '{name}' has {len(unknown)} speakers that training does not have: {some(unknown)}. Nobody "
                "unknown can be identified: take them out, or verify speakers instead (-d sv)"
            )

    def retarget(self, name: str, corpus: Corpus) -> None:
        """Score the split ``name`` as ``test``; its speakers must be those of training."""
        utterances = _split(corpus, name, "test_split")
        self._refuse_unknown(name, utterances)
        self.splits["test"] = utterances

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Score a whole split.

        Speakers of whom a label budget left no training utterance count as not recognised.

        Args:
            split: ``dev`` or ``test``.
            predictions: utterance id -> log-posteriors (class,).

        Returns:
            accuracy, macro_accuracy (mean over speakers) and top5_accuracy in percent; ``predictions.jsonl`` (dev:
            ``predictions_dev.jsonl``): id, reference, prediction and its posterior, a line an utterance.
        """
        utterances = self.splits[split]
        scores = stack(utterances, predictions, len(self.speakers))  # (utterance, class)
        numbers = dict(self.speakers)
        references = np.array([numbers.setdefault(str(u.speaker), len(numbers)) for u in utterances])
        lost = sorted(numbers.keys() - self.speakers.keys())
        if lost:
            log.warning("%s: no utterance of %d speakers was trained on: %s", split, len(lost), some(lost))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]  # ties go to the first class, as argmax's
        names = list(self.speakers)
        lines = [
            json.dumps(
                {
                    "id": utterance.id,
                    "speaker": utterance.speaker,
                    "reference": utterance.speaker,
                    "prediction": names[choice],
                    "posterior": round(float(np.exp(row[choice])), 6),
                },
                ensure_ascii=False,
            )
            for utterance, row, choice in zip(utterances, scores, best[:, 0].tolist(), strict=True)
        ]
        return Evaluation(
            metrics={
                split: {
                    "accuracy": accuracy(references, best[:, 0]),
                    "macro_accuracy": macro_accuracy(references, best[:, 0]),
                    "top5_accuracy": float(100 * np.mean((best == references[:, None]).any(axis=1))),
                }
            },
            files={"predictions.jsonl" if split == "test" else f"predictions_{split}.jsonl": "\n".join([*lines, ""])},
        )

    @classmethod
    def present(cls, config: SIDConfig, inventory: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """``{"speaker": name, "posteriors": {name: posterior}}``, of the five most probable speakers."""
        scores = np.asarray(prediction, dtype=np.float64)
        best = np.argsort(-scores, kind="stable")[:TOP].tolist()
        names = inventory["speakers"]
        return {
            "speaker": names[best[0]],
            "posteriors": {names[i]: round(float(np.exp(scores[i])), 6) for i in best},
        }


def stack(utterances: Sequence[Utterance], predictions: Mapping[str, Any], classes: int) -> NDArray[np.float32]:
    """Log-posteriors (utterance, class); :class:`BenchmarkError` names an utterance without usable ones."""
    scores = np.empty((len(utterances), classes), dtype=np.float32)
    for i, utterance in enumerate(utterances):
        if utterance.id not in predictions:
            raise BenchmarkError(f"no prediction of utterance {utterance.id}")
        row = np.asarray(predictions[utterance.id], dtype=np.float32)
        if row.shape != (classes,) or np.isnan(row).any():
            raise BenchmarkError(
                f"the prediction of utterance {utterance.id} must be {classes} log-posteriors, got shape {row.shape}"
                + (" with NaN; look at its audio, and at the training loss" if np.isnan(row).any() else "")
            )
        scores[i] = row
    return scores


def _split(corpus: Corpus, name: str, option: str) -> list[Utterance]:
    """A split, sorted by id."""
    utterances = sorted(split_of(corpus, name, option), key=lambda utterance: utterance.id)
    if not utterances:
        raise BenchmarkError(f"split '{name}' of '{corpus.name}' is empty")
    need_speakers(corpus, utterances, "identification")
    return utterances
