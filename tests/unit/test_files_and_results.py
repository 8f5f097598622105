from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from benchmark import files, plots, results
from benchmark.commands import table
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Content
from benchmark.tables import Table, number_text

RESULT: dict[str, Any] = dict.fromkeys(results.FIELDS) | {
    "schema": results.SCHEMA,
    "upstream": {"name": "u"},
    "downstream": {"name": "d"},
    "regime": "frozen",
    "budget": {"name": "all", "seed": None},
    "seed": 0,
    "selected": {"step": 3, "metric": "eer", "value": 1.0},
    "metrics": {"dev": {"eer": 5.0}, "test": {"eer": 6.5, "min_dcf_p01": 0.5}},
    "layer_weights": [0.25, 0.75],
    "layer_shares": [-0.1, 1.1],
    "layer_norms": [1.0, 20.0],
    "cost": {
        "updates": 3,
        "audio_seconds_seen": 36.0,
        "upstream_audio_seconds": 40.0,
        "wall_seconds": 2.0,
        "peak_memory_bytes": 2**30,
        "trainable_parameters": 2_000_000,
    },
}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    files.write_atomically(path, lambda file: torch.save({"x": 1}, file))
    before = path.read_bytes()

    def full(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BenchmarkError, match=r"cannot write .*a\.pt: No space left on device.*-a"):
        files.write_atomically(path, full)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.pt"]


def test_torch_on_a_full_disk(tmp_path: Path) -> None:
    """/dev/full takes no byte, like a disk without room."""

    def save(_: BinaryIO) -> None:
        with open("/dev/full", "wb") as full:
            torch.save(torch.zeros(10**6), full)

    with pytest.raises(BenchmarkError, match="No space left on device"):
        files.write_atomically(tmp_path / "a", save)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_disguised(tmp_path: Path) -> None:
    def wrong(file: BinaryIO) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        files.write_atomically(tmp_path / "a", wrong)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results.write(tmp_path / "result.json", RESULT)
    assert results.read(tmp_path / "result.json") == RESULT


def test_undocumented_fields_and_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extra"):
        results.write(tmp_path / "result.json", RESULT | {"extra": 1})
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path / "result.json", RESULT | {"seed": float("nan")})
    assert not (tmp_path / "result.json").exists()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(RESULT | {"schema": 99}))
    with pytest.raises(BenchmarkError, match="schema 99"):
        results.read(tmp_path / "result.json")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(BenchmarkError, match="not a readable result"):
        results.read(tmp_path / "result.json")


def test_the_table_shows_every_metric() -> None:
    text = results.table(RESULT)
    for shown in ("u x d", "6.5000", "0.5000", "5.0000", "min_dcf_p01", "update 3", "1.00 GiB", "2.00 M"):
        assert shown in text


def test_files_of_text_and_bytes(tmp_path: Path) -> None:
    content: dict[str, Content] = {"a.txt": "ä", "b.png": b"\x89", "c.png": lambda: b"drawn"}
    files.write_files(tmp_path, content, figures=False)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ä"
    assert (tmp_path / "b.png").read_bytes() == b"\x89"
    assert not (tmp_path / "c.png").exists()
    files.write_files(tmp_path, content)
    assert (tmp_path / "c.png").read_bytes() == b"drawn"


