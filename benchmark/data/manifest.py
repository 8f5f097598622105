"""Manifests, lists of utterances on disk.

A manifest is a UTF-8 file with one utterance per line: JSONL (``.jsonl``, an object per line; ``.json``, the same or
one array of objects) or a table (``.csv``, ``.tsv``, a header with the same names). Columns are the fields of
:class:`benchmark.interfaces.Utterance`, of which only ``path`` is required, and whichever other labels the reader asks
for; it ignores others, so that several tasks share a manifest::

    {"id": "a1", "path": "wav/a1.wav", "speaker": "anna", "text": "good morning", "emotion": "joy"}
    {"id": "a2", "path": "/corpora/long.flac", "start": 12.5, "duration": 3.25, "speaker": "ben", "emotion": "calm"}
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import difflib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

from benchmark import text
from benchmark.data.trials import read_trials
from benchmark.errors import BenchmarkError, raise_problems, shorten, show
from benchmark.files import PACK, is_safe, is_url, on_disk, write_bytes
from benchmark.interfaces import Corpus, Trial, Utterance
from benchmark.registry import suggest

log = logging.getLogger("wavbench")

OWN_DATA = "manifests"
"""Name of the corpus that :func:`corpus` makes of manifests; protocol cards that take manifests name it as theirs."""

FIELDS = tuple(f.name for f in dataclasses.fields(Utterance) if f.name != "labels")
"""Columns that every manifest may have."""
_FIELDS = frozenset(FIELDS)
_RESERVED = _FIELDS | {"labels"}
"""What a label cannot be called."""
_NUMBERS = ("start", "duration")
_LINE_BREAK = re.compile("[\r\n]")
_BREAKS = re.compile("[\0\r\n\ud800-\udfff]")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (".jsonl", ".json", *_DELIMITERS)
"""Of the names of manifests."""
_ENDS = ("end", "end_time", "stop", "stop_time", "offset_end", "to", "xmax")
"""What other tools call the end of a stretch, which a manifest has not."""

_KNOWN_AS = {
    "id": ("utt", "utt_id", "uttid", "utterance", "utterance_id", "key"),
    "path": ("wav", "wav_path", "audio", "audio_path", "audio_filepath", "file", "file_path", "filename", "file_name"),
    "start": ("offset", "begin", "onset", "start_time", "from"),
    "duration": ("dur", "len", "length", "seconds"),
    "text": ("sentence", "transcript", "transcription", "words", "normalized_text"),
    "speaker": ("spk", "spk_id", "speaker_id", "speakerid", "client_id"),
    "language": ("lang", "lang_id", "language_id", "locale"),
    "session": ("video", "recording_id", "session_id"),
    "split": ("subset", "set", "partition", "fold"),
    "gender": ("sex",),
}
_MEANT = {other: name for name, others in _KNOWN_AS.items() for other in others}
"""Name of a column in other tools -> its name here."""
_OF_STRETCHES = {
    "start", "begin", "offset", "onset", "end", "stop", "xmin", "xmax", "tmin", "tmax", "dur", "duration", "length",
    "starttime", "endtime",
}  # fmt: skip
"""Words in the names of columns that may say which stretch of a file an utterance is: not to be ignored."""
_CLOSE = 0.8
"""How like a field (:mod:`difflib`) the name of a column is that is taken for a misspelt one: ``speker``, ``strat``; not
``location`` or ``speaker_age``."""


def _meant(name: str) -> str:
    return _MEANT.get(name.lower().strip(), name)


# --------------------------------------------------------------------------------------------------------- reading


@dataclass
class Scan:
    """The content of a manifest, good and bad."""

    path: Path
    labels: tuple[str, ...] = ()
    """Columns that are taken beside the fields."""
    rows: list[tuple[int, Utterance]] = field(default_factory=list)
    """(line, utterance) of every row that could be read."""
    problems: list[tuple[int, str]] = field(default_factory=list)
    """(line, problem); line 0 is the file as a whole."""
    ignored: list[str] = field(default_factory=list)
    """Columns that are neither fields nor asked for, and do not look like misspelt fields."""

    def messages(self) -> list[str]:
        """``file:line: problem``, by line."""
        return [f"{self.path}{f':{line}' if line else ''}: {text}" for line, text in sorted(self.problems)]


def read(path: Path | str, labels: Sequence[str] = ()) -> list[Utterance]:
    """Read a manifest.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.tsv``. Audio paths in it are relative to the manifest's folder unless absolute;
            an ``id`` that is left out is the path as written.
        labels: columns to take into :attr:`Utterance.labels`; names of fields are ignored. A warning names the columns
            that nobody asks for.

    Returns:
        The utterances in the file's order, ``path`` absolute.

    Raises:
        BenchmarkError: the file is missing, empty or of another kind, a column looks like a misspelt field, or rows are
            invalid: no path, a duplicate id, a value of the wrong type, a negative time, NaN, text that is not UTF-8.
            One pass finds all problems; the message shows the first ten by file and line.
    """
    scanned = scan(path, labels)
    if scanned.problems:
        raise_problems(str(path), scanned.messages())
    return [utterance for _, utterance in scanned.rows]


def scan(path: Path | str, labels: Sequence[str] = ()) -> Scan:
    """Read a manifest as far as it can be read; see :func:`read`.

    Raises:
        BenchmarkError: there is no such file, or its name ends in none of ``.jsonl``, ``.csv`` and ``.tsv``.
    """
    path = Path(path)
    _refuse_other_kinds(path)
    result = Scan(path, tuple(name for name in labels if name not in _RESERVED))
    known = _FIELDS.union(result.labels)
    delimiter = _DELIMITERS.get(path.suffix.lower())
    rows = _json_rows(path, result) if delimiter is None else _table_rows(path, delimiter, result)
    folder = os.path.abspath(path.parent)
    lines: dict[str, int] = {}
    unknown: dict[str, list[int]] = {}
    packed = (path.parent / PACK).exists()
    for line, row in rows:
        for name in sorted(row.keys() - known):
            unknown.setdefault(name, []).append(line)
            row.setdefault(_meant(name), row[name])  # so that its values are checked as well
        wrong, utterance = _utterance(row, folder, result.labels)
        if packed and utterance is not None and not _in_archive(row["path"]):
            wrong.append(f"path {show(row['path'])} is not in an archive of this packed folder")
        if utterance is not None and lines.setdefault(utterance.id, line) != line:
            advice = "" if "id" in row else ". Ids default to the path: give each utterance of a file an id of its own"
            wrong.append(f"id '{utterance.id}' is already on line {lines[utterance.id]}{advice}")
        result.problems += [(line, text) for text in wrong]
        if utterance is not None:
            result.rows.append((line, utterance))
    for name, numbers in unknown.items():
        _unknown(name, numbers[0], len(numbers), result)
    if result.ignored:
        log.warning(
            "%s: columns that nothing asks for are ignored: %s (as labels: --label NAME, where a command or a "
            "task takes it)", path, shorten(result.ignored, 8),
        )  # fmt: skip
    if not result.rows and not result.problems:
        result.problems.append((0, "contains no utterances"))
    return result


def _in_archive(written: str) -> bool:
    """Whether a path of a manifest beside archives stays in one of them: others may have made both."""
    archive, slash, name = written.partition("/")
    return bool(slash) and archive.endswith(".tar") and is_safe(archive) and is_safe(name)


def _refuse_other_kinds(path: Path) -> None:
    if path.is_dir():
        raise BenchmarkError(
            f"{path} is a folder; expected a manifest (.jsonl, .csv or .tsv). 'wavbench prepare' makes manifests from "
            "Kaldi data directories, lhotse cuts and Hugging Face datasets"
        )
    if path.suffix.lower() not in ENDINGS:
        raise BenchmarkError(
            f"{path}: the name of a manifest ends in .jsonl or .json (one object per line), .csv or .tsv (a table with "
            f"a header), not in '{path.suffix}'"
        )
    if not path.is_file():
        raise BenchmarkError(f"manifest {path} not found")


def _json_rows(path: Path, result: Scan) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in text.lines(path, result.problems):
        if line.lstrip().startswith("[") and not result.rows and not result.problems:
            if path.suffix.lower() == ".json":
                yield from _array(path, result)
            else:
                advice = "write one object per line (jq -c '.[]' does), or name the file .json"
                result.problems.append((number, f"the file is one JSON array; {advice}"))
            return
        try:
            row = _DECODER.decode(line)
        except json.JSONDecodeError as error:
            result.problems.append((number, f"invalid JSON: {error.msg} at character {error.colno}"))
        except (ValueError, RecursionError) as error:
            result.problems.append((number, f"invalid JSON: {error}"))
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                result.problems.append((number, _no_object(row)))


def _no_object(row: Any) -> str:
    found = "an array" if isinstance(row, list) else show(row)
    return f'expected one object per line, {{"path": …}}, found {found}'


def _array(path: Path, result: Scan) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of one JSON array, each with the line where it begins."""
    whole = text.read(path)
    place, number, counted = whole.index("[") + 1, 1, 0
    separator = re.compile(r"[\s,]*")
    while not whole.startswith("]", place := cast(re.Match[str], separator.match(whole, place)).end()):
        number += len(re.findall(r"\r\n|\r|\n", whole[counted:place]))
        counted = place
        try:
            row, place = _DECODER.raw_decode(whole, place)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else error
            result.problems.append((number, f"invalid JSON: {reason}"))
            return
        if isinstance(row, dict):
            yield number, row
        else:
            result.problems.append((number, _no_object(row)))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; leave the field out")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key '{next(name for name in names if names.count(name) > 1)}'")
    return row


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)


