"""Names -> objects, without importing what is not used.

There are five: :data:`upstreams`, :data:`downstreams`, :data:`tasks`, :data:`corpora` and :data:`regimes`. Each is
filled from

1. the project's own table,
2. entry points of installed packages, in the groups ``wavbench.upstreams`` and so on: ``name = "module:attr"``,
3. files given with ``--plugin``, which call :meth:`Registry.register`.

A name that is taken raises; a name that is unknown raises with the nearest ones; a broken plug-in is named in the
listing, raises when it is used, and takes nothing else down.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmark.interfaces import Upstream


@dataclass(frozen=True)
class Entry:
    """Where one named thing comes from."""

    name: str
    target: str | Callable[..., Any]
    """``"module:attr"``, imported when the entry is used, or the object itself."""
    summary: str = ""
    aliases: tuple[str, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that :meth:`load` binds to the target."""
    needs: str | None = None
    """``"module:attr"`` of a function that takes ``checkpoint`` and the entry's ``kwargs`` and returns what has to be
    fetched before the entry can be used and how, or ``None``."""
    about: str | None = None
    """Upstreams: ``"module:attr"`` of a function that takes the entry's ``kwargs`` and returns what is known without
    loading, under the names of :data:`FACTS`."""
    synthetic: str | None = None
    """Corpora: ``"module:attr"`` of a function that takes the corpus' name and a data root and writes a small synthetic
    corpus in the layout that the entry reads."""
    heard: tuple[str, ...] = ()
    """Corpora: names on upstreams' cards (``pretrained_on``) of corpora with the same recordings or sources."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Corpora: split -> the corpus that it is of, where that is another one."""
    origin: str = "built in"
    problem: str | None = None
    """Why the plug-in that brought this entry is unusable."""

    def load(self) -> Callable[..., Any]:
        """Import the target; with ``kwargs``, bind them."""
        if self.problem is not None:
            raise BenchmarkError(f"'{self.name}' (from {self.origin}) cannot be used: {self.problem}")
        target = self.target
        if isinstance(target, str):
            try:
                target = pkgutil.resolve_name(target)
            except Exception as error:  # whatever a plug-in raises while it is imported
                if self.origin == "built in":
                    raise
                raise BenchmarkError(
                    f"'{self.name}' (from {self.origin}) cannot be used: importing {self.target} "
                    f"failed with {type(error).__name__}: {error}"
                ) from error
        return functools.partial(target, **self.kwargs) if self.kwargs else target

    def missing(self, checkpoint: str | None) -> str | None:
        """What has to be fetched before this entry can be used, and how; ``None``: nothing that is known of."""
        if self.needs is None:
            return None
        found: str | None = pkgutil.resolve_name(self.needs)(checkpoint=checkpoint, **self.kwargs)
        return found

    def facts(self) -> dict[str, Any]:
        """What is known of an upstream without loading it, under the names of :data:`FACTS`; ``None`` where nothing is.

        Raises:
            BenchmarkError: the plug-in that brought it is unusable.
        """
        if self.about is None:
            target = self.load()
            known = {name: getattr(target, name, None) for name in FACTS}  # of a class; a function has none
        else:
            known = dict(pkgutil.resolve_name(self.about)(**self.kwargs))
        return {name: value if isinstance(value := known.get(name), int | str) else None for name in FACTS}


FACTS = ("parameters", "num_states", "hidden_size", "sample_rate", "frame_shift", "licence", "data")
"""Of an upstream: how many parameters; :class:`benchmark.interfaces.Upstream`'s attributes; the licence of its weights;
what it was pre-trained on."""


