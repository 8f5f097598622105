"""Damaged checkpoints of every format are read all the same, or refused with one clear message, and run nothing."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from damaged_checkpoints import READERS
from every_upstream import NEED_A_FILE
from fuzzing import fuzz

from benchmark.errors import BenchmarkError
from upstream import load_upstream

MUTATIONS = int(os.environ.get("MUTATIONS", "60"))
"""Damaged inputs of each reader; 10,000 by hand before a release: docs/upstreams.md."""


@pytest.mark.medium
@pytest.mark.parametrize("name", READERS)
def test_damage_at_random_never_escapes(name: str, tmp_path: Path) -> None:
    READERS[name].read(good(name, tmp_path))
    outcome = fuzz(READERS[name], MUTATIONS, tmp_path / "f")
    assert outcome.findings == {}
    assert MUTATIONS // 5 < outcome.refused < outcome.inputs == MUTATIONS


def good(name: str, tmp_path: Path) -> Path:
    """What is damaged, whole."""
    folder = tmp_path / "good"
    folder.mkdir()
    READERS[name].write(folder)
    return folder


OWN = {"fairseq": ("hf", "wav2vec2_local"), "data2vec 2.0": ("hf", "data2vec2_local"), "WavLM": ("hf", "wavlm_local"),
       "fairseq2": ("hf", "wav2vec2_local"), "Hugging Face, safetensors": ("hf", "wav2vec2_local"),
       "Hugging Face, pickles": ("hf", "wav2vec2_local"), "Hugging Face, settings": ("hf", "wav2vec2_local"),
       "OpenAI": ("whisper_local",), "CTranslate2": ("whisper_local",), "Whisper, weights": ("whisper_local",),
       "SpeechBrain": ("bestrq",)}  # fmt: skip
"""Kinds of files -> names that read them."""


@pytest.mark.medium
@pytest.mark.parametrize("kind", OWN)
def test_files_under_the_name_of_another_family(kind: str, tmp_path: Path) -> None:
    folder = good(f"checkpoints: {kind}", tmp_path)
    (path,) = [p for p in (folder / "file.pt", folder / "hf") if p.exists()] or [folder]
    for name in OWN[kind]:
        load_upstream(name, checkpoint=path)
    for name in set(NEED_A_FILE) - {"hf_auto", *OWN[kind]}:
        with pytest.raises(BenchmarkError) as raised:
            load_upstream(name, checkpoint=path)
        assert str(path) in str(raised.value)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    """Under endings that checkpoints have, too."""
    contents = {
        "text": b"hello", "empty": b"", "json": json.dumps({"a": 1}).encode(), "html": b"<!DOCTYPE html><p>404</p>",
        "gzip": gzip.compress(b"x" * 1000), "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100), "zip": b"PK\x03\x04" + bytes(100), "zeros": bytes(5000),
        "safetensors": (2).to_bytes(8, "little") + b"{}", "ctranslate2": (6).to_bytes(4, "little"),
    }  # fmt: skip
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "folder"]
    for name, content in contents.items():
        for ending in ("", ".pt", ".bin", ".safetensors", ".ckpt"):
            paths.append(tmp_path / f"{name}{ending}")
            paths[-1].write_bytes(content)
    for path in paths:
        for name in set(NEED_A_FILE) - {"hf_auto"}:
            with pytest.raises(BenchmarkError) as raised:
                load_upstream(name, checkpoint=path)
            assert str(path) in str(raised.value)
