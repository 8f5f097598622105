"""``recipes/benchmarks/bench.py`` in its small form, and what it writes."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "recipes" / "benchmarks"))

import bench
import peers
import torch
from common import TINY, made, padded, ragged
from rows import Row, add_ratios, write


@pytest.mark.slow
def test_the_small_form_measures_everything(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "recipes/benchmarks/bench.py"), "--quick", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "bench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == set(bench.PARTS)
    assert [row["way"] for row in rows if row["note"].startswith("not measured")] == []
    for part in ("pass", "step", "memory"):
        assert {row["way"] for row in rows if row["part"] == part} >= set(peers.LOADERS)
    assert all(float(row["value"]) > 0 and row["commit"] and row["machine"] for row in rows)
    (extrapolated,) = [row for row in rows if row["note"].startswith("extrapolated")]
    (run,) = [row for row in rows if (row["part"], row["way"]) == ("run", "s3prl")]
    assert float(extrapolated["value"]) == pytest.approx(45 * float(run["value"]), rel=1e-4)  # 4 states, 1 sum
    assert (tmp_path / "bench.md").read_text().startswith("| what |")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.medium
def test_all_libraries_compute_the_same(tmp_path: Path) -> None:
    """The utterances are alone: in batches, those with a GroupNorm see the padding."""
    peers.write_checkpoint(tmp_path, TINY)
    wavs, lens = padded(ragged(1, 1.0, 1.5))
    found = {}
    for name, load in peers.LOADERS.items():
        way = load(tmp_path)
        way.module.eval()
        with torch.no_grad():
            states = way.states(wavs, lens)
        last = states.states[-1] if name == "ours" else states[-1]
        last = last[0] if isinstance(last, tuple) else last
        found[name] = last.transpose(0, 1) if name == "fairseq" else last
        way.module.train()
        way.last(wavs, lens).square().mean().backward()
        trained = {name for name, parameter in way.module.named_parameters() if parameter.grad is not None}
        assert any("layers.0" in name for name in trained)
        assert not any("feature_extractor" in name for name in trained)
    for name, state in found.items():
        torch.testing.assert_close(state, found["ours"], atol=1e-4, rtol=1e-4, msg=name)


def test_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: Path) -> peers.Way:
        raise ImportError("No module named 'fairseq'")

    monkeypatch.setattr(bench, "LOADERS", {"ours": peers.ours, "fairseq": missing})
    peers.write_checkpoint(tmp_path, TINY)
    measured = bench.Bench(tmp_path, quick=True, architecture=TINY)
    bench.measure_pass(measured)
    (row,) = [row for row in measured.rows if row.way == "fairseq"]
    assert row.value is None
    assert row.note == "not measured: ImportError: No module named 'fairseq'"
    assert "No module named 'fairseq'" in capsys.readouterr().out
    assert {"ours", "ours, bf16"} <= {row.way for row in measured.rows if row.value is not None}


def test_ratios_are_to_ours_in_the_same_group(tmp_path: Path) -> None:
    rows = [
        Row("pass", "batches of 8", "ours", 2.0, "s", [2.0]),
        Row("pass", "batches of 8", "fairseq", 5.0, "s", [5.0]),
        Row("pass", "batches of 1", "ours", 1.0, "s", [1.0]),
        Row("pass", "batches of 1", "fairseq", 4.0, "s", [4.0]),
        Row("pass", "batches of 1", "s3prl", None, "", note="not measured: it is not here"),
        Row("pass", "rate", "ours", 70.0, "%"),
    ]
    add_ratios(rows)
    assert [row.ratio for row in rows] == [None, 2.5, None, 4.0, None, None]
    write(rows, tmp_path)
    assert "not measured: it is not here" in (tmp_path / "bench.md").read_text()


def test_operations_are_counted() -> None:
    """One more block of 50 frames, dimension 64 and 128 in the middle: 2 x 50 x (4 x 64² + 2 x 64 x 128), attention."""
    wav = torch.empty(400 + 49 * 320)
    counted = [bench.operations(made(TINY, encoder_layers=layers), [wav]) for layers in (3, 4)]
    attention = 2 * 2 * 50 * 50 * 64
    assert counted[1] - counted[0] == 2 * 50 * (4 * 64**2 + 2 * 64 * 128) + attention
