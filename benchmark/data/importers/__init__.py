"""Corpora in the formats of other tools -> :class:`benchmark.interfaces.Corpus`: Kaldi, lhotse, Hugging Face datasets.

Each importer takes the source and a folder for what it has to write (audio that lies in no file of its own), reads all
of the source, and raises one :class:`benchmark.errors.BenchmarkError` for all that it cannot take over. None of them
guesses: what an :class:`benchmark.interfaces.Utterance` cannot say (one channel of several, a mix, another speed) is
refused by name.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import logging
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Trial, Utterance
from benchmark.data.manifest import complain, some
from benchmark.registry import suggest

log = logging.getLogger("wavbench")


@dataclass
class _Finder:
    """Audio paths that were written relative to the folder where some tool once ran."""

    folder: Path
    """Of the list that holds the paths."""
    base: Path | None = None
    """Where the last one was found."""

    def find(self, path: str) -> str | None:
        """The absolute path; ``None``: a relative one that is nowhere."""
        if os.path.isabs(path):
            return path
        for base in ([self.base] if self.base else []) + self.bases():
            if (base / path).exists():
                self.base = base
                return str(base / path)
        return None

    def bases(self) -> list[Path]:
        """The list's folder, the three above it (``egs/s5`` for ``egs/s5/data/train``) and the current one."""
        folder = self.folder.absolute()
        return list(dict.fromkeys([folder, *itertools.islice(folder.parents, 3), Path.cwd()]))


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """(``file:line``, text) of every line of a text file, gzipped or not, that is not blank."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                try:
                    text = line.decode("utf-8").strip()
                except UnicodeDecodeError:
                    problems.append(f"{where}: not UTF-8")
                    continue
                if text:
                    yield where, text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problems.append(f"{path}: not a whole gzip file ({error})")


def _gender(value: Any) -> str | None:
    """``f`` or ``m`` of the words that other tools use, else ``None``."""
    return {"f": "f", "female": "f", "m": "m", "male": "m"}.get(str(value).lower())


def _headers(paths: Iterable[str]) -> dict[str, Any]:
    """Path -> libsndfile's ``frames``, ``samplerate`` and ``channels``, or a string: why it cannot read the file."""

    def one(path: str) -> Any:
        try:
            return soundfile.info(path)
        except (soundfile.SoundFileError, OSError) as error:
            return str(error) if os.path.exists(path) else "no such file"

    paths = list(paths)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(paths, pool.map(one, paths), strict=True))


# ----------------------------------------------------------------------------------------------------------- Kaldi

_OVERSHOOT = 0.5
"""Seconds by which a segment may end after its recording; it is cut there, as Kaldi's extract-segments does."""
_RATE = 16000
"""Hz. A pipe that resamples to less takes something away; to this or more, loading does the same."""


def kaldi(source: Path, output: Path) -> Corpus:
    """Kaldi data directories.

    Args:
        source: a directory with ``wav.scp`` (one split of its name), or a folder of such directories (a split each).
            ``segments``, ``text``, ``utt2spk``, ``spk2gender``, ``utt2lang`` and ``trials`` are read if they are there.
        output: not used; nothing is written.

    Returns:
        ``session`` is the recording where there are segments. Speakers are left out, with a warning, where every
        utterance has one of its own, Kaldi's way of saying that they are not known.

    Raises:
        BenchmarkError: archives and pipes that do more than decode a file; entries that are missing or malformed.
    """
    source = Path(source)
    folders = [source] if (source / "wav.scp").is_file() else sorted(path.parent for path in source.glob("*/wav.scp"))
    if not folders:
        found = f"In {source} there is: {_listing(source)}" if source.is_dir() else f"{source} is no folder"
        raise BenchmarkError(
            f"Kaldi data directory not found: looked for {source}/wav.scp and {source}/<split>/wav.scp. {found}"
        )
    splits, trials = {}, {}
    for folder in folders:
        directory = _KaldiDirectory(folder)
        name = folder.resolve().name
        splits[name] = directory.utterances(name)
        found_trials = directory.trials({utterance.id for utterance in splits[name]})
        if found_trials:
            trials["trials" if len(folders) == 1 else f"{name}_trials"] = found_trials
        if directory.problems:
            complain(f"Kaldi data directory {folder}", directory.problems, directory.advice)
    return Corpus("kaldi", splits, trials)


