"""Draw the training curves: ``curve.csv`` of ``pretrain.py``, and the log of fairseq's contrastive training.

    python -m recipes.pretrain_tiny.curve results/pretrain_tiny/curve.csv recipes/pretrain_tiny/curve.png
    python -m recipes.pretrain_tiny.curve results/contrastive.log recipes/pretrain_tiny/contrastive.png

Of a log, the values are written as a CSV file beside the picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from pathlib import Path

Rows = list[dict[str, str]]

FAIRSEQ = ["update", "lr", "loss", "loss_0", "accuracy", "code_perplexity", "prob_perplexity", "temp", "gnorm"]
"""What is kept of fairseq's log; ``loss_0`` is the contrastive loss in bits."""


def read_log(path: Path) -> Rows:
    """The ``train_inner`` lines of fairseq's JSON log."""
    rows = []
    for match in re.finditer(r"\[train_inner\]\[INFO\] - (\{.*\})", path.read_text()):
        values = json.loads(match[1])
        rows.append({name: values.get("num_updates" if name == "update" else name, "") for name in FAIRSEQ})
    return rows


def draw(rows: Rows, panels: dict[str, dict[str, str]], path: Path) -> None:
    """A panel each, over updates; ``panels``: title -> column -> label."""
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
    parser.add_argument("source", type=Path, help="curve.csv, or fairseq's log")
    parser.add_argument("picture", type=Path, help="a .png; a .csv of the same name lands beside it")
    options = parser.parse_args()
    table = options.picture.with_suffix(".csv")
    if options.source.suffix == ".csv":
        if options.source.resolve() != table.resolve():
            shutil.copyfile(options.source, table)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        codebooks = sum(name.startswith("accuracy_") for name in rows[0])
        kinds = ("utterance", "set")
        panels = {
            "loss at masked frames (nat)": {"loss": "training", "valid_loss": "validation"},
            "validation accuracy of codes": {
                f"valid_accuracy_{k}": f"codebook {k}, normalised by {kinds[k % 2]}" for k in range(codebooks)
            },
            "learning rate": {"lr": "learning rate"},
        }
    else:
        rows = read_log(options.source)
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, FAIRSEQ, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        panels = {
            "contrastive loss (bit)": {"loss_0": "training"},
            "accuracy among the negatives": {"accuracy": "training"},
            "perplexity of codes": {"code_perplexity": "hard", "prob_perplexity": "soft"},
        }
    draw(rows, panels, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
