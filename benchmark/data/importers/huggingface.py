"""Hugging Face datasets that ``save_to_disk`` wrote."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from benchmark.data.importers.common import contents, gender
from benchmark.errors import BenchmarkError, raise_problems, shorten, show
from benchmark.files import is_safe, on_disk
from benchmark.interfaces import Corpus, Utterance
from benchmark.registry import suggest

log = logging.getLogger("wavbench")

_COLUMNS = {
    "path": ("audio", "path", "file", "wav", "speech"),
    "id": ("id", "utterance_id", "utt_id", "segment_id"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "language": ("language", "lang", "lang_id", "language_id", "locale"),
    "session": ("session", "session_id", "video_id", "recording_id"),
    "gender": ("gender", "sex"),
}
"""What columns are usually called, in the order of preference."""


def read(source: Path, output: Path, labels: Sequence[str] = (), columns: Mapping[str, str] | None = None) -> Corpus:
    """A Hugging Face dataset that ``save_to_disk`` wrote.

    Audio that lies inside the dataset is written to ``<output>/audio/<split>/<row>.<ending>``, byte for byte.

    Args:
        source: the folder of a ``Dataset`` (one split) or ``DatasetDict`` (a split each).
        output: where audio is written.
        labels: names of further labels, each a column of that name unless ``columns`` names another.
        columns: field of an utterance, or label -> column to take it from.

    Raises:
        BenchmarkError: the package is not installed; no such dataset; a missing column; audio that libsndfile cannot
            read.
    """
    try:
        import datasets as hf
    except ImportError as error:
        raise BenchmarkError(
            "importing Hugging Face datasets needs the package 'datasets': pip install 'wavbench[datasets]' (in a "
            f"checkout: pip install -e '.[datasets]'). {error}"
        ) from error
    source = Path(source)
    columns = {name: name for name in labels} | dict(columns or {})
    for field in columns:
        if field not in _COLUMNS and field not in labels:
            raise BenchmarkError(
                f"--column {field}=…: no such field (for a label, add --label {field}). "
                + suggest(field, list(_COLUMNS), noun="fields")
            )
    hf.disable_progress_bars()
    try:
        loaded = hf.load_from_disk(str(source))
    except (FileNotFoundError, ValueError) as error:
        raise BenchmarkError(
            f"no dataset at {source}: expected what Dataset.save_to_disk or DatasetDict.save_to_disk writes. "
            f"{contents(source)}. A dataset from the hub is saved by load_dataset(NAME).save_to_disk(FOLDER)"
        ) from error
    except Exception as error:  # whatever datasets and Arrow raise on damaged files
        raise _damaged(source, error) from error
    splits = loaded if isinstance(loaded, hf.DatasetDict) else {str(loaded.split or source.resolve().name): loaded}
    problems: list[str] = []
    if outside := [name for name in splits if "/" in name or not is_safe(name)]:
        raise BenchmarkError(
            f"dataset {source} has a split called {outside[0]!r}, which cannot name a folder; rename it"
        )
    corpus: dict[str, list[Utterance]] = {}
    for name, split in splits.items():
        try:
            corpus[name] = _utterances(hf, split, name, output, columns, problems)
        except BenchmarkError:
            raise
        except Exception as error:  # as above, when rows are read
            raise _damaged(source, error) from error
    if problems:
        raise_problems(f"dataset {source}", problems)
    ids = [utterance.id for utterances in corpus.values() for utterance in utterances]
    if len(set(ids)) == len(ids):
        return Corpus("datasets", corpus)
    if "id" in columns:
        duplicates = shorten(sorted(id_ for id_, times in Counter(ids).items() if times > 1))
        raise BenchmarkError(f"--column id={columns['id']}: its values are not unique: {duplicates}; leave it out")
    log.info("ids are '<split>-<row>', because the values of column 'id' are not unique")
    for name, utterances in corpus.items():
        utterances[:] = [replace(utterance, id=f"{name}-{row:06d}") for row, utterance in enumerate(utterances)]
    return Corpus("datasets", corpus)


def _damaged(source: Path, error: Exception) -> BenchmarkError:
    return BenchmarkError(
        f"the dataset {source} is damaged ({type(error).__name__}: {shorten([error])}); fetch or save it again"
    )


def _utterances(
    hf: Any, split: Any, name: str, output: Path, columns: Mapping[str, str], problems: list[str]
) -> list[Utterance]:
    chosen = _choose_columns(hf, split, name, columns)
    features = split.features
    rows = split.select_columns(list(dict.fromkeys(chosen.values())))
    rows.data.validate(full=True)  # Arrow takes the offsets of a damaged file for what they say, and crashes
    if isinstance(features[chosen["path"]], hf.Audio):
        rows = rows.cast_column(chosen["path"], hf.Audio(decode=False))
    classes = {
        field: features[column] for field, column in chosen.items() if isinstance(features[column], hf.ClassLabel)
    }
    folder = output / "audio" / name
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    others: dict[str, list[tuple[int, Any]]] = {}
    """Field -> (row, value) of values that are not text."""
    for number, row in enumerate(tqdm(rows, desc=f"reading {name}", unit="row", leave=False, delay=1.0)):
        path, reason = _audio_file(row[chosen["path"]], folder / f"{number:06d}")
        if path is None:
            problems.append(f"split '{name}', row {number}: {reason}")
            continue
        values: dict[str, Any] = {}
        for field, column in chosen.items():
            if field != "path":
                value = row[column]
                if field in classes and value is not None:
                    value = classes[field].int2str(value) if value >= 0 else None  # -1: the label is not known
                if isinstance(value, int) and not isinstance(value, bool):
                    value = str(value)
                elif value is not None and not isinstance(value, str):
                    others.setdefault(field, []).append((number, value))
                values[field] = value
        if "gender" in values:
            values["gender"] = gender(values["gender"])
        own = {field: values.pop(field) for field in chosen if field not in _COLUMNS}
        labels = {label: value for label, value in own.items() if value is not None}
        utterances.append(
            Utterance(**{"id": f"{name}-{number:06d}", "path": path, "split": name, "labels": labels, **values})
        )
    problems += [_no_text(name, field, chosen[field], those) for field, those in others.items()]
    with contextlib.suppress(OSError):  # not empty: audio was written
        folder.rmdir()
        folder.parent.rmdir()
    return utterances


def _no_text(split: str, field: str, column: str, values: list[tuple[int, Any]]) -> str:
    row, value = values[0]
    return (
        f"split '{split}', column '{column}' ({field}): expected text or whole numbers, found {type(value).__name__} "
        f"in {len(values):,} rows, first in row {row}: {show(value)}. Take another column (--column {field}=NAME), or "
        f"convert it before save_to_disk: dataset.map(lambda row: {{'{column}': str(row['{column}'])}})"
    )


def _choose_columns(hf: Any, split: Any, name: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Field or label -> column; logged."""
    available = split.column_names
    chosen: dict[str, str] = {}
    for field in dict.fromkeys([*_COLUMNS, *columns]):
        if field in columns:
            if columns[field] not in available:
                raise BenchmarkError(
                    f"split '{name}' has no column '{columns[field]}' (--column {field}={columns[field]}). "
                    + suggest(columns[field], available)
                )
            chosen[field] = columns[field]
            continue
        usual = [column for column in _COLUMNS[field] if column in available]
        if field == "path":
            usual = [column for column in available if isinstance(split.features[column], hf.Audio)] or usual
        if usual:
            chosen[field] = usual[0]
    if "path" not in chosen:
        raise BenchmarkError(
            f"split '{name}' has no audio column; its columns are {', '.join(available)}. Name the one that holds "
            "audio or paths with --column path=NAME"
        )
    taken = ", ".join(f"{field} = '{column}'" for field, column in chosen.items())
    unused = [column for column in available if column not in chosen.values()]
    log.info(
        "split '%s': %s%s (--column FIELD=NAME takes another)",
        name, taken, f"; not used: {', '.join(unused)}" if unused else "",
    )  # fmt: skip
    return chosen


def _audio_file(value: Any, stem: Path) -> tuple[str | None, str]:
    """The audio file of a row, or ``None`` and the reason; audio that the row holds is written to ``stem`` + ending."""
    if isinstance(value, str):
        value = {"bytes": None, "path": value}
    if not isinstance(value, dict) or not {"bytes", "path"} <= value.keys():
        return None, f"no audio, but {type(value).__name__}" if value is not None else "no audio"
    data, path = value["bytes"], value["path"]
    if data is None:
        path = on_disk(path) if path else path
        if not path or not os.path.exists(path):
            return None, f"the audio file {path} does not exist" if path else "no audio"
        return os.path.abspath(path), ""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            ending = {"WAVEX": "wav", "RF64": "wav", "MPEG": "mp3"}.get(file.format, file.format.lower())
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", error)  # without the name of the file, which is none
        return None, f"libsndfile cannot read its {len(data):,} bytes of audio{f' ({path})' if path else ''}: {reason}"
    target = stem.with_name(f"{stem.name}.{ending}")
    target.write_bytes(data)
    return str(target.absolute()), ""