class _KaldiDirectory:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.advice = ""

    def utterances(self, split: str) -> list[Utterance]:
        recordings = self.recordings()
        if (self.folder / "segments").is_file():
            found = self.segments(recordings)
        else:
            found = [Utterance(id=name, path=path) for name, path in recordings.items()]
        ids = {utterance.id for utterance in found}
        text, speakers, languages = (self.labels(name, ids) for name in ("text", "utt2spk", "utt2lang"))
        if len(speakers) > 1 and all(utterance == speaker for utterance, speaker in speakers.items()):
            log.warning(
                "%s gives each utterance a speaker of its own, Kaldi's way of saying that speakers are not known: none "
                "are taken over",
                self.folder / "utt2spk",
            )
            speakers = {}
        genders = {speaker: _gender(value) for _, speaker, value in self.rows("spk2gender")}
        return [
            replace(
                u,
                text=text.get(u.id),
                speaker=speakers.get(u.id),
                language=languages.get(u.id),
                gender=genders.get(speakers.get(u.id, "")),
                split=split,
            )
            for u in found
        ]

    def rows(self, name: str) -> Iterator[tuple[str, str, str]]:
        """(``file:line``, key, rest) of each line, none without the file; a key that is there twice is a problem."""
        if not (self.folder / name).is_file():
            return
        seen = set()
        for where, line in _lines(self.folder / name, self.problems):
            key, *rest = line.split(maxsplit=1)
            if key in seen:
                self.problems.append(f"{where}: '{key}' is there twice")
            seen.add(key)
            yield where, key, rest[0] if rest else ""

    def recordings(self) -> dict[str, str]:
        """Recording -> audio file."""
        scp = self.folder / "wav.scp"
        finder = _Finder(self.folder)
        found: dict[str, str] = {}
        lost: list[str] = []
        piped: dict[str, str] = {}
        for where, key, entry in self.rows("wav.scp"):
            path, reason = _plain_file(entry)
            absolute = finder.find(path) if path else None
            if absolute:
                if entry.endswith("|"):
                    piped[absolute] = f"{where}: {entry[:100]!r}"
            elif path:
                lost.append(path)
            else:
                self.problems.append(f"{where}: {entry[:100]!r} {reason}")
                self.advice = self.how_to_make_plain_files()
            found[key] = absolute or entry
        if lost:
            self.problems.append(
                f"{scp} names {len(lost):,} relative paths that are not there: {some(lost)}. Looked in "
                f"{', '.join(map(str, finder.bases()))}; run this where the Kaldi recipe was run"
            )
        for path, header in _headers(piped).items():
            if isinstance(header, str):
                self.problems.append(f"{piped[path]} decodes a file that libsndfile cannot read ({header})")
                self.advice = self.how_to_make_plain_files()
        return found

    def how_to_make_plain_files(self) -> str:
        """By Kaldi itself: a table that is written to ``scp:`` alone goes to the files that the script names."""
        f = shlex.quote(str(self.folder.absolute()))
        return (
            "An utterance needs an audio file of its own. Let Kaldi write them, then import again:\n"
            f"""  mkdir -p {f}/wav && awk -v d={f}/wav '{{print $1, d "/" $1 ".wav"}}' {f}/wav.scp > {f}/plain.scp\n"""
            f"  wav-copy scp:{f}/wav.scp scp:{f}/plain.scp && mv {f}/plain.scp {f}/wav.scp"
        )

    def segments(self, recordings: dict[str, str]) -> list[Utterance]:
        rows = []
        for where, key, rest in self.rows("segments"):
            fields = rest.split()
            if len(fields) not in (3, 4):
                self.problems.append(f"{where}: expected '<utterance> <recording> <start> <end>', got {rest[:80]!r}")
            elif fields[0] not in recordings:
                self.problems.append(f"{where}: wav.scp has no recording '{fields[0]}'")
            else:
                rows.append((where, key, fields))
        if self.problems:  # files that are not there need not be looked for
            return []
        headers = _headers(dict.fromkeys(recordings[fields[0]] for _, _, fields in rows))
        self.problems += [f"{path} cannot be read ({why})" for path, why in headers.items() if isinstance(why, str)]
        found = []
        for where, key, (recording, *times) in rows:
            path = recordings[recording]
            if not isinstance(headers[path], str):
                try:
                    start, duration = _segment(times, headers[path])
                    found.append(Utterance(key, path, start, duration, session=recording))
                except ValueError as error:
                    self.problems.append(f"{where}: segment '{key}' {error}")
        return found

    def labels(self, name: str, ids: set[str]) -> dict[str, str]:
        """Utterance -> its line in a file that may be missing as a whole, but not in part."""
        found = {key: rest for _, key, rest in self.rows(name)}
        if self.problems or not (self.folder / name).is_file():  # what is wrong above would be named again
            return found
        for which, what in ((ids - found.keys(), "lacks"), (found.keys() - ids, "has, but there is no audio of")):
            if which:
                self.problems.append(f"{self.folder / name} {what} {len(which):,} utterances: {some(sorted(which))}")
                self.advice = "Kaldi's utils/fix_data_dir.sh removes what is not complete"
        empty = [key for key, value in found.items() if not value] if name != "text" else []
        if empty:
            self.problems.append(f"{self.folder / name} has no label for {len(empty):,} utterances: {some(empty)}")
        return found

    def trials(self, ids: set[str]) -> list[Trial]:
        """Kaldi's ``<enrolment> <test> <target or nontarget>``, where both are utterances."""
        path = self.folder / "trials"
        if not path.is_file():
            return []
        found = []
        for where, line in _lines(path, self.problems):
            fields = line.split()
            if len(fields) == 3 and fields[2] in ("target", "nontarget"):
                found.append(Trial(int(fields[2] == "target"), fields[0], fields[1]))
            else:
                self.problems.append(f"{where}: expected '<enrolment> <test> <target or nontarget>', got {line[:80]!r}")
        absent = {name for trial in found for name in (trial.enrolment, trial.test)} - ids
        if absent:
            log.warning(
                "%s is not taken over: %d of its names are no utterances here, but models of several perhaps: %s",
                path, len(absent), some(sorted(absent)),
            )  # fmt: skip
            return []
        return found