def _table_rows(path: Path, delimiter: str, result: Scan) -> Iterator[tuple[int, dict[str, Any]]]:
    known = _FIELDS.union(result.labels)
    header: list[str] = []
    for line, cells in text.records(path, delimiter, result.problems):
        if not header:
            header = _header([name.strip() for name in cells], delimiter, line, result)
            if "path" not in header:
                return
        elif len(cells) != len(header):
            advice = ": quote a text that holds the delimiter" if len(cells) > len(header) else ""
            result.problems.append((line, f"{len(cells)} cells, but the header has {len(header)}{advice}"))
        else:
            row = zip(header, cells, strict=True)
            yield line, {name: _value(name, cell) for name, cell in row if cell and name in known}


def _value(name: str, cell: str) -> str | float:
    if name in _NUMBERS:
        with contextlib.suppress(ValueError):
            return float(cell)
    return cell


def _header(names: list[str], delimiter: str, line: int, result: Scan) -> list[str]:
    """The names of the columns; for an unknown one, the field it stands for, so that its values are checked as well."""
    unknown = [name for name in dict.fromkeys(names) if name not in _FIELDS and name not in result.labels]
    meant = [_meant(name) if name in unknown and _meant(name) not in names else name for name in names]
    if not set(meant) & _FIELDS:
        other = next(
            (f" The columns look separated by {d!r}." for d in "\t;,|" if d != delimiter and d in names[0]), ""
        )
        result.problems.append(
            (line, f"expected a header with columns of {', '.join(FIELDS)}; found {shorten(names)}.{other}")
        )
        return meant
    for name in unknown:
        _unknown(name, line, 1, result)
    result.problems += [(line, f"duplicate column '{name}'") for name in dict.fromkeys(names) if names.count(name) > 1]
    if "path" not in meant:
        result.problems.append((line, "there is no column 'path'"))
    return meant


