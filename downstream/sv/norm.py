"""Adaptive symmetric score normalisation against a cohort of training speakers.

``s' = ½ [(s - μe) / σe + (s - μt) / σt]``, where μe and σe are mean and deviation of the ``top_n`` highest cosines
between the enrolment utterance and the cohort, and μt and σt those of the test utterance. Matějka et al.: Analysis of
score normalization in multilingual speaker recognition, Interspeech 2017 (adaptive s-norm); the cohort of speakers'
means and the values are those of wespeaker (``bin/score_norm.py`` and the VoxCeleb recipes: mean of the training set
subtracted, top 300, deviation with division by n). What depends on one utterance alone is computed once an utterance,
not once a trial (SpeechBrain's recipe repeats it for each).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance
from benchmark.registry import suggest
from downstream.sv.scoring import Floats, cosines, inverse_norms, stack
from downstream.sv.trials import TrialList, order_key

log = logging.getLogger("wavbench")

NAMES = ("none", "snorm")
CHUNK = 4096
"""Utterances compared with the cohort at a time: 20 MB for 1,211 speakers."""


@dataclass
class NormConfig:
    """Score normalisation on test, reported beside the raw scores."""

    name: str = "none"
    """``none`` or ``snorm`` (adaptive s-norm)."""
    top_n: int = 300
    """Cohort speakers, the most alike, whose scores are averaged; all of them where there are fewer."""
    utterances: int = 10
    """Utterances of each training speaker whose mean is the speaker in the cohort."""
    subtract_mean: bool = True
    """Subtract the mean over the cohort's utterances from all embeddings before cosines are taken."""

    def check(self) -> None:
        """Raise :class:`BenchmarkError` for an unknown name or a number out of range."""
        if self.name not in NAMES:
            raise BenchmarkError(f"unknown norm '{self.name}' (task.norm.name). " + suggest(self.name, list(NAMES)))
        if self.top_n < 2 or self.utterances < 1:
            raise BenchmarkError(
                f"task.norm.top_n must be at least 2 and task.norm.utterances at least 1, got {self.top_n} and "
                f"{self.utterances}"
            )


def cohort_utterances(train: Sequence[Utterance], config: NormConfig, seed: int) -> list[Utterance]:
    """At most ``config.utterances`` of each training speaker, first in the order of a hash of seed and id."""
    speakers: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in train:
        speakers[str(utterance.speaker)].append(utterance)
    return [
        utterance
        for name in sorted(speakers)
        for utterance in sorted(speakers[name], key=lambda u: order_key(seed, u.id))[: config.utterances]
    ]


class AdaptiveSNorm:
    """The cohort, ready to normalise scores.

    Args:
        utterances: of the cohort.
        embeddings: utterance id -> embedding (size,).
        config: the options.

    Raises:
        BenchmarkError: an embedding is missing or not usable; fewer than 2 speakers.
    """

    def __init__(self, utterances: Sequence[Utterance], embeddings: Mapping[str, Any], config: NormConfig) -> None:
        rows = stack([utterance.id for utterance in utterances], embeddings)  # (utterance, size)
        names, speaker = np.unique([str(utterance.speaker) for utterance in utterances], return_inverse=True)
        if len(names) < 2:
            raise BenchmarkError(f"score normalisation needs a cohort of at least 2 speakers, got {len(names)}")
        self.top_n = min(config.top_n, len(names))
        if self.top_n < config.top_n:
            log.warning(
                "task.norm.top_n is %d, but the cohort has %d speakers: all of them are used", config.top_n, len(names)
            )
        mean = rows.mean(axis=0, dtype=np.float64) if config.subtract_mean else np.zeros(rows.shape[1])
        self.mean: Floats = mean.astype(np.float32)
        """(size,) to be subtracted from embeddings before they are scored; zeros where the options say so."""
        means = np.zeros((len(names), rows.shape[1]), dtype=np.float64)
        np.add.at(means, speaker, rows)
        means /= np.bincount(speaker)[:, None]
        centred = (means - mean).astype(np.float32)
        self.cohort: Floats = centred * inverse_norms(centred)[:, None]
        """(speaker, size) of length 1."""

    def statistics(self, rows: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation (utterance,) of the ``top_n`` highest cosines with the cohort.

        Args:
            rows: (utterance, size), :attr:`mean` subtracted.
        """
        inverse = inverse_norms(rows)
        means, deviations = np.empty((2, len(rows)), dtype=np.float32)
        drop = len(self.cohort) - self.top_n
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            scores = rows[part] @ self.cohort.T  # (utterance, speaker)
            scores *= inverse[part, None]
            if drop:
                scores.partition(drop, axis=1)
            means[part] = scores[:, drop:].mean(axis=1)
            deviations[part] = scores[:, drop:].std(axis=1)
        # an embedding that is equally far from all speakers (all zeros) has no deviation to divide by
        return means, np.maximum(deviations, np.float32(1e-6))

    def __call__(self, trials: TrialList, rows: Floats) -> Floats:
        """Normalised scores (trial,).

        Args:
            trials: the list.
            rows: (utterance, size), the embeddings of ``trials.ids``, :attr:`mean` subtracted.
        """
        scores = cosines(trials, rows)
        means, deviations = self.statistics(rows)
        a, b = trials.enrolment, trials.test
        normed: Floats = np.float32(0.5) * ((scores - means[a]) / deviations[a] + (scores - means[b]) / deviations[b])
        return normed
