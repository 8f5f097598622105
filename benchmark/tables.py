"""Tables as text, Markdown, HTML, CSV and LaTeX, and how numbers are written in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Value = str | int | float | None
"""``None`` is shown as a dash."""


def number_text(value: float) -> str:
    """Three significant digits, or as many as there are before the point; with a true minus sign."""
    if abs(value) < 1e-9:  # a difference between values that are equal but for rounding
        text = "0"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    elif abs(value) >= 1:
        text = f"{value:#.3g}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class Table:
    """A table. Floats are rounded where it is read, and written in full as CSV."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    title: str = ""
    caption: str = ""
    """How it was made: settings, seeds, commit."""
    name: str = ""
    """Of its files."""

    def text(self) -> str:
        """Lines for a terminal: the first column to the left, the others to the right."""
        rows = [list(self.columns), *([_cell(value) for value in row] for row in self.rows)]
        width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = []
        for name, *cells in rows:
            aligned = [cell.rjust(size) for cell, size in zip(cells, widths, strict=True)]
            lines.append("  ".join([name.ljust(width), *aligned]))
        return "\n".join(lines)

    def markdown(self) -> str:
        """A Markdown table; cells may hold Markdown."""
        rows = [self.columns, *([_cell(value) for value in row] for row in self.rows)]
        head, *body = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
        return "\n".join([head, "|---" * len(self.columns) + "|", *body])

    def html(self, below: str = "") -> str:
        """A figure. Its first column heads the rows; each cell names its column, for pages that are too narrow to show
        rows as rows, and roles keep the table one for screen readers there.

        Args:
            below: HTML that follows the table; default: the caption.
        """
        kinds = ["number" if numeric else "text" for numeric in self._numeric()]
        head = "".join(
            f'<th scope="col" role="columnheader" class="{kind}">{escape(column)}</th>'
            for column, kind in zip(self.columns, kinds, strict=True)
        )
        rows = (
            "".join(
                _html_cell(column, value, kind, heads=index == 0)
                for index, (column, value, kind) in enumerate(zip(self.columns, row, kinds, strict=True))
            )
            for row in self.rows
        )
        body = "".join(f'<tr role="row">{row}</tr>' for row in rows)
        caption = below or escape(self.caption)
        title = f"<b>{escape(self.title)}</b>" if self.title else ""
        return (
            f'<figure class="table"><figcaption>{title}</figcaption>'
            f'<table role="table" class="{"narrow" if len(self.columns) <= 4 else "wide"}" '
            f'aria-label="{escape(self.title)}">'
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
            f'<tbody role="rowgroup">{body}</tbody></table><div class="soft">{caption}</div></figure>'
        )

    def csv(self) -> str:
        """Comma-separated, with a header; unknown values are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if value is None else value for value in row] for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """A table environment for the package booktabs."""
        lines = [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(f'{self.title} {self.caption}'.strip())}}}",
            rf"\begin{{tabular}}{{{''.join('r' if numeric else 'l' for numeric in self._numeric())}}}",
            r"\toprule",
            " & ".join(map(_tex, self.columns)) + r" \\",
            r"\midrule",
            *(" & ".join(_tex(_cell(value)) for value in row) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _numeric(self) -> list[bool]:
        return [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]


def _cell(value: Value) -> str:
    if value is None:
        return "–"
    return number_text(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


_FIGURES = tuple("0123456789+−<>≤")
"""What text begins with that narrow pages do not break within a word."""


def _html_cell(column: str, value: Value, kind: str, *, heads: bool) -> str:
    if isinstance(value, str):
        kind = "long" if len(value) > 30 else "figures" if value[:1] in _FIGURES else "text"
    label = f' data-label="{escape(column)}"' if column else ""
    if heads:
        return f'<th scope="row" role="rowheader" class="{kind}"{label}>{escape(_cell(value))}</th>'
    return f'<td role="cell" class="{kind}"{label}>{escape(_cell(value))}</td>'


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "×": r"$\times$"}
_TEX |= {sign: rf"\{sign}" for sign in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "≤": r"$\le$"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)