def _segment(times: list[str], header: Any) -> tuple[float, float | None]:
    """Start and duration in seconds; :class:`ValueError` says why there is none.

    As Kaldi does it (extract-segments.cc): an end of -1 is that of the recording, one that is up to half a second later
    is moved there.
    """
    length = header.frames / header.samplerate
    start, end = float(times[0]), float(times[1])
    if len(times) == 3 and header.channels > 1:
        raise ValueError(
            f"is channel {times[2]} of {header.channels}; an utterance has no channel: write each into a file"
        )
    if end == -1:
        end = length
    if not (0 <= start < end and start < length and end < length + _OVERSHOOT):
        raise ValueError(f"spans {times[0]}–{times[1]} s of a recording that is {length:.3f} s long")
    return start, None if end >= length else end - start


_TOOLS: dict[str, tuple[str, dict[str, str]]] = {
    "cat": ("", {}),
    "flac": ("-[cdsF]+|--decode|--stdout|--silent|--totally-silent", {}),
    "sph2pipe": ("-p", {"-f": "wav|rif"}),
    "sox": (
        "-[DqV]|-V[0-9]|--no-dither",
        {"-t": "wav|wavpcm|flac|sph|nist|mp3|ogg|opus|aiff", "-b": "16|24|32", "-e": "signed.*|float.*",
         "-c": "1", "-r": "RATE"},
    ),
    "ffmpeg": (
        "-vn|-nostdin|-hide_banner|-nostats|-y",
        {"-i": ".*", "-f": "wav", "-ac": "1", "-ar": "RATE", "-acodec": "pcm_s16le", "-c:a": "pcm_s16le", "-v": ".*",
         "-ab": ".*", "-b:a": ".*", "-loglevel": ".*", "-threads": ".*"},
    ),
}  # fmt: skip
"""Program -> its switches and its options with their values (patterns) with which a pipe does what loading does anyway:
decode one file, average its channels, resample."""
_OUTPUTS = ("-", "pipe:", "pipe:1", "/dev/stdout")


