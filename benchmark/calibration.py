"""Calibration: the cost of scores that are used as log-likelihood ratios (LLRs), and the map that makes LLRs of them.

The cost of decisions (:func:`act_dcf`) and of the LLRs themselves (:func:`cllr`, :func:`multiclass_cllr`) depends on
what the scores say; :func:`min_cllr`, as EER and minDCF, only on how they order the trials. Verification metrics take
``labels`` (trial,) of 1 = target and 0 = nontarget, LLRs are natural logarithms, and Cllr is in bits.

:func:`fit` finds a :class:`Calibration` on the items of dev, and nowhere else. A run keeps it in ``result.json`` and
``evaluation.json``, and reports ``<metric>_calibrated`` of its test sets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark import metrics
from benchmark.errors import BenchmarkError
from benchmark.metrics import Metric, check_trials, det_curve

if TYPE_CHECKING:
    from benchmark.interfaces import Evaluation
    from benchmark.plots import Figure

log = logging.getLogger("wavbench")

Floats = NDArray[np.float64]

SUFFIX = "_calibrated"
"""Ends the name of a metric of calibrated scores; the metric of the scores as they are is named without it."""

# --- Verification -----------------------------------------------------------------------------------------------------


def cllr(labels: ArrayLike, llrs: ArrayLike) -> float:
    """Log-likelihood-ratio cost in bits: ``½ [mean log2(1 + 1/LR) of targets + mean log2(1 + LR) of nontargets]``.

    0 is perfect, 1 is what LLRs of 0 cost, which say nothing; worse than that misleads. Brümmer & du Preez:
    Application-independent evaluation of speaker detection, Computer Speech and Language 20 (2006).

    Args:
        labels: (trial,) 1 or 0.
        llrs: (trial,) finite, natural logarithms.

    Raises:
        BenchmarkError: as :func:`benchmark.metrics.check_trials`.

    >>> cllr([1, 0], [0.0, 0.0])
    1.0
    """
    is_target, llr = check_trials(labels, llrs)
    costs = np.logaddexp(0, np.where(is_target, -llr, llr)) / np.log(2)
    return float((costs[is_target].mean() + costs[~is_target].mean()) / 2)


def min_cllr(labels: ArrayLike, scores: ArrayLike) -> float:
    """The least :func:`cllr` that any increasing map from these scores to LLRs gives.

    The map is found on the trials themselves by isotonic regression (pool adjacent violators), section 6 of Brümmer &
    du Preez (2006), and is the same for scores and for any increasing function of them. O(n log n). Arguments and
    errors as :func:`cllr`.
    """
    from scipy.optimize import isotonic_regression
    from scipy.special import xlogy

    curve = det_curve(labels, scores)
    targets, nontargets = -np.diff(curve.p_miss), np.diff(curve.p_fa)  # shares with each score, the highest first
    both = targets + nontargets
    blocks = isotonic_regression(targets / both, weights=both, increasing=False).blocks[:-1]
    targets, nontargets = np.add.reduceat(targets, blocks), np.add.reduceat(nontargets, blocks)
    both = targets + nontargets
    return float((xlogy(both, both) - xlogy(targets, targets) - xlogy(nontargets, nontargets)).sum() / np.log(4))


def act_dcf(
    labels: ArrayLike, llrs: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Normalised detection cost of the decisions that LLRs make at the Bayes threshold; at least the minimum DCF.

    A trial is accepted where its LLR is at or above ``log(c_fa (1 - p_target) / (c_miss p_target))``. The cost is that
    of :func:`benchmark.metrics.min_dcf`: 1 is what rejecting every trial costs (where misses are the cheaper errors),
    and accepting trials wrongly can cost more.

    Args:
        labels: (trial,) 1 or 0.
        llrs: (trial,) finite, natural logarithms.
        p_target: prior of a target trial, between 0 and 1.
        c_miss: cost of rejecting a target.
        c_fa: cost of accepting a nontarget.

    Raises:
        BenchmarkError: as :func:`benchmark.metrics.check_trials`, and for a prior or cost out of range.
    """
    if not 0 < p_target < 1 or c_miss <= 0 or c_fa <= 0:
        raise BenchmarkError(f"DCF needs 0 < p_target < 1 and positive costs, got {p_target=}, {c_miss=}, {c_fa=}")
    is_target, llr = check_trials(labels, llrs)
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    accepted = llr >= np.log(false_alarm / miss)
    cost = miss * np.mean(~accepted[is_target]) + false_alarm * np.mean(accepted[~is_target])
    return float(cost / min(miss, false_alarm))