def _unknown(name: str, line: int, times: int, result: Scan) -> None:
    """Of a column that is neither a field nor asked for: a problem if a field may be meant, else it is ignored."""
    if (advice := _advice(name)) is None:
        result.ignored.append(name)
    else:
        lines = f" (on {times:,} lines)" if times > 1 else ""
        result.problems.append((line, f"unknown column '{name}'{lines}. {advice}"))


def _advice(name: str) -> str | None:
    """What to do about a column that may stand for a field; ``None`` where it does not look so."""
    written = name.lower().strip()
    if name in ("supervisions", "recording", "sources"):
        return "This looks like a lhotse manifest: 'wavbench prepare lhotse' converts it"
    if not name:
        return "Remove the column without a name (in pandas, write with index=False)"
    if written in _ENDS:
        return "A stretch is written as start and duration, in seconds: write a column duration = end - start"
    if _meant(name) in _FIELDS:
        return f"Did you mean '{_meant(name)}'? known: {', '.join(FIELDS)}"
    if _OF_STRETCHES.intersection(re.split(r"[^a-z0-9]+", re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())):
        return "If it says which stretch of a file is meant, write start and duration, in seconds; else rename or remove it"
    if name == "labels" or difflib.get_close_matches(written, FIELDS, cutoff=_CLOSE):
        return f"{suggest(written, list(FIELDS), noun='known')}. Rename or remove it"
    return None


