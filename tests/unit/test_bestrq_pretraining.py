"""BEST-RQ's codes and masks, and its pre-training in small: it learns, uses its codes, and goes on where it stopped."""

from __future__ import annotations

import csv
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from benchmark.engine.conformance import check
from benchmark.errors import BenchmarkError
from recipes.pretrain_bestrq import pretrain
from recipes.pretrain_bestrq.audio import decode, find, read
from recipes.pretrain_bestrq.pretrain import Training, main, perplexity, seeded, spans
from upstream import load_upstream
from upstream.bestrq.quantizer import RandomProjectionQuantizer

CPU = torch.device("cpu")
SMALL = [
    "dim=16", "ffn=16", "heads=2", "layers=1", "channels=[4, 4]", "conv_kernel=7", "batch=4", "frames=100",
    "codebooks=2", "codes=16", "bf16=false", "lr=0.01", "held_out=4",
]  # fmt: skip


def tones(folder: Path, count: int = 8) -> Path:
    """Clips of two tones in turn, 100 ms each: what is masked can be told from what is around it."""
    folder.mkdir(parents=True)
    for i in range(count):
        t = np.arange(16000 + 1000 * i) / 16000
        wav = 0.3 * np.sin(2 * np.pi * np.where(t * 10 % 2 < 1, 500, 2500) * t) + 0.01 * np.sin(t * 9999 * (i + 1))
        soundfile.write(folder / f"{i}.flac", wav, 16000)
    return folder


def run(out: Path, audio: Path, *arguments: str, threads: int = 1) -> list[dict[str, str]]:
    """Pre-train, and the curve."""
    overrides = [word for setting in SMALL for word in ("-o", setting)]
    before = torch.get_num_threads()
    words = [str(out), "--audio", str(audio), "--workers", "1", "--threads", str(threads), "--device", "cpu"]
    assert main([*words, *overrides, *arguments]) == 0
    torch.set_num_threads(before)
    with (out / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- codes and masks ------------------------------------------------------------------------------------------------


def test_codes_are_the_nearest_of_unit_length() -> None:
    quantizer = RandomProjectionQuantizer(12, 4, 32, codebooks=3, seed=1)
    x = torch.randn(50, 12)
    codes = quantizer(x)
    assert codes.shape == (50, 3)
    for k in range(3):
        distances = torch.cdist(F.normalize(x @ quantizer.P[k], dim=1), quantizer.CB[k])
        assert torch.equal(codes[:, k], distances.argmin(1))
    torch.testing.assert_close(quantizer.CB.norm(dim=2), torch.ones(3, 32))
    assert quantizer.P.abs().max() <= math.sqrt(6 / 16)  # Xavier
    assert not torch.equal(codes[:, 0], codes[:, 1])


def test_codes_are_fixed_by_their_seed() -> None:
    x = torch.randn(20, 12)
    one, same, other = (RandomProjectionQuantizer(12, 4, 32, seed=seed) for seed in (1, 1, 2))
    torch.rand(3)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))
    assert not list(one.parameters())
    assert torch.equal(one(x), one(5 * x))  # loudness does not matter


def test_spans_cover_what_their_probability_says() -> None:
    training = Training()
    masks = spans([160] * 400, 160, training, seeded(training, 0))
    expected = 1 - (1 - training.mask_prob) ** training.mask_length
    assert masks[:, 20:].float().mean().item() == pytest.approx(expected, abs=0.02)
    runs = "".join("1" if on else "0" for on in masks[:, 20:-20].flatten().tolist())
    inner = [len(run) for row in masks.tolist() for run in "".join("01"[on] for on in row)[1:-1].strip("1").split("0")]
    assert runs.count("1") > 0
    assert min(n for n in inner if n) == training.mask_length  # those at the ends may be cut
    ragged = spans([160, 30], 160, training, seeded(training, 1))
    assert not ragged[1, 30:].any()
    assert torch.equal(ragged, spans([160, 30], 160, training, seeded(training, 1)))
    assert not torch.equal(ragged, spans([160, 30], 160, training, seeded(training, 2)))
    assert spans([3], 3, Training(mask_prob=0.0), seeded(training, 0)).any()


def test_perplexity() -> None:
    assert perplexity(torch.full((2, 8), 5)) == pytest.approx(8)
    assert perplexity(torch.tensor([[7, 0, 0], [7, 7, 0]])) == pytest.approx(1.5)


# --- audio ----------------------------------------------------------------------------------------------------------


