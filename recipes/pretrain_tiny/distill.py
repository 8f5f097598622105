"""Distil several layers of Whisper-base's encoder into ``wav2vec2_tiny``.

As DistilHuBERT (2110.01900): a state of the student predicts a state of the teacher through a linear layer that is
thrown away, by L1 distance and cosine similarity. Other than there,

- states low and high each have a target of their own, so that depth goes from sound to speech as in the teacher;
- the student hears clips at other speeds, through equalisers, with noise and band-limited, with spans of frames
  masked; targets are of the clean clip;
- the mean and the deviation over the clip predict the teacher's mean state of the clip: in single frames, what tells
  languages and speakers apart is 4 % of the variance;
- and, at one low state, Resemblyzer's embedding of the speaker.

Targets are computed once and kept in memory. On one machine, and elsewhere (``device.sh``):

    python -m recipes.pretrain_tiny.distill data/pretraining/train.tsv --teachers teachers.pt --out results/distill
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from recipes.overrides import changed
from recipes.pretrain_tiny.speech import SAMPLE_RATE, Speech, read
from recipes.pretrain_tiny.student import FRAME_SHIFT, distort, narrow, tiny_config
from recipes.pretrain_tiny.targets import Distillation, Targets, Teachers, at_speeds, autocast, frames_of
from recipes.pretrain_tiny.teachers import read as read_teachers
from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.export import save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model


def difference(predicted: Tensor, wanted: Tensor) -> Tensor:
    """DistilHuBERT's loss of (row, dim): L1 distance, and -log sigmoid of the cosine similarity."""
    cosine = F.cosine_similarity(predicted, wanted, dim=-1)
    return F.l1_loss(predicted, wanted) - F.logsigmoid(cosine).mean()


class Distiller(nn.Module):
    """The student, and the linear layers that are thrown away."""

    def __init__(self, student: Wav2Vec2Model, config: Distillation, dim: int, speaker_dim: int) -> None:
        super().__init__()
        self.student, self.config = student, config
        width = student.hidden_size
        self.frame_heads = nn.ModuleList(nn.Linear(width, dim) for _ in config.states)
        self.clip_heads = nn.ModuleList(nn.Linear(2 * width, dim) for _ in config.states)
        self.speaker_head = nn.Linear(2 * width, speaker_dim)

    def forward(
        self, wavs: Tensor, samples: Tensor, wanted: Tensor, clips: Tensor, speakers: Tensor, bf16: bool
    ) -> dict[str, Tensor]:
        """Losses by name; ``total`` is their weighted sum.

        Args:
            wavs: (batch, sample).
            samples: (batch,) on the CPU.
            wanted: (row, state, dim), the frames of all clips one after the other.
            clips: (batch, state, dim).
            speakers: (batch, dim).
            bf16: autocast.
        """
        config = self.config
        with autocast(wavs.device, bf16):
            hidden = self.student(wavs, samples)
        frames = frames_of(samples)
        here = torch.arange(int(frames.max())) < frames[:, None]
        rows = here.flatten().nonzero()[:, 0].to(wavs.device)
        valid, lengths = here.to(wavs.device), frames.to(wavs.device)[:, None]
        teacher = sorted({k for _, k in config.states})

        def pooled(x: Tensor) -> Tensor:
            """(batch, frame, dim) -> mean and deviation (batch, 2 dim)."""
            mean = (x * valid[..., None]).sum(1) / lengths
            spread = ((x - mean[:, None]).square() * valid[..., None]).sum(1) / lengths
            return torch.cat([mean, (spread + 1e-5).sqrt()], dim=1)

        losses: dict[str, Tensor] = {}
        total = wanted.new_zeros((), dtype=torch.float32)
        for i, ((k, theirs), weight) in enumerate(zip(config.states, config.weights, strict=True)):
            x = hidden.states[k].float()
            column = teacher.index(theirs)
            predicted = self.frame_heads[i](x.flatten(0, 1).index_select(0, rows))
            losses[f"frame_{k}"] = difference(predicted, wanted[:, column].float())
            losses[f"clip_{k}"] = difference(self.clip_heads[i](pooled(x)), clips[:, column])
            total = total + weight * (losses[f"frame_{k}"] + config.clip * losses[f"clip_{k}"])
        if config.speaker:
            x = hidden.states[config.speaker_state].float()
            losses["speaker"] = difference(self.speaker_head(pooled(x)), speakers)
            total = total + config.speaker * losses["speaker"]
        losses["total"] = total
        return losses


