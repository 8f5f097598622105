"""Packing into a folder that holds a pack: what changed is packed again, what did not is kept."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmark.data import audio, manifest, shards
from benchmark.interfaces import Utterance

NAMES = ("a.wav", "b.wav")


def write(path: Path, level: float) -> None:
    """A file of one size and one time of modification, whatever is in it."""
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.full(160, level, np.float32), 16000)
    os.utime(path, (0, 0))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write(tmp_path / "loose" / "a.wav", 0.25)
    write(tmp_path / "loose" / "b.wav", 0.5)
    pack(tmp_path / "loose", tmp_path / "packed")
    return tmp_path / "packed"


def pack(root: Path, folder: Path) -> list[int]:
    """Pack an archive a file; returns which files the archives are."""
    utterances = [Utterance(name, f"{root}/{name}", text=str(root)) for name in NAMES]
    written = shards.pack({}, {"m.jsonl": utterances}, folder, root=root, size=1)
    assert shards.verify(folder) == []
    return [os.stat(folder / one["name"]).st_ino for one in written.archives]


def levels(folder: Path) -> list[float]:
    return [round(float(audio.load(u, 16000)[5]), 2) for u in manifest.read(folder / "m.jsonl")]


def test_a_file_that_kept_its_size_is_packed_again(packed: Path, tmp_path: Path) -> None:
    before = pack(tmp_path / "loose", packed)
    assert pack(tmp_path / "loose", packed) == before
    write(tmp_path / "loose" / "a.wav", 0.75)
    after = pack(tmp_path / "loose", packed)
    assert levels(packed) == [0.75, 0.5]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_files_of_another_tree_are_other_files(packed: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "a.wav", -0.25)
    write(tmp_path / "other" / "b.wav", -0.5)
    pack(tmp_path / "other", packed)
    assert levels(packed) == [-0.25, -0.5]


def test_members_of_an_archive_that_changed_are_packed_again(tmp_path: Path) -> None:
    for level in (0.25, 0.75):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name in NAMES:
                write(tmp_path / "loose" / name, level)
                tar.add(tmp_path / "loose" / name, name)
        pack(tmp_path / "x.tar", tmp_path / "packed")
        assert levels(tmp_path / "packed") == [level, level]


@pytest.mark.parametrize("note", [None, b"", b"\xff" * 130])
def test_a_pack_of_before_is_read_and_written_again(note: bytes | None, packed: Path, tmp_path: Path) -> None:
    """It does not say of which files it is, or something else at its place does not."""
    write(tmp_path / "loose" / "a.wav", 0.75)
    for path in packed.glob(".*.sources"):
        path.unlink() if note is None else path.write_bytes(note)
    assert levels(packed) == [0.25, 0.5]
    pack(tmp_path / "loose", packed)
    assert levels(packed) == [0.75, 0.5]


def test_an_archive_that_was_put_in_the_place_of_another_is_written_again(packed: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "a.wav", -0.25)
    write(tmp_path / "other" / "b.wav", -0.5)
    pack(tmp_path / "other", tmp_path / "second")
    for path in (tmp_path / "second").glob("audio-*"):
        path.replace(packed / path.name)
    pack(tmp_path / "loose", packed)
    assert levels(packed) == [0.25, 0.5]
