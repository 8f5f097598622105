"""Kaldi data directories."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.data import headers
from benchmark.data.importers.common import Finder, contents, gender, lines
from benchmark.errors import BenchmarkError, raise_problems, shorten
from benchmark.interfaces import Corpus, Trial, Utterance
from benchmark.text import Names, words

log = logging.getLogger("wavbench")

_READ = ("utt2spk", "utt2lang", "utt2dur", "utt2num_frames")
"""Files of a label an utterance that are read, or that say what the audio says."""
_OVERSHOOT = 0.5
"""Seconds by which a segment may end after its recording; it is cut there, as Kaldi's extract-segments does."""
_RATE = 16000
"""Hz. A pipe that resamples to less loses something; to this or more, loading does the same."""


def read(source: Path, output: Path, labels: Sequence[str] = ()) -> Corpus:
    """Kaldi data directories.

    Args:
        source: a directory with ``wav.scp`` (one split of its name), or a folder of such directories (a split each).
            ``segments``, ``text``, ``utt2spk``, ``spk2gender``, ``utt2lang`` and ``trials`` are read if they exist.
        output: not used; nothing is written.
        labels: names of further labels: ``emotion`` is read from ``utt2emotion``, lines of ``<utterance> <label>``.

    Returns:
        ``session`` is the recording where there are segments. Speakers are left out, with a warning, where every
        utterance has one of its own, Kaldi's way of saying that they are unknown.

    Raises:
        BenchmarkError: archives and pipes that do more than decode a file; entries that are missing or malformed.
    """
    source = Path(source)
    folders = [source] if (source / "wav.scp").is_file() else sorted(path.parent for path in source.glob("*/wav.scp"))
    if not folders:
        raise BenchmarkError(
            f"Kaldi data directory not found: looked for {source}/wav.scp and {source}/<split>/wav.scp. "
            f"{contents(source)}"
        )
    splits, trials = {}, {}
    for folder in folders:
        directory = _Directory(folder)
        name = folder.resolve().name
        splits[name] = directory.utterances(name, labels)
        if listed := directory.trials({utterance.id for utterance in splits[name]}):
            trials["trials" if len(folders) == 1 else f"{name}_trials"] = listed
        if directory.problems:
            raise_problems(f"Kaldi data directory {folder}", directory.problems, directory.advice)
    return Corpus("kaldi", splits, trials)