class Course:
    """Batches of speech and targets."""

    def __init__(self, speech: Speech, targets: Targets, config: Distillation, originals: int) -> None:
        self.speech, self.targets, self.config = speech, targets, config
        clip = torch.arange(len(speech))
        held_out = (clip < originals) & (clip % config.valid_every == 0)
        self.valid = held_out.nonzero()[:, 0]
        self.train = (~held_out).nonzero()[:, 0]
        self.crop = round(config.crop_seconds * SAMPLE_RATE / FRAME_SHIFT)  # frames
        mean = float(targets.frames.clamp(max=self.crop).float().mean()) * FRAME_SHIFT / SAMPLE_RATE
        self.clips = max(2, round(config.batch_seconds / mean))
        self.generator = torch.Generator().manual_seed(config.seed)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(batch,) clips -> the arguments of :class:`Distiller`; random stretches, or the first ones."""
        targets, device = self.targets, self.speech.wavs.device
        frames = targets.frames[rows]
        kept = frames.clamp(max=self.crop)
        first = torch.zeros_like(kept)
        if generator is not None:
            first = (torch.rand(len(rows), generator=generator) * (frames - kept + 1)).long()
        wavs, samples = self.speech.batch(rows, first * FRAME_SHIFT, (kept - 1) * FRAME_SHIFT + 400)
        inside = torch.arange(int(kept.sum())) - torch.repeat_interleave(kept.cumsum(0) - kept, kept)
        index = (torch.repeat_interleave(targets.starts[rows] + first, kept) + inside).to(device)
        where = rows.to(device)
        return wavs, samples, targets.states[index], targets.clips[where], targets.speakers[where]

    def draw(self) -> Tensor:
        """Random clips for an update: each source as likely as the square root of its share."""
        return self.train[torch.multinomial(self._chance, self.clips, replacement=True, generator=self.generator)]

    @property
    def _chance(self) -> Tensor:
        if not hasattr(self, "_weights"):
            names = sorted(set(self.speech.sources))
            source = torch.tensor([names.index(name) for name in self.speech.sources])[self.train]
            length = self.targets.frames[self.train].clamp(max=self.crop).double()
            share = torch.zeros(len(names), dtype=torch.float64).index_add(0, source, length)
            self._weights = length / share[source].sqrt()
        return self._weights


@torch.no_grad()
def validate(distiller: Distiller, course: Course, bf16: bool) -> dict[str, float]:
    """Mean losses over clips held out, heard as they are."""
    distiller.eval()
    rows = course.valid[:: max(1, len(course.valid) // 256)]
    sums: dict[str, float] = {}
    parts = torch.split(rows, course.clips)
    for part in parts:
        for name, loss in distiller(*course.batch(part, None), bf16).items():
            sums[name] = sums.get(name, 0.0) + float(loss) / len(parts)
    distiller.train()
    return sums


def write_student(student: Wav2Vec2Model, config: Any, path: Path) -> None:
    """In half precision, as fairseq's checkpoint; ``config`` is the architecture without masks of this training."""
    twin = copy.deepcopy(student).cpu().half().eval()
    twin.config = config
    twin.pretraining, twin.pretraining_config = {}, {}
    save_checkpoint(twin, path)


def can_bf16(distiller: Distiller, course: Course) -> bool:
    """Whether an update in bfloat16 works here and is finite."""
    if course.speech.wavs.device.type != "cuda":
        return False
    try:
        losses = distiller(*course.batch(course.train[:4], None), True)
        losses["total"].backward()
        finite = all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in distiller.parameters())
        if not finite or not bool(torch.isfinite(losses["total"])):
            print("bfloat16 gives values that are not finite: float32", flush=True)
        return finite
    except Exception as error:
        print(f"bfloat16 does not work here ({error}): float32", flush=True)
        return False
    finally:
        distiller.zero_grad()


