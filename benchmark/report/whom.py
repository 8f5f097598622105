"""The page "whom does it help?": each speaker's, language's or class's influence, and what is behind the largest.

:func:`of_views` makes it for a report, a section for each task; :func:`page` for any runs. A page refers to its clips,
and to nothing else outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from benchmark.evaluation import Classes, Edits, Trials
from benchmark.files import write_bytes, write_text
from benchmark.report.behind import Behind, confusions, shown
from benchmark.report.clips import Clips, at_hand, remove_old
from benchmark.report.compare import TaskView
from benchmark.report.explained import (
    Explained,
    Found,
    System,
    confusion_table,
    explain,
    influence_table,
    read,
    sentences,
    spread_table,
)
from benchmark.report.parts import folded, identifier, listed
from benchmark.report.style import document
from benchmark.statistics import influence as influences
from benchmark.tables import Table, number_text, plural

LARGEST = 12
"""Groups that the page shows as bars, with the trials or utterances behind them."""
EXAMPLES = 5
"""Trials or utterances of a group."""
_ROWS = 30
"""Of a table on the page; its file has all."""
_MOST_SLOW = 500
"""Groups of which a report computes the influence on a metric that is computed anew for each of them."""


_STYLE = """
.group { border-bottom: 1px solid var(--line); margin: 0; } .group[open] { padding-bottom: .6rem; }
.group > summary { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr) 6rem; gap: .6rem; width: 100%;
  align-items: center; padding: .35rem 0; color: var(--ink); } .name { overflow-wrap: anywhere; }
