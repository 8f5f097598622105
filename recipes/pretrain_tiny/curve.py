"""Draw the training curves: of ``pretrain.py``, from its folder, and of fairseq's contrastive training, from its log.

    python -m recipes.pretrain_tiny.curve results/pretrain_tiny recipes/pretrain_tiny/curve.png
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


def read_stages(folder: Path) -> Rows:
    """``stageK/curve.csv`` one after the other, their updates counted on."""
    rows: Rows = []
    for path in sorted(folder.glob("stage*/curve.csv")):
        before = int(rows[-1]["update"]) if rows else 0
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows.append({"stage": path.parent.name, **row, "update": str(before + int(row["update"]))})
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
    parser.add_argument("source", type=Path, help="the folder that pretrain.py wrote, or fairseq's log")
    parser.add_argument("picture", type=Path, help="a .png; a .csv of the same name lands beside it")
    options = parser.parse_args()
    if options.source.is_dir():
        rows = read_stages(options.source)
        codebooks = [name for name in rows[0] if name.startswith("valid_accuracy_")]
        panels = {
            "loss at masked frames (nat)": {"loss": "training", "valid_loss": "validation"},
            "validation accuracy of frame codes": {
                name: f"{name[-1]}, less the {('utterance', 'set')[k % 2]}'s mean" for k, name in enumerate(codebooks)
            },
            "learning rate": {"lr": "learning rate"},
        }
    else:
        rows = read_log(options.source)
        panels = {
            "contrastive loss (bit)": {"loss_0": "training"},
            "accuracy among the negatives": {"accuracy": "training"},
            "perplexity of codes": {"code_perplexity": "hard", "prob_perplexity": "soft"},
        }
    with options.picture.with_suffix(".csv").open("w", newline="") as file:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, panels, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