# --- Classes ----------------------------------------------------------------------------------------------------------


def multiclass_cllr(references: ArrayLike, log_likelihoods: ArrayLike) -> float:
    """Multi-class Cllr in bits: ``-1/N sum_t mean log2 P(t | x)``, the mean over the utterances x of class t.

    ``P(t | x)`` is the posterior under a flat prior over all classes of ``log_likelihoods``; N counts the classes that
    occur in ``references``, and the sum is over them. 0 is perfect, ``log2`` of the number of classes is what equal
    likelihoods cost. With two classes it is :func:`cllr` of the log of their ratio. Brümmer: FoCal Multi-class manual
    (2007), section 3.1; the cross-entropy of the Albayzin 2012 language recognition evaluation, not normalised.

    Args:
        references: (utterance,) classes, whole numbers from 0.
        log_likelihoods: (utterance, class) finite, up to a constant of each utterance: log-posteriors of a classifier
            will do.

    Raises:
        BenchmarkError: shapes that do not match; a reference that is no class; a likelihood that is not finite.
    """
    from scipy.special import log_softmax

    reference, logs = np.asarray(references), np.asarray(log_likelihoods, dtype=np.float64)
    if reference.ndim != 1 or logs.ndim != 2 or len(reference) != len(logs) or not len(logs):
        raise BenchmarkError(
            "references (utterance,) and log-likelihoods (utterance, class) must be of the same utterances, at least "
            f"one, got {reference.shape} and {logs.shape}"
        )
    if reference.min() < 0 or reference.max() >= logs.shape[1]:
        raise BenchmarkError(f"references must be classes from 0 to {logs.shape[1] - 1}, got {np.unique(reference)}")
    if not np.isfinite(logs).all():
        raise BenchmarkError("log-likelihoods must be finite, some are not; look at the classifier's log-posteriors")
    costs = -log_softmax(logs, axis=1)[np.arange(len(logs)), reference] / np.log(2)
    return float(_class_weights(reference) @ costs)


def _class_weights(references: NDArray[Any]) -> Floats:
    """(utterance,) such that each class that occurs has the same weight, and all together 1."""
    _, of, counts = np.unique(references, return_inverse=True, return_counts=True)
    return np.asarray(1 / (counts[of] * len(counts)))


# --- The map ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """An affine map from scores to log-likelihood ratios, or from log-posteriors to log-likelihoods of classes."""

    scale: float
    """Not above 0 where scores are no higher for what is right than for what is wrong: such a one is not used."""
    offsets: tuple[float, ...]
    """Trials: one number. Classes: one for each that the head knows, in the order of its outputs."""

    @classmethod
    def read(cls, plain: Any) -> Calibration | None:
        """From what :meth:`plain` gave; ``None`` from ``None``."""
        return None if plain is None else cls(float(plain["scale"]), tuple(map(float, plain["offsets"])))

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"offsets": list(self.offsets)}

    def __call__(self, scores: ArrayLike) -> Floats:
        """Scores (trial,) -> LLRs (trial,); log-posteriors (utterance, class) -> log-likelihoods (utterance, class).

        Raises:
            BenchmarkError: another number of classes than the calibration was fitted on.
        """
        score = np.asarray(scores, dtype=np.float64)
        if score.shape[1:] not in ((), (len(self.offsets),)):
            raise BenchmarkError(f"a calibration of {len(self.offsets)} classes does not fit scores {score.shape}")
        return np.asarray(self.scale * score + np.array(self.offsets))


FEWEST = 20
"""Utterances of every class from which on each class gets an offset of its own. In simulations of 6 and 45 classes with
biased posteriors, offsets raised the cost on test with 1 and 3 utterances, were of either effect with 10, and lowered
the cost or left it with 60."""


