"""BEST-RQ's encoder: lengths, options, training, cards, and files that are not what they should be."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import REPOSITORY, Cli
from torch import Tensor

from benchmark.config import TuneConfig
from benchmark.engine.conformance import check
from benchmark.engine.prepare import frame_counts
from benchmark.engine.regimes import Partial, apply_regime
from benchmark.errors import BenchmarkError
from downstream.asr.heads import HEADS, CTCHeadConfig, make_head
from downstream.asr.specaugment import SpecAugmentConfig
from upstream import list_upstreams, load_upstream
from upstream.bestrq.cards import FOLDER, read_cards
from upstream.bestrq.checkpoint import load_model, read_checkpoint, save_folder
from upstream.bestrq.model import BestRQConfig, BestRQEncoder

RUN = REPOSITORY / "tests" / "fixtures" / "bestrq" / "run"
SAVED = RUN / "save" / "CKPT+fixture"
FIRST = "1.transformer.encoder.layers.0."


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """What SpeechBrain's model.ckpt holds."""
    loaded: dict[str, Tensor] = torch.load(SAVED / "model.ckpt", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def model() -> BestRQEncoder:
    return load_model(RUN)[0]


def message(path: Path) -> str:
    with pytest.raises(BenchmarkError) as raised:
        load_upstream("bestrq", checkpoint=path)
    return str(raised.value)


def test_the_contract_is_kept() -> None:
    check(load_upstream("bestrq", checkpoint=RUN))


def test_lengths_silence_and_short_audio(model: BestRQEncoder) -> None:
    assert (model.frame_shift, model.min_samples) == (640, 320)
    for n in (320, 479, 480, 639, 640, 641, 2719, 2720, 16000, 16001):
        mels = n // 160 + 1
        out = model(torch.zeros(1, n))
        assert out.lengths.tolist() == [math.ceil(math.ceil(mels / 2) / 2)] == [out.states[0].size(1)]
        assert all(state.isfinite().all() for state in out.states)
    assert model.output_lengths(torch.tensor([0, 319, 320])).tolist() == [0, 0, 1]
    with pytest.raises(BenchmarkError, match="item 1 of the batch has 319 samples"):
        model(torch.zeros(2, 400), torch.tensor([400, 319]))
    with pytest.raises(BenchmarkError, match=r"keep = \[3\]: expected increasing states from 0 to 2"):
        model(torch.zeros(1, 400), keep=[3])


def test_bands_without_speech_do_not_become_noise(model: BestRQEncoder) -> None:
    """Above the limit of telephone speech a band is constant; what is added to it in rounding must not matter."""
    wav = torch.sin(torch.arange(16000) * 0.3) * torch.linspace(0.1, 1, 16000)
    features = torch.full((1, 100, 80), -80.0)
    features[:, :, :40] = wav[:4000].view(1, 100, 40)
    noisy = features.clone()
    noisy[:, ::3, 40:] += 1e-5
    frames = torch.tensor([100])
    assert not model.normalise(noisy, frames)[:, :, 40:].any()
    assert torch.equal(model.normalise(noisy, frames), model.normalise(features, frames))


@pytest.mark.parametrize("strides", [(2, 2), (2, 1, 2), (4, 2)], ids=str)
def test_other_subsampling(strides: tuple[int, ...]) -> None:
    config = BestRQConfig(
        channels=(4,) * len(strides), kernels=(3, 5, 3)[: len(strides)], strides=strides, dim=8, ffn=8, heads=2,
        layers=1, conv_kernel=3,
    )  # fmt: skip
    other = BestRQEncoder(config).eval()
    assert other.frame_shift == 160 * math.prod(strides)
    check(other)
    assert other(torch.randn(1, other.min_samples)).lengths.item() >= 1


def test_heads_and_ctc_take_40_ms(model: BestRQEncoder) -> None:
    assert frame_counts(model, np.array([0.5, 1.0, 0.01])).tolist() == [13, 26, 0]
    hidden = model([torch.randn(16000), torch.randn(9000)])
    for name in HEADS:
        head = make_head(24, 5, CTCHeadConfig(name=name, size=4, hidden=4), SpecAugmentConfig()).train()
        targets = (torch.tensor([[1, 2, 3], [2, 0, 0]]), torch.tensor([3, 1]))
        assert head.loss(hidden.states[-1].detach(), hidden.lengths, targets).isfinite()


def test_training(model: BestRQEncoder) -> None:
    wavs, wav_lens = torch.randn(2, 16000), torch.tensor([16000, 9000])

    def gradient(**options: Any) -> Tensor:
        trained = load_upstream("bestrq", checkpoint=RUN, **options).train()
        apply_regime(Partial(), trained, TuneConfig(top_blocks=1))
        assert not trained.layers[0].ffn1.fc1.weight.requires_grad
        torch.manual_seed(0)
        trained(wavs, wav_lens).states[-1].square().sum().backward()
        grad: Tensor = trained.layers[1].self_attn.pos_bias_u.grad
        return grad

    assert gradient().any()
    torch.testing.assert_close(gradient(), gradient(checkpoint_activations=True))
    for option in ("dropout", "attention_dropout", "activation_dropout"):
        assert not torch.allclose(gradient(), gradient(**{option: 0.5}))
    states = load_upstream("bestrq", checkpoint=RUN, encoder_layerdrop=1.0).train()(wavs, wav_lens).states
    assert torch.equal(states[0], states[1])


def test_info_and_random_weights(model: BestRQEncoder) -> None:
    loaded = load_upstream("bestrq", checkpoint=RUN)
    assert loaded.info["architecture"] == {
        "family": "bestrq", "mels": 80, "subsampling": 4, "norm": "sentence", "encoder_layers": 2,
        "encoder_embed_dim": 24, "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    assert loaded.info["checkpoint"] == str(SAVED / "model.ckpt")
    drawn = load_upstream("bestrq", checkpoint=RUN, random_weights=True)
    assert drawn.info["sha256"] is None
    assert not torch.allclose(drawn.layers[0].ffn1.fc1.weight, loaded.layers[0].ffn1.fc1.weight, atol=0.01)


def test_cards(cli: Cli) -> None:
    assert set(read_cards()) == set(list_upstreams("bestrq*")) == {"bestrq", "bestrq_tiny"}
    (row,) = list_upstreams("bestrq_tiny", details=True)
    assert (row["num_states"], row["hidden_size"], row["frame_shift"]) == (7, 192, 640)
    assert row["licence"] == "Apache-2.0"
    assert (FOLDER / "bestrq_tiny.pt").stat().st_size < 10e6
    assert "'bestrq' needs a checkpoint" in cli("check-upstream", "bestrq").stderr
    with pytest.raises(BenchmarkError, match=r"nowhere does not exist .*SpeechBrain's output folder"):
        load_upstream("bestrq", checkpoint="nowhere")


def test_what_is_written_is_read(model: BestRQEncoder, tmp_path: Path) -> None:
    said = load_upstream("bestrq", checkpoint=RUN).exports["speechbrain"](model, tmp_path / "out")
    assert str(tmp_path / "out") in said
    again, found = load_model(tmp_path / "out")
    assert found.config == model.config
    for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    save_folder(model, tmp_path / "half", torch.float16)
    assert load_model(tmp_path / "half")[0].layer_norm.weight.dtype == torch.float32


# --- where things lie, and what hyperparams.yaml says ---------------------------------------------------------------


def test_the_newest_checkpoint_is_taken_and_the_fine_tuned_encoder(tmp_path: Path, state: dict[str, Tensor]) -> None:
    for date in ("2026-01-02+03-04-05+00", "2026-01-10+03-04-05+00"):
        folder = tmp_path / "save" / f"CKPT+{date}"
        folder.mkdir(parents=True)
        torch.save(state, folder / "model.ckpt")
    shutil.copy(RUN / "hyperparams.yaml", tmp_path)
    assert read_checkpoint(tmp_path).file == folder / "model.ckpt"
    (folder / "model.ckpt").rename(folder / "pt_model.ckpt")
    torch.save({"head": torch.ones(1)}, folder / "model.ckpt")  # of the fine-tuning recipe
    assert read_checkpoint(tmp_path).file == folder / "pt_model.ckpt"
    assert read_checkpoint(folder / "pt_model.ckpt").config.dim == 24
    (tmp_path / "empty").mkdir()
    assert "has no model.ckpt" in message(tmp_path / "empty")


def test_settings_come_from_the_file_or_are_the_recipes(tmp_path: Path) -> None:
    shutil.copy(SAVED / "model.ckpt", tmp_path)
    assert read_checkpoint(tmp_path).config == read_checkpoint(RUN).config
    text = (RUN / "hyperparams.yaml").read_text()
    (tmp_path / "hyperparams.yaml").write_text(
        text.replace("(2, 2)", "!ref <steps>").replace("seed: 1000", "steps: (2, 4)").replace("nn.GELU", "nn.ReLU")
    )
    config = read_checkpoint(tmp_path).config
    assert (config.strides, config.activation) == ((2, 4), "ReLU")


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("causal: false", "", r"causal is True; only encoders with causal: False"),
        ("RelPosMHAXL", "RoPEMHA", "attention_type is RoPEMHA"),
        ("residuals: (False, False)", "residuals: (False, True)", "residuals is"),
        ("num_layers_per_block: 1", "num_layers_per_block: 2", "num_layers_per_block is 2"),
        ("torch.nn.GELU", "torch.nn.Tanh", "activation is Tanh; expected one of GELU"),
        ("norm_type: sentence", "norm_type: batch", "norm_type is batch; expected sentence or global"),
        ("norm_type: sentence", "norm_type: global", "needs normalize.ckpt beside it"),
        ("(2, 2)", "(2, 0)", r"strides \[2, 0\]"),
        ("(2, 2)", "(2, 2, 2)", "has 2 convolutions, but hyperparams.yaml 3"),
        ("n_mels: 80", "n_mels: 40", r"norm_0\.norm\.weight \[40, 6\], expected \[20"),
        ("lobes.features.Fbank", "lobes.features.MFCC", "makes no Fbank"),
        ("# bestrq.yaml", "a: [1, 2", "is truncated or damaged"),
        ("# bestrq.yaml", "a: *nobody", "is truncated or damaged"),
        ("# bestrq.yaml", f"a: {'[' * 2000}", "is truncated or damaged"),
    ],
    ids=["causal", "rotary", "residual", "layers", "activation", "batch", "global", "stride 0", "strides", "mels",
         "class", "broken", "alias", "deep"],
)  # fmt: skip
def test_other_architectures_are_refused(before: str, after: str, error: str, tmp_path: Path) -> None:
    text = (RUN / "hyperparams.yaml").read_text()
    assert before in text
    shutil.copy(SAVED / "model.ckpt", tmp_path)
    (tmp_path / "hyperparams.yaml").write_text(text.replace(before, after))
    with pytest.raises(BenchmarkError, match=error):
        load_upstream("bestrq", checkpoint=tmp_path)


