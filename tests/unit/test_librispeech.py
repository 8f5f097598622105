"""The LibriSpeech reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import BenchmarkError
from downstream.corpora.librispeech import SPLITS, prepare, prepare_limited

TREE = {
    "train-clean-100": ["103-1240-0000", "103-1240-0001", "103-1241-0000", "1034-121119-0005"],
    "dev-clean": ["84-121123-0001"],
    "test-clean": ["1089-134686-0000", "1089-134686-0001"],
}
FOLDS = [f"1h/{i}/{kind}" for i in range(6) for kind in ("clean", "other")] + ["9h/clean", "9h/other"]


def add(top: Path, *names: str) -> None:
    """Utterances with their transcripts, 'text of <name>' in upper case."""
    for name in names:
        speaker, chapter, _ = name.split("-")
        folder = top / speaker / chapter
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.flac").write_bytes(b"")  # no audio is opened
        with open(folder / f"{speaker}-{chapter}.trans.txt", "a") as file:
            file.write(f"{name} TEXT OF {name.replace('-', ' ')}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, names in TREE.items():
        add(tmp_path / "LibriSpeech" / split, *reversed(names))
    return tmp_path


@pytest.fixture
def limited(root: Path) -> Path:
    for i, fold in enumerate(FOLDS):
        add(root / "librispeech_finetuning" / fold, f"{200 + i}-1-0000", f"{200 + i}-1-0003")
    (root / "librispeech_finetuning" / "phones").mkdir()
    return root


def test_reads_the_official_layout(root: Path) -> None:
    corpus = prepare(root)
    assert {split: [u.id for u in utterances] for split, utterances in corpus.splits.items()} == TREE
    first = corpus.splits["test-clean"][1]
    assert (first.speaker, first.session, first.split) == ("1089", "134686", "test-clean")
    assert first.text == "TEXT OF 1089 134686 0001"
    assert first.path == str(root / "LibriSpeech/test-clean/1089/134686/1089-134686-0001.flac")


def test_reads_all_seven_splits(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        add(root / "LibriSpeech" / split, f"{500 + number}-1-0000")
    assert tuple(prepare(root).splits) == SPLITS


@pytest.mark.medium
def test_reads_the_synthetic_tree(corpora_root: Path) -> None:
    corpus = prepare_limited(corpora_root)
    assert {*SPLITS, "librilight-10min", "librilight-1h", "librilight-10h"} == corpus.splits.keys()
    speakers = [{u.speaker for u in utterances} for name, utterances in corpus.splits.items() if name in SPLITS]
    assert sum(map(len, speakers)) == len(set().union(*speakers))
    utterances = [utterance for split in corpus.splits.values() for utterance in split]
    assert all(u.text and u.text.isupper() and Path(u.path).is_file() and u.gender for u in utterances)


def test_libri_lights_subsets_are_nested(limited: Path) -> None:
    corpus = prepare_limited(limited)
    ten, hour, hours = ([u.id for u in corpus.splits[f"librilight-{name}"]] for name in ("10min", "1h", "10h"))
    assert ten == ["200-1-0000", "200-1-0003", "201-1-0000", "201-1-0003"]
    assert (len(hour), len(hours)) == (24, 28)
    assert set(ten) < set(hour) < set(hours)
    assert hours == sorted(hours)
    assert prepare(limited).splits == corpus.splits
    assert corpus.splits["librilight-10min"][0].text == "TEXT OF 200 1 0000"


def test_libri_light_may_have_lines_of_utterances_that_it_left_out(limited: Path) -> None:
    (limited / "librispeech_finetuning/1h/0/clean/200/1/200-1-0003.flac").unlink()
    assert [u.id for u in prepare(limited).splits["librilight-10min"]] == ["200-1-0000", "201-1-0000", "201-1-0003"]


def test_libri_light_is_asked_for(root: Path) -> None:
    assert not any(name.startswith("librilight") for name in prepare(root).splits)
    with pytest.raises(BenchmarkError) as caught:
        prepare_limited(root)
    for part in (
        f"looked for the folder {root}/librispeech_finetuning",
        "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz",
        "contains: LibriSpeech",
        "--data-root",
    ):
        assert part in str(caught.value)
    with pytest.raises(BenchmarkError, match=r"data root .*/nowhere does not exist"):
        prepare_limited(root / "nowhere")


def test_an_incomplete_libri_light_is_refused(limited: Path) -> None:
    shutil.rmtree(limited / "librispeech_finetuning/1h/3")
    with pytest.raises(BenchmarkError, match=r"incomplete: no .flac file in 1h/3. Unpack https://dl.fb"):
        prepare(limited)


def test_is_sorted_whatever_the_disk_says(limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = prepare(limited)
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder: str) -> None:
            self.found = scandir(folder)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return sorted(self.found, key=lambda entry: entry.name, reverse=True)

        def __exit__(self, *_: object) -> None:
            self.found.close()

    monkeypatch.setattr(os, "scandir", Reversed)
    assert prepare(limited) == expected


def test_ignores_what_archives_leave_behind(root: Path) -> None:
    chapter = root / "LibriSpeech/dev-clean/84/121123"
    (chapter / "._84-121123-0001.flac").write_bytes(b"")
    (root / "LibriSpeech/dev-clean/.DS_Store").write_bytes(b"")
    (root / "LibriSpeech/README.TXT").write_text("")
    assert [u.id for u in prepare(root).splits["dev-clean"]] == TREE["dev-clean"]


def test_an_empty_transcript_is_read_as_one(root: Path) -> None:
    (root / "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt").write_text("84-121123-0001 \r\n\n")
    assert prepare(root).splits["dev-clean"][0].text == ""


def test_speakers_are_looked_up(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "LibriSpeech/SPEAKERS.TXT").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "103  | F | train-clean-100  | 20.00 | Karen | with a bar\n1034 | M | train-clean-100  | 20.00 | K\n"
        "1040 | F | train-clean-100  | 20.00 | J\n84   | F | dev-clean | 8 | C\n7 | F | dev-other | 8 | not unpacked\n"
    )
    with caplog.at_level(logging.WARNING):
        splits = prepare(root).splits
    assert [u.gender for u in splits["train-clean-100"]] == ["f", "f", "f", "m"]
    assert splits["test-clean"][0].gender is None
    assert "lists 1 speakers of train-clean-100 that are not in the tree: 1040" in caplog.text
    assert "dev-" not in caplog.text


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / new).parent.mkdir(parents=True, exist_ok=True) or (folder / old).rename(folder / new)
    )


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text) and None


TRAIN = "train-clean-100"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (rename("", "../librispeech"), ["looked for the folder {root}/LibriSpeech", "openslr.org/12", "--data-root"]),
        (remove(*TREE), ["no split of LibriSpeech in {root}/LibriSpeech", "train-other-500", "openslr.org/12"]),
        (
            remove("dev-clean/84/121123/84-121123-0001.flac", "dev-clean/84/121123/84-121123.trans.txt"),
            ["no .flac file in {root}/LibriSpeech/dev-clean/<speaker>/<chapter>/"],
        ),
        (
            remove(*(f"{TRAIN}/{name}/{name.replace('/', '-')}.trans.txt" for name in ("103/1240", "1034/121119"))),
            ["3 audio files have no transcript", "{root}/LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac"],
        ),
        (
            append(f"{TRAIN}/103/1240/103-1240.trans.txt", "".join(f"103-1240-000{i} A\n" for i in range(2, 7))),
            ["5 transcripts have no audio file", "103-1240-0002 in {root}", "103-1240-0004 in {root}", "and 2 more"],
        ),
        (
            append("dev-clean/84/121123/84-121123.trans.txt", "84-121123-0001 AGAIN\n"),
            ["1 utterances are transcribed twice: 84-121123-0001 in {root}"],
        ),
        (
            rename(f"{TRAIN}/103/1240/103-1240-0000.flac", f"{TRAIN}/103/103-1240-0000.flac"),
            ["1 audio files are not at", "{root}/LibriSpeech/train-clean-100/103/103-1240-0000.flac"],
        ),
        (
            rename(f"{TRAIN}/103/1240/103-1240-0000.flac", f"{TRAIN}/103/1241/103-1240-0000.flac"),
            ["1 audio files are not at", "103/1241/103-1240-0000.flac", "1 transcripts have no audio"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_item(root: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    change(root / "LibriSpeech")
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part.replace("{root}", str(root)) in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(limited: Path) -> None:
    remove("103/1240/103-1240-0000.flac", "1034/121119/1034-121119.trans.txt")(limited / "LibriSpeech" / TRAIN)
    remove("9h/other/213/1/213-1.trans.txt")(limited / "librispeech_finetuning")
    with pytest.raises(BenchmarkError) as caught:
        prepare(limited)
    for part in ("3 audio files have no transcript", "9h/other/213/1/213-1-0000.flac", "1 transcripts have no audio"):
        assert part in str(caught.value)


def test_hints_at_a_data_root_one_level_off(root: Path) -> None:
    with pytest.raises(BenchmarkError, match="looks like the corpus itself, but the data root is the folder above it"):
        prepare(root / "LibriSpeech")
    with pytest.raises(BenchmarkError, match=r"The data root .*/nowhere does not exist"):
        prepare(root / "nowhere")
