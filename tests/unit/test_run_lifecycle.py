"""Preparing, predicting and evaluating elsewhere, with the smallest task that the engine accepts."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from toys import ToyTask, ToyUpstream, toy_corpus

from benchmark import registry, results
from benchmark.commands import predict
from benchmark.config import RunConfig
from benchmark.data import manifest
from benchmark.engine import prepare, trainer
from benchmark.engine.folder import RunLog
from benchmark.engine.predict import TrainedRun
from benchmark.engine.prepare import Prepared, Preparer, Scored
from benchmark.engine.run import run as run_settings
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Regime, Splits, Utterance
from downstream import splits

CORPUS: dict[str, Corpus] = {}


class LabelledToyTask(ToyTask):
    """Needs 8 frames."""

    @classmethod
    def frames_needed(cls, config: Any, splits: Splits) -> Callable[[Utterance], int]:
        return lambda utterance: 8


class WholeToyTask(ToyTask):
    croppable = False


def corpus(_: Path) -> Corpus:
    return CORPUS["toy"]


CARD = {
    "name": "toy",
    "task": "test_run_lifecycle:LabelledToyTask",
    "corpus": "test_run_lifecycle:corpus",
    "config": {},
}


@pytest.fixture(autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    CORPUS["toy"] = toy_corpus(tmp_path_factory.mktemp("toy"))
    for of, name, target in (
        (registry.upstreams, "toy", ToyUpstream),
        (registry.downstreams, "toy", lambda: CARD),
    ):
        monkeypatch.setattr(of, "_entries", dict(of._load()))
        of.register(name, target)


def configure(*overrides: str, **card: Any) -> RunConfig:
    """A small run; ``card`` changes the protocol card."""
    registry.downstreams._load()["toy"] = registry.Entry("toy", lambda: CARD | card)
    small = ["trainer.max_steps=4", "trainer.eval_every=2", "device=cpu", "upstream.name=toy"]
    return prepare.configure("toy", [], [*small, *overrides])


def prepared_run(*overrides: str, scored: Scored | None = None, **card: Any) -> Prepared:
    return Preparer().prepare(configure(*overrides, **card), scored)


def test_what_cannot_be_trained_on_is_left_out_and_counted() -> None:
    seconds = [0.1, 0.15, 0.3, 0.4]  # at 320 samples a frame: 4, 6, 13, 18 frames
    train = CORPUS["toy"].splits["train"]
    CORPUS["toy"].splits["train"] = [Utterance(f"t{s}", train[0].path, duration=s) for s in seconds if s <= 0.1] + train
    prepared = prepared_run("data.min_seconds=0.11")
    frames = ToyUpstream().output_lengths(torch.tensor((prepared.seconds("train") * 16000).astype(np.int64)))
    assert int(frames.min()) >= 8
    assert prepared.dropped["too short"] >= 1
    assert sum(prepared.dropped.values()) + len(prepared.task.splits["train"]) == 11
    assert "left out" in "\n".join(prepare.describe(prepared))
    with pytest.raises(BenchmarkError, match=r"no training utterance is left: 11 are not longer than .*9"):
        prepared_run("data.min_seconds=9")


@pytest.mark.parametrize(
    ("supported", "precision", "said"), [(False, "bf16", True), (True, "bf16", False), (False, "no", False)]
)
def test_bf16_on_a_processor_without_it_is_called_slow(
    monkeypatch: pytest.MonkeyPatch, supported: bool, precision: str, said: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    lines = "\n".join(prepare.describe(prepared_run(f"trainer.precision={precision}")))
    assert ("no instructions for bf16" in lines) == said


def test_crops_are_refused_where_labels_belong_to_the_whole() -> None:
    with pytest.raises(BenchmarkError, match=r"data\.crop_seconds=0\.2: .* set it to null"):
        prepared_run("data.crop_seconds=0.2", task="test_run_lifecycle:WholeToyTask")


def test_an_utterance_in_two_splits_is_found() -> None:
    CORPUS["toy"].splits["test"] = [*CORPUS["toy"].splits["test"], CORPUS["toy"].splits["train"][3]]
    with pytest.raises(BenchmarkError, match=r"train3.*|.*train.*test"):
        prepared_run()


def test_own_data_belongs_to_its_own_downstreams() -> None:
    with pytest.raises(BenchmarkError, match=r"--train, --trials: 'toy' is a protocol"):
        prepared_run("data.train=a.jsonl", "data.trials=b.txt")
    with pytest.raises(BenchmarkError, match=r"--test missing\. Give manifests"):
        prepared_run("data.train=a.jsonl", corpus=manifest.OWN_DATA)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run_settings(configure(), tmp_path / "run")
    return tmp_path / "run"


def test_evaluating_on_another_split(trained: Path) -> None:
    outcome = run_settings(configure(), trained, mode="evaluate", scored=Scored("dev"))
    assert outcome.folder == trained / "evaluations" / "dev"
    result = outcome.result
    assert result is not None
    assert result["downstream"]["evaluated"] == "dev"
    assert result["metrics"]["test"] == result["metrics"]["dev"]  # the same utterances
    assert result["data"]["test"]["digest"] == result["data"]["dev"]["digest"]
    assert (trained / "evaluations" / "dev" / "result.json").exists()
    own = json.loads((trained / "result.json").read_text())
    assert own["downstream"]["evaluated"] == "test"
    assert own["metrics"]["test"] != own["metrics"]["dev"]
    with pytest.raises(BenchmarkError, match="no split 'devv'"):
        prepared_run(scored=Scored("devv"))


def test_a_split_that_is_misspelt_is_not_taken_for_missing_training_data(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labelled(cls: Any, config: Any, corpus: Corpus, target: Any = None) -> Splits:
        return Splits(corpus.name, *(splits.labelled(corpus, name, "test_split", "speaker") for name in
                                     ("train", "dev", "test" if target is None else target.name)))  # fmt: skip

    monkeypatch.setattr(ToyTask, "split", classmethod(labelled))
    with pytest.raises(BenchmarkError, match=r"^corpus 'toy' has no split 'testt' .*Did you mean 'test'") as caught:
        run_settings(configure(), trained, mode="evaluate", scored=Scored("testt"))
    assert "training data" not in str(caught.value)


def test_what_is_scored_has_no_id_of_what_it_is_scored_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CORPUS["toy"].splits["train"][0]
    shutil.copy(first.path, tmp_path / "copy.wav")
    CORPUS["toy"].splits["other"] = [replace(first, path=str(tmp_path / "copy.wav"))]
    assert prepared_run(scored=Scored("other")).task.splits.test[0].id == first.id
    monkeypatch.setattr(ToyTask, "support", lambda self, split: self.splits.train)
    with pytest.raises(BenchmarkError, match="other audio of the run has the same ids"):
        prepared_run(scored=Scored("other"))


def test_altered_copies_of_dev_may_keep_its_ids(tmp_path: Path) -> None:
    """They may be shorter; what is said of dev and of the training data is as it was."""
    own = prepared_run()
    copies = []
    for utterance in CORPUS["toy"].splits["dev"]:
        wav, rate = soundfile.read(utterance.path)
        soundfile.write(tmp_path / f"{utterance.id}.wav", wav[:-160], rate)
        copies.append(replace(utterance, path=str(tmp_path / f"{utterance.id}.wav")))
    CORPUS["toy"].splits["shorter"] = copies
    scored = prepared_run(scored=Scored("shorter"))
    assert [scored.summary(name) for name in ("train", "dev")] == [own.summary(name) for name in ("train", "dev")]
    np.testing.assert_allclose(scored.seconds("test"), own.seconds("dev") - 0.01)
    assert [scored.task.seconds[u.id] for u in copies] == scored.seconds("test").tolist()


def test_predictions_need_no_corpus(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = dict(line.split() for line in (trained / "scores_test.txt").read_text().splitlines())
    utterances = CORPUS["toy"].splits["test"]
    monkeypatch.setattr("test_run_lifecycle.corpus", None)
    predictor = TrainedRun(trained)
    for batch_size in (1, 3):
        found = dict(predictor(utterances, batch_size=batch_size))
        assert found.keys() == scored.keys()
        for name, value in found.items():
            assert float(value) == pytest.approx(float(scored[name]), abs=1e-6)
    assert predictor.present(0.75) == {"class": "high", "probability": 0.75}


def test_the_predict_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [utterance.path for utterance in CORPUS["toy"].splits["test"][:3]]
    assert predict.main([str(trained), *files]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == files
    assert {line["class"] for line in lines} <= {"low", "high"}
    assert predict.main([str(trained), *files, "-o", str(tmp_path / "out.jsonl"), "--batch-size", "2"]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    for arguments, message in (
        ([str(tmp_path), *files], "holds no run"),
        ([str(trained), files[0], files[0]], "is duplicated"),
        ([str(trained), str(tmp_path / "absent.wav")], r"absent\.wav"),
        ([str(trained), *files, "-o", "x.npz"], r"\.npz is for embeddings"),
        ([str(trained), *files, "-o", "x.txt"], r"ends in \.jsonl or \.npz"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            predict.main(arguments)


def test_one_path_is_an_input_and_a_waveform_is_not(trained: Path) -> None:
    path = CORPUS["toy"].splits["test"][0].path
    predictor = TrainedRun(trained)
    expected = predictor.predict([path])
    assert [row["id"] for row in expected] == [path]
    assert predictor.predict(path) == expected
    assert predictor.predict(Path(path)) == expected
    for wrong, kind in (([torch.zeros(800)], "Tensor"), (torch.zeros(800), "Tensor"), ([path, 3], "int")):
        with pytest.raises(BenchmarkError, match=f"expected paths of audio files or manifests, found a {kind}"):
            predictor.predict(wrong)  # type: ignore[arg-type]


def test_an_npz_may_hold_any_id(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"embedding": [1.0, 2.0]}
    monkeypatch.setattr(TrainedRun, "present", lambda self, prediction: shown)
    audio_file = CORPUS["toy"].splits["test"][0].path
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "file", "path": audio_file}) + "\n")
    assert predict.main([str(trained), str(tmp_path / "one.jsonl"), "-o", str(tmp_path / "e.npz")]) == 0
    assert np.load(tmp_path / "e.npz")["file"].tolist() == [1.0, 2.0]


def test_predictions_by_other_weights_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(ToyUpstream):
        def __init__(self) -> None:
            super().__init__()
            self.layers[0].weight.data.mul_(2)

    monkeypatch.setitem(registry.upstreams._load(), "toy", registry.Entry("toy", Other))
    with pytest.raises(BenchmarkError, match="was trained on other weights of 'toy'"):
        TrainedRun(trained)


def test_a_run_without_a_checkpoint_cannot_predict(trained: Path) -> None:
    (trained / "checkpoints" / "best.pt").unlink()
    with pytest.raises(BenchmarkError, match=r"no checkpoints/best\.pt"):
        TrainedRun(trained)


def test_a_label_budget_cuts_the_training_split_only(tmp_path: Path) -> None:
    whole, cut = prepared_run(), prepared_run("budget=5utt", "seed=1")
    assert len(cut.task.splits["train"]) == 5
    for name in ("dev", "test"):
        assert cut.task.splits[name] == whole.task.splits[name]
    result = run_settings(cut.run, tmp_path / "run").result
    assert result is not None
    assert result["budget"] == {"name": "5utt", "seed": 1}
    assert result["data"]["train"]["utterances"] == 5
    assert (tmp_path / "run" / "budget.txt").read_text().split() == [u.id for u in cut.task.splits["train"]]
    with pytest.raises(BenchmarkError, match="'five' is not a valid budget"):
        configure("budget=five")


def test_options_for_training_go_to_upstreams_that_have_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Tunable(ToyUpstream):
        def __init__(self, dropout: float = 0.0) -> None:
            super().__init__()
            self.dropout.p = dropout

    monkeypatch.setitem(registry.upstreams._load(), "toy", registry.Entry("toy", Tunable))
    finetune = {"tune": {"options": {"dropout": 0.25, "layerdrop": 0.1}}}
    assert prepared_run(finetune=finetune).upstream.dropout.p == 0.0
    assert "layerdrop" not in caplog.text
    tuned = prepared_run("regime=finetune", finetune=finetune)
    assert tuned.upstream.dropout.p == 0.25
    assert "has no option layerdrop (tune.options)" in caplog.text
    explicit = prepared_run("regime=finetune", "upstream.options.dropout=0.5", finetune=finetune)
    assert explicit.upstream.dropout.p == 0.5


def test_a_run_is_prepared_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Corpus, splits, headers and a frozen upstream with a file of its own are kept for the next run of a process."""
    counts = {"corpus": 0, "split": 0, "upstream": 0}

    def count(name: str, function: Any) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **keywords)

        return counted

    class FromFile(ToyUpstream):
        def __init__(self) -> None:
            super().__init__()
            self.info = {"sha256": "0" * 64}

    monkeypatch.setattr("test_run_lifecycle.corpus", count("corpus", corpus))
    monkeypatch.setattr(LabelledToyTask, "split", count("split", LabelledToyTask.split))
    monkeypatch.setitem(registry.upstreams._load(), "toy", registry.Entry("toy", count("upstream", FromFile)))
    preparer = Preparer()
    for seed in (0, 1):
        run_settings(configure(f"seed={seed}"), tmp_path / str(seed), preparer=preparer)
    run_settings(configure("budget=5utt"), tmp_path / "budget", preparer=preparer)
    assert counts == {"corpus": 1, "split": 1, "upstream": 1}
    run_settings(configure("regime=finetune"), tmp_path / "tuned", preparer=preparer)
    run_settings(configure(), tmp_path / "frozen again", preparer=preparer)
    assert counts == {"corpus": 1, "split": 1, "upstream": 3}  # training changes a model, which is loaded anew after it
    metrics = {path.parent.name: json.loads(path.read_text())["metrics"] for path in tmp_path.rglob("result.json")}
    assert metrics["frozen again"] == metrics["0"] != metrics["tuned"]


