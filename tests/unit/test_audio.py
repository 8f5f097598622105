from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmark.data import audio
from benchmark.data.audio import AudioError
from benchmark.interfaces import Utterance


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16000, **options: str) -> Utterance:
    soundfile.write(path, samples, rate, **options)
    return Utterance(path.stem, str(path))


def test_mono_16_bit_is_read_exactly(tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768], dtype=np.int16)
    wav = audio.load(write(tmp_path / "a.wav", samples), 16000)
    assert wav.dtype == torch.float32
    assert torch.equal(wav, torch.tensor(samples / 32768, dtype=torch.float32))


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.1, 16000, 300), tone(0.1, 16000, 700)
    utterance = write(tmp_path / "stereo.flac", np.stack([left, right], 1))
    np.testing.assert_allclose(audio.load(utterance, 16000), (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    wav = audio.load(write(tmp_path / "a.wav", tone(0.5, rate), rate), 16000).numpy()
    assert len(wav) == 8000
    np.testing.assert_allclose(wav[500:-500], tone(0.5, 16000)[500:-500], atol=5e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_the_samples_of_a_duration_are_those_that_are_loaded(tmp_path: Path, rate: int) -> None:
    """Rounded down, 16,080 of 16,080 samples were 16,079, and one frame less."""
    for count in (1100, 1101, 1607, 16080, 20101):
        utterance = write(tmp_path / "a.wav", np.zeros(count, dtype=np.float32), rate)
        assert audio.samples(audio.durations([utterance]), 16000).tolist() == [len(audio.load(utterance, 16000))]
    exact = np.arange(1, 100_000)
    assert np.array_equal(audio.samples(exact / 16000, 16000), exact)


def test_a_span_of_a_file(tmp_path: Path) -> None:
    samples = tone(1.0, 16000)
    whole = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    part = Utterance("part", whole.path, start=0.25, duration=0.5)
    np.testing.assert_array_equal(audio.load(part, 16000), samples[4000:12000])
    assert audio.durations([whole, part]).tolist() == [1.0, 0.5]
    with pytest.raises(AudioError, match=r"utterance long: .*1\.000 s long.*0\.750–1\.250"):
        audio.load(Utterance("long", whole.path, start=0.75, duration=0.5), 16000)


def test_crops(tmp_path: Path) -> None:
    samples = tone(1.0, 16000)
    utterance = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    np.testing.assert_array_equal(audio.load(utterance, 16000, crop=(0.25, 0.0)), samples[:4000])
    np.testing.assert_array_equal(audio.load(utterance, 16000, crop=(0.25, 0.999999)), samples[12000:])
    np.testing.assert_array_equal(audio.load(utterance, 16000, crop=(2.0, 0.5)), samples)


def broken(path: Path, kind: str) -> Utterance:
    if kind == "missing":
        return Utterance(kind, str(path / "none.wav"))
    file = path / f"{kind}.wav"
    if kind == "no bytes":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("<html>not found</html>")
    elif kind == "no samples":
        soundfile.write(file, np.zeros(0, dtype=np.float32), 16000)
    elif kind == "directory":
        file.mkdir()
    return Utterance(kind, str(file))


KINDS = ["missing", "no bytes", "text", "no samples", "directory"]


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_files_are_named(tmp_path: Path, kind: str) -> None:
    utterance = broken(tmp_path, kind)
    for use in (lambda: audio.load(utterance, 16000), lambda: audio.durations([utterance])):
        with pytest.raises(AudioError, match=f"utterance {kind}: .*{Path(utterance.path).name}"):
            use()


def test_one_pass_names_all_unusable_files(tmp_path: Path) -> None:
    good = write(tmp_path / "good.wav", tone(0.1, 16000))
    with pytest.raises(AudioError, match="5 of 6 utterances") as caught:
        audio.durations([good, *(broken(tmp_path, kind) for kind in KINDS)])
    assert all(kind in str(caught.value) for kind in KINDS)


def test_a_file_shorter_than_its_header(tmp_path: Path) -> None:
    utterance = write(tmp_path / "cut.flac", np.random.default_rng(0).uniform(-1, 1, 16000))
    content = Path(utterance.path).read_bytes()
    Path(utterance.path).write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="utterance cut"):
        audio.load(utterance, 16000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    samples = tone(0.1, 16000)
    samples[100] = value
    with pytest.raises(AudioError, match=r"utterance a: .*NaN or infinite"):
        audio.load(write(tmp_path / "a.wav", samples, subtype="FLOAT"), 16000)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 44101])
def test_any_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    """44,101 Hz has no divisor in common with 16,000, for which torchaudio's kernels took 9 GB."""
    time = np.arange(rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate, subtype="FLOAT")
    wav = audio.load(Utterance("a", str(tmp_path / "a.wav")), 16000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert abs(len(wav) - 16000) <= 1
    middle = slice(1000, 15000)
    np.testing.assert_allclose(wav.numpy()[middle], expected[middle], atol=5e-3)
