"""Prefix tuning: keys and values beside those of the frames, against a direct formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import SMALL, Cli
from test_regimes import batch, changed, pair
from torch import Tensor, nn
from toys import ToyHead, ToyUpstream

from benchmark.config import FeaturizerConfig, TuneConfig
from benchmark.engine.model import Model
from benchmark.engine.regimes import Prefix
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from upstream.packing import Packing
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import SelfAttention, Wav2Vec2Model

SIZES: dict[str, Any] = {"encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24,
                         "encoder_attention_heads": 4, "conv_pos": 8, "conv_pos_groups": 2,
                         "conv_feature_layers": "[(16, 10, 5), (16, 8, 8)]"}  # fmt: skip
RELATIVE: dict[str, Any] = {"family": "wavlm", "relative_position_embedding": True, "gru_rel_pos": True,
                            "num_buckets": 32, "max_distance": 40}  # fmt: skip
LENGTHS = [7, 12, 1]


def tuned(**options: Any) -> Wav2Vec2Model:
    """A small model with three keys and values in each block, large enough to be noticed."""
    torch.manual_seed(0)
    upstream = Wav2Vec2Model(Wav2Vec2Config(**SIZES, **options)).eval()
    upstream.requires_grad_(False)
    Prefix().apply(upstream, TuneConfig(prefix_length=3))
    for name, parameter in upstream.named_parameters():
        if ".prefix." in name or "relative_positions" in name:
            nn.init.normal_(parameter)
    return upstream


def by_hand(attention: SelfAttention, x: Tensor, positions: Tensor | None) -> Tensor:
    """The attention of one utterance (frame, dim): head by head, the softmax of q [P_k; K]' over [P_v; V]."""
    prefix: Any = attention.prefix
    q, k, v = (layer(x) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    gates = None if attention.gate is None else attention.gate(x)
    size = x.shape[1] // attention.heads
    heads = []
    for h in range(attention.heads):
        part = slice(h * size, (h + 1) * size)
        keys = torch.cat([prefix.keys[:, h], k[:, part]])
        values = torch.cat([prefix.values[:, h], v[:, part]])
        logits = q[:, part] @ keys.T / size**0.5
        if positions is not None and gates is not None:  # none for the prefix
            logits[:, 3:] += gates[:, h, None] * positions[h, : len(x), : len(x)]
        heads.append(logits.softmax(1) @ values)
    return attention.out_proj(torch.cat(heads, dim=1))


@pytest.mark.parametrize("options", [{}, RELATIVE], ids=["wav2vec2", "wavlm"])
@pytest.mark.parametrize("together", [False, True], ids=["one_by_one", "padded"])
def test_prefixes_are_the_formula(options: dict[str, Any], together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU utterances are padded and computed together; each has the prefix once, and sees no padding."""
    monkeypatch.setattr(Packing, "one_by_one", lambda _: not together)
    upstream = tuned(**options)
    packing = Packing(LENGTHS, torch.device("cpu"))
    x = torch.randn(packing.rows, 16)
    positions = upstream.encoder.positions(packing, x.device)
    attention = upstream.encoder.layers[1].self_attn
    expected = torch.cat([by_hand(attention, part, positions) for part in packing.split(x)])
    torch.testing.assert_close(attention(x, packing, positions), expected, rtol=1e-5, atol=1e-5)
    attention.prefix = None
    assert not torch.allclose(attention(x, packing, positions), expected, atol=1e-2)


def test_the_states_are_the_same_alone_and_in_a_batch() -> None:
    upstream = tuned(**RELATIVE)
    wavs = [torch.randn(n) for n in (900, 400)]
    together = upstream(wavs)
    for i, wav in enumerate(wavs):
        alone = upstream([wav])
        for one, other in zip(alone.states, together.states, strict=True):
            torch.testing.assert_close(one[0], other[i, : one.shape[1]], rtol=1e-4, atol=1e-5)


def test_prefix_trains_keys_and_values_only() -> None:
    model = pair("prefix", prefix_length=5)
    blocks, dim = len(model.upstream.blocks), model.upstream.hidden_size
    trained = {name for name, value in model.upstream.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * blocks
    assert all(".self_attn.prefix." in name for name in trained)
    assert sum(value.numel() for value in model.upstream.parameters() if value.requires_grad) == blocks * 2 * 5 * dim
    assert changed(model) == trained
    state = model.trained_state()
    assert {name.removeprefix("upstream.") for name in state if name.startswith("upstream.")} == trained
    fresh = pair("prefix", prefix_length=5)
    fresh.load_trained_state(state)
    for one, other in zip(model.eval()._hidden(batch()).states, fresh.eval()._hidden(batch()).states, strict=True):
        assert torch.equal(one, other)


def test_attention_without_room_for_a_prefix_is_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"regime 'prefix': the attention of upstream .* takes no further keys"):
        Model(ToyUpstream(), ToyHead(8), "prefix", FeaturizerConfig(), TuneConfig())
    conformer = Wav2Vec2Model(Wav2Vec2Config(**SIZES, layer_type="conformer", pos_enc_type="rel_pos"))
    with pytest.raises(BenchmarkError, match="takes no further keys and values"):
        Prefix().apply(conformer, TuneConfig())


def test_prefixes_have_the_gradient_of_the_formula() -> None:
    upstream = tuned(**RELATIVE)
    attention = upstream.encoder.layers[0].self_attn
    packing = Packing([9], torch.device("cpu"))
    x, positions = torch.randn(9, 16), upstream.encoder.positions(packing, torch.device("cpu"))
    parameters = [attention.prefix.keys, attention.prefix.values]
    direction = torch.randn(9, 16)
    ours = torch.autograd.grad((attention(x, packing, positions) * direction).sum(), parameters)
    theirs = torch.autograd.grad((by_hand(attention, x, positions) * direction).sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert F.cosine_similarity(ours[0].flatten(), ours[1].flatten(), dim=0).isfinite()


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.medium
def test_a_run_is_resumed_and_cannot_be_exported(
    cli: Cli, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed, it ends as if it had not been stopped."""
    common = ["run", "-u", "wav2vec2_tiny", "-d", "voxceleb1_sv", "--data-root", data_root, "--regime", "prefix",
              "--device", "cpu", "-o", *SMALL, "tune.prefix_length=2", "trainer.eval_every=4", "tune.freeze_updates=0",
              "features.keep=false", "optim.warmup_steps=0", "optim.schedule=constant",
              "trainer.save_every=1", "trainer.max_steps=4"]  # fmt: skip
    assert cli(*common, "-p", tmp_path / "whole").returncode == 0
    update = Trainer._update

    def fatal(self: Trainer, batches: Any) -> Any:
        if self.step == 2:
            raise Killed
        return update(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", fatal)
        with pytest.raises(Killed):
            cli(*common, "-p", tmp_path / "killed")
    assert cli(*common, "-p", tmp_path / "killed", "-a").returncode == 0
    whole, resumed = (
        torch.load(tmp_path / name / "checkpoints/best.pt", weights_only=True)["pairing"]
        for name in ("whole", "killed")
    )
    assert any(name.endswith("prefix.keys") for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    done = cli("export", tmp_path / "whole", "-o", tmp_path / "exported")
    assert done.returncode != 0
    assert "an upstream with prefixes cannot be exported" in done.stderr
