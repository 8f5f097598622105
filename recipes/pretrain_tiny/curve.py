"""Draw training curves: of ``distill.py``, of ``recipes/pretrain_bestrq`` and of fairseq's contrastive training.

    python -m recipes.pretrain_tiny.curve results/distill/distill.csv recipes/pretrain_tiny/distill.png
    python -m recipes.pretrain_tiny.curve results/bestrq/curve.csv recipes/pretrain_bestrq/curve.png
    python -m recipes.pretrain_tiny.curve results/contrastive.log recipes/pretrain_tiny/contrastive.png

The values are written as a CSV file beside the picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from pathlib import Path

from benchmark.errors import BenchmarkError

Rows = list[dict[str, str]]
Panels = dict[str, dict[str, str]]
"""Title -> column -> label."""

FAIRSEQ = ["update", "lr", "loss", "loss_0", "accuracy", "code_perplexity", "prob_perplexity", "temp", "gnorm"]
"""What is kept of fairseq's log; ``loss_0`` is the contrastive loss in bits."""


def read_log(path: Path) -> Rows:
    """The ``train_inner`` lines of fairseq's JSON log."""
    rows = []
    for match in re.finditer(r"\[train_inner\]\[INFO\] - (\{.*\})", path.read_text()):
        values = json.loads(match[1])
        rows.append({name: values.get("num_updates" if name == "update" else name, "") for name in FAIRSEQ})
    return rows


def read(path: Path) -> Rows:
    """A CSV file's rows, or those of fairseq's log.

    Raises:
        BenchmarkError: there are none.
    """
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = read_log(path)
    if not rows:
        raise BenchmarkError(f"{path} has no values: expected a curve's .csv, or fairseq's log with log_format=json")
    return rows


def panels_of(columns: list[str]) -> Panels:
    """What to draw of a curve's columns."""
    if "loss_0" in columns:
        return {
            "contrastive loss (bit)": {"loss_0": "training"},
            "accuracy among the negatives": {"accuracy": "training"},
            "perplexity of codes": {"code_perplexity": "hard", "prob_perplexity": "soft"},
        }
    if "speaker" in columns:
        held_out = [name for name in columns if name.startswith("valid_")]

        def of(kind: str) -> dict[str, str]:
            return {name: f"state {name.rsplit('_', 1)[1]}" for name in held_out if name.startswith(f"valid_{kind}_")}

        return {
            "loss": {"total": "training", "valid_total": "held out"},
            "held out: frames": of("frame"),
            "held out: clips and speaker": {**of("clip"), "valid_speaker": "speaker"},
        }
    return {
        "loss at masked frames (nat)": {"loss": "training", "valid_loss": "held out"},
        "accuracy of codes": {"accuracy": "training", "valid_accuracy": "held out"},
        "perplexity of codes": {"code_perplexity": "training"},
    }


def draw(rows: Rows, panels: Panels, path: Path) -> None:
    """A panel each, over updates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained", squeeze=False)
    for axis, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for column, label in columns.items():
            points = [(int(row["update"]), float(row[column])) for row in rows if row.get(column)]
            axis.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        axis.set(title=title, xlabel="update")
        axis.grid(alpha=0.3)
        if len(columns) > 1:
            axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    """``python -m recipes.pretrain_tiny.curve SOURCE PICTURE``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="distill.csv, curve.csv of BEST-RQ, or fairseq's log")
    parser.add_argument("picture", type=Path, help="a .png; a .csv of the same name lands beside it")
    options = parser.parse_args()
    try:
        rows = read(options.source)
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with options.picture.with_suffix(".csv").open("w", newline="") as file:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, panels_of(list(rows[0])), options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
