"""Downloads against a server on this machine: progress, resumption, checks, errors."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import BenchmarkError
from upstream import download, load_upstream
from upstream.download import cached, sha256_of

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves :data:`CONTENT` under any name, and misbehaves as told."""

    ranges = True
    status: list[int]
    """Answers of the next requests other than the content."""
    stop_after: list[int]
    """Bytes after which the next answers break off."""
    seen: list[str | None]
    """The Range header of each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.stop_after, self.seen = [], [], []

    def url(self, name: str = "model.pt") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/some/folder/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.seen.append(asked)
        if self.server.status:
            return self.send_error(self.server.status.pop(0))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = start + self.server.stop_after.pop(0) if self.server.stop_after else len(CONTENT)
        self.wfile.write(CONTENT[start:end])
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, not made yet."""
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "checkpoints"


def test_fetched_once_and_recorded(server: Server, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, digest = cached(server.url())
    assert (path, digest) == (cache / "model.pt", SHA256)
    assert path.read_bytes() == CONTENT
    assert (cache / "model.pt.sha256").read_text() == f"{SHA256}  model.pt\n"
    assert "model.pt: 100%" in capfd.readouterr().err
    assert cached(server.url()) == (path, SHA256)
    assert server.seen == [None]
    assert sorted(file.name for file in cache.iterdir()) == [".model.pt.lock", "model.pt", "model.pt.sha256"]


def test_a_name_of_its_own(server: Server, cache: Path) -> None:
    assert cached(server.url("transformer_B.pt"), name="base_es.pt")[0] == cache / "base_es.pt"


def test_a_file_put_there_by_hand_is_taken(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "model.pt").write_bytes(b"by hand")
    path, digest = cached(server.url())
    assert path.read_bytes() == b"by hand"
    assert (cache / "model.pt.sha256").read_text().split()[0] == digest
    assert not server.seen


def test_a_record_that_a_crash_left_empty(server: Server, cache: Path) -> None:
    cached(server.url())
    (cache / "model.pt.sha256").write_text("")
    assert cached(server.url())[1] == SHA256
    assert (cache / "model.pt.sha256").read_text() == f"{SHA256}  model.pt\n"


def test_a_file_that_changed_is_refused(server: Server, cache: Path) -> None:
    path, _ = cached(server.url())
    path.write_bytes(b"something else")
    with pytest.raises(BenchmarkError, match=rf"model\.pt has sha256 \w+, but .*model\.pt\.sha256 says {SHA256}"):
        cached(server.url())


def test_a_file_that_is_not_its_cards_is_refused_and_not_kept(server: Server, cache: Path) -> None:
    with pytest.raises(BenchmarkError, match=f"deleted: it has sha256 {SHA256}, but its card says 00"):
        cached(server.url(), sha256="00" * 32)
    assert not (cache / "model.pt").exists()
    assert (cache / "model.pt.part").stat().st_size == 0
    assert cached(server.url(), sha256=SHA256)[1] == SHA256
    with pytest.raises(BenchmarkError, match="its card says 00"):
        cached(server.url(), sha256="00" * 32)


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "model.pt", []
    monkeypatch.setattr(download, "_sha256_of", lambda path: read.append(path) or hashlib.sha256(CONTENT).hexdigest())
    path.write_bytes(CONTENT)
    os.utime(path, (1, 1))
    assert sha256_of(path) == sha256_of(path) == SHA256
    assert len(read) == 1
    os.utime(path, (2, 2))
    assert sha256_of(path) == SHA256
    assert len(read) == 2


def test_a_connection_that_breaks_off_is_resumed(server: Server) -> None:
    server.stop_after = [30_000, 20_000]
    path, _ = cached(server.url())
    assert path.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=30000-", "bytes=50000-"]


def test_what_arrived_is_kept_for_the_next_run(server: Server, cache: Path) -> None:
    server.stop_after = [1000] * download.ATTEMPTS
    with pytest.raises(
        BenchmarkError, match=r"cannot download http.*\(3,000 bytes are kept, and the next .* resumes\)"
    ):
        cached(server.url())
    assert (cache / "model.pt.part").read_bytes() == CONTENT[:3000]
    assert not (cache / "model.pt").exists()
    assert cached(server.url())[0].read_bytes() == CONTENT
    assert server.seen[-1] == "bytes=3000-"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "part", [CONTENT, CONTENT[:500], CONTENT + b"more", b""], ids=["whole", "start", "too long", "empty"]
)
def test_a_part_is_completed_whatever_it_is(part: bytes, ranges: bool, server: Server, cache: Path) -> None:
    server.ranges = ranges
    cache.mkdir(parents=True)
    (cache / "model.pt.part").write_bytes(part)
    assert cached(server.url())[0].read_bytes() == CONTENT


def test_errors_of_the_server(server: Server, cache: Path) -> None:
    server.status = [503, 500]
    assert cached(server.url())[0].read_bytes() == CONTENT
    server.status = [404]
    with pytest.raises(
        BenchmarkError, match=r"other\.pt answered HTTP 404 Not Found\. Download it elsewhere and put it at"
    ):
        cached(server.url("other.pt"))
    assert not (cache / "other.pt").exists()


def test_without_network_the_error_says_what_to_fetch_and_where_to_put_it(cache: Path) -> None:
    url = "http://127.0.0.1:9/wav2vec_vox_new.pt"  # the discard port: nobody answers
    with pytest.raises(BenchmarkError) as caught:
        cached(url)
    message = str(caught.value)
    assert f"cannot download {url}: " in message
    assert f"put it at {cache / 'wav2vec_vox_new.pt'}, or give a local file with -k FILE" in message


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "file"))
    with pytest.raises(BenchmarkError, match=r"cannot write .*set BENCHMARK_CACHE to a folder that can be written"):
        cached(server.url())


def test_a_full_disk(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    (cache / "model.pt.part").symlink_to("/dev/full")
    with pytest.raises(BenchmarkError, match=r"model\.pt\.part: No space left on device"):
        cached(server.url())


def test_two_processes_fetch_it_once(server: Server, cache: Path) -> None:
    threads = [threading.Thread(target=cached, args=(server.url(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.seen == [None]
    assert (cache / "model.pt").read_bytes() == CONTENT


def test_a_card_without_network_names_url_and_place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(download.urllib.request, "urlopen", offline)
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with pytest.raises(BenchmarkError, match=r"cannot download https://dl\.fbaipublicfiles\.com/.*/wav2vec_vox_new\.pt.*"
                       rf"put it at {cache / 'wav2vec_vox_new.pt'}, or .* -k FILE"):  # fmt: skip
        load_upstream("wav2vec2_large")
