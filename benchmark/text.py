"""Text files as people have them, and names as they stand in them: all text that the project reads is read here.

Files are UTF-8, with or without a byte order mark, gzipped or not. A line ends with ``\\n``, ``\\r\\n`` or ``\\r``;
other characters that Unicode calls line ends (U+2028, U+0085, ``\\x0b``, ``\\x1c`` …) are data. Fields are separated
by spaces and tabs, where nothing else is said. What cannot be read is named with file and line.
"""

from __future__ import annotations

import codecs
import csv
import functools
import gzip
import itertools
import logging
import re
import unicodedata
import urllib.parse
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError, shorten

log = logging.getLogger("wavbench")

Problems = list[tuple[int, str]]
"""(line, problem); line 0 is the file as a whole."""

BLANKS = " \t"
"""What separates fields, and does not count at the ends of a line."""
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16's, whose mark begins alike
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


# ---------------------------------------------------------------------------------------------------------- reading


def lines(
    path: Path | str, problems: Problems | None = None, *, whole: bool = False, western: bool = False
) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a file that are not blank.

    Args:
        path: of a text file, gzipped or not. It is read while the lines are taken, so that it may be large.
        problems: gets the lines that cannot be read, which are left out; ``None``: the first one raises.
        whole: give blank lines as well, and every line with its end.
        western: read lines that are not UTF-8 as Windows-1252, or Latin-1, with a warning; for files of which only
            columns in ASCII are used.

    Raises:
        BenchmarkError: the file cannot be opened, or a line cannot be read and there is no list for it.
    """
    found: Problems = []
    guessed: list[int] = []
    for number, data in _raw_lines(Path(path), found):
        text = None if found else _decode(number, data, found, western, guessed)
        if found and problems is None:
            number, problem = found[0]
            raise BenchmarkError(f"{path}{f':{number}' if number else ''}: {problem}")
        if found and problems is not None:
            problems += found
            found.clear()
        if text is not None and (whole or text.strip("\r\n" + BLANKS)):
            yield number, text if whole else text.removesuffix("\n").removesuffix("\r")
    if guessed:
        log.warning(
            "%s: %d lines are not UTF-8 and are read as Western European (Windows-1252): %s",
            path, len(guessed), shorten(guessed),
        )  # fmt: skip


def read(path: Path | str) -> str:
    """The whole text of a file; raises as :func:`lines`."""
    return "".join(line for _, line in lines(path, whole=True))


def from_yaml(source: str) -> Any:
    """The content of a YAML document, read as YAML 1.2 does.

    PyYAML reads YAML 1.1, in which ``no``, ``yes``, ``on`` and ``off`` are booleans, ``0010`` is 8, ``12:30`` is 750
    and ``1e-3`` is text: languages, keywords and speakers would become something else. Here only ``true`` and
    ``false`` are booleans, numbers are decimal and have no leading zeros, and everything else is text.

    Raises:
        yaml.YAMLError: not YAML, or a key stands twice in a mapping.
    """
    import yaml

    return yaml.load(source, Loader=_yaml_loader())


@functools.cache
def _yaml_loader() -> Any:
    import yaml  # not at the top: importing this module stays cheap

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {twice[0]}", node.start_mark)
            return super().construct_mapping(node, deep=deep)

    for tag, pattern, first in (
        ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", "[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
        ("float", r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?(0|[1-9][0-9]*)(\.|\.?[eE][-+]?[0-9]+)"
                  r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
        ("null", "null|Null|NULL|~|", "nN~\0"),
        ("merge", "<<", "<"),
    ):  # fmt: skip
        firsts = ["" if letter == "\0" else letter for letter in first]
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), firsts)
    return Loader


def words(line: str, most: int = 0) -> list[str]:
    """The fields of a line; the last of ``most`` is the rest of the line."""
    stripped = line.strip(BLANKS)
    return re.split(r"[ \t]+", stripped, maxsplit=max(most - 1, 0)) if stripped else []


def _raw_lines(path: Path, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """(number, bytes with their end); one without bytes after each problem of the file as a whole."""
    number = 0
    try:
        with _open(path) as file:
            for chunk in file:
                if not number:
                    encoding = next((name for mark, name in _OTHER_ENCODINGS.items() if chunk.startswith(mark)), None)
                    if encoding is not None:
                        problems.append(
                            (0, f"the file is {encoding}; save it as UTF-8 (iconv -f {encoding} -t UTF-8 FILE > NEW)")
                        )
                        yield 0, b""
                        return
                    chunk = chunk.removeprefix(codecs.BOM_UTF8)
                for line in re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", chunk) if b"\r" in chunk else (chunk,):
                    number += 1
                    yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problems.append((0, f"not a whole gzip file ({error})"))
        yield 0, b""
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> AbstractContextManager[Iterable[bytes]]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def _decode(number: int, data: bytes, problems: Problems, western: bool, guessed: list[int]) -> str | None:
    if b"\0" in data:
        column = data.index(b"\0") + 1
        problems.append(
            (
                number,
                f"a NUL byte at {column}: the file is damaged, or UTF-16 without a byte order mark. Save it as UTF-8",
            )
        )
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        name, codec = _western(data)
        if western and codec is not None:
            guessed.append(number)
            return data.decode(codec)
        excerpt = data[max(error.start - 15, 0) : error.start + 10].strip().decode(codec or "latin-1")
        advice = f", but may be {name}: {excerpt!r}. Save" if codec else "; save"
        convert = f" (iconv -f {codec} -t UTF-8 FILE > NEW)" if codec else ""
        problems.append((number, f"byte {data[error.start]:#04x} at {error.start + 1} is not UTF-8{advice} "
                         f"the file as UTF-8{convert}"))  # fmt: skip
        return None


def _western(data: bytes) -> tuple[str, str | None]:
    """Name and codec of the encoding of Western European text that a line may be in."""
    high = {byte for byte in data if 0x7F < byte < 0xA0}
    if not high:
        return "Latin-1", "latin-1"
    return ("unknown", None) if high & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else ("Windows-1252", "cp1252")


def records(path: Path | str, delimiter: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of the records of a table, the header first; blank lines are left out.

    Cells that hold the delimiter, a quote or a line break are quoted as in CSV, whatever the delimiter. A quote that
    opens a cell must therefore be closed. Where it is closed on another line only after lines that look like records
    of their own, it is taken for a plain quote that was not meant to open anything; a header in quotes says that all
    cells are in quotes, and that line breaks in them are meant.

    Args:
        path: of the table.
        delimiter: one character.
        problems: gets what cannot be read, with the line where it begins; reading goes on behind it.
    """
    rows = list(lines(path, problems, whole=True))
    all_quoted, width, begin = False, 0, 0
    while begin < len(rows):
        part = (text for _, text in itertools.islice(rows, begin, None))
        reader = csv.reader(part, delimiter=delimiter, strict=True)
        while True:
            first = begin + reader.line_num
            problem, cells = "", []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                advice = "; a cell that begins with a quote must end with one, and quotes within it are doubled"
                problem = f"{error}{'' if 'limit' in str(error) else advice}"
            last = begin + reader.line_num - 1
            if not problem and last > first and width and not all_quoted:
                problem = _swallowed(rows[first : last + 1], delimiter, width)
            if problem:
                problems.append((rows[first][0], problem))
                if last > first:
                    begin = first + 1
                    break
            elif rows[first][1].strip("\r\n" + BLANKS):
                if not width:
                    all_quoted, width = rows[first][1].startswith('"'), len(cells)
                yield rows[first][0], cells


