"""Uncertainty of results (:mod:`~benchmark.statistics.bootstrap`) and curves over budgets (``curves``)."""

from benchmark.statistics.bootstrap import (
    LEVEL,
    REPLICATES,
    Comparison,
    Interval,
    SeedSpread,
    Statistic,
    Summary,
    compare,
    error_rates,
    identification,
    seed_spread,
    summarise,
    verification,
)
from benchmark.statistics.curves import (
    Area,
    Crossover,
    Curve,
    Multiplier,
    Target,
    area,
    crossovers,
    label_multiplier,
    labels_to_target,
    learning_curve,
)

__all__ = [
    "LEVEL", "REPLICATES", "Area", "Comparison", "Crossover", "Curve", "Interval", "Multiplier", "SeedSpread",
    "Statistic", "Summary", "Target", "area", "compare", "crossovers", "error_rates", "identification",
    "label_multiplier", "labels_to_target", "learning_curve", "seed_spread", "summarise", "verification",
]  # fmt: skip
