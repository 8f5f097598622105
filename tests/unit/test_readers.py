"""Readers of Hugging Face folders and of files that other programs write: one clear message for whatever is wrong.

That what they read is right is shown in ``tests/parity/test_families.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import upstream_files
from damaged_checkpoints import divide
from safetensors.torch import load_file, save_file
from test_upstream_wav2vec2 import FAMILIES, SMALL, ragged

from benchmark.errors import BenchmarkError
from benchmark.registry import load_upstream
from upstream.readers import data2vec2, fairseq2, huggingface, renamed, wavlm
from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

DIALECTS: dict[str, dict[str, Any]] = {
    "wav2vec2": {},
    "hubert": {},
    "wavlm": FAMILIES["wavlm"],
    "data2vec": {"pos_conv_depth": 2, "conv_pos": 12, "extractor_mode": "layer_norm", "always_project": True},
    "w2v_bert": FAMILIES["w2v-BERT"],
}
"""Families that Hugging Face has."""
OTHERS: dict[str, dict[str, Any]] = {
    "data2vec2": {**DIALECTS["data2vec"], "alibi": True},
    "conformer": {"family": "wav2vec2", "always_project": True, "layer_norm_first": True, **FAMILIES["conformer"]},
}


def small(family: str) -> Wav2Vec2Model:
    """One block, in evaluation mode; waveforms are normalised as both dialects do it."""
    torch.manual_seed(0)
    config = {**SMALL, "encoder_layers": 1, "family": family, **(DIALECTS | OTHERS)[family]}
    return Wav2Vec2Model(Wav2Vec2Config(**config)).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of all that Hugging Face has."""
    return {
        family: upstream_files.save_folder(small(family), tmp_path_factory.mktemp(family) / "hf")
        for family in [*DIALECTS, "conformer"]
    }


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["wavlm"], tmp_path / "hf"))


def write(family: str) -> Callable[[Path], None]:
    """Writes the file of its authors."""
    return lambda path: upstream_files.save(small(family), path)


def write_fairseq2(path: Path) -> None:
    torch.manual_seed(0)
    config = {**SMALL, "encoder_layers": 1, "encoder_embed_dim": 32, "encoder_attention_heads": 16}
    upstream_files.save_fairseq2(Wav2Vec2Model(Wav2Vec2Config(**config)), path)


@pytest.mark.parametrize("family", DIALECTS)
def test_a_folder_by_its_names(family: str, folders: dict[str, Path]) -> None:
    loaded = [load_upstream(name, checkpoint=folders[family]) for name in ("hf", f"{family}_local")]
    expected = small(family)(*ragged([4000, 3000])).states
    for model in loaded:
        assert model.info["architecture"]["method"] == family
        for found, state in zip(model(*ragged([4000, 3000])).states, expected, strict=True):
            torch.testing.assert_close(found, state)
    other = "hubert" if family == "wavlm" else "wavlm"
    message = f"is not '{other}_local': family is '{family}', the card says '{other}'. -u {family}_local -k FILE"
    with pytest.raises(BenchmarkError, match=re.escape(message)):
        load_upstream(f"{other}_local", checkpoint=folders[family])


@pytest.mark.parametrize("family", ["wavlm", "hubert", "data2vec2"])
def test_a_file_of_its_authors(family: str, tmp_path: Path) -> None:
    write(family)(tmp_path / "file.pt")
    model = load_upstream(f"{family}_local", checkpoint=tmp_path / "file.pt")
    batch = ragged([4000, 3000])
    assert all(map(torch.equal, model(*batch).states, small(family)(*batch).states))
    with pytest.raises(BenchmarkError, match=f"family is '{family}'"):
        load_upstream("wav2vec2_local", checkpoint=tmp_path / "file.pt")


def test_a_folder_of_a_conformer(folders: dict[str, Path]) -> None:
    expected = small("conformer")(*ragged([4000, 3000])).states
    found = load_upstream("hf", checkpoint=folders["conformer"])(*ragged([4000, 3000])).states
    assert all(map(torch.equal, found, expected))


def test_the_digest_of_a_folder_is_of_all_its_files(folder: Path) -> None:
    def digest() -> str:
        return str(load_upstream("hf", checkpoint=folder).info["sha256"])

    first = digest()
    (folder / "readme.md").write_text("not read")
    assert digest() == first
    edit(folder, "preprocessor_config.json", do_normalize=True)
    second = digest()
    assert second != first
    edit(folder, "config.json", layerdrop=0.7)
    assert digest() not in (first, second)


def edit(folder: Path, name: str, **changes: Any) -> None:
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value != "absent"}))


