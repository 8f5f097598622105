"""FLAC files whose header's length is wrong, and ends where a frame does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmark.data import audio, containers, headers
from benchmark.interfaces import Utterance

BLOCK = 4096


def with_total(data: bytes, total: int) -> bytes:
    value = int.from_bytes(data[21:26], "big")
    return data[:21] + (value & ~(2**36 - 1) | total).to_bytes(5, "big") + data[26:]


def noise(frames: int, loud: int) -> np.ndarray:
    """``loud`` samples of noise, then digital silence, of whose frames hundreds fit where one of noise does."""
    samples = np.zeros(frames)
    samples[:loud] = np.random.default_rng(0).uniform(-0.5, 0.5, loud)
    return samples


@pytest.mark.parametrize("loud", [2**12, 2**17 + 100])
@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125)])
def test_a_total_that_ends_at_an_earlier_frame(loud: int, tag: bytes, tmp_path: Path) -> None:
    frames = 2**17 + 100
    samples = noise(frames, loud)
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    good = path.read_bytes()
    for behind in (1, 2, 10, 30):
        path.write_bytes(with_total(good, frames // BLOCK * BLOCK - (behind - 1) * BLOCK) + tag)
        assert headers.of(str(path)).frames == frames, behind
        read = audio.load(Utterance("a", str(path)), 16000).numpy()
        np.testing.assert_allclose(read, samples, atol=1e-4)


@pytest.mark.parametrize("loud", [0, 2**12, 2**17 + 100])
def test_a_right_header_costs_one_look_at_the_end(loud: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(2**17 + 100, loud), 16000, subtype="PCM_16")
    real, checked = containers._crc, []
    monkeypatch.setattr(containers, "_flac_joined", None)
    monkeypatch.setattr(containers, "_crc", lambda data, bits, poly: checked.append(bits) or real(data, bits, poly))
    with open(path, "rb") as file:
        assert containers.pieces(file) == []
    assert 16 not in checked  # no frame's content
