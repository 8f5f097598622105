"""Emotions, keywords and intents: heads, losses, metrics and the sets that they are measured on are s3prl's.

s3prl's experts read the same trees, so that everything from the lists to the last gradient is theirs: which utterances
are in which set, what they are labelled, the loss of a batch, the gradient of every parameter and of the features, and
the accuracy of the test set. Only audio is not read: features are random. Classes have another order here (sorted), so
that rows of the last layer are compared under the names of their classes.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import s3prl_support as s3prl
import soundfile
import torch
from s3prl_support import as_ours, error, gradients, largest_error
from torch import Tensor, nn

from benchmark.interfaces import Corpus, Utterance
from benchmark.registry import corpora, downstreams, tasks
from downstream.classification import ClassificationTask
from downstream.classifier import Classifier
from downstream.corpora import iemocap, speech_commands
from downstream.corpora.synthetic import LAYOUTS, SIZES, folders_of
from downstream.embedders import EmbedderConfig
from downstream.losses import LossConfig

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
DIM, SIZE = 12, 16
FOLD = 2
CARDS = {"emotion": f"iemocap_fold{FOLD}_er", "keyword": "speechcommands_ks", "intent": "fluentspeech_ic"}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    with s3prl.precision(request.param):
        torch.manual_seed(0)
        yield request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic trees without their audio, but for the noise, whose length counts. The names of Speech Commands'
    files are such that Google's rule, which s3prl computes, gives the lists."""
    root = tmp_path_factory.mktemp("data")
    size = replace(
        SIZES["test"], iemocap_dialogues=4, commands_speakers=(6, 3, 3), fluent_speakers=(3, 2, 6), fluent_phrases=12
    )
    for corpus in ("iemocap", "speech_commands", "fluent_speech_commands"):
        for folder in folders_of(corpus):
            clips, texts = LAYOUTS[folder].plan(size, 0)
            for path, text in texts.items():
                (root / folder / path).parent.mkdir(parents=True, exist_ok=True)
                (root / folder / path).write_text(str(text))
            for clip in clips:
                (root / folder / clip.path).parent.mkdir(parents=True, exist_ok=True)
                (root / folder / clip.path).touch()
    tree = root / speech_commands.FOLDER
    for noise in (tree / speech_commands.NOISE).iterdir():
        soundfile.write(noise, np.zeros(3 * 16000), 16000)
    for word in (*speech_commands.KEYWORDS, "bed", "cat"):
        shutil.rmtree(tree / word, ignore_errors=True)
        (tree / word).mkdir()
        for speaker in range(40):
            (tree / word / f"{speaker:08x}_nohash_0.wav").touch()
    train, validation = ({path for _, path in found} for found in s3prl.keywords.split_dataset(tree))
    testing = set(tree.glob("*/*_nohash_*.wav")) - train - validation
    for name, paths in (("validation_list.txt", validation), ("testing_list.txt", testing)):
        (tree / name).write_text("".join(f"{path.parent.name}/{path.name}\n" for path in sorted(paths)))
    return root


