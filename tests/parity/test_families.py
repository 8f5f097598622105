"""HuBERT, WavLM and data2vec-audio: every hidden state equals that of the family's own implementation.

Models are small, with random weights whose norms and biases are far from their defaults, and reach the native model as
files that transformers, fairseq or WavLM's code wrote: alone, in a ragged batch, with and without gradients
(``assert_states`` of test_wav2vec2_parity). WavLM's own code is the copy in s3prl's package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fairseq.data import Dictionary
from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.hubert.hubert_asr import HubertAsrConfig, HubertCtc, HubertEncoder
from fairseq.models.wav2vec.wav2vec2 import ConformerEncoder, Wav2Vec2Config, Wav2Vec2Model
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf
from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig
from safetensors.torch import load_file, save_file
from test_wav2vec2_parity import (
    SMALL,
    TOLERANCE,
    assert_states,
    batch,
    fairseq_states,
    prepared,
    relative_error,
    waveforms,
)
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.export import export_huggingface


def scramble(model: nn.Module) -> None:
    """Random weights of a scale at which every one of them matters."""
    torch.manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.3)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 3 and "conv_layers" in name:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.3)
            if "norm" in name and name.endswith("weight") and parameter.dim() == 1:
                parameter.data.add_(1.0)
            if name.endswith(("weight_g", "weight_v", "original0", "original1")):
                parameter.data.mul_(3.0)
            if "grep_a" in name or "gru_rel_pos_const" in name:
                parameter.data.add_(1.0)
            if "relative_attention_bias" in name or "rel_attn_embed" in name:
                parameter.data.mul_(3.0)


# --- Hugging Face -------------------------------------------------------------------------------------------------

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
        "conv_dim": (24,) * 7, "num_conv_pos_embedding_groups": 4}  # fmt: skip
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}

HUGGINGFACE: dict[str, tuple[str, dict[str, Any], bool]] = {  # class without Model, overrides, do_normalize
    "wav2vec2": ("Wav2Vec2", {}, True),
    "wav2vec2, large": ("Wav2Vec2", {**LARGE, "num_conv_pos_embeddings": 31}, True),
    "wav2vec2, as wide as the extractor": ("Wav2Vec2", {"hidden_size": 24, "hidden_act": "relu"}, False),
    "conformer, relative": ("Wav2Vec2Conformer", {"conv_depthwise_kernel_size": 7, "hidden_act": "swish"}, True),
    "conformer, rotary": ("Wav2Vec2Conformer", {**LARGE, "position_embeddings_type": "rotary",
                                                "hidden_act": "silu"}, True),
    "hubert": ("Hubert", {}, True),
    "hubert, large": ("Hubert", {**LARGE, "conv_bias": False, "hidden_act": "gelu_new"}, True),
    "wavlm": ("WavLM", {}, False),
    "wavlm, large": ("WavLM", {**LARGE, "num_buckets": 40, "max_bucket_distance": 30}, True),
    "data2vec": ("Data2VecAudio", {}, True),
    "data2vec, even kernel": ("Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 8,
                                                "hidden_size": 24}, False),
}  # fmt: skip


def make_huggingface(name: str, head: str = "Model", **more: Any) -> Any:
    kind, overrides, _ = HUGGINGFACE[name]
    config = getattr(transformers, f"{kind}Config")(**{**TINY, **overrides, **more})
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    scramble(model)
    return model


def save_huggingface(model: Any, name: str, folder: Path) -> None:
    model.save_pretrained(folder)
    preprocessor(name).save_pretrained(folder)


def preprocessor(name: str) -> Any:
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=HUGGINGFACE[name][2])


@torch.no_grad()
def huggingface_states(model: Any, name: str, wav: Tensor) -> list[Tensor]:
    inputs = preprocessor(name)(wav.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    output = model(inputs, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]  # since 5.0 the last is not normalised


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface(name: str, tmp_path: Path) -> None:
    reference = make_huggingface(name)
    save_huggingface(reference, name, tmp_path)
    assert_states(load_model(tmp_path), waveforms(), [huggingface_states(reference, name, w) for w in waveforms()])


SPELLINGS = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}


def rewrite(folder: Path, *, old_spelling: bool, pickled: bool) -> None:
    """The weights of a folder with weight norm in one spelling, as safetensors or as a pickle."""
    tensors = load_file(folder / "model.safetensors")
    for new, old in SPELLINGS.items():
        source, target = (new, old) if old_spelling else (old, new)
        tensors = {name.replace(source, target): tensor for name, tensor in tensors.items()}
    assert any(name.endswith("weight_g" if old_spelling else "original0") for name in tensors)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("old_spelling", [False, True], ids=["original0", "weight_g"])
@pytest.mark.parametrize("name", ["wav2vec2, large", "hubert", "wavlm"])
def test_both_spellings_and_both_formats(name: str, old_spelling: bool, pickled: bool, tmp_path: Path) -> None:
    reference = make_huggingface(name)
    save_huggingface(reference, name, tmp_path)
    rewrite(tmp_path, old_spelling=old_spelling, pickled=pickled)
    assert_same(load_model(tmp_path), huggingface_states(reference, name, waveforms()[0]))


def assert_same(model: Any, expected: list[Tensor]) -> None:
    with torch.no_grad():
        found = model(*batch(waveforms()[:1])).states
    assert max(relative_error(a, b) for a, b in zip(found, expected, strict=True)) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("wav2vec2", "ForCTC"),
        ("wav2vec2", "ForPreTraining"),
        ("wav2vec2, large", "ForXVector"),
        ("conformer, relative", "ForPreTraining"),
        ("conformer, rotary", "ForXVector"),
        ("hubert", "ForSequenceClassification"),
        ("wavlm", "ForXVector"),
        ("wavlm, large", "ForCTC"),
        ("data2vec", "ForCTC"),
        ("data2vec", "ForAudioFrameClassification"),
    ],
)
def test_models_with_a_head(name: str, head: str, tmp_path: Path) -> None:
    reference = make_huggingface(name, head)
    save_huggingface(reference, name, tmp_path)
    assert_same(load_model(tmp_path), huggingface_states(reference.base_model, name, waveforms()[0]))


def test_sharded_and_half_precision_and_without_a_mask(tmp_path: Path) -> None:
    reference = make_huggingface("wavlm", mask_time_prob=0.0, mask_feature_prob=0.0).half().float()
    reference.half().save_pretrained(tmp_path, max_shard_size="20KB")
    preprocessor("wavlm").save_pretrained(tmp_path)
    shards = list(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    model = load_model(tmp_path)
    assert not model.mask_emb.any()
    assert_same(model, huggingface_states(reference.float(), "wavlm", waveforms()[0]))


def test_the_waveforms_normalisation_is_the_folders(tmp_path: Path) -> None:
    """On quiet audio, where fairseq's 1e-5 and Hugging Face's 1e-7 differ."""
    reference = make_huggingface("wav2vec2")
    save_huggingface(reference, "wav2vec2", tmp_path)
    wav = 0.003 * torch.randn(16000)
    with torch.no_grad():
        found = load_model(tmp_path)([wav]).states[0]
    assert relative_error(found, huggingface_states(reference, "wav2vec2", wav)[0]) < TOLERANCE
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "other.json")
    nested = {"feature_extractor": json.loads((tmp_path / "other.json").read_text())}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))  # as Wav2Vec2Processor writes since 5.0
    assert load_model(tmp_path).config.normalize


# --- fairseq ------------------------------------------------------------------------------------------------------

FAIRSEQ_LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True}


def make_hubert(**overrides: Any) -> HubertModel:
    config = OmegaConf.merge(OmegaConf.structured(HubertConfig), {**SMALL, "label_rate": 50.0, **overrides})
    words = Dictionary()
    for i in range(20):
        words.add_symbol(str(i))
    model = HubertModel(config, OmegaConf.structured(HubertPretrainingConfig(sample_rate=16000)), [words]).eval()
    scramble(model)
    return model


def save_fairseq(model: Any, config: Any, normalize: bool, path: Path, name: str, task: str) -> None:
    """As fairseq's trainer writes it, dictionaries of labels among it."""
    cfg = OmegaConf.create({"model": {**OmegaConf.to_container(config, enum_to_str=True), "_name": name},
                            "task": {"_name": task, "normalize": normalize, "sample_rate": 16000}})  # fmt: skip
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict(), "optimizer_history": [],
                "task_state": {"dictionaries": [Dictionary()]}}, path)  # fmt: skip


