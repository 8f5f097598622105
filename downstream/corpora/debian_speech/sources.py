"""What lies where in the packages: recordings with their speakers and texts."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from benchmark.errors import BenchmarkError

Files = Mapping[str, bytes]
"""Name in a package -> content."""
SCUMMVM = "usr/share/scummvm"


@dataclass(frozen=True)
class Recording:
    """One recording as a source has it."""

    source: str
    name: str
    """Unique in its source; what its file is called."""
    data: bytes
    kind: str
    """A key of :data:`.decode.DECODERS`."""
    speaker: str
    language: str
    session: str
    """The file or folder it is from."""
    text: str | None = None
    """As the source writes it; ``None``: there is none."""
    gender: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Collection:
    """Packages that are read together."""

    name: str
    packages: tuple[str, ...]
    wanted: Callable[[str], bool]
    """Names of files that :attr:`read` needs."""
    read: Callable[[Files], Iterator[Recording]]
    """Files of all the packages -> recordings; always in the same order."""


# ---------------------------------------------------------------------------------------------- Asterisk's prompts

ASTERISK = {"en": ("allison_smith", "f"), "es": ("allison_smith_es", "f"), "fr": ("june_wallack", "f"),
            "it": ("carlo_flora", "m"), "ru": ("maxim_topal_ivr", "f")}  # fmt: skip
"""Language -> speaker and gender of its core sounds."""
SYMBOLS = {"*": " star ", "#": " pound "}
"""Keys of a telephone, as the English speaker reads them."""


def asterisk(language: str, files: Files) -> Iterator[Recording]:
    """``asterisk-core-sounds``: G.722, and ``core-sounds-LL.txt`` with lines ``folder/name: text``.

    A line in brackets is a sound. Silence is left out.
    """
    source = f"asterisk_{language}"
    speaker, gender = ASTERISK[language]
    listed = next(data for name, data in files.items() if name.endswith(".txt.gz"))
    texts: dict[str, str] = {}
    for line in gzip.decompress(listed).decode("utf-8-sig").splitlines():
        name, colon, spoken = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(name.strip(), spoken.strip())
    for name, data in files.items():
        if not name.endswith(".g722") or "/silence/" in name:
            continue
        short = name.removesuffix(".g722").split("/sounds/")[1].split("/", 1)[1]
        text = texts.get(short)
        if text is not None and language == "en":
            text = "".join(SYMBOLS.get(c, c) for c in re.sub(r"\[[^]]*]", "", text))
        kind = short.split("/")[0] if "/" in short else "prompts"
        yield Recording(source, short, data, "g722", f"{source}/{speaker}", language, f"{source}/{kind}", text,
                        gender, {"kind": kind})  # fmt: skip


PROMPTS = {"es": ("asterisk-prompt-es-co", "gsm", "july_jimenez", "f"),
           "fr": ("asterisk-prompt-fr-armelle", "gsm", "armelle_desjardins", "f"),
           "it": ("asterisk-prompt-it-menardi-wav", "wav", "paola_dal_zot", "f")}  # fmt: skip
"""Language -> package, format, speaker and gender of another set of prompts, without texts."""


def prompts(language: str, files: Files) -> Iterator[Recording]:
    """``asterisk-prompt``: GSM or wav at 8 kHz."""
    source, (_, ending, speaker, gender) = f"prompts_{language}", PROMPTS[language]
    for name, data in files.items():
        if not name.endswith(f".{ending}") or "/silence/" in name:
            continue
        inside = name.removesuffix(f".{ending}").split("/sounds/")[1]
        short = inside.replace(f"/{language}/", "/") if f"/{language}/" in inside else inside.split("/", 1)[1]
        kind = short.split("/")[0] if "/" in short else "prompts"
        yield Recording(source, short, data, "gsm" if ending == "gsm" else "file", f"{source}/{speaker}", language,
                        f"{source}/{kind}", None, gender, {"kind": kind})  # fmt: skip


# ------------------------------------------------------------------------------------------------ festvox-ru

_FESTVOX_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')


def festvox_ru(files: Files) -> Iterator[Recording]:
    """Read sentences; ``( ru_0001 "text" )``, a ``+`` before the stressed vowel."""
    listed = next(data for name, data in files.items() if name.endswith("txt.done.data"))
    texts = {match[1]: match[2] for match in _FESTVOX_LINE.finditer(listed.decode("utf-8"))}
    for name, data in files.items():
        if name.endswith(".wav"):
            short = PurePosixPath(name).stem
            text = texts[short].replace("+", "") if short in texts else None
            yield Recording("festvox_ru", short, data, "file", "festvox_ru/nsh", "ru", "festvox_ru/wav", text, "m")


# ------------------------------------------------------------------------------------------------ games

JOE = "joe"
"""Who speaks the player's lines in all dialogues of Flight of the Amazon Queen."""


