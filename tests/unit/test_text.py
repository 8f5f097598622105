"""Text as people have it: every reader takes every line end and byte order mark, and names what it cannot read."""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import REPOSITORY

from benchmark import config, registry, text
from benchmark.data import manifest
from benchmark.data.importers import kaldi, lhotse
from benchmark.data.trials import read_trials
from benchmark.errors import BenchmarkError, show
from benchmark.evaluation import Classes, Edits, Trials, describe, read_about, read_items
from benchmark.interfaces import Utterance
from downstream import recover
from downstream.asr.decoding import LMConfig, read_lexicon
from downstream.asr.text import ALPHABETS, Alphabet
from downstream.protocols import read_card

DATA = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\xa0"
"""Characters that ``str.splitlines`` or ``str.split`` would take for line ends or white space."""
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --------------------------------------------------------------------------------------------------------- the reader


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=8), max_size=6),
    st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=6, max_size=6),
    st.booleans(),
    st.booleans(),
)
@quick
def test_lines_are_what_was_written(
    tmp_path: Path, given_lines: list[str], ends: list[str], bom: bool, gz: bool
) -> None:
    written = "".join(line + end for line, end in zip(given_lines, ends, strict=False))
    if "\r\n" in "".join(["", *ends]) and re.search("\r(?=\n)", written.replace("\r\n", "")):
        written = written.replace("\r", "\n")  # a bare \r before an empty line with \n is one line end
    data = (b"\xef\xbb\xbf" if bom else b"") + written.encode()
    (tmp_path / "a.txt").write_bytes(gzip.compress(data) if gz else data)
    expected = re.split("\r\n|\r|\n", written)
    if expected[0].startswith("\ufeff") and not bom:
        expected[0] = expected[0][1:]  # it is a byte order mark
    found = list(text.lines(tmp_path / "a.txt", whole=True))
    assert "".join(line for _, line in found).removeprefix("\ufeff") == written.removeprefix("\ufeff")
    assert list(text.lines(tmp_path / "a.txt")) == [
        (number, line) for number, line in enumerate(expected, start=1) if line.strip(" \t")
    ]


