"""A few damaged inputs of every reader, which ``make fuzz`` tries thousands of; and what that found, each once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzed_readers import READERS
from fuzzing import Forbidden, Reader, TooLong, fuzz, watched
from made_studies import change, write_cell

from benchmark import config, registry, results, shapes
from benchmark.data.importers import IMPORTERS
from benchmark.engine.prepare import configure
from benchmark.errors import BenchmarkError

QUICK = [name for name in READERS if name not in ("report", "datasets") and not name.startswith("checkpoints: ")]
"""Readers that take a few milliseconds; damaged checkpoints are in test_damaged_checkpoints.py."""


@pytest.mark.medium
@pytest.mark.parametrize("name", QUICK)
def test_damaged_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    outcome = fuzz(READERS[name], 24 // READERS[name].costly, tmp_path / "f")
    assert outcome.findings == {}
    assert outcome.inputs > 3


def nothing(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": [1, 2]}')


def reads(read: Callable[[Path], object]) -> Reader:
    return Reader("x", nothing, read)


def test_the_watch_sees_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of the test."""
    monkeypatch.setattr(fuzzing, "SECONDS", 0.3)

    def spin() -> None:
        while True:
            pass

    outside = tmp_path / "outside"
    for act in (
        lambda: outside.write_text("x"), lambda: os.mkdir(outside), lambda: os.system("true"),
        lambda: os.symlink("/etc/passwd", outside), lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
    ):  # fmt: skip
        (tmp_path / "in").mkdir(exist_ok=True)
        with pytest.raises(Forbidden), watched(tmp_path / "in"):
            act()
        assert not outside.exists()
    with pytest.raises(TooLong), watched(tmp_path / "in"):
        spin()
    with watched(tmp_path / "in"):
        (tmp_path / "in" / "x").write_text("x")