CONFIGURATIONS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "whisper"}, "model_type is 'whisper'; supported: wav2vec2, wav2vec2-conformer, hubert, "),
    ({"model_type": "wav2vec2-conformer"}, "hidden_act = 'gelu' is not supported; supported: silu, swish"),
    (
        {"position_embeddings_type": None, "model_type": "wav2vec2-conformer", "hidden_act": "silu"},
        "position_embeddings_type = None is not supported; supported: relative, rotary",
    ),
    ({"model_type": ["wavlm"]}, "model_type is ['wavlm']; supported"),
    ({"layer_norm_eps": 1e-12}, "layer_norm_eps = 1e-12 is not supported; supported: 1e-05"),
    ({"adapter_attn_dim": 16}, "adapter_attn_dim = 16 is not supported; supported: None"),
    ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm = False is not supported"),
    ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm = True is not supported"),
    ({"feat_extract_activation": "relu"}, "feat_extract_activation = 'relu' is not supported"),
    ({"feat_extract_norm": "batch"}, "feat_extract_norm = 'batch' is not supported; supported: group, layer"),
    ({"hidden_act": ["gelu"]}, "hidden_act = ['gelu'] is not supported"),
    ({"conv_dim": [16]}, "conv_dim, conv_kernel and conv_stride must be lists of one length"),
    ({"hidden_size": "24"}, "encoder_embed_dim = '24' is a str, expected int"),
    ({"num_hidden_layers": 10**9}, "encoder_layers = 1000000000 is not supported; supported: from 1 to 1000"),
    ({"num_attention_heads": 5}, "encoder_attention_heads = 5 is not supported; supported: a divisor of"),
    ({"num_buckets": 2}, "num_buckets = 2 is not supported; supported: 4 or more"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGURATIONS, ids=[next(iter(c)) for c, _ in CONFIGURATIONS])
def test_configurations_that_are_not_supported_are_named(changes: dict[str, Any], message: str, folder: Path) -> None:
    edit(folder, "config.json", **changes)
    with pytest.raises(BenchmarkError, match=rf"config\.json: (configuration: )?{re.escape(message)}"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"feature_projection_input_dim": 80}, "feature_projection_input_dim = 80 is not supported"),
        ("config.json", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; supported: silu, swish"),
        ("config.json", {"position_embeddings_type": None}, "position_embeddings_type = None is not supported"),
        ("config.json", {"left_max_position_embeddings": -1}, "left_max_position_embeddings = -1 is not supported"),
        ("config.json", {"conv_depthwise_kernel_size": 4}, "depthwise_conv_kernel_size = 4 is not supported"),
        ("preprocessor_config.json", {"stride": 1}, "stride = 1 is not supported; supported: 2"),
        ("preprocessor_config.json", {"num_mel_bins": 128}, "num_mel_bins = 128 is not supported; supported: 80"),
    ],
)
def test_other_w2v_berts(
    name: str, changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["w2v_bert"], tmp_path / "hf")
    edit(tmp_path / "hf", name, **changes)
    with pytest.raises(BenchmarkError, match=rf"config\.json: (configuration: )?{message}"):
        load_model(tmp_path / "hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["cfg"]["model"].pop("modalities"), r"its configuration has no modalities\.audio"),
        (lambda s: s["cfg"]["model"].update(mlp_ratio="4"), "mlp_ratio = '4' is not supported"),
        (lambda s: s["cfg"]["model"]["modalities"]["audio"].update(conv_pos_depth=1), "conv_pos_depth = 1 is not"),
        (lambda s: s["model"].pop("blocks.0.attn.qkv.weight"), r"3 missing: blocks\.0\.attn\.qkv\.k\.weight"),
        (lambda s: s["model"].update({"blocks.0.attn.qkv.bias": torch.zeros(5)}),
         r"1 unexpected: blocks\.0\.attn\.qkv\.bias"),
        (lambda s: s["model"].update({"modality_encoders.IMAGE.x": torch.zeros(5)}),
         r"1 unexpected: modality_encoders\.IMAGE\.x"),
    ],
)  # fmt: skip
def test_data2vec2s_file(change: Any, message: str, tmp_path: Path) -> None:
    write("data2vec2")(tmp_path / "d2v.pt")
    state = torch.load(tmp_path / "d2v.pt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "d2v.pt")
    with pytest.raises(BenchmarkError, match=rf"d2v\.pt: .*{message}"):
        load_model(tmp_path / "d2v.pt")


def test_data2vecs_positions(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["data2vec"], tmp_path / "hf")
    edit(tmp_path / "hf", "config.json", num_conv_pos_embeddings=1)
    with pytest.raises(BenchmarkError, match="num_conv_pos_embeddings = 1 and conv_pos_kernel_size = 6 are not"):
        load_model(tmp_path / "hf")


def test_files_that_are_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(BenchmarkError, match=r"hf has no weights: none of model\.safetensors, "):
        load_model(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BenchmarkError, match=r"no preprocessor_config\.json, which says .* write it: \{\"do_normalize"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BenchmarkError, match=r"is a folder without config\.json; expected a Hugging Face model"):
        load_model(folder)
    with pytest.raises(BenchmarkError, match=r"looks like safetensors.*give the folder"):
        load_model(folder / "weights.safetensors")
    with pytest.raises(BenchmarkError, match=r"nowhere does not exist.*of the Hugging Face hub is given as owner/name"):
        load_upstream("hf", checkpoint=folder / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(name: str, share: float, folder: Path) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(BenchmarkError, match=rf"{name} \([\d,]+ bytes\) is truncated or damaged; fetch it again"):
        load_model(folder)


def test_json_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    with pytest.raises(BenchmarkError, match=r"config\.json holds a list; expected a JSON object"):
        load_model(folder)


def _cast(dtype: torch.dtype) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


def _both_formats(folder: Path) -> None:
    """transformers, too, prefers safetensors."""
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def _pickled_parts(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(tensors)}
    for part in set(parts.values()):
        torch.save({name: tensors[name] for name in parts if parts[name] == part}, folder / part)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))


