"""Packed corpora: the same utterances, digests, trials and samples as the loose files, and what packs refuse."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support import Cli

from benchmark import registry
from benchmark.data import archives, audio, headers, manifest, shards, splits
from benchmark.data.archives import Index, Member, index_bytes
from benchmark.data.trials import read_trials
from benchmark.errors import BenchmarkError
from benchmark.files import is_safe, split_member
from benchmark.interfaces import Utterance

FORMATS = ("wav", "flac", "ogg", "mp3", "aiff", "sph")


def write_audio(folder: Path) -> list[Path]:
    """Two seconds of noise in each format, and an MP3 of two files, which is read in pieces."""
    folder.mkdir(parents=True)
    samples = (np.random.default_rng(0).standard_normal(32000) * 0.1).astype(np.float32)
    paths = []
    for ending in FORMATS:
        paths.append(folder / f"a.{ending}")
        soundfile.write(paths[-1], samples, 16000, format="NIST" if ending == "sph" else None)
    twice = folder / "twice.mp3"
    twice.write_bytes((folder / "a.mp3").read_bytes() * 2)
    return [*paths, twice]


def put(archive: Path, paths: list[Path], folder: Path, how: str) -> None:
    if how == "tar":
        with tarfile.open(archive, "w") as tar:
            for path in paths:
                tar.add(path, str(path.relative_to(folder)))
        return
    method = zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.write(folder, "folder/")
        for path in paths:
            packed.write(path, str(path.relative_to(folder)))


@pytest.mark.parametrize("how", ["tar", "stored", "deflated", "parts"])
def test_members_are_read_as_the_files_are(how: str, tmp_path: Path) -> None:
    paths = write_audio(tmp_path / "loose")
    archive = tmp_path / ("x.tar" if how == "tar" else "x.zip")
    put(archive, paths, tmp_path / "loose", "stored" if how == "parts" else how)
    if how == "parts":
        data, archive = archive.read_bytes(), tmp_path / "x_partaa"
        for number, end in enumerate(("aa", "ab", "ac")):
            (tmp_path / f"x_part{end}").write_bytes(data[number * len(data) // 3 : (number + 1) * len(data) // 3])
    found = headers.read(f"{archive}/{path.name}" for path in paths)
    for path in paths:
        assert found[f"{archive}/{path.name}"] == headers.of(str(path))
        for start, duration in ((0.0, None), (0.7, 0.5)):
            loose = Utterance("u", str(path), start, duration)
            packed = replace(loose, path=f"{archive}/{path.name}")
            assert torch.equal(audio.load(packed, 16000), audio.load(loose, 16000)), path


def test_a_header_is_read_without_the_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1_000_000, np.float32), 16000)
    put(tmp_path / "x.tar", [tmp_path / "a.wav"], tmp_path, "tar")
    archives.index(f"{tmp_path}/x.tar")
    real, counts = archives._Parts.read, []
    monkeypatch.setattr(archives._Parts, "read", lambda self, at, count: counts.append(count) or real(self, at, count))
    assert headers.of(f"{tmp_path}/x.tar/a.wav").frames == 1_000_000
    assert 0 < sum(counts) < 100_000


@pytest.mark.medium
def test_every_corpus_is_the_same_packed(corpora_root: Path, tmp_path: Path) -> None:
    loose = {entry.name: entry.load()(corpora_root) for entry in registry.corpora}
    pack = shards.pack(loose, {}, tmp_path / "packed", root=corpora_root, size=2**20)
    assert len(pack.archives) > 3
    assert shards.verify(tmp_path / "packed") == []
    for name, corpus in loose.items():
        packed = shards.load_corpus(tmp_path / "packed", name)
        assert packed is not None
        assert (packed.name, list(packed.splits)) == (corpus.name, list(corpus.splits))
        for split, utterances in corpus.splits.items():
            own = packed.splits[split]
            assert [replace(u, path="") for u in own] == [replace(u, path="") for u in utterances]
            assert [dict(u.labels) for u in own] == [dict(u.labels) for u in utterances]
            assert splits.digest(own) == splits.digest(utterances)
            for mine, other in list(zip(own, utterances, strict=True))[:2]:
                assert torch.equal(audio.load(mine, 16000), audio.load(other, 16000))
        assert dict(packed.trials) == dict(corpus.trials)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pack_voxceleb(root: Path, folder: Path) -> None:
    shards.pack({"voxceleb1": registry.corpora.get("voxceleb1").load()(root)}, {}, folder, root=root, size=300_000)


def without_lock(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if name != ".lock"}


def test_a_pack_is_deterministic_resumed_and_reversed(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_voxceleb(data_root, tmp_path / "a")
    whole = without_lock(tmp_path / "a")
    real, written = shards._tar_header, []

    def stop(one: shards.Source) -> bytes:
        written.append(one.name)
        if len(written) == 30:
            raise KeyboardInterrupt
        return real(one)

    monkeypatch.setattr(shards, "_tar_header", stop)
    with pytest.raises(KeyboardInterrupt):
        pack_voxceleb(data_root, tmp_path / "b")
    assert 0 < len(list((tmp_path / "b").glob("*.tar"))) < len(list((tmp_path / "a").glob("*.tar")))
    assert not (tmp_path / "b" / "pack.json").exists()
    kept = len(written)
    pack_voxceleb(data_root, tmp_path / "b")
    assert len(written) < kept + 44  # what was finished is not written again
    assert without_lock(tmp_path / "b") == whole

    assert shards.unpack(tmp_path / "a", tmp_path / "back") == len(files(tmp_path / "back"))
    assert files(tmp_path / "back") == files(data_root)
    names = subprocess.run(["tar", "tf", "audio-00000.tar"], cwd=tmp_path / "a", capture_output=True, text=True)
    assert (names.returncode, names.stderr) == (0, "")
    assert names.stdout.splitlines() == sorted(files(data_root))[: len(names.stdout.splitlines())]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda folder: flip(folder / "audio-00001.tar", 2000), "is not as it was written"),
    "a short archive": (lambda folder: os.truncate(folder / "audio-00001.tar", 2000), "has 2,000 bytes of"),
    "no archive": (lambda folder: os.remove(folder / "audio-00001.tar"), "cannot be read: No such file"),
    "no index": (lambda folder: os.remove(folder / "audio-00001.tar.index"), "cannot be read"),
    "another index": (
        lambda folder: (folder / "audio-00001.tar.index").write_bytes(
            index_bytes([Member("x", 512, 1)], (folder / "audio-00001.tar").stat().st_size)
        ),
        "is not the index of",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_finds(damage: str, data_root: Path, tmp_path: Path) -> None:
    pack_voxceleb(data_root, tmp_path / "a")
    change, message = DAMAGE[damage]
    change(tmp_path / "a")
    (problem,) = shards.verify(tmp_path / "a")
    assert message in problem


def test_the_command(data_root: Path, cli: Cli, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    result = cli("pack", "voxceleb1", "--data-root", data_root, "-o", packed)
    assert result.returncode == 0, result.stderr
    assert f"use it by --data-root {packed}" in result.stdout
    assert cli("pack", "--verify", packed).returncode == 0
    assert cli("pack", "voxceleb2", "--data-root", data_root, "-o", packed).returncode == 1
    loose, own = (cli("prepare", "voxceleb1", root, "-o", f"of_{root.name}").stdout for root in (data_root, packed))
    assert "16000 Hz" in loose.split("written:")[0] == own.split("written:")[0]
    rows = [[u.id for u in manifest.read(f"of_{root.name}/test.jsonl")] for root in (data_root, packed)]
    assert rows[0] == rows[1]

    result = cli("pack", f"of_{data_root.name}/dev.jsonl", f"of_{data_root.name}/test.jsonl", "-o", "mine")
    assert result.returncode == 0, result.stderr
    for name in ("dev", "test"):
        before, after = (manifest.read(f"{folder}/{name}.jsonl") for folder in (f"of_{data_root.name}", "mine"))
        assert splits.digest(before) == splits.digest(after)
        assert all(f"{tmp_path}/mine/audio-00000.tar/" in u.path for u in after)
    assert cli("validate", "mine/dev.jsonl", "mine/test.jsonl", "--decode", "--workers", "1").returncode == 0
    assert cli("pack", "--reverse", packed, "-o", "back").returncode == 0
    assert files(Path("back")) == files(data_root)
    flip(packed / "audio-00000.tar", 3000)
    result = cli("pack", "--verify", packed)
    assert result.returncode == 1
    assert "is not as it was written" in result.stderr


@pytest.mark.medium
def test_a_run_on_a_pack_gives_the_same_result(data_root: Path, cli: Cli, tmp_path: Path) -> None:
    cli("pack", "voxceleb1", "--data-root", data_root, "-o", "packed", "--size", "1")
    small = ["task.head.size=16", "task.head.pooled=32", "task.dev_speakers=2", "data.crop_seconds=1.0",
             "data.min_seconds=0.5", "trainer.batch_size=4", "trainer.accumulate=1", "data.workers=2"]  # fmt: skip
    for root, name in ((data_root, "loose"), ("packed", "of_pack")):
        result = cli("-u", "wav2vec2_tiny", "-d", "voxceleb1_sv", "--data-root", root, "-p", name,
                     "--max-steps", 6, *(word for one in small for word in ("-o", one)))  # fmt: skip
        assert result.returncode == 0, result.stderr
    one, other = (json.loads(Path(name, "result.json").read_text()) for name in ("loose", "of_pack"))
    assert one["metrics"] == other["metrics"]
    assert one["data"] == other["data"]
    assert Path("loose/scores.txt").read_bytes() == Path("of_pack/scores.txt").read_bytes()


# -------------------------------------------------------------------------------------------------- names and indices


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b.wav", True), ("é ü/1 2.wav", True), ("..a/b..", True), ("/etc/passwd", False), ("../a", False),
        ("a/../../b", False), ("a//b", False), ("./a", False), ("a\nb", False), ("a\tb", False), ("C:/a", False),
        ("a\\..\\b", False), ("", False), ("a/", False),
    ],
)  # fmt: skip
def test_names_that_stay_in_their_folder(name: str, safe: bool) -> None:
    assert is_safe(name) is safe


def test_an_index_finds_every_name(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = {"".join(random.choice(list("ab/é \udce9.~"), 1 + number % 9)) for number in range(3000)}
    members = [Member(name, number, 2 * number, number % 3) for number, name in enumerate(sorted(names))]
    (tmp_path / "i.index").write_bytes(index_bytes(members, 7, "0" * 64))
    index = Index(tmp_path / "i.index", 7)
    assert sorted(index) == sorted(members)
    assert all(index.find(member.name) == member for member in members)
    assert [index.find(name) for name in ("", "a" * 20, "zzz", "\x01", "b\t1")] == [None] * 5


def test_a_folder_whose_name_ends_like_an_archive(tmp_path: Path) -> None:
    folder = tmp_path / "x.tar" / "y.zip"
    folder.mkdir(parents=True)
    soundfile.write(folder / "a.wav", np.zeros(160, np.float32), 16000)
    assert split_member(str(folder / "a.wav")) is None
    assert headers.of(str(folder / "a.wav")).frames == 160


def test_threads_and_forks_read_the_same_archive(tmp_path: Path) -> None:
    paths = write_audio(tmp_path / "loose")[:4] * 10
    put(tmp_path / "x.tar", paths[:4], tmp_path / "loose", "tar")
    contents = {path.name: path.read_bytes() for path in paths}
    wrong: list[str] = []

    def check() -> None:
        for path in paths:
            with archives.open_member(f"{tmp_path}/x.tar/{path.name}") as file:
                if file.read() != contents[path.name]:
                    wrong.append(path.name)

    check()
    child = os.fork()
    if child == 0:
        check()
        os._exit(len(wrong))
    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert not wrong


def test_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_audio(tmp_path / "loose")[:1]
    put(tmp_path / "x.tar", paths, tmp_path / "loose", "tar")
    (tmp_path / "file").write_text("where the cache folder should be")
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "file"))
    assert headers.of(f"{tmp_path}/x.tar/a.wav") == headers.of(str(paths[0]))


def test_another_archive_at_the_same_path(tmp_path: Path) -> None:
    for length in (100, 70_000):
        soundfile.write(tmp_path / "a.wav", np.zeros(length, np.float32), 16000)
        put(tmp_path / "x.tar", [tmp_path / "a.wav"], tmp_path, "tar")
        assert headers.of(f"{tmp_path}/x.tar/a.wav").frames == length


# ------------------------------------------------------------------------------------------------------ hostile packs


def test_manifests_in_a_pack_name_only_what_is_packed(data_root: Path, tmp_path: Path) -> None:
    pack_voxceleb(data_root, tmp_path / "a")
    path = tmp_path / "a" / "voxceleb1.test.jsonl"
    for written in ("/etc/passwd", "../x.wav", "audio-00000.tar/../../../etc/passwd", "s3://b/x.wav", "x.wav"):
        path.write_text(json.dumps({"id": "a", "path": written}) + "\n")
        with pytest.raises(BenchmarkError, match="is not in an archive of this packed folder"):
            shards.load_corpus(tmp_path / "a", "voxceleb1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "is of format 2"),
        ({"archives": [{"name": "../x.tar", "size": 1, "members": 1, "sha256": ""}]}, "which is no name of a file"),
        ({"archives": 3}, "is damaged"),
        ({"corpora": {"voxceleb1": {"corpus": "x", "splits": {"../a": 1}, "labels": [], "trials": []}}}, "no name of"),
        ({"corpora": {"voxceleb1": {"corpus": "x", "splits": {}, "labels": [1], "trials": []}}}, "is damaged"),
    ],
)
def test_a_pack_file_that_is_refused(change: dict[str, object], message: str, data_root: Path, tmp_path: Path) -> None:
    pack_voxceleb(data_root, tmp_path / "a")
    path = tmp_path / "a" / "pack.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BenchmarkError, match=message):
        shards.load_corpus(tmp_path / "a", "voxceleb1")


def hostile_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("../up.wav", "/abs.wav", "a/../../b.wav", "good.wav"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"kind{kind!r}.wav")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)


def test_members_that_lead_out_of_an_archive_are_no_members(tmp_path: Path) -> None:
    hostile_tar(tmp_path / "x.tar")
    assert [member.name for member in archives.listed(str(tmp_path / "x.tar"))] == ["good.wav"]


def test_nothing_is_unpacked_outside_of_the_folder(data_root: Path, tmp_path: Path) -> None:
    pack_voxceleb(data_root, tmp_path / "a")
    path = tmp_path / "a" / "audio-00000.tar"
    whole = Path(f"{path}.index").read_bytes()
    for name in ("../../escaped", "/tmp/escaped", "link/escaped"):
        Path(f"{path}.index").write_bytes(index_bytes([Member(name, 512, 10)], path.stat().st_size))
        (tmp_path / "out").mkdir(exist_ok=True)
        if name.startswith("link"):
            (tmp_path / "out" / "link").symlink_to(tmp_path)
        with pytest.raises(BenchmarkError, match="outside of"):
            shards.unpack(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
    Path(f"{path}.index").write_bytes(whole)


def test_a_member_whose_name_no_file_can_have(data_root: Path, tmp_path: Path) -> None:
    pack_voxceleb(data_root, tmp_path / "a")
    path = tmp_path / "a" / "audio-00000.tar"
    Path(f"{path}.index").write_bytes(index_bytes([Member("9" * 400, 512, 10)], path.stat().st_size))
    with pytest.raises(BenchmarkError, match=r"cannot unpack .*File name too long"):
        shards.unpack(tmp_path / "a", tmp_path / "out")


def test_a_pack_without_its_archive(data_root: Path, tmp_path: Path) -> None:
    pack_voxceleb(data_root, tmp_path / "packed")
    for path in (tmp_path / "packed").glob("audio-*"):
        path.unlink()
    with pytest.raises(BenchmarkError, match=r"audio-00000\.tar cannot be read: No such file or directory; fetch or"):
        shards.unpack(tmp_path / "packed", tmp_path / "out")


def test_a_trial_list_whose_name_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="not found"):
        read_trials(tmp_path / ("9" * 400), set())


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.wav", bytes(50_000_000))
    monkeypatch.setattr(archives, "_LARGEST", 1_000_000)
    with pytest.raises(OSError, match="takes 50,000,000 bytes of memory"):
        archives.open_member(f"{path}/a.wav")
    data = path.read_bytes().replace((50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(data)  # it says that it is small
    with pytest.raises(OSError, match="has not the 1,000 bytes"):
        archives.open_member(f"{path}/a.wav")


@pytest.mark.parametrize("line", [b"a\t1\t2\n", b"a\t-1\t2\t0\n", b"a\t1\t99999999999999999999\t0\n", b"a", b"\n\n"])
def test_a_damaged_index(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(1024))
    (tmp_path / "x.tar.index").write_bytes(b"wavbench-index 1 1024 -\n" + line)
    with pytest.raises(OSError, match=r"is damaged|has no member"):
        archives.open_member(f"{tmp_path}/x.tar/a")
    with pytest.raises(BenchmarkError, match="is damaged"):
        list(archives.index(f"{tmp_path}/x.tar"))


# ------------------------------------------------------------------------------------------------ archives of VoxCeleb


def zipped(folder: Path, target: Path, prefix: str) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, f"{prefix}/{path.relative_to(folder)}")


@pytest.fixture
def mirror(data_root: Path, tmp_path: Path) -> Path:
    """A snapshot as ``ProgramComputer/voxceleb`` lays it out, with the lists of VoxCeleb1."""
    folder = tmp_path / "mirror" / "vox1"
    folder.mkdir(parents=True)
    zipped(data_root / "VoxCeleb1/test/wav", folder / "vox1_test_wav.zip", "wav")
    zipped(data_root / "VoxCeleb1/dev/wav", tmp_path / "dev.zip", "wav")
    data = (tmp_path / "dev.zip").read_bytes()
    for number, letter in enumerate("abcd"):
        (folder / f"vox1_dev_wav_parta{letter}").write_bytes(
            data[number * len(data) // 4 : (number + 1) * len(data) // 4]
        )
    for path in (data_root / "VoxCeleb1").glob("*.txt"):
        (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path / "mirror"


@pytest.mark.parametrize("name", ["voxceleb1", "voxceleb1_identification"])
def test_a_mirror_is_read_as_it_is(name: str, mirror: Path, data_root: Path, tmp_path: Path) -> None:
    read = registry.corpora.get(name).load()
    loose, archived = read(data_root), read(mirror)
    assert dict(loose.trials) == dict(archived.trials)
    for split, utterances in loose.splits.items():
        assert splits.digest(utterances) == splits.digest(archived.splits[split])
    utterances = archived.splits["test"]
    assert audio.durations(utterances).tolist() == audio.durations(loose.splits["test"]).tolist()
    assert torch.equal(audio.load(utterances[0], 16000), audio.load(loose.splits["test"][0], 16000))
    shards.pack({name: archived}, {}, tmp_path / "packed", root=mirror)
    packed = shards.load_corpus(tmp_path / "packed", name)
    assert packed is not None
    assert torch.equal(audio.load(packed.splits["test"][0], 16000), audio.load(utterances[0], 16000))
    assert {name: splits.digest(those) for name, those in packed.splits.items()} == {
        name: splits.digest(those) for name, those in loose.splits.items()
    }


def test_a_mirror_without_its_last_part(mirror: Path) -> None:
    read = registry.corpora.get("voxceleb1").load()
    read(mirror)
    (mirror / "vox1" / "vox1_dev_wav_partad").unlink()
    with pytest.raises(BenchmarkError, match="cannot be read as a tar or zip file"):
        read(mirror)
    (mirror / "vox1" / "vox1_dev_wav_partaa").unlink()
    with pytest.raises(BenchmarkError, match="VoxCeleb1's dev set not found"):
        read(mirror)


def test_m4a_in_a_mirror_is_named(mirror: Path) -> None:
    (mirror / "vox2").mkdir()
    with zipfile.ZipFile(mirror / "vox2" / "vox2_dev_aac_partaa", "w") as packed:
        packed.writestr("dev/aac/id00012/v/00001.m4a", b"x")
    with pytest.raises(BenchmarkError, match=r"are \.m4a without a \.wav next to them"):
        registry.corpora.get("voxceleb2").load()(mirror)
