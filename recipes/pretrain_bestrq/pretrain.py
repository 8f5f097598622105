"""Pre-train a BEST-RQ encoder: masked prediction of random-projection codes on log mel frames.

Chiu et al. 2022, https://arxiv.org/abs/2202.01855, with a softmax for each of several codebooks as in USM,
https://arxiv.org/abs/2303.01037. The network hears frames in which spans of 400 ms are noise, and predicts the codes of
the frames that were there.

    python -m recipes.pretrain_bestrq.pretrain results/bestrq --audio data/pretraining --seconds 300

OUT/model is loaded by ``-u bestrq -k OUT/model`` and by SpeechBrain; OUT/bestrq_tiny.pt is the same in half precision;
OUT/curve.csv has losses, accuracies and the use of codes. Both are written every minute; the same command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically
from recipes.overrides import changed
from recipes.pretrain_bestrq.audio import Frames, find, read
from upstream.bestrq.checkpoint import save_folder, to_speechbrain
from upstream.bestrq.frontend import valid
from upstream.bestrq.model import BestRQConfig, BestRQEncoder
from upstream.bestrq.quantizer import RandomProjectionQuantizer

log = logging.getLogger("wavbench")

MODEL = BestRQConfig(channels=(64, 32), dim=192, ffn=576, heads=4, layers=6)
"""``bestrq_tiny``."""


@dataclass(frozen=True)
class Training:
    """How it is trained; ``-o NAME=VALUE`` changes a value."""

    batch: int = 96
    """Crops in an update."""
    frames: int = 640
    """Mel frames (10 ms) of a crop at most; shorter utterances are taken whole."""
    lr: float = 1.5e-3
    warmup: float = 0.04
    """Share of the training in which the rate rises; then it falls to zero, as a cosine."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    mask_prob: float = 0.06
    """Probability that a span starts at a frame of 40 ms: with spans of 10 frames, 46 % is masked."""
    mask_length: int = 10
    """Frames of 40 ms in a span: 400 ms, as in the paper."""
    noise: float = 0.1
    """Deviation of the noise that replaces what is masked, as in the paper."""
    codebooks: int = 8
    codes: int = 1024
    """In a codebook."""
    code_dim: int = 16
    bf16: bool = True
    """Autocast to bfloat16."""
    held_out: int = 50
    """One utterance of so many, up to a batch, is not trained on, and measures the loss."""
    seed: int = 0


@dataclass
class Crops:
    """An update's input."""

    features: Tensor
    """(batch, mel frame, band), normalised; zero beyond a crop's end. Mel frames are a multiple of the subsampling."""
    lengths: list[int]
    """Mel frames."""


