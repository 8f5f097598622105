"""The page of a report: one HTML file that loads nothing else, with its tables and figures as files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from omegaconf import OmegaConf

from benchmark import statistics as stats
from benchmark.files import write_bytes, write_text
from benchmark.report.collect import Gathered, gather
from benchmark.report.compare import Bootstrap, Contrast, TaskView, tasks
from benchmark.report.exhibits import Picture, every_run, glance, identifier, targets, task_section, weights
from benchmark.report.sentences import (
    duration_text,
    sentences,
    sentences_on_compositions,
    sentences_on_layers,
    sentences_without_contrasts,
)
from benchmark.tables import Table, Value, plural

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; color: #1b1b1b; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; border-bottom: 1px solid #bbb; margin-top: 2.2rem; }
h3 { font-size: 1.05rem; margin-bottom: .3rem; }
figure { margin: 1.4rem 0; } figcaption { font-size: .85rem; color: #444; margin: .3rem 0; max-width: 50rem; }
img { display: block; max-width: min(100%, 36rem); height: auto; } p, li { max-width: 50rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top;
  min-width: 3.2rem; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } td.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th.number { text-align: right; } td:last-child:not(.number), td.long { min-width: 11rem; }
.note { border-left: 4px solid #d55e00; background: #fff6ef; padding: .5rem .9rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .6rem; font-size: .8rem; }
nav a { margin-right: .8rem; white-space: nowrap; display: inline-block; } a { color: #00558c; }
@media (max-width: 40rem) { body { padding: .7rem; } h1 { font-size: 1.3rem; } }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  figure, li { break-inside: avoid; } h2, h3 { break-after: avoid; } figure.table { break-inside: auto; }
  tr { break-inside: avoid; } .scroll { overflow: visible; } img { max-height: 11cm; max-width: 65%; }
  table { font-size: 7pt; width: 100%; } th, td { padding: .1rem .25rem; min-width: 0; }
  td:last-child:not(.number), td.long { min-width: 0; } td.number { white-space: normal; }
}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page loads nothing: browsers refuse whatever is not in it."""


@dataclass
class Report:
    """A page with its parts."""

    page: str
    tables: list[Table]
    pictures: list[Picture]


def make(folders: Sequence[Path], *, title: str | None = None, replicates: int = stats.REPLICATES) -> Report:
    """The report of some results folders.

    Args:
        folders: of studies, or of runs.
        title: of the page; default: the studies' names.
        replicates: of the bootstrap.

    Raises:
        BenchmarkError: as :func:`benchmark.report.collect.gather`.
    """
    gathered = gather(folders)
    bootstrap = Bootstrap(replicates)
    views = tasks(gathered, bootstrap)
    questions = {study.name: study.question for study in gathered.studies.values()}
    title = title or f"wavbench: {', '.join(questions) or 'results'}"
    tables: list[Table] = []
    pictures: list[Picture] = []

    def show(parts: Iterable[Table | Picture | None]) -> str:
        shown = []
        for part in parts:
            if part is not None:
                (tables if isinstance(part, Table) else pictures).append(part)  # type: ignore[arg-type]
                shown.append(part.html())
        return "\n".join(shown)

    sections: list[tuple[str, str, str]] = [("answer", "The answer", _answer(gathered, views) + show([glance(views)]))]
    for view in views:
        body = show(task_section(view, bootstrap, gathered.notices))
        sections.append((f"task-{identifier(view.name)}", view.name, _introduction(view) + body))
    pictures_of_weights, table_of_weights = weights(views)
    tables += table_of_weights  # long: not on the page
    layered = show(pictures_of_weights)
    if layered:
        sections.append(("weights", "Which layers are used", layered))
    published = targets(gathered, views)
    if published is not None:
        sections.append(("targets", "Published results", show([published])))
    sections.append(("cells", "What was run", _completeness(gathered, show)))
    tables.append(every_run(gathered))
    sections.append(("settings", "Settings", _settings(gathered)))
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "\n".join(f'<section id="{key}"><h2>{escape(name)}</h2>\n{text}</section>' for key, name, text in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>
{"".join(f"<p>{escape(question)}</p>" for question in questions.values() if question)}
<nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""
    return Report(page, tables, pictures)


def _answer(gathered: Gathered, views: Sequence[TaskView]) -> str:
    parts = []
    if gathered.synthetic:
        parts.append(
            '<p class="note"><b>Synthetic data.</b> These results were measured on speech generated by a program. '
            "They show that the tools work and say nothing about real speech.</p>"
        )
    if gathered.absent:
        parts.append(
            f'<p class="note"><b>Incomplete.</b> {len(gathered.absent)} of {len(gathered.absent) + len(gathered.runs)} '
            'cells have no result: see <a href="#cells">what was run</a>.</p>'
        )
    for view in views:
        texts = sentences_on_compositions(view)
        if not view.contrasts:
            texts += sentences_without_contrasts(view)
        foremost = [sentences(view, contrast) for contrast in view.contrasts if _foremost(view, contrast)]
        for about_contrast in foremost or (sentences(view, contrast)[:1] for contrast in view.contrasts):
            texts += about_contrast
        texts += sentences_on_layers(view)
        once = list(dict.fromkeys(texts))  # with all labels, curves over budgets of any kind give the same sentence
        parts.append(f"<h3>{escape(view.name)}</h3>{_list(once)}")
    return "\n".join(parts)


def _foremost(view: TaskView, contrast: Contrast) -> bool:
    """Whether a comparison is between two regimes of the first upstream that has two: what the page begins with.

    Each of the others has a line in the table below, and sentences in the task's section.
    """
    within = [other.first.upstream for other in view.contrasts if other.first.upstream == other.second.upstream]
    return contrast.first.upstream == contrast.second.upstream == next(iter(within), None)


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in texts)}</ul>"


