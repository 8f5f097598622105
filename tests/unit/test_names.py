"""Names that are data: ids, labels, speakers and paths of any characters survive from the manifest to the report."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
import zipfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from tasks import make_task, options

from benchmark import plots, statistics
from benchmark.commands.predict import _write_npz
from benchmark.data import audio, manifest
from benchmark.data.importers import huggingface, kaldi
from benchmark.data.trials import read_trials, write_trials
from benchmark.errors import BenchmarkError
from benchmark.evaluation import describe, read_about, read_items
from benchmark.files import on_disk, write_files, write_text
from benchmark.interfaces import Corpus, Trial, Utterance
from benchmark.metrics import METRICS
from benchmark.report import figures
from benchmark.tables import Table
from benchmark.text import Names, escape, trial, unescape
from downstream.asr.task import ASRConfig, SpeechRecognition
from downstream.classify.task import ClassifyConfig, LabelClassification
from downstream.confusion import confusion_files
from downstream.sv.task import SpeakerVerification, SVConfig

NASTY = [
    "my data/a 1.wav", "a\tb", "a  b", "50% off", "a%20b", "a b", "%2520", "#1", "1,5", 'say "x"', "it's", "a;b", "é",
    "e\u0301", "日本", "ไทย", "$x_1$", "<b>&amp;", "\u2028", "\x85y", "\xa0z", "\x1c", "_x", "-1", "a\\b", "../x",
    "(1)", "{a/b}", "🎧", "null", "a$b_{$c", "\udce9.wav",
]  # fmt: skip
"""``\\udce9``: a file name that is not UTF-8."""
characters = st.one_of(
    st.sampled_from(" \t%#,;\"'\u2028\x85\x0b\x1c\xa0ée\u0301日<>&$_/\\(){}2025aAfFE9"),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"),
)
name = st.one_of(
    st.sampled_from([n for n in NASTY if n == n.strip()]), st.text(characters, min_size=1, max_size=8)
).filter(lambda text: text == text.strip() and text != "")
names = st.lists(name, min_size=6, max_size=6, unique=True)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ----------------------------------------------------------------------------------------------------------- the round


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time."""
    monkeypatch.setattr(plots, "png", lambda figure: b"")


def kept(folder: Path, task: Any, predictions: Any) -> Any:
    """A run's items as the report reads them from its folder."""
    result = task.evaluate("test", predictions)
    files = {file: content for file, content in result.files.items() if not file.endswith(".png")}
    write_files(folder, files)
    write_text(folder / "evaluation.json", describe(result.items, list(result.metrics["test"])))
    about = read_about(folder)
    assert about is not None
    found = read_items(folder, about)
    assert len(found) == len(result.items)
    statistics.of(found, {name: METRICS[name] for name in about.metrics})
    return result.items, found


