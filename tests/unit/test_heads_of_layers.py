"""Hierarchical convolution over layers, and multi-head factorised attention: the formulas, and runs with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_stacked import CORPUS, CountingUpstream, _registered, corpus  # noqa: F401  a fixture, and what cards name
from torch import Tensor

import wavbench
from benchmark.config import FeaturizerConfig, RunConfig, TuneConfig
from benchmark.engine import prepare
from benchmark.engine.featurizer import HierarchicalConvolution, StateStatistics, WeightedSum
from benchmark.engine.model import Model
from benchmark.engine.predict import TrainedRun
from benchmark.engine.run import run as run_settings
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates
from downstream.asr.heads import BiLSTM
from downstream.asr.task import SpeechRecognition
from downstream.classifier import Classifier
from downstream.embedders import MHFA, EmbedderConfig
from downstream.losses import LossConfig


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def states(num_states: int, dim: int = 6) -> HiddenStates:
    """Two utterances of 5 and 3 frames."""
    made = [torch.randn(2, 5, dim) for _ in range(num_states)]
    for state in made:
        state[1, 3:] = 0
    return HiddenStates(made, torch.tensor([5, 3]))


# --- Hierarchical convolution -----------------------------------------------------------------------------------------


def hconv_by_hand(made: HierarchicalConvolution, layers: Tensor) -> Tensor:
    """The features of one frame, whose states are ``layers`` (state, dim): place by place."""
    x = layers
    for convolution in made.convolutions:
        assert isinstance(convolution, torch.nn.Conv1d)
        padded = torch.cat([torch.zeros(2, x.shape[1]), x, torch.zeros(2, x.shape[1])])
        places = [
            sum(convolution.weight[:, :, k] @ padded[start + k] for k in range(5)) + convolution.bias
            for start in range(0, len(padded) - 4, 3)
        ]
        x = torch.relu(torch.stack(places))  # (place, channel)
    return x.T.flatten()


@pytest.mark.parametrize(
    ("num_states", "dim", "widths", "size"),
    [(13, 6, [6, 3], 6), (25, 6, [6, 2], 6), (25, 7, [7, 2], 6), (3, 6, [6], 6), (2, 6, [6], 6), (1, 6, [6], 6),
     (27, 6, [6, 6, 6], 6)],
)  # fmt: skip
def test_hierarchical_convolution_is_the_formula(num_states: int, dim: int, widths: list[int], size: int) -> None:
    """The number of convolutions is log3 of the number of states, rounded down; of 13 and 25, 2 and 3 places stay."""
    made = HierarchicalConvolution(num_states, dim)
    assert [c.out_channels for c in made.convolutions] == widths  # type: ignore[union-attr]
    hidden = states(num_states, dim)
    found = made(hidden)
    assert found.shape == (2, 5, size)
    assert made.size == size
    for i, n in enumerate((5, 3)):
        for t in range(n):
            expected = hconv_by_hand(made, torch.stack([state[i, t] for state in hidden.states]))
            torch.testing.assert_close(found[i, t], expected, rtol=1e-5, atol=1e-6)


def test_hierarchical_convolution_of_normalised_states() -> None:
    made, hidden = HierarchicalConvolution(4, 6, normalize=True), states(4)
    plain = HiddenStates([torch.nn.functional.layer_norm(s, (6,)) for s in hidden.states], hidden.lengths)
    expected = made(hidden)
    made.normalize = False
    torch.testing.assert_close(made(plain), expected)


def test_speech_recognition_sees_the_convolutions() -> None:
    """The head has as many inputs as they give features."""
    run = prepare.configure("librispeech_asr", [], ["upstream.name=fbank", "featurizer.name=hconv"])

    class Deep(CountingUpstream):
        hidden_size, num_states = 7, 25

    from benchmark.engine.model import make_head

    head = make_head(run, SpeechRecognition, {"alphabet": "ab", "symbols": ["a", "b"]}, Deep())
    assert isinstance(head, BiLSTM)
    assert head.projector.in_features == 6


# --- MHFA -------------------------------------------------------------------------------------------------------------


def mhfa_by_hand(net: MHFA, summed: WeightedSum, layers: Tensor) -> Tensor:
    """The embedding of one utterance, whose states are (state, frame, dim); 2210.01273, equations 2 to 6."""
    assert summed.key_weights is not None
    keys, values = (
        sum(w * layer for w, layer in zip(weights.exp() / weights.exp().sum(), layers, strict=True))
        for weights in (summed.key_weights, summed.weights)
    )
    keys = keys @ net.cmp_linear_k.weight.T + net.cmp_linear_k.bias
    values = values @ net.cmp_linear_v.weight.T + net.cmp_linear_v.bias
    pooled = []
    for head in range(net.att_head.out_features):
        scores = keys @ net.att_head.weight[head] + net.att_head.bias[head]
        shares = scores.exp() / scores.exp().sum()
        pooled.append(sum(share * value for share, value in zip(shares, values, strict=True)))
    return net.pooling_fc.weight @ torch.cat(pooled) + net.pooling_fc.bias


def test_mhfa_is_the_formula() -> None:
    net, summed = MHFA(6, EmbedderConfig("mhfa", size=8, attention=4, heads=3)), WeightedSum(4, keys=True)
    assert summed.key_weights is not None
    summed.weights.data, summed.key_weights.data = torch.randn(4), torch.randn(4)
    hidden = states(4)
    found = net.embed(summed(hidden), hidden.lengths)
    assert found.shape == (2, 8)
    for i, n in enumerate((5, 3)):
        layers = torch.stack([state[i, :n] for state in hidden.states])
        torch.testing.assert_close(found[i], mhfa_by_hand(net, summed, layers), rtol=1e-5, atol=1e-6)
    one = hidden.states[0]
    torch.testing.assert_close(net.embed(one, hidden.lengths), net.embed(torch.cat([one, one], 2), hidden.lengths))


def test_mhfa_has_the_sizes_of_wespeaker() -> None:
    net = MHFA(768, EmbedderConfig("mhfa"))
    assert {name: tuple(p.shape) for name, p in net.named_parameters() if name.endswith("weight")} == {
        "cmp_linear_k.weight": (128, 768),
        "cmp_linear_v.weight": (128, 768),
        "att_head.weight": (64, 128),
        "pooling_fc.weight": (256, 64 * 128),
    }


def test_shares_are_of_the_values() -> None:
    summed, hidden = WeightedSum(3, keys=True), states(3)
    assert summed.key_weights is not None
    summed.key_weights.data = torch.tensor([0.0, 5.0, -5.0])
    counted, plain, of_values = StateStatistics(3), StateStatistics(3), WeightedSum(3)
    counted.add(summed, hidden, summed(hidden))
    plain.add(of_values, hidden, of_values(hidden))
    found, expected = counted.summary(summed), plain.summary(of_values)
    assert found.pop("layer_key_weights") == pytest.approx(torch.tensor([0.0, 5.0, -5.0]).softmax(0).tolist())
    for name, values in expected.items():
        assert found[name] == pytest.approx(values)


def test_convolutions_give_no_keys() -> None:
    head = Classifier(8, 3, EmbedderConfig("mhfa"), LossConfig("softmax"))
    with pytest.raises(BenchmarkError, match=r"featurizer\.name=hconv does not go with this head"):
        Model(CountingUpstream(), head, "frozen", FeaturizerConfig("hconv"), TuneConfig())


# --- Runs -------------------------------------------------------------------------------------------------------------

CHOICES = {
    "hconv": ["featurizer.name=hconv"],
    "mhfa": ["task.head={name: mhfa, size: 6, attention: 4, heads: 2}"],
}


def settings(task: str, choice: str, *overrides: str) -> RunConfig:
    plain = ["upstream.name=tone_upstream", "device=cpu", "trainer.trackers=[]", "trainer.max_steps=6",
             "trainer.eval_every=3", "trainer.save_every=2", "trainer.batch_size=8", "optim.warmup_steps=0",
             "optim.lr=0.01", "data.crop_seconds=null"]  # fmt: skip
    return prepare.configure(task, [], [*plain, *CHOICES[choice], *overrides])


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.medium
@pytest.mark.parametrize(("choice", "task"), [("hconv", "tone_sv"), ("mhfa", "tone_lid")])
def test_a_run_on_kept_states(choice: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream runs once; killed and resumed it ends the same; evaluated again and applied to audio, too."""
    config, folder = settings(task, choice, "features.keep=true", "budget=45utt"), tmp_path / "run"
    update = Trainer._update

    def fatal(self: Trainer, batches: Any) -> Any:
        if self.step == 4:
            raise Killed
        return update(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", fatal)
        with pytest.raises(Killed):
            run_settings(config, folder)
    result = run_settings(config, folder, resume=True).result
    assert result is not None
    parts = (config.task, result["data"])
    assert CountingUpstream.ran_over == sum(split["utterances"] for split in parts[1].values())
    whole = run_settings(config, tmp_path / "whole").result
    assert whole is not None
    assert result["metrics"] == whole["metrics"]
    assert result["layer_weights"] == whole["layer_weights"]
    if choice == "hconv":
        assert result["layer_weights"] is None
        assert not (folder / "layer_weights.png").exists()
        with pytest.raises(BenchmarkError, match=r"with featurizer\.name=hconv, has no layer weights"):
            wavbench.plot_layer_weights(folder)
    else:
        assert sum(result["layer_key_weights"]) == pytest.approx(1)
        assert result["layer_key_weights"] != result["layer_weights"]
        (axes, *_) = wavbench.plot_layer_weights(folder).axes
        labels = [container.get_label() for container in axes.containers]
        assert labels == ["softmax weight of the keys", "softmax weight", "share of the summed feature's norm"]
    again = run_settings(config, folder, mode="evaluate").result
    assert again is not None
    assert again["metrics"] == result["metrics"]
    test = CORPUS["tones"].splits["unseen" if task == "tone_sv" else "test"][:4]
    kept = dict(TrainedRun(tmp_path / "whole")(test))
    for name, value in TrainedRun(folder)(test):
        torch.testing.assert_close(value, kept[name])


@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_that_trains_the_upstream(choice: str, tmp_path: Path) -> None:
    config = settings("tone_sid", choice, "regime=finetune", "tune.freeze_updates=0", "features.keep=false")
    result = run_settings(config, tmp_path / "run").result
    assert result is not None
    assert (result["layer_weights"] is None) == (choice == "hconv")
    names = torch.load(tmp_path / "run/checkpoints/best.pt", weights_only=True)["pairing"]
    assert any(name.startswith("upstream.layers") for name in names)
    assert ("featurizer.key_weights" in names) == (choice == "mhfa")


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    for message, override in {
        r"featurizer\.name=hconv is of all layers": ["regime=single_layer", "featurizer.layer=1"],
        r"expected one of.*weighted_sum": ["featurizer.name=hconvs"],
        r"probe\.solver=exact needs means of states": ["probe.solver=exact"],
    }.items():
        with pytest.raises(BenchmarkError, match=message):
            settings("tone_sid", "hconv", *override)
    result = run_settings(settings("tone_sid", "mhfa", "regime=single_layer", "featurizer.layer=1"), tmp_path).result
    assert result is not None
    assert (result["state"], result["layer_weights"], result["layer_key_weights"]) == (1, None, None)
