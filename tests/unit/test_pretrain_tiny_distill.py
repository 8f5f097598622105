"""recipes/pretrain_tiny: packed speech, teachers in 8 bits, alignment, and a short distillation."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import REPOSITORY
from torch import Tensor

from benchmark.errors import BenchmarkError
from recipes.overrides import changed
from recipes.pretrain_bestrq.pretrain import Training
from recipes.pretrain_tiny import curve, distill, speech, teachers
from recipes.pretrain_tiny.distill import read_overrides
from recipes.pretrain_tiny.speech import encode, join, listed, pack, read
from recipes.pretrain_tiny.targets import Distillation, at_speeds, frames_of
from recipes.pretrain_tiny.teachers import DELAY, SpeakerEncoder, compact, restore, whisper_states
from upstream import load_upstream
from upstream.bestrq.model import BestRQConfig
from upstream.wav2vec2.model import Wav2Vec2Model
from upstream.whisper.model import WhisperConfig, WhisperEncoder


def tone(samples: int, pitch: float) -> np.ndarray:
    """A buzz that swells (sample,) float32."""
    time = np.arange(samples) / 16_000
    wave = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in (1, 2, 3, 4))
    return (0.1 * wave * (1 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@pytest.fixture(scope="module")
def tiny_teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both teachers with random weights, a small Whisper, in the file that travels."""
    torch.manual_seed(0)
    config: dict[str, Any] = {"mels": 8, "positions": 1500, "dim": 16, "ffn": 16, "heads": 1, "layers": 2}
    whisper, speaker = WhisperEncoder(WhisperConfig(**config)), SpeakerEncoder()
    tensors = {name: x for name, x in whisper.state_dict().items() if name != "positions"}
    path = tmp_path_factory.mktemp("teachers") / "teachers.pt"
    torch.save({"config": config, "whisper": compact(tensors), "speaker": compact(speaker.state_dict())}, path)
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of 0.6 to 1.1 s, two of which are of no use."""
    clips = [("low" if k % 2 else "high", f"{k}", encode(tone(9_600 + 700 * k, 90 + 25 * k))) for k in range(12)]
    clips += [("low", "short", encode(tone(2_000, 100))), ("low", "broken", b"no audio")]
    out = tmp_path_factory.mktemp("packed") / "speech"
    pack(clips, out)
    return out.with_suffix(".tsv")


def test_packed_speech_comes_back(packed: Path) -> None:
    found = read([packed], workers=2)
    assert found.samples.tolist() == [9_600 + 700 * k for k in range(12)]
    assert found.sources == ["high", "low"] * 6
    assert len(list(listed(packed))) == 14
    wavs, samples = found.batch(torch.tensor([0, 11]))
    assert wavs.shape == (2, 17_300)
    assert samples.tolist() == [9_600, 17_300]
    assert wavs[0, 9_600:].abs().max() == 0
    for wav, k in zip(wavs, (0, 11), strict=True):
        said = torch.from_numpy(tone(9_600 + 700 * k, 90 + 25 * k))
        assert torch.nn.functional.cosine_similarity(wav[: len(said)], said, dim=0) > 0.9


def test_stretch_of_a_clip() -> None:
    found = join([torch.arange(1_000, dtype=torch.int16), torch.arange(2_000, 4_000, dtype=torch.int16)], ["a", "b"])
    wavs, _ = found.batch(torch.tensor([1, 0]), torch.tensor([320, 0]), torch.tensor([3, 2]))
    assert (wavs * 2**15).tolist() == [[2_320.0, 2_321.0, 2_322.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(("memory", "copies"), [(1e-4, [1, 1]), (8e-5, [1, 0]), (0.0, [0, 0])])
def test_copies_at_other_speeds(memory: float, copies: list[int]) -> None:
    """As many as the targets' memory allows: 1,000 bytes a frame of 20 ms; also none at a speed, or none at all."""
    original = torch.from_numpy(tone(8_000, 100) * 2**15).to(torch.int16)
    config = Distillation(memory=memory, speeds=(0.8, 1.25), valid_every=100)
    found = at_speeds(join([original[:4_000], original], ["valid", "copied"]), config, row_bytes=1_000)
    assert found.samples.tolist() == [4_000, 8_000] + [10_000] * copies[0] + [6_400] * copies[1]
    assert found.sources == ["valid", "copied"] + ["copied"] * sum(copies)


