"""Trial scores: cosines of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchmarkError
from downstream.sv.trials import TrialList

Floats = NDArray[np.float32]

CHUNK = 16384
"""Trials scored at a time: 64 MB for embeddings of 512."""


def stack(names: Sequence[str], embeddings: Mapping[str, Any]) -> Floats:
    """The embeddings of ``names`` as rows (utterance, size).

    Raises:
        BenchmarkError: an utterance has no embedding, or one that is not finite or of another size than the others.
    """
    matrix: Floats = np.empty((0, 0), dtype=np.float32)
    for i, name in enumerate(names):
        if name not in embeddings:
            raise BenchmarkError(f"no embedding of utterance {name}, which a trial or the cohort names")
        row = np.asarray(embeddings[name], dtype=np.float32)
        if i == 0 and row.ndim == 1:
            matrix = np.empty((len(names), len(row)), dtype=np.float32)
        if row.shape != matrix.shape[1:]:
            expected = matrix.shape[1:] if matrix.size else "one dimension"
            raise BenchmarkError(f"the embedding of utterance {name} has shape {row.shape}, expected {expected}")
        matrix[i] = row
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise BenchmarkError(
            f"the embedding of utterance {names[int(np.argmin(finite))]} is not finite; look at its audio, and at the "
            "training loss"
        )
    return matrix


def inverse_norms(rows: Floats) -> Floats:
    """(utterance,) what brings each row (utterance, size) to length 1; no more than 1e12, for rows of zeros."""
    squares = np.einsum("ud,ud->u", rows, rows)  # no copy of the rows, unlike np.linalg.norm
    inverse: Floats = 1 / np.maximum(np.sqrt(squares), np.float32(1e-12))
    return inverse


def cosines(trials: TrialList, rows: Floats) -> Floats:
    """(trial,) cosine of the two embeddings of each trial; 0 where one of them is all zeros.

    Args:
        trials: the list.
        rows: (utterance, size) of ``trials.ids``.
    """
    inverse = inverse_norms(rows)
    scores = np.empty(len(trials), dtype=np.float32)
    for start in range(0, len(trials), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = trials.enrolment[part], trials.test[part]
        scores[part] = np.einsum("td,td->t", rows[a], rows[b]) * (inverse[a] * inverse[b])
    return scores
