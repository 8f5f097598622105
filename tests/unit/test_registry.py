from __future__ import annotations

import sys
import threading
import time
import types
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from benchmark import registry
from benchmark.errors import BenchmarkError
from benchmark.registry import Entry, Registry


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    entries = [Entry("alpha", "math:sqrt", aliases=("first",)), Entry("power", "math:pow", kwargs={})]
    module = ModuleType("toy_table")
    module.entries = lambda: entries  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_table", module)
    return entries


def make() -> Registry:
    return Registry("thing", "wavbench.things", "toy_table:entries")


def points(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> None:
    fake = [
        SimpleNamespace(name=name, value=value, dist=SimpleNamespace(name="their-package")) for name, value in found
    ]
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: fake)


def test_names_and_aliases_load_the_target(table: list[Entry]) -> None:
    assert make().get("alpha").load()(9.0) == 3.0
    assert make().get("first").load()(9.0) == 3.0
    assert make().names() == ["alpha", "power"]


def test_kwargs_are_bound(table: list[Entry]) -> None:
    table.append(Entry("greeting", "builtins:dict", kwargs={"hello": 1}))
    assert make().get("greeting").load()(world=2) == {"hello": 1, "world": 2}


def test_an_unknown_name_suggests(table: list[Entry]) -> None:
    with pytest.raises(BenchmarkError, match=r"unknown thing 'alhpa'\. Did you mean 'alpha'\?.*power"):
        make().get("alhpa")


@pytest.mark.parametrize("name", ["alpha", "first"])
def test_a_taken_name_raises(table: list[Entry], name: str) -> None:
    with pytest.raises(BenchmarkError, match=f"'{name}'.*taken by 'alpha'"):
        make().register(name, len)


def test_a_broken_package_is_named_and_harms_nobody(table: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, ("broken", "no_such_module:thing"), ("alpha", "math:floor"), ("fine", "math:ceil"))
    things = make()
    assert things.get("fine").load()(1.5) == 2
    assert things.get("alpha").load()(9.0) == 3.0  # ours, not theirs
    with pytest.raises(BenchmarkError, match=r"'broken' \(from package their-package\).*no_such_module"):
        things.get("broken").load()
    assert any("their-package" in name for name in things.names())
    with pytest.raises(BenchmarkError, match="taken"):
        things.get("alpha (their-package)").load()


def test_plugin_files(table: list[Entry], tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="not found"):
        registry.load_plugin(tmp_path / "none.py")
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(BenchmarkError, match=r"bad\.py failed with ZeroDivisionError"):
        registry.load_plugin(tmp_path / "bad.py")
    (tmp_path / "good.py").write_text("VALUE = 3")
    registry.load_plugin(tmp_path / "good.py")


def test_what_is_missing(table: list[Entry]) -> None:
    module = sys.modules["toy_table"]
    module.needs = lambda checkpoint, card: f"fetch {card}" if checkpoint is None else None  # type: ignore[attr-defined]
    entry = Entry("big", "builtins:dict", kwargs={"card": "big"}, needs="toy_table:needs")
    assert entry.missing(None) == "fetch big"
    assert entry.missing("file.pt") is None
    assert table[0].missing(None) is None


def test_a_thread_never_sees_half_a_registry() -> None:
    names: list[int] = []

    def slow() -> list[Entry]:
        time.sleep(0.05)
        return [Entry(name, "json:loads") for name in "abc"]

    sys.modules["slow_entries"] = types.ModuleType("slow_entries")
    sys.modules["slow_entries"].entries = slow  # type: ignore[attr-defined]
    registry = Registry("thing", "wavbench.things", "slow_entries:entries")
    threads = [threading.Thread(target=lambda: names.append(len(registry.names()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del sys.modules["slow_entries"]
    assert names == [3, 3, 3, 3]