def test_results_are_collected_into_a_table(tmp_path: Path) -> None:
    more = {"metrics": RESULT["metrics"] | {"other": {"eer": 7.25}}, "state": 4, "regime": "probe", "seed": 1}
    more["budget"] = {"name": "10min", "seed": 1}
    for name, values in (("b", more), ("a", {})):
        results.write(tmp_path / name / "result.json", RESULT | {"state": None} | values)
    shown = results.markdown(results.collect([tmp_path])).splitlines()
    assert shown[2] == "| d | u | frozen | all | 0 | eer 5.0 | eer 6.5, min_dcf_p01 0.500 | 3 | 2 |"
    assert shown[3] == (
        "| d | u | single_layer, layer 4 | 10min | 1 | eer 5.0 | eer 6.5, min_dcf_p01 0.500<br>other: eer 7.2 | 3 | 2 |"
    )
    drawn = RESULT | {"state": None, "upstream": RESULT["upstream"] | {"random_weights": True}}
    assert "| u, random weights | frozen |" in results.markdown([drawn])
    assert "u, random weights x d" in results.table(drawn)
    results.write(tmp_path / "a" / "evaluations" / "dev" / "result.json", RESULT)  # not a run's own result
    assert len(results.collect([tmp_path])) == 2
    with pytest.raises(BenchmarkError, match="no result"):
        results.collect([tmp_path / "nothing"])


def test_the_table_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write(tmp_path / "a" / "result.json", RESULT | {"state": None})
    assert table.main([str(tmp_path)]) == 0
    header, _, line = capsys.readouterr().out.splitlines()
    *_, expected = results.markdown(results.collect([tmp_path])).splitlines()
    assert header.startswith("| folder | downstream |")
    assert line == f"| {tmp_path / 'a'} {expected}"


def test_results_are_rows_of_a_data_frame(tmp_path: Path) -> None:
    train = {"train": {"utterances": 12, "seconds": 1800.0}}
    made = {"commit": "ab12", "device": "cpu, 1 threads"}
    more = {"metrics": RESULT["metrics"] | {"other": {"eer": 7.25}}, "state": 4, "regime": "probe"}
    for name, values in (("b", more), ("a", {"upstream": {"name": "u", "random_weights": True}})):
        result = RESULT | {"state": None, "data": train, "provenance": made} | values
        results.write(tmp_path / name / "result.json", result)
    first, second = results.rows([tmp_path])
    assert first == {
        "folder": str(tmp_path / "a"), "upstream": "u, random weights", "downstream": "d", "regime": "frozen",
        "layer": None, "budget": "all", "seed": 0, "step": 3, "dev/eer": 5.0, "test/eer": 6.5, "test/min_dcf_p01": 0.5,
        **RESULT["cost"], "train_utterances": 12, "train_hours": 0.5, "commit": "ab12", "device": "cpu, 1 threads",
    }  # fmt: skip
    assert (second["regime"], second["layer"], second["other/eer"]) == ("single_layer", 4, 7.25)
    with pytest.raises(BenchmarkError, match="no result"):
        results.rows([tmp_path / "nothing"])


def test_the_layer_plot_is_drawn() -> None:
    figure = plots.layer_weights(RESULT)
    content = plots.png(figure)
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000
    top, bottom = figure.axes
    assert [bar.get_height() for bar in top.patches] == [*RESULT["layer_weights"], *RESULT["layer_shares"]]
    assert [bar.get_height() for bar in bottom.patches] == RESULT["layer_norms"]
    with pytest.raises(BenchmarkError, match="single layer"):
        plots.layer_weights(RESULT | {"layer_weights": None})


# --- Tables -----------------------------------------------------------------------------------------------------------

TABLE = Table(["name", "value"], [["a|b", 1234.5], ["c", None], ["d <e>", 7]], "Title", "Caption.")


def test_one_table_is_text_and_markdown_and_html_and_csv() -> None:
    assert TABLE.text() == "name   value\na|b    1,234\nc          –\nd <e>      7"
    assert TABLE.markdown().splitlines() == [
        "| name | value |", "|---|---|", r"| a\|b | 1,234 |", "| c | – |", "| d <e> | 7 |"
    ]  # fmt: skip
    assert TABLE.csv() == "name,value\na|b,1234.5\nc,\nd <e>,7\n"
    assert 'data-label="name">d &lt;e&gt;</th><td role="cell" class="number" data-label="value">7</td>' in TABLE.html()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1e-12, "0"), (12345.6, "12,346"), (-1.5, "−1.50"), (0.01234, "0.0123"), (99.96, "100.")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number_text(value) == text
