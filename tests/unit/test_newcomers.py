"""What the first users from outside stumbled over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import Cli
from torch import Tensor
from toys import ToyUpstream, toy_corpus

from benchmark import registry
from benchmark.commands import run as run_command
from benchmark.engine.cards import read_card
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.prepare import configure
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates
from benchmark.study.recipe import Study, StudyRegime, StudyTask, StudyUpstream, cells


@pytest.mark.parametrize("means", [False, True])
def test_hidden_states_need_not_be_contiguous(tmp_path: Path, means: bool) -> None:
    """As those of a convolution, whose features are moved to the end."""

    class Transposed(ToyUpstream):
        def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
            hidden = super().forward(wavs, wav_lens, keep=keep)
            states = [state.transpose(1, 2).contiguous().transpose(1, 2) for state in hidden.states]
            assert not states[0].is_contiguous()
            return HiddenStates(states, hidden.lengths)

    utterances = toy_corpus(tmp_path).splits["train"][:2]
    store = FeatureStore(Transposed().eval(), "toy", means=means, folder=tmp_path / "features")
    store.fill(utterances, [0.1, 0.1], quiet=True)
    assert len(store.load(utterances, None).states) == 3


@pytest.mark.parametrize("values", [{"regime": "finetune"}, {"regime": "partial", "tune": {"top_blocks": 1}}, {}])
def test_a_quick_run_of_any_regime(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path))
    monkeypatch.setattr("downstream.corpora.synthetic.synthesise_quick", lambda corpus, root: None)
    run = configure("voxceleb1_sv", [("-u", {"upstream": {"name": "wav2vec2_tiny"}}), ("test", values)], quick=True)
    assert run.data.root == str(tmp_path / "quick")
    assert run.features.keep == (not values)
    assert run.trainer.max_steps <= 150
    assert run.optim.warmup_steps < run.trainer.max_steps
    with pytest.raises(BenchmarkError, match="'sv' has no quick run"):
        configure("sv", [("-u", {"upstream": {"name": "wav2vec2_tiny"}})], quick=True)


def test_a_quick_run_does_not_take_the_data_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_DATA", "/corpora")
    parser = run_command.build_parser()
    for arguments, expected in ((["--quick"], False), ([], True)):
        layers = run_command._layers(parser.parse_args(["-u", "x", "-d", "y", *arguments]))
        assert any(source == "$BENCHMARK_DATA" for source, _ in layers) == expected


def test_a_card_of_a_plugin_extends_one_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    card = {"name": "mine", "extends": "classify", "config": {"task": {"label": "mood"}}}
    monkeypatch.setitem(registry.downstreams._load(), "mine", registry.Entry("mine", lambda: card))
    base, whole = read_card("classify"), read_card("mine")
    assert (whole["name"], whole["task"], whole["corpus"]) == ("mine", base["task"], base["corpus"])
    run = configure("mine", [("-u", {"upstream": {"name": "fbank"}})])
    assert run.task.label == "mood"
    assert run.trainer == configure("classify", [("-u", {"upstream": {"name": "fbank"}})]).trainer
    nothing = registry.Entry("odd", lambda: {"name": "odd"})
    monkeypatch.setitem(registry.downstreams._load(), "odd", nothing)
    with pytest.raises(BenchmarkError, match="or extend another card"):
        read_card("odd")


def test_a_report_needs_no_regime_of_a_plugin() -> None:
    study = Study(
        name="s", upstreams={"u": StudyUpstream("fbank")}, tasks={"t": StudyTask()},
        regimes={"tuned": StudyRegime("of_a_plugin")},
    )  # fmt: skip
    assert [cell.layer for cell in cells(study)] == [None]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1", r"Did you mean 'optim\.lr'\?"),
        ("optim.learning_rate=1", r"Did you mean 'optim\.lr'\?"),
        ("trainer.max_step=1", r"Did you mean 'trainer\.max_steps'.*\? \(\d+ options\)$"),
    ],
)
def test_options_that_are_meant_are_suggested(override: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        configure("sv", [], [override])


def test_no_block_is_no_number_of_blocks(cli: Cli) -> None:
    said = cli("-u", "fbank", "-d", "voxceleb1_sv", "--top-blocks", "0").stderr
    assert "tune.top_blocks is 0; expected at least 1" in said


def test_the_help_names_all_regimes(cli: Cli) -> None:
    said = cli("--help").stdout
    assert [name for name in registry.regimes.names() if name not in said] == []
