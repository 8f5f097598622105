"""The page of a report: one HTML file that loads nothing else, with its tables and figures as files beside it.

It begins with a picture and a sentence for each task, then come layers, ranks, what more labels would bring, and
tables. Detail is folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from omegaconf import OmegaConf

from benchmark import statistics as stats
from benchmark.errors import BenchmarkError
from benchmark.files import write_bytes, write_text
from benchmark.report import extrapolation, ranking, whom
from benchmark.report.collect import Gathered, gather
from benchmark.report.compare import Bootstrap, TaskView, tasks
from benchmark.report.details import detail
from benchmark.report.exhibits import BANDS, layer_picture, layer_table, overview
from benchmark.report.headline import foremost, headline, ranks_headline
from benchmark.report.overall import every_run, glance, targets, weights
from benchmark.report.parts import Picture, Sheet, capital, estimate, folded, identifier, listed, rounded
from benchmark.report.sentences import (
    OPTIMISTIC,
    duration_text,
    sentences,
    sentences_on_compositions,
    sentences_on_layers,
    sentences_without_contrasts,
)
from benchmark.report.style import document
from benchmark.tables import Table, Value, plural

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page loads nothing: browsers refuse whatever is not in it."""

Show = Callable[[Iterable[Table | Sheet | Picture | None]], str]
"""Parts of the page as HTML; their files are kept."""


@dataclass
class Report:
    """A page with its parts."""

    page: str
    tables: list[Table]
    pictures: list[Picture]
    stem: str = "report"
    """The name of the page without ``.html``, as links have it."""
    influence: whom.Whom | None = None
    """The page on single speakers."""


