"""``wavbench doctor``: what a bug report needs, and what is wrong with this installation.

It has to work where nothing else does: this process imports the standard library only, and whatever may fail or crash
is imported by a second one.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import locale
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark import __version__, cores, results
from benchmark.commands import Parser
from benchmark.files import MARKER, cache_dir

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("probe.py")
PACKAGES = ("wavbench", "benchmark", "upstream", "downstream")
SHOWN = (
    "BENCHMARK_CACHE", "BENCHMARK_DATA", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "LC_CTYPE", "MPLBACKEND",
    "OMP_NUM_THREADS", "PYTHONHASHSEED", "PYTHONPATH", "PYTHONUTF8", "TERM", "TMPDIR", "WANDB_MODE", "XDG_CACHE_HOME",
)  # fmt: skip
"""Environment variables that matter and hold no secrets."""
NEEDED = ("wav", "flac", "mp3", "ogg vorbis", "ogg opus", "nist sphere")
"""Audio that libsndfile has to read."""
LEAST_FREE = 10**9
"""Bytes below which a disk is about to be full."""
TIMEOUT = 300.0
"""Seconds that importing everything may take, from a slow network disk too."""

Section = dict[str, Any]


class Report:
    """What was found: sections of labelled values, and problems with advice."""

    def __init__(self) -> None:
        self.sections: dict[str, Section] = {}
        self.problems: list[dict[str, str]] = []

    def problem(self, what: str, advice: str) -> None:
        """Note that something is wrong, and what to do."""
        self.problems.append({"problem": what, "advice": advice})

    def json(self) -> str:
        """All of it, for machines."""
        return json.dumps({**self.sections, "problems": self.problems}, indent=2)

    def text(self) -> str:
        """All of it, for people; the problems last."""
        lines: list[str] = []
        for title, section in self.sections.items():
            lines += [f"{title}:", *(f"  {label}: {_shown(value)}" for label, value in section.items()), ""]
        for number, problem in enumerate(self.problems, 1):
            lines.append(f"problem {number}: {problem['problem']}. {problem['advice']}")
        return "\n".join([*lines, "" if self.problems else "no problems found"]).rstrip()


def main(argv: Sequence[str]) -> int:
    """``wavbench doctor``. Returns 0 if no problems are found, else 1."""
    parser = Parser(
        "wavbench doctor",
        "Print what a bug report needs, and what is wrong with this installation; exit status 1 if something is.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="*", help="results to look for locks in; default: results")
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="examine this plug-in, too")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(argv)
    report = Report()
    shadowed = _packages(report)
    _platform(report)
    _imports(report, [] if shadowed else [os.path.abspath(path) for path in options.plugin], plugins=not shadowed)
    _data(report)
    _cache(report)
    _folders(report, [Path(folder) for folder in options.folders or ["results"]])
    print(report.json() if options.json else report.text())
    return 1 if report.problems else 0


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    return str(value)


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


# -- packages ----------------------------------------------------------------------------------------------------------


def _packages(report: Report) -> bool:
    """Versions, extras and packages of the same names; returns whether these hide wavbench's own."""
    source = results.provenance("")
    changed = {True: ", changed", False: "", None: ""}[source["dirty"]]
    report.sections["wavbench"] = {
        "version": __version__,
        "commit": f"{source['commit']}{changed}" if source["commit"] else "not a clone",
        "folder": str(ROOT),
    }
    hidden = False
    for name in PACKAGES:
        places = list(dict.fromkeys(_places(name)))
        others = [place for place in places if place != ROOT / name]
        if others:
            report.sections["wavbench"][f"other packages named {name}"] = [str(place) for place in others]
        if places and places[0] in others:
            hidden = True
            report.problem(
                f"Python finds another package named '{name}' before wavbench's own: {places[0]}",
                "Run from another folder, rename that package, or take its folder out of PYTHONPATH.",
            )
    _requirements(report)
    return hidden