def fit(items: Any) -> Calibration | None:
    """The calibration of items, by logistic regression in which every class has the same weight (a flat prior).

    Trials get a scale and an offset; classes one scale for all and an offset for each (FoCal Multi-class, section
    3.2.1), or the scale alone where items have fewer than :data:`FEWEST` utterances of a class. What is minimised is
    :func:`cllr` or :func:`multiclass_cllr`, but for targets of ``(n + 1) / (n + 2)`` in place of 1, where n is the
    number of items (after Platt: Probabilistic outputs for support vector machines, 1999): they keep the scale finite
    where no item is on the wrong side.

    Args:
        items: of the set ``dev``; any kind.

    Returns:
        ``None`` for items that have no scores, or of one class.
    """
    if items.kind == "trials":
        is_target, score = check_trials(items.labels, items.scores)
        scale, each = _affine(np.stack([np.zeros_like(score), score], axis=1), is_target.astype(int), shift=True)
        offsets = [each[1] - each[0]]
    elif (logs := _as_they_are(items)) is not None:
        enough = bool(np.bincount(items.references, minlength=logs.shape[1]).min() >= FEWEST)
        scale, each = _affine(np.asarray(logs, dtype=np.float64), np.asarray(items.references), shift=enough)
        offsets = each.tolist()
    else:
        return None
    return Calibration(scale, tuple(map(float, offsets)))


