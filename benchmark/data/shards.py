"""Corpora packed into tar files that any tar reads: writing them, reading them, checking them, and back.

::

    <folder>/pack.json                     the archives with their SHA-256, and the corpora
    <folder>/audio-00000.tar[.index] …     members in the order of their names, which are paths below the data root
    <folder>/.audio-00000.tar.sources …    its SHA-256, and that of the stamps of the files in it when they were packed
    <folder>/<corpus>.<split>.jsonl        a manifest a split, <corpus>.<list>.txt a trial list
    <folder>/train.jsonl …                 what was packed as a manifest, under its own name

The bytes of an archive follow from the names and contents of its members alone. Lists and transcripts that lie beside
the audio are packed as well, so that the tree can be unpacked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from benchmark import memory, registry, shapes
from benchmark.data import archives, manifest, source
from benchmark.data.archives import ENDING, Index, Member, index_bytes
from benchmark.data.trials import read_trials, write_trials
from benchmark.errors import BenchmarkError, raise_problems, shorten, show
from benchmark.files import MARKER, PACK, is_safe, is_url, locked, write_atomically, write_bytes, write_text
from benchmark.interfaces import Corpus, Trial, Utterance

log = logging.getLogger("wavbench")

BYTES = 2**30
"""Of an archive, about."""
_FORMAT = 1
_LISTS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".html", ".lst", ".list")
"""Endings of files beside the audio that are packed as well."""
_CHUNK = 2**20
_SHAPE = {
    "format": int,
    "archives": [{"name": str, "size": int, "sha256": str, "members": int}],
    "corpora": {...: {"corpus": str, "splits": {...: int}, "labels": [str], "trials": [str]}},
}


@dataclass(frozen=True)
class Source:
    """A file to pack."""

    name: str
    """Of the member."""
    path: str
    size: int
    stamp: memory.Stamp
    """What tells it from another file that has been at its path, before it is read."""


@dataclass
class Pack:
    """The content of ``pack.json``."""

    folder: Path
    archives: list[dict[str, Any]] = field(default_factory=list)
    """``name``, ``size``, ``sha256`` and ``members`` (their number) of each."""
    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> ``corpus`` (:attr:`Corpus.name`), ``splits``, ``labels``, ``trials``."""


# ----------------------------------------------------------------------------------------------------------- writing


def pack(
    corpora: Mapping[str, Corpus],
    manifests: Mapping[str, Sequence[Utterance]],
    folder: Path,
    *,
    root: Path | None = None,
    size: int = BYTES,
    workers: int = 2,
) -> Pack:
    """Pack corpora and manifests into one folder. Called again, it keeps whole archives of files that did not change.

    Args:
        corpora: by the names that they are asked for.
        manifests: file name -> utterances.
        folder: for the archives; empty, or of the same corpora.
        root: names of members are paths below it; default: below the folder that holds all audio.
        size: bytes of an archive, about.
        workers: archives written at a time.

    Raises:
        BenchmarkError: audio is missing, names cannot stand in an archive, or the folder holds something else.
    """
    utterances = [u for corpus in corpora.values() for those in corpus.splits.values() for u in those]
    utterances += [u for those in manifests.values() for u in those]
    names = _names({utterance.path for utterance in utterances}, root)
    extra = _lists(names, root) if corpora and root is not None else {}
    sources = _sized({**extra, **{name: path for path, name in names.items()}})
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        _check_folder(folder, corpora)
        plans = list(_plans(sources, size))
        width = max(5, len(str(len(plans))))
        written = Pack(folder)
        with ThreadPoolExecutor(workers) as pool, tqdm(
            total=sum(one.size for one in sources), desc="packing", unit="B", unit_scale=True, leave=False, delay=1.0
        ) as bar:  # fmt: skip
            jobs = [
                pool.submit(_write_archive, folder / f"audio-{number:0{width}}.tar", plan, bar.update)
                for number, plan in enumerate(plans)
            ]
            try:
                written.archives = [job.result() for job in jobs]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        place = {
            path: str(folder.absolute() / archive["name"] / names[path])
            for path, archive in _places(names, plans, written.archives)
        }
        for name, corpus in corpora.items():
            written.corpora[name] = _write_corpus(folder, name, corpus, place)
        for name, those in manifests.items():
            manifest.write(folder / name, [replace(u, path=place[u.path]) for u in those])
        if root is not None:
            _copy_marker(root, folder)
        content = {"format": _FORMAT, "archives": written.archives, "corpora": written.corpora}
        write_text(folder / PACK, json.dumps(content, indent=1) + "\n")
    return written


