"""Measure what each hidden state of ``wav2vec2_tiny`` holds, beside the same network untrained and ``fbank``.

Three small probes on frozen states, of the synthetic demo corpora, whose speakers and texts pre-training has not heard,
and of human speech (``sounds.py`` says which):

- languages: logistic regression on the mean and the deviation over time; of synthetic speech VoxLingua107 recordings
  against ``dev`` ones, of human speech one source against another;
- speakers: the same, on some recordings (videos) of VoxCeleb1 speakers against another recording of each; of human
  speech, characters of a game, some clips against others;
- recognition: a convolution of 3 frames with 64 channels and a linear layer, trained by CTC on LibriSpeech
  train-clean-100; character errors of greedy decoding on test-clean. Of human speech, one source against another.

A seed chooses the subset of recordings trained on, the speakers' recording tested on, and the head's initialisation;
of the untrained network also the weights.

    python -m recipes.pretrain_tiny.probe upstream/wav2vec2/wav2vec2_tiny.pt --data-root data/demo --out results/probe
    python -m recipes.pretrain_tiny.probe NEW.pt --name new --real data/real/DebianSpeech --out results/probe
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas, edit_distance
from tqdm import tqdm

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream
from recipes.pretrain_tiny.sounds import CHARACTERS, Sets, Sound, real, synthetic
from upstream import load_upstream
from upstream.wav2vec2.model import Wav2Vec2Model

Vector = NDArray[np.float32]

Listener = Callable[[Tensor], list[Tensor]]
"""Waveform (sample,) -> hidden states, each (frame, dim)."""


def upstream_listener(model: Upstream) -> Listener:
    """An upstream, one utterance at a time."""

    @torch.no_grad()
    def listen(wav: Tensor) -> list[Tensor]:
        return [state[0] for state in model(wav.unsqueeze(0), torch.tensor([len(wav)])).states]

    return listen


def fbank(wav: Tensor) -> list[Tensor]:
    """Kaldi's 80 log mel energies and their differences, not normalised: the mean says something, too."""
    mel = kaldi.fbank(wav.unsqueeze(0), num_mel_bins=80).T  # (80, frame)
    delta = compute_deltas(mel)
    return [torch.cat([mel, delta, compute_deltas(delta)]).T]


@cache
def read_audio(path: Path) -> Tensor:
    """(sample,), kept in memory for the next system."""
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


def states(listener: Listener, sound: Sound) -> list[Tensor]:
    """The hidden states of a file."""
    return listener(read_audio(sound.path))


def pooled(listener: Listener, sounds: list[Sound], name: str) -> list[Vector]:
    """Mean and deviation over time: for each state (utterance, 2 dim)."""
    rows = [[torch.cat([x.mean(0), x.std(0)]) for x in states(listener, one)] for one in tqdm(sounds, desc=name)]
    return [torch.stack(column).numpy() for column in zip(*rows, strict=True)]


def by_frame(listener: Listener, sounds: list[Sound], name: str) -> list[list[Tensor]]:
    """For each state, each utterance's frames (frame, dim) in half precision."""
    rows = [[x.half() for x in states(listener, one)] for one in tqdm(sounds, desc=name)]
    return [list(column) for column in zip(*rows, strict=True)]


