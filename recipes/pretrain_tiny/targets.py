"""What a distillation is told, the clips at other speeds, and the targets of every clip, computed once."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchaudio.functional import resample

from recipes.pretrain_tiny.speech import LONGEST, Speech, join
from recipes.pretrain_tiny.student import FRAME_SHIFT
from recipes.pretrain_tiny.teachers import SpeakerEncoder, whisper_states
from upstream.whisper.model import WhisperEncoder


@dataclass(frozen=True)
class Distillation:
    """How it is distilled."""

    states: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (4, 4), (6, 6))
    """(student's state, teacher's state) pairs."""
    weights: tuple[float, ...] = (0.5, 0.5, 1.0, 2.0)
    """Of their losses."""
    clip: float = 0.5
    """Weight of the loss of a clip's mean, beside that of its frames."""
    speaker: float = 1.0
    """Weight of the loss of the speaker's embedding."""
    speaker_state: int = 2
    seconds: float = 240.0
    """Training ends after this time, or after ``updates``; the rate falls to zero by then."""
    updates: int = 1_000_000
    batch_seconds: float = 192.0
    """Of speech in an update."""
    crop_seconds: float = 5.0
    """The longest stretch of a clip."""
    lr: float = 1.2e-3
    warmup: int = 300
    decay: float = 0.7
    """Share of the time at the end over which the rate falls."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    speeds: tuple[float, ...] = (0.9, 1.1)
    """Of copies of the clips, which have other pitches and formants."""
    memory: float = 24.0
    """GB that the targets may take; there are as many copies as fit."""
    distort: float = 0.6
    """Share of clips heard through an equaliser and with noise."""
    narrow: float = 0.25
    """Share of clips heard without what is above 3.4 to 4 kHz."""
    mask_prob: float = 0.15
    mask_length: int = 6
    length: str = "window"
    """How Whisper treats length: ``valid`` is cheaper, and not what it was trained for."""
    teacher_batch: int = 64
    """Windows of 30 s at once."""
    sample: int = 768
    """Clips that the targets' means and deviations are of."""
    valid_every: int = 50
    """Every such clip is for validation."""
    log_every: int = 50
    save_seconds: float = 45.0
    bf16: bool = True
    """Autocast to bfloat16 on a GPU, if that works."""
    seed: int = 0


@dataclass
class Targets:
    """What the clips of a :class:`Speech` teach."""

    starts: Tensor
    """(clip,) first rows, on the CPU."""
    frames: Tensor
    """(clip,) on the CPU."""
    states: Tensor
    """(row, state, dim) half precision, each dimension of zero mean and unit deviation over the set."""
    clips: Tensor
    """(clip, state, dim): means over the clip, likewise."""
    speakers: Tensor
    """(clip, dim), likewise."""


def autocast(device: torch.device, enabled: bool) -> Any:
    """To bfloat16 on a GPU."""
    return torch.autocast("cuda", torch.bfloat16) if enabled and device.type == "cuda" else nullcontext()


def frames_of(samples: Tensor) -> Tensor:
    """wav2vec 2.0's frames of waveforms of so many samples."""
    return torch.div(samples - 400, FRAME_SHIFT, rounding_mode="floor") + 1


def at_speeds(speech: Speech, config: Distillation, row_bytes: int) -> Speech:
    """Add copies at other speeds, of random clips that are not for validation, as long as their targets fit."""
    most = config.memory * 1e9 / row_bytes * FRAME_SHIFT  # samples
    total = float(speech.samples.sum())
    clips = [speech.wavs[s : s + n] for s, n in zip(speech.starts.tolist(), speech.samples.tolist(), strict=True)]
    sources = list(speech.sources)
    order = torch.randperm(len(speech), generator=torch.Generator().manual_seed(config.seed))
    for speed in config.speeds:
        chosen = []
        for row in order.tolist():
            length = float(speech.samples[row]) / speed
            if total + length > most:
                break
            if length < LONGEST and row % config.valid_every:
                total += length
                chosen.append(row)
        if not chosen:
            continue
        chosen.sort(key=lambda row: int(speech.samples[row]))
        for rows in torch.split(torch.tensor(chosen, dtype=torch.long), 64):
            wavs, samples = speech.batch(rows)
            changed = resample(wavs, round(100 * speed), 100)
            lengths = (samples / speed).long().tolist()
            pcm = changed.clamp(-1, 1 - 2**-15).mul(2**15).round().to(torch.int16)
            clips += [wav[: min(n, changed.size(1))] for wav, n in zip(pcm, lengths, strict=True)]
            sources += [speech.sources[row] for row in rows.tolist()]
    return join(clips, sources)