def _plain_file(entry: str) -> tuple[str | None, str]:
    """The audio file behind an entry of ``wav.scp``, or ``None`` and why there is none."""
    if not entry:
        return None, "names no file"
    if re.search(r"\.ark:\d+", entry) or re.search(r":\d+$", entry):
        return None, "lies within an archive"
    if not entry.endswith("|"):
        return entry, ""
    try:
        program, *arguments = shlex.split(entry[:-1])
    except ValueError:
        return None, "is not a command that a shell understands"
    program = os.path.basename(program)
    if program not in _TOOLS or set("|;&<>`$") & set(entry[:-1]):
        return None, "does more than decode one file"
    switches, options = _TOOLS[program]
    if program in ("sox", "ffmpeg") and arguments.count("-") + sum(a in _OUTPUTS[1:] for a in arguments) != 1:
        return None, "does more than decode one file"
    if program in ("sox", "ffmpeg") and arguments.pop() not in _OUTPUTS:
        return None, f"does more than decode one file ({arguments[-1]})"
    files = []
    rest = iter(arguments)
    for argument in rest:
        if argument in options:
            value = next(rest, "")
            allowed = options[argument]
            if not (_rate(value) >= _RATE if allowed == "RATE" else re.fullmatch(allowed, value)):
                return None, f"does more than decode one file ({argument} {value})"
            files += [value] if argument == "-i" else []
        elif not argument.startswith("-"):
            files.append(argument)
        elif not re.fullmatch(switches, argument):
            return None, f"does more than decode one file ({argument})"
    if len(files) != 1:
        return None, "does more than decode one file"
    return files[0], ""


