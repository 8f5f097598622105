"""Whisper's two ways to treat length against random weights and a filterbank: cost, and linear probes on real speech.

    python recipes/benchmarks/whisper_length.py data/weights/whisper-base --train train.jsonl --test test.jsonl -o FILE

Manifests with a language (or any ``--label``) get a logistic regression on the means over time of all states, with
texts (``--text``) a linear layer on the mean of the normalised states, trained with CTC. Every upstream has the same
probe. What it prints goes to FILE as JSON, with the predictions.

The figures in docs/benchmarks.md are of Debian packages, clips of 2 to 8 s, 40 a language, resampled to 8 kHz and
back. Test: asterisk-core-sounds-{en,es,fr,it,ru}-g722 1.6.1-1. Training: flight-of-the-amazon-queen (en),
asterisk-prompt-es-co and drascula-spanish (es), asterisk-prompt-fr-armelle (fr), asterisk-prompt-it-menardi-wav (it),
festvox-ru (ru). Those of characters are of LibriSpeech: five chapters of speakers 19, 26 and 27 of train-clean-100, ten
utterances of each of ten speakers of test-other.

Cost is processor time, which other processes on the machine change little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmark.data import manifest
from benchmark.interfaces import Upstream, Utterance
from benchmark.metrics import character_edits, edit_rate
from upstream import load_upstream

VARIANTS: dict[str, dict[str, Any]] = {
    "fbank": {},
    "random, valid": {"length": "valid", "random_weights": True},
    "random, window": {"length": "window", "random_weights": True},
    "valid": {"length": "valid"},
    "window": {"length": "window"},
}


def load(name: str, weights: str) -> Upstream:
    """The upstream of a variant; random weights from seed 0."""
    torch.manual_seed(0)
    if name == "fbank":
        return load_upstream(name)
    return load_upstream("whisper_local", checkpoint=weights, **VARIANTS[name])


@torch.inference_mode()
def extract(upstream: Upstream, utterances: Sequence[Utterance], frames: bool) -> tuple[list[Tensor], float]:
    """What the probes see of each utterance, and the processor seconds per second of audio.

    Means over time, layer after layer (layer * dim,), or, with ``frames``, the mean of the normalised states
    (frame, dim).
    """
    features, busy, heard = [], 0.0, 0.0
    for utterance in utterances:
        wav, rate = soundfile.read(utterance.path, dtype="float32")
        assert rate == upstream.sample_rate
        start = time.process_time()
        states = upstream([wav]).states
        busy += time.process_time() - start
        heard += len(wav) / rate
        if frames:
            features.append(torch.stack([F.layer_norm(state[0], state.shape[-1:]) for state in states]).mean(0).half())
        else:
            features.append(torch.cat([state[0].mean(0) for state in states]))
    return features, busy / heard


def classify(train: list[Tensor], test: list[Tensor], classes: Sequence[str]) -> list[str]:
    """The classes of ``test`` by a logistic regression on standardised features."""
    scaler = StandardScaler().fit(torch.stack(train).numpy())
    model = LogisticRegression(C=0.01, max_iter=2000).fit(scaler.transform(torch.stack(train).numpy()), classes)
    return list(map(str, model.predict(scaler.transform(torch.stack(test).numpy()))))


def transcribe(train: list[Tensor], test: list[Tensor], texts: Sequence[str], epochs: int) -> list[str]:
    """Greedy transcripts of ``test`` by one linear layer, trained with CTC on characters."""
    torch.manual_seed(0)
    alphabet = sorted(set("".join(texts)))
    labels = [torch.tensor([alphabet.index(c) + 1 for c in text]) for text in texts]
    head = nn.Linear(train[0].size(1), len(alphabet) + 1)
    steps = epochs * -(-len(train) // 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(train)), 8):
            rows = [train[i].float() for i in batch]
            log_posteriors = head(nn.utils.rnn.pad_sequence(rows)).log_softmax(-1)
            lengths, counts = torch.tensor([len(r) for r in rows]), torch.tensor([len(labels[i]) for i in batch])
            loss = F.ctc_loss(log_posteriors, torch.cat([labels[i] for i in batch]), lengths, counts)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    best = [head(row.float()).argmax(-1).unique_consecutive().tolist() for row in test]
    return ["".join(alphabet[k - 1] for k in row if k) for row in best]


def main() -> None:
    """Measure the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--label", default="language")
    parser.add_argument("--text", action="store_true", help="CTC on texts in place of the label")
    parser.add_argument("--epochs", type=int, default=15, help="of CTC")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)

    train, test = manifest.read(options.train), manifest.read(options.test)
    label = "text" if options.text else options.label
    targets, references = ([str(u.label(label)) for u in split] for split in (train, test))
    report = {}
    for name in options.only:
        upstream = load(name, options.weights)
        seen, cost = extract(upstream, [*train, *test], options.text)
        split = len(train)
        if options.text:
            predicted = transcribe(seen[:split], seen[split:], targets, options.epochs)
            figures = {"cer": edit_rate(character_edits(*pair) for pair in zip(references, predicted, strict=True))}
        else:
            predicted = classify(seen[:split], seen[split:], targets)
            right = np.array([a == b for a, b in zip(references, predicted, strict=True)])
            each = {c: round(100 * float(right[np.array(references) == c].mean()), 1) for c in sorted(set(references))}
            figures = {"accuracy": 100 * float(right.mean()), **each}
        report[name] = {"processor seconds per second of audio": cost, **figures, "predictions": predicted}
        print(name, f"{1000 * cost:.1f} ms of processor per second of audio", figures, flush=True)
        options.output.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
