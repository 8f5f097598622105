"""Classification by several labels at once, on a corpus made of names only; balanced drawing of classes."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from dataclasses import replace
from itertools import islice, product
from typing import Any

import numpy as np
import pytest
import torch
from tasks import make_task, options

from benchmark.engine.batching import TrainingBatches
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Target, Utterance
from benchmark.registry import downstreams, tasks
from downstream.classify.task import ClassifyConfig, LabelClassification
from downstream.embedders import EmbedderConfig
from downstream.losses import LossConfig
from downstream.slots.task import SlotClassification, SlotClassifier, SlotsConfig

INTENTS = [("on", "light", "hall"), ("on", "music", "none"), ("off", "light", "hall"), ("off", "heat", "none")]
CONFIG = SlotsConfig(labels=["action", "object", "location"])


def speech(split: str, intents: list[tuple[str, str, str]] = INTENTS, speakers: int = 3) -> list[Utterance]:
    return [
        Utterance(
            f"{split}/{s}/{k}", f"/{split}/{s}/{k}.wav", speaker=f"{split}{s}", split=split,
            labels=dict(zip(CONFIG.labels, intent, strict=True)),
        )
        for s in range(speakers)
        for k, intent in enumerate(intents)
    ]  # fmt: skip


def make_corpus(**splits: list[Utterance]) -> Corpus:
    made = {name: speech(name) for name in ("train", "dev", "test")} | splits
    return Corpus("manifests", {name: random.Random(0).sample(those, len(those)) for name, those in made.items()})


@pytest.fixture
def task() -> SlotClassification:
    return make_task(SlotClassification, CONFIG, make_corpus())


def posteriors(task: SlotClassification, right: dict[str, int]) -> dict[str, Any]:
    """Of each test utterance, from one log-posterior of each value; all slots but ``right[id]`` of them are wrong."""
    made = {}
    for u in task.splits.test:
        total = np.zeros(())
        for k, (slot, values) in enumerate(task.slots.items()):
            place = values.index(u.labels[slot])
            logs = np.full(len(values), -5.0)
            logs[place if k < right[u.id] else (place + 1) % len(values)] = -0.1
            total = total[..., None] + logs
        made[u.id] = total.ravel()
    return made


def test_classes_are_the_combinations(task: SlotClassification) -> None:
    slots = {"action": ["off", "on"], "object": ["heat", "light", "music"], "location": ["hall", "none"]}
    assert task.vocabulary() == {"slots": slots}
    assert list(task.classes) == ["|".join(combination) for combination in product(*slots.values())]
    assert task.targets(speech("train")[:2]).tolist() == [[1, 1, 0], [1, 2, 1]]
    assert SlotClassification.requires(CONFIG) == ("action", "object", "location")
    head = SlotClassification.make_head(CONFIG, task.vocabulary(), 12)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "embedder.connector.weight": (256, 12), "embedder.connector.bias": (256,),
        "objective.fc.weight": (7, 256), "objective.fc.bias": (7,),
    }  # fmt: skip
    assert head.mean_suffices


def test_a_combination_is_as_probable_as_its_values() -> None:
    torch.manual_seed(0)
    head = SlotClassifier(12, [2, 3, 2], EmbedderConfig("mean", 8), LossConfig("softmax"))
    features, lengths = torch.randn(5, 9, 12), torch.tensor([9, 3, 1, 9, 4])
    logs = torch.stack(head.predict(features, lengths))
    assert logs.shape == (5, 12)
    assert torch.allclose(logs.exp().sum(1), torch.ones(5))
    slots = [logits.log_softmax(1) for logits in head.logits(features, lengths)]
    for n, (a, o, p) in enumerate(product(range(2), range(3), range(2))):
        assert torch.allclose(logs[:, n], slots[0][:, a] + slots[1][:, o] + slots[2][:, p])
    best = np.stack([np.unravel_index(int(row.argmax()), (2, 3, 2)) for row in logs])
    assert best.tolist() == torch.stack([slot.argmax(1) for slot in slots], dim=1).tolist()
    targets = torch.tensor([[0, 2, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 2, 0]])
    expected = sum(-slot.gather(1, target[:, None]).mean() for slot, target in zip(slots, targets.T, strict=True))
    assert torch.allclose(head.loss(features, lengths, targets), torch.as_tensor(expected))


def test_an_utterance_is_right_where_all_slots_are(task: SlotClassification) -> None:
    right = {u.id: k % 4 for k, u in enumerate(task.splits.test)}
    result = task.evaluate("test", posteriors(task, right))
    assert result.metrics["test"]["accuracy"] == pytest.approx(100 * np.mean([n == 3 for n in right.values()]))
    assert set(result.files) == {
        "predictions.jsonl", *(f"confusion_{slot}.{end}" for slot in CONFIG.labels for end in ("csv", "png"))
    }  # fmt: skip
    for k, slot in enumerate(CONFIG.labels):
        header, *rows = csv.reader(str(result.files[f"confusion_{slot}.csv"]).splitlines())
        assert header == ["reference", *task.slots[slot]]
        diagonal = sum(int(row[1 + n]) for n, row in enumerate(rows))
        assert diagonal == sum(n > k for n in right.values())
    line = json.loads(str(result.files["predictions.jsonl"]).splitlines()[0])
    assert set(line) == {"id", "speaker", "reference", "prediction", "posterior"}
    assert line["reference"].split("|") == [
        {u.id: u for u in task.splits.test}[line["id"]].labels[s] for s in CONFIG.labels
    ]
    assert result.items is not None
    assert result.items.log_posteriors is None  # type: ignore[union-attr]


def test_combinations_that_training_lacks(task: SlotClassification) -> None:
    """Are recognised where each value occurs; a value that does not is named."""
    new = speech("test", [("off", "music", "hall")])
    assert make_task(SlotClassification, CONFIG, make_corpus(test=new)).splits.test
    with pytest.raises(BenchmarkError, match=r"test has 1 combinations that training does not have: off\|door\|hall"):
        make_task(SlotClassification, CONFIG, make_corpus(test=speech("test", [("off", "door", "hall")])))
    left = [u for u in task.splits.train if u.labels["object"] != "heat"]
    with pytest.raises(BenchmarkError, match=r"1 combinations of dev is left: off\|heat\|none.*data.min_seconds$"):
        make_task(SlotClassification, CONFIG, make_corpus(), train=left)
    assert task.splits.train == make_task(SlotClassification, CONFIG, make_corpus()).splits.train


def test_unusable_options_and_data_are_refused() -> None:
    def refused(message: str, config: SlotsConfig = CONFIG, **splits: list[Utterance]) -> None:
        with pytest.raises(BenchmarkError, match=message):
            make_task(SlotClassification, config, make_corpus(**splits))

    refused("task.labels must name two or more labels, each once", replace(CONFIG, labels=["action"]))
    refused("task.labels must name two or more labels", replace(CONFIG, labels=["action", "action", "object"]))
    refused("task.loss.name is 'amsoftmax'", replace(CONFIG, loss=LossConfig("amsoftmax")))
    partly = [replace(u, labels={"action": "on", "object": "light"}) for u in speech("test")]
    refused("'test' of 'manifests' has 12 utterances without the label 'location'", test=partly)
    many = [(f"{k}", f"{k}", f"{k}") for k in range(30)]
    refused("more than 10,000 combinations of values: 30 of action, 30 of object", train=speech("train", many))
    with pytest.raises(BenchmarkError, match="nothing is to be recognised"):
        SlotClassification.make_head(CONFIG, {"slots": {"action": ["on"], "object": ["light"]}}, 12)


def test_what_stands_between_values_is_in_none() -> None:
    """a|b and c, and a and b|c, were one class of two."""
    with pytest.raises(BenchmarkError, match=r"has a '\|' in a label \(on\|off, light, hall\)"):
        make_task(
            SlotClassification, CONFIG, make_corpus(train=speech("train", [*INTENTS, ("on|off", "light", "hall")]))
        )


def test_other_data_and_predictions(task: SlotClassification) -> None:
    other = Corpus("other", {"all": speech("far")})
    scored = make_task(SlotClassification, CONFIG, make_corpus(), Target("all", other))
    assert [u.id for u in scored.splits.test] == sorted(u.id for u in speech("far"))
    assert scored.classes == task.classes
    logs = np.log(np.arange(1, 13) / 78)
    assert SlotClassification.present(CONFIG, task.vocabulary(), logs) == {
        "action": "on", "object": "music", "location": "none", "posterior": pytest.approx(12 / 78, rel=1e-5)
    }  # fmt: skip
    with pytest.raises(BenchmarkError, match="does not fit 12 combinations"):
        SlotClassification.present(CONFIG, task.vocabulary(), logs[:5])


# --- The cards --------------------------------------------------------------------------------------------------------

S3PRL = {  # downstream/{emotion,speech_commands,fluent_commands}/config.yaml at ec8064b5
    "emotion": ("iemocap_fold1_er", 30000, 4, 8, 1000),
    "speech_commands": ("speechcommands_ks", 200000, 32, 1, 5000),
    "fluent_commands": ("fluentspeech_ic", 200000, 32, 1, 5000),
}


@pytest.mark.parametrize("alias", S3PRL)
def test_cards_have_superbs_values(alias: str) -> None:
    name, steps, batch, accumulate, every = S3PRL[alias]
    card: Any = downstreams.get(alias).load()()
    assert card["name"] == name
    config = card["config"]
    made: Any = options(tasks.get(card["task"]).load().Config, **config["task"])
    assert made.head == EmbedderConfig("mean", 256)
    assert made.loss == LossConfig("softmax")
    assert config["data"] == {"crop_seconds": None, "min_seconds": 0.0}
    optim = config["optim"]
    assert (optim["name"], optim["lr"], optim["betas"], optim["clip"]) == ("adam", 1e-4, [0.9, 0.999], 1.0)
    trainer = config["trainer"]
    assert [trainer[key] for key in ("max_steps", "batch_size", "accumulate", "eval_every")] == [
        steps, batch, accumulate, every
    ]  # fmt: skip


def test_folds_differ_in_their_sets_alone() -> None:
    cards: list[Any] = [downstreams.get(f"iemocap_fold{k}_er").load()() for k in range(1, 6)]
    for k, card in enumerate(cards, start=1):
        sets = {name: card["config"]["task"].pop(name) for name in ("train_split", "dev_split", "test_split")}
        assert list(sets.values()) == [f"fold{k}-train", f"fold{k}-dev", f"session{k}"]
        assert f"fold {k} of 5 (test on session {k})" in card["summary"]
        assert card["config"] == cards[0]["config"]


# --- Drawing classes with equal chances -------------------------------------------------------------------------------


def test_classes_are_drawn_with_equal_chances() -> None:
    counts = {"a": 60, "b": 30, "c": 3}
    train = [
        Utterance(f"{value}{k}", f"/{value}{k}", speaker=f"{value}{k}", labels={"x": value})
        for value, count in counts.items()
        for k in range(count)
    ]
    corpus = Corpus("manifests", {"train": train, "dev": train[::7], "test": train[::5]})
    config = ClassifyConfig(label="x", balance=True, shared_speakers=True)
    task = make_task(LabelClassification, config, corpus)
    chances = task.chances()
    assert chances is not None
    classes = [u.labels["x"] for u in task.splits.train]

    def drawn(batches: int, start: int = 0, chances: Any = chances) -> list[int]:
        made = TrainingBatches([1.0] * len(train), 10, seed=3, start=start, chances=chances)
        return [index for batch in islice(made, batches) for _, index in batch]

    seen = Counter(classes[index] for index in drawn(300))
    assert all(0.29 < count / 3000 < 0.38 for count in seen.values()), seen
    assert drawn(300)[1230:] == drawn(177, start=123), "a resumed run draws the same"
    plain = make_task(LabelClassification, replace(config, balance=False), corpus)
    assert plain.chances() is None
    assert Counter(classes[index] for index in drawn(93, chances=None)) == {"a": 600, "b": 300, "c": 30}
