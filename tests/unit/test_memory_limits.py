"""Batches that do not fit into memory, and checkpoints that are not kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import build, configure
from toys import toy_corpus

from benchmark.engine import checkpoint, oom
from benchmark.engine.model import Model
from benchmark.engine.stopping import StopRequest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch, Corpus, HiddenStates


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return toy_corpus(tmp_path_factory.mktemp("toy"))


def limit_memory(monkeypatch: pytest.MonkeyPatch, size: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
    """A device on which no more than ``size`` utterances fit."""
    original = Model._hidden

    def hidden(self: Model, batch: Batch) -> HiddenStates:
        if len(batch.ids) > size:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes.")
        return original(self, batch)

    monkeypatch.setattr(Model, "_hidden", hidden)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_named(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    limit_memory(monkeypatch, 2, error)
    run = configure()
    run.data.crop_seconds = None
    with pytest.raises(BenchmarkError) as raised:
        build(run, corpus, tmp_path).train(StopRequest())
    message = str(raised.value)
    assert "update 1: out of memory for a batch of 3 utterances, of which train" in message
    assert "is the longest (0." in message
    for advice in ("trainer.batch_size=auto", "trainer.batch_size (now 3)", "trainer.accumulate (now 2)", "bf16"):
        assert advice in message


def test_other_errors_are_not_taken_for_it(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Model, "_hidden", fail)
    run = configure()
    run.trainer.auto_batch = True
    with pytest.raises(RuntimeError, match="shapes do not match"):
        build(run, corpus, tmp_path).train(StopRequest())


@pytest.mark.parametrize("size", [2, 1])
def test_the_effective_batch_is_kept(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Split or not, the gradient is that of the mean loss over the whole batch."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    run = configure(max_steps=3, batch_size=5, accumulate=2, eval_batch_size=4)
    run.trainer.auto_batch = True
    whole = build(run, corpus, tmp_path / "whole")
    whole.train(StopRequest())
    limit_memory(monkeypatch, size)
    split = build(run, corpus, tmp_path / "split")
    split.train(StopRequest())
    assert split._part == size
    for name, value in whole.model.trained_state().items():
        torch.testing.assert_close(split.model.trained_state()[name], value, rtol=1e-4, atol=1e-6)
    assert split.costs()["audio_seconds_seen"] == whole.costs()["audio_seconds_seen"]
    assert split.best is not None
    assert whole.best is not None
    assert split.best["value"] == pytest.approx(whole.best["value"], rel=1e-4)


def test_evaluation_falls_back_to_smaller_batches(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(configure(max_steps=1, batch_size=1, accumulate=1, eval_batch_size=8), corpus, tmp_path)
    made.train(StopRequest())
    whole, statistics = made.evaluate("test")
    limit_memory(monkeypatch, 1)
    split, others = made.evaluate("test")
    assert split.metrics["test"] == pytest.approx(whole.metrics["test"], rel=1e-5)
    assert others.frames == statistics.frames
    limit_memory(monkeypatch, 0)
    with pytest.raises(BenchmarkError, match="evaluation: out of memory for a batch of 1 utterances, of which test"):
        made.evaluate("test")


def test_parts_of_a_batch() -> None:
    hidden = HiddenStates([torch.randn(5, 7, 2)], torch.tensor([7, 5, 3, 2, 1]), frames=torch.arange(5))
    targets = (torch.arange(5), [torch.arange(10).view(5, 2)])
    batch = Batch(torch.randn(5, 100), torch.tensor([100, 80, 60, 40, 20]), targets, list("abcde"), hidden)
    parts = list(oom.parts(batch, 2))
    assert [part.ids for part in parts] == [["a", "b"], ["c", "d"], ["e"]]
    assert [part.wavs.shape[1] for part in parts] == [100, 60, 20]
    assert torch.equal(torch.cat([part.targets[1][0] for part in parts]), targets[1][0])
    assert [part.hidden.states[0].shape[1] for part in parts if part.hidden] == [7, 3, 1]
    assert [oom.smaller(size) for size in (2, 3, 4, 5, 8, 9, 50)] == [1, 2, 2, 4, 4, 8, 32]
    assert list(oom.parts(batch, 5)) == [batch]
    with pytest.raises(BenchmarkError, match="targets of type dict"):
        list(oom.parts(replace(batch, targets={}), 2))


@pytest.mark.parametrize("keep", ["all", "best", "none"])
@pytest.mark.parametrize("chosen", [True, False])
def test_what_is_kept(corpus: Corpus, tmp_path: Path, keep: str, chosen: bool) -> None:
    run = configure(max_steps=2)
    made = build(run, corpus, tmp_path)
    made.train(StopRequest())
    size = checkpoint.path(tmp_path, "last").stat().st_size
    checkpoint.prune(tmp_path, keep, chosen=chosen)
    checkpoint.prune(tmp_path, keep, chosen=chosen)  # nothing is left to do
    assert (checkpoint.path(tmp_path, "last").stat().st_size < size) == (keep != "all")
    weights = keep == "all" or (keep == "best" and chosen)
    assert checkpoint.path(tmp_path, "best").exists() == weights
    again = build(run, corpus, tmp_path)
    assert again.resume()
    assert (again.step, again.best) == (made.step, made.best)
    again.train(StopRequest())  # has ended
    if weights:
        again.load_best()
    else:
        with pytest.raises(BenchmarkError, match=r"were not kept \(trainer\.keep\)"):
            again.load_best()
