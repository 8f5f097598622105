"""Corpora in the formats of other tools -> :class:`benchmark.interfaces.Corpus`: Kaldi, lhotse, Hugging Face datasets.

Each importer takes a source, a folder for what it has to write (audio that lies in no file of its own) and the names of
labels to take beside the fields of :class:`benchmark.interfaces.Utterance`. It reads all of the source and raises one
:class:`benchmark.errors.BenchmarkError` for everything that it cannot import. None of them guesses: what an utterance
cannot express (one channel of several, a mix, another speed) is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmark.data.importers import huggingface, kaldi, lhotse
from benchmark.interfaces import Corpus

IMPORTERS: dict[str, Callable[..., Corpus]] = {
    "kaldi": kaldi.read,
    "lhotse": lhotse.read,
    "datasets": huggingface.read,
}
"""Name -> ``(source, output, labels=()) -> Corpus``; ``datasets`` takes ``columns`` as well."""
