"""The report of made-up studies: what it says, what its tables and figures hold, and how a browser shows it."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_studies import FILES, HOURS, LAYERS, LEVELS, change, study_yaml, write_cell, write_study
from matplotlib.image import imread

from benchmark import plots
from benchmark import statistics as stats
from benchmark.commands import report as command
from benchmark.report import page as report
from benchmark.report.collect import gather
from benchmark.report.compare import task_view
from benchmark.report.sentences import duration_text, sentences_on_layers
from benchmark.tables import Table, number_text


@pytest.fixture(scope="module")
def made(whole_study: Path) -> report.Report:
    return report.make([whole_study], replicates=100)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out by another test; drawing them takes most of a report's time."""
    monkeypatch.setattr(plots, "png", lambda figure: b"png")


def rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def table(of: report.Report, name: str) -> Table:
    (table,) = [table for table in of.tables if table.name == name]
    return table


def text(page: str) -> str:
    """What is read: no tags, no pictures, single spaces."""
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.S)).split())


# --- The page ---------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        named = dict(attrs)
        if "id" in named:
            self.ids.append(str(named["id"]))
        self.references += [str(named[key]) for key in ("src", "href", "srcset", "data", "action") if key in named]
        if tag == "img":
            assert named["alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(made: report.Report) -> None:
    tags = Tags()
    tags.feed(made.page)
    assert not tags.open
    assert len(set(tags.ids)) == len(tags.ids)
    for reference in tags.references:
        inside = reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in tags.ids
        assert inside or reference == "report_whom.html"  # written beside it
    assert not {"script", "link", "iframe"} & set(tags.seen)
    assert "url(" not in made.page
    assert "@import" not in made.page
    assert "content=\"default-src 'none'; img-src data:" in made.page
    assert "What does fine-tuning &lt;buy&gt;?" in made.page
    assert tags.seen.count("img") == len(made.pictures)


def test_all_figures_and_tables_are_there(made: report.Report, tmp_path: Path) -> None:
    pictures = {picture.name for picture in made.pictures}
    for task in FILES:
        assert {f"{task}_{kind}" for kind in ("curves", "layers", "cost")} <= pictures
    assert {"verify_det", "languages_confusion_frozen", "languages_confusion_finetuned",
            "layer_weights_tiny", "layer_shares_tiny"} <= pictures  # fmt: skip
    assert len(pictures) == len(made.pictures) == 14
    report.write(made, tmp_path / "page.html")
    assert {path.stem for path in (tmp_path / "page_figures").iterdir()} == pictures
    for one in made.tables:
        for suffix in ("csv", "tex"):
            assert (tmp_path / "page_tables" / f"{one.name}.{suffix}").stat().st_size > 50
    for part in [*made.pictures, *made.tables]:
        if part.name not in ("targets", "absent", "layer_weights", "runs"):
            assert "commit 0123456789" in part.caption, part.name
            assert "seeds 0" in part.caption, part.name


def test_the_answer_says_what_statistics_say(whole_study: Path, made: report.Report) -> None:
    """Against values worked out from the cells, without the report's own reading."""

    def eer(regime: str, budget: str, seed: int) -> float:
        path = whole_study / "tiny" / "verify" / regime / budget / f"seed{seed}" / "lr=0.1" / "result.json"
        return float(json.loads(path.read_text())["metrics"]["test"]["eer"])

    def system(regime: str, seed: int) -> stats.Statistic:
        path = whole_study / "tiny" / "verify" / regime / "all" / f"seed{seed}" / "lr=0.1" / "scores.txt"
        lines = [line.split() for line in path.read_text().splitlines()]
        sides = [[line[k].split("/")[0] for line in lines] for k in (1, 2)]
        return stats.verification([int(line[0]) for line in lines], [float(line[3]) for line in lines], *sides)

    of = stats.compare(*([system(regime, seed) for seed in (0, 1)] for regime in LEVELS), replicates=100)["eer"]
    read = text(made.page)
    number = number_text
    assert (
        f"{number(of.seeds.mean)} points (95 % interval over the 24 speakers of the test set "
        f"[{number(of.test_set.low)}, {number(of.test_set.high)}]; SD over 2 seeds {number(of.seeds.sd)})" in read
    )
    (row,) = [row for row in rows(table(made, "verify_differences")) if row["budget"] == "all"]
    assert float(row["EER"]) == pytest.approx(eer("finetuned", "all", 0) / 2 + eer("finetuned", "all", 1) / 2
                                              - eer("frozen", "all", 0) / 2 - eer("frozen", "all", 1) / 2)  # fmt: skip
    assert float(row["test set: 95 % from"]) == of.test_set.low
    assert float(row["P(improvement)"]) == of.probability_of_improvement

    frozen, tuned = (
        stats.learning_curve({3600 * HOURS[budget]: [eer(regime, budget, seed) for seed in (0, 1)] for budget in HOURS})
        for regime in LEVELS
    )
    (crossing,) = stats.crossovers(frozen, tuned)
    assert crossing.second_better_after
    assert f"cross at about {duration_text(crossing.budget)}: frozen is better below, finetuned above" in read
    multiplier = stats.label_multiplier(frozen, tuned).mean
    assert f"For the same error frozen needs {number(multiplier)} times the labels of finetuned (" in read
    needed = stats.labels_to_target(tuned, frozen.errors[-1]).budget
    assert f"the result of frozen with all labels (5.2 h), with about {duration_text(needed)}." in read
    efficiency = {row["regime"]: row for row in rows(table(made, "verify_efficiency"))}
    assert float(efficiency["frozen"]["ALC"]) == pytest.approx(stats.area(frozen).value)
    assert float(efficiency["finetuned"]["ALC"]) == pytest.approx(stats.area(tuned).value)
    assert float(efficiency["finetuned"]["trained parameters (M)"]) == 1.0


def test_accuracies_become_errors_for_areas_and_multipliers(made: report.Report) -> None:
    efficiency = {row["regime"]: row for row in rows(table(made, "languages_efficiency"))}
    assert 0 < float(efficiency["finetuned"]["ALC"]) < float(efficiency["frozen"]["ALC"]) < 0.3
    assert float(efficiency["finetuned"]["label multiplier"]) > 1
    assert float(rows(table(made, "glance"))[1]["difference"]) > 0
    assert "macro accuracy (%), higher is better" in text(made.page)


def test_tables_hold_full_precision_and_latex_is_escaped(made: report.Report) -> None:
    every = rows(table(made, "runs"))
    assert len(every) == 3 * (2 * 3 * 2 + LAYERS)
    assert {row["layer"] for row in every} == {"", "0", "1", "2", "3"}
    (row,) = [r for r in every if (r["task"], r["regime"], r["budget"], r["seed"]) == ("words", "frozen", "1h", "1")]
    assert float(row["test: wer"]) == float(row["dev: wer"]) - 0.1 or math.isclose(
        float(row["test: wer"]), float(row["dev: wer"]) - 0.1
    )
    awkward = Table(["a_b", "c#"], [["x^2 {~} \\", -1.5], ["≤ 1", None]], "50 % & more_")
    tex = awkward.latex()
    assert r"\caption{50 \% \& more\_}" in tex
    assert r"x\textasciicircum{}2 \{\textasciitilde{}\} \textbackslash{} & $-$1.50 \\" in tex
    assert r"\begin{tabular}{lr}" in tex
    assert r"$\le$ 1 & -- \\" in tex
    assert awkward.csv() == "a_b,c#\nx^2 {~} \\,-1.5\n≤ 1,\n"
    assert '<th scope="row" role="rowheader" class="figures" data-label="a_b">≤ 1</th>' in awkward.html()
    for one in made.tables:
        assert all(
            line.count(" & ") == len(one.columns) - 1 for line in one.latex().splitlines() if line.endswith(r"\\")
        )


def test_published_results_stand_beside_ours(made: report.Report) -> None:
    (row,) = rows(table(made, "targets"))
    assert (row["published result"], row["value"], row["source"]) == ("frozen, EER", "6.02", "somebody (2021)")
    assert "frozen, all: " in row["measured here, largest budget"]


def test_the_page_goes_from_pictures_to_detail(made: report.Report) -> None:
    order = re.findall(r'<section id="(\w+)">', made.page)
    assert order == ["answer", "layers", "ranks", "whom", "comparisons", "tasks", "targets", "cells", "settings"]
    answer = made.page.split("</section>", 1)[0]
    assert answer.count('<article class="panel">') == answer.count('<p class="answer">') == len(FILES)
    for panel in answer.split("<article")[1:]:
        assert panel.index('<p class="answer">') < panel.index("<img ")
    assert "<table" not in answer
    assert made.page.index("<table") > made.page.index('id="ranks"')
    assert '<a href="report_whom.html">' in made.page


@pytest.mark.usefixtures("undrawn")
def test_systems_are_named_as_the_recipe_titles_them(tmp_path: Path) -> None:
    recipe = study_yaml()
    recipe["regimes"]["finetuned"]["title"] = "fine-tuning"
    recipe["tasks"]["words"]["title"] = "Speech recognition"
    titles = {key: recipe[key] for key in ("regimes", "tasks")}
    root = write_study(tmp_path / "a", layers=False, upstreams={"tiny": {"name": "x", "title": "A tiny one"}})
    (root / "study.yaml").write_text(
        json.dumps(study_yaml(upstreams={"tiny": {"name": "x", "title": "Tiny"}}, **titles))
    )
    made = report.make([root], replicates=100)
    shown = made.page.partition('<section id="cells">')[0]
    assert "<h3>Speech recognition</h3>" in shown
    assert re.search(r'<p class="answer">[^<]*fine-tuning wins', shown)
    assert "finetuned" not in text(shown)
    assert "Tiny: softmax weight of each layer" in shown
    assert {row["regime"] for row in rows(table(made, "words_results"))} == {
        "frozen",
        "finetuned",
    }  # keys, for programs


def test_captions_name_their_runs_once(made: report.Report) -> None:
    assert made.tables
    assert all(table.caption.count("Upstream ") <= 1 for table in made.tables)


def test_intervals_say_what_they_rest_on(made: report.Report) -> None:
    of = rows(table(made, "verify_intervals"))
    assert len(of) == 2 * 3 + 3
    for row in of:
        assert row["clusters"] == "24"
        assert 1 <= float(row["effective clusters"]) <= 24
        assert 1 / 24 <= float(row["its share"]) <= 1
        assert row["most influential"].startswith("id1")
    assert "Kinds of speakers rarer than 14 %" in table(made, "verify_intervals").caption


@pytest.mark.usefixtures("undrawn")
def test_more_labels_than_were_tried_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for budget, hours in {"10min": 1 / 6, "20min": 1 / 3, "40min": 2 / 3, "2h": 2.0, "all": 6.0}.items():
        monkeypatch.setitem(HOURS, budget, hours)
    monkeypatch.delitem(HOURS, "1h")
    monkeypatch.setitem(HOURS, "all", HOURS.pop("all"))  # the last again
    monkeypatch.setitem(LEVELS, "frozen", (30.0, 24.0, 19.0, 13.0, 9.0))
    monkeypatch.setitem(LEVELS, "finetuned", (40.0, 28.0, 19.0, 9.0, 4.0))
    root = write_study(tmp_path / "a", tasks=["words"], layers=False)
    made = report.make([root], replicates=100)
    section = made.page.partition('<section id="more">')[2].partition("</section>")[0]
    assert "<b>Extrapolated.</b> None of this was measured." in section
    assert table(made, "words_extrapolated").rows
    assert "60 h" in section


# --- What was run -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_two_machines_make_the_same_report(whole_study: Path, made: report.Report, tmp_path: Path) -> None:
    halves = [tmp_path / "one" / "toy", tmp_path / "two" / "toy"]
    for half, seed in zip(halves, (0, 1), strict=True):
        shutil.copytree(whole_study, half)
        for folder in list(half.rglob(f"seed{1 - seed}")):
            shutil.rmtree(folder)
    shutil.rmtree(halves[0] / "tiny" / "words")  # the second machine has all of one task
    shutil.rmtree(halves[1] / "tiny" / "words")
    shutil.copytree(whole_study / "tiny" / "words", halves[1] / "tiny" / "words")
    merged = report.make([tmp_path / "one", tmp_path / "two"], replicates=100)
    assert [one.name for one in merged.tables] == [one.name for one in made.tables]
    for one, other in zip(merged.tables, made.tables, strict=True):
        assert sorted(one.csv().splitlines()) == sorted(other.csv().splitlines()), one.name
    assert "0 without" in text(merged.page)


@pytest.mark.usefixtures("undrawn")
def test_missing_and_failed_cells_are_listed(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"])
    cells = root / "tiny" / "words"
    shutil.rmtree(cells / "finetuned" / "1h" / "seed1")
    (cells / "finetuned/10min/seed0/lr=0.1/result.json").unlink()
    (cells / "frozen/10min/seed1/cell.json").unlink()
    (cells / "frozen/10min/seed1/error.txt").write_text("out of <memory>\n")
    shutil.rmtree(cells / "layers-2")
    made = report.make([root], replicates=100)
    absent = {
        (row["regime"], row["budget"], row["seed"], row["layer"]): row["why"] for row in rows(table(made, "absent"))
    }
    assert absent == {
        ("finetuned", "1h", "1", ""): "not run",
        ("finetuned", "10min", "0", ""): "not finished",
        ("frozen", "10min", "1", ""): "failed: out of <memory>",
        ("layers", "all", "0", "2"): "not run",
    }
    assert "out of &lt;memory&gt;" in made.page
    read = text(made.page)
    assert "4 of 16 cells have no result" in read
    assert "no cell of its recipe selected" in read  # the result of the cell that failed afterwards
    (row,) = [r for r in rows(table(made, "words_results")) if (r["regime"], r["budget"]) == ("finetuned", "1h")]
    assert row["seeds"] == "1"
    assert row["SD over seeds"] == ""


def test_synthetic_data_are_marked(made: report.Report) -> None:
    assert "Synthetic data." in made.page
    assert "cannot be compared with them" in table(made, "targets").caption


@pytest.mark.usefixtures("undrawn")
def test_runs_outside_of_a_study(tmp_path: Path) -> None:
    for regime in LEVELS:
        folder = write_cell(tmp_path / "made", "words", regime, "all", 0)
        shutil.move(folder, tmp_path / "runs" / regime)
    other = tmp_path / "runs" / "other"
    shutil.copytree(tmp_path / "runs" / "frozen", other)
    change(other / "result.json", "downstream", "evaluated", to="dev-other")
    again = tmp_path / "runs" / "frozen" / "evaluations" / "test"
    again.mkdir(parents=True)
    shutil.copy(tmp_path / "runs" / "frozen" / "result.json", again)
    made = report.make([tmp_path / "runs"], replicates=100)
    assert [row["regime"] for row in rows(table(made, "words_results"))] == ["finetune", "frozen"]
    assert re.search(r"finetune has [^<]* where frozen has", made.page)
    assert "is an additional evaluation, of 'dev-other'; omitted." in text(made.page)
    assert "is an additional evaluation, of 'test'; omitted." in text(made.page)


@pytest.mark.usefixtures("undrawn")
def test_single_layers_alone(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["verify"])
    for regime in LEVELS:
        shutil.rmtree(root / "tiny" / "verify" / regime)
    made = report.make([root], replicates=100)
    assert {picture.name for picture in made.pictures} == {"verify_layers"}
    layers = rows(table(made, "verify_layers"))
    best = min(layers, key=lambda row: float(row["test EER"]))
    assert f"Of 4 single layers, layer {best['layer']} has the best mean on test" in text(made.page)
    assert f"(1 seed); dev chooses layer {best['layer']}: " in text(made.page)


@pytest.mark.usefixtures("undrawn")
def test_the_layer_that_dev_chooses(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["verify"])
    (path,) = root.glob("tiny/verify/layers-1/**/result.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    result["selected"]["value"] = 1.0  # better than all others, on dev
    path.write_text(json.dumps(result), encoding="utf-8")
    read = text(report.make([root], replicates=100).page)
    assert f"(1 seed); dev chooses layer 1: {result['metrics']['test']['eer']:.1f} %." in read


def layers_on_dev(root: Path, task: str, values: Sequence[float], ranks: Sequence[Any] = ()) -> str:
    """What is said of a study's single layers with these values of dev and, where given, ranks in their cells."""
    for layer, value in enumerate(values):
        (path,) = root.glob(f"tiny/{task}/layers-{layer}/**/result.json")
        change(path, "selected", "value", to=value)
        if ranks:
            cell = path.parent.parent / "cell.json"
            tried = json.loads(cell.read_text())["tried"]  # the first is the chosen one
            change(cell, "tried", to=[tried[0] | {"rank": ranks[layer]}, tried[1] | {"rank": [0, 0]}])
    (said,) = sentences_on_layers(task_view(gather([root]), task))
    return said.partition("dev chooses ")[2].partition(": ")[0]


@pytest.mark.parametrize("task", ["verify", "languages"])  # of one lower is better, of the other higher
def test_of_layers_that_tie_on_dev_the_lowest_is_chosen(task: str, tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=[task])
    better, worse = (1.0, 2.0) if task == "verify" else (2.0, 1.0)
    assert layers_on_dev(root, task, [worse, better, worse, better]) == "layer 1 (of several that tie, the lowest)"
    assert layers_on_dev(root, task, [worse, worse, worse, better]) == "layer 3"


def test_dev_chooses_layers_as_it_chooses_candidates(tmp_path: Path) -> None:
    root = write_study(tmp_path / "a", tasks=["words"])
    ranks = [[1, 96.0], [1, 85.9], [1, 82.4], [1, 82.4]]
    tie = "layer 2 (of several that tie, the lowest)"
    assert layers_on_dev(root, "words", [93.5, 93.5, 93.5, 95.0], ranks) == tie
    assert layers_on_dev(root, "words", [93.5, 93.5, 93.5, 88.0], [*ranks[:3], [0, 88.0]]) == "layer 3"


# --- In a browser -----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
PROBE = """<body style="margin:0"><pre id="found">nothing</pre><script>
const hidden = one => one.closest('.wide thead') && one.ownerDocument.defaultView.innerWidth < 700;
const names = one => `${one.tagName}.${one.className} ${one.textContent.trim().slice(0, 40)}`;
function look(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const every = [...page.body.querySelectorAll('*')].filter(one => !hidden(one) && one.checkVisibility());
  const boxes = every.filter(one => one.clientWidth > 0);
  const pictures = every.filter(one => one.tagName == 'IMG');
  const texts = every.filter(one => [...one.childNodes].some(node => node.nodeType == 3 && node.data.trim()));
  const style = one => view.getComputedStyle(one);
  return {
    width: frame.clientWidth, wide: root.scrollWidth, elements: every.length,
    cut: boxes.filter(one => one.scrollWidth > one.clientWidth + 1).map(names),
    outside: every.filter(one => {
      const box = one.getBoundingClientRect();
      return box.width > 0 && (box.right > frame.clientWidth + 1 || box.left < -1);
    }).map(names),
    scrolling: boxes.filter(one => !['visible', 'clip'].includes(style(one).overflowX) ||
      !['visible', 'clip'].includes(style(one).overflowY)).map(names),
    broken: pictures.filter(one => !one.complete || one.naturalWidth < 100).length, pictures: pictures.length,
    narrow: Math.min(...pictures.map(one => one.getBoundingClientRect().width)),
    colours: [...new Set(texts.map(one => style(one).color))],
    smallest: Math.min(...texts.map(one => parseFloat(style(one).fontSize))),
  };
}
addEventListener('load', () => {
  const found = [];
  for (const frame of document.querySelectorAll('iframe')) {
    const folded = look(frame);
    frame.contentDocument.querySelectorAll('details').forEach(one => { one.open = true; });
    found.push([folded, look(frame)]);
  }
  document.getElementById('found').textContent = JSON.stringify(found);
});
</script>"""


def browse(tmp_path: Path, *arguments: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def looked_at(tmp_path: Path, pages: list[tuple[int, str]]) -> list[list[dict[str, Any]]]:
    """What a browser finds in pages of some widths, with all detail folded, and with all of it open."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        for width, page in pages
    )
    (tmp_path / "probe.html").write_text(PROBE + frames)
    shown = browse(tmp_path, "--dump-dom", "--window-size=1400,1000", f"file://{tmp_path / 'probe.html'}")
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert match is not None
    found: list[list[dict[str, Any]]] = json.loads(html.unescape(match[1]))
    return found


def on_paper(page: str) -> str:
    """The page as it is printed, for a window as wide as the paper between its margins."""
    assert page.count("@media print") >= 1
    return page.replace("@media print", "@media all").replace("@media screen", "@media print")


def contrast(colour: str) -> float:
    """With white, by WCAG 2.1."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.05 + sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))


A4 = 718
"""Pixels between Chromium's margins of 1 cm."""


@needs_browser
def test_nothing_is_cut_off_on_a_desk_a_phone_and_paper(made: report.Report, tmp_path: Path) -> None:
    assert made.influence is not None
    pages = [(width, made.page) for width in (1200, 390, 320)]
    pages += [(width, made.influence.page) for width in (1200, 390)] + [(A4, on_paper(made.page))]
    found = looked_at(tmp_path, pages)
    assert [one["width"] for one, _ in found] == [width for width, _ in pages]
    for (width, _), states in zip(pages, found, strict=True):
        for one in states:
            assert one["wide"] <= width, one
            assert one["cut"] == one["outside"] == one["scrolling"] == [], (width, one)
            assert one["broken"] == 0
            assert all(contrast(colour) >= 4.5 for colour in one["colours"]), one["colours"]
            assert one["smallest"] >= (9 if width == A4 else 12), (width, one["smallest"])
        more = states[1]["elements"] - states[0]["elements"]
        assert more == 0 if width == A4 else more > 0  # paper has what screens fold
    for one, opened in (found[0], found[1], found[5]):
        assert opened["pictures"] == len(made.pictures)
        assert one["narrow"] > (300 if one["width"] > 320 else 250), one


@needs_browser
def test_what_is_cut_off_is_found(tmp_path: Path) -> None:
    pages = [
        f'<div style="width:200px"><table><tr><td>{"x" * 80}</td></tr></table></div>',
        f'<p style="overflow:hidden; white-space:nowrap">{"word " * 40}</p>',
        '<div style="margin-left:-20px">left of the page</div>',
        '<p style="color:#888">pale</p>',
    ]
    cut, clipped, left, pale = (one for one, _ in looked_at(tmp_path, [(390, page) for page in pages]))
    assert cut["cut"]
    assert clipped["cut"]
    assert clipped["scrolling"]
    assert left["outside"]
    assert contrast(pale["colours"][0]) < 4.5


@needs_browser
def test_screenshots_and_print(made: report.Report, tmp_path: Path) -> None:
    report.write(made, tmp_path / "report.html")
    address = f"file://{tmp_path / 'report.html'}"
    for width, height in ((1200, 2000), (390, 3000)):
        path = tmp_path / f"{width}.png"
        browse(tmp_path, f"--screenshot={path}", f"--window-size={width},{height}", address)
        picture = imread(path)
        assert picture.shape[:2] == (height, width)
        assert picture[..., :3].std() > 0.05
        assert picture[:, -4:, :3].min() > 0.9  # nothing touches the right edge
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'print.pdf'}", address)
    pdf = (tmp_path / "print.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 5 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 40


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, seeds=(0,))
    output = tmp_path / "out" / "page.html"
    assert command.main([str(root), "-o", str(output), "--replicates", "100", "--title", "A & B"]) == 0
    assert "page.html: " in capsys.readouterr().out
    page = output.read_text()
    assert "<title>A &amp; B</title>" in page
    assert "one seed" in text(page)
    assert (tmp_path / "out" / "page_tables" / "words_results.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("-o", "."), "is a folder; name a file"), (("--replicates", "10"), "a number of 100 or more")],
)
def test_arguments_that_make_no_report(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["results", *arguments])
    assert message in capsys.readouterr().err


def test_the_answer_is_of_the_first_upstream_with_two_regimes(tmp_path: Path) -> None:
    upstreams = {"base": {"name": "x", "regimes": ["frozen"]}, "tiny": {"name": "y"}, "other": {"name": "z"}}
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, upstreams=upstreams)
    for name in ("base", "other"):
        shutil.copytree(root / "tiny", root / name)
    shutil.rmtree(root / "base/words/finetuned")
    page = report.make([root], replicates=100).page
    answer, rest = page.split("</section>", 1)
    assert "The sentences are about tiny; the curves and tables show all upstreams." in answer
    assert "other" not in text(answer).partition("The sentences are about tiny;")[2].partition("Bars:")[0]
    first, _, folded = rest.partition("<details><summary>other, finetuned against other, frozen</summary>")
    assert first.count("Area under the error curve from 10 min to 5.2 h: tiny, finetuned") == 1
    assert folded.count("Area under the error curve") > 1
    for pair in ("other, finetuned against other, frozen", "tiny, frozen against base, frozen"):
        assert f"<details><summary>{pair}</summary>" in rest
    assert "tiny, finetuned against tiny, frozen</summary>" not in rest


def test_the_answer_of_one_regime_compares_upstreams(tmp_path: Path) -> None:
    upstreams = {"base": {"name": "x"}, "tiny": {"name": "y"}}
    regimes = {"frozen": study_yaml()["regimes"]["frozen"]}
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, upstreams=upstreams, regimes=regimes)
    shutil.rmtree(root / "tiny/words/finetuned")
    shutil.copytree(root / "tiny", root / "base")
    page = report.make([root], replicates=100).page
    assert "No clear difference between tiny and base from 10 min to 5.2 h of labels" in page.split("</section>", 1)[0]
    assert "With all labels (5.2 h), tiny, frozen has" in text(page)
