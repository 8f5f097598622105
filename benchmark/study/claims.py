"""Who runs which cell, where several processes or machines share the folder of a study.

A claim is a small file in the folder of a cell, ``.claim.1``. The one that has the highest number counts; whoever takes
a cell over makes the next number, which only one can (``O_EXCL``). Nothing else is asked of the file system: no locks,
and no clock. The owner touches its file every few seconds, and others watch whether its time of modification changes,
by their own stopwatch; what the time is does not matter. A claim whose process is known to be gone (same machine) is
taken over at once, one that has not been touched for :data:`SILENCE`, after that. With the cell done, its claims go.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.errors import BenchmarkError

log = logging.getLogger("wavbench")

BEAT = 5.0
"""Seconds between two touches."""
SILENCE = 60.0
"""Seconds without a touch after which a claim may be taken over."""


@dataclass(frozen=True)
class Owner:
    """A process, as others can tell it apart."""

    host: str
    machine: str
    """Its last start and the processes that it sees: two machines, and two containers, may have one name."""
    pid: int
    started: str
    """When the process was started, in the kernel's ticks: process ids come again."""
    session: str
    """One command that runs the study, on however many machines: a cell that failed in it is not tried again by it."""

    @property
    def gone(self) -> bool:
        """Whether it is known to be gone: it ran on this machine, since its last start."""
        return (self.host, self.machine) == _machine() and _started(self.pid) != self.started


@functools.cache
def _machine() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return socket.gethostname(), f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname(), f"{uuid.getnode():x}"


def _started(pid: int) -> str:
    """When a process was started; empty where there is none, or only what a parent has not yet asked about."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:  # not Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "running"


def this_process(session: str) -> Owner:
    """The owner of what this process claims."""
    return Owner(*_machine(), os.getpid(), _started(os.getpid()), session)


@dataclass(frozen=True)
class Claim:
    """What the file says."""

    path: Path
    number: int
    beat: int
    """Time of modification in nanoseconds: to be compared with itself."""
    state: str
    """``running``, ``free`` (stopped; anybody may go on) or ``failed``."""
    owner: Owner | None
    """``None``: it is being written, or its writer died at it."""


def read(folder: Path) -> Claim | None:
    """The claim that counts of a cell, if there is one."""
    found = None
    for number in range(1, 10**6):
        path = folder / f".claim.{number}"
        try:
            with open(path, encoding="utf-8") as file:  # opening asks a file server for news
                beat, text = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError:
            break
        try:
            values = json.loads(text)
            found = Claim(path, number, beat, values.pop("state"), Owner(**values))
        except (ValueError, TypeError, KeyError, RecursionError):
            found = Claim(path, number, beat, "running", None)
    return found


class Claims:
    """What one process has claimed.

    Args:
        session: of the command that runs the study.
    """

    def __init__(self, session: str) -> None:
        self.owner = this_process(session)
        self._held: dict[Path, Claim] = {}
        self._seen: dict[Path, tuple[int, float]] = {}
        """Claim of another -> its last beat, and when it was first seen, by our stopwatch."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def take(self, folder: Path, silent: int = 0) -> Claim | None:
        """Claim a cell.

        Args:
            folder: of the cell.
            silent: the number of a claim that others have watched for long enough to say that nobody touches it.

        Returns:
            ``None``: it is ours now. Else the claim of the one that has it.

        Raises:
            BenchmarkError: the folder cannot be written.
        """
        last = read(folder)
        if last is not None and last.number != silent and not self.may_take(last):
            return last
        number = 1 if last is None else last.number + 1
        path = folder / f".claim.{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:  # another was faster
            return read(folder) or Claim(path, number, 0, "running", None)
        except OSError as error:
            raise BenchmarkError(
                f"cannot write into {folder}: {error.strerror}. Free some space or choose another folder with -o"
            ) from error
        os.close(descriptor)
        claim = Claim(path, number, 0, "running", self.owner)
        try:
            _write(claim)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise BenchmarkError(
                f"cannot write {path}: {error.strerror}. Free some space or choose another folder with -o"
            ) from error
        with self._lock:
            self._held[folder] = claim
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, daemon=True)
                self._thread.start()
        return None

    def may_take(self, claim: Claim) -> bool:
        """Whether the claim of another stands in nobody's way."""
        if claim.state == "free":
            return True
        if claim.state == "failed":
            return claim.owner is None or claim.owner.session != self.owner.session
        return (claim.owner is not None and claim.owner.gone) or self._silent(claim) > SILENCE

    def _silent(self, claim: Claim) -> float:
        """For how many seconds of ours a claim has not been touched, as far as we have watched it."""
        beat, since = self._seen.get(claim.path, (None, 0.0))
        if beat != claim.beat:
            since = time.monotonic()
            self._seen[claim.path] = claim.beat, since
        return time.monotonic() - since

    def done(self, folder: Path) -> None:
        """The cell is done, which its folder says."""
        with self._lock:
            self._held.pop(folder, None)
        with contextlib.suppress(OSError):
            for path in folder.glob(".claim.*"):
                path.unlink(missing_ok=True)

    def give_up(self, folder: Path, *, failed: bool = False) -> None:
        """Leave a cell to others, or, with ``failed``, to later sessions."""
        with self._lock:
            claim = self._held.pop(folder, None)
        if claim is not None:
            state = "failed" if failed else "free"
            with contextlib.suppress(OSError):
                _write(Claim(claim.path, claim.number, 0, state, claim.owner))

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Whatever is still claimed at the end is left to others."""
        try:
            yield
        finally:
            for folder in list(self._held):
                self.give_up(folder)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                held = list(self._held.items())
            for folder, claim in held:
                with contextlib.suppress(OSError):  # just given up, or a disk that is away
                    if (folder / f".claim.{claim.number + 1}").exists():
                        self._end(folder, claim)
                    os.utime(claim.path)

    def _end(self, folder: Path, claim: Claim) -> None:
        """End this process, which must not write into a cell that is another's."""
        with self._lock:
            if self._held.get(folder) is not claim:
                return
        log.error("%s was taken over by another process while this one stood still; it ends here", folder)
        os._exit(LOST)


LOST = 75
"""Exit status of a process whose cell was taken over."""


def _write(claim: Claim) -> None:
    """Fill a claim's file; a reader meanwhile takes it for one that is running."""
    assert claim.owner is not None
    with open(claim.path, "r+", encoding="utf-8") as file:
        file.write(json.dumps({"state": claim.state, **asdict(claim.owner)}) + "\n")
        file.truncate()


def mark_failed(folder: Path) -> None:
    """Say that the process which had claimed a cell died of it."""
    claim = read(folder)
    if claim is not None and claim.owner is not None and claim.owner.gone:
        with contextlib.suppress(OSError):
            _write(Claim(claim.path, claim.number, 0, "failed", claim.owner))
