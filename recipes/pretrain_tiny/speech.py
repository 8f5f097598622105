"""The speech that ``distill.py`` hears: clips in memory, from packed files and from fairseq's manifests.

A packed file holds many clips, each an mp3 of about 23 kbit/s, one after the other; ``NAME.tsv`` beside ``NAME.bin``
says where each begins, how many bytes it has, its source and its name. An hour is 10 MB, so that hours of speech can
travel to a machine that reaches nothing. Of manifests:

    python -m recipes.pretrain_tiny.speech data/real/DebianSpeech/*.jsonl --held-out ids.txt --out .dev/speech
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data import manifest
from benchmark.errors import BenchmarkError

SAMPLE_RATE = 16_000
LONGEST = 29 * SAMPLE_RATE
"""Samples: clips are cut to this, which Whisper's window holds."""
SHORTEST = SAMPLE_RATE // 2
LEVEL = 0.95
"""libsndfile's compression level: 23 kbit/s of speech."""


@dataclass
class Speech:
    """Clips, one after the other."""

    wavs: Tensor
    """(sample,) int16."""
    starts: Tensor
    """(clip,) first samples, on the CPU."""
    samples: Tensor
    """(clip,) on the CPU."""
    sources: list[str]
    """Of each clip."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def hours(self) -> float:
        """Of speech."""
        return float(self.samples.sum()) / SAMPLE_RATE / 3600

    def batch(self, rows: Tensor, first: Tensor | None = None, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Some clips, or a stretch of each.

        Args:
            rows: (batch,) clips.
            first: (batch,) first samples of the stretches; ``None`` for the clips' beginnings.
            samples: (batch,) their lengths; ``None`` for whole clips.

        Returns:
            (batch, sample) float32 in [-1, 1], zero beyond the ends, where ``wavs`` is, and (batch,) lengths on the
            CPU.
        """
        samples = self.samples[rows] if samples is None else samples
        begin = self.starts[rows] if first is None else self.starts[rows] + first
        device = self.wavs.device
        place = torch.arange(int(samples.max()), device=device)
        end = samples.to(device)[:, None]
        index = begin.to(device)[:, None] + torch.minimum(place, end - 1)
        return self.wavs[index].float().div(2**15).masked_fill(place >= end, 0.0), samples

    def to(self, device: torch.device) -> Speech:
        """With the waveforms on a device."""
        return Speech(self.wavs.to(device), self.starts, self.samples, self.sources)


def join(clips: Sequence[Tensor], sources: Sequence[str]) -> Speech:
    """Clips (sample,) int16 of some sources -> :class:`Speech`."""
    samples = torch.tensor([len(clip) for clip in clips])
    return Speech(torch.cat(list(clips)), samples.cumsum(0) - samples, samples, list(sources))


def decode(source: str, file: bytes | Path) -> tuple[str, Tensor] | None:
    """A clip of 16 kHz -> its source and (sample,) int16; ``None`` if it is too short or cannot be decoded."""
    try:
        wav, rate = soundfile.read(io.BytesIO(file) if isinstance(file, bytes) else file, dtype="int16")
    except (soundfile.LibsndfileError, OSError):
        return None
    if rate != SAMPLE_RATE or wav.ndim != 1 or len(wav) < SHORTEST:
        return None
    return source, torch.from_numpy(wav[:LONGEST])


def listed(path: Path) -> Iterator[tuple[str, bytes | Path]]:
    """Sources and coded clips of a packed file's ``.tsv``, or of fairseq's: the folder, then ``path<tab>samples``."""
    if not path.exists():
        raise BenchmarkError(f"no list {path}: a .tsv of this module's, or fairseq's of downstream.corpora.synthetic")
    lines = path.read_text(encoding="utf-8").splitlines()
    blob = path.with_suffix(".bin")
    if not blob.exists():
        root = Path(lines[0])
        yield from ((path.parent.name, root / line.split("\t")[0]) for line in lines[1:])
        return
    data = blob.read_bytes()
    for line in lines:
        start, size, source, _ = line.split("\t")
        yield source, data[int(start) : int(start) + int(size)]


def read(lists: Iterable[Path], workers: int) -> Speech:
    """All clips of some lists, decoded by ``workers`` threads."""
    clips: list[Tensor] = []
    sources: list[str] = []
    missing = 0
    with ThreadPoolExecutor(workers) as pool:
        for path in lists:
            for found in pool.map(lambda item: decode(*item), listed(path)):
                if found is None:
                    missing += 1
                    continue
                sources.append(found[0])
                clips.append(found[1])
    if not clips:
        raise BenchmarkError("no speech in " + ", ".join(map(str, lists)))
    speech = join(clips, sources)
    print(f"{len(speech)} clips, {speech.hours:.2f} h; {missing} are missing or too short", flush=True)
    return speech


def encode(wav: NDArray[np.float32]) -> bytes:
    """(sample,) at 16 kHz -> an mp3 file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=LEVEL)
    return buffer.getvalue()


def pack(clips: Iterable[tuple[str, str, bytes]], out: Path) -> None:
    """Write ``OUT.bin`` and ``OUT.tsv`` of (source, name, coded clip)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    place = 0
    with out.with_suffix(".bin").open("wb") as blob, out.with_suffix(".tsv").open("w", encoding="utf-8") as lines:
        for source, name, data in clips:
            lines.write(f"{place}\t{len(data)}\t{source}\t{name}\n")
            blob.write(data)
            place += len(data)


def chosen(manifests: Iterable[Path], held_out: set[str], most: float) -> Iterator[tuple[str, str, bytes]]:
    """Source, name and coded clip of the utterances of some manifests, in the order of a hash, up to ``most`` bytes."""
    utterances = [utterance for path in manifests for utterance in manifest.read(path)]
    utterances.sort(key=lambda utterance: hashlib.sha256(utterance.id.encode()).hexdigest())
    for utterance in utterances:
        if utterance.id in held_out:
            continue
        wav, rate = soundfile.read(utterance.path, dtype="float32")
        if rate != SAMPLE_RATE or wav.ndim != 1:
            raise BenchmarkError(f"{utterance.path} has {rate} Hz: expected one channel at {SAMPLE_RATE} Hz")
        data = encode(wav)
        if len(data) > most:
            break
        most -= len(data)
        yield utterance.id.split("/")[0], utterance.id, data


def main() -> int:
    """``python -m recipes.pretrain_tiny.speech MANIFEST... --out OUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="+", help="of 16 kHz files; an id begins with its source and a /")
    parser.add_argument("--out", type=Path, required=True, help="OUT.bin and OUT.tsv are written")
    parser.add_argument("--held-out", type=Path, help="ids that are left out, a line each")
    parser.add_argument("--megabytes", type=float, default=1e6, help="as many clips as fit, in the order of a hash")
    options = parser.parse_args()
    try:
        held_out = set(options.held_out.read_text(encoding="utf-8").split()) if options.held_out else set()
        pack(chosen(options.manifests, held_out, options.megabytes * 1e6), options.out)
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
