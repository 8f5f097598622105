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
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_studies import FILES, HOURS, LAYERS, LEVELS, change, study_yaml, write_cell, write_study
from matplotlib.image import imread

from benchmark import plots
from benchmark import statistics as stats
from benchmark.commands import report as command
from benchmark.report import page as report
from benchmark.report.sentences import duration_text
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
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in tags.ids
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
    assert {"verify_det", "languages_det", "languages_confusion_frozen", "languages_confusion_finetuned",
            "layer_weights_tiny", "layer_shares_tiny"} <= pictures  # fmt: skip
    assert len(pictures) == len(made.pictures) == 15
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
    assert '<td class="text">≤ 1</td>' in awkward.html()
    for one in made.tables:
        assert all(
            line.count(" & ") == len(one.columns) - 1 for line in one.latex().splitlines() if line.endswith(r"\\")
        )


def test_published_results_stand_beside_ours(made: report.Report) -> None:
    (row,) = rows(table(made, "targets"))
    assert (row["published result"], row["value"], row["source"]) == ("frozen, EER", "6.02", "somebody (2021)")
    assert "frozen, all: " in row["measured here, largest budget"]


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
    assert f"of 4 single layers, layer {best['layer']} has the best mean on test" in text(made.page)


# --- In a browser -----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PROBE = """<body style="margin:0"><pre id="found">nothing</pre><script>
addEventListener('load', () => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const pictures = [...page.images];
    return {
      width: frame.clientWidth, wide: root.scrollWidth,
      broken: pictures.filter(one => !one.complete || one.naturalWidth < 100).length, pictures: pictures.length,
      narrow: Math.min(...pictures.map(one => one.getBoundingClientRect().width)),
      outside: [...page.querySelectorAll('p, li, h1, h2, h3, img, figcaption, dl')].filter(
        one => one.getBoundingClientRect().right > frame.clientWidth + 1).length,
      background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      text: parseFloat(frame.contentWindow.getComputedStyle(page.querySelector('li')).fontSize),
    };
  });
  document.getElementById('found').textContent = JSON.stringify(found);
});
</script>"""


def browse(tmp_path: Path, *arguments: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", *arguments]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_a_browser_shows_it_on_desk_and_phone(made: report.Report, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(made.page)}"></iframe>'
        for width in (1200, 390, 320)
    )
    (tmp_path / "probe.html").write_text(PROBE + frames)
    shown = browse(tmp_path, "--dump-dom", "--window-size=1400,1000", f"file://{tmp_path / 'probe.html'}")
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)
    assert match is not None
    found = json.loads(match[1])
    assert [one["width"] for one in found] == [1200, 390, 320]
    for one in found:
        assert one["wide"] <= one["width"], one
        assert one["outside"] == one["broken"] == 0, one
        assert one["pictures"] == len(made.pictures)
        assert one["narrow"] > 0.7 * min(one["width"], 500), one
        assert one["background"] == "rgb(255, 255, 255)"
        assert one["text"] >= 14
    report.write(made, tmp_path / "report.html")
    address = f"file://{tmp_path / 'report.html'}"
    browse(tmp_path, f"--screenshot={tmp_path / 'desk.png'}", "--window-size=1200,2000", address)
    picture = imread(tmp_path / "desk.png")
    assert picture.shape[:2] == (2000, 1200)
    assert picture[..., :3].std() > 0.05
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


def test_the_answer_is_of_the_first_upstream_with_two_regimes(tmp_path: Path) -> None:
    upstreams = {"base": {"name": "x", "regimes": ["frozen"]}, "tiny": {"name": "y"}, "other": {"name": "z"}}
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, upstreams=upstreams)
    for name in ("base", "other"):
        shutil.copytree(root / "tiny", root / name)
    shutil.rmtree(root / "base/words/finetuned")
    page = report.make([root], replicates=100).page
    answer, rest = page.split("</section>", 1)
    assert "Area under the error curve from 10 min to 5.2 h: tiny, finetuned" in answer
    assert answer.count("Area under the error curve") == 1
    assert "other, finetuned has" not in answer
    for pair in ("other, finetuned against other, frozen", "tiny, frozen against base, frozen"):
        assert f"<details><summary>{pair}</summary>" in rest
    assert "tiny, finetuned against tiny, frozen</summary>" not in rest


def test_the_answer_of_one_regime_compares_upstreams(tmp_path: Path) -> None:
    upstreams = {"base": {"name": "x"}, "tiny": {"name": "y"}}
    regimes = {"frozen": study_yaml()["regimes"]["frozen"]}
    root = write_study(tmp_path / "a", tasks=["words"], layers=False, upstreams=upstreams, regimes=regimes)
    shutil.rmtree(root / "tiny/words/finetuned")
    shutil.copytree(root / "tiny", root / "base")
    answer = report.make([root], replicates=100).page.split("</section>", 1)[0]
    assert "With all labels (5.2 h), tiny, frozen has" in text(answer)
