"""Uncertainty of results, and curves over label budgets; docs/statistics.md explains them."""

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
from benchmark.statistics.intervals import (
    LEVEL,
    REPLICATES,
    Comparison,
    Interval,
    SeedSpread,
    Summary,
    compare,
    seed_spread,
    summarise,
)
from benchmark.statistics.statistic import Statistic, error_rates, identification, of, verification

__all__ = [
    "LEVEL", "REPLICATES", "Area", "Comparison", "Crossover", "Curve", "Interval", "Multiplier", "SeedSpread",
    "Statistic", "Summary", "Target", "area", "compare", "crossovers", "error_rates", "identification",
    "label_multiplier", "labels_to_target", "learning_curve", "of", "seed_spread", "summarise", "verification",
]  # fmt: skip
