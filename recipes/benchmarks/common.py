"""What the benchmarks of the model share: architectures, models with random weights, audio that is made up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

RATE = 16000
TINY_CONV = "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] + [(32,2,2)]"
TINY: dict[str, Any] = {
    "conv_feature_layers": TINY_CONV, "encoder_layers": 3, "encoder_embed_dim": 64, "encoder_ffn_embed_dim": 128,
    "encoder_attention_heads": 4,
}  # fmt: skip
BASE: dict[str, Any] = {}
LARGE: dict[str, Any] = {
    "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "normalize": True,
    "encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16,
}  # fmt: skip


def made(overrides: dict[str, Any], seed: int = 0, **more: Any) -> Wav2Vec2Model:
    """A model with random weights, all dropout off so that devices can be compared."""
    torch.manual_seed(seed)
    still = {"dropout": 0.0, "attention_dropout": 0.0}
    return Wav2Vec2Model(Wav2Vec2Config(**{**still, **overrides, **more})).eval()


def ragged(count: int, low: float, high: float, seed: int = 0) -> list[Tensor]:
    """Noise of ``low`` to ``high`` seconds."""
    generator = torch.Generator().manual_seed(seed)
    seconds = low + (high - low) * torch.rand(count, generator=generator)
    return [torch.randn(int(RATE * length), generator=generator) * 0.1 for length in seconds.tolist()]


def padded(wavs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(batch, sample) and lengths, on the CPU."""
    return nn.utils.rnn.pad_sequence(list(wavs), batch_first=True), torch.tensor([len(wav) for wav in wavs])


def write_speech(
    folder: Path, speakers: int, each: int, low: float, high: float, *, known: bool, held: int | None = None
) -> dict[str, Path]:
    """Tones in noise as manifests ``train``, ``dev``, ``test``: a speaker is a pitch, a letter a second tone.
    ``known``: the speakers of all three are the same; ``held``: of each so many in dev and in test, default a quarter
    of ``each``, at least 2."""
    held = max(2, each // 4) if held is None else held
    random = np.random.default_rng(0)
    paths = {}
    for split in ("train", "dev", "test"):
        lines = []
        for speaker in range(speakers):
            for number in range(each if split == "train" else held):
                letters = random.integers(3, size=random.integers(2, 5))
                time_axis = np.arange(int(RATE * random.uniform(low, high))) / RATE
                letter = letters[np.minimum((time_axis / time_axis[-1] * len(letters)).astype(int), len(letters) - 1)]
                wav = np.sin(2 * np.pi * (90 + 7 * speaker) * time_axis) + np.sin(
                    2 * np.pi * (500 + 400 * letter) * time_axis
                )
                wav = 0.1 * wav + 0.05 * random.standard_normal(len(wav))
                who = f"s{speaker:03}" if known else f"{split}{speaker:03}"
                name = f"{who}_{split}{number}"
                soundfile.write(folder / f"{name}.wav", wav.astype(np.float32), RATE)
                lines.append({"id": name, "path": f"{name}.wav", "speaker": who, "session": name,
                              "text": "".join("ABC"[i] for i in letters)})  # fmt: skip
        paths[split] = folder / f"{split}.jsonl"
        paths[split].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def commit() -> str | None:
    """Of the working tree, with ``+`` where it was changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip()

    found = git("rev-parse", "--short=12", "HEAD")
    return (found + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")) or None