def _nested_preprocessor(folder: Path) -> None:
    """As a processor of several modalities writes it."""
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": values, "processor_class": "X"}))


def _with_tokenizer(folder: Path) -> None:
    for name in ("tokenizer_config.json", "vocab.json", "special_tokens_map.json", "training_args.bin"):
        (folder / name).write_bytes(b"not read")


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (lambda folder: divide(folder, "index"), 0.0),
        (_pickled_parts, 0.0),
        (_both_formats, 0.0),
        (_nested_preprocessor, 0.0),
        (_with_tokenizer, 0.0),
        (_cast(torch.float16), 1e-2),
        (_cast(torch.bfloat16), 1e-1),
        (_cast(torch.float64), 0.0),
    ],
    ids=["safetensors in parts", "pickles in parts", "both formats", "nested", "tokenizer", "fp16", "bf16", "fp64"],
)
def test_folders_of_other_kinds(change: Callable[[Path], None], tolerance: float, folder: Path) -> None:
    expected = load_model(folder)(*ragged([4000, 3000])).states
    change(folder)
    model = load_upstream("hf", checkpoint=folder)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    for found, state in zip(model(*ragged([4000, 3000])).states, expected, strict=True):
        torch.testing.assert_close(found, state, rtol=0, atol=tolerance)


def test_weights_that_are_one_number_repeated(tmp_path: Path) -> None:
    """By strides of 0: a file of some kB would ask for terabytes."""
    write("wavlm")(tmp_path / "wavlm.pt")
    state = torch.load(tmp_path / "wavlm.pt", weights_only=True)
    state["model"]["mask_emb"] = torch.zeros(1).expand(2**40)
    torch.save(state, tmp_path / "wavlm.pt")
    with pytest.raises(BenchmarkError, match=r"wavlm\.pt: 'mask_emb' among the weights is no dense tensor"):
        load_model(tmp_path / "wavlm.pt")


def test_an_index_that_leads_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    outside = ("../model.safetensors", str(folder.parent / "model.safetensors"))
    for value in (*({"x": name} for name in (*outside, "nowhere", ".", "..", "a" * 300, "a\0b")), {}):
        index.write_text(json.dumps({"weight_map": value}))
        with pytest.raises(BenchmarkError, match="'weight_map' must name files of this folder"):
            load_model(folder)


def test_every_tensor_is_read_and_filled(folder: Path) -> None:
    """Errors name tensors as the file does."""
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layers.0.attention.extra"] = torch.zeros(1)
    del tensors["encoder.layers.0.feed_forward.output_dense.bias"]
    tensors["encoder.layers.0.attention.gru_rel_pos_const"] = torch.zeros(4)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BenchmarkError) as caught:
        load_model(folder)
    assert "1 missing: encoder.layers.0.feed_forward.output_dense.bias; 1 unexpected: " in str(caught.value)
    assert "1 unexpected: encoder.layers.0.attention.extra; 1 misshapen: " in str(caught.value)
    assert "gru_rel_pos_const [4], expected [1, 4, 1, 1]" in str(caught.value)


def test_weight_norm_in_both_spellings_at_once_is_refused(folder: Path) -> None:
    """Whichever was read, the other would be left."""
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.pos_conv_embed.conv."
    tensors[f"{name}parametrizations.weight.original0"] = tensors[f"{name}weight_g"] + 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BenchmarkError, match=r"1 unexpected: encoder\.pos_conv_embed\.conv\.parametrizations"):
        load_model(folder)


