"""Transcripts: how they are normalised, and the characters that a head can write.

Symbol 0 is CTC's blank, ``|`` stands for the space between words, and symbols of more than one character are never
part of a transcript. The labels of a transcript are its words, each followed by ``|``, the last one included, as in
fairseq (``examples/wav2vec/libri_labels.py``); a lexicon whose spellings end in ``|`` fits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest

BLANK = 0
"""Index of CTC's blank."""
SPACE = "|"
CASES = ("upper", "lower", "keep")

ALPHABETS = {"librispeech": ("<s>", "<pad>", "</s>", "<unk>", *"|ETAONIHSRDLUMCWFGYPBVK'XJQZ")}
"""Named alphabets. ``librispeech``: fairseq's four special symbols, then its ``dict.ltr.txt``; also the dictionary of
SUPERB's ASR (s3prl ec8064b5 ``downstream/asr/char.dict``). It has 32 symbols, and the blank is ``<s>``."""


@dataclass
class TextConfig:
    """How transcripts become labels; references are normalised exactly as training transcripts are.

    Unicode is always normalised to NFC and white space to single spaces. Nothing else changes unless it is requested
    here; numbers are never spelt out.
    """

    alphabet: str | None = None
    """``librispeech``, or the characters that may occur, in one string (``abc…xyz'``); ``None``: those of all training
    transcripts, whatever the label budget, so that the head is the same for every budget."""
    case: str = "keep"
    """``upper``, ``lower`` or ``keep``."""
    turkic: bool = False
    """Turkish, Azerbaijani, Tatar …: İ is the capital of i, and I that of ı."""
    strip_punctuation: bool = False
    """Replace punctuation and symbols (Unicode categories P and S) except apostrophes by a space; a typographic
    apostrophe becomes ``'``. Invisible characters (category Cf: zero-width spaces, byte order marks, soft hyphens,
    marks of direction) are removed, except joiners, which are part of the spelling of Persian and Indic words."""

    def check(self) -> None:
        """Raise on a value out of range."""
        if self.case not in CASES:
            raise BenchmarkError(f"task.text.case is '{self.case}'. " + suggest(self.case, list(CASES)))
        if self.alphabet is not None and self.alphabet not in ALPHABETS:
            if SPACE in self.alphabet:
                raise BenchmarkError(f"task.text.alphabet contains '{SPACE}', which stands for the space; remove it")
            if not self.alphabet.strip():
                raise BenchmarkError("task.text.alphabet is empty; give the characters, or null to derive them")


def normalise(text: str, config: TextConfig) -> str:
    """A transcript as it is trained on and scored against; see :class:`TextConfig`."""
    text = unicodedata.normalize("NFC", text)
    if config.case == "upper":
        text = (text.replace("i", "İ") if config.turkic else text).upper()
    elif config.case == "lower":
        text = (text.replace("İ", "i").replace("I", "ı") if config.turkic else text).lower()
    if config.strip_punctuation:
        text = text.replace("’", "'")
        text = "".join(_spoken(c) for c in text)
    return " ".join(unicodedata.normalize("NFC", text).split())


_JOINERS = "\u200c\u200d"


def _spoken(character: str) -> str:
    """The character; for punctuation and symbols a space, for what is invisible nothing."""
    category = unicodedata.category(character)
    if category[0] in "PS" and character != "'":
        return " "
    return "" if category == "Cf" and character not in _JOINERS else character


def spell(text: str) -> str:
    """The labels of a normalised transcript, as characters: its words, each followed by ``|``."""
    return text.replace(" ", SPACE) + SPACE if text else ""


class Alphabet:
    """The symbols of a head, in the order of its outputs."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self.index = {symbol: i for i, symbol in enumerate(self.symbols)}
        if len(self.index) != len(self.symbols) or SPACE not in self.index or self.symbols.index(SPACE) == BLANK:
            raise BenchmarkError(f"not an alphabet (distinct symbols, blank first, '{SPACE}' among them): {symbols}")

    @classmethod
    def from_config(cls, config: TextConfig, transcripts: Iterable[str]) -> Alphabet:
        """The alphabet that the options name, or that of normalised ``transcripts``, ordered by code point."""
        if config.alphabet in ALPHABETS:
            return cls(ALPHABETS[config.alphabet])
        if config.alphabet is not None:
            characters = list(dict.fromkeys(unicodedata.normalize("NFC", config.alphabet)))
        else:
            characters = sorted(set().union(*transcripts))
        return cls(["<s>", SPACE, *(c for c in characters if c != SPACE and not c.isspace())])

    def unknown(self, text: str) -> list[str]:
        """Characters of a normalised transcript that cannot be written, in order."""
        # '|' would be read back as a space
        unknown = set(text) - (self.index.keys() - {SPACE}) - {" "}
        return [c for c in text if c in unknown] if unknown else []

    def encode(self, text: str) -> list[int]:
        """Labels of a normalised transcript, which must not have :meth:`unknown` characters."""
        return [self.index[c] for c in spell(text)]

    def decode(self, labels: Iterable[int]) -> str:
        """The text of labels; special symbols (of more than one character) are left out."""
        symbols = (self.symbols[label] for label in labels)
        text = "".join(symbol for symbol in symbols if len(symbol) == 1)
        return " ".join(text.replace(SPACE, " ").split())


def collapse(frames: Tensor) -> list[int]:
    """CTC's mapping: the best symbol of each frame (frame,) -> labels, with repetitions merged, then blanks removed."""
    merged = torch.unique_consecutive(frames)
    labels: list[int] = merged[merged != BLANK].tolist()
    return labels
