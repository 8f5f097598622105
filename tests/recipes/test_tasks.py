"""Every benchmark on synthetic trees in the official layouts, and own data: train, evaluate, evaluate on other data,
predict.

The registries say what is run: a new card, task or corpus is tested on arrival. In this process, by the functions
behind the commands: starting Python takes longer than these runs.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from benchmark import cli, evaluation, metrics, registry, results
from benchmark.data.manifest import OWN_DATA, read, write
from benchmark.data.trials import write_trials
from benchmark.engine.prepare import Preparer, saved_configuration
from benchmark.interfaces import Utterance
from benchmark.registry import downstreams

# Cards of plug-ins that happen to be installed are their authors' to test.
CARDS: dict[str, Any] = {entry.name: entry.load()() for entry in downstreams if entry.origin == "built in"}
ON_CORPORA = sorted(name for name, card in CARDS.items() if card["corpus"] != OWN_DATA)
OWN = sorted(CARDS.keys() - ON_CORPORA)
COMMON = ["trainer.max_steps=2", "trainer.batch_size=4", "trainer.accumulate=1", "trainer.eval_batch_size=4"]
FEWER = {"dev_speakers": "2", "norm.top_n": "3"}
"""Options that ask for more than the smallest trees have -> what they have."""


class Known(NamedTuple):
    """What is known of a built-in task beside what holds for all."""

    selection: str
    predicted: str
    files: set[str]


KNOWN = {
    "sv": Known("eer", "embedding", {"det.png"}),
    "sid": Known("accuracy", "speaker", set()),
    "lid": Known("macro_accuracy", "language", {"confusion.csv", "confusion.png", "det.png"}),
    "slots": Known("accuracy", "action", {"confusion_action.csv", "confusion_object.png"}),
    "asr": Known("wer", "text", {"hyp_test.trn", "ref_test.trn"}),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> int:
    return cli.run_downstream([str(argument) for argument in arguments])


def task_of(name: str) -> Any:
    return registry.tasks.get(CARDS[name]["task"]).load()


def options(name: str) -> list[str]:
    """Overrides that bring a protocol down to the size of a test."""
    task: Mapping[str, Any] = CARDS[name]["config"]["task"]
    small = ["data.min_seconds=0", *COMMON]
    for key, value in (task.get("head") or {}).items():
        if type(value) is int and value > 16:
            small.append(f"task.head.{key}=16")
    for key, value in FEWER.items():
        parent, _, leaf = key.rpartition(".")
        if leaf in ((task.get(parent) or {}) if parent else task):
            small.append(f"task.{key}={value}")
    if task.get("label") == "":
        small.append("task.label=mood")
    return small


def corpus_of(name: str, root: Path) -> Any:
    return registry.corpora.get(CARDS[name]["corpus"]).load()(root)


def elsewhere(name: str, root: Path, trials: bool) -> str:
    """Another trial list or split of the protocol's corpus, its development data where they are published."""
    card = CARDS[name]
    task = card["config"]["task"]
    corpus = corpus_of(name, root)
    if trials:
        return next(name for name in corpus.trials if name != task["trials"])
    preferred = [task.get("dev_split"), *task.get("dev_splits", ()), "dev", *corpus.splits]
    return next(split for split in preferred if split in corpus.splits)


