"""``wavbench extract``: the states of a run's feature store, as files; stopped and continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import SMALL, Cli
from torch import Tensor
from toys import ToyUpstream, toy_corpus

from benchmark.data import audio, manifest
from benchmark.engine.extract import Wanted, extract, parse_states
from benchmark.engine.feature_shards import Shard
from benchmark.engine.feature_store import FeatureStore, identity
from benchmark.engine.prepare import weights_digest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Utterance
from benchmark.registry import upstreams
from upstream import load_upstream


class Extracted(ToyUpstream):
    info = {"name": "toy"}  # noqa: RUF012
    calls: list[tuple[int, Any]] = []  # noqa: RUF012

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        self.calls.append((len(wavs), keep))
        return super().forward(wavs, wav_lens, keep=keep)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    (tmp_path / "audio").mkdir()
    Extracted.calls.clear()
    return toy_corpus(tmp_path / "audio").splits["train"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("form", ["safetensors", "npy"])
@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_states_as_the_upstream_gives_them(
    utterances: list[Utterance], tmp_path: Path, form: str, means: bool, dtype: str
) -> None:
    upstream, folder = Extracted().eval(), tmp_path / "features"
    wanted = Wanted([0, 2], means, form, dtype)
    assert extract(upstream, utterances, folder, wanted, options={}, batch_size=4, quiet=True) == len(utterances)
    assert {tuple(keep) for _, keep in Extracted.calls} == {(0, 2)}
    assert len(lines(folder)) == len(utterances)
    for utterance in utterances:
        (line,) = (line for line in lines(folder) if line["id"] == utterance.id)
        with torch.inference_mode():
            hidden = upstream([audio.load(utterance, 16000)])
        assert line["frames"] == int(hidden.lengths[0])
        if form == "npy":
            got = dict(zip((0, 2), torch.from_numpy(np.load(folder / line["file"])), strict=True))
        else:
            got = {int(name): tensor for name, tensor in load_file(folder / line["file"]).items()}
        assert got.keys() == {0, 2}
        for k, state in got.items():
            expected = hidden.states[k][0].mean(0) if means else hidden.states[k][0]
            assert state.dtype == (torch.float32 if dtype == "float32" else torch.float16)
            atol = 1e-6 if dtype == "float32" else 1e-3
            torch.testing.assert_close(state.float(), expected, atol=atol, rtol=0)


def test_it_is_continued(utterances: list[Utterance], tmp_path: Path) -> None:
    upstream, folder = Extracted().eval(), tmp_path / "features"

    def run(chosen: Sequence[Utterance] = utterances, wanted: Wanted | None = None, **values: Any) -> int:
        return extract(upstream, chosen, folder, wanted or Wanted([0, 1, 2]), options={}, quiet=True, **values)

    assert run(utterances[:4]) == 4
    index = folder / "index.jsonl"
    kept = index.read_bytes()
    index.write_bytes(kept + b'{"id": "train4", "fi')  # killed while it wrote
    assert run() == 6
    assert run() == 0
    first, second, third = (folder / line["file"] for line in lines(folder)[:3])
    first.unlink()
    changed = next(u for u in utterances if f"{u.id}.safetensors" == second.name)
    soundfile.write(changed.path, np.ones(4000), 16000)
    before = third.stat().st_mtime_ns
    assert run() == 2
    assert sorted(line["id"] for line in lines(folder)) == sorted(u.id for u in utterances)
    assert load_file(second)["0"].shape == (12, 8)
    assert third.stat().st_mtime_ns == before
    assert run() == 0
    with pytest.raises(BenchmarkError, match=r"holds other features \(states \[0, 1, 2\], not \[2\]\).*--overwrite"):
        run(wanted=Wanted([2]))
    assert run(wanted=Wanted([2]), overwrite=True) == 10
    upstream.layers[0].weight.data += 1
    with pytest.raises(BenchmarkError, match=r"holds other features \(digest '"):
        run(wanted=Wanted([2]))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(BenchmarkError, match="is not empty, and holds no features"):
        run()


def test_what_cannot_be_extracted_is_named_before_anything_is(utterances: list[Utterance], tmp_path: Path) -> None:
    upstream, folder = Extracted().eval(), tmp_path / "features"

    def run(*chosen: Utterance, dtype: str = "float32") -> int:
        return extract(upstream, chosen, folder, Wanted([2], dtype=dtype), options={}, quiet=True)

    path = utterances[0].path
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    with pytest.raises(BenchmarkError, match=r"too short for a single frame: short \(1 in all\)"):
        run(utterances[0], Utterance("short", str(tmp_path / "short.wav")))
    with pytest.raises(BenchmarkError, match=r"'a/b\.safetensors' would be the file of '\.\./a/b' and of '/a/b'"):
        run(Utterance("/a/b", path), Utterance("../a/b", path))
    with pytest.raises(BenchmarkError, match=r"'' would be the file of '\.\.'; give other ids"):
        run(Utterance("..", path))
    assert not folder.exists()
    assert not Extracted.calls
    assert run(Utterance("../../a/b", path)) == 1
    assert (folder / "a/b.safetensors").exists()
    upstream.forward = lambda *_, **__: HiddenStates([torch.full((1, 9, 8), 1e5)], torch.tensor([9]))  # type: ignore[assignment]
    shutil.rmtree(folder)
    with pytest.raises(BenchmarkError, match="beyond what float16 holds; use --dtype float32"):
        run(utterances[0], dtype="float16")
    assert not lines(folder)


@pytest.mark.parametrize(
    ("text", "expected"), [("all", [0, 1, 2]), ("last", [2]), ("2,0", [0, 2]), ("0,last,2", [0, 2]), ("1", [1])]
)
def test_states_are_chosen(text: str, expected: list[int]) -> None:
    assert parse_states(text, 3) == expected


@pytest.mark.parametrize("text", ["", "3", "-1", "0,", "first", "²"])
def test_states_that_do_not_exist(text: str) -> None:
    with pytest.raises(BenchmarkError, match="expected all, last or numbers from 0 to 2"):
        parse_states(text, 3)


@pytest.mark.medium
def test_its_digests_are_those_of_a_runs_feature_store(cli: Cli, data_root: Path, tmp_path: Path) -> None:
    """A run keeps features; what is extracted afterwards has the same digests and, in float16, the same numbers."""
    options = ["features.keep=true", "data.crop_seconds=null", *(o for o in SMALL if "crop" not in o)]
    run = ["-u", "wav2vec2_tiny", "-d", "voxceleb1_sv", "--data-root", data_root, "-p", "run", "--max-steps", 1]
    assert cli(*run, "-o", *options).returncode == 0
    (store,) = (tmp_path / "cache" / "features").glob("*/frames")
    shards = [Shard(path) for path in store.glob("*.safetensors")]
    known = {key: (shard, *rows) for shard in shards for key, rows in shard.entries.items()}
    files = sorted((data_root / "VoxCeleb1").rglob("*.wav"))[:3]
    done = cli("extract", "-u", "wav2vec2_tiny", *files, "-o", "out", "--states", "2,last", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 utterances extracted to out\n"
    assert json.loads(Path("out/extract.json").read_text())["digest"] == store.parent.name
    compared = 0
    for line in lines(Path("out")):
        with safe_open(Path("out") / line["file"], framework="pt") as file:  # type: ignore[no-untyped-call]
            assert file.metadata()["digest"] == store.parent.name
            assert file.metadata()["key"] == line["key"]
            if line["key"] in known:  # an utterance that the run's splits have
                shard, first, rows = known[line["key"]]
                assert torch.equal(file.get_tensor("6"), shard["6"][first : first + rows])
                compared += 1
    assert compared
    again = cli("extract", "-u", "wav2vec2_tiny", *files, "-o", "out", "--states", "2,last", "--dtype", "float16")
    assert again.stdout == "0 utterances extracted to out; 3 were there\n"


def test_options_and_precision_are_part_of_the_digest(tmp_path: Path) -> None:
    upstream = load_upstream("fbank")
    weights = weights_digest(upstream)
    names = [
        identity(weights, "fbank", {}),
        identity(weights, "fbank", {}, "bf16"),
        identity(weights, "fbank", {"a": 1}),
    ]
    digests = {FeatureStore(upstream, name).folder.parent.name for name in names}
    assert len(digests) == 3


def test_the_command_takes_manifests_and_plugins(cli: Cli, utterances: list[Utterance]) -> None:
    upstreams.register("toy", Extracted)
    manifest.write("some.jsonl", utterances[:3])
    stretch = {"id": "part", "path": utterances[0].path, "start": 0.0, "duration": 0.05, "mood": "calm"}
    Path("part.jsonl").write_text(json.dumps(stretch) + "\n")
    done = cli(
        "extract", "-u", "toy", "some.jsonl", "part.jsonl", "--label", "mood", "-o", "deep/out", "--means",
        "--format", "npy", "--precision", "bf16", "--batch-size", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.load("deep/out/part.npy").shape == (3, 8)
    assert json.loads(Path("deep/out/extract.json").read_text())["kind"] == "means"
    wrong = cli("extract", "-u", "toy", "some.jsonl", "-o", "out", "--states", "7")
    assert wrong.returncode == 1
    assert "numbers from 0 to 2" in wrong.stderr
