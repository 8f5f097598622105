"""Whisper's encoder against transformers' and OpenAI's: all states, alone and in batches, padded to 30 s and not."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import REPOSITORY
from torch import Tensor
from whisper_files import POSITIONS, openai_state, ragged, save_ctranslate2, save_folder, whisper_model

from upstream import load_upstream
from upstream.whisper.frontend import log_mel, mel_filters

transformers = pytest.importorskip("transformers")

SAMPLES = [16000, 3201, 8000, 7999, 23456, 400, 1]
"""From one sample to three windows; 8,000 samples are one."""
CPU = torch.device("cpu")
REAL = REPOSITORY / "data" / "weights" / "whisper-base"


def reference_mel(wav: Tensor, mels: int, frames: int) -> Tensor:
    """(1, band, frame) of transformers' feature extractor, of audio that silence follows."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    padded = np.pad(wav.numpy(), (0, 160 * frames + 400 - len(wav)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = extractor._np_extract_fbank_features(padded[None], "cpu")
    return torch.from_numpy(np.asarray(features, dtype=np.float32))[:, :, :frames]


@torch.no_grad()
def reference(encoder: Any, mel: Tensor, window: int, length: str, frames: int) -> list[Tensor]:
    """The states (frame, dim) of transformers' encoder, window after window."""
    parts = []
    for start in range(0, frames, window):
        size = window if length == "window" else min(window, frames - start)
        cut = copy.deepcopy(encoder)  # which insists on the length of its positions
        cut.config.max_source_positions = size
        cut.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:size])
        out = cut(mel[:, :, 2 * start : 2 * (start + size)], output_hidden_states=True)
        states = [*out.hidden_states[:-1], out.last_hidden_state]
        parts.append([state[0, : frames - start] for state in states])
    return [torch.cat(states) for states in zip(*parts, strict=True)]


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """As a share of the state's largest value."""
    assert ours.shape == theirs.shape
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("length", ["window", "valid"])
@pytest.mark.parametrize("mels", [80, 128])
def test_states_are_those_of_transformers(length: str, mels: int, tmp_path: Path) -> None:
    theirs = whisper_model(mels)
    ours = load_upstream("whisper_local", checkpoint=save_folder(theirs, tmp_path), length=length)
    wavs, wav_lens = ragged(SAMPLES, padding=float("nan"))
    with torch.no_grad():
        out = ours(wavs, wav_lens)
    together = ours(wavs, wav_lens)  # with gradients, a batch is computed as one
    assert out.lengths.tolist() == [-(-n // 320) for n in SAMPLES]
    for i, n in enumerate(SAMPLES):
        frames = -(-n // 320)
        windows = -(-frames // POSITIONS)
        mel = reference_mel(wavs[i, :n], mels, 2 * POSITIONS * windows)
        expected = reference(theirs.encoder, mel, POSITIONS, length, frames)
        assert len(expected) == len(out.states) == ours.num_states == 4
        alone = ours(wavs[i : i + 1, :n], wav_lens[i : i + 1])
        for given in (out, together, alone):
            row = 0 if given is alone else i
            for state, target in zip(given.states, expected, strict=True):
                assert largest_difference(state[row, :frames], target) < 1e-4
                assert not state[row, frames:].any()


@pytest.mark.parametrize("mels", [80, 128])
def test_the_front_end_is_openais(mels: int) -> None:
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed")
    assert torch.allclose(mel_filters(mels, CPU), whisper.audio.mel_filters("cpu", mels), atol=1e-8, rtol=0)
    wavs, _ = ragged([16000 * 31])
    for n in (16000, 479_999, 480_000, 16000 * 31):
        ours = log_mel(wavs[:, :n], mels, 6000)[0]
        theirs = whisper.log_mel_spectrogram(wavs[0, :n], mels, padding=480_000)
        frames = min(6000, theirs.size(1))
        torch.testing.assert_close(ours[:, :frames], theirs[:, :frames], atol=1e-5, rtol=0)


@pytest.mark.parametrize("bands", [80, 128])
def test_filters_are_librosas(bands: int) -> None:
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(201, bands, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney").T
    assert np.abs(mel_filters(bands, CPU).numpy() - expected).max() < 1e-8


def test_all_formats_hold_the_same_encoder(tmp_path: Path) -> None:
    theirs = whisper_model()
    torch.save(openai_state(theirs), tmp_path / "openai.pt")
    files = {
        "safetensors": save_folder(theirs, tmp_path / "safetensors"),
        "pickle": save_folder(theirs, tmp_path / "pickle", pickled=True),
        "openai": tmp_path / "openai.pt",
        "ctranslate2": save_ctranslate2(theirs, tmp_path / "ctranslate2"),
        "bin": tmp_path / "ctranslate2" / "model.bin",
        "half": save_ctranslate2(theirs, tmp_path / "half", torch.float16),
    }
    models = {name: load_upstream("whisper_local", checkpoint=file) for name, file in files.items()}
    expected = models["safetensors"].state_dict()
    assert len(expected) == 4 + 1 + 3 * 15 + 2
    for name, model in models.items():
        tolerance = 1e-3 if name == "half" else 0.0
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, expected[key], atol=tolerance, rtol=0)
    assert [models[name].info["format"] for name in ("pickle", "openai", "bin")] == [
        "Hugging Face", "OpenAI", "CTranslate2",
    ]  # fmt: skip


def test_openais_own_file_gives_openais_states(tmp_path: Path) -> None:
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed")
    torch.manual_seed(0)
    dims = whisper.ModelDimensions(80, 1500, 64, 4, 2, 20, 8, 64, 4, 1)
    theirs = whisper.model.Whisper(dims).eval()
    torch.save({"dims": vars(dims), "model_state_dict": theirs.state_dict()}, tmp_path / "own.pt")
    wavs, wav_lens = ragged([16000, 9000])
    out = load_upstream("whisper_local", checkpoint=tmp_path / "own.pt", length="window")(wavs, wav_lens)
    for i, n in enumerate(wav_lens.tolist()):
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(wavs[i, :n]))
        expected = theirs.encoder(mel[None])[0, : out.lengths[i]]
        assert largest_difference(out.states[-1][i, : out.lengths[i]], expected) < 1e-4


@pytest.mark.skipif(not REAL.is_dir(), reason="no real weights; make real-weights fetches them")
@pytest.mark.parametrize("length", ["window", "valid"])
def test_real_weights(length: str) -> None:
    """Whisper-base of ``make real-weights``, against transformers' encoder with the same weights, on real clips."""
    import soundfile

    ours = load_upstream("whisper_base", checkpoint=REAL, length=length)
    theirs = transformers.WhisperModel(
        transformers.WhisperConfig(
            d_model=512,
            encoder_layers=6,
            encoder_attention_heads=8,
            encoder_ffn_dim=2048,
            decoder_layers=1,
            decoder_attention_heads=8,
        )
    ).encoder.eval()
    from upstream.readers import renamed
    from upstream.whisper.checkpoint import HUGGING_FACE

    state = {renamed(name, HUGGING_FACE).removeprefix("encoder."): x for name, x in ours.state_dict().items()}
    theirs.load_state_dict(state)
    clips = sorted((REPOSITORY.parent / "shared" / "data" / "LibriSpeech").rglob("*.flac"))[::140]
    wavs = [torch.from_numpy(soundfile.read(clip, dtype="float32")[0]) for clip in clips] or [ragged([50_000])[0][0]]
    # In double precision: blocks give values of 500, so that rounding to float32 moves the last state by up to 2e-4.
    ours, theirs = ours.double(), theirs.double()
    for wav in wavs:
        with torch.no_grad():
            out = ours([wav])
        mel = log_mel(wav[None], 80, 3000).double()
        expected = reference(theirs, mel, 1500, length, int(out.lengths[0]))
        for state, target in zip(out.states, expected, strict=True):
            assert largest_difference(state[0], target) < 1e-9
