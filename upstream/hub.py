"""Folders of the Hugging Face hub by their names, without its library. Imports no torch.

``owner/name`` or ``owner/name@revision``; ``main`` where no revision is given. A folder that is on the disk is used as
it is: one that was fetched before, or one in the hub's own cache (``$HF_HUB_CACHE``, ``$HF_HOME/hub``). Otherwise the
files that a reader reads are fetched, at the commit that the revision names then. ``$HF_ENDPOINT`` is another server,
``HF_HUB_OFFLINE=1`` forbids to ask any. Models that want a token are fetched by ``hf download``.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.files import cache_dir, write_text
from upstream import download

SITE = "https://huggingface.co"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files with the weights, in the order in which transformers looks for them."""
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@({_PART}))?")
_WEIGHTS_FILE = re.compile(rf"{_PART}\.(safetensors|bin)")
_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST_JSON = 2**26
"""Bytes."""


def is_name(text: str) -> bool:
    """Whether this could be the name of a model: two parts, no path that exists, and not that of a file."""
    return _NAME.fullmatch(text) is not None and not text.endswith(_FILES) and not Path(text).exists()


def name_of(url: str | None) -> str | None:
    """The name of a model whose page this is."""
    name = (url or "").removeprefix(f"{SITE}/")
    return name if name != url and _NAME.fullmatch(name) else None


def find(name: str) -> Path | None:
    """The folder of a model that is on the disk, with what a reader needs; ``None``: there is none."""
    repository, revision = _split(name)
    for root in (_own(), _of_the_hub()):
        folder = root / f"models--{repository.replace('/', '--')}"
        try:
            commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            commit = revision
        snapshot = folder / "snapshots" / commit
        if _COMMIT.fullmatch(commit) and _complete(snapshot):
            return snapshot
    return None


def fetch(name: str) -> Path:
    """The folder of a model, fetched if it is not on the disk.

    Raises:
        BenchmarkError: there is no network, no such model, or nothing in it that is read here.
    """
    if (found := find(name)) is not None:
        return found
    repository, revision = _split(name)
    by_hand = f"`hf download {repository} --local-dir FOLDER` fetches it elsewhere; then give -k FOLDER"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise BenchmarkError(f"there is no folder {name} here, and HF_HUB_OFFLINE forbids to fetch it. {by_hand}")
    endpoint = os.environ.get("HF_ENDPOINT", SITE).rstrip("/")
    about = _ask(f"{endpoint}/api/models/{repository}/revision/{revision}?blobs=true", name, by_hand)
    commit, files = about.get("sha"), _files(about)
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise BenchmarkError(f"{endpoint} does not say which commit {name} is at: {commit!r}. {by_hand}")
    preprocessor = next((file for file in PREPROCESSORS if file in files), None)
    weights = next((file for file in WEIGHTS if file in files), None)
    if "config.json" not in files or weights is None:
        raise BenchmarkError(f"{name} has no config.json with one of {', '.join(WEIGHTS)}: nothing that is read here")
    folder = _own() / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit

    def get(file: str) -> None:
        if not (snapshot / file).exists():
            download.fetch(f"{endpoint}/{repository}/resolve/{commit}/{file}", snapshot / file, files[file])

    for file in filter(None, ("config.json", preprocessor, weights)):
        get(file)
    for file in _parts(snapshot / weights) if weights.endswith(".index.json") else ():
        if file not in files:
            raise BenchmarkError(f"{name}: {weights} names {file}, which the model does not have")
        get(file)
    if revision != commit:
        (folder / "refs").mkdir(exist_ok=True)
        write_text(folder / "refs" / revision, commit)
    return snapshot


def provenance(folder: Path) -> dict[str, str]:
    """``url`` and ``revision``, a commit, of a folder of :func:`find`; of any other folder nothing."""
    match = (
        re.fullmatch(r"models--(.+?)--(.+)", folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    )
    if match is None:
        return {}
    return {"url": f"{SITE}/{match[1]}/{match[2]}/tree/{folder.name}", "revision": folder.name}


def _split(name: str) -> tuple[str, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise BenchmarkError(f"'{name}' is no name of a model of the Hugging Face hub: expected owner/name[@revision]")
    return match[1], match[2] or "main"


def _own() -> Path:
    return cache_dir() / "checkpoints" / "hub"


def _of_the_hub() -> Path:
    """Where the hub's library keeps what it fetched."""
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if cache:
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(home).expanduser() / "hub"


def _complete(snapshot: Path) -> bool:
    """Whether a folder has a configuration and weights, all parts of them."""
    weights = next((snapshot / file for file in WEIGHTS if (snapshot / file).is_file()), None)
    if weights is None or not (snapshot / "config.json").is_file():
        return False
    if not weights.name.endswith(".index.json"):
        return True
    try:
        return all((snapshot / file).is_file() for file in _parts(weights))
    except BenchmarkError:
        return False


def _parts(index: Path) -> list[str]:
    """The files that an index of weights names."""
    try:
        parts = json.loads(index.read_bytes()).get("weight_map")
        names = sorted(set(parts.values()))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise BenchmarkError(f"{index} is no index of weights: delete it, and it is fetched again") from error
    if not all(isinstance(name, str) and len(name) < 256 and _WEIGHTS_FILE.fullmatch(name) for name in names):
        raise BenchmarkError(f"{index} names files of other kinds than safetensors and bin")
    return names


def _ask(url: str, name: str, by_hand: str) -> Mapping[str, Any]:
    """The JSON object at ``url``."""
    try:
        with urllib.request.urlopen(url, timeout=download.TIMEOUT) as response:
            found = json.loads(response.read(_LARGEST_JSON))
    except urllib.error.HTTPError as error:
        reason = "wants a token for it" if error.code in (401, 403) else "has none of this name or revision"
        reason = f"{url.split('/api/')[0]} {reason} (HTTP {error.code})"
        raise BenchmarkError(f"there is no folder {name} here, and {reason}. {by_hand}") from error
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise BenchmarkError(f"there is no folder {name} here, and {url} cannot be read: {error}. {by_hand}") from error
    if not isinstance(found, dict):
        raise BenchmarkError(f"{url} answers a {type(found).__name__}, not an object. {by_hand}")
    return found


def _files(about: Mapping[str, Any]) -> dict[str, str | None]:
    """Names of the model's files, with the sha256 of those that the server tells it of."""
    files: dict[str, str | None] = {}
    listed = about.get("siblings")
    for file in listed if isinstance(listed, list) else ():
        if isinstance(file, dict) and isinstance(file.get("rfilename"), str):
            large = file.get("lfs")
            sha256 = large.get("sha256") if isinstance(large, dict) else None
            files[file["rfilename"]] = sha256 if isinstance(sha256, str) else None
    return files