def _swallowed(rows: Sequence[tuple[int, str]], delimiter: str, width: int) -> str:
    """What is wrong with a record of several lines that look like records of so many cells themselves."""
    if any(line.count(delimiter) != width - 1 for _, line in rows):
        return ""
    return (
        f"a cell begins with a quote that is closed on line {rows[-1][0]}, after what looks like whole records. "
        'A cell that begins with a quote must end with one, and quotes within it are doubled: """is it far" he said". '
        "Where line breaks within cells are meant, put all cells in quotes, the header's included, or write .jsonl"
    )


# ------------------------------------------------------------------------------------------------------------ names


class Names:
    """Names that exist, to find those that other files write: as they are or, failing that, in another normalisation
    of Unicode (``é`` as one character or as two, which macOS makes of it).

    >>> Names({"cafe\\u0301"}).find("caf\\u00e9") == "cafe\\u0301"
    True
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names: Collection[str] = names if isinstance(names, set | dict | frozenset) else set(names)
        self._normal: dict[str, str | None] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str, *, escaped: bool = False) -> str | None:
        """The existing name, or ``None``. ``escaped``: it may have been through :func:`escape`."""
        spellings = (unescape(name), name) if escaped and "%" in name else (name,)
        for spelling in spellings:
            if spelling in self._names:
                return spelling
        if all(spelling.isascii() for spelling in spellings):
            return None
        if self._normal is None:
            self._normal = {}
            for known in self._names:
                normal = normalised(known)
                self._normal[normal] = None if normal in self._normal else known
        return next(filter(None, (self._normal.get(normalised(spelling)) for spelling in spellings)), None)


def normalised(name: str) -> str:
    """The name in Unicode's normalisation form C."""
    return unicodedata.normalize("NFC", name)


_UNSAFE = re.compile(r"\s|[\udc80-\udcff]|%(?=[0-9A-Fa-f]{2})")
"""White space, bytes of a file name that is not UTF-8, and what :func:`unescape` would change."""


def escape(name: str) -> str:
    """A name for a list whose fields are separated by white space, which is written as in URLs.

    >>> escape("my data/1.wav"), escape("50%"), escape("a%20b")
    ('my%20data/1.wav', '50%', 'a%2520b')
    """
    return _UNSAFE.sub(lambda match: urllib.parse.quote(match[0], errors="surrogateescape"), name)


def unescape(name: str) -> str:
    """The inverse of :func:`escape`."""
    return urllib.parse.unquote(name, errors="surrogateescape")


def trial(line: str, names: Names, columns: int = 3) -> list[str] | None:
    """The fields of a trial, ``label enrolment test`` and what follows; of names that do not exist, as they stand.

    Names with white space are written as :func:`escape` does, or the fields are separated by tabs, or the names that
    exist decide where one ends.

    Args:
        line: of a trial list.
        names: of utterances.
        columns: of the list.

    Returns:
        The fields, or ``None`` where the line has not so many, or more than one reading.
    """
    fields = words(line)
    if len(fields) > columns and line.count("\t") == columns - 1:
        fields = [field.strip(BLANKS) for field in line.split("\t")]
    elif len(fields) > columns:
        after = columns - 3
        label, rest = words(line, 2)
        pair, *others = rest.rsplit(maxsplit=after) if after else [rest]
        pairs = [(pair[: gap.start()], pair[gap.end() :]) for gap in re.finditer(r"[ \t]+", pair)]
        known = [both for both in pairs if all(names.find(name, escaped=True) for name in both)]
        fields = [label, *known[0], *others] if len(known) == 1 else []
    if len(fields) != columns:
        return None
    found = [names.find(name, escaped=True) or name for name in fields[1:3]]
    return [fields[0], *found, *fields[3:]]
