"""Pre-train ``wav2vec2_tiny``: masked prediction of random-projection codes (BEST-RQ).

Chiu et al. 2022, https://arxiv.org/abs/2202.01855, with the several codebooks of USM, https://arxiv.org/abs/2303.01037,
on wav2vec 2.0's architecture. Log-mel frames are projected by a fixed random matrix and coded by the nearest of fixed
random vectors; the network hears the waveform with spans of its features masked, and predicts the codes there.

    python -m recipes.pretrain_tiny.pretrain data/pretraining results/pretrain_tiny
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram
from tqdm import tqdm

from benchmark.errors import BenchmarkError
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model, span_mask

HERE = Path(__file__).parent
FRAME_SHIFT = 320  # samples: 20 ms


@dataclass(frozen=True)
class Training:
    """How it is trained."""

    updates: int = 4000
    batch: int = 6
    """Utterances in an update."""
    samples: int = 64_000
    """Of a random crop of each: 4 s."""
    lr: float = 1e-3
    warmup: int = 100
    """Updates of linear warm-up."""
    decay: float = 0.25
    """Share of the updates at the end over which the rate falls to zero; in between it is constant."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    codebooks: int = 4
    """The even ones code frames less the utterance's mean (what is said), the odd ones frames less the mean of the
    whole set (who says it, and where, as well). The deviations are the set's: an utterance's own would blow up bands
    that hold noise alone."""
    clip_codebooks: int = 0
    """More codebooks, of the mean and the deviation over time of the whole clip's frames: who says it, and where."""
    codes: int = 256
    """In a codebook."""
    code_dim: int = 16
    mels: int = 40
    stack: int = 4
    """Mel frames (10 ms) that a code is of, around the network's frame."""
    augment: float = 0.0
    """Share of the clips that are heard through another equaliser and with noise; their codes are of the original."""
    bf16: bool = True
    """Autocast to bfloat16."""
    seed: int = 0
    log_every: int = 25
    save_every: int = 250


class Targets(nn.Module):
    """Waveforms -> codes, by fixed random projections."""

    def __init__(self, config: Training) -> None:
        super().__init__()
        self.config = config
        self.mel = MelSpectrogram(16_000, 400, hop_length=160, n_mels=config.mels)
        generator = torch.Generator().manual_seed(config.seed)
        size = config.mels * config.stack

        def codebooks(count: int, size: int) -> tuple[Tensor, Tensor]:
            projection = torch.randn(count, size, config.code_dim, generator=generator) / math.sqrt(size)
            codebook = torch.randn(count, config.codes, config.code_dim, generator=generator)
            return projection, F.normalize(codebook, dim=2)

        projection, codebook = codebooks(config.codebooks, size)
        clip_projection, clip_codebook = codebooks(config.clip_codebooks, 2 * config.mels)
        self.projection: Tensor
        self.codebook: Tensor
        self.clip_projection: Tensor
        self.clip_codebook: Tensor
        self.clip_mean: Tensor
        self.clip_std: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", codebook)
        self.register_buffer("clip_projection", clip_projection)
        self.register_buffer("clip_codebook", clip_codebook)
        self.register_buffer("clip_mean", torch.zeros(2 * config.mels))
        self.register_buffer("clip_std", torch.ones(2 * config.mels))
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("std", torch.ones(config.mels))

    def log_mel(self, wavs: Tensor) -> Tensor:
        """(batch, sample) -> (batch, mel frame of 10 ms, mel), of waveforms of unit variance."""
        wavs = F.layer_norm(wavs, wavs.shape[1:])
        return torch.log(self.mel(wavs) + 1e-3).transpose(1, 2)

    def fit(self, wavs: Tensor) -> None:
        """Take the mean and the deviation of the set from some of its waveforms (batch, sample)."""
        frames = self.log_mel(wavs)
        self.mean, self.std = frames.mean((0, 1)), frames.std((0, 1))
        clips = torch.cat([frames.mean(1), frames.std(1)], 1)
        self.clip_mean, self.clip_std = clips.mean(0), clips.std(0)

    @torch.no_grad()
    def forward(self, wavs: Tensor, frames: int) -> Tensor:
        """(batch, sample) -> (codebook, batch, frame) codes of the network's first ``frames`` frames.

        The codebooks of clips come last.
        """
        mel = self.log_mel(wavs)
        of_set = (mel - self.mean) / self.std
        of_utterance = (mel - mel.mean(1, keepdim=True)) / self.std
        # The network's frame k is centred on sample 320 k + 200: between mel frames 2 k + 1 and 2 k + 2.
        first = 2 - self.config.stack // 2
        codes = []
        for k, (projection, codebook) in enumerate(zip(self.projection, self.codebook, strict=True)):
            source = F.pad(of_set if k % 2 else of_utterance, (0, 0, -min(first, 0), self.config.stack))
            stacked = source[:, max(first, 0) :].unfold(1, self.config.stack, 2)[:, :frames].flatten(2)
            codes.append((stacked @ projection @ codebook.T).argmax(2))
        clip = (torch.cat([mel.mean(1), mel.std(1)], 1) - self.clip_mean) / self.clip_std
        for projection, codebook in zip(self.clip_projection, self.clip_codebook, strict=True):
            codes.append((clip @ projection @ codebook.T).argmax(1, keepdim=True).expand(-1, frames))
        return torch.stack(codes)