def test_findings_are_counted_and_placed(tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        content = (folder / "a.json").read_bytes()
        if content != b'{"a": [1, 2]}':
            raise KeyError(content)

    outcome = fuzz(reads(read), 20, tmp_path / "f")
    assert (outcome.inputs, outcome.refused, len(outcome.findings)) == (20, 0, 1)
    assert next(iter(outcome.findings)).startswith("KeyError in test_fuzz.py")


# ------------------------------------------------------------------------------------------------------------ findings


@pytest.mark.parametrize(
    ("value", "shape", "found"),
    [
        (1, int, ""), (True, int, "the whole must be an integer, found true"), (1, float, ""), (1.5, int, "the whole"),
        (float("nan"), float, "the whole must be a number, found NaN"), (10**400, float, "the whole must be a number"),
        (None, (str, None), ""), (3, (str, None), "the whole must be text, found 3"),
        ([1, "x"], [int], '[1] must be an integer, found "x"'), ({"a": 1}, {"a": str}, "a must be text, found 1"),
        ({}, {"a": str}, "a is missing"), ({}, {"a?": str}, ""), ({"a": 1}, {"a?": str}, "a must be text"),
        ({"x": {"y": [1]}}, {...: {...: [str]}}, "x.y[0] must be text, found 1"), (3, {"a": str}, "must be an object"),
    ],
)  # fmt: skip
def test_shapes(value: Any, shape: Any, found: str) -> None:
    said = shapes.problem(value, shape)
    assert (said == "") if not found else (found in said)


@pytest.mark.parametrize(
    ("keys", "to", "found"),
    [
        (("metrics", "test"), {"eer": "x"}, 'metrics.test.eer must be a number, found "x"'),
        (("cost",), 3, "cost must be an object, found 3"),
        (("upstream",), {}, "upstream.name is missing"),
        (("warnings",), [{}], "warnings[0] must be text"),
        (("layer_weights",), [None], "layer_weights[0] must be a number"),
        (("regime",), ["frozen"], "regime must be text"),
        (("seed",), 10**400, "seed must be an integer"),
    ],
)
def test_results_of_another_shape_are_refused(keys: tuple[str, ...], to: Any, found: str, tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "verify", "frozen", "all", 0)
    change(folder / "result.json", *keys, to=to)
    path = folder / "result.json"
    with pytest.raises(BenchmarkError) as caught:
        results.check(path, results.read(path))
    assert found in str(caught.value)


def test_configurations_that_say_nothing(tmp_path: Path) -> None:
    for text, message in (
        ("{upstream: {name: '???'}}", "is not complete"),
        ("{upstream: {name: wav2vec2_tiny}, trainer: {max_steps: 0}}", "max_steps"),
    ):
        (tmp_path / "a.yaml").write_text(text)
        file = ("a.yaml", config.read_yaml(tmp_path / "a.yaml"))
        with pytest.raises(BenchmarkError, match=message):
            configure("classify", [file, ("b", {"trainer": {"max_steps": 0}}), file], ["task.label=x"])


def test_damaged_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    READERS["datasets"].write(tmp_path)
    state = tmp_path / "data" / "state.json"
    good = state.read_text()
    for damage in ("3", "{}", '{"_data_files": [{"filename": "state.json"}], "_split": null, "_format_type": 3}'):
        state.write_text(damage)
        with pytest.raises(BenchmarkError):
            IMPORTERS["datasets"](tmp_path / "data", tmp_path / "out")
    state.write_text(good)
    (table,) = (tmp_path / "data").glob("*.arrow")
    offsets = np.arange(4, dtype="<i4").tobytes()  # of three texts of one letter
    assert offsets in table.read_bytes()
    whole = table.read_bytes()
    table.write_bytes(whole.replace(offsets, offsets[:-4] + b"\xff\xff\xff\x7f"))
    with pytest.raises(BenchmarkError, match="is damaged"):  # without a look at them, the process dies
        IMPORTERS["datasets"](tmp_path / "data", tmp_path / "out")
    table.write_bytes(whole)
    state.write_text(json.dumps(json.loads(good) | {"_split": "../../up"}))
    with pytest.raises(BenchmarkError, match=r"cannot name a folder|no dataset at"):
        IMPORTERS["datasets"](tmp_path / "data", tmp_path / "out")


def test_a_report_runs_no_plugin_that_a_folder_names(tmp_path: Path, registries: None) -> None:
    from benchmark.report.clips import at_hand

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    plugins = {"plugins": [str(tmp_path / "evil.py")]}
    folder = write_cell(tmp_path / "run", "verify", "frozen", "all", 0, config=plugins)
    with pytest.raises(BenchmarkError, match="if you trust it, add --plugin"):
        at_hand(folder)
    assert not (tmp_path / "ran").exists()
    registry.load_plugin(tmp_path / "evil.py")
    with pytest.raises(BenchmarkError, match="does not name the downstream"):
        at_hand(folder)


@pytest.mark.parametrize("name", ["evaluation.json", "predictions.jsonl", "result.json"])
def test_results_that_are_nested_too_deeply(name: str, tmp_path: Path) -> None:
    folder = write_cell(tmp_path, "languages", "frozen", "all", 0)
    (folder / name).write_text('{"id": ' + "[" * 10_000 + "\n")
    with pytest.raises(BenchmarkError, match=r"recursion|nested"):
        READERS["results: classes"].read(tmp_path)


def test_a_run_whose_data_root_is_no_path(tmp_path: Path) -> None:
    from benchmark.report.collect import gather

    write_cell(tmp_path, "verify", "frozen", "all", 0, config={"data": {"root": ["x"]}})
    assert len(gather([tmp_path]).runs) == 1


def test_cuts_that_are_nested_too_deeply(tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    READERS["lhotse"].write(tmp_path)
    (tmp_path / "cuts.jsonl").write_text('{"id": ' + "[" * 10_000 + "\n")
    with pytest.raises(BenchmarkError, match="not as lhotse writes it"):
        READERS["lhotse"].read(tmp_path)


def test_a_store_that_is_nested_too_deeply(tmp_path: Path) -> None:
    from benchmark.engine import feature_shards

    (tmp_path / "about.json").write_text("[" * 10_000)
    assert [store.about for store in feature_shards.stores(tmp_path)] in ([], [{}])


SCRIPT = "<script>alert(1)</script>"


def poison(value: Any, keep: frozenset[str]) -> Any:
    """The same with the script in every text, but those under a name of ``keep``."""
    if isinstance(value, dict):
        return {key: one if key in keep else poison(one, keep) for key, one in value.items()}
    if isinstance(value, list):
        return [poison(one, keep) for one in value]
    return f"{value}{SCRIPT}" if isinstance(value, str) else value


@pytest.mark.medium
def test_the_report_escapes_what_others_wrote(tmp_path: Path) -> None:
    """A script in every text of results, predictions and trial lists that the report takes at all."""
    from benchmark.report.page import make

    folders = []
    for task, file in (("verify", "scores.txt"), ("languages", "predictions.jsonl"), ("words", "predictions.jsonl")):
        for regime in ("frozen", "finetuned"):
            folders.append(folder := write_cell(tmp_path / task, task, regime, "all", 0))
            result = json.loads((folder / "result.json").read_text())
            kept = frozenset({"metric", "regime", "evaluated", "task", "budget"})
            (folder / "result.json").write_text(json.dumps(poison(result, kept)))
            about = json.loads((folder / "evaluation.json").read_text())
            about["cluster"] += SCRIPT
            about["clusters"] = {f"{name}{SCRIPT}": f"{of}{SCRIPT}" for name, of in about["clusters"].items()}
            about["classes"] = about["classes"] and [name + SCRIPT for name in about["classes"]]
            (folder / "evaluation.json").write_text(json.dumps(about))
            path = folder / file
            if file == "scores.txt":
                rows = [line.split() for line in path.read_text().splitlines()]
                path.write_text("".join(f"{a} {b}{SCRIPT} {c}{SCRIPT} {d}\n" for a, b, c, d in rows))
            else:
                lines = [poison(json.loads(line), frozenset()) for line in path.read_text().splitlines()]
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = make([tmp_path], replicates=20, title=f"a {SCRIPT}")
    pages = [report.page, *([report.influence.page] if report.influence else [])]
    assert any("&lt;script&gt;" in page for page in pages)
    for page in pages:
        assert "<script" not in page