def test_pickles_in_a_folder_run_nothing(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    tensors: dict[str, Any] = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    load_model(folder)
    torch.save({**tensors, "mask_emb": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(BenchmarkError, match=r"pytorch_model\.bin: refused: .*system.*Nothing in it was run"):
        load_model(folder)
    assert not (tmp_path / "marker").exists()
    torch.save({**tensors, "masked_spec_embed": torch.zeros(24).to_sparse()}, folder / "pytorch_model.bin")
    with pytest.raises(BenchmarkError, match="'masked_spec_embed' among the weights is no dense tensor"):
        load_model(folder)
    torch.save([1], folder / "pytorch_model.bin")
    with pytest.raises(BenchmarkError, match="holds a list; expected tensors by name"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["cfg"].update(num_buckets=0), "num_buckets = 0 is not supported"),
        (lambda s: s["cfg"].update(max_distance=2), "num_buckets = 16 is not supported"),
        (lambda s: s["cfg"].update(relative_position_embedding=False), "gru_rel_pos = True is not supported"),
        (lambda s: s["cfg"].update(activation_fn="glu"), "activation_fn = 'glu' is not supported"),
        (lambda s: s.update(model=[1]), "'model' is a list"),
        (lambda s: s["model"].update(x=1), "'x' among the weights is a int"),
        (lambda s: s["model"].pop("encoder.layers.0.self_attn.grep_a"),
         r"1 missing: encoder\.layers\.0\.self_attn\.grep_a"),
        (lambda s: s["cfg"].pop("relative_position_embedding"), "the configuration of the model is a NoneType"),
    ],
)  # fmt: skip
def test_wavlms_file(change: Any, message: str, tmp_path: Path) -> None:
    write("wavlm")(tmp_path / "wavlm.pt")
    state = torch.load(tmp_path / "wavlm.pt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "wavlm.pt")
    with pytest.raises(BenchmarkError, match=rf"wavlm\.pt: .*{message}"):
        load_model(tmp_path / "wavlm.pt")


def test_a_deeply_nested_configuration_of_wavlm(tmp_path: Path) -> None:
    depth = 50_000
    with zipfile.ZipFile(tmp_path / "deep.pt", "w") as archive:
        cfg = b"}X\x1b\x00\x00\x00relative_position_embedding" + b"]" * depth + b"a" * (depth - 1) + b"s"
        data = b"\x80\x02}X\x03\x00\x00\x00cfg" + cfg + b"sX\x05\x00\x00\x00model}s."
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", content)
    with pytest.raises(BenchmarkError, match=r"deep\.pt .* is truncated or damaged.*RecursionError"):
        load_model(tmp_path / "deep.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layers.0.ffn.inner_proj.weight"),
         r"encoder\.layers\.0\.ffn\.inner_proj\.weight must have 2 dimensions, of which the architecture is read;"),
        (lambda t: t.pop("encoder_frontend.feature_extractor.layers.6.conv.weight"), "6 convolutions in the feature"),
        (lambda t: t.update({"encoder_frontend.pos_encoder.conv.weight_v": torch.zeros(32, 5, 16)}),
         "positional convolutions of 5 channels a group in a model 32 wide"),
        (lambda t: t.pop("encoder_frontend.layer_norm.bias"), r"1 missing: encoder_frontend\.layer_norm\.bias"),
        (lambda t: t.update({"encoder.layers.0.ffn.inner_proj.weight": torch.zeros(48, 40)}),
         "encoder_attention_heads = 16 is not supported; supported: a divisor of encoder_embed_dim = 40"),
        (lambda t: t.update({"llama_decoder.x": torch.zeros(1)}), r"1 unexpected: llama_decoder\.x"),
    ],
)  # fmt: skip
def test_fairseq2s_file(change: Any, message: str, tmp_path: Path) -> None:
    write_fairseq2(tmp_path / "fairseq2.pt")
    assert load_model(tmp_path / "fairseq2.pt").config.encoder_attention_heads == 16
    state = torch.load(tmp_path / "fairseq2.pt", weights_only=True)
    change(state["model"])
    torch.save(state, tmp_path / "fairseq2.pt")
    with pytest.raises(BenchmarkError, match=rf"fairseq2\.pt: .*{message}"):
        load_model(tmp_path / "fairseq2.pt")


@pytest.mark.parametrize("family", DIALECTS | OTHERS)
def test_names_are_mapped_one_to_one(family: str) -> None:
    names = list(small(family).state_dict())
    for rules in (huggingface.NAMES, huggingface.CONFORMER, wavlm.NAMES, fairseq2.NAMES,
                  (*fairseq2.POST_NORM, *fairseq2.NAMES)):  # fmt: skip
        assert len({renamed(name, rules) for name in names}) == len(names)
    assert len({data2vec2.file_name(name, 0) for name in names}) == len(names)