def read_manifest(path: Path) -> Tensor:
    """fairseq's ``.tsv`` -> (utterance, sample) int16, cut to the shortest."""
    if not path.exists():
        raise BenchmarkError(
            f"no manifest {path}: make the data by python -m downstream.corpora.synthetic data --corpus pretraining"
        )
    root, *lines = path.read_text().splitlines()
    samples = min(int(line.split("\t")[1]) for line in lines)
    wavs = torch.empty(len(lines), samples, dtype=torch.int16)
    for row, line in zip(wavs, tqdm(lines, desc=path.name, unit="file"), strict=True):
        row[:] = torch.from_numpy(soundfile.read(Path(root) / line.split("\t")[0], frames=samples, dtype="int16")[0])
    return wavs


def crop(wavs: Tensor, rows: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Random stretches of some rows: (batch, samples) float32 in [-1, 1]."""
    starts = torch.randint(wavs.size(1) - samples + 1, (len(rows),), generator=generator)
    cut = [wavs[row, start : start + samples] for row, start in zip(rows.tolist(), starts.tolist(), strict=True)]
    return torch.stack(cut).float() / 2**15


def distort(wavs: Tensor, share: float) -> Tensor:
    """Play some of (batch, sample) waveforms through a random smooth equaliser, and add coloured noise."""
    batch, samples = wavs.shape
    device = wavs.device
    position = torch.linspace(0, 1, samples // 2 + 1, device=device) ** 0.5

    def equaliser(spread: float) -> Tensor:
        """(batch, frequency) gains, about ``spread`` dB."""
        order = torch.arange(1, 7, device=device).view(1, -1, 1)
        level = spread * torch.randn(batch, 6, 1, device=device) / order.sqrt()
        phase = math.pi * torch.rand(batch, 6, 1, device=device)
        return 10 ** ((level * torch.cos(math.pi * order * position + phase)).sum(1) / 20)

    heard = torch.fft.irfft(torch.fft.rfft(wavs) * equaliser(4.0), samples)
    noise = torch.fft.irfft(torch.fft.rfft(torch.randn_like(wavs)) * equaliser(6.0), samples)
    snr = 8 + 22 * torch.rand(batch, 1, device=device)  # dB
    heard = heard + noise * 10 ** (-snr / 20) * heard.std(1, keepdim=True) / noise.std(1, keepdim=True)
    return torch.where(torch.rand(batch, 1, device=device) < share, heard, wavs)


class Pretrainer(nn.Module):
    """The network, a linear predictor of the codes, and the codes."""

    def __init__(self, model: Wav2Vec2Config, training: Training) -> None:
        super().__init__()
        self.model = Wav2Vec2Model(model)
        self.codebooks = training.codebooks + training.clip_codebooks
        self.head = nn.Linear(model.encoder_embed_dim, self.codebooks * training.codes)
        self.targets = Targets(training)
        self.training_config = training

    def forward(self, wavs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, sample) waveforms -> mean loss, accuracy (codebook,), codes at masked frames (codebook, masked)."""
        model, config = self.model, self.model.config
        samples = [wavs.size(1)] * len(wavs)
        augment = self.training_config.augment if self.training else 0.0
        heard = distort(wavs, augment) if augment else wavs
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training_config.bf16):
            features, packing = model.extract_features(heard, samples)
            x = model.project(features)
            mask = span_mask(packing.lengths, packing.longest, config.mask_prob, config.mask_length, min_spans=2)
            x = torch.where(mask.view(-1, 1), model.mask_emb.to(x.dtype), x)
            x = model.encoder(x, packing, [config.encoder_layers])[0]
        logits = self.head(x[mask.flatten()].float()).unflatten(1, (self.codebooks, -1)).transpose(0, 1)
        codes = self.targets(wavs, mask.size(1))[:, mask]
        accuracy = (logits.argmax(2) == codes).float().mean(1)
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten()), accuracy, codes