class Registry:
    """Names of one kind of thing.

    Args:
        kind: singular, as it stands in messages: ``"upstream"``.
        group: the entry-point group of plug-in packages: ``"wavbench.upstreams"``.
        builtin: ``"module:attr"`` of a function that returns the project's own entries.
    """

    def __init__(self, kind: str, group: str, builtin: str) -> None:
        self.kind = kind
        self.group = group
        self._builtin = builtin
        self._entries: dict[str, Entry] | None = None
        self._lock = threading.RLock()

    def _load(self) -> dict[str, Entry]:
        with self._lock:  # another thread waits until all entries are there
            return self._fill()

    def _fill(self) -> dict[str, Entry]:
        if self._entries is None:
            self._entries = {}
            for entry in pkgutil.resolve_name(self._builtin)():
                self._add(entry)
            for point in importlib.metadata.entry_points(group=self.group):
                package = point.dist.name if point.dist else "an unknown package"
                module = point.value.partition(":")[0].partition(".")[0]
                absent = None if importlib.util.find_spec(module) else f"there is no module '{module}'"
                entry = Entry(point.name, point.value, origin=f"package {package}", problem=absent)
                try:
                    self._add(entry)
                except BenchmarkError as error:  # somebody's package must not take the others down
                    name = f"{point.name} ({package})"
                    self._entries[name] = Entry(name, "", origin=f"package {package}", problem=str(error))
        return self._entries

    def _add(self, entry: Entry) -> None:
        entries = self._load()
        for name in (entry.name, *entry.aliases):
            holder = self._find(name)
            if holder is not None:
                raise BenchmarkError(
                    f"{self.kind} name '{name}' of {entry.origin} is taken by '{holder.name}' of {holder.origin}; "
                    "choose another name"
                )
        entries[entry.name] = entry

    def _find(self, name: str) -> Entry | None:
        entries = self._load()
        if name in entries:
            return entries[name]
        return next((entry for entry in entries.values() if name in entry.aliases), None)

    def register(self, name: str, target: Any = None, *, summary: str = "") -> Any:
        """Add a name from a ``--plugin`` file or a notebook; also usable as a decorator."""
        if target is None:
            return lambda decorated: self.register(name, decorated, summary=summary)
        self._add(Entry(name, target, summary=summary, origin=_origin_of(target)))
        return target

    def get(self, name: str) -> Entry:
        """The entry of a name or alias; raises :class:`BenchmarkError` with suggestions."""
        entry = self._find(name)
        if entry is None:
            listed = "wavbench list" if self.kind in ("upstream", "downstream", "regime") else ""
            advice = suggest(name, self.names(aliases=True), listed=listed, total=len(self.names()))
            raise BenchmarkError(f"unknown {self.kind} '{name}'. {advice}")
        return entry

    def names(self, pattern: str = "*", *, aliases: bool = False) -> list[str]:
        """The names of the entries that have a name or alias like ``pattern`` (as in a shell: ``xlsr*``), sorted."""
        entries = [
            entry
            for entry in self._load().values()
            if any(fnmatch.fnmatchcase(name, pattern) for name in (entry.name, *entry.aliases))
        ]
        more = [alias for entry in entries for alias in entry.aliases] if aliases else []
        return sorted([*(entry.name for entry in entries), *more])

    def __contains__(self, name: object) -> bool:
        """Whether this is a name or an alias."""
        return isinstance(name, str) and self._find(name) is not None

    def __iter__(self) -> Iterator[Entry]:
        return iter([self._load()[name] for name in self.names()])


def suggest(name: str, known: list[str], *, noun: str = "available", listed: str = "", total: int | None = None) -> str:
    """``Did you mean 'a' or 'b'? available: …``; a long list is given only where no name is close.

    Args:
        name: what was asked for.
        known: what there is.
        noun: what that is called.
        listed: a command that shows a long list, which is then never given.
        total: how many there are, where ``known`` has aliases too.
    """
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if listed and len(known) > _LONG:
        close = close or difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        noun = f"{noun}: {listed}"
    question = "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?" if close else ""
    if len(known) > _LONG and (close or listed):
        return f"{question} ({total or len(known)} {noun})".strip()
    return f"{question} {noun}: {', '.join(known) or 'none'}".strip()


_LONG = 20
"""Names that a message with a suggestion lists at most."""


def overlay(under: Any, over: Any) -> Any:
    """Mappings merged key by key; anything else is replaced."""
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    return {**under, **{key: overlay(under.get(key), value) for key, value in over.items()}}


def _origin_of(target: Any) -> str:
    module = sys.modules.get(getattr(target, "__module__", ""), None)
    return f"file {module.__file__}" if module is not None and getattr(module, "__file__", None) else "a plug-in"


_PLUGIN = "wavbench_plugin_"
"""Begins the names of the modules of ``--plugin`` files."""


def load_plugin(*paths: str | os.PathLike[str]) -> None:
    """Run ``--plugin`` files, each once; they register what they bring by :meth:`Registry.register`."""
    for path in paths:
        _run_plugin(Path(path).resolve())