def _rate(value: str) -> float:
    """Hz of ``16k``, ``16000``."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", value)
    return float(number[1]) * (1000 if number[2] else 1) if number else 0


# ---------------------------------------------------------------------------------------------------------- lhotse

_SLACK = 0.01
"""Seconds by which a supervision may reach out of its cut, as rounded times do."""
_SIMPLE = {"Resample"}
"""Transforms of a recording that loading does as well."""


def lhotse(source: Path, output: Path) -> Corpus:
    """lhotse manifests, read without lhotse.

    Args:
        source: cuts as ``CutSet.to_file`` writes them (``.jsonl`` or ``.jsonl.gz``), or a folder of such files, or of
            pairs of recordings and supervisions; a split each. ``x_cuts_dev.jsonl.gz`` is the split ``dev``.
        output: not used; nothing is written.

    Returns:
        An utterance a supervision, ``session`` its recording. In a file without any supervisions, an utterance a cut.

    Raises:
        BenchmarkError: what no utterance can say: mixes, one channel of several, perturbed recordings, supervisions of
            which the cut has a part; audio that lies in no file.
    """
    source = Path(source)
    by_kind: dict[str, list[Path]] = {"cuts": [], "recordings": [], "supervisions": []}
    files = [source] if source.is_file() else sorted([*source.glob("*.jsonl"), *source.glob("*.jsonl.gz")])
    for file in files:
        kind = _lhotse_kind(file)
        if kind:
            by_kind[kind].append(file)
        else:
            log.info("%s holds neither cuts nor recordings nor supervisions: not read", file)
    readers: dict[str, Callable[[list[str]], Iterator[tuple[str, Any]]]] = {}
    if by_kind["cuts"]:
        for file in by_kind["cuts"]:
            name = _lhotse_split(file, "cuts")
            if name in readers:
                raise BenchmarkError(f"two files of {source} hold the split '{name}'; {file} is one: rename it")
            readers[name] = partial(_objects, file)
    else:
        recordings = {_lhotse_split(file, "recordings"): file for file in by_kind["recordings"]}
        supervisions = {_lhotse_split(file, "supervisions"): file for file in by_kind["supervisions"]}
        readers = {
            name: partial(_joined, file, supervisions[name])
            for name, file in recordings.items()
            if name in supervisions
        }
    if not readers:
        found = f"In {source} there is: {_listing(source)}" if source.is_dir() else f"{source} holds none"
        raise BenchmarkError(
            "lhotse manifests not found: looked for cuts (or recordings with supervisions) as .jsonl or .jsonl.gz, "
            f"which CutSet.to_file('cuts_train.jsonl.gz') writes. {found}"
        )
    return Corpus("lhotse", {name: _lhotse_utterances(source, name, reader) for name, reader in readers.items()})


def _lhotse_utterances(
    source: Path, split: str, read: Callable[[list[str]], Iterator[tuple[str, Any]]]
) -> list[Utterance]:
    problems: list[str] = []
    found: list[Utterance] = []
    bare: list[Utterance] = []
    lines: dict[str, str] = {}
    finder = _Finder(source if source.is_dir() else source.parent)
    for where, cut in read(problems):
        try:
            of_cut = list(_of_cut(cut, finder, split))
        except _RefusedError as error:
            problems.append(f"{where}: cut '{cut.get('id')}' {error}")
            continue
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{where}: not a cut as lhotse writes it ({type(error).__name__}: {error})")
            continue
        for utterance in of_cut:
            if lines.setdefault(utterance.id, where) != where:
                problems.append(f"{where}: '{utterance.id}' is at {lines[utterance.id]} already")
        (found if cut.get("supervisions") else bare).extend(of_cut)
    if problems:
        complain(f"lhotse manifests of {source}, split '{split}'", problems)
    if found and bare:
        log.warning(
            "split '%s': %d cuts have no supervision and are left out: %s", split, len(bare), some(u.id for u in bare)
        )
    return found or bare


class _RefusedError(Exception):
    """Why a cut cannot be taken over."""


def _of_cut(cut: dict[str, Any], finder: _Finder, split: str) -> Iterator[Utterance]:
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut"):
        raise _RefusedError(f"is a {kind}: not a stretch of one recording; write its audio with CutSet.save_audios")
    recording = cut.get("recording")
    if recording is None:
        raise _RefusedError("has no recording, only features perhaps; audio is needed")
    changes = {step.get("name", "?") for step in recording.get("transforms") or ()} - _SIMPLE
    if changes:
        raise _RefusedError(
            f"has a recording that is changed on the fly ({', '.join(sorted(changes))}); use the cuts from before "
            "that, or write the audio with CutSet.save_audios"
        )
    first, length = float(cut["start"]), float(cut["duration"])
    for supervision in cut.get("supervisions") or [{"id": cut["id"], "start": 0.0, "duration": length}]:
        channels = cut["channel"] if kind == "MonoCut" else supervision.get("channel", cut["channel"])
        path = _source(recording, {channels} if isinstance(channels, int) else set(channels), finder)
        begin = float(supervision["start"])
        end = begin + float(supervision["duration"])
        if begin < -_SLACK or end > length + _SLACK:
            raise _RefusedError(
                f"has but a part of supervision '{supervision['id']}' ({begin:.2f}–{end:.2f} s of a cut of "
                f"{length:.2f} s), so its text may not be what is heard; use cuts.trim_to_supervisions()"
            )
        start = round(first + max(begin, 0.0), 8)
        stop = round(first + min(end, length), 8)
        whole = stop >= float(recording["duration"]) - 1e-3  # durations of resampled recordings are rounded
        yield Utterance(
            id=supervision["id"],
            path=path,
            start=start,
            duration=None if whole else round(stop - start, 8),
            text=supervision.get("text"),
            speaker=supervision.get("speaker"),
            language=supervision.get("language"),
            gender=_gender(supervision.get("gender")),
            session=recording["id"],
            split=split,
        )


def _source(recording: dict[str, Any], channels: set[int], finder: _Finder) -> str:
    """The file that holds exactly these channels."""
    for source in recording["sources"]:
        if not channels <= set(source["channels"]):
            continue
        if source["type"] != "file":
            raise _RefusedError(f"has audio of type '{source['type']}', not a file; CutSet.save_audios writes files")
        if channels != set(source["channels"]):
            raise _RefusedError(
                f"is channel {', '.join(map(str, sorted(channels)))} of the {len(source['channels'])} channels of "
                f"{source['source']}; an utterance has no channel: write each into a file (CutSet.save_audios)"
            )
        path = finder.find(source["source"])
        if path is None:
            raise _RefusedError(
                f"has the relative path {source['source']}, which is neither in {finder.folder} nor in the folders "
                "above nor in the current one; run this where the manifests were made"
            )
        return path
    raise _RefusedError(f"has channels {sorted(channels)}, but its recording has no file with them")


def _objects(path: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(path, problems):
        try:
            found = json.loads(line)
        except ValueError as error:
            problems.append(f"{where}: invalid JSON ({error})")
            continue
        if isinstance(found, dict):
            yield where, found
        else:
            problems.append(f"{where}: expected an object a line")


def _joined(recordings: Path, supervisions: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Recordings with their supervisions, as cuts."""
    of: dict[str, list[Any]] = {}
    for where, supervision in _objects(supervisions, problems):
        if "recording_id" in supervision:
            of.setdefault(supervision["recording_id"], []).append(supervision)
        else:
            problems.append(f"{where}: not a supervision (no recording_id)")
    for where, recording in _objects(recordings, problems):
        channels = recording.get("channel_ids") or sorted(c for s in recording["sources"] for c in s["channels"])
        cut = {key: recording.get(key) for key in ("id", "duration")} | {"type": "MultiCut", "start": 0}
        yield where, cut | {"channel": channels, "recording": recording, "supervisions": of.pop(recording["id"], [])}
    problems += [f"{supervisions}: {len(of):,} recordings are not in {recordings}: {some(of)}"] if of else []