def predicted(expdir: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["predict", expdir, *files]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def same_without_training(pattern: str, *arguments: object) -> None:
    """Evaluating without training data writes again what is in a folder, byte for byte."""
    (folder,) = Path().glob(pattern)
    paths = [path for path in folder.iterdir() if path.suffix in (".json", ".jsonl", ".txt", ".csv", ".png", ".trn")]
    before = {path: path.read_bytes() for path in paths if path.name not in ("result.json", "log.txt")}
    result = results.read(folder / "result.json")
    for path in before:
        path.unlink()
    assert run("-m", "evaluate", "-p", "run", *arguments) == 0
    written = [path for path in before if path.exists() or "dev" not in path.name]
    assert {path: path.read_bytes() for path in written} == {path: before[path] for path in written}
    assert folder / evaluation.FILE in written
    again = results.read(folder / "result.json")
    for field in again.keys() - {"cost", "warnings"}:
        assert again[field] == result[field], field
    (new,) = [text for text in again["warnings"] if "without them" in text]
    assert new.startswith("the run's training data are not there, and it is evaluated without them: ")


def root_with_test_alone(root: Path, test: Sequence[Utterance]) -> Path:
    """A data root without the audio of training and dev; tables and lists are whole."""
    here = Path("alone")
    kept = {Path(utterance.path).relative_to(root) for utterance in test}
    shutil.copytree(root, here)
    for path in here.rglob("*"):
        if path.suffix in (".wav", ".flac") and path.relative_to(here) not in kept:
            path.unlink()
    for folder in sorted((path for path in here.rglob("*") if path.is_dir()), reverse=True):
        unpacked = folder.name.startswith(("Session", "librispeech_"))  # whole, where it is
        silent = unpacked and not (any(folder.rglob("*.wav")) or any(folder.rglob("*.flac")))
        if silent or all(path.name.endswith(".trans.txt") for path in folder.iterdir()):
            shutil.rmtree(folder)
    return here


@pytest.mark.parametrize("name", ON_CORPORA)
def test_a_benchmark_runs(name: str, corpora_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = CARDS[name]["task"]
    assert run("-u", "wav2vec2_tiny", "-d", name, "--data-root", corpora_root, "-p", "run", "-o", *options(name)) == 0
    result = results.read(Path("run/result.json"))
    assert result["downstream"]["name"] == name
    selection = result["selected"]["metric"]
    assert selection in metrics.METRICS
    assert result["selected"]["value"] == result["metrics"]["dev"][selection]
    assert {"dev", "test"} <= set(result["metrics"])
    for values in result["metrics"].values():
        assert all(np.isfinite(value) and value >= 0 for value in values.values())
    about = evaluation.read_about(Path("run"))
    assert about is not None
    items = evaluation.read_items(Path("run"), about)
    files = {path.name for path in Path("run").iterdir()}
    assert {items.file, "layer_weights.png", "config.yaml", "log.txt"} <= files
    if task in KNOWN:
        assert selection == KNOWN[task].selection
        assert KNOWN[task].files <= files

    other_split = elsewhere(name, corpora_root, trials=about.kind == "trials")
    assert run("-m", "evaluate", "-p", "run", "-t", other_split) == 0
    other = results.read(Path(f"run/evaluations/{other_split}/result.json"))
    assert other["downstream"]["evaluated"] == other_split
    if about.kind != "trials":  # a set that was scored before; VoxLingua107's own dev is the test set
        digest = other["data"]["test"]["digest"]
        (scored,) = [name for name in ("dev", "test") if result["data"][name]["digest"] == digest]
        assert result["metrics"][scored].items() <= other["metrics"]["test"].items()  # which may be calibrated, too
    assert results.read(Path("run/result.json")) == result

    splits, _ = Preparer().splits(saved_configuration(Path("run")))
    alone = root_with_test_alone(corpora_root, splits.test)
    if "test_snorm" in result["metrics"]:
        assert run("-m", "evaluate", "-p", "run", "--data-root", alone) == 1
        assert "the cohort of score normalisation is of training utterances" in capsys.readouterr().err
        raw = ["-o", "task.norm.name=none"]
        assert run("-m", "evaluate", "-p", "run", *raw) == 0
        same_without_training("run/evaluations/rescored-*", *raw, "--data-root", alone)
    else:
        raw = []
        same_without_training("run", "--data-root", alone)
    published = {u.id: u for those in corpus_of(name, corpora_root).splits.values() for u in those}
    write(Path("other.jsonl"), [published[utterance.id] for utterance in splits.test])
    target = ["--test", "other.jsonl", *raw]
    if about.kind == "trials":
        write_trials(Path("list.txt"), splits.sets["test"])
        target += ["--trials", "list.txt"]
    assert run("-m", "evaluate", "-p", "run", *target) == 0
    same_without_training("run/evaluations/other*", *target, "--data-root", "nowhere")

    wav = str(next(path for path in sorted(corpora_root.rglob("*.wav")) if "/1" in str(path)))
    (line,) = predicted("run", [wav], capsys)
    assert line["id"] == wav
    assert len(line) > 1
    assert task not in KNOWN or KNOWN[task].predicted in line


@pytest.fixture
def manifests(corpora_root: Path, tmp_path: Path) -> dict[str, Path]:
    """LibriSpeech as own data; ``language`` is made up."""
    assert cli.main(["prepare", "librispeech", str(corpora_root), "-o", str(tmp_path / "own")]) == 0
    found = {}
    for name, split in (("train", "train-clean-100"), ("dev", "dev-clean"), ("test", "test-clean")):
        labelled = [
            dataclasses.replace(u, split=None, language=("en", "fi")[i % 2])
            for i, u in enumerate(read(tmp_path / "own" / f"{split}.jsonl"))
        ]
        found[name] = tmp_path / f"{name}.jsonl"
        write(found[name], labelled)
    return found


def own(name: str, manifests: dict[str, Path], *more: str) -> int:
    flags = [word for kind, path in manifests.items() for word in (f"--{kind}", path)]
    alphabet = ["task.text.alphabet=librispeech"] if "text" in CARDS[name]["config"]["task"] else []
    return run("-u", "wav2vec2_tiny", "-d", name, *flags, "-p", "run", "-o", *options(name), *alphabet, *more)


def ids(manifest: Path) -> list[str]:
    return [json.loads(line)["id"] for line in manifest.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", OWN)
def test_own_data_runs(name: str, manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    task = CARDS[name]["task"]
    if "task.label=mood" in options(name):
        for split, path in manifests.items():
            moods = [dataclasses.replace(u, labels={"mood": ("calm", "glad")[i % 2]}) for i, u in enumerate(read(path))]
            write(manifests[split], moods)
    if not getattr(task_of(name), "holds_out", True):  # the same speakers everywhere
        train = read(manifests["train"])
        for split, utterances in {"train": train[0::2], "dev": train[1::4], "test": train[3::4]}.items():
            write(manifests[split], utterances)
    assert own(name, manifests) == 0
    result = results.read(Path("run/result.json"))
    assert result["downstream"]["corpus"] == OWN_DATA
    assert result["data"]["train"]["utterances"] == len(ids(manifests["train"]))
    selection = result["selected"]["metric"]
    assert selection in result["metrics"]["test"]
    assert task not in KNOWN or selection == KNOWN[task].selection
    assert run("-m", "evaluate", "-e", "run", "--test", manifests["dev"]) == 0
    (folder,) = Path("run/evaluations").glob("dev-*")
    other = results.read(folder / "result.json")
    about = evaluation.read_about(Path("run"))
    assert about is not None
    if about.kind != "trials":
        assert result["metrics"]["dev"].items() <= other["metrics"]["test"].items()  # which may be calibrated, too
    assert run("-m", "evaluate", "-e", "run", "-t", "dev") == 0
    manifests["train"].rename("moved.jsonl")
    same_without_training("run")
    same_without_training("run/evaluations/dev-*", "--test", manifests["dev"])
    same_without_training("run/evaluations/dev", "-t", "dev")
    lines = predicted("run", [str(manifests["test"])], capsys)
    assert [line["id"] for line in lines] == ids(manifests["test"])
    assert all(len(line) > 1 for line in lines)
    assert task not in KNOWN or all(KNOWN[task].predicted in line for line in lines)
    if "embedding" in lines[0]:
        assert cli.main(["predict", "run", str(manifests["test"]), "-o", "e.npz"]) == 0
        vectors = np.load("e.npz")
        assert vectors[lines[0]["id"]].tolist() == pytest.approx(lines[0]["embedding"], rel=1e-6)


def change(path: Path, **values: Any) -> None:
    """Set fields of the first utterance of a manifest, as a user's mistake would."""
    first, *others = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | values), *others]) + "\n", encoding="utf-8")


