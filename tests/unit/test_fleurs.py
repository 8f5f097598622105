"""The FLEURS reader on trees that the test writes, and what it says of tables and trees that are not right."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from support import add_wavs

from benchmark.data import splits
from benchmark.errors import BenchmarkError
from downstream.corpora.fleurs import prepare

SPLITS = ("train", "dev", "test")


def row(sentence: int, file: str, text: str = "a b", gender: str = "FEMALE") -> str:
    return f'{sentence}\t{file}\t"{text.capitalize()}," he said.\t{text}\ta | b |\t160\t{gender}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two configs of three lines a split: a sentence by two speakers, and another."""
    for config in ("en_us", "cmn_hans_cn"):
        folder = tmp_path / "fleurs" / config
        for k, split in enumerate(SPLITS):
            names = [f"{k}{n}{ord(config[0])}.wav" for n in (3, 1, 2)]
            add_wavs(folder / "audio" / split, *names)
            rows = [row(7, names[0]), row(7, names[1], gender="MALE"), row(8, names[2], "‹你好\u2028世界›", "OTHER")]
            (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_reads_the_official_layout(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        corpus = prepare(root)
    assert list(corpus.splits) == list(SPLITS)
    for k, split in enumerate(SPLITS):
        assert [u.id for u in corpus.splits[split]] == [
            f"{config}/{split}/{k}{n}{ord(config[0])}.wav" for config in ("cmn_hans_cn", "en_us") for n in (1, 2, 3)
        ]
        assert all(soundfile.info(u.path).frames == 160 for u in corpus.splits[split])
    found = {u.id: u for u in corpus.splits["dev"]}["en_us/dev/12101.wav"]
    assert (found.language, found.text, found.split) == ("en_us", "‹你好\u2028世界›", "dev")
    assert (found.speaker, found.session) == (None, None)  # not published: readings of a sentence are no speakers
    assert [u.gender for u in corpus.splits["dev"]] == ["m", None, "f"] * 2
    assert "has 2 configs; FLEURS was published with 102" in caplog.text


def test_the_publishers_repository_is_accepted(root: Path) -> None:
    expected = prepare(root)
    shutil.move(root / "fleurs", root / "data")
    (root / "fleurs").mkdir()
    shutil.move(root / "data", root / "fleurs" / "data")
    (root / "fleurs" / "README.md").write_text("")
    found = prepare(root)
    assert {s: [(u.id, u.text) for u in us] for s, us in found.splits.items()} == {
        s: [(u.id, u.text) for u in us] for s, us in expected.splits.items()
    }


def test_digests_without_gender_are_those_of_before(root: Path) -> None:
    """By which runs that were begun before the reader gave the gender are resumed."""
    for utterances in prepare(root).splits.values():
        before = splits.digest([replace(u, gender=None) for u in utterances])
        assert splits.digest(utterances, gender=False) == before != splits.digest(utterances)


def test_tables_may_end_lines_as_windows_does_and_have_a_mark(root: Path) -> None:
    expected = prepare(root)
    table = root / "fleurs" / "en_us" / "test.tsv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert prepare(root) == expected


def test_audio_without_a_line_is_left_out_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = prepare(root)
    add_wavs(root / "fleurs" / "en_us" / "audio" / "test", "99.wav", "._21101.wav")
    with caplog.at_level(logging.WARNING):
        assert prepare(root) == expected
    assert "FLEURS: 1 files are in none of the tables and are left out" in caplog.text
    assert "99.wav" in caplog.text


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    return change


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [shutil.rmtree(p) if (p := folder / n).is_dir() else p.unlink() for n in names] and None


def pack(folder: Path) -> None:
    shutil.rmtree(folder / "en_us" / "audio" / "train")
    (folder / "en_us" / "audio" / "train.tar.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda folder: shutil.move(folder, folder.with_name("FLEURS")) and None,
            ["FLEURS not found", "looked for the folder {root}/fleurs", "FLEURS is it, rename it to fleurs",
             "huggingface.co/datasets/google/fleurs", "--data-root", "$BENCHMARK_DATA"],
        ),
        (remove("en_us", "cmn_hans_cn"), ["no config in {root}/fleurs", "contains: nothing"]),
        (
            remove("en_us/dev.tsv", "cmn_hans_cn/audio/test"),
            ["2 are missing", "{root}/fleurs/en_us/dev.tsv", "{root}/fleurs/cmn_hans_cn/audio/test"],
        ),
        (pack, ["1 are missing", "Unpack {root}/fleurs/en_us/audio/train.tar.gz first"]),
        (append("en_us/dev.tsv", "9\tx.wav\ttext"), ["en_us/dev.tsv:4: expected 7 tab", "got 3: '9\\tx.w"]),
        (append("en_us/dev.tsv", row(9, "x.wav") + "\tmore"), ["dev.tsv:4: expected 7 tab-separated", "got 8"]),
        (append("en_us/dev.tsv", row(9, "x.wav", gender="F")), ["dev.tsv:4: expected", "MALE, FEMALE, OTHER", "'F'"]),
        (append("en_us/dev.tsv", row(9, "x.mp3")), ["dev.tsv:4: expected", ".wav file", "'x.mp3'"]),
        (append("en_us/dev.tsv", "id" + row(9, "x.wav")), ["dev.tsv:4: expected a number", "'id9'"]),
        (append("en_us/dev.tsv", row(9, "11101.wav")), ["dev.tsv:4: 11101.wav is duplicated"]),
        (
            append("en_us/dev.tsv", row(9, "404.wav")),
            ["1 of the files that {root}/fleurs/en_us/dev.tsv lists", "404.wav ({root}/fleurs/en_us/dev.tsv:4)"],
        ),
        (lambda folder: (folder / "en_us" / "dev.tsv").write_text("\n") and None, ["en_us/dev.tsv is empty"]),
        (
            lambda folder: (folder / "en_us" / "dev.tsv").write_bytes(b"\xff\xfe") and None,
            ["en_us/dev.tsv: the file is UTF-16; save it as UTF-8"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_item(root: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    change(root / "fleurs")
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part.replace("{root}", str(root)) in str(caught.value)


def test_hints_at_a_data_root_one_level_off(root: Path) -> None:
    with pytest.raises(BenchmarkError, match="looks like the corpus itself"):
        prepare(root / "fleurs")
