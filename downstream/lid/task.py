"""Language identification: train a classifier of languages, report how well it identifies and detects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from benchmark import metrics, plots
from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes
from benchmark.files import Content
from downstream.classification import ClassificationTask, HeldOutConfig

P_TARGET = 0.5
"""Prior of a language on the DET plot, as in Cavg (NIST LRE, OLR)."""


@dataclass
class LIDConfig(HeldOutConfig):
    """Options of language identification."""

    languages: list[str] = field(default_factory=list)
    """Use these alone, of all splits; empty: all that there are."""
    selection: str = "macro_accuracy"
    buckets: list[float] = field(default_factory=lambda: [5.0, 20.0])
    """Edges, in seconds, of the durations between which test utterances are scored by themselves as well."""


class LanguageIdentification(ClassificationTask):
    """One class a language of the training data.

    The checkpoint is chosen by macro accuracy: where training data are imbalanced so is a dev set held out of them, and
    accuracy would be won by giving rare languages up.

    ``eer``, ``cavg`` and ``min_cavg`` detect each language of an evaluation set in each of its utterances, by LLRs
    against all other training languages (:func:`benchmark.metrics.detection_llrs`); a set of one language has none.
    ``cllr`` is the cost of the posteriors (:func:`benchmark.calibration.multiclass_cllr`). Both costs are also reported
    of posteriors that are calibrated on dev, ``cavg_calibrated`` and ``cllr_calibrated``.
    ``languages`` is the number of languages in the set (the N of Cavg), ``utterances`` that of its utterances. Test is
    scored by duration as well, and has a DET plot, ``det.png``.
    """

    Config = LIDConfig
    plural = "languages"
    more_metrics = ("eer", "cavg", "min_cavg", "cllr")

    @classmethod
    def label(cls, config: Any) -> str:
        """``language``."""
        return "language"

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise :class:`BenchmarkError` for options out of range."""
        super().check(config)
        if not all(low < high for low, high in pairwise([0.0, *config.buckets])):
            raise BenchmarkError(f"task.buckets must be seconds above 0, in increasing order, got {config.buckets}")

    def parts(self, items: Classes) -> dict[str, Classes]:
        """By duration; empty ones are left out."""
        if not self.config.buckets:
            return {}
        seconds = np.array([self.seconds[name] for name in items.ids])
        edges = [0.0, *self.config.buckets]
        members = {f"test_{low:g}-{high:g}s": (low <= seconds) & (seconds < high) for low, high in pairwise(edges)}
        members[f"test_{edges[-1]:g}s+"] = seconds >= edges[-1]
        return {name: items.take(np.flatnonzero(those)) for name, those in members.items() if those.any()}

    def score(self, items: Classes) -> dict[str, float]:
        """The metrics of one evaluation set; those that one language does not define are left out."""
        counts = {"languages": len(np.unique(items.references)), "utterances": len(items)}
        return super().score(items) | counts

    def files(self, split: str, sets: Mapping[str, Classes]) -> dict[str, Content]:
        """Those of every classification task, and ``det.png`` of the first four sets."""
        files = super().files(split, sets)
        if not files:
            return files
        detected = {
            name: (items.references, items.llrs)
            for name, items in sets.items()
            if items.llrs is not None and len(np.unique(items.references)) > 1
        }

        def draw() -> bytes:
            pairs = {name: metrics.language_pairs(*both) for name, both in list(detected.items())[:4]}
            curves = {name: metrics.det_curve(*pair) for name, pair in pairs.items()}
            return plots.png(plots.det(curves, f"{self.title(sets[split])},\neach against each", p_target=P_TARGET))

        if detected:
            files["det.png"] = draw
        return files
