"""The reference line of ``real_sv``: Resemblyzer's speaker encoder on the same trials.

    pip install resemblyzer==0.1.4
    python -m downstream.corpora.debian_speech.reference data/real

An LSTM of 1.4 million weights, trained with GE2E loss on LibriSpeech-other, VoxCeleb1 and VoxCeleb2 (Apache-2.0); the
clips are prepared as the package does it (volume, long silences cut), and scores are cosines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import metrics
from downstream.corpora.debian_speech.corpus import prepare


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m downstream.corpora.debian_speech.reference", description=__doc__)
    parser.add_argument("root", type=Path)
    options = parser.parse_args(arguments)
    corpus = prepare(options.root)
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)
    for name, trials in corpus.trials.items():
        embeddings: dict[str, Any] = {
            u.id: encoder.embed_utterance(preprocess_wav(Path(u.path))) for u in corpus.splits[name]
        }
        scores = np.array([embeddings[trial.enrolment] @ embeddings[trial.test] for trial in trials])
        labels = np.array([trial.label for trial in trials])
        rate = metrics.eer(labels, scores)
        costs = ", ".join(f"minDCF({p}) {metrics.min_dcf(labels, scores, p):.3f}" for p in (0.01, 0.05))
        print(f"{name}: {len(trials):,} trials, {len(embeddings)} clips: EER {rate:.1f} %, {costs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
