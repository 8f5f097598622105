"""Archives as others write them: links in tar files, and several files of one name."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmark.data import archives, headers
from benchmark.data.archives import index_bytes
from benchmark.files import cache_dir
from downstream.corpora.tree import LeftOut, audio_files, audio_members


def pack(folder: Path, archive: Path) -> str:
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=folder.name)
    return str(archive)


@pytest.fixture
def linked(tmp_path: Path) -> str:
    """A tar file of a file, three further names of it, and what is no file of its own."""
    folder = tmp_path / "s"
    folder.mkdir()
    soundfile.write(folder / "1.wav", np.zeros(1600, np.float32), 16000)
    os.link(folder / "1.wav", folder / "2.wav")
    for number in range(3, 8):
        (folder / f"{number}.wav").symlink_to("1.wav")
    path = pack(folder, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        for name, target in (("s/8.wav", "s/2.wav"), ("./s/9.wav", "./s/1.wav"), ("s/10.wav", "s/none.wav")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
    return path


def test_hard_links_in_a_tar_are_the_files_that_they_name(linked: str, caplog: pytest.LogCaptureFixture) -> None:
    assert {member.name for member in archives.index(linked)} == {f"s/{n}.wav" for n in (1, 2, 8, 9)}
    assert len({(member.start, member.size) for member in archives.index(linked)}) == 1
    assert headers.of(f"{linked}/s/9.wav").frames == 1600
    (warning,) = caplog.messages  # once
    assert warning.startswith(f"{linked}: 6 members are left out, which are links")
    assert "s/3.wav, s/4.wav, s/5.wav and 3 more. Make the archive again with tar --dereference" in warning


def test_an_index_of_before_that_lacks_links_is_not_used(linked: str) -> None:
    former = repr((os.path.abspath(linked), archives._stamps([linked]))).encode()
    path = cache_dir() / "indices" / f"{hashlib.sha256(former).hexdigest()[:32]}.index"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(index_bytes([], os.path.getsize(linked)))
    assert len(list(archives.index(linked))) == 4


def test_of_one_name_an_archive_gives_what_a_folder_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "s" / "v"
    folder.mkdir(parents=True)
    for file in ("1.flac", "1.wav", "1.wave", "2.WAV", "2.flac", "3.m4a", "3.wav", "4.m4a", "5.aiff", "5.mp3", "6.txt"):
        (folder / file).write_bytes(b"x")
    archive = pack(tmp_path / "s", tmp_path / "x.tar")
    of_folder, of_archive = LeftOut("corpus"), LeftOut("corpus")
    loose = audio_files(folder, [], of_folder)
    ((*place, packed),) = audio_members(archive, [], of_archive)
    assert place == ["s", "v"]
    assert {name: Path(path).name for name, path in packed.items()} == {
        "1.wav": "1.wav", "2.wav": "2.WAV", "3.wav": "3.wav", "5.wav": "5.aiff"
    }  # fmt: skip
    assert packed == {name: path.replace(str(folder), f"{archive}/s/v") for name, path in loose.items()}
    of_folder.say()
    said = sorted(caplog.messages)
    caplog.clear()
    of_archive.say()
    assert sorted(caplog.messages) == [message.replace(str(folder), f"{archive}/s/v") for message in said]
    assert of_archive.unreadable() == [f"{archive}/s/v/4.m4a"]
