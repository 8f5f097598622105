"""What ``wav2vec2_tiny`` is taught: states of Whisper-base's encoder, and Resemblyzer's embeddings of speakers.

    python -m recipes.pretrain_tiny.teachers data/weights/whisper-base data/weights/pretrained.pt teachers.pt

writes both in 23 MB, the large matrices in 8 bits with a scale for each row, so that they can travel.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically
from upstream.readers.torchfile import load_state
from upstream.whisper.checkpoint import load_model
from upstream.whisper.frontend import mel_filters
from upstream.whisper.model import WhisperConfig, WhisperEncoder

DELAY = 200
"""Samples. wav2vec 2.0's frame k is centred on sample 320 k + 200, Whisper's on 320 k: Whisper hears the waveform from
this sample on, and their frames are of the same times."""
WINDOW, STEP = 160, 77
"""Mel frames of 10 ms that Resemblyzer embeds at once, and from one window to the next (its rate of 1.3 a second)."""


class SpeakerEncoder(nn.Module):
    """Resemblyzer's (https://github.com/resemble-ai/Resemblyzer, 0.1.4, Apache-2.0): three LSTM layers and a linear one
    over 40 mel energies, trained by GE2E. Without its detector of voice activity."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, wavs: Tensor, samples: Tensor) -> Tensor:
        """(batch, sample) waveforms and their lengths (batch,) -> (batch, 256) embeddings of length 1."""
        length = samples.to(wavs.device)
        power = wavs.square().sum(1) / length
        wavs = wavs * (10 ** (-30 / 20) / power.clamp(min=1e-10).sqrt()).clamp(min=1.0)[:, None]  # -30 dB or louder
        window = torch.hann_window(400, device=wavs.device)
        spectrum = torch.stft(F.pad(wavs, (0, WINDOW * 160)), 400, 160, window=window, return_complex=True)
        mel = (mel_filters(40, wavs.device) @ spectrum.abs().square()).transpose(1, 2)  # (batch, mel frame, 40)
        frames = (samples // 160 + 1).tolist()
        windows, owners = [], []
        for i, n in enumerate(frames):
            for start in range(0, max(1, n - WINDOW + STEP + 1), STEP):
                if start == 0 or n - start >= 0.75 * WINDOW:
                    windows.append(mel[i, start : start + WINDOW])
                    owners.append(i)
        hidden = self.lstm(torch.stack(windows))[1][0][-1]
        partial = F.normalize(self.linear(hidden).relu(), dim=1)
        embeddings = partial.new_zeros(len(frames), 256).index_add(0, torch.tensor(owners, device=wavs.device), partial)
        return F.normalize(embeddings, dim=1)


@torch.no_grad()
def whisper_states(model: WhisperEncoder, wavs: Tensor, samples: Tensor, keep: Sequence[int]) -> tuple[Tensor, Tensor]:
    """States of the times of wav2vec 2.0's frames.

    Args:
        model: of 30 s windows.
        wavs: (batch, sample).
        samples: (batch,), at least 400, on the CPU.
        keep: which states, in increasing order.

    Returns:
        (batch, frame, state, dim), and the frames (batch,) that are valid.
    """
    frames = torch.div(samples - 400, model.frame_shift, rounding_mode="floor") + 1
    states = model(wavs[:, DELAY:], samples - DELAY, keep=keep).states
    return torch.stack([state[:, : int(frames.max())] for state in states], dim=2), frames


def compact(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Matrices in 8 bits with a scale (row, 1), the rest in half precision."""
    small: dict[str, Any] = {}
    for name, x in tensors.items():
        if x.dim() < 2 or x.numel() < 2**16:
            small[name] = x.half()
            continue
        rows = x.float().flatten(1)
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        small[name] = ((rows / scale).round().to(torch.int8).view(x.shape), scale.half().float())
    return small


def restore(small: dict[str, Any]) -> dict[str, Tensor]:
    """What :func:`compact` was given, nearly."""
    return {
        name: (x[0].float().flatten(1) * x[1]).view(x[0].shape) if isinstance(x, tuple) else x.float()
        for name, x in small.items()
    }


def write(whisper: Path, speaker: Path, out: Path) -> None:
    """Write both teachers in one small file."""
    model, found = load_model(whisper)
    config = {name: getattr(found.config, name) for name in ("mels", "positions", "dim", "ffn", "heads", "layers")}
    tensors = {name: x for name, x in model.state_dict().items() if name != "positions"}
    state = {"config": config, "whisper": compact(tensors), "speaker": compact(speaker_tensors(speaker))}
    write_atomically(out, lambda file: torch.save(state, file))


def speaker_tensors(path: Path) -> dict[str, Tensor]:
    """Of Resemblyzer's ``pretrained.pt``."""
    tensors = load_state(path)["model_state"]
    return {name: x for name, x in tensors.items() if name.startswith(("lstm.", "linear."))}


def read(path: Path) -> tuple[WhisperEncoder, SpeakerEncoder]:
    """Both teachers out of :func:`write`'s file.

    Raises:
        BenchmarkError: it is another file.
    """
    state = load_state(path)
    if not isinstance(state, dict) or set(state) != {"config", "whisper", "speaker"}:
        raise BenchmarkError(f"{path} does not hold the teachers: write it by python -m recipes.pretrain_tiny.teachers")
    whisper, speaker = WhisperEncoder(WhisperConfig(**state["config"])), SpeakerEncoder()
    tensors = restore(state["whisper"]) | {"positions": whisper.positions}
    whisper.load_state_dict(tensors)
    speaker.load_state_dict(restore(state["speaker"]))
    return whisper.eval().requires_grad_(False), speaker.eval().requires_grad_(False)


def main() -> int:
    """``python -m recipes.pretrain_tiny.teachers WHISPER SPEAKER OUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path, help="Whisper-base, as -u whisper_local takes it: make real-weights")
    parser.add_argument("speaker", type=Path, help="pretrained.pt of PyPI's resemblyzer 0.1.4")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    try:
        write(options.whisper, options.speaker, options.out)
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
