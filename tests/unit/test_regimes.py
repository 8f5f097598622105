"""Who gets gradients, at which rate, from which update on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toys import ToyHead, ToyUpstream

from benchmark.config import FeaturizerConfig, OptimConfig, TuneConfig
from benchmark.engine import optim
from benchmark.engine.model import Model
from benchmark.engine.regimes import Houlsby
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Batch
from upstream import load_upstream


def pair(regime: str, **tune: Any) -> Model:
    torch.manual_seed(0)
    upstream = load_upstream("wav2vec2_tiny")
    return Model(upstream, ToyHead(upstream.hidden_size), regime, FeaturizerConfig(), TuneConfig(**tune))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(2, 8000, generator=generator)
    return Batch(wavs, torch.tensor([8000, 6000]), torch.tensor([0, 1]), ["a", "b"])


def changed(model: Model, config: OptimConfig | None = None) -> set[str]:
    """Names of the upstream's parameters that an update changes."""
    before = {name: value.detach().clone() for name, value in model.upstream.named_parameters()}
    optimizer = optim.optimizer(model, config or OptimConfig(lr=0.1))
    model(batch()).backward()
    optimizer.step()
    return {name for name, value in model.upstream.named_parameters() if not torch.equal(value, before[name])}


def test_frozen_changes_nothing_of_the_upstream() -> None:
    assert changed(pair("frozen")) == set()


def test_partial_changes_the_last_blocks() -> None:
    model = pair("partial", top_blocks=2)
    count = len(model.upstream.blocks)
    names = changed(model)
    assert {name.split(".")[2] for name in names} == {str(count - 1), str(count - 2)}
    assert all(name.startswith("encoder.layers.") for name in names)
    with pytest.raises(BenchmarkError, match=rf"tune\.top_blocks is {count + 1}, but .* has {count} transformer"):
        pair("partial", top_blocks=count + 1)


def test_finetune_leaves_the_extractor_alone_unless_asked() -> None:
    names = changed(pair("finetune"))
    assert not any(name.startswith("feature_extractor.") for name in names)
    assert any(name.startswith("post_extract_proj.") for name in names)
    assert any(name.startswith("encoder.layers.0.") for name in names)
    names = changed(pair("finetune", extractor=True))
    assert any(name.startswith("feature_extractor.") for name in names)


def test_the_head_warms_up_alone() -> None:
    model = pair("finetune", freeze_updates=3)
    for updates, trains in ((0, False), (2, False), (3, True)):
        model.updates = updates
        assert bool(changed(model)) == trains
        assert model.upstream.training