def classify(x: Vector, y: list[str], x_test: Vector, y_test: list[str]) -> float:
    """Accuracy in percent."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=300))
    return 100 * float(probe.fit(x, y).score(x_test, y_test))


def languages(x: Vector, x_test: Vector, sets: Sets, seed: int) -> float:
    """Accuracy (%) of a probe trained on three quarters of the recordings."""
    groups = sorted({one.group for one in sets.lang_train})
    chosen = set(random.Random(seed).sample(groups, len(groups) * 3 // 4))
    rows = [k for k, one in enumerate(sets.lang_train) if one.group in chosen]
    return classify(x[rows], [sets.lang_train[k].label for k in rows], x_test, [one.label for one in sets.lang_test])


def speakers(x: Vector, sets: Sets, seed: int) -> float:
    """Accuracy (%) on one recording of each speaker of a probe trained on the others."""
    recordings: dict[str, list[str]] = {}
    for one in sets.speakers:
        of_one = recordings.setdefault(one.label, [])
        if one.group not in of_one:
            of_one.append(one.group)
    held_out = {of_one[seed % len(of_one)] for of_one in recordings.values()}
    y = [one.label for one in sets.speakers]
    test = np.array([one.group in held_out for one in sets.speakers])
    return classify(x[~test], [s for s, t in zip(y, test, strict=True) if not t],
                    x[test], [s for s, t in zip(y, test, strict=True) if t])  # fmt: skip


class Head(nn.Module):
    """(frame, batch, dim) -> (frame, batch, label) scores."""

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(dim, hidden, 3, padding=1)
        self.out = nn.Linear(hidden, len(CHARACTERS) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score the labels of each frame."""
        hidden = self.hidden(x.permute(1, 2, 0)).relu().permute(2, 0, 1)
        scores: Tensor = self.out(hidden)
        return scores