def perplexity(codes: Tensor, count: int) -> float:
    """Of the codes (any shape) as they are used: ``count`` where all are used alike."""
    share = torch.bincount(codes.flatten(), minlength=count) / codes.numel()
    return float(torch.exp(-(share * torch.log(share + 1e-9)).sum()))


@torch.no_grad()
def validate(pretrainer: Pretrainer, wavs: Tensor, training: Training) -> tuple[float, Tensor]:
    """Loss and accuracy (codebook,) over validation speech, with masks that are the same each time."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    pretrainer.eval()
    losses, accuracies = [], []
    for rows in torch.split(torch.arange(min(len(wavs), 96)), training.batch):
        loss, accuracy, _ = pretrainer(wavs[rows, : training.samples].float() / 2**15)
        losses.append(loss)
        accuracies.append(accuracy)
    torch.set_rng_state(state)
    pretrainer.train()
    return float(torch.stack(losses).mean()), torch.stack(accuracies).mean(0)


def learning_rate(update: int, training: Training) -> float:
    """Factor of the peak rate."""
    left = (training.updates - update) / max(1.0, training.decay * training.updates)
    return min((update + 1) / training.warmup, max(left, 0.0), 1.0)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def pretrain(
    train: Tensor, valid: Tensor, out: Path, model: Wav2Vec2Config, training: Training, *, begin: Path | None
) -> None:
    """One stage: train from ``out/last.pt`` where there is one, or else from ``begin``; log to ``out/curve.csv``."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(training.seed)
    pretrainer = Pretrainer(model, training)
    pretrainer.targets.fit(train[:: max(1, len(train) // 200)].float() / 2**15)
    optimizer = torch.optim.AdamW(
        pretrainer.parameters(), training.lr, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    update, seconds = 0, 0.0
    generator = torch.Generator().manual_seed(training.seed)
    last, curve = out / "last.pt", out / "curve.csv"
    if begin is not None and not last.exists():
        state = torch.load(begin, weights_only=True)["pretrainer"]
        pretrainer.model.load_state_dict(
            {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        )
    if last.exists():
        state = torch.load(last, weights_only=True)
        pretrainer.load_state_dict(state["pretrainer"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        update, seconds = state["update"], state["seconds"]
        if curve.exists():  # what came after the checkpoint is done again
            header, *lines = curve.read_text().splitlines()
            kept = [line for line in lines if int(line.split(",")[0]) <= update]
            curve.write_text("\n".join([header, *kept]) + "\n")
    else:
        names = ["update", "audio_hours", "wall_seconds", "lr", "loss", "valid_loss", "code_perplexity"]
        names += [f"accuracy_{k}" for k in range(pretrainer.codebooks)]
        names += [f"valid_accuracy_{k}" for k in range(pretrainer.codebooks)]
        curve.write_text(",".join(names) + "\n")

    began = time.monotonic() - seconds
    losses: list[float] = []
    accuracies: list[Tensor] = []
    with tqdm(total=training.updates, initial=update, unit="update") as bar:
        while update < training.updates:
            rows = torch.randint(len(train), (training.batch,), generator=generator)
            loss, accuracy, codes = pretrainer(crop(train, rows, training.samples, generator))
            if not torch.isfinite(loss):
                raise BenchmarkError(f"the loss is {loss.item()} at update {update}")
            for group in optimizer.param_groups:
                group["lr"] = training.lr * learning_rate(update, training)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(pretrainer.parameters(), training.clip_norm)
            optimizer.step()
            update += 1
            losses.append(loss.item())
            accuracies.append(accuracy)
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            saving = update % training.save_every == 0 or update == training.updates
            if update % training.log_every == 0 or saving:
                loss_valid, accuracy_valid = validate(pretrainer, valid, training) if saving else (math.nan, None)
                used = sum(perplexity(row, training.codes) for row in codes) / pretrainer.codebooks
                row = [update, update * training.batch * training.samples / 16_000 / 3600, time.monotonic() - began,
                       optimizer.param_groups[0]["lr"], sum(losses) / len(losses), loss_valid, used]  # fmt: skip
                row += torch.stack(accuracies).mean(0).tolist()
                row += [math.nan] * pretrainer.codebooks if accuracy_valid is None else accuracy_valid.tolist()
                with curve.open("a", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerow(
                        ["" if value != value else f"{value:.6g}" for value in row]
                    )
                losses, accuracies = [], []
            if saving:
                state = {
                    "pretrainer": pretrainer.state_dict(), "optimizer": optimizer.state_dict(), "update": update,
                    "generator": generator.get_state(), "random": torch.get_rng_state(),
                    "seconds": time.monotonic() - began,
                    "model_config": {field.name: getattr(model, field.name) for field in fields(model)},
                }  # fmt: skip
                save(state, last)


def read_config(path: Path, overrides: Sequence[str] = ()) -> tuple[Wav2Vec2Config, list[Training]]:
    """The architecture and the stages in a YAML file, with ``name=value`` overrides of every stage."""
    values = yaml.safe_load(path.read_text())
    changed = {name: yaml.safe_load(value) for name, _, value in (override.partition("=") for override in overrides)}
    stages = [{**stage, **changed} for stage in values["stages"]]
    known = [field.name for field in fields(Training)]
    for name in (name for stage in stages for name in stage):
        if name not in known:
            raise BenchmarkError(f"unknown training option {name!r}: choose from {', '.join(known)}")
    model = Wav2Vec2Config.from_fairseq(values["model"], {"normalize": True})
    return model, [Training(**stage) for stage in stages]


def main() -> int:
    """``python -m recipes.pretrain_tiny.pretrain DATA OUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.tsv and valid.tsv")
    parser.add_argument("out", type=Path, help="each stage has last.pt and curve.csv in OUT/stageK, and goes on there")
    parser.add_argument("--config", type=Path, default=HERE / "pretrain.yaml")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("-o", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        model, stages = read_config(options.config, options.overrides)
        train, valid = read_manifest(options.data / "train.tsv"), read_manifest(options.data / "valid.tsv")
        begin = None
        for k, training in enumerate(stages, start=1):
            out = options.out / f"stage{k}"
            pretrain(train, valid, out, model, training, begin=begin)
            begin = out / "last.pt"
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