def _utterance(row: Mapping[str, Any], folder: str, labels: Iterable[str]) -> tuple[list[str], Utterance | None]:
    """The problems of a row, and the utterance if there are none."""
    wrong: list[str] = []
    values: dict[str, Any] = {}
    for name in (*FIELDS, *labels):
        value = row.get(name)
        if value is None:
            continue
        if name in _NUMBERS:
            _check_seconds(name, value, wrong)
        elif not isinstance(value, str):
            advice = "; put it in quotes" if isinstance(value, int | float) else ""
            wrong.append(f"{name} must be text, found {show(value)}{advice}")
        elif _BREAKS.search(value) and (broken := _broken(name, value)):
            wrong.append(f"{name} {show(value)} {broken}")
        elif name != "text" and value.strip() != value:
            wrong.append(f"{name} {value!r} begins or ends with white space; remove it")
        elif name != "text" and not value:
            wrong.append(f"{name} is empty; leave it out where it is not known")
        elif name == "gender" and value not in ("f", "m"):
            wrong.append(f"gender must be 'f' or 'm', found {value!r}; leave it out where it is not known")
        values[name] = value
    if "path" not in values:
        wrong.append("no path")
    if wrong:
        return wrong, None
    written = values["path"]
    values["path"] = written if is_url(written) else on_disk(os.path.join(folder, written))
    for name in _NUMBERS:
        if name in values:
            values[name] = float(values[name])
    own = {name: values.pop(name) for name in labels if name in values}
    return wrong, Utterance(**{"id": written, **values}, labels=own)


def _broken(name: str, value: str) -> str:
    """What is wrong with a value in which :data:`_BREAKS` finds something."""
    if "\0" in value:
        return "has a NUL character; remove it"
    if name != "text" and ("\r" in value or "\n" in value):
        return "has a line break, which lists of names cannot hold; remove it"
    if (name == "text" and re.search("[\ud800-\udfff]", value)) or re.search("[\ud800-\udc7f\udd00-\udfff]", value):
        return "is not Unicode: it has half of a surrogate pair; write the character itself"
    return ""


