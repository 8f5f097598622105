"""Readers of files that somebody else may have made, under damaged and hostile input.

    python tests/fuzzing.py [--inputs 2000] [--seconds 60] [READER …]        # make fuzz

An input is a function of (seed, reader, number): a good file with bytes changed, or with values of its JSON replaced.
Reading it gives a result or a :class:`BenchmarkError`. Anything else is a finding: another exception, more than a few
seconds, a file opened for writing outside of the reader's folder, a process, a socket, a crash, more memory than a
few GiB. ``tests/unit/test_fuzz.py`` runs a few inputs of each reader, this program as many as it is given.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "unit")]

from benchmark.errors import BenchmarkError  # noqa: E402

SECONDS = 8.0
"""That one input may take, of this process."""
MEMORY = 6 * 2**30
"""Bytes that a process of ``make fuzz`` may take beyond what it starts with."""


@dataclass(frozen=True)
class Reader:
    """Something that reads files."""

    name: str
    write: Callable[[Path], object]
    """Fills a folder with good files."""
    read: Callable[[Path], object]
    """Reads them."""
    damaged: str = "*"
    """Which of them are damaged, a pattern."""
    costly: int = 1
    """By how much fewer inputs it gets, because each takes long."""
    damage: Callable[[Path, random.Random], object] | None = None
    """Damages a folder of its files in place; ``None``: :func:`damage`."""


@dataclass
class Outcome:
    """What came of the inputs of a reader."""

    name: str
    inputs: int = 0
    refused: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    """What, in a line -> the first input that gave it, and where."""


# ------------------------------------------------------------------------------------------------------------- damage

TOKENS = [
    b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r",
    b"\t", b'"', b"'", b",", b":", b"{", b"}", b"[" * 3000, b'{"a":' * 3000, b"../../../etc/passwd", b"/etc/passwd",
    b"9" * 400, b"9" * 5000, b"-1", b"1e999", b"NaN", b"\\ud800", b"%00", b"&a [*a,*a]", b"<script>", b" ",
    b"!!python/object/apply:os.system [touch x]", b"\xe2\x80\xa8", b"0", b"| touch x", b"$(touch x)", b"*a", b"<<: 3",
    b"- ", b"? ",
]  # fmt: skip
VALUES: list[Any] = [
    None, -1, 0, 1, 2**31, 2**70, 0.5, float("nan"), float("inf"), True, False, "", "x", "../../x", "/etc/passwd", "\0",
    "\ud800", "<script>alert(1)</script>", "9" * 5000, [], {}, [1], [[1, 2]], {"a": [1]}, ["x"] * 50, "id1/v/1.wav",
]  # fmt: skip


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, removed, repeated, cut off, or replaced by what readers stumble over."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not found:
            break
        at = int(len(found) * draw.random() ** draw.choice((1, 1, 4)))
        size = draw.choice((1, 1, 2, 4, 8, 64))
        kind = draw.randrange(8)
        if kind == 0:
            found[at] = draw.randrange(256)
        elif kind == 1:
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del found[at : at + size]
        elif kind == 3:
            found[at:at] = found[at : at + size]
        elif kind == 4:
            found[at : at + size] = bytes(draw.choice((0, 255)) for _ in range(size))
        elif kind == 5 and draw.random() < 0.3:
            del found[at:]
        elif kind == 6:
            token = draw.choice(TOKENS)
            found[at : at + draw.choice((0, len(token)))] = token
        else:
            other = int(len(found) * draw.random())
            found[at : at + size] = found[other : other + size]
    return bytes(found)


def damaged_value(value: Any, draw: random.Random, values: list[Any] = VALUES) -> Any:
    """Something inside replaced by one of ``values``, removed, renamed or repeated."""
    if isinstance(value, dict | list) and value and draw.random() < 0.93:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        kind = draw.randrange(10)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[draw.choice(["x", "", "../x", *value])] = value.pop(key)
        elif kind == 2 and isinstance(value, list):
            value.insert(0, copy.deepcopy(draw.choice(value)))
        else:
            value[key] = damaged_value(value[key], draw, values)
        return value
    return copy.deepcopy(draw.choice(values))


def damaged_json(text: str, draw: random.Random) -> str:
    """Of a JSON file, or of a few lines of JSONL."""
    with contextlib.suppress(ValueError):
        return json.dumps(damaged_value(json.loads(text), draw))
    lines = text.splitlines()
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(lines))
        with contextlib.suppress(ValueError):
            lines[at] = json.dumps(damaged_value(json.loads(lines[at]), draw))
    return "\n".join(lines) + "\n"


def damaged_yaml(text: str, draw: random.Random) -> str:
    import yaml

    return str(yaml.safe_dump(damaged_value(yaml.safe_load(text), draw), sort_keys=False))


def damage(folder: Path, pattern: str, draw: random.Random) -> None:
    """Damage one of the files, two now and then."""
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    for path in draw.sample(files, min(len(files), draw.choice((1, 1, 1, 2)))):
        structured = {".json": damaged_json, ".jsonl": damaged_json, ".yaml": damaged_yaml}.get(path.suffix)
        if structured and draw.random() < 0.6:
            path.write_text(structured(path.read_text(encoding="utf-8"), draw), encoding="utf-8")
        else:
            path.write_bytes(damaged_bytes(path.read_bytes(), draw))


# ---------------------------------------------------------------------------------------------------------- watching


class Forbidden(BaseException):
    """What no reader may do; nothing catches it by accident."""


class TooLong(BaseException):
    """An input took too long."""


_allowed: list[str] = []
"""Folders that may be written to, while something is watched; empty: nothing is."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"):
        raise Forbidden(f"{event}{arguments!r:.80}")
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise Forbidden(f"{event} {arguments[1:]!r:.80}")
    paths: list[Any] = []
    if (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ) or event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
        paths = [arguments[0]]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = list(arguments[:2])
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            full = os.path.realpath(os.fsdecode(path))
            if not full.startswith(tuple(_allowed)) and full != os.devnull:
                raise Forbidden(f"{event} {full}")