@pytest.mark.usefixtures("no_figures")
@given(names, names)
@quick
def test_verification(tmp_path: Path, ids: list[str], speakers: list[str]) -> None:
    utterances = [Utterance(id_, f"/x/{k}.wav", speaker=speakers[k // 2], split="test") for k, id_ in enumerate(ids)]
    manifest.write(tmp_path / "test.jsonl", utterances)
    assert manifest.read(tmp_path / "test.jsonl") == utterances
    trials = [Trial(int(a // 2 == b // 2), ids[a], ids[b]) for a in range(6) for b in range(a + 1, 6)]
    write_trials(tmp_path / "trials.txt", trials)
    assert read_trials(tmp_path / "trials.txt", set(ids)) == trials
    assert {len(line.split()) for line in (tmp_path / "trials.txt").read_text(encoding="utf-8").split("\n")} == {0, 3}

    train = [Utterance(f"train {k}", "/y.wav", speaker=f"train {k // 2}") for k in range(12)]
    corpus = Corpus("manifests", {"train": train, "test": utterances}, {"trials": trials})
    config = options(SVConfig, train_split="train", trials="trials", more_trials=[], dev_speakers=2)
    task = make_task(SpeakerVerification, config, corpus)
    random = np.random.default_rng(0)
    written, found = kept(tmp_path, task, {id_: random.normal(size=4) for id_ in ids})
    for part in ("enrolment", "test"):
        assert [found.ids[i] for i in getattr(found, part)] == [written.ids[i] for i in getattr(written, part)]
    assert dict(zip(found.ids, found.clusters, strict=True)) == dict(
        zip(ids, (u.speaker for u in utterances), strict=True)
    )
    assert {len(line.split()) for line in (tmp_path / "scores.txt").read_text(encoding="utf-8").split("\n")} == {0, 4}


@pytest.mark.usefixtures("no_figures")
@given(names, names)
@quick
def test_classification(tmp_path: Path, ids: list[str], labels: list[str]) -> None:
    labels = labels[:3]
    given_splits = {
        split: [Utterance(f"{split}{id_}", f"/x/{k}.wav", labels={"mood": labels[k % 3]}) for k, id_ in enumerate(ids)]
        for split in ("train", "dev", "test")
    }
    splits = {}
    for split, utterances in given_splits.items():
        manifest.write(tmp_path / f"{split}.jsonl", utterances)
        splits[split] = manifest.read(tmp_path / f"{split}.jsonl", ["mood"])
        assert splits[split] == utterances
    task = make_task(LabelClassification, options(ClassifyConfig, label="mood"), Corpus("manifests", splits))
    random = np.random.default_rng(0)
    written, found = kept(tmp_path, task, {u.id: np.log(random.dirichlet(np.ones(3))) for u in splits["test"]})
    order = sorted(range(6), key=lambda k: written.ids[k])
    assert list(found.ids) == [written.ids[k] for k in order]
    assert [found.names[k] for k in found.references] == [written.names[written.references[k]] for k in order]
    with open(tmp_path / "confusion.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["reference", *map(utf8, sorted(labels))] == ["reference", *(row[0] for row in rows[1:])]


@given(names, st.lists(st.text(characters, max_size=6), min_size=6, max_size=6))
@quick
def test_recognition(tmp_path: Path, ids: list[str], texts: list[str]) -> None:
    texts[0] = "ab"
    splits = {
        "train": [Utterance("t", "/t.wav", text="ab" + "".join(texts))],
        "dev": [Utterance("d", "/d.wav", text="ab")],
        "test": [
            Utterance(id_, f"/x/{k}.wav", text=text) for k, (id_, text) in enumerate(zip(ids, texts, strict=True))
        ],
    }
    if "|" in "".join(texts):  # it stands for the space
        return
    config = options(ASRConfig, train_splits=["train"], dev_splits=["dev"], test_splits=["test"])
    task = make_task(SpeechRecognition, config, Corpus("manifests", splits))
    outputs = len(task.alphabet.symbols)
    written, found = kept(tmp_path, task, {id_: np.log(np.full((3, outputs), 1 / outputs)) for id_ in ids})
    assert dict(zip(found.ids, found.references, strict=True)) == dict(
        zip(written.ids, written.references, strict=True)
    )
    ends = [
        line.rpartition(" (")[2] for line in (tmp_path / "ref_test.trn").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    assert len(set(ends)) == 6
    assert not any(c.isspace() or c == "(" for end in ends for c in end)


@pytest.mark.parametrize("nasty", NASTY)
def test_each_nasty_name(tmp_path: Path, nasty: str) -> None:
    assert unescape(escape(nasty)) == nasty
    assert len(f"1 {escape(nasty)} b".split()) == 3
    write_trials(tmp_path / "t", [Trial(1, nasty, "b"), Trial(0, "b", nasty)])
    assert read_trials(tmp_path / "t", {nasty, "b"}) == [Trial(1, nasty, "b"), Trial(0, "b", nasty)]


def utf8(name: str) -> str:
    """With surrogates, which are bytes of file names, as JSON has them."""
    return name.encode(errors="backslashreplace").decode()


@given(names, names)
@quick
def test_tables_and_archives(tmp_path: Path, rows: list[str], columns: list[str]) -> None:
    table = Table(["x", *columns], [[row, *range(6)] for row in rows], title=rows[0], caption=columns[0])

    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.cells: list[str] = []

        def handle_data(self, data: str) -> None:
            self.cells.append(data)

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            assert tag in ("figure", "figcaption", "b", "div", "table", "thead", "tbody", "tr", "th", "td")

    parser = Cells()
    parser.feed(table.html())
    assert set(rows[1:]) <= set(parser.cells)
    assert list(csv.reader(io.StringIO(table.csv(), newline="")))[1][0] == rows[0]
    buffer = io.BytesIO()
    _write_npz({row: np.ones(2) for row in rows}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert archive.namelist() == [f"{utf8(row)}.npy" for row in rows]
    buffer.seek(0)
    assert set(np.load(buffer)) == set(map(utf8, rows))


# ------------------------------------------------------------------------------------------------------- trial lists


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("1 a b", ["1", "a", "b"]),
        ("1\ta\tb", ["1", "a", "b"]),
        ("1\tmy data/x\tmy data/y", ["1", "my data/x", "my data/y"]),
        ("1 my data/x my data/y", ["1", "my data/x", "my data/y"]),
        ("1 my%20data/x my data/y", ["1", "my data/x", "my data/y"]),
        ("1 two  spaces a", ["1", "two  spaces", "a"]),
        ("1 a", None),
        ("1 p q r", None),  # "p q" and "q r" exist, as do "p" and "r": two readings
        ("1 no such name", None),
        ("1 cafe\u0301 caf\u00e9", ["1", "caf\u00e9", "caf\u00e9"]),
    ],
)
def test_lines_of_trials(line: str, fields: list[str] | None) -> None:
    there = Names({"a", "b", "my data/x", "my data/y", "two  spaces", "p", "q r", "p q", "r", "caf\u00e9"})
    assert trial(line, there) == fields


def test_what_escaping_leaves_ambiguous_is_not(tmp_path: Path) -> None:
    ids = {"a b", "a%20b", "a%2520b"}
    trials = [Trial(0, one, other) for one in sorted(ids) for other in sorted(ids) if one != other]
    write_trials(tmp_path / "t", trials)
    assert read_trials(tmp_path / "t", ids) == trials
    (tmp_path / "t").write_text("1 50%20x y\n")  # written by hand, or by a release that did not escape
    assert read_trials(tmp_path / "t", {"50%20x", "y"}) == [Trial(1, "50%20x", "y")]


def test_a_trial_list_with_spaces_says_how(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 p q r\n")
    with pytest.raises(BenchmarkError, match=r"Ids with spaces: separate the three fields by tabs, or write %20"):
        read_trials(tmp_path / "t", {"p", "q r", "p q", "r"})


# ------------------------------------------------------------------------------------------ normalisation of Unicode

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("listed", "there"), [(NFC, NFD), (NFD, NFC), (NFC, NFC)])
def test_lists_and_files_in_another_normalisation(tmp_path: Path, listed: str, there: str) -> None:
    """Files are found, and ids stay as they were written."""
    (tmp_path / there).mkdir()
    soundfile.write(tmp_path / there / f"{there}.wav", np.zeros(1600), 16000)
    path = f"{listed}/{listed}.wav"
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": path}), encoding="utf-8")
    (found,) = manifest.read(tmp_path / "m.jsonl")
    assert found.id == path
    assert audio.durations([found]).tolist() == [0.1]
    (tmp_path / "wav.scp").write_text(f"{listed} {path}\n", encoding="utf-8")
    (tmp_path / "text").write_text(f"{there} hallo\n", encoding="utf-8")
    (imported,) = kaldi.read(tmp_path, tmp_path).splits[tmp_path.name]
    assert (imported.id, imported.text) == (listed, "hallo")
    assert audio.durations([imported]).tolist() == [0.1]
    (tmp_path / "t").write_text(f"1 {there} x\n", encoding="utf-8")
    assert read_trials(tmp_path / "t", {listed, "x"}) == [Trial(1, listed, "x")]


def test_both_normalisations_are_told_apart(tmp_path: Path) -> None:
    assert [Names({NFC, NFD}).find(name) for name in (NFC, NFD)] == [NFC, NFD]
    angstrom = "\u212b"  # a third spelling of Å
    assert (
        Names({unicodedata.normalize("NFC", angstrom), unicodedata.normalize("NFD", angstrom)}).find(angstrom) is None
    )
    for name in (NFC, NFD):
        (tmp_path / name).touch()
    assert {on_disk(str(tmp_path / name)) for name in (NFC, NFD)} == {str(tmp_path / name) for name in (NFC, NFD)}
    assert on_disk(str(tmp_path / "näh")) == str(tmp_path / "näh")
    assert on_disk("/näh/x") == "/näh/x"


# ----------------------------------------------------------------------------------------------------------- figures


def missing(texts: Sequence[str]) -> set[str]:
    return plots.fonts(texts)[1]


def test_labels_that_no_font_has_are_numbered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    default = [font for font in font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(plots.font_manager.fontManager, "ttflist", default)
    labels = ["Deutsch", "日本語", "ไทย", "Ελληνικά"]
    figure = plots.confusion(np.eye(4), labels, "title")
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == ["Deutsch", "#2", "#3", "Ελληνικά"]
    assert "2 labels (日本語, ไทย): the figure shows #n for the nth class of the confusion matrix's .csv" in caplog.text
    files = confusion_files("confusion", np.arange(4), np.arange(4), labels, "日本")
    assert str(files["confusion.csv"]).split("\n")[0] == "reference,Deutsch,日本語,ไทย,Ελληνικά"
    draw = files["confusion.png"]
    assert callable(draw)
    assert draw().startswith(b"\x89PNG")
    assert "no installed font has the characters 日, 本 of a figure; install one that does" in caplog.text


def test_an_installed_font_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    default = font_manager.findfont(font_manager.FontProperties())
    known = {default: frozenset("abc"), "/cjk": frozenset("日本"), "/one": frozenset("日"), "/thai": frozenset("ไทย")}
    monkeypatch.setattr(plots, "_characters", lambda path: known.get(path, frozenset()))
    entries = [font_manager.FontEntry(fname=path, name=path[1:].title()) for path in ("/one", "/thai", "/cjk")]
    monkeypatch.setattr(plots.font_manager.fontManager, "ttflist", entries)
    assert plots.fonts(["abc"]) == ([], set())
    families, absent = plots.fonts(["a日本", "ไทย", "ж"])
    assert families[1:] in (["Thai", "Cjk"], ["Cjk", "Thai"])
    assert absent == {"ж"}


@pytest.mark.parametrize("label", [name for name in NASTY if name.isprintable() and not missing([name])])
def test_any_label_can_be_drawn(label: str) -> None:
    """``$`` begins no formula, and a leading underscore hides nothing."""
    assert plots.png(plots.confusion(np.eye(2), [label, "x" * 5000], label)).startswith(b"\x89PNG")
    points = figures.Points([1.0, 2.0], [1.0, 2.0])
    figure = figures.learning_curves({label: points}, {1.0: "1", 2.0: "2"}, "y", label)
    assert plots.png(figure).startswith(b"\x89PNG")
    assert [entry.get_text().strip() for entry in figure.legends[0].get_texts()] == [label.strip()]


# ---------------------------------------------------------------------------------------------------- dataset columns

hf = pytest.importorskip("datasets")
VALUES = {
    "date32": __import__("datetime").date(2020, 1, 1),
    "timestamp[s]": __import__("datetime").datetime(2020, 1, 1),
    "time64[us]": __import__("datetime").time(1, 2),
    "binary": b"s1",
    "float64": 1.5,
    "bool": True,
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("column", ["session_id", "id", "speaker_id", "sentence", "mood"])
def test_columns_that_are_not_text(tmp_path: Path, kind: str, column: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    hf.Dataset.from_list(
        [{"file": str(tmp_path / "a.wav"), column: value} for value in (None, VALUES[kind], VALUES[kind])],
        features=hf.Features({"file": hf.Value("string"), column: hf.Value(kind)}),
    ).save_to_disk(tmp_path / "d")
    with pytest.raises(BenchmarkError) as caught:
        huggingface.read(tmp_path / "d", tmp_path, labels=["mood"] if column == "mood" else [])
    kind_name = type(VALUES[kind]).__name__
    assert f"column '{column}' (" in str(caught.value)
    assert f"expected text or whole numbers, found {kind_name} in 2 rows, first in row 1: " in str(caught.value)
    assert str(caught.value).count("\n") == 1