@torch.no_grad()
def hubert_states(model: HubertModel, wav: Tensor) -> list[Tensor]:
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in model.encoder.layers]
    output = model.extract_features(wav, mask=False)[0]
    for hook in hooks:
        hook.remove()
    return [x.transpose(0, 1)[:, : output.size(1)] for x in inputs] + [output]


@pytest.mark.parametrize(("overrides", "normalize"), [({}, False), (FAIRSEQ_LARGE, True)], ids=["base", "large"])
def test_hubert(overrides: dict[str, Any], normalize: bool, tmp_path: Path) -> None:
    reference = make_hubert(**overrides, untie_final_proj=True)
    config = OmegaConf.merge(OmegaConf.structured(HubertConfig), {**SMALL, "label_rate": 50.0, **overrides})
    save_fairseq(reference, config, normalize, tmp_path / "hubert.pt", "hubert", "hubert_pretraining")
    model = load_model(tmp_path / "hubert.pt")
    assert model.config.family == "hubert"
    assert {"final_proj.weight", "label_embs_concat"} <= set(model.pretraining)
    assert_states(model, waveforms(), [hubert_states(reference, prepared(wav, normalize)) for wav in waveforms()])


def test_hubert_fine_tuned(tmp_path: Path) -> None:
    reference = make_hubert(**FAIRSEQ_LARGE)
    plain = {**SMALL, **FAIRSEQ_LARGE, "_name": "hubert"}
    inner = {"model": plain, "task": {"_name": "hubert_pretraining", "normalize": True, "sample_rate": 16000}}
    encoder = HubertEncoder.__new__(HubertEncoder)  # its constructor wants the pre-trained file and its task
    nn.Module.__init__(encoder)
    encoder.w2v_model, encoder.proj = reference, nn.Linear(32, 40)
    reference.final_proj, reference.label_embs_concat = None, None  # as remove_pretraining_modules
    ctc = HubertCtc(OmegaConf.structured(HubertAsrConfig(w2v_path="", data="")), encoder)
    task = {"_name": "audio_finetuning", "normalize": True}
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": inner}, "task": task}
    torch.save({"cfg": OmegaConf.create(cfg), "model": ctc.state_dict()}, tmp_path / "ctc.pt")
    model = load_model(tmp_path / "ctc.pt")
    assert model.config.family == "hubert"
    assert_same(model, hubert_states(reference, prepared(waveforms()[0], True)))


