"""Rows of ``bench.py``, as a CSV file, a table and a chart."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from common import commit
from peers import LOADERS

from benchmark.plots import Figure, png
from benchmark.tables import Table


@dataclasses.dataclass
class Row:
    """One measurement."""

    part: str
    what: str
    way: str
    value: float | None
    """Median; ``None``: not measured, and ``note`` says why."""
    unit: str
    values: Sequence[float] = ()
    """Of each round."""
    processor: float | None = None
    """Median seconds of processor time of all threads, which other work on the machine disturbs less."""
    note: str = ""
    ratio: float | None = None
    """To ours in the same group: above 1, ours is faster or smaller."""


def add_ratios(rows: Sequence[Row]) -> None:
    """Each peer over ours in the same group. In the part ``run``, over ours with the feature store empty."""
    for row in rows:
        if row.value is None or row.unit not in ("s", "GB"):
            continue
        own = [one for one in rows if (one.part, one.what) == (row.part, row.what) and one.way.startswith("ours")]
        row.ratio = row.value / own[0].value if own and own[0].value and row is not own[0] else None


def about() -> dict[str, str]:
    """What was measured, on what."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
        model = known.get("model name", model)
        if "cpu family" in known:  # clouds hide the name of an AMD EPYC
            model += f" (family {known['cpu family']}, model {known.get('model', '?')})"
    found = {
        "commit": commit() or "unknown", "machine": f"{model}, {torch.get_num_threads()} threads",
        "load": f"{os.getloadavg()[0]:.1f}", "torch": torch.__version__,
    }  # fmt: skip
    for name in ("transformers", "torchaudio", "s3prl", "fairseq"):
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "installed"))
        except Exception:  # whatever it raises: the rows say so
            found[name] = "missing"
    return found


def write(rows: Sequence[Row], folder: Path) -> None:
    """``bench.csv``, ``bench.md``, ``bench.png``."""
    add_ratios(rows)
    facts = about()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "what", "way", "value", "unit", "ratio", "processor", "rounds", "note", *facts])
        for row in rows:
            rounds = " ".join(f"{value:.6g}" for value in row.values)
            number, ratio = ("" if one is None else f"{one:.6g}" for one in (row.value, row.ratio))
            busy = "" if row.processor is None else f"{row.processor:.6g}"
            writer.writerow(
                [row.part, row.what, row.way, number, row.unit, ratio, busy, rounds, row.note, *facts.values()]
            )
    cells = [[row.what, row.way, "" if row.value is None else f"{row.value:.3g} {row.unit}",
              "" if row.ratio is None else f"{row.ratio:.2f}", row.note] for row in rows]  # fmt: skip
    table = Table(["what", "", "median", "times ours", "note"], cells).markdown()
    text = ", ".join(f"{name} {value}" for name, value in facts.items())
    (folder / "bench.md").write_text(f"{table}\n\n{text}\n", encoding="utf-8")
    chart(rows, folder / "bench.png")


def chart(rows: Sequence[Row], path: Path) -> None:
    """How many times our time the peers take."""
    shown = [(row, row.ratio) for row in rows if row.ratio is not None and row.way in LOADERS and row.part != "start"]
    figure = Figure(7, 0.6 + 0.24 * max(len(shown), 1))
    axes = figure.subplots()
    labels = [f"{row.what}: {row.way}{' (extrapolated)' * row.note.startswith('extrapolated')}" for row, _ in shown]
    bars = axes.barh(range(len(shown)), [ratio - 1 for _, ratio in shown], left=1, color="#4477aa")  # from 1 on
    axes.bar_label(
        bars, [f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}" for _, ratio in shown], padding=2, fontsize=7
    )
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("times ours (1: the same time or memory)", fontsize=8)
    path.write_bytes(png(figure))