def amazon_queen(files: Files) -> Iterator[Recording]:
    """``queen.1c``: mp3 under names ``.SB``, and dialogues under ``.DOG``.

    A dialogue, after a header of an AmBk bank (20 bytes), begins with five big-endian numbers: levels, a key of its
    own, the key of its recordings, how many lines the player has and how many the other person. Then come, at bytes 22
    and 32 + 96 * levels, two tables: the other's lines and the player's (J). A line is two unused bytes, its number and
    its text, preceded by its length and padded to a multiple of four. ``*`` and two characters are a gesture, at which
    the line is cut into recordings: key (two digits), number (four hexadecimal digits), P or J, count from 1.
    """
    archive = next(data for name, data in files.items() if name.endswith("queen.1c"))
    entries = dict(_queen_entries(archive))
    used: set[str] = set()
    for dialogue in sorted(name for name in entries if name.endswith(".DOG")):
        person = re.sub(r"\d*\.DOG$", "", dialogue).lower()
        for code, text in _queen_lines(entries[dialogue]):
            name = f"{code}.SB"
            if name in entries and code not in used:
                used.add(code)  # of two lines of one number, the game says the first
                speaker = JOE if code[6] == "J" else person
                yield Recording("amazon_queen", code, entries[name], "mp3", f"amazon_queen/{speaker}", "en",
                                f"amazon_queen/{dialogue}", text)  # fmt: skip


def _queen_entries(archive: bytes) -> Iterator[tuple[str, bytes]]:
    count = struct.unpack_from(">H", archive, 13)[0]
    for place in range(15, 15 + 21 * count, 21):
        name, _, start, size = struct.unpack_from(">12sBII", archive, place)
        yield name.rstrip(b"\0").decode("ascii"), archive[start : start + size]


def _queen_lines(data: bytes) -> Iterator[tuple[str, str]]:
    """Code and text of each recording of a dialogue."""
    data = data[20:] if data.startswith(b"AmBk") else data
    levels, _, key, own, other = struct.unpack_from(">5h", data)
    for place, count, who in ((struct.unpack_from(">H", data, 22)[0], other, "P"), (32 + 96 * abs(levels), own, "J")):
        for _ in range(count):
            number, length = struct.unpack_from(">HB", data, place + 2)
            start = place + 5
            line = data[start : start + length].decode("cp850")
            place = (start + length + 3) // 4 * 4 if length else start
            for part, text in enumerate(_queen_parts(line), start=1):
                if text.strip():
                    yield f"{key:02d}{number:04X}{who}{part:X}", text


def _queen_parts(line: str) -> list[str]:
    """A line between its gestures; ``*XY`` is followed by a place, ``00(128,112)``."""
    return re.split(r"\*(?:XY\d*\(\d+,\d+\)|.{0,2})", line)


DRASCULA = {"": ("", "hacker", "m"), "B": ("b", "drunk", "m"), "BJ": ("bj", "billie_jean", "f"),
            "D": ("d", "drascula", "m"), "E": ("e", "desiderio", "m"), "I": ("i", "igor", "m"),
            "L": ("l", "werewolf", "m"), "P": ("p", "pianist", "m"), "T": ("t", "bartender", "m"),
            "VB": ("vb", "von_braun", "m")}  # fmt: skip
"""Letters of a file's name -> table of texts, character, gender."""
_DRASCULA_TABLES = ("", "d", "b", "bj", "e", "i", "l", "p", "t", "vb")
"""In the order of ``drascula.dat``."""
_DRASCULA_LANGUAGES = {"en": 0, "es": 1}
_DRASCULA_START = struct.pack(">2H", 6, 501)
"""Six languages, and 501 texts of the hero."""