def distil(distiller: Distiller, course: Course, out: Path, architecture: Any, *, bf16: bool) -> None:
    """Train until the time or the updates are over; ``out/wav2vec2_tiny.pt`` and ``out/distill.csv``."""
    config = distiller.config
    out.mkdir(parents=True, exist_ok=True)
    parameters = list(distiller.parameters())
    optimizer = torch.optim.AdamW(parameters, config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    began = saved = time.monotonic()
    update, summed, heard, factor, done = 0, 0, 0.0, 1.0, False
    good = copy.deepcopy(distiller.state_dict())
    columns: list[str] = []
    sums: dict[str, Tensor] = {}
    with (out / "distill.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        while not done:
            progress = max(update / config.updates, (time.monotonic() - began) / config.seconds)
            done = progress >= 1
            if not done:
                rate = min(1.0, (update + 1) / config.warmup, (1 - progress) / config.decay)
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * factor * rate
                wavs, samples, *wanted = course.batch(course.draw(), course.generator)
                losses = distiller(narrow(distort(wavs, config.distort), config.narrow), samples, *wanted, bf16)
                optimizer.zero_grad()
                losses["total"].backward()
                nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                update, summed = update + 1, summed + 1
                heard += float(samples.sum()) / SAMPLE_RATE / 3600
                sums = {name: sums.get(name, 0.0) + loss.detach() for name, loss in losses.items()}
            saving = done or time.monotonic() - saved > config.save_seconds
            if (update % config.log_every == 0 or saving) and sums:
                means = {name: float(value) / summed for name, value in sums.items()}
                sums, summed = {}, 0
                if not math.isfinite(means["total"]):
                    print(f"update {update}: the loss is not finite; back to the last good weights, at half the rate")
                    distiller.load_state_dict(good)
                    optimizer.state.clear()
                    factor /= 2
                    continue
                good = {name: value.detach().clone() for name, value in distiller.state_dict().items()}
                heldout = validate(distiller, course, bf16) if saving else {}
                if not columns:
                    columns = ["update", "wall_seconds", "audio_hours", "lr", *means, *(f"valid_{n}" for n in means)]
                    writer.writerow(columns)
                values = [update, time.monotonic() - began, heard, optimizer.param_groups[0]["lr"], *means.values()]
                row = [f"{value:.5g}" for value in [*values, *heldout.values()]]
                writer.writerow(row)
                file.flush()
                if saving or update % (10 * config.log_every) == 0:
                    print(" ".join(f"{name}={value}" for name, value in zip(columns, row, strict=False)), flush=True)
            if saving:
                saved = time.monotonic()
                write_student(distiller.student, architecture, out / "wav2vec2_tiny.pt")


def read_overrides(overrides: Sequence[str]) -> Distillation:
    """``name=value`` -> settings."""
    config: Distillation
    (config,) = changed(overrides, Distillation())
    if len(config.states) != len(config.weights):
        raise BenchmarkError(f"{len(config.states)} pairs of states and {len(config.weights)} weights")
    return config


def main() -> int:
    """``python -m recipes.pretrain_tiny.distill LIST... --teachers FILE --out FOLDER``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path, nargs="+", help=".tsv of packed files (speech.py), or fairseq's")
    parser.add_argument("--teachers", type=Path, required=True, help="written by teachers.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--begin", type=Path, help="a checkpoint to begin with (default: random weights)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads that decode")
    parser.add_argument("-o", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        run(options)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """The command."""
    began = time.monotonic()
    config, device = read_overrides(options.overrides), torch.device(options.device)
    torch.manual_seed(config.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    bf16 = config.bf16 and device.type == "cuda"
    student = load_model(options.begin) if options.begin else Wav2Vec2Model(tiny_config())
    architecture = student.config
    student.config = replace(
        architecture, apply_mask=True, mask_prob=config.mask_prob, mask_length=config.mask_length,
        feature_grad_mult=1.0,
    )  # fmt: skip
    whisper, speaker = read_teachers(options.teachers)
    whisper.config = replace(whisper.config, length=config.length)
    speech = read(options.lists, options.workers).to(device)
    row_bytes = 2 * whisper.hidden_size * len({k for _, k in config.states})
    originals = len(speech)
    speech = at_speeds(speech, config, row_bytes)
    print(f"{len(speech)} clips, {speech.hours:.2f} h with copies, {time.monotonic() - began:.0f} s", flush=True)
    try:
        teachers = Teachers(whisper.to(device), speaker.to(device), speech, config, bf16)
    except RuntimeError as error:
        if not bf16:
            raise
        print(f"the teacher in bfloat16: {error}; float32", flush=True)
        teachers = Teachers(whisper, speaker, speech, config, False)
    course = Course(speech, teachers.targets(), config, originals)
    del teachers
    distiller = Distiller(student, config, whisper.hidden_size, speaker.linear.out_features).to(device).train()
    bf16 = bf16 and can_bf16(distiller, course)
    print(f"{course.clips} clips an update, {bf16 = }, {time.monotonic() - began:.0f} s", flush=True)
    distil(distiller, course, options.out, architecture, bf16=bf16)
    print(f"done after {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
