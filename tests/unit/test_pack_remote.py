"""Audio under urls: what is read, kept and said of it, from fsspec's memory and a server on this machine."""

from __future__ import annotations

import functools
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmark import remote
from benchmark.data import audio, headers, manifest, shards, splits
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance

fsspec = pytest.importorskip("fsspec")


def wav(seconds: float, kind: str = "WAV") -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).standard_normal(int(16000 * seconds)) * 0.1
    soundfile.write(content, noise.astype(np.float32), 16000, format=kind)
    return content.getvalue()


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    yield
    remote.stamp.cache_clear()
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bucket(tmp_path: Path) -> dict[str, str]:
    """Url of each of three files -> a copy of it here."""
    files = fsspec.filesystem("memory")
    urls = {}
    for name, kind in (("a.wav", "WAV"), ("b.flac", "FLAC"), ("c.mp3", "MP3")):
        (tmp_path / name).write_bytes(wav(1.5, kind))
        files.pipe(f"/bucket/{name}", (tmp_path / name).read_bytes())
        urls[f"memory://bucket/{name}"] = str(tmp_path / name)
    return urls


def test_samples_and_digests_are_those_of_the_files(bucket: dict[str, str], tmp_path: Path) -> None:
    for url, path in bucket.items():
        for start, duration in ((0.0, None), (0.4, 0.3)):
            found = audio.load(Utterance("u", url, start, duration), 16000)
            assert torch.equal(found, audio.load(Utterance("u", path, start, duration), 16000))
    far = [Utterance(f"u{n}", url) for n, url in enumerate(bucket)]
    manifest.write(tmp_path / "m.jsonl", far)
    assert manifest.read(tmp_path / "m.jsonl") == far
    near = [Utterance(f"u{n}", path) for n, path in enumerate(bucket.values())]
    assert splits.digest(far) == splits.digest(near)
    assert audio.durations(far).tolist() == audio.durations(near).tolist()


def test_urls_are_packed(bucket: dict[str, str], tmp_path: Path) -> None:
    utterances = [Utterance(f"u{n}", url) for n, url in enumerate(bucket)]
    shards.pack({}, {"m.jsonl": utterances}, tmp_path / "packed")
    packed = manifest.read(tmp_path / "packed" / "m.jsonl")
    assert [u.path for u in packed] == [f"{tmp_path}/packed/audio-00000.tar/memory/bucket/{n}"
                                        for n in ("a.wav", "b.flac", "c.mp3")]  # fmt: skip
    for one, path in zip(packed, bucket.values(), strict=True):
        assert torch.equal(audio.load(one, 16000), audio.load(Utterance("u", path), 16000))


def test_files_are_kept_only_where_asked_for(
    bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterance = Utterance("u", "memory://bucket/a.wav")
    whole = audio.load(utterance, 16000)
    assert not (tmp_path / "cache" / "remote").exists()
    monkeypatch.setenv(remote.KEEP, "1")
    audio.load(utterance, 16000)
    monkeypatch.setattr(remote, "_fetch", None)  # it is not fetched again
    assert torch.equal(audio.load(utterance, 16000), whole)


def test_another_version_is_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    for seconds in (0.5, 1.0):
        files.pipe("/bucket/x.wav", wav(seconds))
        remote.stamp.cache_clear()  # a new process
        assert audio.durations([Utterance("u", "memory://bucket/x.wav")]).tolist() == [seconds]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none.wav", "does not exist"),
        ("file:///etc/passwd", "urls begin with one of s3://"),
        ("reference://x", "urls begin with one of s3://"),
        ("ftp://x/y.wav", "urls begin with one of s3://"),
        ("simplecache::memory://bucket/none.wav", "does not exist"),
    ],
)
def test_why_urls_cannot_be_read(url: str, message: str) -> None:
    assert message in str(headers.read([url])[url])
    with pytest.raises(BenchmarkError, match="utterance u: "):
        audio.load(Utterance("u", url), 16000)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote, "_files", missing)
    found = headers.read(["s3://bucket/a.wav"])["s3://bucket/a.wav"]
    assert "Install s3fs to access S3. Audio elsewhere needs fsspec" in str(found)


def test_a_failing_service_is_asked_again(bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = remote._files, []

    class Flaky:
        def info(self, url: str) -> object:
            calls.append(url)
            if len(calls) < 3:
                raise ConnectionResetError("reset by peer")
            return real("memory").info(url)

    monkeypatch.setattr(remote, "_files", lambda protocol: Flaky())
    assert remote.stamp("memory://bucket/a.wav")[0] > 0
    remote.stamp.cache_clear()
    monkeypatch.setattr(Flaky, "info", lambda self, url: {}["x"])
    with pytest.raises(remote.RemoteError, match=r"cannot be read \(KeyError"):
        remote.stamp("memory://bucket/a.wav")


def test_over_http(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.wav").write_bytes(wav(1.0))
    serve = functools.partial(QuietHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "path": f"{base}/a.wav"}) + "\n")
        (utterance,) = manifest.read(tmp_path / "m.jsonl")
        near = audio.load(Utterance("a", str(tmp_path / "www" / "a.wav")), 16000)
        assert torch.equal(audio.load(utterance, 16000), near)
        assert headers.read([f"{base}/none.wav"]) == {f"{base}/none.wav": "does not exist"}
        server.shutdown()
    remote.stamp.cache_clear()
    assert "cannot be reached" in str(headers.read([f"{base}/a.wav"])[f"{base}/a.wav"])


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