@dataclass
class Twins:
    """s3prl's expert and our task and head, with the same parameters."""

    expert: Any
    task: ClassificationTask
    head: Classifier
    rows: list[int]
    """Of the expert's last layer, in the order of ours."""
    theirs: dict[str, list[tuple[str, Any]]]
    """Set -> (id of ours, what the expert takes for its label)."""

    def ours(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their parameters, or gradients of them, under our names and in our order."""
        named = as_ours(theirs, s3prl.UTTERANCE_NAMES)
        return {name: value[self.rows] if name.startswith("objective.fc") else value for name, value in named.items()}

    def loss(self, mode: str, features: Sequence[Tensor], labels: Sequence[Any], records: Any) -> Tensor:
        names = [str(number) for number in range(len(labels))]
        loss: Tensor = self.expert(mode, list(features), list(labels), names, records)
        return loss


def small_task(name: str, corpus: Corpus) -> ClassificationTask:
    card: Any = downstreams.get(name).load()()
    kind = tasks.get(card["task"]).load()
    options = card["config"]["task"]
    config = kind.Config(**options)
    assert options["head"] == {"name": "mean", "size": 256}
    config.head, config.loss = EmbedderConfig("mean", size=SIZE), LossConfig(**options["loss"])
    splits = kind.split(config, corpus)
    seconds = {u.id: 1.0 for name in ("train", "dev", "test") for u in splits[name]}
    task: ClassificationTask = kind(config, splits, seconds)
    return task


def emotion_twins(root: Path, folder: Path) -> Twins:
    tree = root / iemocap.FOLDER
    order = {f"Ses{number:02}{short[0]}_{short[1:].replace('i', 'impro').replace('s', 'script')}.txt": place
             for number, session in enumerate(iemocap.ORDER, start=1)
             for place, short in enumerate(session.split())}  # fmt: skip

    def listdir(path: str) -> list[str]:
        """As it came on the machine where s3prl's lists were made."""
        return sorted((entry.name for entry in Path(path).iterdir()), key=lambda name: order.get(name, 99))

    def find_files(path: str) -> list[str]:
        return sorted(map(str, Path(path).rglob("*.wav")))

    sessions = [f"Session{number}" for number in iemocap.SESSIONS]
    (folder / f"Session{FOLD}").mkdir()
    with (
        mock.patch.object(s3prl.emotion_lists, "os", SimpleNamespace(listdir=listdir)),
        mock.patch.object(s3prl.emotion_lists, "find_files", find_files),
    ):
        own = sessions.pop(FOLD - 1)
        s3prl.emotion_lists.preprocess(tree, sessions, folder / own / "train_meta_data.json")
        s3prl.emotion_lists.preprocess(tree, [own], folder / own / "test_meta_data.json")
    with mock.patch("torchaudio.load", return_value=(None, 16000)):
        expert = s3prl.make_expert(s3prl.emotion, s3prl.emotion_config(SIZE, tree, folder, FOLD), DIM)

    def listed(dataset: Any) -> list[tuple[str, int]]:
        return [(Path(item["path"]).stem, dataset.class_dict[item["label"]]) for item in dataset.meta_data]

    everything = listed(expert.train_dataset.dataset)
    theirs = {
        "train": [everything[i] for i in expert.train_dataset.indices],
        "dev": [everything[i] for i in expert.dev_dataset.indices],
        "test": listed(expert.test_dataset),
    }
    task = small_task(CARDS["emotion"], corpora.get("iemocap").load()(root))
    return _twins(expert, task, [expert.test_dataset.class_dict[name] for name in task.classes], theirs)


def keyword_twins(root: Path, folder: Path) -> Twins:
    tree, test = root / speech_commands.FOLDER, root / speech_commands.TEST_FOLDER
    expert = s3prl.make_expert(s3prl.keywords, s3prl.keyword_config(SIZE, tree, test), DIM)

    def listed(dataset: Any, prefix: str = "") -> list[tuple[str, int]]:
        return [(f"{prefix}{path.parent.name}/{path.name}", dataset.class2index[name]) for name, path in dataset.data]

    theirs = {
        "train": listed(expert.train_dataset),
        "dev": listed(expert.dev_dataset),
        "test": listed(expert.test_dataset, "test/"),
    }
    task = small_task(CARDS["keyword"], corpora.get("speech_commands").load()(root))
    return _twins(expert, task, [expert.train_dataset.class2index[name] for name in task.classes], theirs)


def intent_twins(root: Path, folder: Path) -> Twins:
    expert = s3prl.make_expert(s3prl.intents, s3prl.intent_config(SIZE, root / "fluent_speech_commands_dataset"), DIM)
    slots = ("action", "object", "location")
    theirs = {
        name: [
            (
                row["path"].removeprefix("wavs/speakers/"),
                np.array([expert.Sy_intent[slot][row[slot]] for slot in slots]),
            )
            for _, row in frame.iterrows()
        ]
        for name, frame in (("train", expert.train_df), ("dev", expert.valid_df), ("test", expert.test_df))
    }
    task = small_task(CARDS["intent"], corpora.get("fluent_speech_commands").load()(root))
    rows, first = [], 0
    for slot, count in zip(slots, expert.values_per_slot, strict=True):
        rows += [first + expert.Sy_intent[slot][value] for value in task.vocabulary()["slots"][slot]]
        first += count
    return _twins(expert, task, rows, theirs)


def _twins(expert: Any, task: ClassificationTask, rows: list[int], theirs: dict[str, list[tuple[str, Any]]]) -> Twins:
    head = type(task).make_head(task.config, task.vocabulary(), DIM)
    assert isinstance(head, Classifier)
    twins = Twins(expert, task, head, rows, theirs)
    assert sorted(rows) == list(range(len(rows)))
    head.load_state_dict(twins.ours(dict(expert.named_parameters())))
    return twins


MAKERS: dict[str, Callable[[Path, Path], Twins]] = {
    "emotion": emotion_twins, "keyword": keyword_twins, "intent": intent_twins
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def twins(request: pytest.FixtureRequest, root: Path, tmp_path: Path, dtype: torch.dtype) -> Twins:
    return MAKERS[request.param](root, tmp_path)


def silent(name: str) -> bool:
    return re.match(r"_silence_|_background_noise_", name) is not None


def test_the_sets_are_theirs(twins: Twins) -> None:
    """But for silence: s3prl has each recording of noise as one item of train and of dev, ours cuts them in seconds."""
    for name, listed in twins.theirs.items():
        theirs = [item for item, _ in listed if not silent(item)]
        assert len(set(theirs)) == len(theirs)
        assert sorted(theirs) == [u.id for u in twins.task.splits[name] if not silent(u.id)]
    if twins.task.label(twins.task.config) == "keyword":
        noises = {Path(item).name for item, _ in twins.theirs["train"] if silent(item)}
        assert noises == {u.session for u in twins.task.splits.train if silent(u.id)}
        assert len(noises) == 6


@pytest.mark.parametrize("lengths", [(33, 5, 1, 20), (1,), (41,)], ids=str)
def test_loss_and_gradients(twins: Twins, dtype: torch.dtype, lengths: tuple[int, ...]) -> None:
    """Of a batch with padding, too."""
    known = {u.id: u for u in twins.task.splits.train}
    items = [item for item in twins.theirs["train"] if item[0] in known][::7][: len(lengths)]
    features = [torch.randn(n, DIM) for n in lengths]
    padded = nn.utils.rnn.pad_sequence(features, batch_first=True).requires_grad_()
    counts = torch.tensor(lengths)
    records = s3prl.records()
    listed = [feature[:n] for feature, n in zip(padded, lengths, strict=True)]
    theirs = twins.loss("train", listed, [label for _, label in items], records)
    ours = twins.head.loss(padded, counts, twins.task.targets([known[name] for name, _ in items]))
    assert error(ours, theirs) < TOLERANCE[dtype]
    wanted = gradients(theirs, dict(twins.expert.named_parameters()) | {"input": padded})
    got = gradients(ours, dict(twins.head.named_parameters()) | {"input": padded})
    assert all(gradient.any() for gradient in wanted.values())
    assert largest_error(got, twins.ours(wanted)) < TOLERANCE[dtype]


def test_accuracy(twins: Twins, dtype: torch.dtype) -> None:
    """Of the whole test set; weights and features are such that some utterances are right."""
    labels = dict(twins.theirs["test"])
    utterances: Sequence[Utterance] = twins.task.splits.test
    direction = {str(label): torch.randn(DIM) for label in labels.values()}
    features = [0.3 * direction[str(labels[u.id])] + torch.randn(9 + k % 5, DIM) for k, u in enumerate(utterances)]
    optimizer = torch.optim.Adam(twins.expert.parameters(), lr=0.05)
    train = dict(twins.theirs["train"])
    chosen = [u for u in twins.task.splits.train if u.id in train][::3]
    for _ in range(6):
        optimizer.zero_grad()
        drawn = [direction.get(str(train[u.id]), torch.zeros(DIM)) + torch.randn(7, DIM) for u in chosen]
        twins.loss("train", drawn, [train[u.id] for u in chosen], s3prl.records()).backward()
        optimizer.step()
    twins.head.load_state_dict(twins.ours(dict(twins.expert.named_parameters())))
    records = s3prl.records()
    with torch.no_grad():
        twins.loss("test", features, [labels[u.id] for u in utterances], records)
    padded, counts = nn.utils.rnn.pad_sequence(features, batch_first=True), torch.tensor([len(f) for f in features])
    predictions = dict(zip([u.id for u in utterances], twins.head.predict(padded, counts), strict=True))
    result = twins.task.evaluate("test", predictions)
    theirs = float(np.mean(records["acc"]))
    assert 0 < theirs < 1
    assert result.metrics["test"]["accuracy"] == pytest.approx(100 * theirs)
    lines = [json.loads(line) for line in str(result.files["predictions.jsonl"]).splitlines()]
    assert [line["reference"] == line["prediction"] for line in lines] == [bool(right) for right in records["acc"]]
    predicted = [name if isinstance(name, str) else "|".join(name) for name in records["predict"]]
    assert [line["prediction"] for line in lines] == predicted


def test_keywords_are_drawn_as_theirs(root: Path, tmp_path: Path) -> None:
    """A class' chance to be drawn is that of s3prl's ``WeightedRandomSampler``: the same for all twelve."""
    twins = keyword_twins(root, tmp_path)
    chances = twins.task.chances()
    assert chances is not None
    ours, theirs = Counter[str](), Counter[str]()
    for utterance, chance in zip(twins.task.splits.train, chances, strict=True):
        ours[utterance.labels["keyword"]] += chance / sum(chances)
    dataset = twins.expert.train_dataset
    for (name, _), weight in zip(dataset.data, dataset.sample_weights, strict=True):
        theirs[name] += weight / sum(dataset.sample_weights)
    assert ours == pytest.approx(theirs)
    assert ours == pytest.approx(dict.fromkeys(twins.task.classes, 1 / 12))


def test_the_dev_sets_of_emotion() -> None:
    """The places that ``random_split`` gives to s3prl's dev sets, for the sizes of IEMOCAP's five folds."""
    for session in iemocap.PUBLISHED:
        count = sum(iemocap.PUBLISHED) - session
        train = int((1 - 0.2) * count)
        torch.manual_seed(0)
        _, dev = torch.utils.data.random_split(range(count), [train, count - train])  # type: ignore[arg-type]
        assert iemocap.held_out(count) == set(dev.indices)
    assert [len(session.split()) for session in iemocap.ORDER] == [28, 30, 32, 30, 31]