def recognition(
    train: list[Tensor], train_texts: list[str], test: list[Tensor], test_texts: list[str], seed: int, epochs: int
) -> float:
    """Character error rate (%) of a small CTC head; features (frame, dim) an utterance."""
    torch.manual_seed(seed)
    frames = torch.cat(train).float()
    mean, std = frames.mean(0), frames.std(0) + 1e-5
    train, test = [[(one.float() - mean) / std for one in part] for part in (train, test)]
    head = Head(len(mean))
    labels = [torch.tensor([CHARACTERS.index(c) + 1 for c in text]) for text in train_texts]
    steps = epochs * -(-len(train) // 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(train)), 16):
            x = [train[k] for k in rows.tolist()]
            y = [labels[k] for k in rows.tolist()]
            log_probs = head(nn.utils.rnn.pad_sequence(x)).log_softmax(2)
            lengths = torch.tensor([len(one) for one in x]), torch.tensor([len(one) for one in y])
            loss = F.ctc_loss(log_probs, torch.cat(y), *lengths, zero_infinity=True)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    errors = total = 0
    with torch.no_grad():
        for one, text in zip(test, test_texts, strict=True):
            best = head(one.unsqueeze(1)).argmax(2)[:, 0].unique_consecutive().tolist()
            errors += edit_distance("".join(CHARACTERS[k - 1] for k in best if k), text)
            total += len(text)
    return 100 * errors / total


Scores = dict[tuple[str, str, int, int], float]
"""(system, probe, state, seed) -> value in percent."""


def measure(
    name: str,
    make: Callable[[int], Listener],
    sets: Sets,
    scores: Scores,
    *,
    kind: str,
    probes: list[str],
    chosen: list[int] | None,
    seeds: int,
    same: bool,
    epochs: int,
) -> None:
    """Run the probes on one system; ``same``: its weights do not depend on the seed; ``kind`` of speech: ``real_`` or
    empty, before the probes' names in the scores."""
    pooling = [sets.lang_train, sets.lang_test, sets.speakers] if {"language", "speaker"} & set(probes) else []
    texts = [sets.text_train, sets.text_test] if "cer" in probes else []
    heard = None
    for seed in range(seeds):
        if heard is None or not same:
            listener = make(seed)
            means = [pooled(listener, part, name) for part in pooling]
            frames = [by_frame(listener, part, name) for part in texts]
            heard = means, frames
        means, frames = heard
        for k in chosen or range(len((means + frames)[0])):
            if "language" in probes:
                scores[name, f"{kind}language", k, seed] = languages(means[0][k], means[1][k], sets, seed)
            if "speaker" in probes:
                scores[name, f"{kind}speaker", k, seed] = speakers(means[2][k], sets, seed)
            if "cer" in probes:
                train, test = ([one.text for one in part] for part in texts)
                scores[name, f"{kind}cer", k, seed] = recognition(frames[0][k], train, frames[1][k], test, seed, epochs)
            found = {probe: scores.get((name, f"{kind}{probe}", k, seed)) for probe in PROBES}
            print(name, k, seed, *(f"{kind}{probe} {value:.1f}" for probe, value in found.items() if value is not None),
                  flush=True)  # fmt: skip


PROBES = {
    "language": "languages, accuracy % ↑",
    "speaker": "speakers, accuracy % ↑",
    "cer": "characters, error % ↓",
}


KINDS = {"": "synthetic", "real_": "human"}
"""Before the name of a probe -> the kind of speech."""
COLUMNS = ["system", "probe", "state", "seed", "percent"]


def read_scores(path: Path) -> Scores:
    """What an earlier run wrote; nothing where there was none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            (row["system"], row["probe"], int(row["state"]), int(row["seed"])): float(row["percent"])
            for row in csv.DictReader(file)
        }


def write(scores: Scores, out: Path) -> None:
    """``OUT.csv`` and ``OUT.md``."""
    out.with_suffix(".md").write_text(table(scores))
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*key, f"{value:.2f}"] for key, value in sorted(scores.items()))


def table(scores: Scores) -> str:
    """Markdown: mean and standard deviation over the seeds, if there are two, a line for each state of each system."""
    probes = {
        f"{kind}{probe}": f"{speech}: {title}"
        for kind, speech in KINDS.items()
        for probe, title in PROBES.items()
        if any(measured == f"{kind}{probe}" for _, measured, _, _ in scores)
    }
    lines = ["| system | state | " + " | ".join(probes.values()) + " |", "| --- | ---: |" + " ---: |" * len(probes)]
    for system, state in sorted({(system, state) for system, _, state, _ in scores}):
        cells = []
        for probe in probes:
            values = [v for (s, p, k, _), v in scores.items() if (s, p, k) == (system, probe, state)]
            mean = f"{statistics.mean(values):.1f}" if values else "–"
            cells.append(f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean)
        lines.append(f"| {system} | {state} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """``python -m recipes.pretrain_tiny.probe CHECKPOINT --out OUT``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a fairseq checkpoint")
    parser.add_argument("--data-root", type=Path, default=Path("data/demo"))
    parser.add_argument(
        "--out", type=Path, required=True, help="OUT.md and OUT.csv; what OUT.csv holds of other systems is kept"
    )
    parser.add_argument("--name", default="tiny", help="what the checkpoint is called in the table (default: tiny)")
    parser.add_argument("--real", type=Path, help="the folder DebianSpeech: probe human speech, not the demo corpora")
    parser.add_argument("--whisper", type=Path, help="Whisper-base's weights, for the system 'whisper'")
    systems = ["tiny", "random", "fbank"]
    parser.add_argument("--systems", nargs="+", choices=[*systems, "whisper"], default=systems)
    parser.add_argument("--probes", nargs="+", choices=list(PROBES), default=list(PROBES))
    parser.add_argument("--states", nargs="+", type=int, help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--voices", type=int, default=30, help="speakers to tell apart")
    parser.add_argument("--sentences", type=int, default=240, help="that recognition is trained on")
    parser.add_argument("--epochs", type=int, default=20, help="of recognition")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def load() -> Upstream:
        return load_upstream("wav2vec2_local", checkpoint=options.checkpoint)

    def untrained(seed: int) -> Upstream:
        model = load()
        assert isinstance(model, Wav2Vec2Model)
        torch.manual_seed(seed)
        return Wav2Vec2Model(model.config).eval()

    makers: dict[str, Callable[[int], Listener]] = {
        "tiny": lambda _seed: upstream_listener(load()),
        "random": lambda seed: upstream_listener(untrained(seed)),
        "fbank": lambda _seed: fbank,
        "whisper": lambda _seed: upstream_listener(load_upstream("whisper_local", checkpoint=options.whisper)),
    }
    scores = read_scores(options.out.with_suffix(".csv"))
    try:
        if options.real:
            sets = real(options.real, options.sentences)
        else:
            sets = synthetic(options.data_root, options.voices, options.sentences)
        for system in options.systems:
            measure(
                options.name if system == "tiny" else system, makers[system], sets, scores,
                kind="real_" if options.real else "", probes=options.probes,
                chosen=options.states, seeds=options.seeds, same=system != "random", epochs=options.epochs,
            )  # fmt: skip
            write(scores, options.out)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