def test_nothing_that_the_settings_name_is_run(tmp_path: Path) -> None:
    """Nor expanded, where aliases stand for a billion things."""
    shutil.copy(SAVED / "model.ckpt", tmp_path)
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
    evil = f"evil: !apply:pathlib.Path.touch [!new:pathlib.Path [{tmp_path / 'marker'}]]\nw: !!python/name:os.system\n"
    (tmp_path / "hyperparams.yaml").write_text(evil + bomb + (RUN / "hyperparams.yaml").read_text())
    assert read_checkpoint(tmp_path).config.dim == 24
    assert not (tmp_path / "marker").exists()


# --- files that are not what they should be -------------------------------------------------------------------------


Change = Callable[[dict[str, Tensor]], Any]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s: {k: x for k, x in s.items() if "norm2" not in k}, r"missing: 1\.transformer\.encoder\.layers"),
        (lambda s: s | {"1.transformer.decoder.a": torch.ones(1)}, r"1 unexpected: 1\.transformer\.decoder\.a"),
        (lambda s: s | {f"{FIRST}norm1.norm.bias": torch.ones(3)}, r"norm1\.norm\.bias \[3\], expected \[24\]"),
        (lambda s: s | {f"{FIRST}norm1.norm.bias": torch.full((24,), math.nan)}, "1 tensors have NaN or infinite"),
        (lambda s: s | {f"{FIRST}norm1.norm.bias": torch.ones(24, dtype=torch.int8)}, "numbers, but quantised: "),
        (lambda s: s | {f"{FIRST}mha_layer.in_proj_weight": torch.ones(24, 24)}, "queries, keys and values of 24"),
        (lambda s: s | {f"{FIRST}mha_layer.pos_bias_u": torch.ones(6, 3)}, "24 with 3 heads of 6"),
        (lambda s: s | {f"{FIRST}mha_layer.pos_bias_u": torch.ones(0, 3)}, r"pos_bias_u is \[0, 3\]"),
        (lambda s: s | {f"{FIRST}convolution_module.conv.weight": torch.ones(24, 1, 4)}, "odd kernels"),
        (lambda s: {k.replace("1.transformer.encoder", "encoder"): x for k, x in s.items()}, "is not there"),
        (lambda s: s | {f"{FIRST}norm1.norm.bias": torch.ones(24, device="meta")}, "bias' .* is no dense tensor"),
        (lambda s: s | {f"{FIRST}norm1.norm.bias": torch.ones(1).expand(2**40)}, "bias' .* is no dense tensor"),
        (lambda s: s | {"x": 1}, "'x' is not a tensor"),
        (lambda s: s | {3: torch.ones(1)}, "'3' is not a tensor"),
        (lambda s: list(s.values()), "holds a list"),
        (lambda s: {}, "holds a dict"),
        (lambda s: print, "refused: its pickle names builtins.print"),
    ],
    ids=["missing", "unexpected", "misshapen", "nan", "int8", "in_proj", "heads", "empty", "even", "another model",
         "meta", "repeated", "number", "key", "list", "nothing", "function"],
)  # fmt: skip
def test_files_that_hold_something_else(change: Change, error: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(change(state), tmp_path / "model.ckpt")
    with pytest.raises(BenchmarkError, match=error):
        load_upstream("bestrq", checkpoint=tmp_path)


def test_files_of_other_families_and_cut_ones(tmp_path: Path) -> None:
    assert "expected SpeechBrain's model.ckpt" in message(REPOSITORY / "upstream" / "wav2vec2" / "wav2vec2_tiny.pt")
    data = (SAVED / "model.ckpt").read_bytes()
    for end in (0, 3, 100, 5000, len(data) - 1):
        (tmp_path / "model.ckpt").write_bytes(data[:end])
        assert str(tmp_path / "model.ckpt") in message(tmp_path)
