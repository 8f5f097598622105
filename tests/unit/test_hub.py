"""Models of the Hugging Face hub by name, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import copy
import hashlib
import http.client
import json
import random
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import damaged_value
from safetensors.torch import load_file, save_file
from test_upstream_wav2vec2 import ragged, small_model

from benchmark.engine.prepare import configure
from benchmark.errors import BenchmarkError
from benchmark.registry import upstreams
from upstream import hub, load_upstream
from upstream.wav2vec2.export import export_huggingface

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "facebook/wav2vec2-base"


class Hub(ThreadingHTTPServer):
    """One model, at one commit, from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked = folder, list[str]()
        self.stop_after: list[int] = []
        """Bytes after which the next answers break off."""
        self.sha256: str | None = None
        """What it says of large files; ``None``: the truth."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def about(self) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": "../evil"}, {"rfilename": 3}]
        for file in sorted(self.folder.iterdir()):
            siblings.append({"rfilename": file.name, "size": file.stat().st_size})
            if file.suffix in (".safetensors", ".bin"):
                siblings[-1]["lfs"] = {"sha256": self.sha256 or hashlib.sha256(file.read_bytes()).hexdigest()}
        return {"sha": COMMIT, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if self.path in (f"/api/models/{NAME}/revision/{name}?blobs=true" for name in ("main", "v2", COMMIT)):
            content = json.dumps(self.server.about()).encode()
        elif self.path == "/api/models/owner/gated/revision/main?blobs=true":
            return self.send_error(401)
        elif self.path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            content = (self.server.folder / self.path.rpartition("/")[2]).read_bytes()
        else:
            return self.send_error(404)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.stop_after.pop(0) if self.server.stop_after else len(content)
        self.wfile.write(content[start:end])
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model(encoder_layers=1, always_project=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    export_huggingface(model, folder := tmp_path_factory.mktemp("model") / "hf")
    return folder


@pytest.fixture
def server(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With a folder of its own, and the caches of this machine out of sight."""
    folder = Path(shutil.copytree(made, tmp_path / "published"))
    (folder / "README.md").write_text("not fetched")
    server = Hub(folder)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_by_name(server: Hub, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched once, with the files that are read and no others; the result says which commit it was."""
    message = str(upstreams.get("hf").missing(NAME))
    assert f"{NAME} is fetched from the Hugging Face hub when it is needed" in message
    loaded = load_upstream("hf", checkpoint=NAME)
    assert all(map(torch.equal, loaded(*ragged([4000])).states, model(*ragged([4000])).states))
    snapshot = tmp_path / "cache" / "checkpoints" / "hub" / "models--facebook--wav2vec2-base" / "snapshots" / COMMIT
    assert loaded.info["checkpoint"] == str(snapshot)
    assert loaded.info["revision"] == COMMIT
    assert loaded.info["url"] == f"https://huggingface.co/{NAME}/tree/{COMMIT}"
    fetched = {file.name for file in snapshot.iterdir() if not file.name.startswith(".")}
    assert fetched == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert len(server.asked) == 4
    server.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert upstreams.get("hf").missing(NAME) is None
    assert load_upstream("wav2vec2_local", checkpoint=NAME).info["sha256"] == loaded.info["sha256"]
    assert load_upstream("hf", checkpoint=f"{NAME}@{COMMIT}").info["revision"] == COMMIT
    assert not server.asked


def test_the_name_of_a_run_stays_a_name(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def checkpoint(given: str) -> str | None:
        run = configure("voxceleb1_sv", [("-u", {"upstream": {"name": "hf", "checkpoint": given}})])
        return str(run.upstream.checkpoint)

    monkeypatch.chdir(tmp_path)
    assert checkpoint(NAME) == NAME
    (tmp_path / "facebook" / "wav2vec2-base").mkdir(parents=True)
    assert checkpoint(NAME) == str(tmp_path / NAME)
    with pytest.raises(BenchmarkError, match=r"folder without config\.json"):
        load_upstream("hf", checkpoint=NAME)
    assert not server.asked


def test_what_breaks_off_is_resumed_and_checked(server: Hub, tmp_path: Path) -> None:
    size = (server.folder / "model.safetensors").stat().st_size
    server.stop_after = [10**6, 10**6, 10**6, size // 2]
    load_upstream("hf", checkpoint=NAME)
    assert len(server.asked) == 5
    shutil.rmtree(tmp_path / "cache")
    server.sha256 = "00" * 32
    with pytest.raises(BenchmarkError, match=r"model\.safetensors was downloaded and deleted: it has sha256"):
        load_upstream("hf", checkpoint=NAME)
    assert hub.find(NAME) is None


def test_several_files_of_weights(server: Hub, model: Any) -> None:
    tensors = load_file(server.folder / "model.safetensors")
    (server.folder / "model.safetensors").unlink()
    parts = {"model-1.safetensors": list(tensors)[:9], "model-2.safetensors": list(tensors)[9:]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, server.folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (server.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_upstream("hf", checkpoint=f"{NAME}@v2")
    assert all(map(torch.equal, loaded(*ragged([4000])).states, model(*ragged([4000])).states))
    assert hub.find(f"{NAME}@v2") is not None
    assert hub.find(NAME) is None  # main may be at another commit
    for evil in ("../../evil.safetensors", f"{'a' * 300}.safetensors"):
        index["weight_map"]["x"] = evil
        (server.folder / "model.safetensors.index.json").write_text(json.dumps(index))
        shutil.rmtree(hub._own())
        with pytest.raises(BenchmarkError, match="names files of other kinds"):
            load_upstream("hf", checkpoint=NAME)
        assert hub.find(NAME) is None


def test_the_hubs_own_cache_is_used(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hf_home" / "hub" / "models--facebook--wav2vec2-base"
    shutil.copytree(server.folder, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    loaded = load_upstream("hf", checkpoint=NAME)
    assert loaded.info["checkpoint"] == str(folder / "snapshots" / COMMIT)
    assert loaded.info["revision"] == COMMIT
    assert not server.asked
    (folder / "snapshots" / COMMIT / "model.safetensors").unlink()  # half a download
    assert load_upstream("hf", checkpoint=NAME).info["checkpoint"].startswith(str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder.parent))
    assert hub._of_the_hub() == folder.parent


def test_cards_of_models_of_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.name_of("https://huggingface.co/facebook/w2v-bert-2.0") == "facebook/w2v-bert-2.0"
    assert hub.name_of("https://huggingface.co/facebook/omniASR-W2V-1B/resolve/main/omniASR-W2V-1B.pt") is None
    assert hub.name_of(None) is hub.name_of("owner/name") is None
    message = str(upstreams.get("w2v_bert").missing(None))
    assert "facebook/w2v-bert-2.0 is fetched from the Hugging Face hub" in message
    with pytest.raises(
        BenchmarkError, match=r"no folder facebook/w2v-bert-2\.0 here, and http.* has none of this name"
    ):
        load_upstream("w2v_bert_2")


def test_damaged_answers_never_escape(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, refused = server.about(), 0
    for seed in range(60):
        draw, answer = random.Random(seed), copy.deepcopy(whole)
        for _ in range(draw.randint(1, 3)):
            answer = damaged_value(answer, draw)
        monkeypatch.setattr(Hub, "about", lambda self, answer=answer: answer)
        shutil.rmtree(hub._own(), ignore_errors=True)
        try:
            hub.fetch(NAME)
        except BenchmarkError:
            refused += 1
    assert 10 < refused < 60

    def broken(*_: Any, **__: Any) -> None:
        raise http.client.BadStatusLine("no HTTP")

    shutil.rmtree(hub._own(), ignore_errors=True)
    monkeypatch.setattr(urllib.request, "urlopen", broken)
    with pytest.raises(BenchmarkError, match=r"no folder .* here, and http.* cannot be read: no HTTP"):
        hub.fetch(NAME)


def test_errors_say_what_to_do(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = r"`hf download .* --local-dir FOLDER` fetches it elsewhere; then give -k FOLDER"
    with pytest.raises(BenchmarkError, match=rf"no folder owner/gated here, and .* wants a token .*401\)\. {hand}"):
        load_upstream("hf", checkpoint="owner/gated")
    with pytest.raises(BenchmarkError, match=rf"no folder models/mine here, and .* has none .*404\)\. {hand}"):
        load_upstream("hf", checkpoint="models/mine")
    with pytest.raises(BenchmarkError, match=r"checkpoint models/mine\.pt does not exist"):
        load_upstream("wav2vec2_local", checkpoint="models/mine.pt")
    (server.folder / "config.json").unlink()
    with pytest.raises(BenchmarkError, match=r"wav2vec2-base has no config\.json with one of model\.safetensors"):
        load_upstream("hf", checkpoint=NAME)
    monkeypatch.setattr(Hub, "about", lambda self: {"sha": "../..", "siblings": None})
    with pytest.raises(BenchmarkError, match=r"does not say which commit .*'\.\./\.\.'"):
        load_upstream("hf", checkpoint=NAME)
    monkeypatch.setattr(Hub, "about", lambda self: [])
    with pytest.raises(BenchmarkError, match="answers a list, not an object"):
        load_upstream("hf", checkpoint=NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BenchmarkError, match=rf"HF_HUB_OFFLINE forbids to fetch it\. {hand}"):
        load_upstream("hf", checkpoint=NAME)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers
    with pytest.raises(
        BenchmarkError, match=rf"no folder .* here, and http://127\.0\.0\.1:9/api/.* cannot be read.*{hand}"
    ):
        load_upstream("hf", checkpoint=NAME)