def _lhotse_kind(path: Path) -> str | None:
    for _, found in _objects(path, []):
        if "supervisions" in found or str(found.get("type")).endswith("Cut"):
            return "cuts"
        return "recordings" if "sources" in found else "supervisions" if "recording_id" in found else None
    return None


def _lhotse_split(path: Path, word: str) -> str:
    """``librispeech_cuts_dev-clean.jsonl.gz`` -> ``dev-clean``; ``train_cuts.jsonl`` -> ``train``."""
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    before, _, after = stem.partition(word)
    return after.strip("_-.") or before.strip("_-.") or "all"


# -------------------------------------------------------------------------------------------- Hugging Face datasets

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


def datasets(source: Path, output: Path, columns: Mapping[str, str] | None = None) -> Corpus:
    """A Hugging Face dataset that ``save_to_disk`` wrote.

    Audio that lies inside of the dataset is written to ``<output>/audio/<split>/<row>.<ending>``, byte for byte.

    Args:
        source: the folder of a ``Dataset`` (one split) or ``DatasetDict`` (a split each).
        output: where audio is written.
        columns: field of an utterance -> column to take it from, where the usual names are not meant.

    Raises:
        BenchmarkError: the package is not installed; no such dataset; a column that is not there; audio
            that libsndfile cannot read.
    """
    try:
        import datasets as hf
    except ImportError as error:
        raise BenchmarkError(
            "importing Hugging Face datasets needs the package 'datasets': pip install -e '.[datasets]' (or "
            f"pip install datasets). {error}"
        ) from error
    source = Path(source)
    columns = columns or {}
    for field in columns:
        if field not in _COLUMNS:
            raise BenchmarkError(f"--column {field}=…: no such field. {suggest(field, list(_COLUMNS), noun='fields')}")
    hf.disable_progress_bars()
    try:
        loaded = hf.load_from_disk(str(source))
    except (FileNotFoundError, ValueError) as error:
        found = f"In {source} there is: {_listing(source)}" if source.is_dir() else f"{source} is no folder"
        raise BenchmarkError(
            f"no dataset at {source}: expected what Dataset.save_to_disk or DatasetDict.save_to_disk writes. {found}. "
            "A dataset from the hub is saved by load_dataset(NAME).save_to_disk(FOLDER)"
        ) from error
    splits = loaded if isinstance(loaded, hf.DatasetDict) else {str(loaded.split or source.resolve().name): loaded}
    problems: list[str] = []
    read = {name: _of_dataset(hf, split, name, output, columns, problems) for name, split in splits.items()}
    if problems:
        complain(f"dataset {source}", problems)
    ids = [utterance.id for utterances in read.values() for utterance in utterances]
    if len(set(ids)) == len(ids):
        return Corpus("datasets", read)
    if "id" in columns:
        twice = some(sorted(id_ for id_, times in Counter(ids).items() if times > 1))
        raise BenchmarkError(f"--column id={columns['id']}: its values are not unique: {twice}; leave it out")
    log.info("ids are '<split>-<row>', for the column of that name has values that occur more than once")
    return Corpus("datasets", {name: _numbered(name, utterances) for name, utterances in read.items()})