def _introduction(view: TaskView) -> str:
    test = view.runs[0].result["data"]["test"]
    text = f"{view.metric.axis}. Test set: {test['utterances']:,} utterances, {duration_text(test['seconds'])}"
    text += f", {test['speakers']:,} speakers." if test["speakers"] else "."
    parts = [f"<p>{escape(text)}</p>"]
    for contrast in view.contrasts:
        if not _foremost(view, contrast):
            title = f"{contrast.second.name} against {contrast.first.name}"
            parts.append(f"<details><summary>{escape(title)}</summary>{_list(sentences(view, contrast))}</details>")
    return "\n".join(parts)


def _completeness(gathered: Gathered, show: Callable[[Iterable[Table | Picture | None]], str]) -> str:
    parts = [
        f"<p>{plural(len(gathered.runs), 'cell')} with a result, {len(gathered.absent)} without. The folder of tables "
        "beside this page holds all its tables, and every run with all metrics and costs, as CSV and LaTeX.</p>"
    ]
    if gathered.absent:
        rows: list[list[Value]] = [
            [cell.upstream, cell.task, cell.regime, None if cell.layer is None else str(cell.layer), cell.budget,
             str(cell.seed), why]
            for cell, why in gathered.absent.items()
        ]  # fmt: skip
        columns = ["upstream", "task", "regime", "layer", "budget", "seed", "why"]
        parts.append(show([Table(columns, rows, "Cells without a result.", name="absent")]))
    if gathered.notices:
        parts.append(f"<h3>Notices</h3>{_list(gathered.notices)}")
    return "\n".join(parts)


def _settings(gathered: Gathered) -> str:
    runs = list(gathered.runs.values())
    started = sorted(run.result["provenance"]["started"] for run in runs)
    facts = {
        "Commits": dict.fromkeys(run.commit for run in runs),
        "Devices": dict.fromkeys(run.result["provenance"]["device"] for run in runs),
        "Started": [started[0], started[-1]] if started[0] != started[-1] else started[:1],
        "Versions": dict.fromkeys(
            ", ".join(f"{name} {version}" for name, version in run.result["provenance"]["versions"].items() if version)
            for run in runs
        ),
        "Commands": dict.fromkeys(run.result["provenance"]["command"] for run in runs),
    }
    listed = "".join(f"<dt><b>{name}</b></dt><dd>{'<br>'.join(map(escape, of))}</dd>" for name, of in facts.items())
    recipes = "".join(
        f"<details><summary>Recipe of {escape(root)}</summary><pre>"
        f"{escape(OmegaConf.to_yaml(OmegaConf.structured(study)))}</pre></details>"
        for root, study in gathered.studies.items()
    )
    method = (
        "<p>Budgets are nested and seeded; every regime tried the same number of candidates on dev; test was scored "
        "once, with the selected candidate. Intervals over the test set are BCa bootstrap intervals over clusters "
        "(speakers where they are known), of the mean over seeds; intervals over seeds are t-intervals. An interval "
        "marked as biased has a bootstrap bias above half its standard error and is less reliable than its level says. "
        "Curves are straight in the logarithm of the labels between budgets and are never extrapolated.</p>"
    )
    return f"{method}<dl>{listed}</dl>{recipes}"


def write(report: Report, output: Path) -> None:
    """Write ``<name>.html``, ``<name>_tables/*.{csv,tex}`` and ``<name>_figures/*.png``."""
    for table in report.tables:
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.csv", table.csv())
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.tex", table.latex())
    for picture in report.pictures:
        write_bytes(output.parent / f"{output.stem}_figures" / f"{picture.name}.png", picture.png)
    write_text(output, report.page)