def test_s3prls_copy_of_hubert_without_a_name(tmp_path: Path) -> None:
    reference = make_hubert()
    torch.save({"model_cfg": SMALL, "task_cfg": {"normalize": False}, "model_weight": reference.state_dict(),
                "dictionaries_symbols": [["a"]]}, tmp_path / "s3prl.pt")  # fmt: skip
    model = load_model(tmp_path / "s3prl.pt")
    assert model.config.family == "hubert"
    assert_same(model, hubert_states(reference, prepared(waveforms()[0], False)))


DATA2VEC = {"extractor_mode": "layer_norm", "pos_conv_depth": 5, "conv_pos": 95}


@pytest.mark.parametrize(
    ("overrides", "normalize"),
    [({}, True), ({"encoder_embed_dim": 24, "pos_conv_depth": 2, "conv_pos": 16}, False)],
    ids=["base", "as wide as the extractor"],
)
def test_data2vec(overrides: dict[str, Any], normalize: bool, tmp_path: Path) -> None:
    """With the teacher in the file, as in those of pre-training."""
    config = OmegaConf.merge(
        OmegaConf.structured(Data2VecAudioConfig),
        {**SMALL, **DATA2VEC, **overrides, "ema_anneal_end_step": 1, "max_update": 1},
    )
    reference = Data2VecAudioModel(config).eval()
    scramble(reference)
    reference.set_num_updates(1)
    assert isinstance(reference.state_dict()["_ema"], dict)
    save_fairseq(reference, config, normalize, tmp_path / "d2v.pt", "data2vec_audio", "audio_pretraining")
    model = load_model(tmp_path / "d2v.pt")
    assert model.config.family == "data2vec"
    assert_states(model, waveforms(), [fairseq_states(reference, prepared(wav, normalize)) for wav in waveforms()])


