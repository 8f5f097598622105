"""The Fluent Speech Commands reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import add_wavs

from benchmark.errors import BenchmarkError
from downstream.corpora.fluent_speech_commands import FOLDER, prepare

HEADER = ",path,speakerId,transcription,action,object,location"
INTENTS = ("Turn on the lights,activate,lights,kitchen", '"Louder, please",increase,volume,none')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER
    (folder / "data").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        rows = [HEADER]
        for number, intent in enumerate(INTENTS):
            path = f"wavs/speakers/{split}A/{number}.wav"
            add_wavs(folder, path)
            rows.append(f"{number},{path},{split}A,{intent}")
        (folder / "data" / f"{split}_data.csv").write_text("\r\n".join(rows) + "\r\n", encoding="utf-8-sig")
    return tmp_path


def test_reads_the_official_layout(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = prepare(root)
    assert {name: [u.id for u in those] for name, those in corpus.splits.items()} == {
        split: [f"{split}A/0.wav", f"{split}A/1.wav"] for split in ("train", "valid", "test")
    }
    second = corpus.splits["valid"][1]
    assert (second.text, second.speaker, second.split) == ("Louder, please", "validA", "valid")
    assert second.labels == {"action": "increase", "object": "volume", "location": "none"}
    assert Path(second.path) == root / FOLDER / "wavs/speakers/validA/1.wav"
    assert not caplog.text


def test_files_of_no_table_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_wavs(root / FOLDER / "wavs/speakers/Z", "9.wav")
    prepare(root)
    assert "1 files are in none of the tables and are left out: wavs/speakers/Z/9.wav" in caplog.text


def change(split: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "data" / f"{split}_data.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return apply


@pytest.mark.parametrize(
    ("apply", "parts"),
    [
        (lambda folder: shutil.rmtree(folder), ["Fluent Speech Commands not found", "--data-root", "fluent.ai"]),
        (lambda folder: (folder / "data/valid_data.csv").unlink(), ["is incomplete", "valid_data.csv not found"]),
        (change("test", "speakerId", "speaker"), ["test_data.csv:1: no column speakerId; it has , path, speaker"]),
        (change("train", ",activate,", ",,"), ["train_data.csv:2: no action"]),
        (
            change("train", "trainA/1.wav", "trainA/7.wav"),
            ["train_data.csv:3: wavs/speakers/trainA/7.wav is not in the"],
        ),
        (
            change("test", "testA/1.wav", "trainA/1.wav"),
            ["test_data.csv:3: wavs/speakers/trainA/1.wav is duplicated, in", "train_data.csv:3"],
        ),
        (lambda folder: (folder / "data/test_data.csv").write_text(HEADER), ["test_data.csv is empty"]),
        (lambda folder: (folder / "data/test_data.csv").write_bytes(HEADER.encode() + b"\n0,\xe9"), ["is not UTF-8"]),
    ],
)
def test_errors_name_the_item(root: Path, apply: Callable[[Path], None], parts: list[str]) -> None:
    apply(root / FOLDER)
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part in str(caught.value)