def test_missing_list(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no list"):
        list(listed(tmp_path / "none.tsv"))


def test_teachers_in_eight_bits(tiny_teachers: Path) -> None:
    x = torch.randn(300, 400) * torch.logspace(-3, 1, 300)[:, None]
    back = restore(compact({"x": x, "bias": torch.ones(3)}))
    assert (back["x"] - x).norm() / x.norm() < 0.02
    assert ((back["x"] - x).norm(dim=1) / x.norm(dim=1)).max() < 0.02, "every row has its scale"
    whisper, speaker = teachers.read(tiny_teachers)
    assert not whisper.training
    assert whisper.num_states == 3
    with torch.no_grad():
        embedding = speaker(torch.from_numpy(tone(40_000, 120))[None], torch.tensor([40_000]))
    assert embedding.shape == (1, 256)
    assert abs(float(embedding.norm()) - 1) < 1e-5


def test_speaker_alone_and_in_a_batch(tiny_teachers: Path) -> None:
    _, speaker = teachers.read(tiny_teachers)
    wavs = [torch.from_numpy(tone(n, 150)) for n in (9_000, 50_000)]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with torch.no_grad():
        together = speaker(batch, torch.tensor([9_000, 50_000]))
        alone = torch.cat([speaker(wav[None], torch.tensor([len(wav)])) for wav in wavs])
    assert torch.allclose(together, alone, atol=1e-5)


def click(model_states: Tensor) -> int:
    """The frame that differs most from the others, away from the ends."""
    middle = model_states[4:-4]
    return 4 + int((middle - middle.median(0).values).norm(dim=1).argmax())


def test_frames_of_both_are_of_the_same_times(tiny_teachers: Path) -> None:
    """A click at the middle of wav2vec 2.0's frame k is in the middle of Whisper's frame k."""
    whisper, _ = teachers.read(tiny_teachers)
    samples = torch.tensor([16_000])
    assert frames_of(samples).item() == 49
    for k in (10, 31):
        wav = torch.zeros(1, 16_000)
        wav[0, 320 * k + 200] = 0.9
        states, frames = whisper_states(whisper, wav, samples, [0])
        assert states.shape == (1, 49, 1, 16)
        assert frames.tolist() == [49]
        assert click(states[0, :, 0] - whisper.positions[:49]) == k
    assert DELAY == 200


def test_unknown_setting() -> None:
    with pytest.raises(BenchmarkError, match="unknown option 'speed'"):
        read_overrides(["speed=1"])
    assert read_overrides(["states=[[1, 0], [6, 2]]", "weights=[1, 1]"]).states == ((1, 0), (6, 2))
    with pytest.raises(BenchmarkError, match="1 pairs"):
        read_overrides(["states=[[1, 0]]"])


def test_settings_have_the_types_of_their_fields() -> None:
    assert changed(["lr=1e-3", "heads=2", "strides=[4, 2]"], Training(), BestRQConfig()) == [
        Training(lr=0.001),
        BestRQConfig(heads=2, strides=(4, 2)),
    ]
    assert changed(["lr=1"], Training()) == [Training(lr=1.0)]
    for override, kind in (("batch=x", "int"), ("lr=fast", "float"), ("batch=1.5", "int"), ("bf16=1", "bool")):
        with pytest.raises(BenchmarkError, match=f"option {override.partition('=')[0]} = .*: expected a {kind}, as "):
            changed([override], Training())


@pytest.mark.parametrize("path", ["pretrain_tiny/distill", "pretrain_tiny/contrastive", "pretrain_bestrq/curve"])
def test_a_curve_has_what_is_drawn(path: str) -> None:
    rows = curve.read((REPOSITORY / "recipes" / path).with_suffix(".csv"))
    drawn = [column for columns in curve.panels_of(list(rows[0])).values() for column in columns]
    assert len(drawn) >= 4
    for column in drawn:
        assert sum(bool(row[column]) for row in rows) >= 2


def test_a_curve_without_values(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("no JSON here")
    with pytest.raises(BenchmarkError, match="has no values"):
        curve.read(tmp_path / "train.log")


@pytest.mark.medium
def test_distillation(packed: Path, tiny_teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["states=[[1, 0], [6, 2]]", "weights=[1, 1]", "updates=16", "batch_seconds=4", "log_every=4",
                "warmup=2", "valid_every=6", "teacher_batch=4", "lr=0.003", "crop_seconds=0.7",
                "mask_prob=0.05", "seconds=100000", "save_seconds=100000", "memory=0.001"]  # fmt: skip
    arguments = [str(packed), "--teachers", str(tiny_teachers), "--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["distill", *arguments, "--threads", "1", *(f"-o{one}" for one in settings)])
    assert distill.main() == 0
    lines = (tmp_path / "distill.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["update", "4", "8", "12", "16"]
    totals = [float(line.split(",")[lines[0].split(",").index("total")]) for line in lines[1:]]
    assert totals[-1] < 0.95 * totals[0]
    assert all(map(math.isfinite, totals))
    model = load_upstream("wav2vec2_local", checkpoint=tmp_path / "wav2vec2_tiny.pt")
    assert isinstance(model, Wav2Vec2Model)
    states = model(torch.from_numpy(tone(16_000, 130))[None], torch.tensor([16_000])).states
    assert len(states) == 7
    assert states[6].shape == (1, 49, 192)
    assert not model.config.apply_mask
    assert model.config == load_upstream("wav2vec2_tiny").config
    assert (tmp_path / "wav2vec2_tiny.pt").stat().st_size < 8e6
    assert speech.SHORTEST == 8_000
    assert Distillation().speeds == (0.9, 1.1)
