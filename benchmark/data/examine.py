"""What the audio of utterances is like: its headers and, decoded, whether it is complete, finite, silent or clipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmark.data import headers
from benchmark.data.decode import Stretches, decode_all
from benchmark.interfaces import LABEL_FIELDS, Seconds, Utterance
from benchmark.tables import Table


@dataclass
class Report:
    """What the audio of an utterance is like."""

    seconds: Seconds | None = None
    """``None``: it cannot be used."""
    format: str = ""
    """``16000 Hz, 1 channel``."""
    problems: list[str] = field(default_factory=list)


def examine(
    utterances: Sequence[Utterance], *, decode: bool = False, workers: int | None = None, clipped: float = 0.01
) -> list[Report]:
    """Read the headers of all audio, and decode it if asked to, in parallel.

    A file is read once, however many utterances lie in it. Of a file that cannot be read as a whole, the first
    utterance reports it for all.

    Args:
        utterances: whose audio to look at.
        decode: decode it as well: all samples there, finite, not all the same, not clipped.
        workers: threads that read headers (default: 8), processes that decode (default: one per core).
        clipped: the share of samples at full scale above which this is a problem.

    Returns:
        A report per utterance.

    Raises:
        BenchmarkError: a worker process died.
    """
    by_file: dict[str, list[int]] = {}
    for index, utterance in enumerate(utterances):
        by_file.setdefault(utterance.path, []).append(index)
    found = headers.read(by_file, workers=workers or 8)
    reports = [Report() for _ in utterances]
    usable: list[int] = []
    stretches: list[Stretches] = []
    for path, indices in by_file.items():
        header = found[path]
        if isinstance(header, str):
            several = f" ({len(indices):,} utterances of it)" if len(indices) > 1 else ""
            reports[indices[0]].problems.append(f"utterance {utterances[indices[0]].id}: {path} {header}{several}")
            continue
        stretches.append((path, header.rate, header.pieces, []))
        for index in indices:
            reports[index].format = header.format
            try:
                span = headers.span(utterances[index], header.frames, header.rate)
            except headers.AudioError as error:
                reports[index].problems.append(str(error))
            else:
                reports[index].seconds = span[1] / header.rate
                usable.append(index)
                stretches[-1][3].append(span)
    if decode:
        for index, problems in zip(usable, decode_all(stretches, clipped, workers), strict=True):
            name = f"utterance {utterances[index].id}: {utterances[index].path}"
            reports[index].problems += [f"{name} {problem}" for problem in problems]
    return reports


# --------------------------------------------------------------------------------------------------------- summaries


def usable(splits: Mapping[str, Sequence[Utterance]], reports: Sequence[Report]) -> dict[str, list[Utterance]]:
    """The utterances whose audio can be used, with their durations; splits without any are left out.

    Args:
        splits: by name.
        reports: of all utterances, split after split.
    """
    remaining = iter(reports)
    kept = {
        name: [replace(u, duration=report.seconds) for u in utterances if (report := next(remaining)).seconds]
        for name, utterances in splits.items()
    }
    return {name: utterances for name, utterances in kept.items() if utterances}


def summary(splits: Mapping[str, Sequence[Utterance]], reports: Sequence[Report], labels: Sequence[str] = ()) -> str:
    """A table of the splits (utterances, hours, numbers of speakers, languages and values of other labels, quantiles of
    durations, which must be known) and the formats of their audio."""
    others = [name for name in dict.fromkeys(labels) if name not in LABEL_FIELDS]
    rows = []
    for name, utterances in splits.items():
        seconds = np.array([utterance.duration for utterance in utterances], dtype=np.float64)
        values = [{u.label(label) for u in utterances} - {None} for label in ("speaker", "language", *others)]
        quantiles = [f"{q:.2f}" for q in np.quantile(seconds, [0, 0.05, 0.5, 0.95, 1])]
        hours = f"{seconds.sum() / 3600:,.2f}"
        rows.append([name, len(utterances), hours, *(len(found) or None for found in values), *quantiles])
    columns = ["split", "utterances", "hours", "speakers", "languages", *others]
    table = Table([*columns, "min s", "5 %", "median", "95 %", "max s"], rows).text()
    counts = Counter(report.format for report in reports if report.format)
    note = "; channels are averaged, rates converted when loading" if len(counts) > 1 else ""
    formats = "; ".join(f"{name}: {count:,} utterances" for name, count in counts.most_common())
    return f"{table}\naudio: {formats}{note}"