_hooked = False


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Raise :class:`Forbidden` where something writes elsewhere, starts a process or connects to another machine, and
    :class:`TooLong` after :data:`SECONDS` of this process's time."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True

    def stop(*_: object) -> None:
        raise TooLong(f"over {SECONDS:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    _allowed[:] = [os.path.realpath(folder) + os.sep for folder in folders] + [os.path.realpath(f) for f in folders]
    try:
        yield
    finally:
        _allowed.clear()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(reader: Reader, inputs: int, folder: Path, *, seed: int = 0, seconds: float = 1e9) -> Outcome:
    """Try inputs of a reader, in this process.

    Args:
        reader: what reads.
        inputs: how many.
        folder: to work in, which the good files are kept in.
        seed: of the damage.
        seconds: of this process's time, after which no further input is tried.
    """
    good, work, cache = folder / "good", folder / "work", folder / "cache"
    good.mkdir(parents=True)
    cache.mkdir()
    reader.write(good)
    outcome = Outcome(reader.name)
    environment = os.environ.get("BENCHMARK_CACHE")
    os.environ["BENCHMARK_CACHE"] = str(cache)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(BenchmarkError):  # some of it may be refused
                reader.read(good)  # imports what it needs
            begun = time.process_time()
            for number in range(inputs):
                if time.process_time() - begun > seconds:
                    break
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(good, work)
                draw = random.Random(f"{seed} {reader.name} {number}")
                if reader.damage is None:
                    damage(work, reader.damaged, draw)
                else:
                    reader.damage(work, draw)
                outcome.inputs += 1
                try:
                    with watched(folder):
                        reader.read(work)
                except BenchmarkError:
                    outcome.refused += 1
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    own = next((f for f in reversed(traceback.extract_tb(error.__traceback__))
                                if "/benchmark/" in f.filename or "/upstream/" in f.filename
                                or "/downstream/" in f.filename), place)  # fmt: skip
                    what = f"{type(error).__name__} in {Path(own.filename).name}:{own.lineno} {own.name}"
                    outcome.findings.setdefault(what, f"input {number}: {str(error)[:200]}")
    finally:
        logging.disable(logging.NOTSET)
        if environment is None:
            del os.environ["BENCHMARK_CACHE"]
        else:
            os.environ["BENCHMARK_CACHE"] = environment
    return outcome


# -------------------------------------------------------------------------------------------------------------- main


def _one(reader: Reader, inputs: int, seed: int, seconds: float, folder: Path, result: Any) -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    result.put(fuzz(reader, inputs, folder, seed=seed, seconds=seconds))


def main() -> int:
    """A line a reader; exit status 1 where there are findings."""
    from fuzzed_readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help="default: all")
    parser.add_argument("--inputs", type=int, default=2000, help="of each reader; fewer of slow ones")
    parser.add_argument("--seconds", type=float, default=60, help="of processor time for each reader, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    failed = False
    for name in options.readers or READERS:
        reader, result = READERS[name], context.Queue()
        with tempfile.TemporaryDirectory() as folder:
            arguments = (
                reader,
                options.inputs // reader.costly,
                options.seed,
                options.seconds,
                Path(folder, "f"),
                result,
            )
            process = context.Process(target=_one, args=arguments)
            process.start()
            outcome = None
            while outcome is None and (process.is_alive() or not result.empty()):
                with contextlib.suppress(Exception):
                    outcome = result.get(timeout=1)
            process.join()
        if outcome is None:
            outcome = Outcome(name, findings={f"the process died, exit status {process.exitcode}": "see above"})
        failed |= bool(outcome.findings)
        counts = f"{outcome.inputs:>6,} inputs, {outcome.refused:>6,} refused, {len(outcome.findings)} findings"
        print(f"{name:<28} {counts}",
              flush=True)  # fmt: skip
        for what, where in outcome.findings.items():
            print(f"    {what}: {where}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