@pytest.fixture
def _mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq 0.12.3 gives a Conformer's methods arguments that they do not take."""
    build, extract = ConformerEncoder.build_encoder_layer, ConformerEncoder.extract_features
    monkeypatch.setattr(ConformerEncoder, "build_encoder_layer", lambda self, args, **_: build(self, args))
    monkeypatch.setattr(
        ConformerEncoder, "extract_features", lambda self, x, mask=None, layer=None, **_: extract(self, x, mask, layer)
    )


CONFORMER = {"layer_type": "conformer", "attn_type": "espnet", "depthwise_conv_kernel_size": 7}


@pytest.mark.usefixtures("_mended")
@pytest.mark.parametrize(
    ("overrides", "normalize"),
    [({**FAIRSEQ_LARGE, "pos_enc_type": "rel_pos"}, True), ({**FAIRSEQ_LARGE, "pos_enc_type": "rope"}, True),
     ({"pos_enc_type": "rel_pos", "encoder_attention_heads": 2}, False)],
    ids=["rel_pos", "rope", "post-norm"],
)  # fmt: skip
def test_conformer(overrides: dict[str, Any], normalize: bool, tmp_path: Path) -> None:
    config = OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), {**SMALL, **CONFORMER, **overrides})
    reference = Wav2Vec2Model(config).eval()
    scramble(reference)
    save_fairseq(reference, config, normalize, tmp_path / "conformer.pt", "wav2vec2", "audio_pretraining")
    model = load_model(tmp_path / "conformer.pt")
    states = [conformer_states(reference, prepared(wav, normalize)) for wav in waveforms()]
    assert_states(model, waveforms(), states)


@torch.no_grad()
def conformer_states(model: Wav2Vec2Model, wav: Tensor) -> list[Tensor]:
    """As ``fairseq_states``: the blocks get their input by name or by place."""
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in model.encoder.layers]
    output = model.extract_features(wav, padding_mask=None, mask=False)["x"]
    for hook in hooks:
        hook.remove()
    return [x.transpose(0, 1) for x in inputs] + [output]


@pytest.mark.usefixtures("_mended")
def test_a_conformer_has_the_references_gradients(tmp_path: Path) -> None:
    """BatchNorm in evaluation mode, as in the reference here; in training it is over the rows of the batch."""
    overrides = {**FAIRSEQ_LARGE, "pos_enc_type": "rel_pos"}
    config = OmegaConf.merge(OmegaConf.structured(Wav2Vec2Config), {**SMALL, **CONFORMER, **overrides})
    reference = Wav2Vec2Model(config).eval()
    scramble(reference)
    save_fairseq(reference, config, False, tmp_path / "conformer.pt", "wav2vec2", "audio_pretraining")
    model = load_model(tmp_path / "conformer.pt", options={"checkpoint_activations": True})
    wav = waveforms()[0]
    model([wav]).states[-1].square().mean().backward()
    reference.extract_features(wav[None], padding_mask=None, mask=False)["x"].square().mean().backward()
    for ours, theirs in zip(model.encoder.layers, reference.encoder.layers, strict=True):
        for mine, other in (
            (ours.self_attn.pos_proj.weight, theirs.self_attn.linear_pos.weight),
            (ours.self_attn.pos_bias_u, theirs.self_attn.pos_bias_u),
            (ours.self_attn.pos_bias_v, theirs.self_attn.pos_bias_v),
            (ours.conv_module.depthwise_conv.weight, theirs.conv_module.depthwise_conv.weight),
        ):
            assert other.grad.abs().max() > 0
            assert relative_error(mine.grad, other.grad) < TOLERANCE
    model.train()([wav, wav[:9000]]).states[-1].sum().backward()


# --- WavLM --------------------------------------------------------------------------------------------------------