class Pretrainer(nn.Module):
    """The network, a linear predictor of the codes, and the quantiser."""

    def __init__(self, model: BestRQConfig, training: Training) -> None:
        super().__init__()
        self.model, self.config = BestRQEncoder(model), training
        self.stack = self.model.frame_shift // 160
        self.head = nn.Linear(model.dim, training.codebooks * training.codes)
        self.quantizer = RandomProjectionQuantizer(
            self.stack * model.mels, training.code_dim, training.codes, codebooks=training.codebooks, seed=training.seed
        )

    def crop(self, data: Frames, utterances: Tensor, generator: torch.Generator) -> Crops:
        """A stretch of each utterance (batch,), by chance."""
        first, end = data.starts[utterances], data.starts[utterances + 1]
        lengths = (end - first).clamp(max=self.config.frames)
        starts = first + (torch.rand(len(first), generator=generator) * (end - first - lengths + 1)).long()
        longest = -(-int(lengths.max()) // self.stack) * self.stack
        device = data.mels.device
        places = (starts[:, None] + torch.arange(longest)).clamp(max=len(data.mels) - 1)
        on_device = lengths.to(device, non_blocking=True)
        features = data.mels[places.to(device, non_blocking=True)].float()
        features = self.model.normalise(features, on_device).masked_fill(~valid(on_device, longest), 0.0)
        return Crops(features, lengths.tolist())

    def forward(self, crops: Crops, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss, accuracy, and the codes (masked frame, codebook), of masked frames; masks and noise by chance."""
        features, device = crops.features, crops.features.device
        used = [-(-n // self.stack) for n in crops.lengths]
        masks = spans(used, features.size(1) // self.stack, self.config, generator)
        masked = masks.to(device, non_blocking=True)
        noise = self.config.noise * torch.randn(
            features.shape, generator=torch.Generator(device).manual_seed(generator.initial_seed()), device=device
        )
        heard = torch.where(masked.repeat_interleave(self.stack, dim=1)[..., None], noise, features)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
            states, packing = self.model.encode(heard, crops.lengths, [len(self.model.layers)])
        rows = torch.cat([mask[:n] for mask, n in zip(masks, packing.lengths, strict=True)]).nonzero()[:, 0]
        places = masks.flatten().nonzero()[:, 0]
        logits = self.head(states[0].float()[rows.to(device, non_blocking=True)])
        stacked = features.reshape(masks.numel(), -1)
        codes = self.quantizer(stacked[places.to(device, non_blocking=True)])
        logits = logits.unflatten(1, (self.config.codebooks, -1)).flatten(0, 1)
        accuracy = (logits.argmax(1) == codes.flatten()).float().mean()
        return F.cross_entropy(logits, codes.flatten()), accuracy, codes


def spans(lengths: Sequence[int], frames: int, training: Training, generator: torch.Generator) -> Tensor:
    """(batch, frame) bool on the host: spans that start anywhere with the same probability, and may overlap."""
    starts = torch.rand(len(lengths), frames, generator=generator) < training.mask_prob
    starts[:, 0] |= torch.rand(len(lengths), generator=generator) < training.mask_prob * (training.mask_length - 1)
    if not starts.any():
        starts[0, 0] = True
    padded = F.pad(starts.float(), (training.mask_length - 1, 0))[:, None]
    masks = F.max_pool1d(padded, training.mask_length, stride=1)[:, 0] > 0
    return masks & (torch.arange(frames) < torch.tensor(lengths)[:, None])


def perplexity(counts: Tensor) -> float:
    """Of codes that were seen so often, (codebook, code); the codebooks' mean. All of a codebook's codes where they are
    used alike; its logarithm is the loss of a network that knows nothing but how often each is used."""
    share = counts / counts.sum(1, keepdim=True)
    return float(torch.exp(-(share * (share + 1e-9).log()).sum(1)).mean())


def seeded(training: Training, update: int) -> torch.Generator:
    """All chance of an update."""
    return torch.Generator().manual_seed((training.seed << 32) + update)


def rate(progress: float, training: Training) -> float:
    """Factor of the peak rate, after a share of the training."""
    return min((progress + 1e-4) / training.warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclass
class State:
    """Where a training is."""

    update: int = 0
    seconds: float = 0.0
    """Of training, all starts together."""
    audio: float = 0.0
    """Seconds heard."""


class Run:
    """A training in a folder."""

    def __init__(self, out: Path, data: Frames, model: BestRQConfig, training: Training) -> None:
        self.out, self.data, self.training = out, data, training
        torch.manual_seed(training.seed)
        self.pretrainer = Pretrainer(model, training).to(data.mels.device)
        self.optimizer = torch.optim.AdamW(
            self.pretrainer.parameters(), training.lr, betas=(0.9, 0.98), weight_decay=training.weight_decay
        )
        count = len(data.starts) - 1
        self.held_out = torch.arange(0, count, min(training.held_out, count))[: training.batch]
        kept = torch.ones(count, dtype=torch.bool)
        if count > len(self.held_out):
            kept[self.held_out] = False
        self.utterances = kept.nonzero()[:, 0]
        sizes = (data.starts[1:] - data.starts[:-1])[self.utterances].double()
        self.chances = (sizes / sizes.sum()).cumsum(0)
        self.counts = torch.zeros(training.codebooks, training.codes, dtype=torch.long, device=data.mels.device)
        self.state, self.rows = State(), list[dict[str, Any]]()
        if (out / "last.pt").exists():
            self._resume()

    def train(self, seconds: float | None, updates: int | None) -> None:
        """Train for so long, or so many updates, whichever is over first; a signal ends it as the time would."""
        stopped: list[int] = []
        handlers = {number: signal.signal(number, lambda n, _: stopped.append(n)) for number in _SIGNALS}
        before, began = self.state.seconds, time.monotonic()
        saved = shown = began
        seen: list[tuple[Tensor, Tensor]] = []
        try:
            while not stopped:
                now = time.monotonic()
                self.state.seconds = before + now - began
                shares = [self.state.seconds / seconds] if seconds else []
                shares += [self.state.update / updates] if updates else []
                progress = max(shares)
                if progress >= 1:
                    break
                seen.append(self._update(progress))
                if now - shown >= 10 or self.state.update in (1, updates):
                    self._log(seen, progress)
                    seen, shown = [], now
                if now - saved >= 60:
                    self.save()
                    saved = now
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if seen:
            self._log(seen, progress)
        self.save()

    def _update(self, progress: float) -> tuple[Tensor, Tensor]:
        generator = seeded(self.training, self.state.update)
        chosen = torch.rand(self.training.batch, generator=generator, dtype=torch.float64)
        places = torch.searchsorted(self.chances, chosen).clamp(max=len(self.chances) - 1)
        crops = self.pretrainer.crop(self.data, self.utterances[places], generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr * rate(progress, self.training)
        loss, accuracy, codes = self.pretrainer(crops, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.pretrainer.parameters(), self.training.clip_norm)
        self.optimizer.step()
        self.state.update += 1
        self.state.audio += sum(crops.lengths) / 100
        self.counts.scatter_add_(1, codes.T, torch.ones_like(codes.T))
        return loss.detach(), accuracy

    def _log(self, seen: list[tuple[Tensor, Tensor]], progress: float) -> None:
        loss, accuracy = (float(torch.stack(values).mean()) for values in zip(*seen, strict=True))
        if not math.isfinite(loss):
            raise BenchmarkError(f"the loss is {loss} at update {self.state.update}; lower the rate (-o lr=…)")
        row = {
            "update": self.state.update,
            "seconds": round(self.state.seconds, 1),
            "audio_hours": round(self.state.audio / 3600, 3),
            "lr": self.training.lr * rate(progress, self.training),
            "loss": loss,
            "accuracy": accuracy,
            "code_perplexity": perplexity(self.counts),
        }
        self.counts.zero_()
        self.rows.append(row | {"valid_loss": "", "valid_accuracy": ""})
        log.info(", ".join(f"{name} {value:.4g}" for name, value in row.items()))

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Loss and accuracy on utterances that are held out, the same crops and masks each time."""
        generator = seeded(replace(self.training, seed=self.training.seed + 1), 0)
        self.pretrainer.eval()
        loss, accuracy, _ = self.pretrainer(self.pretrainer.crop(self.data, self.held_out, generator), generator)
        self.pretrainer.train()
        return float(loss), float(accuracy)

    def save(self) -> None:
        """Write everything, each file whole or not at all."""
        if not self.rows:
            return
        self.rows[-1]["valid_loss"], self.rows[-1]["valid_accuracy"] = self.validate()
        model = self.pretrainer.model
        save_folder(model, self.out / "model")
        quantizer = {name: tensor.cpu() for name, tensor in self.pretrainer.quantizer.state_dict().items()}
        write_atomically(self.out / "model" / "quantizer.ckpt", lambda file: torch.save(quantizer, file))
        half = {name: tensor.half() for name, tensor in to_speechbrain(model).items()}
        write_atomically(self.out / "bestrq_tiny.pt", lambda file: torch.save(half, file))
        state = {
            "pretrainer": self.pretrainer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": vars(self.state),
            "rows": self.rows,
        }
        write_atomically(self.out / "last.pt", lambda file: torch.save(state, file))
        with (self.out / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in self.rows
            )
        loss, accuracy = self.rows[-1]["valid_loss"], self.rows[-1]["valid_accuracy"]
        log.info("saved: valid_loss %.4g, valid_accuracy %.4g", loss, accuracy)

    def _resume(self) -> None:
        state = torch.load(self.out / "last.pt", map_location=self.data.mels.device, weights_only=True)
        self.pretrainer.load_state_dict(state["pretrainer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state, self.rows = State(**state["state"]), state["rows"]
        log.info("goes on at update %d", self.state.update)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m recipes.pretrain_bestrq.pretrain OUT --audio DIR``; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--audio", type=Path, nargs="+", required=True, help="folders of audio files")
    parser.add_argument("--seconds", type=float, help="of training, after the audio was read")
    parser.add_argument("--updates", type=int, help="of training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--workers", type=int, default=16, help="threads that decode audio (default: 16)")
    parser.add_argument("-o", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.seconds is None and options.updates is None:
        parser.error("say how long: --seconds or --updates")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        model, training = changed(options.overrides, MODEL, Training())
        device = torch.device(options.device)
        data = read(find(options.audio), workers=options.workers, bands=model.mels, device=device)
        log.info("%.2f hours in %d utterances", data.hours, len(data.starts) - 1)
        options.out.mkdir(parents=True, exist_ok=True)
        Run(options.out, data, model, training).train(options.seconds, options.updates)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
