"""The Speech Commands reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import add_wavs

from benchmark.errors import BenchmarkError
from downstream.corpora.speech_commands import FOLDER, KEYWORDS, NOISE, TEST_FOLDER, prepare

WORDS = (*KEYWORDS, "bed", "cat")
SPEAKERS = {"train": ("0a", "0b"), "validation": ("1a",), "testing": ("2a",)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder, test = tmp_path / FOLDER, tmp_path / TEST_FOLDER
    files = {
        split: [f"{word}/{who}_nohash_0.wav" for word in WORDS for who in names] for split, names in SPEAKERS.items()
    }
    add_wavs(folder, *(file for listed in files.values() for file in listed))
    for split in ("validation", "testing"):
        (folder / f"{split}_list.txt").write_text("\n".join(files[split]) + "\n")
    (folder / NOISE).mkdir()
    soundfile.write(folder / NOISE / "running_tap.wav", np.zeros(int(12.5 * 16000)), 16000)
    soundfile.write(folder / NOISE / "pink_noise.wav", np.zeros(2 * 16000), 16000)
    (folder / NOISE / "README.md").touch()
    (folder / "LICENSE").touch()
    (folder / "yes" / "._0a_nohash_0.wav").touch()
    add_wavs(
        test, *(f"{keyword}/2a_nohash_0.wav" for keyword in KEYWORDS), "_unknown_/2a_nohash_0.wav", "_silence_/7.wav"
    )
    return tmp_path


def test_reads_the_official_layout(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = prepare(root)
    counts = {name: Counter(u.labels["keyword"] for u in those) for name, those in corpus.splits.items()}
    assert counts == {
        "train": dict.fromkeys(KEYWORDS, 2) | {"_unknown_": 4, "_silence_": 11},
        "validation": dict.fromkeys(KEYWORDS, 1) | {"_unknown_": 2, "_silence_": 3},
        "test": dict.fromkeys((*KEYWORDS, "_unknown_", "_silence_"), 1),
        "testing_list": dict.fromkeys(KEYWORDS, 1) | {"_unknown_": 2},
    }
    assert all(those == sorted(those, key=lambda u: u.id) for those in corpus.splits.values())
    of = {u.id: u for those in corpus.splits.values() for u in those}
    assert len(of) == sum(map(len, corpus.splits.values())), "ids are unique"
    bed = of["bed/0a_nohash_0.wav"]
    assert (bed.labels["keyword"], bed.speaker, bed.session) == ("_unknown_", "0a", "0a")
    tested = of["test/yes/2a_nohash_0.wav"]
    assert (tested.labels["keyword"], tested.speaker, tested.split) == ("yes", "2a", "test")
    assert Path(tested.path) == root / TEST_FOLDER / "yes" / "2a_nohash_0.wav"
    assert not caplog.text


def test_silence_is_cut_into_whole_seconds(root: Path) -> None:
    corpus = prepare(root)
    silence = {name: [u for u in those if "_silence_/" in u.id] for name, those in corpus.splits.items()}
    assert [u.id for u in silence["validation"]] == [
        "_silence_/pink_noise/000", "_silence_/running_tap/000", "_silence_/running_tap/010"
    ]  # fmt: skip
    spans = sorted((u.session, u.start) for u in (*silence["train"], *silence["validation"]))
    assert spans == [("pink_noise.wav", k) for k in (0.0, 1.0)] + [("running_tap.wav", float(k)) for k in range(12)]
    assert {u.duration for u in silence["train"]} == {1.0}
    assert {u.speaker for u in silence["train"]} == {None}


def test_other_files_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / FOLDER / "yes" / "0a_nohash_0.mp3").touch()
    (root / FOLDER / "yes" / "notes.txt").touch()
    with caplog.at_level(logging.INFO):
        prepare(root)
    assert "1 audio files have one of the same name beside them, which is read, and are left out" in caplog.text
    assert "1 files are not audio and are left out" in caplog.text


def add(name: str, line: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / FOLDER / name
        path.write_text(path.read_text() + line + "\n")

    return apply


def remove(*names: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


@pytest.mark.parametrize(
    ("apply", "parts"),
    [
        (remove(FOLDER), ["Speech Commands not found", f"{TEST_FOLDER}.tar.gz", "--data-root"]),
        (
            remove(TEST_FOLDER),
            ["Speech Commands' test set not found", f"download.tensorflow.org/data/{TEST_FOLDER}.tar.gz"],
        ),
        (
            remove(f"{FOLDER}/stop", f"{FOLDER}/testing_list.txt"),
            [f"{FOLDER} has no stop, testing_list.txt. It contains"],
        ),
        (remove(f"{FOLDER}/{NOISE}"), [f"has no {NOISE}"]),
        (add("validation_list.txt", "yes/9z_nohash_0.wav"), ["validation_list.txt:13: yes/9z_nohash_0.wav is not"]),
        (
            add("testing_list.txt", "yes/1a_nohash_0.wav"),
            ["testing_list.txt:13: yes/1a_nohash_0.wav is dupl", "in validation_list.txt"],
        ),
        (remove(f"{TEST_FOLDER}/_silence_"), [f"{TEST_FOLDER} should have the folders yes, no,", "_silence_, and has"]),
        (remove(f"{TEST_FOLDER}/go/2a_nohash_0.wav"), ["'test' of Speech Commands has no utterance of go"]),
    ],
)
def test_errors_name_the_item(root: Path, apply: Callable[[Path], None], parts: list[str]) -> None:
    apply(root)
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part in str(caught.value)
