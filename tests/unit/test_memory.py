"""What is remembered of files: until they change, for every process, and never at the price of an error."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY

from benchmark import memory

OLD = 1_700_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path, number: int, content: str = "x") -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{n}.wav" for n in range(number)]
    for path in paths:
        path.write_text(content)
        os.utime(path, (OLD, OLD))
    return [str(path) for path in paths]


class Finder:
    """Finds the length of a file, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, paths: list[str]) -> Iterator[tuple[str, Any]]:
        for path in paths:
            self.asked.append(path)
            if os.path.exists(path):
                yield path, len(Path(path).read_text())


def lengths(paths: list[str], kind: str = "length") -> tuple[dict[str, Any], list[str]]:
    find = Finder()
    return memory.remembered(kind, paths, find), find.asked


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    paths = files(tmp_path / "a", 3)
    assert lengths(paths) == (dict.fromkeys(paths, 1), paths)
    assert lengths(paths) == (dict.fromkeys(paths, 1), [])
    Path(paths[0]).write_text("xy")  # another size
    os.utime(paths[0], (OLD, OLD))
    os.utime(paths[1], (OLD, OLD + 1))  # another time
    assert lengths(paths) == ({paths[0]: 2, paths[1]: 1, paths[2]: 1}, paths[:2])
    assert lengths(paths)[1] == []


def test_kinds_do_not_mix(tmp_path: Path) -> None:
    paths = files(tmp_path / "a", 1)
    assert lengths(paths)[1] == lengths(paths, "other")[1] == paths