def drascula(language: str, files: Files) -> Iterator[Recording]:
    """``D12.ALS``: line 12 of Drascula; 11,025 Hz, unsigned bytes after 32 bytes. Texts: see :func:`_drascula_texts`.

    D56 to D67 are the hero's, D68 on the blind man's; of E only the first ten are one character's.
    """
    source = f"drascula_{language}"
    texts = _drascula_texts(next(data for name, data in files.items() if name.endswith("drascula.dat")), language)
    for name, data in files.items():
        match = re.fullmatch(r"([A-Z]*)(\d+)\.ALS", PurePosixPath(name).name)
        if match is None or match[1] not in DRASCULA:
            continue
        table, character, gender = DRASCULA[match[1]]
        number = int(match[2])
        if match[1] == "D" and number > 55:
            character = "hacker" if number < 68 else "blind_man"
        elif match[1] == "E" and number > 10:
            character, gender = "credits", ""
        text = texts[table][number] if number < len(texts[table]) else None
        yield Recording(source, match[1] + match[2], data, "als", f"{source}/{character}", language,
                        f"{source}/{match[1] or 'hacker'}", text or None, gender or None)  # fmt: skip


def _drascula_texts(data: bytes, language: str) -> dict[str, list[str]]:
    """Table -> its texts, in one language.

    After tables of other things come the number of languages and the tables of texts. A table is the number of its
    texts and, for each language, the size of a block in bytes and the block: two bytes, then texts that end in 0, each
    preceded by its distance to the next one.
    """
    place = data.index(_DRASCULA_START)
    languages = struct.unpack_from(">H", data, place)[0]
    place += 2
    tables: dict[str, list[str]] = {}
    for table in _DRASCULA_TABLES:
        count = struct.unpack_from(">H", data, place)[0]
        place += 2
        for number in range(languages):
            size = struct.unpack_from(">H", data, place)[0]
            block = data[place + 2 : place + 2 + size]
            place += 2 + size
            if number == _DRASCULA_LANGUAGES[language]:
                tables[table] = list(_drascula_block(block, count))
    return tables


def _drascula_block(block: bytes, count: int) -> Iterator[str]:
    place = 4
    for number in range(count):
        if number:
            place += struct.unpack_from(">H", block, place - 2)[0]
        end = block.find(b"\0", place)
        yield block[place : end if end >= 0 else None].decode("cp850").strip()


FISH = {"font_small": "small_fish", "font_big": "big_fish"}
_FILLETS_LINE = re.compile(
    r'dialogId\(\s*"([^"]+)"\s*,\s*"([^"]+)"\s*,\s*"(?:[^"\\]|\\.)*"\s*\)\s*dialogStr\(\s*"((?:[^"\\]|\\.)*)"\s*\)'
)


def fillets(language: str, files: Files) -> Iterator[Recording]:
    """Ogg under ``sound/LEVEL/LL/NAME.ogg``, texts under ``script/LEVEL/*dialogs_LL.lua``: the font says who speaks."""
    source = f"fillets_{language}"
    lines: dict[tuple[str, str], tuple[str, str]] = {}
    for name, data in files.items():
        if name.endswith(f"dialogs_{language}.lua"):
            level = name.split("/script/")[1].split("/")[0]
            for code, font, text in _FILLETS_LINE.findall(data.decode("utf-8")):
                lines.setdefault((level, code), (font, re.sub(r"\\(.)", r"\1", text)))
    for name, data in files.items():
        if not name.endswith(".ogg"):
            continue
        folders = name.split("/sound/")[1].split("/")
        level, code = folders[0], PurePosixPath(name).stem
        font, text = lines.get((level, code), ("", None))
        speaker = FISH.get(font, font.removeprefix("font_") or "unknown")
        short = "/".join(part for part in folders[:-1] if part != language) + f"/{code}"
        yield Recording(source, short, data, "file", f"{source}/{speaker}", language, f"{source}/{level}", text)


# ---------------------------------------------------------------------------------------- words, letters, stamps