def test_the_log_begins_with_the_preparation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(root: Path) -> Corpus:
        logging.getLogger("wavbench").warning("this corpus is odd")
        return CORPUS["toy"]

    monkeypatch.setattr("test_run_lifecycle.corpus", warn)
    run_settings(configure(), tmp_path / "run")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert "WARNING this corpus is odd" in lines[0]
    assert "INFO upstream toy: 3 layers of 8" in lines[1]
    with pytest.raises(BenchmarkError, match="no training utterance is left"):
        run_settings(configure("data.min_seconds=9"), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_regime_of_a_plugin_may_edit_the_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a later run of the process nor the feature store of other runs sees what it did."""

    class FromFile(ToyUpstream):
        def __init__(self) -> None:
            super().__init__()
            self.info = {"sha256": "0" * 64}

    class Noisy(Regime):
        trains_upstream = False

        def apply(self, upstream: Any, tune: Any) -> None:
            with torch.no_grad():
                upstream.layers[2].weight.mul_(3)

    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(registry.upstreams._load(), "toy", registry.Entry("toy", FromFile))
    monkeypatch.setitem(registry.regimes._load(), "noisy", registry.Entry("noisy", Noisy, origin="a plug-in"))
    preparer = Preparer()
    norms = {}
    for name, regime in (("before", "frozen"), ("noisy", "noisy"), ("twice", "noisy"), ("after", "frozen")):
        options = [f"regime={regime}", "features.keep=true", "data.crop_seconds=null"]
        outcome = run_settings(configure(*options), tmp_path / name, preparer=preparer)
        assert outcome.result is not None
        norms[name] = outcome.result["layer_norms"]
    assert norms["before"] == norms["after"] != norms["noisy"]
    assert norms["noisy"] == norms["twice"]


def test_runs_in_two_threads_have_logs_of_their_own(tmp_path: Path) -> None:
    logger = logging.getLogger("wavbench")
    before, entered = logger.level, threading.Barrier(2)

    def log(name: str) -> None:
        with RunLog() as run_log:
            (tmp_path / name).mkdir()
            run_log.open(tmp_path / name)
            entered.wait()
            logger.info("a line of %s", name)
            entered.wait()

    threads = [threading.Thread(target=log, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logger.level == before
    for name in ("one", "two"):
        (line,) = (tmp_path / name / "log.txt").read_text().splitlines()
        assert line.endswith(f"a line of {name}")


def test_data_of_the_last_release_are_recognised(tmp_path: Path) -> None:
    """Release 0.1 left the gender out of its digests; its runs are resumed, evaluated and found complete."""
    for split, utterances in CORPUS["toy"].splits.items():
        CORPUS["toy"].splits[split] = [replace(u, gender="f") for u in utterances]
    folder = tmp_path / "run"
    run_settings(configure(), folder)
    former = prepared_run().former_digests
    for name in ("last", "best"):
        state = torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)
        state["fingerprint"] |= former
        torch.save(state, folder / "checkpoints" / f"{name}.pt")
    result = json.loads((folder / "result.json").read_text())
    for name in ("train", "dev", "test"):
        assert result["data"][name]["digest"] != former[f"{name} data"]
        result["data"][name]["digest"] = former[f"{name} data"]
    (folder / "result.json").write_text(json.dumps(result))
    assert run_settings(configure(), folder, resume=True).complete
    again = run_settings(configure(), folder, mode="evaluate").result
    assert again is not None
    assert again["metrics"] == result["metrics"]
    assert again["data"]["test"]["digest"] != former["test data"]


def test_warnings_reach_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of what was prepared for an earlier run, and those of a process that was stopped."""
    logger = logging.getLogger("wavbench")

    def warn(root: Path) -> Corpus:
        logger.warning("this corpus is odd")
        logger.info("no warning")
        return CORPUS["toy"]

    monkeypatch.setattr("test_run_lifecycle.corpus", warn)
    preparer = Preparer()
    for name in ("first", "second"):
        outcome = run_settings(configure("seed=1"), tmp_path / name, preparer=preparer)
        assert outcome.result is not None
        assert outcome.result["warnings"] == ["this corpus is odd"]
        assert "this corpus is odd" in (tmp_path / name / "log.txt").read_text()
    run_settings(configure(), tmp_path / "third", mode="fit", preparer=preparer)
    original = LabelledToyTask.evaluate

    def evaluate(self: Any, split: str, predictions: Any) -> Any:
        logger.warning("a warning of %s", split)
        warnings.warn("of another library", UserWarning, stacklevel=1)
        return original(self, split, predictions)

    monkeypatch.setattr(LabelledToyTask, "evaluate", evaluate)
    evaluated = run_settings(configure(), tmp_path / "third", mode="evaluate", preparer=preparer).result
    assert evaluated is not None
    assert evaluated["warnings"] == ["this corpus is odd", "a warning of test"]
    assert "UserWarning: of another library" in (tmp_path / "third" / "log.txt").read_text()


PROBED = ("regime=finetune", "optim.lr=0.0", "optim.upstream_lr=0.0", "optim.weights_lr=0.0")
PROBE = {"optim": {"lr": 0.01, "weights_lr": 0.01}, "trainer": {"max_steps": 6}, "features": {"keep": True}}


def test_fine_tuning_can_start_from_a_trained_probe(tmp_path: Path) -> None:
    frozen = run_settings(
        configure("optim.lr=0.01", "optim.weights_lr=0.01", "trainer.max_steps=6", "features.keep=true"),
        tmp_path / "frozen",
    )
    tuned = run_settings(configure(*PROBED, config={"tune": {"probe": PROBE}}), tmp_path / "tuned")
    without = run_settings(configure(*PROBED), tmp_path / "without")
    assert frozen.result is not None
    assert tuned.result is not None
    assert without.result is not None
    assert tuned.result["metrics"]["test"] == pytest.approx(frozen.result["metrics"]["test"], rel=1e-5)
    assert tuned.result["layer_weights"] == pytest.approx(frozen.result["layer_weights"])
    assert without.result["metrics"]["test"] != pytest.approx(frozen.result["metrics"]["test"], rel=1e-4)
    cost, of_frozen, of_without = (one.result["cost"] for one in (tuned, frozen, without) if one.result is not None)
    assert (cost["updates"], cost["probe_updates"], "probe_updates" in of_without) == (4, 6, False)
    seen = of_frozen["audio_seconds_seen"] + of_without["audio_seconds_seen"]
    assert cost["audio_seconds_seen"] == pytest.approx(seen)
    assert "4 updates after 6 on the frozen upstream" in results.table(tuned.result)
    assert not (tmp_path / "tuned" / "probe").exists()  # trainer.keep=best
    assert not (tmp_path / "without" / "probe").exists()


def test_a_probe_before_fine_tuning_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configure(*PROBED, "trainer.keep=all", config={"tune": {"probe": PROBE}})
    alone = run_settings(settings, tmp_path / "alone").result
    trainings = []
    train = trainer.Trainer.train

    def interrupted(self: trainer.Trainer, stop: StopRequest) -> None:
        trainings.append((self.run.regime, self.step))
        if len(trainings) in (1, 3):  # the probe, then fine-tuning
            monkeypatch.setattr(stop, "requested", True)
        train(self, stop)

    monkeypatch.setattr(trainer.Trainer, "train", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run_settings(settings, tmp_path / "stopped", resume=True)
    result = run_settings(settings, tmp_path / "stopped", resume=True).result
    assert trainings == [("frozen", 0), ("frozen", 0), ("finetune", 0), ("finetune", 1)]
    assert alone is not None
    assert result is not None
    assert result["metrics"] == alone["metrics"]
    assert (tmp_path / "stopped" / "probe" / "checkpoints" / "best.pt").exists()
    overwritten = run_settings(settings, tmp_path / "stopped", overwrite=True).result
    assert overwritten is not None
    assert overwritten["metrics"] == alone["metrics"]
    assert trainings[4:] == [("frozen", 0), ("finetune", 0)]


def test_what_a_probe_before_fine_tuning_cannot_set() -> None:
    for wrong, message in (
        ({"optim": {"rate": 1}}, r"tune\.probe.*rate"),
        ({"trainer": {"max_steps": 0}}, r"trainer\.max_steps is 0"),
        ({"probe": {"solver": "exact"}}, r"leave probe\.solver out"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            configure("regime=finetune", config={"tune": {"probe": wrong}})
        configure(config={"tune": {"probe": wrong}})  # nothing is fine-tuned