def _names(paths: Iterable[str], root: Path | None) -> dict[str, str]:
    """Path of a file -> its name in the archives."""
    paths = sorted(paths)
    plain = [os.path.abspath(path) for path in paths if not is_url(path)]
    base = str(root.absolute()) if root is not None else _common_folder(plain)
    names: dict[str, str] = {}
    outside: list[str] = []
    for path in paths:
        if is_url(path):
            names[path] = path.replace("://", "/", 1)
            continue
        name = os.path.relpath(os.path.abspath(path), base)
        names[path] = name
        if not is_safe(name):
            outside.append(path)
    if outside:
        raise_problems("cannot pack files outside the data root, or with control characters in their names", outside)
    if len(set(names.values())) < len(names):
        seen: set[str] = set()
        twice = [name for name in names.values() if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise BenchmarkError(f"{len(twice)} files would have the name of another one in the pack: {shorten(twice)}")
    return names


def _common_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else os.sep


def _lists(names: Mapping[str, str], root: Path) -> dict[str, str]:
    """Name -> path of the lists and transcripts in the folders of the corpora."""
    found: dict[str, str] = {}
    for top in sorted({name.split("/")[0] for name in names.values() if "/" in name}):
        for folder, folders, files in os.walk(root / top):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for file in files:
                name = os.path.relpath(os.path.join(folder, file), root)
                if file.lower().endswith(_LISTS) and not file.startswith(".") and is_safe(name):
                    found[name] = os.path.join(folder, file)
    return found


def _sized(files: Mapping[str, str]) -> list[Source]:
    """In the order of their names' bytes."""
    sources, absent = [], []
    for name in sorted(files, key=os.fsencode):
        try:
            stamp = memory.stamp(files[name])
            size = stamp[0] if source.is_plain(files[name]) else source.size(files[name])
            sources.append(Source(name, files[name], size, stamp))
        except OSError as error:
            absent.append(f"{files[name]} {'does not exist' if isinstance(error, FileNotFoundError) else error}")
    if absent:
        raise_problems("cannot pack", absent)
    return sources


def _plans(sources: Sequence[Source], size: int) -> Iterator[list[Source]]:
    """The members of each archive."""
    plan: list[Source] = []
    total = 0
    for one in sources:
        if plan and total + one.size > size:
            yield plan
            plan, total = [], 0
        plan.append(one)
        total += one.size
    if plan:
        yield plan


def _places(
    names: Mapping[str, str], plans: Sequence[Sequence[Source]], written: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for plan, archive in zip(plans, written, strict=True):
        for one in plan:
            if one.path in names:
                yield one.path, archive


def _check_folder(folder: Path, corpora: Mapping[str, Corpus]) -> None:
    if (folder / PACK).exists():
        held = read(folder).corpora.keys()
        if held != corpora.keys():
            raise BenchmarkError(
                f"{folder} holds a pack of {', '.join(held) or 'manifests'}; give all corpora of a folder at once, or "
                "another folder"
            )
        return
    held_files = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if held_files and not held_files[0].startswith("audio-"):  # which a pack that was stopped begins with
        raise BenchmarkError(f"{folder} is not empty (it holds {shorten(held_files)}); give a folder of its own")


class _Hashing:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def digest(self) -> str:
        return self._hash.hexdigest()


def _write_archive(path: Path, plan: Sequence[Source], done: Callable[[int], object]) -> dict[str, Any]:
    """Write an archive and its index, unless they are there, of files as they are; return its ``pack.json`` entry."""
    beside = path.with_name(f".{path.name}.sources")
    stamps = hashlib.sha256(repr([one.stamp for one in plan]).encode()).hexdigest()
    with contextlib.suppress(OSError):
        found = Index(Path(f"{path}{ENDING}"), path.stat().st_size)
        same = [(m.name, m.size) for m in found] == [(one.name, one.size) for one in plan]
        if same and beside.read_bytes() == f"{found.digest} {stamps}\n".encode():
            done(sum(one.size for one in plan))
            return _entry(path, found.digest, len(plan))
    members: list[Member] = []
    made: list[_Hashing] = []

    def write(file: BinaryIO) -> None:
        made.append(out := _Hashing(file))
        for one in plan:
            out.write(_tar_header(one))
            members.append(Member(one.name, out.size, one.size))
            _copy(one, out)
            out.write(bytes(-out.size % tarfile.BLOCKSIZE))
            done(one.size)
        out.write(bytes(2 * tarfile.BLOCKSIZE))
        out.write(bytes(-out.size % tarfile.RECORDSIZE))
        # before the archive has its name, so that an archive without its index is never seen
        write_bytes(Path(f"{path}{ENDING}"), index_bytes(members, out.size, out.digest()))

    write_atomically(path, write)
    write_text(beside, f"{made[0].digest()} {stamps}\n")
    return _entry(path, made[0].digest(), len(plan))


def _entry(path: Path, digest: str, members: int) -> dict[str, Any]:
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest, "members": members}


def _tar_header(one: Source) -> bytes:
    info = tarfile.TarInfo(one.name)
    info.size, info.mtime, info.mode = one.size, 0, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _copy(one: Source, out: _Hashing) -> None:
    left = one.size
    try:
        with source.open_file(one.path) as file:
            while left and (data := file.read(min(left, _CHUNK))):
                out.write(data)
                left -= len(data)
            grown = bool(file.read(1))
    except OSError as error:
        raise BenchmarkError(f"cannot pack {one.path}: {error}") from error
    if left or grown:
        raise BenchmarkError(f"cannot pack {one.path}: it changed while it was read")


def _write_corpus(folder: Path, name: str, corpus: Corpus, place: Mapping[str, str]) -> dict[str, Any]:
    labels = sorted({label for those in corpus.splits.values() for u in those for label in u.labels})
    for split, those in corpus.splits.items():
        if those:
            manifest.write(folder / f"{name}.{split}.jsonl", [replace(u, path=place[u.path]) for u in those])
    lists: list[str] = []
    for trials in corpus.trials:
        try:
            content = corpus.trials[trials]
        except BenchmarkError as error:
            if not lists:
                raise
            log.warning("the trial list '%s' is left out. %s", trials, error)
            continue
        write_trials(folder / f"{name}.{trials}.txt", content)
        lists.append(trials)
    splits = {split: len(those) for split, those in corpus.splits.items()}
    return {"corpus": corpus.name, "splits": splits, "labels": labels, "trials": lists}


def _copy_marker(root: Path, folder: Path) -> None:
    """Reports say of packed synthetic data, too, that they are synthetic."""
    for marker in (root / MARKER, *sorted(root.glob(f"*/{MARKER}"))):
        if marker.is_file():
            shutil.copyfile(marker, folder / MARKER)
            return


# ----------------------------------------------------------------------------------------------------------- reading


def is_pack(folder: Path) -> bool:
    """Whether a folder holds a pack."""
    return (folder / PACK).is_file()


def read(folder: Path) -> Pack:
    """``pack.json`` of a folder.

    Raises:
        BenchmarkError: there is none, or it is damaged.
    """
    path = folder / PACK
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BenchmarkError(f"{folder} holds no pack: there is no {PACK}. 'wavbench pack' makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} cannot be read ({error}); pack the corpus again") from error
    if isinstance(content, dict) and content.get("format") != _FORMAT:
        raise BenchmarkError(f"{path} is of format {show(content.get('format'))}; this version reads {_FORMAT}")
    if wrong := shapes.problem(content, _SHAPE):
        raise BenchmarkError(f"{path} is damaged: {wrong}; pack the corpus again")
    for one in content["archives"]:
        _check_name(path, one["name"])
    for name, corpus in content["corpora"].items():
        for part in (name, *corpus["splits"], *corpus["trials"]):
            _check_name(path, part)
    return Pack(folder, content["archives"], content["corpora"])


def _check_name(path: Path, name: str) -> None:
    if "/" in name or not is_safe(name):
        raise BenchmarkError(f"{path} names {name!r}, which is no name of a file in its folder; pack the corpus again")


def load_corpus(folder: Path, name: str) -> Corpus | None:
    """A corpus of a pack, as its own reader found it; ``None``: the folder holds no pack.

    Raises:
        BenchmarkError: the pack does not hold the corpus, or is damaged.
    """
    if not is_pack(folder):
        return None
    found = read(folder)
    if name not in found.corpora:
        held = registry.suggest(name, list(found.corpora), noun="it holds")
        raise BenchmarkError(f"{folder} is a pack without the corpus '{name}'. {held}")
    entry = found.corpora[name]
    splits: dict[str, list[Utterance]] = {}
    for split, count in entry["splits"].items():
        splits[split] = manifest.read(folder / f"{name}.{split}.jsonl", entry["labels"]) if count else []
        if len(splits[split]) != count:
            raise BenchmarkError(
                f"{folder / f'{name}.{split}.jsonl'} has {len(splits[split]):,} utterances of {count:,}; pack the "
                "corpus again"
            )
    ids = {u.id for those in splits.values() for u in those} if entry["trials"] else set()
    lists = {trials: folder / f"{name}.{trials}.txt" for trials in entry["trials"]}
    return Corpus(entry["corpus"], splits, Lists(lists, ids))


class Lists(Mapping[str, list[Trial]]):
    """Trial lists, each read on access.

    Args:
        paths: by name.
        ids: the utterances that exist.
    """

    def __init__(self, paths: Mapping[str, Path], ids: set[str]) -> None:
        self._paths, self._ids = paths, ids

    def __getitem__(self, name: str) -> list[Trial]:
        """Raises :class:`BenchmarkError` on a malformed list."""
        return read_trials(self._paths[name], self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


# ------------------------------------------------------------------------------------------------- checking, and back


def verify(folder: Path, workers: int = 2) -> list[str]:
    """What is wrong with a pack: archives that are missing or changed (SHA-256), and indices that are not of what the
    archives hold. Reads all of it.

    Raises:
        BenchmarkError: ``pack.json`` cannot be read.
    """
    found = read(folder)
    total = sum(one["size"] for one in found.archives)
    with ThreadPoolExecutor(workers) as pool, tqdm(
        total=total, desc="verifying", unit="B", unit_scale=True, leave=False, delay=1.0
    ) as bar:  # fmt: skip
        problems = list(pool.map(lambda one: _wrong(folder / one["name"], one, bar.update), found.archives))
    return [problem for some in problems for problem in some]


def _wrong(path: Path, entry: Mapping[str, Any], done: Callable[[int], object]) -> list[str]:
    try:
        size, state = path.stat().st_size, hashlib.sha256()
        if size != entry["size"]:
            return [f"{path} has {size:,} bytes of {entry['size']:,}"]
        with open(path, "rb") as file:
            while data := file.read(_CHUNK):
                state.update(data)
                done(len(data))
        if state.hexdigest() != entry["sha256"]:
            return [f"{path} is not as it was written (SHA-256 {state.hexdigest()}, expected {entry['sha256']})"]
        index = list(Index(Path(f"{path}{ENDING}"), size))
        held = sorted(archives.listed(str(path)), key=lambda member: os.fsencode(member.name))
    except (BenchmarkError, OSError) as error:
        return [str(error) if isinstance(error, BenchmarkError) else f"{path} cannot be read: {error.strerror}"]
    if index != held:
        return [f"{path}{ENDING} is not the index of {path.name}; delete it, and pack the corpus again"]
    return []


def unpack(folder: Path, output: Path) -> int:
    """Write the files of a pack as a tree again, those that are not there yet; returns how many there are.

    Raises:
        BenchmarkError: a file would be written outside ``output``, differs in size, or the pack is damaged.
    """
    top = os.path.realpath(output)
    count = 0
    found = read(folder)
    with tqdm(
        total=sum(one["members"] for one in found.archives), desc="unpacking", unit="file", leave=False, delay=1.0
    ) as bar:  # fmt: skip
        for entry in found.archives:
            archive = str(folder / entry["name"])
            try:
                members = archives.index(archive)
            except archives.ArchiveError:
                raise
            except OSError as error:
                raise BenchmarkError(f"{archive} cannot be read: {error.strerror}; fetch or pack it again") from error
            for member in members:
                path = Path(top, member.name)
                if not is_safe(member.name) or not Path(os.path.realpath(path)).is_relative_to(top):
                    raise BenchmarkError(f"{archive} would write {member.name!r} outside of {output}; nothing more is")
                if not (os.path.isfile(path) and os.path.getsize(path) == member.size):
                    _unpack_one(f"{archive}/{member.name}", path)
                count += 1
                bar.update()
    return count


def _unpack_one(member: str, path: Path) -> None:
    """Without waiting for the disk, which would take hours for a million files: a crash leaves files of other sizes."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with archives.open_member(member) as file, open(unfinished, "wb") as out:
            shutil.copyfileobj(file, out, _CHUNK)
        os.replace(unfinished, path)
    except OSError as error:
        raise BenchmarkError(f"cannot unpack {member}: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # names that no file can have
            unfinished.unlink(missing_ok=True)