def test_paths_are_absolute_and_need_not_be_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [*files(tmp_path / "a", 1), os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")]
    Path(paths[1]).write_text("x")
    os.utime(paths[1], (OLD, OLD))
    assert lengths(paths)[1] == paths
    assert lengths(["a/0.wav", os.path.basename(paths[1])]) == ({"a/0.wav": 1, os.path.basename(paths[1]): 1}, [])
    monkeypatch.chdir(tmp_path / "a")
    assert lengths(["0.wav"]) == ({"0.wav": 1}, [])


def test_files_without_a_value_are_not_remembered(tmp_path: Path) -> None:
    paths = [*files(tmp_path / "a", 1), str(tmp_path / "gone.wav"), "\0"]
    assert lengths(paths[:2]) == ({paths[0]: 1}, paths[:2])
    assert lengths(paths[:2]) == ({paths[0]: 1}, paths[1:2])

    def refuse(paths: list[str]) -> Iterator[tuple[str, Any]]:
        yield paths[0], 1
        raise ValueError("broken")

    more = files(tmp_path / "b", 2)
    with pytest.raises(ValueError, match="broken"):
        memory.remembered("length", more, refuse)
    assert lengths(more)[1] == more


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """It may be written again within the resolution of its time of modification."""
    path = str(tmp_path / "new.wav")
    Path(path).write_text("x")
    assert lengths([path]) == lengths([path]) == ({path: 1}, [path])


def test_one_stat_a_file_and_few_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path / "a", 1200)
    lengths(paths)
    stats: list[str] = []
    queries: list[str] = []
    real_stat, real_connect = os.stat, sqlite3.connect

    def stat(path: Any, *more: Any, **options: Any) -> os.stat_result:
        stats.append(str(path))
        return real_stat(path, *more, **options)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = real_connect(*arguments, **options)
        connection.set_trace_callback(queries.append)
        return connection

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(sqlite3, "connect", connect)
    assert lengths(paths)[1] == []
    assert sorted(path for path in stats if path.endswith(".wav")) == sorted(paths)
    assert len([query for query in queries if query.startswith("SELECT")]) == 3


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is selected."""
    said: list[str] = []
    real = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = real(*arguments, **options)
        connection.set_trace_callback(lambda query: said.append(query) if query.startswith("SELECT") else None)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    return said


def test_many_files_are_one_query_until_one_changes(
    tmp_path: Path, queries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MANY", 3)
    paths = files(tmp_path / "a", 4)
    Path(paths[2]).write_text("longer")
    os.utime(paths[2], (OLD, OLD))
    found = {paths[0]: 1, paths[1]: 1, paths[2]: 6, paths[3]: 1}
    assert lengths(paths) == (found, paths)
    queries.clear()
    assert lengths(paths) == (found, [])
    assert [" FROM lists " in query for query in queries] == [True]
    assert lengths(paths[::-1]) == (found, [])  # in another order: file by file
    assert lengths(paths, "other")[1] == paths
    replacement = tmp_path / "replacement"  # of the same size and date
    replacement.write_text("y")
    os.utime(replacement, (OLD, OLD))
    os.replace(replacement, paths[1])
    assert lengths(paths)[1] == [paths[1]]
    assert lengths(paths)[1] == []
    os.unlink(paths[3])
    assert lengths(paths) == ({path: found[path] for path in paths[:3]}, paths[3:])
    Path(paths[3]).write_text("new")  # just now
    assert lengths(paths)[1] == lengths(paths)[1] == paths[3:]


@pytest.mark.parametrize(
    "damage", ["different = 'x'", "different = '[]'", "places = x'00'", "places = x'ff000000ff000000ff000000'"]
)
def test_what_is_kept_of_many_files_is_damaged(
    tmp_path: Path, cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MANY", 3)
    paths = files(tmp_path / "a", 3)
    lengths(paths)
    with sqlite3.connect(cache / memory.FILE) as connection:
        assert connection.execute(f"UPDATE lists SET {damage}").rowcount == 1
    connection.close()
    assert lengths(paths) == (dict.fromkeys(paths, 1), [])


def test_files_that_are_far_away_are_looked_at_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = files(tmp_path / "a", 6)
    lengths(paths)
    monkeypatch.setattr(memory, "_AT_ONCE", 2)
    threads: dict[str, int] = {}
    real = os.stat

    def stat(path: Any, *more: Any, **options: Any) -> os.stat_result:
        threads[str(path)] = threading.get_ident()
        return real(path, *more, **options)

    monkeypatch.setattr(os, "stat", stat)
    for limit, here in ((1e9, 6), (0.0, 2)):
        monkeypatch.setattr(memory, "_FAR", limit)
        assert lengths(paths)[1] == []
        assert [threads[path] for path in paths].count(threading.get_ident()) == here


def test_without_a_place_to_remember(tmp_path: Path, cache: Path) -> None:
    paths = files(tmp_path / "a", 2)
    for obstacle in ("file", "damaged"):
        if obstacle == "file":
            cache.write_text("a file where the folder should be")
        else:
            cache.unlink()
            cache.mkdir()
            (cache / memory.FILE).write_bytes(b"not a database, but long enough to be looked at" * 100)
        for _ in range(2):
            assert lengths(paths) == (dict.fromkeys(paths, 1), paths)


def test_while_another_process_holds_the_lock(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_LOCKED", 0.01)
    paths = files(tmp_path / "a", 2)
    lengths(paths[:1])
    other = sqlite3.connect(cache / memory.FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert lengths(paths) == (dict.fromkeys(paths, 1), paths)
    other.execute("ROLLBACK")
    other.close()
    assert lengths(paths)[1] == paths[1:]


def test_several_processes_at_once(tmp_path: Path) -> None:
    paths = files(tmp_path / "a", 400)
    code = (
        "import json, sys; from benchmark import memory\n"
        "paths = json.loads(sys.stdin.read())\n"
        "found = {}\n"
        "for first in range(0, len(paths), 10):\n"
        "    found |= memory.remembered('length', paths[first:first + 10], lambda ps: [(p, 1) for p in ps])\n"
        "assert found == dict.fromkeys(paths, 1)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for at, process in enumerate(running):
        process.stdin.write(json.dumps(paths if at % 2 else paths[::-1]))  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert lengths(paths) == (dict.fromkeys(paths, 1), [])