def test_audio_of_any_rate_and_format(tmp_path: Path) -> None:
    wav = 0.5 * np.sin(np.arange(48000) * 2 * np.pi * 400 / 48000)
    soundfile.write(tmp_path / "a.ogg", np.stack([wav, -wav], axis=1), 48000, format="OGG", subtype="VORBIS")
    soundfile.write(tmp_path / "b.wav", wav[:3000], 16000)
    soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 70), 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "notes.txt").write_text("no audio")
    files = find([tmp_path])
    assert [file.name for file in files] == ["a.ogg", "b.wav", "broken.wav", "long.wav"]
    (piece,) = decode(files[0])
    assert len(piece) == 16000
    assert 15000 < abs(piece).max() < 17500
    assert decode(files[1]) == decode(files[2]) == []  # too short, broken
    frames = read(files, workers=2, bands=80, device=CPU)
    assert len(frames.starts) - 1 == 4  # 70 s in three pieces
    assert frames.starts[-1] == len(frames.mels)
    assert frames.hours * 3600 == pytest.approx(71, abs=0.1)
    with pytest.raises(BenchmarkError, match="no audio in"):
        find([tmp_path / "nothing"])
    with pytest.raises(BenchmarkError, match="none of the files"):
        read(files[1:3], workers=1, bands=80, device=CPU)


def test_log_mels_are_those_that_the_upstream_hears(tmp_path: Path) -> None:
    from upstream.bestrq.frontend import log_mel, mel_frames

    wav, _ = soundfile.read(tones(tmp_path / "a") / "3.flac", dtype="float32")
    frames = read(find([tmp_path / "a"]), workers=1, bands=80, device=CPU)
    first, end = frames.starts[3:5].tolist()
    expected = log_mel(torch.from_numpy(wav)[None], mel_frames(torch.tensor([len(wav)])), 80)[0]
    torch.testing.assert_close(frames.mels[first:end].float(), expected, atol=0.3, rtol=0)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_it_learns_and_what_it_writes_is_read(tmp_path: Path) -> None:
    rows = run(
        tmp_path / "out", tones(tmp_path / "audio"), "--updates", "100", "-o", "mask_length=2", "-o", "mask_prob=0.2"
    )
    plateau = math.log(float(rows[-1]["code_perplexity"]))
    assert 1.0 < plateau < math.log(16)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.5
    assert float(rows[-1]["valid_loss"]) < plateau - 0.3  # it knows more than how often each code is used
    assert float(rows[-1]["valid_accuracy"]) > 0.3
    assert float(rows[-1]["lr"]) < 1e-4
    model = load_upstream("bestrq", checkpoint=tmp_path / "out" / "model")
    half = load_upstream("bestrq", checkpoint=tmp_path / "out" / "bestrq_tiny.pt")
    check(model)
    wav = torch.randn(1, 16000)
    torch.testing.assert_close(model(wav).states[-1], half(wav).states[-1], atol=0.05, rtol=0)
    codes = torch.load(tmp_path / "out" / "model" / "quantizer.ckpt", weights_only=True)
    assert codes["CB"].shape == (2, 16, 16)


@pytest.mark.medium
def test_a_stopped_training_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = tones(tmp_path / "audio", count=5)
    whole = run(tmp_path / "whole", audio, "--updates", "6")
    update = pretrain.Run._update

    def stopping(self: Any, progress: float) -> Any:
        if self.state.update == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, progress)

    monkeypatch.setattr(pretrain.Run, "_update", stopping)
    rows = run(tmp_path / "parts", audio, "--updates", "6")
    assert [row["update"] for row in rows] == ["1", "3"]
    monkeypatch.undo()
    rows = run(tmp_path / "parts", audio, "--updates", "6")
    assert [row["update"] for row in rows] == ["1", "3", "6"]
    assert rows[-1]["valid_loss"] == whole[-1]["valid_loss"]
    files = [tmp_path / name / "model" / "model.ckpt" for name in ("whole", "parts")]
    one, other = (torch.load(file, weights_only=True) for file in files)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_mixed_precision_and_ragged_crops(tmp_path: Path) -> None:
    audio = tones(tmp_path / "audio", count=3)
    rows = run(tmp_path / "out", audio, "--updates", "1", "-o", "bf16=true", "-o", "frames=110")
    assert float(rows[0]["loss"]) == pytest.approx(math.log(16), abs=0.7)


def test_what_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "out"), "--audio", str(tmp_path)]
    assert main([*arguments, "--updates", "1", "-o", "rate=3"]) == 1
    assert "unknown option 'rate': choose from activation," in capsys.readouterr().err
    assert main([*arguments, "--updates", "1"]) == 1
    assert "no audio in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--seconds or --updates" in capsys.readouterr().err
