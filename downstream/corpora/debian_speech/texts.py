"""From the sources' texts to what can be recognised: upper-case letters of a language, spaces and apostrophes."""

from __future__ import annotations

import re
import unicodedata

_CYRILLIC = "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЁ"
_LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ALPHABETS = {
    "be": "АБВГДЕЁЖЗІЙКЛМНОПРСТУЎФХЦЧШЫЬЭЮЯ'",
    "ca": _LATIN + "ÀÇÉÈÍÏÓÒÚÜ·'",
    "cs": _LATIN + "ÁČĎÉĚÍŇÓŘŠŤÚŮÝŽ",
    "en": _LATIN + "'",
    "es": _LATIN + "ÁÉÍÑÓÚÜ",
    "fr": _LATIN + "ÀÂÆÇÉÈÊËÎÏÔŒÙÛÜŸ'",
    "it": _LATIN + "ÀÈÉÌÎÒÓÙÚ'",
    "nl": _LATIN + "ÁÄÉÈËÍÏÓÖÚÜ'",
    "ro": _LATIN + "ĂÂÎȘȚ",
    "ru": _CYRILLIC,
}
"""Language -> its letters, and the apostrophe where it is written within words."""
DIGITS = {
    "cs": "NULA JEDNA DVA TŘI ČTYŘI PĚT ŠEST SEDM OSM DEVĚT",
    "en": "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE",
    "es": "CERO UNO DOS TRES CUATRO CINCO SEIS SIETE OCHO NUEVE",
    "fr": "ZÉRO UN DEUX TROIS QUATRE CINQ SIX SEPT HUIT NEUF",
    "it": "ZERO UNO DUE TRE QUATTRO CINQUE SEI SETTE OTTO NOVE",
    "ru": "НОЛЬ ОДИН ДВА ТРИ ЧЕТЫРЕ ПЯТЬ ШЕСТЬ СЕМЬ ВОСЕМЬ ДЕВЯТЬ",
}
"""Language -> how single digits are read. What longer numbers are read as is not known: such texts are left out."""
ABBREVIATIONS = {"en": {"MR": "MISTER", "MRS": "MISSUS", "DR": "DOCTOR"}}
"""Language -> abbreviations before a full stop -> how they are read, as LibriSpeech spells them."""

_ASIDE = re.compile(r"\[[^]]*]|\([^)]*\)|<[^>]*>")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.){2,}")
_MARKS = re.compile(r"[.,;:!?¿¡…\"«»„“”‹›‐‑‒–—―~_|-]+")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'+|'+(?!\w)|(?<=')'+")
_SAME = str.maketrans({"’": "'", "‘": "'", "´": "'", "`": "'", "ʼ": "'", "ş": "ș", "ţ": "ț", "Ş": "Ș", "Ţ": "Ț"})


def normalise(text: str, language: str) -> tuple[str | None, str]:
    """A text as it can be recognised, or why not.

    Asides in brackets are left out, marks become spaces, single digits are written out, letters are made upper case;
    English loses its accents. Apostrophes stay within words.

    Args:
        text: as the source has it.
        language: one of :data:`ALPHABETS`; others have no texts.

    Returns:
        (text, ""), or (``None``, reason): ``no text`` there is none, or none outside brackets; ``number`` of more than
        a digit; ``characters`` that are no letters of the language.

    >>> normalise("Press * or 1... (tone)", "en")
    (None, 'characters')
    >>> normalise("Please press 1, Mr. O'Neil!", "en")
    ("PLEASE PRESS ONE MISTER O'NEIL", '')
    """
    text = unicodedata.normalize("NFC", _ASIDE.sub(" ", text.translate(_SAME)))
    if language == "en":
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = _INITIALS.sub(lambda match: " ".join(match[0].replace(".", " ").split()) + " ", text).upper()
    for short, whole in ABBREVIATIONS.get(language, {}).items():
        text = re.sub(rf"\b{short}\.", whole, text)
    digits = DIGITS.get(language, "").split()
    if re.search(r"\d[\d.,:]*\d|\d[^\W\d]|[^\W\d]\d|\w\.\d", text) or (not digits and re.search(r"\d", text)):
        return None, "number"
    text = re.sub(r"\d", lambda match: digits[int(match[0])], text)
    text = _LOOSE_APOSTROPHE.sub(" ", _MARKS.sub(" ", text))
    text = " ".join(text.split())
    if not text:
        return None, "no text"
    if set(text) - set(ALPHABETS.get(language, "")) - {" "}:
        return None, "characters"
    return text, ""