def _self_trial(manifests: dict[str, Path]) -> None:
    first, second, *_, last = [u.id for u in read(manifests["test"])]
    manifests["trials"] = manifests["test"].with_name("trials.txt")
    manifests["trials"].write_text(f"1 {first} {second}\n0 {first} {last}\n1 {second} {second}\n")


def _overlap(manifests: dict[str, Path]) -> None:
    manifests["dev"].write_text(manifests["dev"].read_text() + manifests["train"].read_text().splitlines()[0] + "\n")


BAD: dict[str, tuple[str, Any, str]] = {
    "characters outside the alphabet": (
        "asr", lambda m: change(m["test"], text="naïve ω"), r"characters are not in the alphabet .*'[ÏïΩω]'"
    ),
    "an empty transcript": ("asr", lambda m: change(m["train"], text=" "), "train have an empty transcript"),
    "a language in test but not in train": (
        "lid", lambda m: change(m["test"], language="xx"), "languages that training does not have: xx"
    ),
    "a speaker in both train and dev": (
        "sv", lambda m: change(m["dev"], speaker=read(m["train"])[0].speaker), "speakers? .*"
    ),
    "a trial of a file with itself": ("sv", _self_trial, "itself"),
    "an unknown column": ("lid", lambda m: change(m["train"], langauge="en"), "langauge.*language"),
    "overlapping splits": ("asr", _overlap, "train.*dev|dev.*train"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_data_is_named_before_training(
    what: str, manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    task, spoil, message = BAD[what]
    spoil(manifests)
    assert own(task, manifests) == 1
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error
    assert "Traceback" not in error
    assert not Path("run/checkpoints").exists()


@pytest.mark.parametrize("name", OWN)
def test_own_data_that_is_missing_is_asked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-u", "wav2vec2_tiny", "-d", name, "-o", *options(name)]
    assert run(*arguments) == 1
    assert "--train and --test missing" in capsys.readouterr().err
    assert run(*arguments, "--train", "nowhere.jsonl", "--test", "nowhere.jsonl") == 1
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_scoring_options_may_change_after_training(corpora_root: Path, tmp_path: Path) -> None:
    """s3prl's way of decoding: train once, then evaluate with a language model."""
    words = ["-1\t<unk>", "-99\t<s>\t0", "-1\t</s>", "-1\tTHE\t0"]
    header = ["\\data\\", f"ngram 1={len(words)}", "ngram 2=1", "", "\\1-grams:"]
    lines = [*header, *words, "", "\\2-grams:", "-1\t<s> THE", "", "\\end\\"]
    Path("lm.arpa").write_text("\n".join(lines) + "\n")
    arguments = ["-u", "wav2vec2_tiny", "-d", "librispeech_asr", "--data-root", corpora_root, "-p", "run"]
    arguments += ["-o", *options("librispeech_asr")]
    assert run(*arguments) == 0
    before = Path("run/result.json").read_text()
    assert run("-m", "evaluate", "-p", "run", "-o", f"task.lm.path={tmp_path}/lm.arpa") == 0
    (folder,) = Path("run/evaluations").glob("rescored-*")
    assert {"test", "test_lm", "test-other_lm"} <= set(results.read(folder / "result.json")["metrics"])
    assert f"path: {tmp_path}/lm.arpa" in (folder / "config.yaml").read_text()
    # a model that KenLM refuses costs the run nothing but the sets with it; another setting, another folder
    Path("bad.arpa").write_text(Path("lm.arpa").read_text().replace("ngram 2=1", "ngram 2=7"))
    assert run("-m", "evaluate", "-p", "run", "-o", f"task.lm.path={tmp_path}/bad.arpa") == 0
    (other,) = set(Path("run/evaluations").glob("rescored-*")) - {folder}
    assert "test_lm" not in results.read(other / "result.json")["metrics"]
    assert Path("run/result.json").read_text() == before
    assert run("-m", "evaluate", "-p", "run", "-o", "task.head.hidden=8") == 1
    assert run(*arguments, "--overwrite") == 0
    assert not Path("run/evaluations").exists()  # they were of the run that is gone
