"""The packages: pinned, fetched, and read without running anything from them."""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from benchmark.errors import BenchmarkError, raise_problems
from benchmark.files import write_atomically
from benchmark.text import from_yaml

PACKAGES = Path(__file__).with_name("packages.yaml")
MIRROR = "https://deb.debian.org/debian"
_PATIENCE = 60
"""Seconds without an answer from a mirror."""


@dataclass(frozen=True)
class Package:
    """One ``.deb`` file, as ``packages.yaml`` names it."""

    name: str
    version: str
    file: str
    """Below a mirror's root."""
    size: int
    """Bytes."""
    sha256: str
    licence: str
    """Of the recordings."""
    credit: str
    """Whom the licence asks to name."""


def read_packages() -> dict[str, Package]:
    """Name -> package, as ``packages.yaml`` has them."""
    table: dict[str, dict[str, Any]] = from_yaml(PACKAGES.read_text(encoding="utf-8"))
    return {name: Package(name, **values) for name, values in table.items()}


def fetch(
    packages: Sequence[Package],
    cache: Path,
    debs: Path | None = None,
    mirror: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Path]:
    """Find or fetch packages, and check them.

    Args:
        packages: which.
        cache: folder where fetched files are kept.
        debs: folder that holds them already; nothing is fetched then.
        mirror: root of a Debian mirror; ``None``: ``apt-get download`` where there is apt, else :data:`MIRROR`.
        say: is told of each file that is fetched.

    Returns:
        Name -> path of the file.

    Raises:
        BenchmarkError: a package is not there, cannot be fetched, or is not the pinned one.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    for package in packages:
        try:
            found[package.name] = _find(package, cache, debs, mirror, say)
        except BenchmarkError as error:
            problems.append(str(error))
    if problems:
        raise_problems(
            "packages of Debian 12 (bookworm)", problems,
            "Versions that left the archive are kept at https://snapshot.debian.org. Files that you fetch yourself can "
            "be given as a folder: --debs FOLDER",
        )  # fmt: skip
    return found


def _find(package: Package, cache: Path, debs: Path | None, mirror: str | None, say: Callable[[str], None]) -> Path:
    if debs is not None:
        at_hand = sorted(debs.glob(f"{package.name}_*.deb"))
        if not at_hand:
            raise BenchmarkError(f"{debs} holds no {package.name}_*.deb (version {package.version})")
        good = [path for path in at_hand if _sha256(path) == package.sha256]
        if not good:
            raise _changed(package, at_hand[0])
        return good[0]
    target = cache / PurePosixPath(package.file).name
    if target.exists():
        if _sha256(target) != package.sha256:
            raise _changed(package, target)
        return target
    say(f"fetching {package.name} {package.version} ({package.size / 1e6:.0f} MB)")
    cache.mkdir(parents=True, exist_ok=True)
    if mirror is None and shutil.which("apt-get"):
        reason = _from_apt(package, cache, target)
        if reason:
            say(f"apt-get has no {package.name} {package.version} ({reason}); trying {MIRROR}")
    if not target.exists():
        _from_mirror(package, target, mirror or MIRROR)
    if _sha256(target) != package.sha256:
        error = _changed(package, target)
        target.unlink()
        raise error
    return target


def _from_apt(package: Package, cache: Path, target: Path) -> str:
    """Fetch by apt, which needs no root; returns why it could not, or nothing."""
    command = ["apt-get", "--quiet", "download", f"{package.name}={package.version}"]
    with tempfile.TemporaryDirectory(dir=cache) as folder:  # apt does not write atomically
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        for path in Path(folder).glob("*.deb"):
            path.replace(target)
    return ""


def _from_mirror(package: Package, target: Path, mirror: str) -> None:
    url = f"{mirror.rstrip('/')}/{package.file}"
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            write_atomically(target, lambda file: shutil.copyfileobj(answer, file))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise BenchmarkError(f"{package.name} {package.version} cannot be fetched from {url}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(package: Package, path: Path) -> BenchmarkError:
    return BenchmarkError(
        f"{path} is not the pinned {package.name} {package.version}: its sha256 is {_sha256(path)}, expected "
        f"{package.sha256}. Another version may have other recordings or texts; give the pinned one"
    )


def unpack(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The wanted files of a package, in memory: nothing is written, and no link is followed.

    Args:
        path: a ``.deb``: an ``ar`` archive with a member ``data.tar.xz``.
        wanted: says of a name, ``usr/share/…``, whether it is wanted.

    Returns:
        Name -> content, sorted by name.

    Raises:
        BenchmarkError: not a package, cut off, or a name that leaves the folder in which it would be unpacked.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_data(path)), mode="r|xz") as archive:
            files: dict[str, bytes] = {}
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise BenchmarkError(f"{path} has a file {member.name!r}, outside the package's own folder")
                content = archive.extractfile(member) if member.isreg() and wanted(str(name)) else None
                if content is not None:
                    files[str(name)] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read as a Debian package: {error}") from error
    return dict(sorted(files.items()))


def _data(path: Path) -> bytes:
    """``data.tar.xz`` of an ``ar`` archive: members of a header of 60 bytes, which ends with the size, and content."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("it is not an ar archive")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name == "data.tar.xz":
                content = file.read(size)
                if len(content) < size:
                    raise ValueError("it is cut off")
                return content
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("it has no data.tar.xz")
