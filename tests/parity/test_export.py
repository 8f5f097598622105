"""Fine-tuned upstreams are written for fairseq and for transformers, which load them and compute the same states.

The runs are real ones, two updates long, from small checkpoints that fairseq made; every hidden state of what they
export is compared with the run's own upstream, which for LoRA has its adapters still beside the weights.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq.checkpoint_utils
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support import SMALL
from test_wav2vec2_parity import (
    BASE,
    LL60K,
    MODELS,
    TOLERANCE,
    batch,
    fairseq_states,
    make_fairseq,
    prepared,
    relative_error,
    save_fairseq,
    waveforms,
)
from torch import Tensor

from benchmark import cli
from benchmark.config import TuneConfig, find_regime
from benchmark.engine import export
from benchmark.engine.predict import TrainedRun
from benchmark.engine.regimes import apply_regime
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream
from upstream import load_upstream
from upstream.wav2vec2 import checkpoint
from upstream.wav2vec2.config import ACTIVATIONS
from upstream.wav2vec2.export import HUGGINGFACE_ACTIVATIONS, export_huggingface
from upstream.wav2vec2.model import ACTIVATION_FNS

NORMALIZE = {"base": False, "ll60k": True, "tiny": True}
RUNS = {
    "base, finetune": ["--regime", "finetune", "-o", "tune.extractor=true"],
    "base, lora": ["--regime", "lora", "-o", "tune.lora_targets=[q_proj,v_proj,fc1]"],
    "ll60k, finetune": ["--regime", "finetune"],
    "tiny, partial": ["--top-blocks", "2"],
    "tiny, frozen": [],
}

Runs = Callable[[str], Path]
"""A name of :data:`RUNS` -> the folder of the run."""


@torch.no_grad()
def our_states(model: Upstream, wav: Tensor) -> list[Tensor]:
    return model(*batch([wav])).states


def transformers_states(model: transformers.Wav2Vec2Model, inputs: Tensor) -> list[Tensor]:
    """SUPERB's states: the input of each block, and the encoder's output."""
    with torch.no_grad():
        output = model(inputs, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]


def load_transformers(folder: Path) -> transformers.Wav2Vec2Model:
    """As ``from_pretrained`` loads it: with every weight of the file, and no other."""
    model, about = transformers.Wav2Vec2Model.from_pretrained(str(folder), output_loading_info=True)
    assert not any(about.values()), about
    return model.eval()


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert max(relative_error(a, b) for a, b in zip(found, expected, strict=True)) < TOLERANCE


def upstream_arguments(kind: str, folder: Path) -> list[str]:
    if kind == "tiny":
        return ["-u", "wav2vec2_tiny"]
    overrides = {"base": {**BASE, "dropout": 0.05}, "ll60k": {**LL60K, "quantize_targets": True, "conv_pos": 31}}[kind]
    save_fairseq(make_fairseq(overrides), NORMALIZE[kind], folder / "pretrained.pt")
    return ["-u", "wav2vec2_local", "-k", str(folder / "pretrained.pt")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Runs:
    root = tmp_path_factory.mktemp("runs")

    @functools.cache
    def made(name: str) -> Path:
        folder = root / name.replace(", ", "_")
        folder.mkdir()
        arguments = [*upstream_arguments(name.partition(",")[0], folder), "-d", "voxceleb1_sv"]
        arguments += ["--data-root", str(data_root), "-p", str(folder / "run"), "--max-steps", "2", "--device", "cpu"]
        # a rate at which two updates change the states far beyond the tolerance
        overrides = [*SMALL, "optim.lr=0.005", "trainer.eval_every=2"]
        assert cli.run_downstream([*arguments, *RUNS[name], "-o", *overrides]) == 0
        return folder / "run"

    return made


@pytest.mark.parametrize("name", [name for name in RUNS if "frozen" not in name])
def test_a_run_is_exported_and_its_states_are_those_of_the_run(name: str, runs: Runs, tmp_path: Path) -> None:
    kind, folder = name.partition(",")[0], runs(name)
    run = TrainedRun(folder, device="cpu")
    wav = waveforms()[0]
    expected = our_states(run.upstream, wav)
    before = load_upstream(run.config.upstream.name, checkpoint=run.config.upstream.checkpoint)
    assert relative_error(our_states(before, wav)[-1], expected[-1]) > 10 * TOLERANCE

    assert cli.main(["export", str(folder), "-o", str(tmp_path / "tuned.pt")]) == 0
    again = load_upstream("wav2vec2_local", checkpoint=tmp_path / "tuned.pt")
    assert_same(our_states(again, wav), expected)
    assert again.config == run.upstream.config
    (theirs,), _, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "tuned.pt")])
    assert task.cfg.normalize == NORMALIZE[kind]
    assert_same(fairseq_states(theirs.eval(), prepared(wav, task.cfg.normalize)), expected)

    assert cli.main(["export", str(folder), "-o", str(tmp_path / "tuned"), "--format", "huggingface"]) == 0
    model = load_transformers(tmp_path / "tuned")
    assert model.config.hidden_dropout == run.upstream.config.dropout
    assert_same(transformers_states(model, prepared(wav, NORMALIZE[kind])), expected)


@pytest.mark.parametrize("name", [name for name in MODELS if "deep" not in name])
def test_transformers_computes_our_states(name: str, tmp_path: Path) -> None:
    overrides, normalize = MODELS[name]
    save_fairseq(make_fairseq(overrides), normalize, tmp_path / "checkpoint.pt")
    model = checkpoint.load_model(tmp_path / "checkpoint.pt")
    assert "or transformers.Wav2Vec2Model" in export_huggingface(model, tmp_path / "out")
    wav = waveforms()[0]
    expected = our_states(model, wav)
    assert_same(transformers_states(load_transformers(tmp_path / "out"), prepared(wav, normalize)), expected)
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_preprocessor_is_fairseqs_but_for_its_epsilon(normalize: bool, tmp_path: Path) -> None:
    """transformers adds 1e-7 to the variance, fairseq (``F.layer_norm``) 1e-5: quiet audio comes out louder."""
    save_fairseq(make_fairseq(BASE), normalize, tmp_path / "checkpoint.pt")
    export_huggingface(checkpoint.load_model(tmp_path / "checkpoint.pt"), tmp_path / "out")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(str(tmp_path / "out"))
    assert isinstance(extractor, transformers.Wav2Vec2FeatureExtractor)
    assert extractor.sampling_rate == 16000
    for wav in (waveforms()[0], waveforms()[0] / 100):
        found = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        variance = wav.var(correction=0)
        louder = ((variance + 1e-5) / (variance + 1e-7)).sqrt() if normalize else 1.0
        assert relative_error(found, louder * prepared(wav, normalize)) < 1e-5


def test_padding_is_told_to_transformers_where_it_is_for_it(tmp_path: Path) -> None:
    """Models without GroupNorm: a padded batch, by the exported preprocessor with its mask."""
    save_fairseq(make_fairseq(LL60K), True, tmp_path / "checkpoint.pt")
    model = checkpoint.load_model(tmp_path / "checkpoint.pt")
    export_huggingface(model, tmp_path / "out")
    wavs = [10 * wav for wav in waveforms()]  # so loud that the epsilons do not matter
    extractor = transformers.AutoFeatureExtractor.from_pretrained(str(tmp_path / "out"))
    inputs = extractor([wav.numpy() for wav in wavs], sampling_rate=16000, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model(*batch(wavs))
        found = load_transformers(tmp_path / "out")(**inputs).last_hidden_state
    for i, frames in enumerate(expected.lengths.tolist()):
        assert relative_error(found[i, :frames], expected.states[-1][i, :frames]) < TOLERANCE


def test_what_transformers_has_no_words_for_is_refused_by_name(tmp_path: Path) -> None:
    save_fairseq(make_fairseq({**BASE, "pos_conv_depth": 3, "conv_pos": 12}), False, tmp_path / "deep.pt")
    model = load_upstream("wav2vec2_local", checkpoint=tmp_path / "deep.pt")
    with pytest.raises(BenchmarkError, match="pos_conv_depth = 3"):
        model.exports["huggingface"](model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model.exports["fairseq"](model, tmp_path / "again.pt")
    assert checkpoint.load_model(tmp_path / "again.pt").config.pos_conv_depth == 3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_same_functions(name: str) -> None:
    x = torch.linspace(-6, 6, 1001)
    theirs = transformers.activations.ACT2FN[HUGGINGFACE_ACTIVATIONS[name]](x)
    torch.testing.assert_close(theirs, ACTIVATION_FNS[name](x), rtol=1e-5, atol=1e-6)


def test_a_model_that_never_masks(tmp_path: Path) -> None:
    """transformers has no mask embedding for it."""
    save_fairseq(make_fairseq({**BASE, "mask_prob": 0.0}), False, tmp_path / "checkpoint.pt")
    export_huggingface(checkpoint.load_model(tmp_path / "checkpoint.pt"), tmp_path / "out")
    load_transformers(tmp_path / "out")


def test_the_names_are_those_of_published_checkpoints(tmp_path: Path) -> None:
    """transformers before 4.46 knows ``weight_g`` and ``weight_v`` only; the check of missing weights is a check."""
    save_fairseq(make_fairseq(LL60K), True, tmp_path / "checkpoint.pt")
    export_huggingface(checkpoint.load_model(tmp_path / "checkpoint.pt"), tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {name for name in weights if "pos_conv" in name} == {
        f"encoder.pos_conv_embed.conv.{name}" for name in ("bias", "weight_g", "weight_v")
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "wav2vec2"
    del weights["encoder.layers.0.attention.q_proj.bias"]
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssertionError, match="q_proj"):
        load_transformers(tmp_path / "out")


def test_merged_adapters_are_gone() -> None:
    plain = load_upstream("wav2vec2_tiny")
    adapted = load_upstream("wav2vec2_tiny")
    regime = find_regime("lora")
    apply_regime(regime, adapted, TuneConfig())
    assert adapted.state_dict().keys() != plain.state_dict().keys()
    regime.merge(adapted)
    assert adapted.state_dict().keys() == plain.state_dict().keys()


def test_refusals(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs("tiny, partial")
    for name in ("file", "folder/inside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    for taken, format in (("file", "fairseq"), ("folder", "huggingface")):
        with pytest.raises(BenchmarkError, match="already exists and is not overwritten"):
            export.export(folder, tmp_path / taken, format)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inside").read_text() == "precious"
    with pytest.raises(BenchmarkError, match=r"regime 'frozen', which leaves upstream 'wav2vec2_tiny' unchanged"):
        export.export(runs("tiny, frozen"), tmp_path / "out")
    with pytest.raises(BenchmarkError, match=r"unknown format 'hugingface'.*huggingface"):
        export.export(folder, tmp_path / "out", "hugingface")
    with pytest.raises(BenchmarkError, match=r"holds no run \(no config\.yaml\)"):
        export.export(tmp_path / "nowhere", tmp_path / "out")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(BenchmarkError, match="No space left on device"):
        export.export(folder, tmp_path / "out", "huggingface")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.part"))
    monkeypatch.setattr("upstream.wav2vec2.export.EXPORTS", {})
    with pytest.raises(BenchmarkError, match="has no export format"):
        export.export(folder, tmp_path / "out")
