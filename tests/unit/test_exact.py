"""Exact linear probes: scikit-learn's optimum, a refit for every speaker, and a run like any other."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from test_stacked import _registered, corpus  # noqa: F401  a fixture, and what cards name
from torch import Tensor

import wavbench
from benchmark import results
from benchmark.config import RunConfig
from benchmark.engine import prepare
from benchmark.engine.exact import FILE, ExactTrainer, Problem
from benchmark.engine.predict import TrainedRun
from benchmark.engine.run import run as run_settings
from benchmark.engine.stopping import Interrupted
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from downstream.classifier import Classifier
from downstream.embedders import EmbedderConfig
from downstream.losses import LossConfig

Floats = np.ndarray[Any, Any]
PENALTIES = [1.0, 1e-2, 1e-4]


def made(count: int = 150, dim: int = 12, classes: int = 4, layers: int = 1) -> tuple[Tensor, Tensor, Floats]:
    """Overlapping classes of different sizes, features of very different sizes; weights."""
    rng = np.random.default_rng(0)
    targets = np.r_[np.arange(classes), rng.choice(classes, count - classes, p=np.arange(1, classes + 1) / 10)]
    sizes = np.exp(rng.normal(size=dim))
    states = []
    for layer in range(layers):
        informative = rng.normal(size=(classes, dim)) * (layer == 1 or layers == 1)
        states.append(10 * rng.normal(size=dim) + sizes * (informative[targets] + 1.5 * rng.normal(size=(count, dim))))
    return torch.from_numpy(np.stack(states)), torch.from_numpy(targets), rng.uniform(0.5, 2, count)


def scaled(states: Tensor, weights: Floats) -> tuple[Floats, float]:
    """Centred states of a mean variance of 1, and what they were divided by."""
    centred = states.numpy() - np.average(states.numpy(), axis=0, weights=weights)
    scale = math.sqrt(np.average(centred**2, axis=0, weights=weights).mean())
    return centred / scale, scale


def objective(x: Floats, targets: Tensor, weights: Floats, penalty: float, matrix: Floats, bias: Floats) -> float:
    logs = torch.from_numpy(x @ matrix.T + bias).log_softmax(1).numpy()
    loss = -np.average(logs[np.arange(len(x)), targets.numpy()], weights=weights)
    return float(loss + penalty / 2 * (matrix**2).sum())


@pytest.mark.parametrize("dim", [12, 200], ids=["few features", "more features than utterances"])
def test_the_loss_is_scikit_learns(dim: int) -> None:
    states, targets, weights = made(dim=dim)
    x, scale = scaled(states[0], weights)
    for solution in Problem(states, targets, 4, weights).path(PENALTIES, 1e-7):
        share = len(x) * weights / weights.sum()
        theirs = LogisticRegression(C=1 / (len(x) * solution.penalty), tol=1e-9, max_iter=10**5)
        theirs.fit(x, targets.numpy(), sample_weight=share)
        best = objective(x, targets, weights, solution.penalty, theirs.coef_, theirs.intercept_)
        ours = objective(x, targets, weights, solution.penalty, solution.weight.numpy() * scale, solution.bias.numpy())
        assert solution.objective == pytest.approx(ours, abs=1e-9)
        assert ours <= best + 1e-6
        assert ours >= best - solution.excess - 1e-6
        assert solution.excess <= 1e-7
        assert solution.loss == pytest.approx(
            solution.objective - solution.penalty / 2 * (theirs.coef_**2).sum(), abs=1e-3
        )


def test_training_for_long_ends_where_the_solution_is() -> None:
    states, targets, _ = made()
    x, _ = scaled(states[0], np.ones(len(targets)))
    (solution,) = Problem(states, targets, 4).path([1e-3], 1e-6)
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 600)
    inputs = torch.from_numpy(x).float()
    for _ in range(600):
        loss = torch.nn.functional.cross_entropy(layer(inputs), targets) + 1e-3 / 2 * layer.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert solution.objective <= loss.item() + 1e-6
    assert loss.item() == pytest.approx(solution.objective, abs=1e-4)


@pytest.mark.parametrize("size", [(150, 12), (60, 80)], ids=["few features", "more features than utterances"])
def test_layer_weights_are_those_of_ridge_regression(size: tuple[int, int]) -> None:
    states, targets, weights = made(*size, layers=3)
    problem = Problem(states, targets, 4, weights)
    indicators = np.eye(4)[targets.numpy()]

    def ridge(logits: Tensor, penalty: float) -> float:
        x, _ = scaled(torch.tensordot(torch.softmax(logits, 0), states, 1), weights)
        share = weights / weights.sum()
        fitted = Ridge(alpha=penalty, solver="cholesky").fit(x, indicators, sample_weight=share)
        errors = ((indicators - fitted.predict(x)) ** 2).sum(1)
        return float(share @ errors + penalty * (fitted.coef_**2).sum()) / 2

    generator = torch.Generator().manual_seed(0)
    for solution in problem.path([0.1, 1e-3], 1e-6):
        found = solution.layer_weights
        assert torch.softmax(found, 0).argmax() == 1
        least = ridge(found, solution.penalty)
        assert least < ridge(torch.zeros(3).double(), solution.penalty) - 1e-3
        for _ in range(20):
            moved = found + 0.3 * torch.randn(3, generator=generator, dtype=torch.float64)
            assert least <= ridge(moved, solution.penalty) + 1e-6
        x, scale = scaled(torch.tensordot(torch.softmax(found, 0), states, 1), weights)
        ours = objective(x, targets, weights, solution.penalty, solution.weight.numpy() * scale, solution.bias.numpy())
        assert solution.objective == pytest.approx(ours, abs=1e-9)
        (alone,) = Problem(torch.from_numpy(x)[None], targets, 4, weights).path([solution.penalty], 1e-6)
        assert solution.objective == pytest.approx(alone.objective, abs=2e-6)


def test_leaving_out_is_fitting_again_for_each_group() -> None:
    states, targets, weights = made()
    x, _ = scaled(states[0], weights)
    share, indicators = weights / weights.sum(), np.eye(4)[targets.numpy()]
    groups = np.random.default_rng(1).integers(9, size=len(x))
    groups[targets.numpy() == 0] = 3  # the first class goes with its group
    for penalty in PENALTIES:
        scores = Problem(states, targets, 4, weights).leave_out(groups.tolist(), penalty).numpy()
        for group in range(9):
            out = groups == group
            fitted = Ridge(alpha=penalty, solver="cholesky").fit(x[~out], indicators[~out], sample_weight=share[~out])
            rest = share[~out] @ indicators[~out]
            there = rest > 0
            assert np.allclose(scores[out][:, there], fitted.predict(x[out])[:, there] / rest[there], atol=1e-8)
            assert (scores[out][:, ~there] == -np.inf).all()
    alike = Problem(states, targets, 4).leave_out(groups.tolist(), 0.01).argmax(1).numpy()
    names = np.array(["d", "a", "c", "b"])
    assert (wavbench.leave_groups_out(states[0], names[targets], groups, 0.01) == names[alike]).all()
    assert (alike == targets.numpy())[targets.numpy() > 0].mean() > 0.5
    with pytest.raises(BenchmarkError, match=r"shape \(150, 12\) do not fit 149 classes"):
        wavbench.leave_groups_out(states[0], names[targets][1:], groups, 0.01)
    with pytest.raises(BenchmarkError, match="two groups"):
        wavbench.leave_groups_out(states[0], names[targets], np.zeros(150), 0.01)


@pytest.mark.parametrize("size", [(20, 4), (5, 9)], ids=["few classes", "few features"])
def test_the_head_becomes_the_solution(size: tuple[int, int]) -> None:
    dim, classes = size
    head = Classifier(dim, classes, EmbedderConfig("mean", size=min(size)), LossConfig("softmax"))
    generator = torch.Generator().manual_seed(0)
    weight, bias, mean = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((classes, dim), (classes,), (dim,))
    )
    head.set_linear(weight, bias, mean)
    features = torch.randn(3, 7, dim, generator=generator)
    lengths = torch.tensor([7, 2, 5])
    features *= (torch.arange(7) < lengths[:, None])[..., None]
    means = features.sum(1).double() / lengths[:, None]
    expected = ((means - mean) @ weight.T + bias).log_softmax(1)
    assert torch.allclose(head.log_posteriors(features, lengths).double(), expected, atol=1e-4)
    both = [parameter for name, parameter in head.named_parameters() if name.endswith("weight")]
    assert len(both) == 2
    squares = [parameter.square().sum().item() for parameter in both]  # the nuclear norm, each
    assert squares == pytest.approx([float(torch.linalg.svdvals(weight).sum())] * 2, rel=1e-4)


# --- Runs -------------------------------------------------------------------------------------------------------------


def settings(task: str, *overrides: str) -> RunConfig:
    plain = ["upstream.name=tone_upstream", "probe.solver=exact", "device=cpu", "trainer.trackers=[]"]
    plain += ["task.loss.name=softmax"] if task == "tone_sv" else []
    return prepare.configure(task, [], [*plain, *overrides])


def penalties(folder: Path) -> list[dict[str, float]]:
    with (folder / FILE).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("task", "layer"), [("tone_sid", None), ("tone_lid", 2), ("tone_sv", 1)])
def test_a_run_is_solved(task: str, layer: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    where = [] if layer is None else ["regime=single_layer", f"featurizer.layer={layer}"]
    config = settings(task, "data.crop_seconds=0.2", *where)
    result = run_settings(config, folder).result
    assert result is not None
    rows = penalties(folder)
    assert [row["penalty"] for row in rows] == config.probe.regularisation
    assert all(0 < row["loss"] < row["objective"] < 3 and row["excess"] <= config.probe.tolerance for row in rows)
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)
    chosen, metric = result["selected"], result["selected"]["metric"]
    best = (min if metric == "eer" else max)(row[f"dev_{metric}"] for row in rows)
    assert chosen["value"] == rows[chosen["step"] - 1][f"dev_{metric}"] == best
    assert result["cost"]["updates"] == len(rows)
    out = "speaker" if task == "tone_lid" else "session"
    assert result["metrics"][f"train_{out}_out"] == {"accuracy": max(row[f"{out}_out_accuracy"] for row in rows)}
    assert (result["layer_weights"] is None) == (layer is not None)
    if task == "tone_lid" and layer is not None:
        assert result["metrics"]["test"]["accuracy"] > 40  # of 5 languages
    again = run_settings(config, folder, mode="evaluate").result
    assert again is not None
    assert again["metrics"] == result["metrics"]
    utterances = corpus(tmp_path).splits["test"][:3]
    predicted = dict(TrainedRun(folder)(utterances))
    if task == "tone_lid":
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        kept = {line["id"]: line["log_posteriors"] for line in lines}
        for name, logs in predicted.items():
            assert logs.tolist() == pytest.approx(kept[name], abs=2e-3)


def stopped_at_once(check: Any) -> Any:
    """The first of its calls is stopped."""
    calls: list[int] = []

    def stopping(self: ExactTrainer) -> None:
        calls.append(1)
        self._stop.requested = self._stop.requested or len(calls) == 1
        check(self)

    return stopping


@pytest.mark.parametrize("early", [False, True])
def test_a_resumed_run_ends_as_if_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    config = settings("tone_lid")
    run_settings(config, tmp_path / "whole")
    if early:  # before the first penalty is solved
        monkeypatch.setattr(ExactTrainer, "_check_stop", stopped_at_once(ExactTrainer._check_stop))
    evaluate, evaluated = Trainer.evaluate, []

    def stopping(self: Trainer, split: Any, stop: Any = None) -> Any:
        evaluated.append(split)
        if len(evaluated) == 3:
            stop.requested = True
        return evaluate(self, split, stop)

    monkeypatch.setattr(Trainer, "evaluate", stopping)
    with pytest.raises(Interrupted):
        run_settings(config, tmp_path / "stopped")
    assert bool(evaluated) != early
    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    run_settings(config, tmp_path / "stopped", resume=True)
    assert penalties(tmp_path / "stopped") == penalties(tmp_path / "whole")
    seen = [
        results.read(tmp_path / name / "result.json")["cost"]["audio_seconds_seen"] for name in ("stopped", "whole")
    ]
    assert seen[0] == seen[1]
    names = ("predictions.jsonl", "evaluation.json")
    assert [(tmp_path / "stopped" / name).read_bytes() for name in names] == [
        (tmp_path / "whole" / name).read_bytes() for name in names
    ]


def test_what_cannot_be_solved_is_refused(tmp_path: Path) -> None:
    cases = {
        r"not head 'ecapa' with loss 'softmax': add -o task\.head\.name=mean": ("tone_sid", "task.head.name=ecapa"),
        r"not head 'mean' with loss 'aamsoftmax'": ("tone_sv", "task.loss.name=aamsoftmax"),
        r"for frozen upstreams; regime 'finetune'": ("tone_sid", "regime=finetune"),
        r"probe\.regularisation is \[\]": ("tone_sid", "probe.regularisation=[]"),
        r"probe\.regularisation is \[0\.1, 0\.0\]": ("tone_sid", "probe.regularisation=[0.1,0]"),
        r"expected one of.*exact": ("tone_sid", "probe.solver=exactly"),
        r"raise features\.limit_gb": ("tone_sid", "features.limit_gb=1e-9"),
    }
    for number, (message, (task, override)) in enumerate(cases.items()):
        with pytest.raises(BenchmarkError, match=message):
            run_settings(settings(task, override), tmp_path / str(number))
    for task, message in (("asr", "tasks with one class an utterance"), ("slots", "one for each of task.labels")):
        with pytest.raises(BenchmarkError, match=message):
            prepare.task_class({"task": task}).make_linear_head(None, {}, 8)
