"""Manifests: what is written is read back, and all that is wrong is named in one pass."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.data import manifest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Trial, Utterance

# ------------------------------------------------------------------------------------------------------ round trips

LABELS = ("emotion", "words", "ß ü")
BREAKS = "\0\r\n"
"""What names cannot have; texts may have line breaks."""
name_characters = st.characters(exclude_categories=["Cs"], exclude_characters=BREAKS)
label = st.text(name_characters, min_size=1).filter(lambda text: text == text.strip())
seconds = st.floats(0, 1e6, exclude_min=True)
names = st.text(name_characters, min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and not text.startswith("/")
)
utterances = st.builds(
    Utterance,
    id=label,
    path=names.map(lambda name: f"/corpora/{name}"),
    start=st.one_of(st.just(0.0), seconds),
    duration=st.none() | seconds,
    text=st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    speaker=st.none() | label,
    language=st.none() | label,
    session=st.none() | label,
    split=st.none() | label,
    gender=st.sampled_from([None, "f", "m"]),
    labels=st.dictionaries(st.sampled_from(LABELS), label, max_size=2),
)
lists = st.lists(utterances, min_size=1, max_size=5, unique_by=lambda utterance: utterance.id)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(lists)
@quick
def test_jsonl_round_trip(tmp_path: Path, given_list: list[Utterance]) -> None:
    manifest.write(tmp_path / "a.jsonl", given_list)
    assert manifest.read(tmp_path / "a.jsonl", LABELS) == given_list


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@given(lists)
@quick
def test_table_round_trip(tmp_path: Path, name: str, given_list: list[Utterance]) -> None:
    manifest.write(tmp_path / name, given_list)
    expected = [replace(u, text=u.text or None) for u in given_list]  # a cell cannot be empty and there
    assert manifest.read(tmp_path / name, LABELS) == expected


def test_the_text_that_breaks_readers(tmp_path: Path) -> None:
    texts = [
        '"quoted" and, comma',
        "two\nlines\r\nand\rmore",
        "\u2028 \x85 \x0b",
        "\t",
        "'",
        "ß 你好 🎧",
        '""',
        "a\\nb",
    ]
    given_list = [Utterance(id=str(number), path=f"/a/{number}.wav", text=text) for number, text in enumerate(texts)]
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        manifest.write(tmp_path / name, given_list)
        assert manifest.read(tmp_path / name) == given_list


def test_json_and_csv_are_what_other_tools_read(tmp_path: Path) -> None:
    given_list = [Utterance("a", "/x/a.wav", 1.5, 2.25, text="höre,\n„du“"), Utterance("b", "/x/b.wav", speaker="s")]
    manifest.write(tmp_path / "a.jsonl", given_list)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()] == [
        {"id": "a", "path": "/x/a.wav", "start": 1.5, "duration": 2.25, "text": "höre,\n„du“"},
        {"id": "b", "path": "/x/b.wav", "speaker": "s"},
    ]
    manifest.write(tmp_path / "a.csv", given_list)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"id": "a", "path": "/x/a.wav", "start": "1.5", "duration": "2.25", "text": "höre,\n„du“", "speaker": ""},
            {"id": "b", "path": "/x/b.wav", "start": "", "duration": "", "text": "", "speaker": "s"},
        ]


def test_file_names_that_are_no_unicode(tmp_path: Path) -> None:
    given_list = [Utterance("a", "/x/" + os.fsdecode(b"\xff\xe9.wav"))]
    manifest.write(tmp_path / "a.jsonl", given_list)
    assert manifest.read(tmp_path / "a.jsonl") == given_list
    with pytest.raises(BenchmarkError, match=r"is not Unicode; write .jsonl"):
        manifest.write(tmp_path / "a.csv", given_list)


# ------------------------------------------------------------------------------------------------------------ paths


def test_paths_count_from_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.csv").write_text("path\nwav/a.wav\n../b.wav\n/c.wav\n")
    monkeypatch.chdir(tmp_path)
    found = manifest.read("m/a.csv")
    assert [u.path for u in found] == [f"{tmp_path}/m/wav/a.wav", f"{tmp_path}/m/../b.wav", "/c.wav"]
    assert [u.id for u in found] == ["wav/a.wav", "../b.wav", "/c.wav"]


def test_audio_below_the_manifest_moves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given_list = [
        Utterance("a", f"{tmp_path}/m/wav/a.wav"),
        Utterance("b", f"{tmp_path}/mm/b.wav"),
        Utterance("c", "c.wav"),
    ]
    manifest.write("m/a.jsonl", given_list)
    written = [json.loads(line)["path"] for line in (tmp_path / "m" / "a.jsonl").read_text().splitlines()]
    assert written == ["wav/a.wav", f"{tmp_path}/mm/b.wav", f"{tmp_path}/c.wav"]
    (tmp_path / "m").rename(tmp_path / "elsewhere")
    assert [u.path for u in manifest.read("elsewhere/a.jsonl")] == [f"{tmp_path}/elsewhere/wav/a.wav", *written[1:]]


def test_bom_blank_lines_and_line_ends(tmp_path: Path) -> None:
    for name, data in (
        ("a.jsonl", b'\xef\xbb\xbf{"path": "a.wav", "text": "\xc3\xa4"}\r\n\r\n{"path": "b.wav", "start": 1}\r\n'),
        ("a.csv", b'\xef\xbb\xbfpath,text,start\r\na.wav,\xc3\xa4,\r\n\r\nb.wav,,1\r\n'),
        ("a.tsv", b"path\ttext\tstart\na.wav\t\xc3\xa4\t\n\nb.wav\t\t1"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        first, second = manifest.read(tmp_path / name)
        assert (first.id, first.text, first.start) == ("a.wav", "ä", 0.0)
        assert (second.id, second.text, second.start, second.duration) == ("b.wav", None, 1.0, None)


# ----------------------------------------------------------------------------------------------------------- errors

BAD_JSONL = """\
{"wav": "a.wav", "spk": "x"}
{"wav": "b.wav", "duration": -1}
{"path": "c.wav", "spaeker": 1, "level": 2}
{"path": "d.wav", "speaker": 17, "start": NaN}
{"path": "e.wav", "speaker": 17, "start": 1e999}
[1]
{"path":
{"path": "f.wav", "path": "g.wav"}
{}
{"path": " h.wav", "id": ""}
{"path": "i.wav", "duration": true, "start": "1"}
{"path": "j.wav", "duration": 0, "start": -0.5}
{"path": "k.wav", "gender": "female", "text": ["a"]}
{"path": "l.wav"}
{"path": "l.wav", "start": 1}
{"id": "l.wav", "path": "m.wav"}
"""
BAD_LINES = [
    (1, "unknown column 'spk'. Did you mean 'speaker'?"),
    (1, "unknown column 'wav' (on 2 lines). Did you mean 'path'?"),
    (2, "duration must be more than 0 seconds, found -1"),
    (3, "unknown column 'spaeker'. Did you mean 'speaker'? known: id, path"),
    (4, "invalid JSON: NaN is not a JSON number; leave the field out"),
    (5, "speaker must be text, found 17; put it in quotes"),
    (5, "start must be a finite number of seconds, found inf"),
    (6, 'expected one object per line, {"path": …}, found an array'),
    (7, "invalid JSON: Expecting value at character 9"),
    (8, "invalid JSON: duplicate key 'path'"),
    (9, "no path"),
    (10, "id is empty"),
    (10, "path ' h.wav' begins or ends with white space"),
    (11, "duration must be a number of seconds, found true"),
    (11, 'start must be a number of seconds, found "1"'),
    (12, "duration must be more than 0 seconds, found 0"),
    (12, "start must be 0 or more seconds, found -0.5"),
    (13, "gender must be 'f' or 'm', found 'female'"),
    (13, 'text must be text, found ["a"]'),
    (15, "id 'l.wav' is already on line 14. Ids default to the path"),
    (16, "id 'l.wav' is already on line 14"),
]


def test_one_pass_finds_everything(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(BAD_JSONL)
    problems = manifest.scan(path).messages()
    assert len(problems) == len(BAD_LINES)
    for problem, (line, text) in zip(problems, BAD_LINES, strict=True):
        assert problem.startswith(f"{path}:{line}: {text}")
    with pytest.raises(BenchmarkError) as caught:
        manifest.read(path)
    said = str(caught.value).splitlines()
    assert said[0] == f"{path}: 21 problems:"
    assert [line.strip() for line in said[1:11]] == problems[:10]
    assert said[11:] == ["  … and 11 more"]


BAD_FILES = [
    (
        "a.csv", "wav,spk,Text,\na.wav,x,1,2\n",
        ["4 problems", ":1: unknown column 'wav'. Did you mean 'path'", "'Text'. Did you mean 'text'", "index=False"],
    ),
    ("a.csv", "wav,start\na.wav,-1\n", ["2 problems", "unknown column 'wav'", ":2: start must be 0 or more"]),
    ("a.csv", "speaker\nx\n", [":1: there is no column 'path'"]),
    ("a.csv", "path,path\nx,y\n", [":1: duplicate column 'path'"]),
    ("a.csv", "path;speaker\na.wav;x\n", [":1: expected a header with columns of id, path", "separated by ';'"]),
    ("a.tsv", "path,speaker\na.wav,x\n", ["separated by ','"]),
    ("a.csv", "/data/a.wav,1\n/data/b.wav,2\n", ["expected a header", "found /data/a.wav, 1"]),
    (
        "a.csv", 'path,text\n"a\nb",c\nd\ne,f,g\n',
        [
            "3 problems", ':2: path "a\\nb" has a line break', ":4: 1 cells, but the header has 2", ":5: 3 cells",
            "quote a text",
        ],
    ),
    (
        "a.csv", 'path,text\na,"b"c\nd,"e\n',
        ["2 problems", ":2: ',' expected after '\"'", ":3: unexpected end of data; a cell that begins"],
    ),
    (
        "a.csv", "path,duration\na,1.5s\nb,nan\nc,0\n",
        ["3 problems", ':2: duration must be a number of seconds, found "1.5s"', ":3:", ":4:"],
    ),
    ("a.csv", b"path,text\na,\xe9\nb,c\n", ["1 problem:", ":2: byte 0xe9 at 3 is not UTF-8"]),
    ("a.csv", "path,text\na,b\n".encode("utf-16"), ["UTF-16; save it as UTF-8"]),
    ("a.csv", "", ["contains no utterances"]),
    ("a.csv", "id,path\n", ["contains no utterances"]),
    ("a.jsonl", "\n \n", ["contains no utterances"]),
    ("a.jsonl", b'{"path": "\xe9"}\n', [":1: byte 0xe9 at 11 is not UTF-8"]),
    ("a.jsonl", "[" * 100_000, ["one JSON array"]),
    ("a.jsonl", '{"path": "a"}\n' + "[" * 100_000, [":2: invalid JSON: maximum recursion depth"]),
    ("a.jsonl", '{"path": "a", "start": 1' + "0" * 400 + "}", [":1: start must be a finite number"]),
    ("a.jsonl", '[{"path": "a"}]', ["one JSON array; write one object per line", "or name the file .json"]),
    ("a.jsonl", '{"supervisions": [], "recording": {}}', ["wavbench prepare lhotse"]),
    ("a.json", "", ["contains no utterances"]),
    ("a.yaml", "", ["ends in .jsonl or .json (one object per line), .csv or .tsv", "not in '.yaml'"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "parts"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_errors_name_file_and_line(tmp_path: Path, name: str, data: str | bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(BenchmarkError) as caught:
        manifest.read(tmp_path / name)
    for part in [str(tmp_path / name), *parts]:
        assert part in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"manifest .*/a.csv not found"):
        manifest.read(tmp_path / "a.csv")
    with pytest.raises(BenchmarkError, match=r"is a folder.*wavbench prepare"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"duration": float("nan")}, "duration must be a finite number"),
        ({"start": -1.0}, "start must be 0 or more"),
        ({"speaker": " x"}, "white space"),
        ({"speaker": ""}, "speaker is empty"),
        ({"text": 3}, "text must be text"),
        ({"id": "twice"}, "duplicate id"),
        ({"labels": {"speaker": "x"}}, "label 'speaker' has the name of a field; rename it"),
        ({"labels": {"labels": "x"}}, "label 'labels' has the name of a field"),
        ({"labels": {"": "x"}}, "the name of label '' is empty"),
        ({"labels": {"emotion ": "x"}}, "the name of label 'emotion ' is empty, or begins or ends with white space"),
        ({"labels": {"emotion": ""}}, "emotion is empty"),
        ({"labels": {"emotion": 3}}, "emotion must be text"),
        ({"speaker": "a\nb"}, 'speaker "a\\nb" has a line break'),
        ({"id": "a\rb"}, 'id "a\\rb" has a line break'),
        ({"labels": {"emotion": "a\0"}}, 'emotion "a\\u0000" has a NUL character'),
        ({"text": "a\0"}, "has a NUL character"),
        ({"text": "a\udce9"}, 'text "a\udce9" is not Unicode'),
        ({"id": "a\ud800"}, "is not Unicode: it has half of a surrogate pair"),
    ],
)
def test_nothing_is_written_that_cannot_be_read(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    bad = Utterance(**{"id": "bad", "path": "/a.wav", **changes})
    with pytest.raises(BenchmarkError) as caught:
        manifest.write(tmp_path / "a.jsonl", [Utterance("twice", "/b.wav"), bad])
    assert part in str(caught.value)
    with pytest.raises(BenchmarkError, match="no utterances"):
        manifest.write(tmp_path / "a.jsonl", [])
    with pytest.raises(BenchmarkError, match=r"ends in .jsonl"):
        manifest.write(tmp_path / "a.txt", [Utterance("a", "/a.wav")])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- trials and splits


def test_trials(tmp_path: Path) -> None:
    path = tmp_path / "trials.txt"
    path.write_bytes(b"\xef\xbb\xbf1 a b\r\n\r\n0\ta  c\r\n")
    assert manifest.read_trials(path, {"a", "b", "c"}) == [Trial(1, "a", "b"), Trial(0, "a", "c")]
    assert manifest.read_trials(path, iter("abc")) == manifest.read_trials(path, ["a", "b", "c"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["not found", "one trial per line: 1 (same speaker) or 0"]),
        ("\n", ["is empty"]),
        ("1 a b\n2 a b\nx\n1 a b c\n", ["3 problems", ":2: expected '<1 or 0> <enrolment> <test>', got", ":4:"]),
        ("a b target\n", ["Kaldi's order"]),
        (
            "1 a b\n0 c d\n1 d e\n0 e f\n",
            ["names 4 utterances (of 6)", "do not exist: c, d, e and 1 more", "ids in the test"],
        ),
    ],
)  # fmt: skip
def test_bad_trials(tmp_path: Path, text: str | None, parts: list[str]) -> None:
    path = tmp_path / "trials.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BenchmarkError) as caught:
        manifest.read_trials(path, {"a", "b"})
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_trial_lists_of_corpora_give_their_own_advice(tmp_path: Path) -> None:
    path = tmp_path / "trials.txt"
    for text, part in (
        (None, "get it HERE"),
        ("\n", "get it HERE"),
        ("?", "get it HERE"),
        ("1 a z", "unpack it THERE"),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(BenchmarkError, match=part):
            manifest.read_trials(path, {"a"}, source="get it HERE", where="unpack it THERE")


def test_corpus_of_manifests(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        manifest.write(
            tmp_path / f"{name}.jsonl", [Utterance(name, f"/{name}.wav"), Utterance(f"{name}2", f"/{name}2.wav")]
        )
    (tmp_path / "trials.txt").write_text("1 test test2\n")
    found = manifest.corpus(
        tmp_path / "train.jsonl", tmp_path / "dev.jsonl", tmp_path / "test.jsonl", tmp_path / "trials.txt"
    )
    assert (found.name, list(found.splits)) == ("manifests", ["train", "dev", "test"])
    assert [u.id for u in found.splits["dev"]] == ["dev", "dev2"]
    assert found.trials == {"trials": [Trial(1, "test", "test2")]}
    only = manifest.corpus(test=str(tmp_path / "test.jsonl"))
    assert only == Corpus("manifests", {"test": found.splits["test"]}, {})


def test_all_manifests_are_read_before_any_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"path": 1}\n')
    manifest.write(tmp_path / "test.jsonl", [Utterance("a", "/a.wav")])
    (tmp_path / "trials.txt").write_text("1 a b\n")
    with pytest.raises(BenchmarkError) as caught:
        manifest.corpus(
            tmp_path / "train.jsonl", tmp_path / "dev.csv", tmp_path / "test.jsonl", tmp_path / "trials.txt"
        )
    lines = [line for line in str(caught.value).splitlines() if line.startswith("--")]
    assert [line.split(":")[0] for line in lines] == ["--train", "--dev", "--trials"]
    with pytest.raises(BenchmarkError, match="give --train, --dev or --test"):
        manifest.corpus()
    with pytest.raises(BenchmarkError, match="give --test FILE as well"):
        manifest.corpus(tmp_path / "test.jsonl", trials=tmp_path / "trials.txt")


# ------------------------------------------------------------------------------------------------------------ labels

LABELLED = '{"path": "/a.wav", "emotion": "joy", "level": "3"}\n{"path": "/b.wav", "level": null}\n'


def test_labels_are_read_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LABELLED)
    (tmp_path / "a.csv").write_text("path,emotion,level\n/a.wav,joy,3\n/b.wav,,\n")
    for name in ("a.jsonl", "a.csv"):
        first, second = manifest.read(tmp_path / name, labels=("emotion", "level", "speaker"))
        assert (first.labels, second.labels) == ({"emotion": "joy", "level": "3"}, {})
        assert (first.label("emotion"), second.label("emotion"), first.label("speaker")) == ("joy", None, None)
        for path in ({"train": tmp_path / name}, {"dev": tmp_path / name}, {"test": tmp_path / name}):
            (found,) = manifest.corpus(**path, labels=("emotion", "level")).splits.values()
            assert found == [first, second]


def test_a_manifest_serves_several_tasks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those that ask for fewer labels ignore the others, whatever they hold, and say so."""
    (tmp_path / "a.jsonl").write_text('{"path": "/a.wav", "emotion": 1, "level": "3"}\n')
    (tmp_path / "a.csv").write_text("path,emotion,level\n/a.wav,joy,3\n")
    for name in ("a.jsonl", "a.csv"):
        for labels, ignored in (((), "emotion, level"), (("level",), "emotion"), (("labels", "level"), "emotion")):
            caplog.clear()
            (found,) = manifest.read(tmp_path / name, labels=labels)
            assert found == Utterance("/a.wav", "/a.wav", labels={"level": "3"} if labels else {})
            (said,) = caplog.messages
            assert said.startswith(f"{tmp_path / name}: columns that nothing asks for are ignored: {ignored} (")
            assert manifest.corpus(test=tmp_path / name, labels=labels).splits == {"test": [found]}


@pytest.mark.parametrize("name", ["speker", "Speaker", "strat", "langage", "txt", "TEXT", "split2"])
def test_what_looks_like_a_misspelt_field_is_not_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": "/a.wav", name: "x"}))
    (tmp_path / "a.csv").write_text(f"path,{name}\n/a.wav,x\n")
    for file in ("a.jsonl", "a.csv"):
        with pytest.raises(BenchmarkError, match=rf"unknown column '{name}'\. Did you mean '.*Rename or remove it$"):
            manifest.read(tmp_path / file)
        assert manifest.read(tmp_path / file, labels=[name])[0].labels == {name: "x"}


@pytest.mark.parametrize("name", ["start_sec", "startTime", "begin_time", "segment_end", "xmin", "dur_s", "End Time"])
def test_what_may_say_which_stretch_is_meant_is_not_ignored(tmp_path: Path, name: str) -> None:
    """Whole files would be taken."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": "/a.wav", name: "1.5"}))
    with pytest.raises(BenchmarkError, match=rf"unknown column '{name}'.*write start and duration, in seconds"):
        manifest.read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "name", ["emotion", "location", "action", "keyword", "accent", "speaker_age", "age", "weekend"]
)
def test_usual_labels_do_not_look_like_misspelt_fields(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text(f"path,{name}\n/a.wav,x\n")
    assert manifest.scan(tmp_path / "a.csv").ignored == [name]


def test_a_label_may_be_called_what_other_tools_call_a_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,words,set\n/a.wav,yes,x\n")
    assert manifest.read(tmp_path / "a.csv", labels=("words", "set"))[0].labels == {"words": "yes", "set": "x"}
    with pytest.raises(BenchmarkError, match=r"unknown column 'set'\. Did you mean 'split'"):
        manifest.read(tmp_path / "a.csv", labels=("words",))


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"emotion": 3}, "emotion must be text, found 3; put it in quotes"),
        ({"emotion": {"a": "b"}}, 'emotion must be text, found {"a": "b"}'),
        ({"emotion": ""}, "emotion is empty; leave it out"),
        ({"emotion": " joy"}, "emotion ' joy' begins or ends with white space"),
        ({"labels": {"emotion": "joy"}}, "unknown column 'labels'. known: id, path"),
    ],
    ids=["number", "object", "empty", "space", "nested"],
)
def test_labels_are_plain_text(tmp_path: Path, row: dict[str, Any], part: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": "/a.wav", **row}))
    with pytest.raises(BenchmarkError, match=re.escape(part)):
        manifest.read(tmp_path / "a.jsonl", labels=("emotion", "labels"))


def test_labels_are_written_as_columns(tmp_path: Path) -> None:
    given_list = [
        Utterance("a", "/a.wav", labels={"mood": "x"}),
        Utterance("b", "/b.wav", text="t", labels={"age": "9"}),
    ]
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        manifest.write(tmp_path / name, given_list)
        assert manifest.read(tmp_path / name, labels=("age", "mood")) == given_list
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "id,path,text,mood,age"
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0]) == {"id": "a", "path": "/a.wav", "mood": "x"}


# ------------------------------------------------------------------------------------------------------------- speed


def count_calls(function: Callable[[], object]) -> int:
    """Calls of Python and C functions."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_the_work_grows_with_the_number_of_utterances(tmp_path: Path, name: str) -> None:
    def calls(number: int) -> int:
        given_list = [Utterance(f"{n % 9}/v/{n}", f"/corpora/{n}.wav", 0.0, 4.0, text="words") for n in range(number)]

        def work() -> None:
            manifest.write(tmp_path / name, given_list)
            assert len(manifest.read(tmp_path / name)) == number

        return count_calls(work)

    assert calls(1600) < 4.5 * calls(400)
    assert calls(1600) < 1600 * 150