def loaded_plugins() -> list[str]:
    """The ``--plugin`` files that this process has run."""
    return [str(module.__file__) for name, module in sys.modules.items() if name.startswith(_PLUGIN)]


def _run_plugin(path: Path) -> None:
    if not path.is_file():
        raise BenchmarkError(f"plug-in file not found: {path}")
    module_name = f"{_PLUGIN}{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise BenchmarkError(f"plug-in {path} is not a Python file (expected a name that ends in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BenchmarkError:
        raise
    except Exception as error:  # whatever the file raises
        del sys.modules[module_name]
        raise BenchmarkError(f"plug-in {path} failed with {type(error).__name__}: {error}") from error


upstreams = Registry("upstream", "wavbench.upstreams", "upstream:entries")
downstreams = Registry("downstream", "wavbench.downstreams", "downstream:entries")
tasks = Registry("task", "wavbench.tasks", "downstream:task_entries")
corpora = Registry("corpus", "wavbench.corpora", "downstream:corpus_entries")
regimes = Registry("regime", "wavbench.regimes", "benchmark.engine:regime_entries")


def takes(factory: Callable[..., Any], argument: str) -> bool:
    """Whether a factory has a parameter of this name, or takes any."""
    parameters = inspect.signature(factory).parameters
    return argument in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


@overload
def list_upstreams(pattern: str = "*") -> list[str]: ...


@overload
def list_upstreams(pattern: str = "*", *, details: Literal[True]) -> list[dict[str, Any]]: ...


def list_upstreams(pattern: str = "*", *, details: bool = False) -> list[str] | list[dict[str, Any]]:
    """The names of the upstreams, plug-ins included, sorted.

    >>> list_upstreams("xls_r*")
    ['xls_r_1b', 'xls_r_2b', 'xls_r_300m']

    Args:
        pattern: as in a shell, matched against names and aliases: ``xlsr*``, ``*voxpopuli*``.
        details: give a row for each, ready for ``pandas.DataFrame``: ``name``, ``summary`` and what is known without
            loading it, as in :data:`FACTS`; ``None``: it is not known.
    """
    names = upstreams.names(pattern)
    return [_details(upstreams.get(name)) for name in names] if details else names


def _details(entry: Entry) -> dict[str, Any]:
    try:
        facts = entry.facts()
    except BenchmarkError:  # a plug-in that cannot be used; the listing says why
        facts = dict.fromkeys(FACTS)
    return {"name": entry.name, "summary": entry.summary, **facts}


def list_downstreams(pattern: str = "*") -> list[str]:
    """The names of the downstream benchmarks, plug-ins included, sorted; ``pattern`` as in :func:`list_upstreams`."""
    return downstreams.names(pattern)


def load_upstream(name: str, *, checkpoint: str | Path | None = None, **options: Any) -> Upstream:
    """Load an upstream, in evaluation mode.

    Args:
        name: a name or alias of :data:`upstreams`.
        checkpoint: a local file, for upstreams that read one.
        options: passed to the upstream's factory; for wav2vec 2.0, :data:`upstream.wav2vec2.OPTIONS` and
            ``random_weights``.

    Returns:
        The upstream; its ``info`` says where it comes from, for ``result.json``.

    Raises:
        BenchmarkError: an unknown name, checkpoint or option, or a factory that fails.
    """
    from benchmark.interfaces import Upstream

    entry = upstreams.get(name)
    factory = entry.load()
    arguments = dict(options) if checkpoint is None else {"checkpoint": checkpoint, **options}
    for argument in arguments:
        if not takes(factory, argument):
            what = "takes no checkpoint (-k)" if argument == "checkpoint" else f"has no option '{argument}'"
            options_taken = list(inspect.signature(factory).parameters)
            raise BenchmarkError(f"upstream '{name}' {what}. " + suggest(argument, options_taken, noun="options"))
    try:
        model = factory(**arguments)
    except BenchmarkError:
        raise
    except Exception as error:  # whatever a plug-in's factory raises
        if entry.origin == "built in":
            raise
        raise BenchmarkError(
            f"upstream '{name}' (from {entry.origin}) failed with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, Upstream):
        raise BenchmarkError(
            f"upstream '{name}' (from {entry.origin}) is a {type(model).__name__}; "
            "expected a benchmark.interfaces.Upstream"
        )
    model.info = {"origin": entry.origin, **getattr(model, "info", {}), "name": entry.name}
    return model.eval()