class Teachers:
    """Both, and how their outputs are normalised."""

    def __init__(
        self, whisper: WhisperEncoder, speaker: SpeakerEncoder, speech: Speech, config: Distillation, bf16: bool
    ) -> None:
        self.whisper, self.speaker, self.speech, self.config, self.bf16 = whisper, speaker, speech, config, bf16
        self.keep = sorted({k for _, k in config.states})
        self._normalise()

    @torch.no_grad()
    def raw(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(clip,) -> states (clip, frame, state, dim), frames (clip,) and embeddings (clip, dim)."""
        wavs, samples = self.speech.batch(rows)
        with autocast(wavs.device, self.bf16):
            states, frames = whisper_states(self.whisper, wavs, samples, self.keep)
        return states.float(), frames, self.speaker(wavs, samples).float()

    def _normalise(self) -> None:
        """Means and deviations over some clips. Whisper's states know how far they are from the window's beginning,
        which nothing can hear: the mean at each frame is taken away, as far as it is known."""
        config, device = self.config, self.speech.wavs.device
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.randperm(len(self.speech), generator=generator)[: config.sample]
        shape = (self.whisper.config.positions, len(self.keep), self.whisper.hidden_size)
        total, count = torch.zeros(shape, device=device), torch.zeros(shape[0], 1, 1, device=device)
        square = torch.zeros(shape[1:], device=device)
        means, speakers = [], []
        for some in torch.split(rows, config.teacher_batch):
            states, frames, embeddings = self.raw(some)
            valid = (torch.arange(states.size(1)) < frames[:, None]).to(device)
            states = states * valid[..., None, None]
            total[: states.size(1)] += states.sum(0)
            count[: states.size(1)] += valid.sum(0)[:, None, None]
            square += states.square().sum((0, 1))
            means.append(states.sum(1) / frames.to(device)[:, None, None])
            speakers.append(embeddings)
        everywhere = total.sum(0) / count.sum()
        self.position = (total + 30 * everywhere) / (count + 30)  # (frame, state, dim)
        explained = (count * (self.position - everywhere).square()).sum(0) / count.sum()
        variance = square / count.sum() - everywhere.square() - explained
        self.std = variance.clamp(min=1e-4).sqrt()
        clips, embedded = torch.cat(means) - everywhere, torch.cat(speakers)
        self.everywhere, self.clip_std = everywhere, clips.std(0).clamp(min=1e-3)
        self.clip_mean = clips.mean(0)
        self.speaker_mean, self.speaker_std = embedded.mean(0), embedded.std(0).clamp(min=1e-3)

    def targets(self) -> Targets:
        """Of all clips."""
        device = self.speech.wavs.device
        frames = frames_of(self.speech.samples)
        starts = frames.cumsum(0) - frames
        sizes = len(self.keep), self.whisper.hidden_size
        states = torch.empty(int(frames.sum()), *sizes, dtype=torch.float16, device=device)
        clips = torch.empty(len(frames), *sizes, device=device)
        speakers = torch.empty(len(frames), len(self.speaker_mean), device=device)
        began = time.monotonic()
        order = torch.argsort(frames)
        for number, rows in enumerate(torch.split(order, self.config.teacher_batch)):
            found, lengths, embeddings = self.raw(rows)
            valid = (torch.arange(found.size(1)) < lengths[:, None]).to(device)
            means = (found * valid[..., None, None]).sum(1) / lengths.to(device)[:, None, None] - self.everywhere
            clips[rows.to(device)] = (means - self.clip_mean) / self.clip_std
            speakers[rows.to(device)] = (embeddings - self.speaker_mean) / self.speaker_std
            found = ((found - self.position[: found.size(1)]) / self.std).clamp(-10, 10).half()
            for row, one, n in zip(rows.tolist(), found, lengths.tolist(), strict=True):
                states[int(starts[row]) : int(starts[row]) + n] = one[:n]
            if number % 20 == 0:
                print(
                    f"targets: {number * len(rows)} of {len(frames)} clips, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
        return Targets(starts, frames, states, clips.clamp(-10, 10), speakers.clamp(-10, 10))