def _check_seconds(name: str, value: Any, wrong: list[str]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong.append(f"{name} must be a number of seconds, found {show(value)}")
    elif not -1e12 < value < 1e12:  # NaN, infinities, and integers beyond all floats
        wrong.append(f"{name} must be a finite number of seconds, found {str(value)[:40]}")
    elif name == "start" and value < 0:
        wrong.append(f"start must be 0 or more seconds, found {value}")
    elif name == "duration" and value <= 0:
        wrong.append(f"duration must be more than 0 seconds, found {value}")


# --------------------------------------------------------------------------------------------------------- writing


def write(path: Path | str, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, JSONL or a table by the name's ending; :func:`read` gives the same utterances back.

    Audio that lies below the manifest's folder is written relative to it, so that the folder can be moved as a whole;
    other audio is written absolute, so that the manifest can be moved alone. Labels become columns. A table does not
    distinguish an empty text from none.

    Raises:
        BenchmarkError: the name ends otherwise, there are no utterances, or one of them could not be read back: then
            nothing is written.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", *_DELIMITERS):
        raise BenchmarkError(f"cannot write {path}: the name of a manifest ends in .jsonl, .csv or .tsv")
    folder = os.path.abspath(path.parent)
    rows, problems = [], []
    ids: set[str] = set()
    for utterance in utterances:
        row = _row(utterance, folder)
        wrong, _ = _utterance(row, folder, utterance.labels)
        if utterance.id in ids:
            wrong.append("duplicate id")
        for name in utterance.labels:
            if name in _RESERVED:
                wrong.append(f"label '{name}' has the name of a field; rename it")
            elif not name or name != name.strip():
                wrong.append(f"the name of label {name!r} is empty, or begins or ends with white space")
        ids.add(utterance.id)
        problems += [f"utterance {utterance.id!r}: {text}" for text in wrong]
        rows.append(row)
    if not rows:
        raise BenchmarkError(f"cannot write {path}: there are no utterances")
    if problems:
        raise_problems(f"cannot write {path}", problems)
    data = _as_jsonl(rows) if path.suffix == ".jsonl" else _as_table(rows, _DELIMITERS[path.suffix], path)
    write_bytes(path, data)


def _row(utterance: Utterance, folder: str) -> dict[str, Any]:
    """Its labels, and its fields except those at their defaults."""
    row = {**utterance.labels, **{name: getattr(utterance, name) for name in FIELDS}}
    absolute = utterance.path if is_url(utterance.path) else os.path.join(os.getcwd(), utterance.path)
    below = absolute.removeprefix(folder + os.sep).lstrip(os.sep)
    row["path"] = below if absolute.startswith(folder + os.sep) and below else absolute
    return {name: value for name, value in row.items() if value is not None and not (name == "start" and value == 0)}


def _as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    lines = []
    for row in rows:
        try:
            lines.append(json.dumps(row, ensure_ascii=False).encode())
        except UnicodeEncodeError:  # a file name that is not UTF-8 on disk: os.fsdecode made surrogates of its bytes
            lines.append(json.dumps(row).encode())
    return b"\n".join([*lines, b""])


def _as_table(rows: list[dict[str, Any]], delimiter: str, path: Path) -> bytes:
    used = dict.fromkeys(name for row in rows for name in row)
    broken = any(_LINE_BREAK.search(row.get("text", "")) for row in rows)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(
        table,
        [*(name for name in FIELDS if name in used), *(name for name in used if name not in _FIELDS)],
        delimiter=delimiter,
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL,  # see benchmark.text.records
    )
    writer.writeheader()
    writer.writerows(rows)
    try:
        return table.getvalue().encode()
    except UnicodeEncodeError as error:
        raise BenchmarkError(
            f"cannot write {path}: {error.object[max(error.start - 30, 0) : error.end]!r} is not Unicode; write "
            ".jsonl, or rename the file"
        ) from error


# ------------------------------------------------------------------------------------------------- several manifests


def corpus(
    train: Path | str | None = None,
    dev: Path | str | None = None,
    test: Path | str | None = None,
    trials: Path | str | None = None,
    labels: Sequence[str] = (),
) -> Corpus:
    """The corpus ``manifests`` of the given files: splits ``train``, ``dev`` and ``test``, trials ``trials``.

    ``labels`` are the columns to take beside the fields; see :func:`read`.

    Raises:
        BenchmarkError: no manifest; problems of any of them; trials without a test manifest.
    """
    given = {name: path for name, path in (("train", train), ("dev", dev), ("test", test)) if path is not None}
    if not given:
        raise BenchmarkError("no manifests: give --train, --dev or --test FILE (.jsonl, .csv or .tsv)")
    if trials is not None and test is None:
        raise BenchmarkError("--trials names utterances of the test manifest; give --test FILE as well")
    splits: dict[str, list[Utterance]] = {}
    lists: dict[str, list[Trial]] = {}
    errors: list[str] = []
    for name, path in given.items():
        try:
            splits[name] = read(path, labels)
        except BenchmarkError as error:
            errors.append(f"--{name}: {error}")
    if trials is not None and "test" in splits:
        try:
            lists["trials"] = read_trials(trials, {utterance.id for utterance in splits["test"]})
        except BenchmarkError as error:
            errors.append(f"--trials: {error}")
    if errors:
        raise BenchmarkError("\n".join(errors))
    return Corpus(OWN_DATA, splits, lists)