def _places(name: str) -> Iterator[Path]:
    """Where packages of a name are, in the order in which Python looks."""
    specs = [finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec")]
    specs += [importlib.machinery.PathFinder.find_spec(name, [entry or "."]) for entry in sys.path]
    for spec in specs:
        if spec is not None:
            place = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
            if place is not None:
                path = Path(place).absolute()
                yield (path.parent if path.name == "__init__.py" else path).resolve()


def _requirements(report: Report) -> None:
    """Versions of what wavbench requires, and which extras are complete."""
    try:
        lines = metadata.requires("wavbench") or []
    except metadata.PackageNotFoundError:
        lines = []
        report.problem("wavbench is not installed", f"pip install -e '{ROOT}'")
    versions: Section = {}
    extras: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = re.match(r"[\w.-]+", requirement.strip())
        assert match is not None
        name, wanted = match[0], requirement.strip()[match.end() :].strip(" ()")
        installed = _version(name)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", marker)
        if extra:
            missing = extras.setdefault(extra[1], [])
            if installed is None:
                missing.append(name)
            continue
        versions[name] = installed or "MISSING"
        advice = f"pip install '{name}{wanted}'"
        if installed is None:
            report.problem(f"{name} is not installed", advice)
        elif not _satisfies(installed, wanted):
            report.problem(f"{name} {installed} is installed, but wavbench needs {wanted}", advice)
    builds = [_version(name) or "" for name in ("torch", "torchaudio")]
    releases, labels = zip(*(build.partition("+")[::2] for build in builds), strict=True)
    other = len({release.rpartition(".")[0] for release in releases}) > 1 or ("" not in labels and len({*labels}) > 1)
    if all(builds) and other:
        report.problem(
            f"torchaudio {builds[1]} is of another build than torch {builds[0]}",
            "Install both at once and from the same index: pip install 'torch==2.11.*' 'torchaudio==2.11.*'",
        )
    report.sections["versions"] = versions
    report.sections["extras"] = {
        name: "installed" if not missing else f"not installed ({', '.join(missing)})"
        for name, missing in sorted(extras.items())
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _satisfies(version: str, wanted: str) -> bool:
    """Whether a version is in a range; true where that cannot be found out."""
    try:
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(wanted).contains(version, prereleases=True)
    except Exception:  # packaging is missing, or broken
        return True


# -- the machine -------------------------------------------------------------------------------------------------------


def _platform(report: Report) -> None:
    memory = None
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not every system has them
        page = os.sysconf("SC_PAGE_SIZE")
        memory = f"{_bytes(os.sysconf('SC_PHYS_PAGES') * page)}, {_bytes(os.sysconf('SC_AVPHYS_PAGES') * page)} free"
    report.sections["platform"] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cores": f"{cores.available()} of {os.cpu_count()}",
        "memory": memory,
        "memory limit": _limit(),
        "encodings": f"files {locale.getpreferredencoding(False)}, names {sys.getfilesystemencoding()}, "
        f"terminal {getattr(sys.stdout, 'encoding', None)}",
        "terminal": f"{shutil.get_terminal_size().columns} columns" if sys.stdout.isatty() else "none",
        **{f"${name}": os.environ[name] for name in SHOWN if name in os.environ},
    }
    if sys.getfilesystemencoding().lower() != "utf-8":
        report.problem(
            f"names of files are in {sys.getfilesystemencoding()}, as the locale says; files whose names have other "
            "characters cannot be opened",
            "Set PYTHONUTF8=1 or LC_ALL=C.UTF-8.",
        )
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        report.problem(f"Python {platform.python_version()} is not supported", "Use 3.11, 3.12 or 3.13.")


def _limit() -> str:
    """Of memory, in a container."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return _bytes(int(text)) if text.isdigit() else "none"
    except OSError:
        return "none"


# -- what has to be imported -------------------------------------------------------------------------------------------


def _imports(report: Report, plugin_files: list[str], *, plugins: bool) -> None:
    """What can be imported, devices, codecs and names: by a second process, which may crash."""
    modules = [
        "numpy", "torch", "torchaudio", "soundfile", "omegaconf", "yaml", "scipy", "sklearn", "matplotlib", "filelock",
        "safetensors", "jiwer", "tqdm",
    ]  # fmt: skip
    arguments = json.dumps([str(ROOT), modules, plugin_files if plugins else None])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-X", "utf8", str(PROBE), arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            cwd=None if _current() else ROOT,
        )
        output, ended = done.stdout, f"exit status {done.returncode}"
    except (subprocess.TimeoutExpired, OSError) as error:
        raw = getattr(error, "stdout", None) or b""
        output, ended = raw if isinstance(raw, str) else raw.decode("utf-8", "replace"), str(error).partition("'")[0]
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    audio: Section = {"libsndfile": next((line["version"] for line in lines if "version" in line), None)}
    devices: Section = {}
    codecs = {line["codec"]: line["reads"] for line in lines if "codec" in line}
    for line in lines:
        if line.get("done") == "devices":
            _devices(report, devices, line)
        elif "error" in line:
            advice = "Install it again: pip install --force-reinstall " + _project(line["done"])
            if not any(f"{_project(line['done'])} is not installed" == p["problem"] for p in report.problems):
                report.problem(f"{line['done']} cannot be imported ({line['error']})", advice)
        elif "broken" in line:
            report.problem(
                f"{line['broken']} cannot be used ({line['reason']})", "Repair or uninstall what it is from."
            )
    if not lines or lines[-1].get("done") != "all":
        culprit = next((line["begun"] for line in reversed(lines) if "begun" in line), "Python itself")
        report.problem(f"Python dies while it tries {culprit} ({ended})", f"Install {_project(culprit)} again.")
    if codecs:
        audio["reads"] = [kind for kind, reads in codecs.items() if reads]
        audio["does not read"] = [kind for kind, reads in codecs.items() if not reads]
        if lacking := [kind for kind in NEEDED if not codecs.get(kind, False)]:
            report.problem(
                f"libsndfile {audio['libsndfile']} cannot read {', '.join(lacking)}",
                "Use the one that comes with soundfile (pip install --force-reinstall soundfile; no libsndfile of "
                "conda or of the system before it), or convert such audio.",
            )
    report.sections["devices"] = devices
    report.sections["audio"] = audio
    report.sections["names"] = {line["counted"]: line["number"] for line in lines if "counted" in line}


def _project(module: str) -> str:
    """The distribution that holds a module."""
    return {"sklearn": "scikit-learn", "yaml": "pyyaml"}.get(module, module)


def _devices(report: Report, devices: Section, found: dict[str, Any]) -> None:
    driver = _driver()
    devices |= {"cuda": found.get("value", []), "torch is built for": found.get("built") or "cpu", "driver": driver}
    if "error" in found:
        report.problem(
            f"CUDA devices cannot be used ({found['error']})", "Update the driver, or run with --device cpu."
        )
    elif driver != "none" and not found["value"] and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        why = f"is built for CUDA {found['built']}" if found["built"] else "is built without CUDA"
        report.problem(
            f"there is an NVIDIA driver ({driver}), but torch {why} and sees no device",
            "Install torch and torchaudio for that driver, or run with --device cpu.",
        )


def _driver() -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    return "none"


# -- folders -----------------------------------------------------------------------------------------------------------


def _data(report: Report) -> None:
    given = os.environ.get("BENCHMARK_DATA")
    root = Path(given or "data").expanduser()
    section: Section = {"folder": f"{root} ({'$BENCHMARK_DATA' if given else 'default; $BENCHMARK_DATA is not set'})"}
    try:
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        made = {folder for folder in folders if (folder / MARKER).exists()}
        section["holds"] = [f"{folder.name} (synthetic)" if folder in made else folder.name for folder in folders]
    except OSError as error:
        section["holds"] = f"nothing ({error.strerror})"
        if given:
            report.problem(
                f"$BENCHMARK_DATA is {given}, which cannot be read ({error.strerror})",
                "Set it to the folder that holds the corpora.",
            )
    report.sections["data"] = section


def _cache(report: Report) -> None:
    folder = cache_dir()
    section: Section = {"folder": str(folder), "writable": _writable(report, folder, "cache", "$BENCHMARK_CACHE")}
    sizes: dict[str, int] = {}
    locks: list[Path] = []
    for path, size in _files(folder):
        kind = path.relative_to(folder).parts[0]
        sizes[kind] = sizes.get(kind, 0) + size
        if path.suffix == ".lock" or path.name == ".lock":
            locks.append(path)
    section |= {kind: _bytes(size) for kind, size in sorted(sizes.items()) if not kind.startswith(".")}
    section["in all"] = _bytes(sum(sizes.values()))
    section["locks held"] = [str(lock) for lock in locks if _held(lock)]
    memory = folder / "memory.sqlite"
    if memory.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"{memory.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                section["files remembered"] = connection.execute("SELECT COUNT(*) FROM memory").fetchone()[0]
        except sqlite3.Error as error:
            if "locked" not in str(error):
                report.problem(f"{memory} is damaged ({error})", "Delete it; it is made anew.")
    report.sections["cache"] = section


def _folders(report: Report, results_folders: list[Path]) -> None:
    section: Section = {}
    try:
        section["temporary files"] = tempfile.gettempdir()
    except OSError as error:
        report.problem(f"there is no folder for temporary files ({error.strerror})", "Set TMPDIR to one.")
    section["current folder"] = _current() or "deleted"
    if not _current():
        report.problem("the current folder has been deleted", "Change to another one.")
    else:
        for folder in results_folders:
            section[str(folder)] = _writable(report, folder, "results folder", "-p")
            locks = (path for path, _ in _files(folder) if path.name == ".lock")
            section[f"running in {folder}"] = [str(lock.parent) for lock in locks if _held(lock)]
    report.sections["folders"] = section


def _writable(report: Report, folder: Path, what: str, how: str) -> str:
    """Whether a folder can be written, or made, and how much room there is; what is wrong becomes a problem."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        report.problem(
            f"the {what} {folder} cannot be written ({error.strerror}: {place})",
            f"Choose another one by {how}, or have its permissions changed.",
        )
        return f"not writable ({error.strerror})"
    if free < LEAST_FREE:
        report.problem(
            f"the disk of the {what} {folder} has {_bytes(free)} left", f"Free some, or choose another by {how}."
        )
    exists = "writable" if place == folder.absolute() else "does not exist yet"
    return f"{exists}, {_bytes(free)} free on its disk"


def _current() -> str | None:
    """The current folder, unless it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """(path, bytes) of every file below a folder that can be read."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                path = Path(parent) / name
                yield path, path.lstat().st_size


def _held(lock: Path) -> bool:
    """Whether a process holds a lock; one that no process holds is only a file."""
    try:
        import fcntl

        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        pass
    return False