UNREADABLE = {
    "Latin-1": (b"first\nCAF\xc9 x\n", ":2: byte 0xc9 at 4 is not UTF-8, but may be Latin-1: 'CAFÉ x'. Save the file"),
    "Windows-1252": (b"\x93so\x94\n", ":1: byte 0x93 at 1 is not UTF-8, but may be Windows-1252: '“so”'"),
    "unknown": (b"a\n\x81\x8d\n", ":2: byte 0x81 at 1 is not UTF-8; save the file as UTF-8"),
    "UTF-16": ("a\nb\n".encode("utf-16"), ": the file is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8"),
    "UTF-16 BE": (b"\xfe\xff\x00a", ": the file is UTF-16"),
    "UTF-32": ("a\n".encode("utf-32"), ": the file is UTF-32"),
    "UTF-16 without mark": ("a\nb\n".encode("utf-16-le"), ":1: a NUL byte at 2: the file is damaged, or UTF-16"),
    "NUL": (b"a\nb\r\nc\0\n", ":3: a NUL byte at 2"),
    "half a gzip file": (gzip.compress(b"a\n" * 99)[:-9], ": not a whole gzip file"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path: Path, what: str) -> None:
    data, message = UNREADABLE[what]
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(BenchmarkError) as caught:
        list(text.lines(path))
    assert str(caught.value).startswith(f"{path}{message}")
    problems: text.Problems = []
    list(text.lines(path, problems))
    number, problem = problems[0]
    assert f"{path}{f':{number}' if number else ''}: {problem}" == str(caught.value)


def test_all_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n\xe9\nb\n\xe9\0\nc")
    problems: text.Problems = []
    assert list(text.lines(path, problems)) == [(1, "a"), (3, "b"), (5, "c")]
    assert [number for number, _ in problems] == [2, 4]


def test_western_european_where_only_ascii_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nAndr\xe9\n\x93b\x94\n\xc3\xa9\n")
    assert [line for _, line in text.lines(path, western=True)] == ["a", "André", "“b”", "é"]
    assert "2 lines are not UTF-8 and are read as Western European (Windows-1252): 2, 3" in caplog.text


def test_large_files_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\n" + b"\xe9\n")
    assert next(text.lines(path)) == (1, "first")
    with pytest.raises(BenchmarkError, match="no_such"):
        next(text.lines(tmp_path / "no_such"))


# ------------------------------------------------------------------------------------------------------------- tables

TABLES = (
    # what, content, cells, problems
    ("plain quotes", 'a\tb\n1\t"is it far\n2\tno\n3\the said"\n4\tx\n',
        [["a", "b"], ["2", "no"], ["3", 'he said"'], ["4", "x"]], {2: "closed on line 4"}),
    ("open to the end", 'a\tb\n1\t"x\n2\ty\n3\tz', [["a", "b"], ["2", "y"], ["3", "z"]], {2: "unexpected end of data"}),
    ("text behind a quote", 'a\tb\n1\t"x" y\n2\tz\n', [["a", "b"], ["2", "z"]], {2: "expected after"}),
    ("as csv writes", 'a\tb\n1\t"x ""y"" z"\n2\t"a\tb"\n', [["a", "b"], ["1", 'x "y" z'], ["2", "a\tb"]], {}),
    ("a line break that looks like none", 'a\tb\n1\t"x\ny z"\n2\tw\n', [["a", "b"], ["1", "x\ny z"], ["2", "w"]], {}),
    ("all in quotes", '"a"\t"b"\n"1"\t"x\ny\tz"\n"2"\t"w"\n', [["a", "b"], ["1", "x\ny\tz"], ["2", "w"]], {}),
    ("quotes within", 'a\tb\n1\tsays "x"\n2\t\'y\n', [["a", "b"], ["1", 'says "x"'], ["2", "'y"]], {}),
)  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("delimiter", ["\t", ","], ids=["tsv", "csv"])
@pytest.mark.parametrize(("content", "cells", "problems"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
def test_no_row_is_swallowed(
    tmp_path: Path, content: str, cells: list[list[str]], problems: dict[int, str], delimiter: str, end: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content.replace("\t", delimiter).replace("\n", end).encode())
    noted: text.Problems = []
    found = [row for _, row in text.records(path, delimiter, noted)]
    assert found == [[cell.replace("\t", delimiter).replace("\n", end) for cell in row] for row in cells]
    assert [number for number, _ in noted] == list(problems)
    assert all(part in problem for (_, problem), part in zip(noted, problems.values(), strict=True))


@given(
    st.lists(
        st.lists(st.text(st.sampled_from('ab"\t,\n\r'), max_size=5), min_size=2, max_size=2), min_size=1, max_size=5
    )
)
@quick
def test_what_manifests_write_is_read(tmp_path: Path, rows: list[list[str]]) -> None:

    written = [Utterance(str(k), f"/{k}.wav", text=row[0] or None) for k, row in enumerate(rows)]
    for name in ("a.tsv", "a.csv"):
        manifest.write(tmp_path / name, written)
        assert manifest.read(tmp_path / name) == written


# -------------------------------------------------------------------------------------------------------- all readers


def utf8(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


ODD = f"x{DATA}y"
ARPA = ["\\data\\", "ngram 1=2", "", "\\1-grams:", "-1\tA\t0", "-1\tCAT\t0", "", "\\end\\"]
ROWS = [{"id": "a", "path": "a.wav", "text": ODD}, {"id": "b", "path": "b.wav", "text": "höre"}]


def evaluation(items: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        if not (folder / "evaluation.json").exists():
            (folder / "evaluation.json").write_text(describe(items, ["eer", "accuracy", "wer"]), encoding="utf-8")
        about = read_about(folder)
        assert about is not None
        found = read_items(folder, about)
        return {name: getattr(found, name) for name in ("ids", "clusters", "cluster", *found.columns)}

    return read


def of_kaldi(folder: Path) -> Any:
    for name in "ab":
        if not (folder / f"{name}.wav").exists():
            soundfile.write(folder / f"{name}.wav", np.zeros(16000), 16000)
    return kaldi.read(folder, folder)


def of_lhotse(folder: Path) -> Any:
    soundfile.write(folder / "a.wav", np.zeros(16000), 16000)
    return lhotse.read(folder / "cuts_x.jsonl", folder)


CUT = {
    "id": "c", "start": 0.0, "duration": 1.0, "channel": 0, "type": "MonoCut",
    "supervisions": [{"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": ODD}],
    "recording": {
        "id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16000,
        "num_samples": 16000, "duration": 1.0, "channel_ids": [0],
    },
}  # fmt: skip
two = np.array([0, 1])
TRIALS = Trials(["a", "b c", "d"], ["s", "s", "t"], "speaker", two, np.array([0, 0]), np.array([2, 1]), two / 2)
CLASSES = Classes(["a", "b"], ["a", "b"], "utterance", ["x", ODD], two, two[::-1], None)
EDITS = Edits(["a", "b"], ["a", "b"], "utterance", ["x y", ODD], ["x", "z"])
PREDICTIONS = [json.dumps({"id": k, "reference": ODD, "prediction": "x"}, ensure_ascii=False) for k in "ab"]
CARD = ["name: x", "aliases: [y]", "summary: 'ä'", "task: asr", "corpus: librispeech", "version: 2"]

LETTERS = Alphabet(ALPHABETS["librispeech"])
OBJECTS = [json.dumps(row, ensure_ascii=False) for row in ROWS]
LISTED = {"a", "b c", "d"}

READERS: dict[str, tuple[str, list[str], Callable[[Path], Any]]] = {
    "manifest.jsonl": ("a.jsonl", OBJECTS, lambda f: manifest.read(f / "a.jsonl")),
    "manifest.json": ("a.json", ["[", ",\n".join(OBJECTS), "]"], lambda f: manifest.read(f / "a.json")),
    "manifest.csv": ("a.csv", ["path,text", f"a.wav,{ODD}", 'b.wav,"a, b"'], lambda f: manifest.read(f / "a.csv")),
    "manifest.tsv": ("a.tsv", ["path\ttext", f"a.wav\t{ODD}", "b.wav\thöre"], lambda f: manifest.read(f / "a.tsv")),
    "trial list": ("t.txt", ["1 a b c", "0\ta\td", "", "1 a b%20c"], lambda f: read_trials(f / "t.txt", LISTED)),
    "scores": ("scores.txt", ["0 a d 0", "1 a b%20c 0.5", "0 a b c 0.5"], evaluation(TRIALS)),
    "predictions, classes": ("predictions.jsonl", PREDICTIONS, evaluation(CLASSES)),
    "predictions, edits": ("predictions.jsonl", PREDICTIONS, evaluation(EDITS)),
    "evaluation.json": ("evaluation.json", describe(TRIALS, ["eer"]).splitlines(), read_about),
    "scores of 0.1": ("scores.txt", ["0 a b 0.5", "1 a c 0.25"], recover.trials),
    "predictions of 0.1": ("predictions.jsonl", PREDICTIONS, recover.edits),
    "wav.scp": ("wav.scp", ["a a.wav", "b\tb.wav"], of_kaldi),
    "lhotse cuts": ("cuts_x.jsonl", [json.dumps(CUT, ensure_ascii=False)], of_lhotse),
    "lexicon": ("l", ["A A |", "CAT C A T |"], lambda f: read_lexicon(LMConfig("x", str(f / "l")), LETTERS)),
    "ARPA": ("l", ARPA, lambda f: read_lexicon(LMConfig(str(f / "l")), LETTERS)),
    "configuration": ("c.yaml", ["optim:", "  lr: 1", "notes: ä"], lambda f: config.read_yaml(f / "c.yaml")),
    "protocol card": ("c.yaml", CARD, lambda f: {**read_card(f / "c.yaml"), "path": None}),
}  # fmt: skip
"""Reader -> file, its lines, and what reads it of its folder. Those of corpora are below."""
SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "\\r\\n": lambda data: data.replace(b"\n", b"\r\n"),
    "\\r": lambda data: data.replace(b"\n", b"\r"),
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "BOM, \\r\\n": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
    "blank lines": lambda data: data.replace(b"\n", b"\n \t\n\n"),
    "no last line end": lambda data: data.rstrip(b"\n"),
}


def plain(value: Any) -> Any:
    """Results that can be compared: without folders, arrays as lists."""
    return re.sub(r"/[^ ']*?/made/", "/made/", repr(value.__dict__ if hasattr(value, "__dict__") else value))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_every_spelling(tmp_path: Path, reader: str, spelling: str) -> None:
    name, lines, read = READERS[reader]
    if spelling == "blank lines" and name.endswith((".yaml", ".json")):
        pytest.skip("data of such files")
    results = []
    for change in (lambda data: data, SPELLINGS[spelling]):
        folder = tmp_path / str(len(results)) / "made"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(change(utf8(lines)))
        results.append(plain(read(folder)))
    assert results[0] == results[1]
    assert name.endswith((".yaml", ".txt", ".scp", "l", ".json")) or repr(DATA)[1:-1] in results[0]


@pytest.mark.parametrize("what", ["Latin-1", "UTF-16", "NUL"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_file_and_line(tmp_path: Path, reader: str, what: str) -> None:
    name, lines, read = READERS[reader]
    whole = utf8(lines)
    if what == "UTF-16":
        data, message = whole.decode().encode("utf-16"), f"{name}: the file is UTF-16"
    else:
        bad = whole.split(b"\n")
        line = 1 if reader in ("evaluation.json", "lhotse cuts") else 2
        bad[line - 1] = bad[line - 1].replace(b" ", b" \xe9" if what == "Latin-1" else b" \0", 1)
        if b"\xe9" not in bad[line - 1] and b"\0" not in bad[line - 1]:
            bad[line - 1] += b"\xe9" if what == "Latin-1" else b"\0"
        data = b"\n".join(bad)
        message = f"{name}:{line}: " + ("byte 0xe9" if what == "Latin-1" else "a NUL byte")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BenchmarkError) as caught:
        read(tmp_path)
    assert message in str(caught.value)


# -------------------------------------------------------------------------------------------------------- all corpora

CORPORA = [entry.name for entry in registry.corpora]
TEXTS = (".txt", ".tsv", ".csv")
UNUSED = re.compile(r"CommonLanguage/.*csv")
"""Text files of corpora that are not read (and are UTF-16)."""
WESTERN = re.compile(r"SPEAKERS.TXT|vox._meta.csv|EmoEvaluation")
"""Text files of which only columns in ASCII are used."""


def copy(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A data root with linked audio and changed text files."""
    for folder, _, names in os.walk(source):
        below = target / os.path.relpath(folder, source)
        below.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in TEXTS and not UNUSED.search(str(path)):
                (below / name).write_bytes(change(str(path), path.read_bytes()))
            else:
                os.link(path, below / name)
    return target


def read_corpus(name: str, root: Path) -> str:
    corpus = registry.corpora.get(name).load()(root)
    trials = {key: list(corpus.trials[key]) for key in corpus.trials}
    return repr((corpus.name, corpus.splits, trials)).replace(str(root), "ROOT")


@pytest.mark.medium
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_corpus_takes_every_spelling(corpora_root: Path, tmp_path: Path, spelling: str) -> None:
    root = copy(corpora_root, tmp_path / "root", lambda _, data: SPELLINGS[spelling](data))
    for name in CORPORA:
        assert read_corpus(name, root) == read_corpus(name, corpora_root), name


@pytest.mark.medium
def test_every_text_file_of_every_corpus_is_named(corpora_root: Path, tmp_path: Path) -> None:
    """Each in turn gets a byte that is not UTF-8; one that is not read, or whose names are not used, does no harm."""
    good = {name: read_corpus(name, corpora_root) for name in CORPORA}
    files = [
        path.relative_to(corpora_root)
        for path in sorted(corpora_root.rglob("*"))
        if path.suffix.lower() in TEXTS and not UNUSED.search(str(path)) and path.is_file()
    ]
    root = copy(corpora_root, tmp_path / "root", lambda _, data: data)
    kinds: dict[str, Path] = {re.sub(r"\d+", "N", str(file)): file for file in files}
    named, refused = set(), set()
    for file in kinds.values():
        before = (root / file).read_bytes()
        first, end, rest = before.partition(b"\n")
        changed = first + end + rest.replace(b" ", b" \xe9", 1) if b" " in rest else before + b"\xe9"
        in_the_last_column = before.rstrip() + b" \xe9\n"
        (root / file).write_bytes(in_the_last_column if WESTERN.search(str(file)) else changed)
        for name in CORPORA:
            try:
                assert read_corpus(name, root) == good[name], (name, file)
            except BenchmarkError as error:
                message = str(error)
                assert re.search(rf"{re.escape(str(root / file))}:\d+: byte 0xe9", message), message
                named.add(file.name)
                refused.add(str(file))
        (root / file).write_bytes(before)
    assert not [file for file in refused if WESTERN.search(file)]
    assert {"veri_test2.txt", "iden_split.txt", "train.tsv", "validation_list.txt", "train_data.csv"} <= named


# ------------------------------------------------------------------------------------------------------------- errors


READ_OWN = (
    "benchmark/commands/doctor.py", "benchmark/engine/extract.py", "benchmark/engine/feature_shards.py",
    "benchmark/engine/trackers.py", "benchmark/report/collect.py",
    "benchmark/results.py", "benchmark/study/claims.py", "benchmark/study/executors/__init__.py",
    "benchmark/study/executors/ray.py", "benchmark/study/recipe.py", "benchmark/study/runner.py",
    "benchmark/study/status.py", "downstream/corpora/debian_speech/building.py",
    "downstream/corpora/debian_speech/check.py", "downstream/corpora/debian_speech/clips.py",
    "downstream/corpora/debian_speech/packages.py", "downstream/corpora/synthetic/writing.py",
    "upstream/download.py", "upstream/hub.py", "upstream/wav2vec2/cards.py",
)  # fmt: skip
"""Modules that read text which this program, or the system, has written."""


def test_there_is_no_other_reader_of_text() -> None:
    found = {
        str(path.relative_to(REPOSITORY))
        for package in ("benchmark", "downstream", "upstream")
        for path in (REPOSITORY / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "read_text"
    }
    assert found <= set(READ_OWN), "read what users bring by benchmark.text"


@pytest.mark.parametrize("value", [b"x", {1: object()}, float("nan"), {"a"}, 1j, "x" * 99, None, "\udce9"])
def test_any_value_can_be_shown(value: object) -> None:
    assert 0 < len(show(value)) <= 60


def test_a_value_that_cannot_be_shown() -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    loop: list[Any] = []
    loop.append(loop)
    assert show(Bad()) == "a Bad"
    assert show(loop) == "[[...]]"


def test_the_end_of_a_stretch_is_explained(tmp_path: Path) -> None:
    for name in ("end", "End", "end_time", "stop"):
        (tmp_path / "a.csv").write_text(f"path,start,{name}\na.wav,1,2\n")
        with pytest.raises(BenchmarkError, match=rf"unknown column '{name}'.*write a column duration = end - start"):
            manifest.read(tmp_path / "a.csv")


def test_json_manifests(tmp_path: Path) -> None:
    """Objects a line, as NeMo writes, or one array, as pandas does; in upper case, too."""
    expected = [(u.id, u.text) for u in manifest.read(_written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, ROWS))))]
    for name, content in (
        ("a.json", "\n".join(map(json.dumps, ROWS))),
        ("b.json", json.dumps(ROWS)),
        ("c.json", json.dumps(ROWS, indent=2, ensure_ascii=False)),
        ("D.JSONL", "\n".join(map(json.dumps, ROWS))),
    ):
        assert [(u.id, u.text) for u in manifest.read(_written(tmp_path / name, content))] == expected
    for content, part in (
        ('[\n{"path": "a"},\n\n{"path": 3}]', r":4: path must be text"),
        ('[{"path": "a"},\n{"path" "b"}]', r":2: invalid JSON: Expecting ':' delimiter at line 2"),
        ('[{"path": "a"},\n3]', r":2: expected one object per line"),
        ('[{"path": "a"},\n', r":2: invalid JSON: Expecting value"),
        ("[]", "contains no utterances"),
    ):
        with pytest.raises(BenchmarkError, match=part):
            manifest.read(_written(tmp_path / "e.json", content))


def _written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path
