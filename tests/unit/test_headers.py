"""Headers of audio files: read once, for whoever asks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmark.data import audio, headers
from benchmark.data.examine import examine
from benchmark.data.headers import Header
from benchmark.data.importers import IMPORTERS
from benchmark.interfaces import Utterance

OLD = 1_700_000_000


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that libsndfile was given."""
    names: list[str] = []
    real = soundfile.SoundFile

    def counted(file: str, *more: Any) -> Any:
        names.append(str(file))
        return real(file, *more)

    monkeypatch.setattr(soundfile, "SoundFile", counted)
    return names


def write(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> str:
    soundfile.write(path, np.zeros((round(seconds * rate), channels), dtype=np.float32), rate)
    os.utime(path, (OLD, OLD))
    return str(path)


def test_headers(tmp_path: Path) -> None:
    mono, stereo = write(tmp_path / "a.wav"), write(tmp_path / "b.flac", 0.5, 44100, 2)
    found = headers.read([mono, stereo, mono])
    assert found == {mono: Header(16000, 16000, 1), stereo: Header(44100, 22050, 2)}
    assert [header.format for header in found.values() if isinstance(header, Header)] == [
        "16000 Hz, 1 channel", "44100 Hz, 2 channels"
    ]  # fmt: skip
    assert headers.read([]) == {}


def test_why_files_cannot_be_used(tmp_path: Path) -> None:
    cut, junk, gone, folder = (str(tmp_path / name) for name in ("cut.wav", "junk.wav", "gone.wav", "folder.wav"))
    write(tmp_path / "cut.wav")
    Path(cut).write_bytes(Path(cut).read_bytes()[:9000])
    Path(junk).write_bytes(b"<html>")
    os.mkdir(folder)
    found = headers.read([cut, junk, gone, folder])
    assert found[cut] == "ends early: its header promises 32,044 bytes, it has 9,000; fetch the file again"
    assert found[gone] == "does not exist"
    assert str(found[junk]).startswith("cannot be read as audio (")
    assert str(found[folder]).startswith("cannot be read as audio (")


def test_a_stream_of_unknown_size_is_not_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav")
    data = bytearray(Path(path).read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"
    Path(path).write_bytes(data)
    assert headers.read([path]) == {path: Header(16000, 16000, 1)}


def test_each_file_is_read_once_for_all_who_ask(tmp_path: Path, opened: list[str]) -> None:
    paths = [write(tmp_path / f"{n}.wav", 2.0) for n in range(3)]
    utterances = [Utterance(f"{path}-{n}", path, n / 10, 0.1) for path in paths for n in range(20)]
    opened.clear()
    assert audio.durations(utterances).tolist() == pytest.approx([0.1] * 60)
    assert sorted(opened) == paths
    audio.durations(utterances)
    examine(utterances)
    (tmp_path / "wav.scp").write_text("".join(f"r{n} {path}\n" for n, path in enumerate(paths)))
    (tmp_path / "segments").write_text("a r0 0 1\nb r1 0 -1\nc r2 0.5 1\n")
    IMPORTERS["kaldi"](tmp_path, tmp_path)
    assert sorted(opened) == paths


def test_a_file_that_changes_is_read_again(tmp_path: Path, opened: list[str]) -> None:
    utterance = Utterance("a", write(tmp_path / "a.wav", 1.0))
    assert audio.durations([utterance]).tolist() == [1.0]
    write(tmp_path / "a.wav", 2.0)
    opened.clear()
    assert audio.durations([utterance]).tolist() == [2.0]
    assert opened == [utterance.path]


def test_broken_files_are_looked_at_again(tmp_path: Path) -> None:
    utterance = Utterance("a", str(tmp_path / "a.wav"))
    Path(utterance.path).write_bytes(b"junk" * 8011)
    os.utime(utterance.path, (OLD, OLD))
    with pytest.raises(audio.AudioError, match="cannot be read as audio"):
        audio.durations([utterance])
    assert os.path.getsize(write(tmp_path / "a.wav")) == 4 * 8011  # the same size and time of modification
    assert audio.durations([utterance]).tolist() == [1.0]


def test_work_is_handed_out_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_CHUNK", 2)
    handed: list[list[str]] = []
    real = headers._read_all
    monkeypatch.setattr(headers, "_read_all", lambda paths: handed.append(paths) or real(paths))
    paths = [write(tmp_path / f"{n}.wav", 0.1) for n in range(5)]
    assert list(headers.read(paths, workers=1)) == paths
    assert handed == [paths[:2], paths[2:4], paths[4:]]