def _affine(logs: Floats, references: NDArray[Any], *, shift: bool) -> tuple[float, Floats]:
    """Scale and, where they are to ``shift``, offsets (class,) of logs (utterance, class); the problem is convex."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    classes = logs.shape[1]
    centre = logs.mean(axis=0) if shift else np.zeros(classes)
    spread = float(logs.std(axis=0).max()) or 1.0
    inputs = (logs - centre) / spread  # (utterance, class)
    other = 1 / (len(logs) + 2)
    wanted = np.full(logs.shape, other / (classes - 1))
    wanted[np.arange(len(logs)), references] = 1 - other
    weights = _class_weights(references)[:, None]

    def cost(parameters: Floats) -> tuple[float, Floats]:
        logarithms = log_softmax(parameters[0] * inputs + (parameters[1:] if shift else 0), axis=1)
        slopes = weights * (np.exp(logarithms) - wanted)
        gradient = np.append((slopes * inputs).sum(), slopes.sum(axis=0) if shift else [])
        return -float((weights * wanted * logarithms).sum()), gradient

    options = {"maxiter": 1000, "gtol": 1e-9, "ftol": 1e-15}
    found = minimize(cost, np.zeros(1 + classes * shift), jac=True, method="L-BFGS-B", options=options).x
    scale = float(found[0]) / spread
    return scale, np.asarray(found[1:] - scale * centre if shift else np.zeros(classes))


def of_dev(evaluation: Evaluation) -> Calibration | None:
    """:func:`fit` to the set ``dev`` of an evaluation; ``None`` where no metric of the set asks for it."""
    items = evaluation.sets.get("dev")
    asked = any(name + SUFFIX in metrics.METRICS for name in evaluation.metrics["dev"])
    return fit(items) if items is not None and asked else None


def of_chosen(plain: Any) -> Calibration | None:
    """What :func:`of_dev` gave for the checkpoint that was chosen, as plain data; ``None``, with a warning, where its
    scale is not above 0."""
    fitted = Calibration.read(plain)
    if fitted is None or fitted.scale > 0:
        return fitted
    log.warning("scores on dev are no higher where they should be: there is no calibration")
    return None


def apply(evaluation: Evaluation, calibration: Calibration | None) -> None:
    """Add the metrics of calibrated scores to an evaluation, in place, and give its items the calibration.

    ``<metric>_calibrated`` is added to each set of ``evaluation.sets`` for each of its metrics for which such a one is
    declared.

    Args:
        evaluation: of test.
        calibration: fitted on dev; ``None``: nothing is changed.
    """
    if calibration is None or not evaluation.sets:
        return
    for name, items in evaluation.sets.items():
        calibrated, values = _with(items, calibration), evaluation.metrics[name]
        for declared in [metrics.METRICS[metric + SUFFIX] for metric in values if metric + SUFFIX in metrics.METRICS]:
            value = metrics.compute(declared, calibrated)
            if value is not None:
                values[declared.name] = value
    if evaluation.items is not None and "test" in evaluation.sets:
        evaluation.items = _with(evaluation.items, calibration)


def _with(items: Any, calibration: Calibration) -> Any:
    return replace(items, calibration=calibration)


def bayes_errors(items: Any, title: str) -> Figure:
    """The actual DCF of trials over the prior, before and after calibration, beside the minimum.

    The normalised Bayes error-rate plot of the BOSARIS toolkit (Brümmer & de Villiers, 2011). What lies above the
    minimum is the cost of bad calibration, and above 1 trials had better all be rejected, or all accepted.

    Args:
        items: trials with a calibration.
        title: above the axes.
    """
    from benchmark import plots

    curve = det_curve(items.labels, items.scores)
    log_odds = np.linspace(-8, 8, 161)
    miss, alarm = 1 / (1 + np.exp(-log_odds)), 1 / (1 + np.exp(log_odds))  # the priors
    rejecting = np.minimum(miss, alarm)

    def actual(thresholds: Floats) -> Floats:
        """Of accepting at and above a threshold for each prior."""
        at = np.searchsorted(-curve.thresholds, -thresholds, side="right") - 1
        return np.asarray((miss * curve.p_miss[at] + alarm * curve.p_fa[at]) / rejecting)

    map_ = items.calibration
    least = [float(np.min(m * curve.p_miss + a * curve.p_fa)) for m, a in zip(miss, alarm, strict=True)]
    figure = plots.Figure(6.4, 4.6)
    axes = figure.subplots()
    axes.plot(log_odds, actual(-log_odds), ":", color="#d55e00", label="scores as they are")
    axes.plot(log_odds, actual((-log_odds - map_.offsets[0]) / map_.scale), color="#0072b2", label="calibrated on dev")
    axes.plot(log_odds, least / rejecting, "--", color="black", linewidth=1, label="minimum")
    axes.axhline(1, color="grey", linewidth=0.8)
    for prior in (0.01, 0.05):
        axes.axvline(np.log(prior / (1 - prior)), color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_ylim(0, 1.4)
    axes.set_xlim(log_odds[0], log_odds[-1])
    axes.set_xlabel("log-odds of the prior of a target (grey: 0.01 and 0.05)")
    axes.set_ylabel("normalised DCF")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    return figure


# --- What is declared -------------------------------------------------------------------------------------------------


def _as_they_are(items: Any) -> Any:
    """The scores of trials, or the log-posteriors of classes; ``None``: there are none, or one class alone."""
    if items.kind != "classes":
        return getattr(items, "scores", None)
    return None if items.llrs is None or len(np.unique(items.references)) < 2 else items.log_posteriors


def _calibrated(items: Any) -> Any:
    scores = _as_they_are(items)
    return None if items.calibration is None or scores is None else items.calibration(scores)


def _declare(name: str, label: str, unit: str = "", **of: Callable[[Any, Any], float]) -> None:
    """Declare a cost of scores as they are, where it is not declared yet, and of calibrated ones."""

    def computed(metric: Callable[[Any, Any], float], scores: Callable[[Any], Any]) -> Callable[[Any], float | None]:
        def compute(items: Any) -> float | None:
            given = scores(items)
            truth = items.labels if items.kind == "trials" else items.references
            return None if given is None else metric(truth, given)

        return compute

    for suffix, words, scores in (("", "", _as_they_are), (SUFFIX, ", calibrated", _calibrated)):
        if name + suffix not in metrics.METRICS:
            computes = {kind: computed(metric, scores) for kind, metric in of.items()}
            standard = ("trials",) if not suffix and "trials" in of else ()
            metrics.declare(Metric(name + suffix, label + words, unit, compute=computes, standard=standard))


_declare("act_dcf_p01", "actual DCF (P = 0.01)", trials=lambda labels, llrs: act_dcf(labels, llrs, 0.01))
_declare("act_dcf_p05", "actual DCF (P = 0.05)", trials=lambda labels, llrs: act_dcf(labels, llrs, 0.05))
_declare("cllr", "Cllr", "bit", trials=cllr, classes=multiclass_cllr)
_declare("cavg", "Cavg", classes=lambda references, logs: metrics.cavg(references, metrics.detection_llrs(logs)))
metrics.declare(
    Metric(
        "min_cllr", "min. Cllr", "bit", compute={"trials": lambda t: min_cllr(t.labels, t.scores)}, standard=("trials",)
    )
)