.group .name::before { content: "▸ "; } .group[open] .name::before { content: "▾ "; }
.bar { position: relative; height: 1rem; background: linear-gradient(#999, #999) center / 1px 100% no-repeat #f4f4f4; }
.bar i { position: absolute; top: .15rem; bottom: .15rem; print-color-adjust: exact; }
.worse { background: #d55e00; } .better { background: #0072b2; }
.value { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.behind { padding-left: 1.5rem; font-size: .92rem; } .behind li { margin: .8rem 0; }
.decision, .transcript, .utterance { display: block; overflow-wrap: anywhere; } .utterance { color: var(--soft); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 22rem)); gap: 0 1.5rem; }
audio { display: block; width: min(100%, 22rem); height: 2.2rem; margin: .2rem 0; }
del { color: #a33c00; } ins { color: #005a2b; text-decoration: none; border-bottom: 2px solid; }
@media print { audio { display: none; } .group > summary { width: 100%; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src 'self' file:"
"""Browsers load the clips beside the page and refuse everything else."""


@dataclass
class Whom:
    """A page with what belongs to it."""

    page: str
    tables: list[Table]
    clips: dict[str, bytes]
    """Name -> content."""
    clip_folder: str
    answers: list[tuple[str, str]]
    """(title, sentence) of each comparison, for a page that links this one."""


def page(
    title: str, explained: Sequence[Explained], stem: str, *, audio: bool = False, notices: Sequence[str] = (),
    data_root: str | None = None, back: str | None = None,
) -> Whom:  # fmt: skip
    """The page of some comparisons.

    Args:
        title: of the page.
        explained: a section each.
        stem: the name that the page will have, without ``.html``.
        audio: add clips of what is shown, where the data is at hand.
        notices: shown at its end, with what is found out here.
        data_root: where the data is now; default: where the runs found it.
        back: name of a page that this one belongs to.
    """
    clips = Clips({}, f"{stem}_clips")
    notices = list(notices)
    sections, tables, answers, links = [], [], [], []
    for number, one in enumerate(explained, 1):
        if audio:
            try:
                clips.begin(at_hand(one.systems[0].folders[0], data_root))
            except BenchmarkError as error:
                clips.begin({})
                notices.append(f"{one.title}: no audio: {error}")
        body, own = _section(one, f"s{number}", clips)
        tables += own
        texts = sentences(one, one.found[0]) if one.found else []
        answers.append((one.title, texts[1 if len(one.systems) == 2 else -1] if texts else ""))
        sections.append(f'<section id="s{number}"><h2>{escape(one.title)}</h2>\n{body}</section>')
        links.append(f'<a href="#s{number}">{escape(one.title)}</a>')
    notices += clips.problems
    if notices:
        sections.append(f'<section id="notices"><h2>Notices</h2>{listed(notices)}</section>')
    way = f'<a href="{escape(back)}">Back to the report</a>' if back else ""
    about = (
        "<p>What each speaker, language or class does to a result: its value with all the data minus its value without "
        "them, computed again.</p>"
    )
    navigation = way + ("".join(links) if len(links) > 1 else "")
    html = document(title, about, navigation, "\n".join(sections), policy=_POLICY, style=_STYLE)
    return Whom(html, tables, clips.files, clips.folder, answers)


def write(whom: Whom, output: Path) -> None:
    """Write the page, ``<name>_tables/*.{csv,tex}`` and the clips, and remove those of an earlier page of that name."""
    folder = output.parent / whom.clip_folder
    for name, content in whom.clips.items():
        write_bytes(folder / name, content)
    remove_old(folder, list(whom.clips))
    for table in whom.tables:
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.csv", table.csv())
        write_text(output.parent / f"{output.stem}_tables" / f"{table.name}.tex", table.latex())
    write_text(output, whom.page)


def _section(explained: Explained, key: str, clips: Clips) -> tuple[str, list[Table]]:
    parts, tables = [], []
    behind = Behind(
        [(system.name, system.items[0]) for system in explained.systems], characters=explained.systems[0].characters
    )
    for found in explained.found:
        noun = found.grouping.noun
        full = influence_table(explained, found, f"{key}_influence_{identifier(noun)}")
        spread = spread_table(explained, found, f"{key}_spread_{identifier(noun)}")
        tables += [full, spread]
        parts.append(f"<h3>{escape(found.grouping.plural.capitalize())}</h3>{listed(sentences(explained, found))}")
        parts.append(_largest(explained, found, behind, clips))
        parts.append(_part(full, f"Influence of each {noun}"))
        parts.append(replace(spread, title=f"Spread over {found.grouping.plural}").html())
    confused = confusion_table(explained, f"{key}_confusions") if isinstance(explained.items, Classes) else None
    if confused is not None:
        tables.append(confused)
        parts.append(_part(confused, "Confusions"))
    if max(len(system.items) for system in explained.systems) > 1:
        parts.append(
            '<p class="soft">Values are means over runs; single trials and utterances are those of the first.</p>'
        )
    return "\n".join(parts), tables


def _largest(explained: Explained, found: Found, behind: Behind, clips: Clips) -> str:
    """The groups of the largest influence, as bars that open."""
    change, metric = found.change, explained.metric
    of_group = influences.members(
        explained.items, np.unique(np.asarray(found.grouping.of, dtype=str), return_inverse=True)[1], len(change.names)
    )
    order = [int(k) for k in change.order() if not np.isnan(change.without[k])][:LARGEST]
    if not order:
        return ""
    size = float(np.abs(change.influence[order]).max()) or 1.0
    unit = "points of " if metric.unit == "%" else ""
    better = "higher" if metric.higher_is_better else "lower"
    hint = (
        f"The largest influences, in {unit}{metric.label} ({better} is better). Open a line to see what is behind it. "
    )
    if len(explained.systems) == 1:
        hint += "Orange: the value is worse because of them; blue: better."
    else:
        hint += f"Orange: they speak against {explained.systems[1].name}; blue: for it."
    if isinstance(explained.items, Edits):
        hint += " In transcripts, what was said but not recognised is struck, what was not said is underlined."
    parts = [f'<p class="soft">{escape(hint)}</p>']
    for rank, k in enumerate(order):
        value = float(change.influence[k])
        harm = -value if metric.higher_is_better else value
        width = 50 * abs(value) / size
        left = 50.0 if value > 0 else 50 - width
        bar = f'<i class="{"worse" if harm > 0 else "better"}" style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        signed = f"{'+' if value > 0 else ''}{number_text(value)}"
        opened = " open" if rank == 0 else ""
        parts.append(
            f'<details class="group"{opened}><summary><span class="name">{shown(change.names[k])}</span>'
            f'<span class="bar">{bar}</span><span class="value">{signed}</span></summary>'
            f"{_detail(explained, found, k, of_group[k], 1.0 if harm > 0 else -1.0, behind, clips)}</details>"
        )
    return "\n".join(parts)


def _detail(
    explained: Explained, found: Found, k: int, of: NDArray[np.int64], sign: float, behind: Behind, clips: Clips
) -> str:
    noun = "trial" if isinstance(explained.items, Trials) else "utterance"
    both = len(explained.systems) == 2
    label = explained.rate_label.removesuffix(" (%)")
    rates = [
        f"{label}{f' of {system.name}' if both else ''} {_percent(explained.shown(rates[k]))}"
        for system, rates in zip(explained.systems, found.rates, strict=True)
    ]
    what = "the difference" if both else explained.metric.label
    left = explained.amount(float(found.change.without[k]))
    text = f"{plural(of.size, noun)}; {', '.join(rates)}. Without it {what} is {left}."
    parts = [f"<p>{escape(text)}</p>"]
    for system in explained.systems if isinstance(explained.items, Classes) else ():
        items = system.items[0]
        assert isinstance(items, Classes)
        pairs = [f"{shown(said)} as {shown(heard)} ({count:,})" for said, heard, count in confusions(items, of)[:5]]
        if pairs:
            parts.append(f"<p>{f'{escape(system.name)} recognises' if both else 'Recognised:'} {', '.join(pairs)}.</p>")
    shown_items = behind.examples(of, sign, clips.player, EXAMPLES)
    if shown_items:
        listed = "".join(f"<li>{item}</li>" for item in shown_items)
        parts.append(f'<ol class="behind">{listed}</ol>')
    else:
        parts.append(f"<p>No {noun} of it was decided wrongly.</p>" if not both else "")
    return "".join(parts)


def _percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{number_text(rate)} %"


def _part(full: Table, title: str) -> str:
    """A table's first rows, folded; its file has all."""
    part = replace(full, rows=full.rows[:_ROWS], title="")
    more = len(full.rows) - _ROWS
    rest = f'<p class="soft">{more:,} more rows are in {escape(full.name)}.csv.</p>' if more > 0 else ""
    return folded(title, part.html() + rest)


# --- Of a report ------------------------------------------------------------------------------------------------------


def of_views(
    views: Sequence[TaskView], notices: list[str], *, title: str, stem: str, audio: bool = False,
    data_root: str | None = None, back: str | None = None,
) -> Whom | None:  # fmt: skip
    """The page of a report: of each task the first comparison between two regimes of one upstream, at the largest
    budget; else the first comparison, or series.

    Args:
        views: of the report.
        notices: gets why a task has no section.
        title: of the page.
        stem: the name that the page will have, without ``.html``.
        audio: add clips of what is shown, where the data is at hand.
        data_root: where the data is now; default: where the runs found it.
        back: file name of the report, for a link to it.

    Returns:
        The page, for :func:`write`; ``None`` where no task has a section.
    """
    explained = []
    for view in views:
        try:
            systems = _systems(view)
            if systems:
                title_of_task = view.title or view.name
                if len(systems) == 2:
                    title_of_task += f": {systems[1].name} against {systems[0].name}"
                explained.append(explain(title_of_task, systems, most_slow=_MOST_SLOW))
        except BenchmarkError as error:
            notices.append(f"{view.name}: no influences of speakers ({error}).")
    if not explained:
        return None
    return page(title, explained, stem, audio=audio, data_root=data_root, back=back)


def _systems(view: TaskView) -> list[System]:
    contrasts = [contrast for contrast in view.contrasts if contrast.differences]
    contrasts.sort(key=lambda contrast: contrast.first.upstream != contrast.second.upstream)
    if contrasts:
        first, second = contrasts[0].first, contrasts[0].second
        budget = list(contrasts[0].differences)[-1]
        seeds = [seed for seed in first.points[budget] if seed in second.points[budget]]
        same = first.upstream == second.upstream
        return [
            read(
                [side.points[budget][seed].folder for seed in seeds],
                (side.regime_title if same else side.title) or side.name,
                view.metric.name,
            )
            for side in (first, second)
        ]
    if not view.series:
        return []
    only = view.series[0]
    runs = only.points[only.largest].values()
    return [read([run.folder for run in runs], only.title or only.name, view.metric.name)]
