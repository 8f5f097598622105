"""data2vec 2.0 audio: every hidden state equals that of fairseq's ``Data2VecMultiModel``, read from its files.

As in test_families. fairseq takes the feed-forward module of its blocks from timm, which is not installed; the one here
has timm's names and order.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import fairseq.examples
import pytest
import torch
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc, Wav2VecEncoder
from omegaconf import OmegaConf
from test_families import scramble
from test_wav2vec2_parity import CONV, TOLERANCE, assert_states, batch, prepared, relative_error, waveforms
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from upstream.wav2vec2.checkpoint import load_model


class Mlp(nn.Module):
    """``timm.models.vision_transformer.Mlp``."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: Any, drop: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, hidden_features), nn.Linear(hidden_features, in_features)
        self.act, self.drop = act_layer(), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))  # type: ignore[no-any-return]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fairseq's ``data2vec2``, which imports its examples as a package of their own, and timm; its configurations have
    defaults that Python takes since 3.11 only if they can be hashed."""
    names = ("examples.data2vec.data", "timm", "timm.models", "timm.models.layers", "timm.models.vision_transformer")
    stubs = {name: ModuleType(name) for name in names}
    folder = Path(str(fairseq.examples.__path__[0])) / "data2vec" / "data"
    stubs["examples.data2vec.data"].__path__ = [str(folder)]  # its own imports torchvision
    stubs["timm.models.layers"].to_2tuple = None  # type: ignore[attr-defined]
    unused = dict.fromkeys(("PatchEmbed", "Block", "DropPath"), nn.Identity)  # of images, and of random depth
    vars(stubs["timm.models.vision_transformer"]).update(Mlp=Mlp, **unused)
    for name, stub in {"examples": fairseq.examples, **stubs}.items():
        monkeypatch.setitem(sys.modules, name, stub)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataclasses, "dataclass", partial(dataclasses.dataclass, unsafe_hash=True))
        from examples.data2vec.models import data2vec2

    return data2vec2


AUDIO: dict[str, Any] = {
    "feature_encoder_spec": CONV, "conv_pos_groups": 4, "prenet_depth": 0, "use_alibi_encoder": True,
    "learned_alibi_scale": True, "learned_alibi_scale_per_head": True,
    "decoder": {"decoder_dim": 16, "decoder_groups": 4, "decoder_layers": 2},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "depth": 3, "embed_dim": 32, "num_heads": 4, "norm_eps": 1e-5, "ema_encoder_only": False,
    "supported_modality": "AUDIO", "seed": 1, "max_update": 1, "ema_anneal_end_step": 1,
}  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {  # of the model, of the modality, normalize
    "base": ({}, {}, True),
    "large": ({"depth": 2, "num_heads": 8}, {"prenet_depth": 2}, True),
    "heads that are no power of two, one scale": ({"embed_dim": 36, "num_heads": 6, "mlp_ratio": 2.5},
                                                  {"learned_alibi_scale_per_head": False, "prenet_depth": 1}, False),
    "as wide as the extractor": ({"embed_dim": 24, "num_heads": 12}, {"conv_pos_depth": 2, "conv_pos_width": 16}, True),
    "without ALiBi": ({"depth": 1}, {"use_alibi_encoder": False, "prenet_depth": 1}, False),
}  # fmt: skip


def make(module: Any, name: str) -> tuple[Any, Any]:
    """A model and its configuration."""
    model, audio, _ = MODELS[name]
    config = OmegaConf.structured(module.Data2VecMultiConfig)
    config = OmegaConf.merge(config, {**SMALL, **model, "modalities": {"audio": {**AUDIO, **audio}}})
    whole = OmegaConf.create({"model": config, "common": {"seed": 1}, "optimization": {"max_update": 1}})
    reference = module.Data2VecMultiModel.build_model(whole.model).eval()
    scramble(reference)
    for parameter in reference.modality_encoders["AUDIO"].parameters():
        if parameter.dim() == 5:  # ALiBi's scales, a negative one among them, which counts as 0
            parameter.data.abs_().add_(0.5).flatten()[0] *= 1 if parameter.numel() == 1 else -1
    return reference, whole


def save(reference: Any, whole: Any, normalize: bool, path: Path) -> None:
    """As fairseq's trainer writes it, the teacher's parameters in ``_ema`` among it."""
    whole = OmegaConf.merge(whole, {"model": {"_name": "data2vec_multi"},
                                    "task": {"_name": "audio_pretraining", "normalize": normalize}})  # fmt: skip
    torch.save({"args": None, "cfg": whole, "model": reference.state_dict(), "optimizer_history": []}, path)


@torch.no_grad()
def states(reference: Any, wav: Tensor) -> list[Tensor]:
    """SUPERB's: the input of each block, the prenet's first, and the output."""
    inputs: list[Tensor] = []
    blocks = [*reference.modality_encoders["AUDIO"].context_encoder.blocks, *reference.blocks]
    hooks = [block.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for block in blocks]
    output = reference.extract_features(wav)["x"]
    for hook in hooks:
        hook.remove()
    return [*inputs, output]


@pytest.mark.parametrize("name", MODELS)
def test_states(name: str, module: Any, tmp_path: Path) -> None:
    """With decoder and teacher in the file."""
    reference, whole = make(module, name)
    normalize = MODELS[name][2]
    save(reference, whole, normalize, tmp_path / "d2v2.pt")
    tensors = torch.load(tmp_path / "d2v2.pt", weights_only=False)["model"]
    assert isinstance(tensors["_ema"], dict)
    assert any(".decoder." in key for key in tensors)
    model = load_model(tmp_path / "d2v2.pt")
    assert model.config.family == "data2vec2"
    assert not model.exports
    assert_states(model, waveforms(), [states(reference, prepared(wav, normalize)) for wav in waveforms()])


def test_fairseqs_own_batch(module: Any, tmp_path: Path) -> None:
    """Its positional convolutions hear the padding, so that its states of shorter utterances are not those alone."""
    reference, whole = make(module, "base")
    save(reference, whole, True, tmp_path / "d2v2.pt")
    padded, wav_lens = batch([prepared(wav, True)[0] for wav in waveforms()])
    with torch.no_grad():
        mask = torch.arange(padded.size(1)) >= wav_lens.unsqueeze(1)
        theirs = reference.extract_features(padded, padding_mask=mask)["x"]
        found = load_model(tmp_path / "d2v2.pt")(*batch(waveforms()))
    longest, shortest = int(wav_lens.argmax()), int(wav_lens.argmin())
    frames = int(found.lengths[longest])
    assert relative_error(found.states[-1][longest, :frames], theirs[longest, :frames]) < TOLERANCE
    frames = int(found.lengths[shortest])
    assert relative_error(found.states[-1][shortest, :frames], theirs[shortest, :frames]) > TOLERANCE


def test_fine_tuned(module: Any, tmp_path: Path) -> None:
    reference, whole = make(module, "large")
    encoder = Wav2VecEncoder.__new__(Wav2VecEncoder)  # its constructor wants the pre-trained file and its task
    nn.Module.__init__(encoder)
    reference.remove_pretraining_modules(modality="audio")
    encoder.w2v_model, encoder.proj = reference, nn.Linear(32, 40)
    ctc = Wav2VecCtc(OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path="", data="")), encoder)
    inner = OmegaConf.merge(whole, {"model": {"_name": "data2vec_multi"}, "task": {"_name": "audio_pretraining"}})
    cfg = {"model": {"_name": "wav2vec_ctc", "w2v_args": inner}, "task": {"_name": "audio_finetuning",
                                                                         "normalize": True}}  # fmt: skip
    torch.save({"cfg": OmegaConf.create(cfg), "model": ctc.state_dict()}, tmp_path / "ctc.pt")
    model = load_model(tmp_path / "ctc.pt")
    assert model.config.family == "data2vec2"
    with torch.no_grad():
        found = model(*batch(waveforms()[:1])).states
    expected = states(reference, prepared(waveforms()[0], True))
    assert max(relative_error(a, b) for a, b in zip(found, expected, strict=True)) < TOLERANCE


def test_gradients(module: Any, tmp_path: Path) -> None:
    reference, whole = make(module, "large")
    save(reference, whole, True, tmp_path / "d2v2.pt")
    model = load_model(tmp_path / "d2v2.pt", options={"checkpoint_activations": True})
    wav = waveforms()[0]
    model([wav]).states[-1].square().mean().backward()
    reference.extract_features(prepared(wav, True))["x"].square().mean().backward()
    audio = reference.modality_encoders["AUDIO"]
    pairs = [(model.encoder.relative_positions.scale.grad, audio.alibi_scale.grad.flatten())]
    for ours, theirs in zip(model.encoder.layers, [*audio.context_encoder.blocks, *reference.blocks], strict=True):
        fused = [getattr(ours.self_attn, f"{part}_proj").weight.grad for part in "qkv"]
        pairs.append((torch.cat(fused), theirs.attn.qkv.weight.grad))
    for mine, other in pairs:
        assert other.abs().max() > 0
        assert relative_error(mine, other) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first = True is not supported; supported: False"),
        ({"norm_eps": 1e-6}, "norm_eps = 1e-06 is not supported; supported: 1e-05"),
        ({"modalities": {"audio": {"learned_alibi_scale_per_layer": True}}}, "learned_alibi_scale_per_layer = True"),
        ({"modalities": {"audio": {"num_extra_tokens": 1}}}, "num_extra_tokens = 1 is not supported"),
    ],
)
def test_what_published_models_have_not_is_refused(
    change: dict[str, Any], message: str, module: Any, tmp_path: Path
) -> None:
    reference, whole = make(module, "base")
    save(reference, OmegaConf.merge(whole, {"model": change}), True, tmp_path / "d2v2.pt")
    with pytest.raises(BenchmarkError, match=rf"d2v2\.pt: configuration: {message}"):
        load_model(tmp_path / "d2v2.pt")
