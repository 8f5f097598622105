"""Speech encoders of transformers that are not read natively."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from every_upstream import save_unispeech
from safetensors.torch import load_file, save_file

from benchmark.engine.conformance import examine
from benchmark.engine.prepare import weights_digest
from benchmark.errors import BenchmarkError
from benchmark.registry import upstreams
from upstream import load_upstream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_unispeech(tmp_path_factory.mktemp("unispeech"))


@pytest.mark.medium
def test_states_are_those_of_transformers(folder: Path) -> None:
    import transformers

    model = load_upstream("hf_auto", checkpoint=folder)
    assert (model.num_states, model.hidden_size, model.frame_shift, model.sample_rate) == (3, 32, 320, 16000)
    wavs = [0.1 * torch.randn(n) for n in (16000, 9000)]
    reference = transformers.UniSpeechModel.from_pretrained(folder).eval()
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    with torch.no_grad():
        found = model(wavs)
        for i, wav in enumerate(wavs):
            inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
            for state, expected in zip(
                found.states, reference(**inputs, output_hidden_states=True).hidden_states, strict=True
            ):
                torch.testing.assert_close(state[i, : found.lengths[i]], expected[0])
    assert not [finding for finding in examine(model) if finding.outcome == "wrong"]


def test_its_settings_are_part_of_its_digest(folder: Path, tmp_path: Path) -> None:
    """They decide the states as its weights do: with other ones, a feature store would give those of the first."""
    digests = []
    for name in ("first", "moved", "other"):
        shutil.copytree(folder, tmp_path / name)
        path = tmp_path / name / "preprocessor_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps(settings | {"do_normalize": settings["do_normalize"] != (name == "other")}))
        digests.append(weights_digest(load_upstream("hf_auto", checkpoint=tmp_path / name)))
    assert digests[0] == digests[1] != digests[2]
    # options are told apart by themselves, and dropout changes no weights: a head of the frozen model is gone on with
    tuned = load_upstream("hf_auto", checkpoint=tmp_path / "first", hidden_dropout=0.3)
    assert weights_digest(tuned) == digests[0]


def test_what_it_needs(folder: Path, tmp_path: Path) -> None:
    assert "with -k" in str(upstreams.get("hf_auto").missing(None))
    assert upstreams.get("hf_auto").missing(str(folder)) is None
    with pytest.raises(BenchmarkError, match=r"give its folder, or its name on the Hugging Face hub, with -k"):
        load_upstream("hf_auto")
    with pytest.raises(BenchmarkError, match=r"source=.*nowhere failed with \w+: "):
        load_upstream("hf_auto", checkpoint=tmp_path / "nowhere")


def test_what_fails_is_said(folder: Path, tmp_path: Path) -> None:
    """Weights that are missing would be random; and a model without hidden states."""
    import transformers

    shutil.copytree(folder, tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layers.1.attention.k_proj.weight"], tensors["masked_spec_embed"]
    save_file(tensors, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BenchmarkError, match=r"lacks 1 weights of UniSpeechModel, which .*: encoder\.layers\.1\.att"):
        load_upstream("hf_auto", checkpoint=tmp_path / "hf")
    with pytest.raises(BenchmarkError, match=r"model_type is 'unispeech'; supported: .*; -u hf_auto runs other"):
        load_upstream("hf", checkpoint=folder)
    config = transformers.EncodecConfig(num_filters=4, hidden_size=16, codebook_size=8, codebook_dim=16,
                                        sampling_rate=16000, target_bandwidths=[1.5])  # fmt: skip
    transformers.EncodecModel(config).save_pretrained(tmp_path / "encodec")
    transformers.EncodecFeatureExtractor(sampling_rate=16000).save_pretrained(tmp_path / "encodec")
    with pytest.raises(BenchmarkError, match=r"source=.*encodec fails on a second of noise with TypeError: .*hidden_s"):
        load_upstream("hf_auto", checkpoint=tmp_path / "encodec")


def test_layers_are_not_dropped_unless_asked_for(tmp_path: Path) -> None:
    """SEW would give fewer states while it is trained, and never as many as announced."""
    import transformers

    config = transformers.SEWConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 13,
        num_conv_pos_embedding_groups=4, num_conv_pos_embeddings=15, layerdrop=1.0,
    )  # fmt: skip
    transformers.SEWModel(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    model = load_upstream("hf_auto", checkpoint=tmp_path).train()
    assert model.frame_shift == 640
    assert len(model([torch.randn(16000)]).states) == model.num_states == 3
    assert load_upstream("hf_auto", checkpoint=tmp_path, layerdrop=0.5).encoder.config.layerdrop == 0.5
