"""Lists of utterances: what they add up to, and a digest that tells two lists apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.interfaces import Utterance


def digest(utterances: Sequence[Utterance]) -> str:
    """Sixteen hex digits over ids, spans and labels, in order; where the files lie does not matter."""
    state = hashlib.sha256()
    for u in utterances:
        state.update(repr((u.id, u.start, u.duration, u.text, u.speaker, u.language, u.session)).encode())
    return state.hexdigest()[:16]


def summary(utterances: Sequence[Utterance], seconds: NDArray[np.float64]) -> dict[str, Any]:
    """What ``result.json`` keeps of a split."""
    return {
        "utterances": len(utterances),
        "seconds": round(float(seconds.sum()), 3),
        "speakers": len({u.speaker for u in utterances if u.speaker is not None}),
        "languages": len({u.language for u in utterances if u.language is not None}),
        "digest": digest(utterances),
    }