def make(
    folders: Sequence[Path], *, title: str | None = None, replicates: int = stats.REPLICATES, stem: str = "report",
    audio: bool = False, data_root: str | None = None,
) -> Report:  # fmt: skip
    """The report of some results folders.

    Args:
        folders: of studies, or of runs.
        title: of the page; default: the studies' names.
        replicates: of the bootstrap, for metrics whose intervals have no formula.
        stem: the name that the page will have, without ``.html``.
        audio: put clips of what single speakers said beside the page on them, where the data is at hand.
        data_root: where the data is now; default: where the runs found it.

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

    def show(parts: Iterable[Table | Sheet | Picture | None]) -> str:
        shown = []
        for part in parts:
            if part is None:
                continue
            if isinstance(part, Picture):
                pictures.append(part)
            else:
                table = part.table if isinstance(part, Sheet) else part
                tables.extend([table] if table.name else [])
            shown.append(part.html())
        return "\n".join(shown)

    influence = whom.of_views(
        views, gathered.notices, title=f"{title}: whom does it help?", stem=f"{stem}_whom", audio=audio,
        data_root=data_root, back=f"{stem}.html",
    )  # fmt: skip
    rankings = _rankings(views, bootstrap, gathered.notices)
    in_detail = [_task(view, rankings.get(view.name), bootstrap, gathered.notices, show) for view in views]
    sections = [
        ("answer", "The answer", _answer(gathered, views, bootstrap, show)),
        ("layers", "Layers", _layers(views, bootstrap, show, tables)),
        ("ranks", "Ranks", _ranks(views, rankings, show)),
        ("more", "More labels than were tried", _beyond(views, bootstrap, show)),
        ("whom", "Whom does it help?", _whom(influence, stem)),
        ("comparisons", "Comparisons", show([glance(views)])),
        ("tasks", "Tasks in detail", "\n".join(in_detail)),
        ("targets", "Published results", show([targets(gathered, views)])),
        ("cells", "What was run", _completeness(gathered, show)),
        ("settings", "Method and settings", _settings(gathered)),
    ]
    tables.append(every_run(gathered))
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "\n".join(f'<section id="{key}"><h2>{escape(name)}</h2>\n{text}</section>' for key, name, text in sections)
    asked = "".join(f"<p>{escape(question)}</p>" for question in questions.values() if question)
    page = document(title, asked, links, body, policy=_POLICY)
    return Report(page, tables, pictures, stem, influence)


def _panels(panels: Sequence[str], kind: str = "panels") -> str:
    inside = "\n".join(f'<article class="panel">{panel}</article>' for panel in panels if panel)
    return f'<div class="{kind}">\n{inside}\n</div>' if inside else ""


# --- The answer -------------------------------------------------------------------------------------------------------


def _answer(gathered: Gathered, views: Sequence[TaskView], bootstrap: Bootstrap, show: Show) -> str:
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
    of = {contrast.second.upstream_title for view in views for contrast in foremost(view)}
    known = {series.upstream for view in views for series in view.series}
    if len(of) == 1 and len(known) > 1:
        parts.append(f"<p>The sentences are about {escape(of.pop())}; the curves and tables show all upstreams.</p>")
    parts.append(_panels([_panel(view, bootstrap, show) for view in views]))
    parts.append(f'<p class="soft">{escape(BANDS)}</p>')
    return "\n".join(parts)


def _panel(view: TaskView, bootstrap: Bootstrap, show: Show) -> str:
    doubts = " ".join(sorted({note for note in _notes(view, bootstrap) if note.startswith("Too few")}))
    return (
        f'<h3>{escape(view.title)}</h3><p class="answer">{escape(headline(view))}</p>'
        f'{show([overview(view, bootstrap)])}<p class="soft">{escape(f"{_test_set(view)} {doubts}")} '
        f'<a class="more" href="#task-{identifier(view.name)}">More in detail</a></p>'
    )


def _notes(view: TaskView, bootstrap: Bootstrap) -> list[str]:
    """What the test set cannot show of the results with the most labels."""
    intervals = [bootstrap.summary(list(series.points[series.largest].values()))[0] for series in view.series]
    return [note for interval in intervals if interval is not None for note in interval.notes]


def _test_set(view: TaskView) -> str:
    test = view.runs[0].result["data"]["test"]
    seeds = len({run.cell.seed for run in view.runs})
    speakers = f"{plural(test['speakers'], 'speaker')}, " if test["speakers"] else ""
    length = f"{plural(test['utterances'], 'utterance')}, {duration_text(test['seconds'])}"
    return f"Test set: {speakers}{length}. {plural(seeds, 'seed').capitalize()}."


# --- Layers, ranks, speakers ------------------------------------------------------------------------------------------


def _layers(views: Sequence[TaskView], bootstrap: Bootstrap, show: Show, tables: list[Table]) -> str:
    panels = []
    for view in views:
        if not view.layers:
            continue
        picture = show([layer_picture(view, bootstrap)]) if view.series else ""  # else it stands at the top
        texts = " ".join(sentences_on_layers(view))
        panels.append(f'<h3>{escape(view.title)}</h3><p class="answer">{escape(texts)}</p>{picture}')
    heat_maps, table = weights(views)
    tables += table  # long: not on the page
    parts = [_panels(panels), f'<p class="soft">{OPTIMISTIC}</p>' if panels else ""]
    if heat_maps:
        parts.append(
            "<h3>Weights of the layers</h3>" + _panels([show([picture]) for picture in heat_maps], "panels broad")
        )
    return "\n".join(part for part in parts if part)


def _rankings(views: Sequence[TaskView], bootstrap: Bootstrap, notices: list[str]) -> dict[str, ranking.Ranking]:
    """By task, of those with two systems or more."""
    found = {}
    for view in views:
        if view.series and ranking.widest_budget(view) is not None:
            try:
                found[view.name] = ranking.ranks(view, None, bootstrap)
            except BenchmarkError as error:
                notices.append(f"No ranks: {error}.")
    return found


def _ranks(views: Sequence[TaskView], rankings: Mapping[str, ranking.Ranking], show: Show) -> str:
    panels = []
    for view in views:
        if view.name not in rankings:
            continue
        ranked = rankings[view.name]
        whole, _ = _rank_tables(view, ranked)
        rows: list[list[Value]] = []
        for place in ranked.ranks.places:
            interval = ranked.intervals[place.name]
            rows.append([str(place.rank), place.name, estimate(place.value, interval.low, interval.high), place.groups])
        shown = Table(["rank", "system", f"{view.metric.label} [95\u00a0%]", "group"], rows, whole.columns[2])
        panels.append(
            f'<h3>{escape(view.title)}</h3><p class="answer">{escape(ranks_headline(view, ranked))}</p>'
            f"{show([Sheet(whole, shown)])}"
        )
    if not panels:
        return ""
    return (
        "<p>Systems that share a letter are not separated by the test set; a range of ranks holds the true rank. All "
        "pairs are tested together, with seeds as they are: fewer are separated here than in comparisons of two.</p>"
        f"{_panels(panels)}"
    )


def _beyond(views: Sequence[TaskView], bootstrap: Bootstrap, show: Show) -> str:
    panels = []
    for view in views:
        outlook = extrapolation.panel(view, bootstrap)
        if outlook is not None:
            *values, answer = outlook.sentences
            panels.append(
                f'<h3>{escape(view.title)}</h3><p class="answer">{escape(capital(answer))}</p>'
                f"{show([outlook.picture])}{listed(values) if values else ''}{show([outlook.sheet])}"
            )
    if not panels:
        return ""
    return f'<p class="note"><b>Extrapolated.</b> None of this was measured.</p>{_panels(panels)}'


def _whom(influence: whom.Whom | None, stem: str) -> str:
    if influence is None:
        return ""
    texts = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in influence.answers if text)
    return (
        f'<ul class="plain">{texts}</ul><p><a href="{escape(stem)}_whom.html">Each speaker, language and class, with '
        "the trials and utterances behind the largest influences</a></p>"
    )


# --- Detail -----------------------------------------------------------------------------------------------------------


def _rank_tables(view: TaskView, ranked: ranking.Ranking) -> list[Table]:
    return ranking.tables(ranked, identifier(view.name))


def _pairs(view: TaskView, ranked: ranking.Ranking | None) -> Sheet | None:
    if ranked is None:
        return None
    _, whole = _rank_tables(view, ranked)
    rows: list[list[Value]] = [
        [
            f"{tested.pair.second} − {tested.pair.first}",
            estimate(tested.pair.value, tested.low, tested.high, sign=True), rounded(tested.adjusted_p, None),
            tested.better or "not separated", tested.clusters_needed,
        ]
        for tested in ranked.ranks.pairs
    ]  # fmt: skip
    columns = [
        "difference", f"{ranked.metric.label} [95\u00a0%]", "adjusted p", "better", f"{ranked.noun} needed to tell",
    ]  # fmt: skip
    return Sheet(whole, Table(columns, rows, "All pairs, tested together"))


def _task(view: TaskView, ranked: ranking.Ranking | None, bootstrap: Bootstrap, notices: list[str], show: Show) -> str:
    slug = identifier(view.name)
    chosen = foremost(view)
    texts = sentences_on_compositions(view)
    if not view.contrasts:
        texts += sentences_without_contrasts(view)
    for contrast in chosen:
        texts += sentences(view, contrast)
    once = list(dict.fromkeys(texts))  # with all labels, curves over budgets of any kind give the same sentence
    parts = [f'<p id="task-{slug}">{escape(f"{view.metric.axis}. {_test_set(view)}")}</p>', listed(once)]
    if confounds := view.runs[0].result["downstream"].get("confounds"):
        parts.append(f"<p><b>What else could explain these results</b></p>{listed(confounds)}")
    for contrast in view.contrasts:
        if contrast not in chosen:
            title = f"{contrast.second.title} against {contrast.first.title}"
            parts.append(folded(title, listed(sentences(view, contrast))))
    parts.append(show([*detail(view, bootstrap, notices), layer_table(view, bootstrap), _pairs(view, ranked)]))
    if ranked is not None:
        parts.append(listed(ranking.sentences(ranked)))
    return folded(view.title, "".join(parts))


def _completeness(gathered: Gathered, show: Show) -> str:
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
        parts.append(folded("Cells without a result", show([Table(columns, rows, "", name="absent")])))
    if gathered.notices:
        parts.append(f"<h3>Notices</h3>{listed(gathered.notices)}")
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
    entries = "".join(f"<dt><b>{name}</b></dt><dd>{'<br>'.join(map(escape, of))}</dd>" for name, of in facts.items())
    recipes = "".join(
        folded(f"Recipe of {root}", f"<pre>{escape(OmegaConf.to_yaml(OmegaConf.structured(study)))}</pre>")
        for root, study in gathered.studies.items()
    )
    method = (
        "<p>Budgets are nested and seeded; every regime tried the same number of candidates on dev; test was scored "
        "once, with the selected candidate. Intervals over the test set are for other clusters of the same kind "
        "(speakers where they are known), of the mean over seeds; those of differences are paired. Intervals over "
        "seeds are t-intervals. Curves are straight in the logarithm of the labels between budgets and are never "
        "extrapolated.</p>"
    )
    return f"{method}{folded('Commits, devices, versions', f'<dl>{entries}</dl>')}{recipes}"


def write(report: Report, output: Path) -> None:
    """Write ``<name>.html``, ``<name>_tables/*.{csv,tex}``, ``<name>_figures/*.png`` and the page on speakers."""
    for table in report.tables:
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.csv", table.csv())
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.tex", table.latex())
    for picture in report.pictures:
        write_bytes(output.parent / f"{output.stem}_figures" / f"{picture.name}.png", picture.png)
    if report.influence is not None:
        whom.write(report.influence, output.parent / f"{report.stem}_whom.html")
    write_text(output, report.page)
