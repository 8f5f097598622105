"""The smallest upstream, task and corpus that the engine accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from benchmark import metrics
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation, Head, HiddenStates, Splits, Target, Task, Upstream, Utterance

if "toy_error" not in metrics.METRICS:
    metrics.declare(metrics.Metric("toy_error", "probability error", "%", ceiling=100.0))


class ToyUpstream(Upstream):
    """Frames of 400 samples -> 3 states of 8, by fixed random layers with dropout."""

    sample_rate, hidden_size, num_states, frame_shift = 16000, 8, 3, 320

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(400, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.dropout = nn.Dropout(0.2)
        self.ran: list[int] = []

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        return torch.div(wav_lens - 400, 320, rounding_mode="floor").clamp(min=-1) + 1

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        keep = list(range(3)) if keep is None else keep
        lengths = self.output_lengths(wav_lens)
        x = wavs.unfold(1, 400, 320)
        valid = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
        states = []
        for k, layer in enumerate(self.layers[: max(keep) + 1]):
            x = torch.tanh(self.dropout(layer(x)))
            self.ran.append(k)
            states.append(x * valid)
        return HiddenStates([states[k] for k in keep], lengths)


class ToyHead(Head):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 2)
        self.dropout = nn.Dropout(0.3)

    def _logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.linear(self.dropout(features.sum(1) / lengths[:, None]))

    def loss(self, features: Tensor, lengths: Tensor, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(self._logits(features, lengths), targets)

    def predict(self, features: Tensor, lengths: Tensor) -> list[Any]:
        return list(self._logits(features, lengths).float().softmax(-1)[:, 1].cpu().numpy())


@dataclass
class ToyConfig:
    explode_at: int = -1
    """Calls of targets() after which they are NaN."""


class ToyTask(Task):
    """Is the tone high? Selection by mean probability error, a number that any change of parameters changes."""

    Config = ToyConfig
    selection = "toy_error"

    @classmethod
    def split(cls, config: ToyConfig, corpus: Corpus, target: Target | None = None) -> Splits:
        test = corpus.splits["test"]
        if target is not None:
            if target.name not in target.corpus.splits:
                raise BenchmarkError(f"no split '{target.name}'")
            test = target.corpus.splits[target.name]
        return Splits(corpus.name, corpus.splits["train"], corpus.splits["dev"], test)

    def targets(self, utterances: Sequence[Utterance]) -> Tensor:
        return torch.tensor([int(str(u.speaker) == "high") for u in utterances])

    def vocabulary(self) -> dict[str, Any]:
        return {"classes": ["low", "high"]}

    @classmethod
    def make_head(cls, config: Any, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        return ToyHead(feature_size)

    @classmethod
    def present(cls, config: Any, vocabulary: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        return {"class": vocabulary["classes"][int(prediction > 0.5)], "probability": float(prediction)}

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        truth = {u.id: float(u.speaker == "high") for u in self.splits[split]}
        assert predictions.keys() == truth.keys()
        error = float(np.mean([abs(float(predictions[name]) - truth[name]) for name in truth]))
        lines = "".join(f"{name} {float(predictions[name])!r}\n" for name in sorted(truth))
        return Evaluation({split: {"toy_error": 100 * error}}, files={f"scores_{split}.txt": lines})


def toy_corpus(root: Path) -> Corpus:
    """Ten noisy tones a split, 0.1 to 0.4 s."""
    splits: dict[str, list[Utterance]] = {}
    for number, split in enumerate(("train", "dev", "test")):
        generator = np.random.default_rng(number)
        splits[split] = []
        for i in range(10):
            high = bool(i % 2)
            time = np.arange(generator.integers(1600, 6400)) / 16000
            wav = 0.1 * np.sin(2 * np.pi * (900 if high else 500) * time) + 0.2 * generator.standard_normal(len(time))
            path = root / f"{split}{i}.wav"
            soundfile.write(path, wav.clip(-1, 1), 16000)
            splits[split].append(Utterance(f"{split}{i}", str(path), speaker="high" if high else "low"))
    return Corpus("toy", splits)
