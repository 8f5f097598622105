"""Figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmark.files import write_atomically


def layer_weights(path: Path, result: Mapping[str, Any]) -> None:
    """Softmax weights beside each state's share of the summed feature's norm; see ``featurizer.StateStatistics``."""
    weights: Sequence[float] = result["layer_weights"]
    shares: Sequence[float] = result["layer_shares"]
    norms: Sequence[float] = result["layer_norms"]
    states = range(len(weights))
    size = (max(6.4, 0.42 * len(weights) + 2), 5.6)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=size, sharex=True, height_ratios=[3, 1.3], layout="constrained")
    top.bar([k - 0.2 for k in states], weights, 0.4, label="softmax weight", color="#4c72b0")
    top.bar([k + 0.2 for k in states], shares, 0.4, label="share of the summed feature's norm", color="#dd8452")
    top.axhline(1 / len(weights), color="grey", linewidth=0.8, linestyle="--", label="uniform")
    top.axhline(0, color="black", linewidth=0.8)
    top.set_ylabel("share")
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside lower center")
    metrics = result["metrics"].get("test", {})
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    figure.suptitle(
        f"{result['upstream']['name']} × {result['downstream']['name']}, {result['regime']}, seed {result['seed']}\n"
        f"test: {shown}",
        fontsize=10,
    )
    bottom.bar(states, norms, 0.8, color="#8c8c8c")
    bottom.set_ylabel("mean L2 norm")
    bottom.set_xlabel("state (0: input of the first block; last: output of the encoder)")
    bottom.set_xticks(list(states))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))
    finally:
        plt.close(figure)