def test_lora_trains_adapters_only() -> None:
    plain = pair("frozen").eval()
    model = pair("lora", lora_rank=2)
    trained = [name for name, value in model.upstream.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    blocks = len(plain.upstream.blocks)
    assert len(trained) == 2 * 2 * blocks
    for one, other in zip(model.eval()._hidden(batch()).states, plain._hidden(batch()).states, strict=True):
        torch.testing.assert_close(one, other)  # an adapter starts as nothing
    assert changed(model.train()) <= set(trained)
    with pytest.raises(BenchmarkError, match=r"tune\.lora_targets \['nope'\]"):
        pair("lora", lora_targets=["nope"])


def test_bitfit_trains_the_biases_of_the_blocks() -> None:
    model = pair("bitfit")
    biases = {
        name
        for name, _ in model.upstream.named_parameters()
        if name.startswith("encoder.layers.") and name.endswith(".bias")
    }
    assert changed(model) == biases
    trained = sum(value.numel() for value in model.upstream.parameters() if value.requires_grad)
    assert trained < 0.01 * sum(value.numel() for value in model.upstream.parameters())


def test_houlsby_trains_adapters_and_norms() -> None:
    plain = pair("frozen").eval()
    model = pair("houlsby", adapter_size=4)
    trained = {name for name, value in model.upstream.named_parameters() if value.requires_grad}
    blocks, dim = len(plain.upstream.blocks), plain.upstream.hidden_size
    adapters = {name for name in trained if ".down." in name or ".up." in name}
    assert len(adapters) == 2 * 4 * blocks
    assert len(trained - adapters) == 2 * 2 * blocks
    assert all("layer_norm" in name for name in trained - adapters)
    count = sum(value.numel() for name, value in model.upstream.named_parameters() if name in adapters)
    assert count == blocks * 2 * (2 * 4 * dim + 4 + dim)  # 2md + d + m an adapter (section 3)
    for one, other in zip(model.eval()._hidden(batch()).states, plain._hidden(batch()).states, strict=True):
        torch.testing.assert_close(one, other)  # an adapter starts as nothing
    assert changed(model.train()) <= trained
    moved = [one for one, other in zip(model.eval()._hidden(batch()).states, plain._hidden(batch()).states, strict=True)
             if not torch.allclose(one, other, atol=1e-4)]  # fmt: skip
    assert len(moved) == blocks
    with pytest.raises(BenchmarkError, match=r"tune\.adapter_targets \['nope'\]"):
        pair("houlsby", adapter_targets=["nope"])
    with pytest.raises(BenchmarkError, match="cannot be exported"):
        Houlsby().merge(model.upstream)


@pytest.mark.parametrize(
    ("regime", "tune"),
    [
        ("finetune", {}), ("partial", {"top_blocks": 1}), ("bitfit", {}), ("houlsby", {}), ("lora", {}), ("frozen", {}),
    ],
)  # fmt: skip
def test_what_was_trained_is_saved_and_comes_back(regime: str, tune: dict[str, Any]) -> None:
    model = pair(regime, **tune)
    changed(model)
    state = model.trained_state()
    assert any(key.startswith("upstream.") for key in state) == (regime != "frozen")
    fresh = pair(regime, **tune)
    fresh.load_trained_state(state)
    for one, other in zip(model.eval()._hidden(batch()).states, fresh.eval()._hidden(batch()).states, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(KeyError, match=r"missing \['head"):
        fresh.load_trained_state({key: value for key, value in state.items() if not key.startswith("head.")})


def test_an_upstream_without_blocks_cannot_be_tuned_in_part() -> None:
    with pytest.raises(BenchmarkError, match="has 0 transformer blocks"):
        Model(ToyUpstream(), ToyHead(8), "partial", FeaturizerConfig(), TuneConfig(top_blocks=1))


def test_rates_fall_from_block_to_block() -> None:
    model = pair("finetune", extractor=True)
    config = OptimConfig(lr=1e-3, upstream_lr=1e-4, weights_lr=1e-2, layer_decay=0.5)
    optimizer = optim.optimizer(model, config)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    count = len(model.upstream.blocks)
    assert rates["head"] == 1e-3
    assert rates["weights"] == 1e-2
    for k in range(count):
        assert rates[f"block {k}"] == pytest.approx(1e-4 * 0.5 ** (count - 1 - k))
    assert rates["input"] == pytest.approx(1e-4 * 0.5**count)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


def test_tri_stage_is_fairseqs() -> None:
    from fairseq.optim.lr_scheduler.tri_stage_lr_scheduler import TriStageLRSchedule, TriStageLRScheduleConfig

    class Held:
        lr = 0.0

        def set_lr(self, lr: float) -> None:
            self.lr = lr

    total = 200
    theirs = TriStageLRSchedule.__new__(TriStageLRSchedule)
    cfg = TriStageLRScheduleConfig(phase_ratio=(0.1, 0.4, 0.5), lr=[3e-5], max_update=total)  # type: ignore[arg-type]
    theirs.cfg, theirs.peak_lr, theirs.optimizer = cfg, 3e-5, Held()
    theirs.init_lr, theirs.final_lr = 0.01 * 3e-5, 0.05 * 3e-5
    theirs.warmup_steps, theirs.hold_steps, theirs.decay_steps = (int(total * share) for share in (0.1, 0.4, 0.5))
    theirs.warmup_rate = (theirs.peak_lr - theirs.init_lr) / theirs.warmup_steps
    theirs.decay_factor = -math.log(0.05) / theirs.decay_steps
    ours = OptimConfig(schedule="tri_stage")
    for step in range(total + 5):
        assert 3e-5 * optim.factor(ours, step, total) == pytest.approx(theirs.step_update(step), rel=1e-9)


def test_one_cycle_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=100, cycle_momentum=False)
    for step in range(99):
        ours = 2.0 * optim.factor(OptimConfig(schedule="one_cycle"), step, 100)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        upstream = load_upstream("wav2vec2_tiny", checkpoint_activations=again, dropout=0.3, encoder_layerdrop=0.2)
        torch.manual_seed(0)
        model = Model(upstream, ToyHead(upstream.hidden_size), "finetune", FeaturizerConfig())
        torch.manual_seed(5)
        model(batch()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
