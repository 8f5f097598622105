"""Every benchmark on synthetic trees in the official layouts, and own data: train, evaluate, evaluate on other data,
predict.

In this process, by the functions behind the commands: starting Python takes longer than these runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import cli, results
from benchmark.interfaces import Utterance
from benchmark.data.manifest import OWN_DATA, read, write
from benchmark.registry import downstreams
from downstream.corpora.synthetic import CORPORA, synthesise

CARDS: dict[str, Any] = {name: downstreams.get(name).load()() for name in downstreams.names()}
ON_CORPORA = sorted(name for name, card in CARDS.items() if card["corpus"] != OWN_DATA)
COMMON = ["trainer.max_steps=2", "trainer.batch_size=4", "trainer.accumulate=1", "trainer.eval_batch_size=4"]
SMALL = {
    "sv": ["task.head.size=16", "task.head.pooled=16", "task.dev_speakers=2", "data.min_seconds=0.5"],
    "sid": ["task.head.size=16"],
    "lid": ["task.head.size=16"],
    "asr": ["task.head.size=16", "task.head.hidden=16"],
}
SELECTION = {"sv": "eer", "sid": "accuracy", "lid": "macro_accuracy", "asr": "wer"}
PREDICTED = {"sv": "embedding", "sid": "speaker", "lid": "language", "asr": "text"}
ELSEWHERE = {"sv": "veri_test", "sid": "dev", "lid": "dev", "asr": "dev-clean"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    synthesise(folder, corpora=CORPORA, size="test", workers=1)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)


def run(*arguments: object) -> int:
    return cli.run_downstream([str(argument) for argument in arguments])


def options(name: str) -> list[str]:
    small = [*COMMON, *SMALL[CARDS[name]["task"]]]
    if CARDS[name]["config"]["task"].get("head", {}).get("name") == "ecapa":
        small += ["task.head.channels=8", "task.head.attention=4"]
    if CARDS[name]["config"]["task"].get("norm", {}).get("name") == "snorm":
        small += ["task.norm.top_n=3"]
    return small


def predicted(expdir: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["predict", expdir, *files]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ON_CORPORA)
def test_a_benchmark_runs(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = CARDS[name]["task"]
    assert run("-u", "wav2vec2_tiny", "-d", name, "--data-root", root, "-p", "run", "-o", *options(name)) == 0
    result = results.read(Path("run/result.json"))
    assert result["downstream"]["name"] == name
    assert result["selected"]["metric"] == SELECTION[task]
    assert result["selected"]["value"] == result["metrics"]["dev"][SELECTION[task]]
    assert {"dev", "test"} <= set(result["metrics"])
    for of in result["metrics"].values():
        assert all(np.isfinite(value) and value >= 0 for value in of.values())
    files = {path.name for path in Path("run").iterdir()}
    expected = {
        "sv": {"scores.txt", "det.png"},
        "sid": {"predictions.jsonl"},
        "lid": {"predictions.jsonl", "confusion.csv", "confusion.png", "det.png"},
        "asr": {"predictions.jsonl", "hyp_test.trn", "ref_test.trn"},
    }
    assert expected[task] | {"layer_weights.png", "config.yaml", "log.txt"} <= files

    assert run("-m", "evaluate", "-p", "run", "-t", ELSEWHERE[task]) == 0
    other = results.read(Path(f"run/evaluations/{ELSEWHERE[task]}/result.json"))
    assert other["downstream"]["evaluated"] == ELSEWHERE[task]
    if task in ("lid", "sid"):  # a set that was scored before: VoxLingua107's own dev is the test set
        known = "test" if name == "voxlingua107_lid" else "dev"
        assert other["metrics"]["test"]["accuracy"] == result["metrics"][known]["accuracy"]
    assert results.read(Path("run/result.json")) == result

    wav = str(next(path for path in sorted(root.rglob("*/1*/**/*.wav")) or sorted(root.rglob("*.wav"))))
    (line,) = predicted("run", [wav], capsys)
    assert line["id"] == wav
    assert PREDICTED[task] in line


@pytest.fixture
def manifests(root: Path, tmp_path: Path) -> dict[str, Path]:
    """LibriSpeech as own data: every field that any task needs; ``language`` is made up."""
    assert cli.main(["prepare", "librispeech", str(root), "-o", str(tmp_path / "own")]) == 0
    found = {}
    for name, split in (("train", "train-clean-100"), ("dev", "dev-clean"), ("test", "test-clean")):
        utterances = read(tmp_path / "own" / f"{split}.jsonl")
        labelled = [
            Utterance(u.id, u.path, text=u.text, speaker=u.speaker, language=("en", "fi")[i % 2])
            for i, u in enumerate(utterances)
        ]
        found[name] = tmp_path / f"{name}.jsonl"
        write(found[name], labelled)
    return found


def own(task: str, manifests: dict[str, Path], *more: str) -> int:
    flags = [word for name, path in manifests.items() for word in (f"--{name}", path)]
    small = [
        *COMMON,
        *SMALL[task],
        "data.min_seconds=0",
        *(["task.text.alphabet=librispeech"] if task == "asr" else []),
    ]
    return run("-u", "wav2vec2_tiny", "-d", task, *flags, "-p", "run", "-o", *small, *more)


@pytest.mark.parametrize("task", ["sv", "lid", "asr"])
def test_own_data_runs(task: str, manifests: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert own(task, manifests) == 0
    result = results.read(Path("run/result.json"))
    assert result["downstream"]["corpus"] == OWN_DATA
    assert result["data"]["train"]["utterances"] == len(read(manifests["train"]))
    assert run("-m", "evaluate", "-e", "run", "--test", manifests["dev"]) == 0
    (folder,) = Path("run/evaluations").glob("dev-*")
    other = results.read(folder / "result.json")
    if task != "sv":
        assert other["metrics"]["test"][SELECTION[task]] == result["metrics"]["dev"][SELECTION[task]]
    lines = predicted("run", [str(manifests["test"])], capsys)
    assert [line["id"] for line in lines] == [u.id for u in read(manifests["test"])]
    assert all(PREDICTED[task] in line for line in lines)
    if task == "sv":
        assert cli.main(["predict", "run", str(manifests["test"]), "-o", "e.npz"]) == 0
        vectors = np.load("e.npz")
        assert vectors[lines[0]["id"]].tolist() == pytest.approx(lines[0]["embedding"], rel=1e-6)


def test_own_speaker_identification_runs(manifests: dict[str, Path], tmp_path: Path) -> None:
    train = read(manifests["train"])  # the same speakers everywhere
    by_place = {"train": train[0::2], "dev": train[1::4], "test": train[3::4]}
    for name, utterances in by_place.items():
        write(tmp_path / f"{name}-sid.jsonl", utterances)
    assert own("sid", {name: tmp_path / f"{name}-sid.jsonl" for name in by_place}) == 0
    assert "accuracy" in results.read(Path("run/result.json"))["metrics"]["test"]


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
        "lid", lambda m: change(m["test"], language="xx"), "languages that training has not: xx"
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


@pytest.mark.parametrize("task", ["sv", "lid", "asr", "sid"])
def test_own_data_that_is_missing_is_asked_for(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-u", "wav2vec2_tiny", "-d", task) == 1
    assert "--train and --test missing" in capsys.readouterr().err
    assert run("-u", "wav2vec2_tiny", "-d", task, "--train", "nowhere.jsonl", "--test", "nowhere.jsonl") == 1
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_scoring_options_may_change_after_training(root: Path, tmp_path: Path) -> None:
    """s3prl's way of decoding: train once, then evaluate with a language model."""
    words = ["-1\t<unk>", "-99\t<s>\t0", "-1\t</s>", "-1\tTHE\t0"]
    header = ["\\data\\", f"ngram 1={len(words)}", "ngram 2=1", "", "\\1-grams:"]
    lines = [*header, *words, "", "\\2-grams:", "-1\t<s> THE", "", "\\end\\"]
    Path("lm.arpa").write_text("\n".join(lines) + "\n")
    small = [*COMMON, *SMALL["asr"]]
    assert run("-u", "wav2vec2_tiny", "-d", "librispeech_asr", "--data-root", root, "-p", "run", "-o", *small) == 0
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
    arguments = ["-u", "wav2vec2_tiny", "-d", "librispeech_asr", "--data-root", root, "-p", "run", "-o", *small]
    assert run(*arguments, "--overwrite") == 0
    assert not Path("run/evaluations").exists()  # they were of the run that is gone
