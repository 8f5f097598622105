"""Nearest neighbours of mean states: the formula, the choice on dev, and a run like any other."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve
from test_stacked import CORPUS, CountingUpstream, _registered, corpus  # noqa: F401  a fixture, and what cards name
from toys import ToyUpstream

from benchmark.config import RunConfig
from benchmark.data import audio
from benchmark.engine import prepare
from benchmark.engine.knn import FILE, SUM, NeighbourTrainer
from benchmark.engine.predict import TrainedRun
from benchmark.engine.run import run as run_settings
from benchmark.engine.stopping import Interrupted
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance
from downstream.knn import NearestNeighbours

NEIGHBOURS = [1, 4]


def settings(task: str, *overrides: str) -> RunConfig:
    plain = ["upstream.name=tone_upstream", "probe.solver=knn", f"probe.neighbours={NEIGHBOURS}", "device=cpu",
             "trainer.trackers=[]"]  # fmt: skip
    return prepare.configure(task, [], [*plain, *overrides])


def candidates(folder: Path) -> list[dict[str, str]]:
    with (folder / FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_posteriors_are_the_formula() -> None:
    torch.manual_seed(0)
    train, targets = torch.randn(9, 5), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 1])
    head = NearestNeighbours(5, 4)
    head.remember(train, targets, 3)
    features, lengths = torch.randn(2, 6, 5), torch.tensor([6, 4])
    features[1, 4:] = torch.nan  # padding must not be looked at
    for i, n in enumerate(lengths.tolist()):
        mean = features[i, :n].mean(0)
        cosines = [float(mean @ row / (mean.norm() * row.norm())) for row in train]
        nearest = sorted(range(9), key=lambda row: -cosines[row])[:3]
        votes = [sum(math.exp(cosines[row] / 0.07) for row in nearest if targets[row] == c) for c in range(4)]
        expected = [(vote / sum(votes) + 0.001 / 4) / 1.001 for vote in votes]
        assert head.predict(features, lengths)[i].exp().tolist() == pytest.approx(expected, rel=1e-4)
    found = head.predict_by(features, lengths, [1, 20])  # more than there are: all
    assert [int(row.argmax()) for row in found[1]] == [
        int(targets[(torch.nn.functional.normalize(train, dim=1) @ features[i, :n].mean(0)).argmax()])
        for i, n in enumerate(lengths.tolist())
    ]
    assert all(row.exp().sum().item() == pytest.approx(1, abs=1e-6) for row in found[20])
    fresh = NearestNeighbours(5, 4)
    fresh.load_state_dict(head.state_dict())
    assert all(map(torch.equal, fresh.predict(features, lengths), head.predict(features, lengths)))


def mean_states(utterances: list[Utterance]) -> torch.Tensor:
    """(utterance, state, dim)."""
    upstream = ToyUpstream().eval()
    with torch.no_grad():
        return torch.stack(
            [torch.stack(upstream([audio.load(u, 16000)]).states)[:, 0].mean(1) for u in utterances]
        )  # fmt: skip


@pytest.mark.parametrize(("task", "layer"), [("tone_sid", None), ("tone_lid", 2)])
def test_dev_chooses_state_and_neighbours(
    task: str, layer: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    where = [] if layer is None else ["regime=single_layer", f"featurizer.layer={layer}"]
    config = settings(task, "budget=40utt", *where)
    result = run_settings(config, folder).result
    assert result is not None
    rows = candidates(folder)
    states = ["0", "1", "2", SUM] if layer is None else [str(layer)]
    assert [(row["layer"], row["neighbours"]) for row in rows] == [(s, str(k)) for s in states for k in NEIGHBOURS]
    selection = result["selected"]["metric"]
    best = max(rows, key=lambda row: float(row[selection]))  # the first of equal ones
    assert result["selected"]["value"] == pytest.approx(float(best[selection]), abs=1e-6)
    assert result["metrics"]["dev"]["accuracy"] == pytest.approx(float(best["accuracy"]), abs=1e-6)
    where = "the sum" if best["layer"] == SUM else f"layer {best['layer']}"
    assert f"dev chooses {where}, {best['neighbours']} neighbour" in caplog.text
    weights = {SUM: [1 / 3] * 3}.get(best["layer"], [float(str(k) == best["layer"]) for k in range(3)])
    assert result["layer_weights"] == (pytest.approx(weights) if layer is None else None)
    assert result["state"] == layer
    assert result["cost"]["trainable_parameters"] == 0
    assert result["cost"]["updates"] == 1
    assert result["data"]["train"]["utterances"] == 40
    assert CountingUpstream.ran_over == 40 + 20 + 20

    # test, from the states themselves
    kept = (folder / "budget.txt").read_text().split()
    splits = {name: {u.id: u for u in CORPUS["tones"].splits[name]} for name in ("train", "test")}
    train, test = [splits["train"][name] for name in kept], list(splits["test"].values())
    number = None if best["layer"] == SUM else int(best["layer"])
    means = [x.mean(1) if number is None else x[:, number] for x in (mean_states(train), mean_states(test))]
    label = "speaker" if task == "tone_sid" else "language"
    names = sorted({str(u.label(label)) for u in train})
    head = NearestNeighbours(8, len(names))
    head.remember(means[0], torch.tensor([names.index(str(u.label(label))) for u in train]), int(best["neighbours"]))
    found = head.predict(means[1][:, None], torch.ones(len(test), dtype=torch.int64))
    right = [names[int(row.argmax())] == u.label(label) for row, u in zip(found, test, strict=True)]
    assert result["metrics"]["test"]["accuracy"] == pytest.approx(100 * np.mean(right), abs=1e-4)

    again = run_settings(config, folder, mode="evaluate").result
    assert again is not None
    assert again["metrics"] == result["metrics"]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    predicted = dict(TrainedRun(folder)(test))
    for line in lines:
        assert names[int(predicted[line["id"]].argmax())] == line["prediction"]


def test_verification_is_the_cosine_of_mean_states(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    result = run_settings(settings("tone_sv"), folder).result
    assert result is not None
    rows = candidates(folder)
    assert [row["layer"] for row in rows] == ["0", "1", "2", SUM]
    (chosen,) = [message for message in caplog.messages if message.startswith("dev chooses")]
    assert "neighbour" not in chosen  # none are asked
    best = min(rows, key=lambda row: float(row["eer"]))["layer"]
    utterances = CORPUS["tones"].splits["unseen"]
    states = mean_states(utterances)
    means = states.mean(1) if best == SUM else states[:, int(best)]
    place = {utterance.id: i for i, utterance in enumerate(utterances)}
    labels, scores = [], []
    for line in (folder / "scores.txt").read_text().splitlines():
        label, one, other, score = line.split()
        expected = torch.cosine_similarity(means[place[one]], means[place[other]], dim=0)
        assert float(score) == pytest.approx(float(expected), abs=1e-5)
        labels.append(int(label))
        scores.append(float(score))
    false_alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    at = int(np.argmin(np.abs(1 - hits - false_alarms)))
    assert result["metrics"]["test"]["eer"] == pytest.approx(50 * (1 - hits[at] + false_alarms[at]), abs=3)


def test_a_stopped_search_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings("tone_lid")
    run_settings(config, tmp_path / "whole")
    means, update = NeighbourTrainer._means, Trainer.evaluate

    def stopping(self: NeighbourTrainer, *arguments: Any) -> Any:
        self._stop.requested = True
        return means(self, *arguments)

    def stopped(self: Trainer, split: Any, stop: Any = None) -> Any:
        stop.requested = True
        return update(self, split, stop)

    for kind, name, function in ((NeighbourTrainer, "_means", stopping), (Trainer, "evaluate", stopped)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, function)
            with pytest.raises(Interrupted):
                run_settings(config, tmp_path / "stopped", resume=True)
    run_settings(config, tmp_path / "stopped", resume=True)
    for name in (FILE, "predictions.jsonl", "evaluation.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    cases = {
        r"probe\.solver=knn is for frozen upstreams; regime 'finetune'": ("tone_sid", "regime=finetune"),
        r"probe\.solver=knn needs means of states": ("tone_sid", "featurizer.name=hconv"),
        r"probe\.neighbours is \[\]": ("tone_sid", "probe.neighbours=[]"),
        r"probe\.solver=knn needs room.*features\.limit_gb": ("tone_sid", "features.limit_gb=1e-9"),
    }
    for number, (message, (task, override)) in enumerate(cases.items()):
        with pytest.raises(BenchmarkError, match=message):
            run_settings(settings(task, override), tmp_path / str(number))
    for task, message in (("asr", "tasks with one class an utterance"), ("slots", "asks neighbours for one label")):
        with pytest.raises(BenchmarkError, match=message):
            prepare.task_class({"task": task}).make_neighbour_head(None, {}, 8)