TUXPAINT = ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")
_WRONG_TEXTS = ("bg", "da", "el")
"""Languages whose texts are not what is said."""


def tuxpaint(files: Files) -> Iterator[Recording]:
    """``NAME_desc_LL.ogg``, and ``NAME.txt`` with lines ``LL.utf8=text``."""
    for name, data in files.items():
        match = re.fullmatch(r".*/stamps/(.*)_desc_([a-z]{2})\.ogg", name)
        if match is None or match[2] not in TUXPAINT:
            continue
        short, language = match.groups()
        listed = files.get(name.removesuffix(f"_desc_{language}.ogg") + ".txt", b"").decode("utf-8", "replace")
        texts = dict(line.split(".utf8=", 1) for line in listed.splitlines() if ".utf8=" in line)
        text = None if language in _WRONG_TEXTS else texts.get(language)
        source = f"tuxpaint_{language}"
        yield Recording(source, short, data, "file", f"{source}/speaker", language, f"{source}/{short.split('/')[0]}",
                        text)  # fmt: skip


KDE = ("en", "es", "fr", "it", "ru")


def kde(files: Files) -> Iterator[Recording]:
    """KLettres' letters and syllables, KTuberling's words: about one speaker a language and program."""
    for name, data in files.items():
        match = re.fullmatch(r"usr/share/(klettres|ktuberling)(?:/sounds)?/(\w\w)/(.*)\.(?:ogg|wav)", name)
        if match is None or match[2] not in KDE:
            continue
        program, language, short = match.groups()
        source = f"{program}_{language}"
        yield Recording(source, short, data, "file", f"{source}/speaker", language, f"{source}/{short.split('/')[0]}")


def _ending(*endings: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(endings)


def _ending_in(language: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(f"dialogs_{language}.lua") or (f"/{language}/" in name and name.endswith(".ogg"))


COLLECTIONS = {
    collection.name: collection
    for collection in (
        Collection("tuxpaint", ("tuxpaint-stamps-default",), _ending(".ogg", ".txt"), tuxpaint),
        Collection("festvox_ru", ("festvox-ru",), _ending(".wav", "txt.done.data"), festvox_ru),
        Collection("amazon_queen", ("flight-of-the-amazon-queen",), _ending("queen.1c"), amazon_queen),
        *(
            Collection(
                f"fillets_{language}", (f"fillets-ng-data-{language}", "fillets-ng-data"),
                _ending_in(language), partial(fillets, language),
            )
            for language in ("cs", "nl")
        ),
        Collection("drascula_en", ("drascula",), _ending(".ALS", "drascula.dat"), partial(drascula, "en")),
        Collection(
            "drascula_es", ("drascula-spanish", "drascula"),
            lambda name: name.endswith("drascula.dat") or ("/es/" in name and name.endswith(".ALS")),
            partial(drascula, "es"),
        ),
        *(
            Collection(
                f"asterisk_{language}", (f"asterisk-core-sounds-{language}-g722", f"asterisk-core-sounds-{language}"),
                _ending(".g722", ".txt.gz"), partial(asterisk, language),
            )
            for language in ASTERISK
        ),
        *(
            Collection(f"prompts_{language}", (values[0],), _ending(".gsm", ".wav"), partial(prompts, language))
            for language, values in PROMPTS.items()
        ),
        Collection("kde", ("klettres-data", "ktuberling-data"), _ending(".ogg", ".wav"), kde),
    )
}  # fmt: skip
"""Name -> collection; the largest first."""


def recordings(collection: Collection, files: Files) -> list[Recording]:
    """What a collection holds.

    Raises:
        BenchmarkError: the files are not those expected.
    """
    try:
        found = list(collection.read(files))
    except (StopIteration, RuntimeError, struct.error, LookupError, ValueError, OSError) as error:
        raise BenchmarkError(
            f"{' and '.join(collection.packages)} are not as expected ({type(error).__name__}: {error})"
        ) from error
    names = {(recording.source, recording.name) for recording in found}
    if len(names) < len(found) or not found:
        raise BenchmarkError(f"{' and '.join(collection.packages)}: {len(found)} recordings of {len(names)} names")
    return found