class _Directory:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.advice = ""

    def utterances(self, split: str, labels: Sequence[str]) -> list[Utterance]:
        recordings = self.recordings()
        if (self.folder / "segments").is_file():
            utterances = self.segments(recordings)
        else:
            utterances = [Utterance(id=name, path=path) for name, path in recordings.items()]
        ids = {utterance.id for utterance in utterances}
        text, speakers, languages = (self.labels(name, ids) for name in ("text", "utt2spk", "utt2lang"))
        for name in labels:
            if not (self.folder / f"utt2{name}").is_file():
                self.problems.append(
                    f"{self.folder / f'utt2{name}'}, which label '{name}' is read from, does not exist"
                )
        others = {name: self.labels(f"utt2{name}", ids) for name in labels}
        taken = {*_READ, *(f"utt2{name}" for name in labels)}
        unused = sorted(
            file for file in os.listdir(self.folder) if file.partition("2")[0] == "utt" and file not in taken
        )
        if unused:
            log.info("%s: not read: %s (--label NAME reads utt2NAME)", self.folder, shorten(unused))
        if len(speakers) > 1 and all(utterance == speaker for utterance, speaker in speakers.items()):
            log.warning(
                "%s gives each utterance a speaker of its own, Kaldi's way of saying that speakers are unknown: they "
                "are not imported",
                self.folder / "utt2spk",
            )
            speakers = {}
        genders = {speaker: gender(value) for _, speaker, value in self.rows("spk2gender")}
        return [
            replace(
                u,
                text=text.get(u.id),
                speaker=speakers.get(u.id),
                language=languages.get(u.id),
                gender=genders.get(speakers.get(u.id, "")),
                split=split,
                labels={name: values[u.id] for name, values in others.items() if u.id in values},
            )
            for u in utterances
        ]

    def rows(self, name: str) -> Iterator[tuple[str, str, str]]:
        """(``file:line``, key, rest) of each line, none without the file; a duplicate key is a problem."""
        if not (self.folder / name).is_file():
            return
        seen = set()
        for where, line in lines(self.folder / name, self.problems):
            key, *rest = words(line, 2)
            if key in seen:
                self.problems.append(f"{where}: '{key}' is duplicated")
            seen.add(key)
            yield where, key, rest[0].strip() if rest else ""

    def recordings(self) -> dict[str, str]:
        """Recording -> audio file."""
        finder = Finder(self.folder)
        recordings: dict[str, str] = {}
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
            recordings[key] = absolute or entry
        if lost:
            self.problems.append(
                f"{self.folder / 'wav.scp'} names {len(lost):,} relative paths that do not exist: {shorten(lost)}. "
                f"Looked in {', '.join(map(str, finder.bases()))}; run this where the Kaldi recipe was run"
            )
        for path, header in headers.read(piped).items():
            if isinstance(header, str):
                self.problems.append(f"{piped[path]} decodes a file that libsndfile cannot read: {path} {header}")
                self.advice = self.how_to_make_plain_files()
        return recordings

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
            fields = words(rest)
            if len(fields) not in (3, 4):
                self.problems.append(f"{where}: expected '<utterance> <recording> <start> <end>', got {rest[:80]!r}")
            elif fields[0] not in recordings:
                self.problems.append(f"{where}: wav.scp has no recording '{fields[0]}'")
            else:
                rows.append((where, key, fields))
        if self.problems:  # missing files need not be looked for
            return []
        found = headers.read(recordings[fields[0]] for _, _, fields in rows)
        self.problems += [f"{path} {header}" for path, header in found.items() if isinstance(header, str)]
        utterances = []
        for where, key, (recording, *times) in rows:
            header = found[recordings[recording]]
            if not isinstance(header, str):
                try:
                    start, duration = _segment(times, header)
                    utterances.append(Utterance(key, recordings[recording], start, duration, session=recording))
                except ValueError as error:
                    self.problems.append(f"{where}: segment '{key}' {error}")
        return utterances

    def labels(self, name: str, ids: set[str]) -> dict[str, str]:
        """Utterance -> its line in a file that may be missing as a whole, but not in part."""
        labels = {key: rest for _, key, rest in self.rows(name)}
        if labels.keys() != ids:
            names = Names(ids)
            labels = {names.find(key) or key: rest for key, rest in labels.items()}
        if self.problems or not (self.folder / name).is_file():  # what is wrong above would be named again
            return labels
        for which, what in ((ids - labels.keys(), "lacks"), (labels.keys() - ids, "has, but there is no audio of")):
            if which:
                self.problems.append(f"{self.folder / name} {what} {len(which):,} utterances: {shorten(sorted(which))}")
                self.advice = "Kaldi's utils/fix_data_dir.sh removes incomplete utterances"
        empty = [key for key, value in labels.items() if not value] if name != "text" else []
        if empty:
            self.problems.append(f"{self.folder / name} has no label for {len(empty):,} utterances: {shorten(empty)}")
        return labels

    def trials(self, ids: set[str]) -> list[Trial]:
        """Kaldi's ``<enrolment> <test> <target or nontarget>``, where both are utterances."""
        path = self.folder / "trials"
        if not path.is_file():
            return []
        trials = []
        names = Names(ids)
        for where, line in lines(path, self.problems):
            fields = words(line)
            if len(fields) == 3 and fields[2] in ("target", "nontarget"):
                pair = (names.find(name) or name for name in fields[:2])
                trials.append(Trial(int(fields[2] == "target"), *pair))
            else:
                self.problems.append(f"{where}: expected '<enrolment> <test> <target or nontarget>', got {line[:80]!r}")
        absent = {name for trial in trials for name in (trial.enrolment, trial.test)} - ids
        if absent:
            log.warning(
                "%s is not imported: %d of its names are not utterances here, but perhaps models of several: %s",
                path, len(absent), shorten(sorted(absent)),
            )  # fmt: skip
            return []
        return trials


def _segment(times: list[str], header: headers.Header) -> tuple[float, float | None]:
    """Start and duration in seconds; :class:`ValueError` says what is wrong.

    As in Kaldi (extract-segments.cc), an end of -1 is that of the recording, and an end up to half a second later is
    moved there.
    """
    length = header.frames / header.rate
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
    """The audio file of an entry of ``wav.scp``, or ``None`` and the reason why there is none."""
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
