"""The confusion of classes, as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from benchmark import metrics, plots
from benchmark.files import Content


def confusion_files(
    file: str, references: NDArray[Any], predictions: NDArray[Any], names: Sequence[str], title: str
) -> dict[str, Content]:
    """A confusion matrix of the classes ``names`` as ``<file>.csv`` and ``<file>.png``."""
    matrix = metrics.confusion_matrix(references, predictions, len(names))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["reference", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    return {f"{file}.csv": table.getvalue(), f"{file}.png": lambda: plots.png(plots.confusion(matrix, names, title))}