WAVLM: dict[str, dict[str, Any]] = {
    "base": {"relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 320, "max_distance": 800},
    "large": {**FAIRSEQ_LARGE, "relative_position_embedding": True, "gru_rel_pos": True, "normalize": True,
              "num_buckets": 20, "max_distance": 40},
    "without gate": {"relative_position_embedding": True, "num_buckets": 32, "max_distance": 128},
    "without positions": {},
}  # fmt: skip


def make_wavlm(name: str) -> tuple[WavLM, dict[str, Any]]:
    cfg = {key: value for key, value in SMALL.items() if key != "final_dim"} | WAVLM[name]
    cfg = {**vars(WavLMConfig()), **cfg}
    model = WavLM(WavLMConfig(cfg)).eval()
    scramble(model)
    return model, cfg


@torch.no_grad()
def wavlm_states(model: WavLM, wav: Tensor) -> list[Tensor]:
    _, results = model.extract_features(wav, output_layer=len(model.encoder.layers), ret_layer_results=True)[0]
    states = [x.transpose(0, 1) for x, _ in results]
    return [*states[:-1], model.extract_features(wav)[0]]  # with output_layer, the last is not normalised


@pytest.mark.parametrize("name", WAVLM)
def test_wavlm(name: str, tmp_path: Path) -> None:
    reference, cfg = make_wavlm(name)
    torch.save({"cfg": cfg, "model": reference.state_dict()}, tmp_path / "wavlm.pt")
    model = load_model(tmp_path / "wavlm.pt")
    assert model.config.family == "wavlm"
    wavs = waveforms()
    assert_states(model, wavs, [wavlm_states(reference, prepared(wav, cfg["normalize"])) for wav in wavs])


def test_wavlm_has_the_references_gradients(tmp_path: Path) -> None:
    reference, cfg = make_wavlm("base")
    torch.save({"cfg": cfg, "model": reference.state_dict()}, tmp_path / "wavlm.pt")
    model = load_model(tmp_path / "wavlm.pt", options={"checkpoint_activations": True})
    wav = waveforms()[0]
    model([wav]).states[-1].square().mean().backward()
    reference.extract_features(wav[None])[0].square().mean().backward()
    found, expected = model.encoder, reference.encoder
    pairs = [(found.relative_positions.weight, expected.layers[0].self_attn.relative_attention_bias.weight)]
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        pairs.append((ours.self_attn.gate.linear.weight, theirs.self_attn.grep_linear.weight))
        pairs.append((ours.self_attn.gate.scale, theirs.self_attn.grep_a))
    for mine, other in pairs:
        assert other.grad.abs().max() > 0
        assert relative_error(mine.grad, other.grad) < TOLERANCE


# --- back to Hugging Face -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hubert", "hubert, large", "wavlm", "wavlm, large", "data2vec"])
def test_export(name: str, tmp_path: Path) -> None:
    """What was read from a folder is written to one that transformers loads, with every weight of the file."""
    reference = make_huggingface(name)
    save_huggingface(reference, name, tmp_path / "in")
    model = load_model(tmp_path / "in")
    assert export_huggingface(model, tmp_path / "out").startswith("-u hf -k")
    again, about = type(reference).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    for one, two in zip(
        huggingface_states(again.eval(), name, waveforms()[0]), huggingface_states(reference, name, waveforms()[0]),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(one, two)


# --- fairseq2 -----------------------------------------------------------------------------------------------------

FAIRSEQ2 = Path(__file__).parents[1] / "fixtures" / "fairseq2"
"""Files and states of fairseq2 0.8.1: ``make.py`` there."""


@pytest.mark.parametrize("name", ["base", "omnilingual", "stacked"])
def test_fairseq2(name: str, tmp_path: Path) -> None:
    made = torch.load(FAIRSEQ2 / f"{name}.pt", weights_only=True)
    file, wav, states = made["file"], made["wav"].float(), made["states"]
    for layout in (file, file["model"]):
        torch.save(layout, tmp_path / "fairseq2.pt")
        model = load_model(tmp_path / "fairseq2.pt")
        assert model.config.encoder_attention_heads == 16
        with torch.no_grad():
            together = model([wav[:9000], wav]).states
        for found, expected in zip(together, states, strict=True):
            assert relative_error(found[1:, : expected.size(1)], expected) < TOLERANCE
    del file["model"]["encoder.layers.1.ffn.output_proj.bias"]
    torch.save(file, tmp_path / "fairseq2.pt")
    with pytest.raises(BenchmarkError, match=r"1 missing: encoder\.layers\.1\.ffn\.output_proj\.bias"):
        load_model(tmp_path / "fairseq2.pt")
