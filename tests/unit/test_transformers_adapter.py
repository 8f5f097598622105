"""Speech encoders of transformers that are not read natively."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.engine.conformance import examine
from benchmark.errors import BenchmarkError
from benchmark.registry import upstreams
from upstream import load_upstream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UniSpeech, small."""
    import transformers

    torch.manual_seed(0)
    config = transformers.UniSpeechConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embedding_groups=4, num_conv_pos_embeddings=15,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("unispeech")
    transformers.UniSpeechModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


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


def test_what_it_needs(folder: Path, tmp_path: Path) -> None:
    assert "with -k" in str(upstreams.get("hf_auto").missing(None))
    assert upstreams.get("hf_auto").missing(str(folder)) is None
    with pytest.raises(BenchmarkError, match=r"give its folder, or its name on the Hugging Face hub, with -k"):
        load_upstream("hf_auto")
    with pytest.raises(BenchmarkError, match=r"source=.*nowhere failed with \w+: "):
        load_upstream("hf_auto", checkpoint=tmp_path / "nowhere")