def _numbered(split: str, utterances: list[Utterance]) -> list[Utterance]:
    return [replace(utterance, id=f"{split}-{row:06d}") for row, utterance in enumerate(utterances)]


def _of_dataset(
    hf: Any, split: Any, name: str, output: Path, columns: Mapping[str, str], problems: list[str]
) -> list[Utterance]:
    chosen = _choose_columns(hf, split, name, columns)
    features = split.features
    rows = split.select_columns(list(dict.fromkeys(chosen.values())))
    if isinstance(features[chosen["path"]], hf.Audio):
        rows = rows.cast_column(chosen["path"], hf.Audio(decode=False))
    classes = {
        field: features[column] for field, column in chosen.items() if isinstance(features[column], hf.ClassLabel)
    }
    folder = output / "audio" / name
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
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
                values[field] = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if "gender" in values:
            values["gender"] = _gender(values["gender"])
        utterances.append(Utterance(**{"id": f"{name}-{number:06d}", "path": path, "split": name, **values}))
    with contextlib.suppress(OSError):  # not empty: audio was written
        folder.rmdir()
        folder.parent.rmdir()
    return utterances


def _choose_columns(hf: Any, split: Any, name: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Field -> column, and says so."""
    there = split.column_names
    chosen: dict[str, str] = {}
    for field, usual in _COLUMNS.items():
        if field in columns:
            if columns[field] not in there:
                raise BenchmarkError(
                    f"split '{name}' has no column '{columns[field]}' (--column {field}={columns[field]}). "
                    + suggest(columns[field], there)
                )
            chosen[field] = columns[field]
            continue
        known = [column for column in usual if column in there]
        if field == "path":
            known = [column for column in there if isinstance(split.features[column], hf.Audio)] or known
        if known:
            chosen[field] = known[0]
    if "path" not in chosen:
        raise BenchmarkError(
            f"split '{name}' has no column of audio; its columns are {', '.join(there)}. Name the one that holds audio "
            "or paths with --column path=NAME"
        )
    taken = ", ".join(f"{field} = '{column}'" for field, column in chosen.items())
    unused = [column for column in there if column not in chosen.values()]
    log.info(
        "split '%s': %s%s (--column FIELD=NAME takes another)",
        name, taken, f"; not used: {', '.join(unused)}" if unused else "",
    )  # fmt: skip
    return chosen


def _audio_file(value: Any, stem: Path) -> tuple[str | None, str]:
    """The audio file of a row, or ``None`` and why not; audio that the row holds is written to ``stem`` + ending."""
    if isinstance(value, str):
        value = {"bytes": None, "path": value}
    if not isinstance(value, dict) or not {"bytes", "path"} <= value.keys():
        return None, f"no audio, but {type(value).__name__}" if value is not None else "no audio"
    data, path = value["bytes"], value["path"]
    if data is None:
        if not path or not os.path.exists(path):
            return None, f"the audio file {path} is not there" if path else "no audio"
        return os.path.abspath(path), ""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            ending = {"WAVEX": "wav", "RF64": "wav", "MPEG": "mp3"}.get(file.format, file.format.lower())
    except soundfile.SoundFileError as error:
        return None, f"libsndfile cannot read its {len(data):,} bytes of audio{f' ({path})' if path else ''}: {error}"
    target = stem.with_name(f"{stem.name}.{ending}")
    target.write_bytes(data)
    return str(target.absolute()), ""


def _listing(folder: Path) -> str:
    return some(sorted(os.listdir(folder)), 8) or "nothing"


IMPORTERS: dict[str, Callable[..., Corpus]] = {"kaldi": kaldi, "lhotse": lhotse, "datasets": datasets}
"""Name -> ``(source, output) -> Corpus``; ``datasets`` takes ``columns`` as well."""
