"""What a page is put together from: pictures, tables, and how numbers with intervals are written."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmark import statistics as stats
from benchmark.report.collect import Run
from benchmark.tables import Table, number_text


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    name: str
    png: bytes
    caption: str
    """How it was made: settings, seeds, commit. Folded under the figure."""
    alt: str
    """What it shows, in words and numbers, for those who do not see it."""

    def html(self) -> str:
        """With the picture inside the page."""
        data = base64.b64encode(self.png).decode()
        return (
            f'<figure class="picture"><img src="data:image/png;base64,{data}" alt="{escape(self.alt)}">'
            f"<figcaption>{about('figure', self.caption)}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Sheet:
    """A table of the files, and the narrower one that the page shows of it."""

    table: Table
    shown: Table

    def html(self) -> str:
        """The narrow one, with the caption of the whole one folded under it."""
        return self.shown.html(about("table", self.table.caption))


def about(what: str, text: str) -> str:
    """A caption, folded."""
    return f'<details class="about"><summary>About this {what}</summary><p>{escape(text)}</p></details>' if text else ""


def folded(title: str, body: str) -> str:
    """Part of a page that opens on request, and on paper."""
    return f"<details><summary>{escape(title)}</summary>\n{body}</details>"


def listed(texts: Sequence[str]) -> str:
    """Sentences as a list."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in texts)}</ul>"


def capital(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]


def identifier(text: str) -> str:
    """ASCII letters, digits and ``_``, for names of files and ids of sections."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


def sources(runs: Sequence[Run]) -> str:
    """What a figure or table shows: upstreams, protocols, budgets, seeds, commits, search."""

    def names(values: Iterable[Any]) -> str:
        return ", ".join(map(str, dict.fromkeys(values)))

    protocols = names(f"{r.cell.task} v{r.result['downstream']['protocol_version']}" for r in runs)
    searched = {len(run.outcome["tried"]) for run in runs if run.outcome}
    tried = "/".join(map(str, sorted(searched)))
    search = f" Best of {tried} candidates per cell on dev." if searched - {1} else ""
    return (
        f"Upstream {names(r.cell.upstream for r in runs)}; {protocols}; budgets "
        f"{names(r.cell.budget for r in runs)}; seeds {names(sorted({r.cell.seed for r in runs}))}; commit "
        f"{names(run.commit for run in runs)}.{search}"
    )


def ends(interval: stats.Interval | None) -> tuple[float | None, float | None]:
    """Of an interval, for the columns of a table."""
    return (None, None) if interval is None else (interval.low, interval.high)


def rounded(value: float, precision: float | None) -> str:
    """A number with the digits that mean something.

    Two of its uncertainty, but never more than three of its own; three where the uncertainty is unknown.

    >>> rounded(12.3456, 2.1), rounded(12.3456, 0.02), rounded(0.4321, 0.2), rounded(-3.2, 14.0)
    ('12.3', '12.3', '0.43', '−3')
    """
    if not precision or not math.isfinite(precision) or abs(value) < 1e-9:
        return number_text(value)
    decimals = 1 - math.floor(math.log10(precision))
    most = 2 - math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(0, min(decimals, most))}f}"
    return text.replace("-", "−") if text.strip("-0.") else "0"


def estimate(value: float, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """``12.3 [9.8, 15.1]``, all to the digits that the interval leaves; without an interval, the value alone.

    Args:
        value: the number.
        low: end of its interval, or ``None``.
        high: end of its interval, or ``None``.
        sign: write a plus before a positive value, as for differences.
    """
    half = (high - low) / 2 if low is not None and high is not None else None
    text = ("+" if sign and value > 0 else "") + rounded(value, half)
    return text if half is None else f"{text} {span(low, high)}"


def span(low: float | None, high: float | None) -> str:
    """``[9.8, 15.1]``; empty where there is no interval."""
    if low is None or high is None:
        return ""
    half = (high - low) / 2
    return f"[{_end(low, half)},\u00a0{_end(high, half)}]"


def _end(value: float, half: float) -> str:
    """A number that is not zero keeps a digit, so that an interval that excludes zero is seen to."""
    text = rounded(value, half)
    return number_text(float(f"{value:.1g}")) if text == "0" else text
