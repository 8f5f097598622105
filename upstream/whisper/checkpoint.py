"""OpenAI's ``.pt``, a Hugging Face folder or a CTranslate2 folder -> Whisper's encoder. Decoders are not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError, shorten
from upstream.readers import fit, load, only_tensors, renamed
from upstream.readers.ctranslate2 import MAGIC, read_ctranslate2
from upstream.readers.huggingface import read_json, read_tensors, weight_files
from upstream.readers.torchfile import load_state
from upstream.whisper.model import WhisperConfig, WhisperEncoder

OPENAI = (
    (r"^convolutions\.", ""),
    (r"^positions$", "positional_embedding"),
    (r"^layers\.", "blocks."),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"^layer_norm", "ln_post"),
    (r"self_attn\.q_proj", "attn.query"),
    (r"self_attn\.k_proj", "attn.key"),
    (r"self_attn\.v_proj", "attn.value"),
    (r"self_attn\.out_proj", "attn.out"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"^", "encoder."),
)
"""Native names -> those of OpenAI's files."""

HUGGING_FACE = ((r"^convolutions\.", ""), (r"^positions$", "embed_positions.weight"), (r"^", "encoder."))
"""Native names -> those of ``transformers``, without the prefix ``model.``"""

CTRANSLATE2 = (
    (r"^convolutions\.", ""),
    (r"^positions$", "position_encodings/encodings"),
    (r"^layers\.(\d+)\.", r"layer_\1/"),
    (r"self_attn_layer_norm\.", "self_attention/layer_norm/"),
    (r"final_layer_norm\.", "ffn/layer_norm/"),
    (r"layer_norm([./])weight$", r"layer_norm\1gamma"),
    (r"layer_norm([./])bias$", r"layer_norm\1beta"),
    (r"self_attn\.([qkv])_proj\.", r"self_attention/linear_0/\1/"),
    (r"self_attn\.out_proj\.", "self_attention/linear_1/"),
    (r"fc1\.", "ffn/linear_0/"),
    (r"fc2\.", "ffn/linear_1/"),
    (r"\.", "/"),
    (r"^", "encoder/"),
)
"""Native names -> CTranslate2's, with the fused projection split into ``q``, ``k`` and ``v``."""


@dataclass
class Checkpoint:
    """An encoder as it stands in a file."""

    file: Path
    """With the weights."""
    format: str
    config: WhisperConfig
    tensors: dict[str, Tensor]
    """Those of the encoder, under the file's names."""
    rules: tuple[tuple[str, str], ...]
    """Native names -> the file's."""


def load_model(
    path: str | Path, *, options: Mapping[str, Any] | None = None, random_weights: bool = False
) -> tuple[WhisperEncoder, Checkpoint]:
    """Read a checkpoint into an encoder, in evaluation mode.

    Args:
        path: see :func:`read_checkpoint`.
        options: fields of :class:`WhisperConfig` to change.
        random_weights: take the architecture only; weights are drawn from torch's random state.

    Raises:
        BenchmarkError: for a file that is not such a checkpoint, or whose tensors are not those that its configuration
            asks for.
    """
    found = read_checkpoint(path)
    config = replace(found.config, **(options or {}))
    if random_weights:
        return WhisperEncoder(config).eval(), found
    with torch.device("meta"):
        model = WhisperEncoder(config)

    def theirs(name: str) -> str:
        return renamed(name, found.rules)

    load(model, fit(model, found.tensors, found.file, theirs), found.file, theirs)
    return model.eval(), found


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the encoder of a checkpoint without running any code in it.

    Args:
        path: a ``.pt`` that OpenAI published, a folder of ``transformers`` (``config.json`` with ``model.safetensors``
            or ``pytorch_model.bin``), or one of CTranslate2 (``model.bin``), as faster-whisper uses it.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        return _from_ctranslate2(path / "model.bin") if (path / "model.bin").exists() else _from_hugging_face(path)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise BenchmarkError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    return _from_ctranslate2(path) if magic == MAGIC else _from_openai(path)


def _from_openai(path: Path) -> Checkpoint:
    state = load_state(path)
    if not isinstance(state, dict) or not all(isinstance(state.get(k), dict) for k in ("dims", "model_state_dict")):
        has = shorten(state, most=5) if isinstance(state, dict) else f"a {type(state).__name__}"
        raise BenchmarkError(f"{path} holds {has}; expected OpenAI's 'dims' and 'model_state_dict'")
    dims, fields = state["dims"], ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    mels, positions, dim, heads, layers = _integers(path, dims, fields)
    tensors = _encoder(path, state["model_state_dict"], "encoder.")
    config = _config(path, tensors, mels, positions, dim, 4 * dim, heads, layers)
    return Checkpoint(path, "OpenAI", config, tensors, OPENAI)


def _from_hugging_face(folder: Path) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise BenchmarkError(f"{folder} has neither config.json, as Hugging Face's have, nor CTranslate2's model.bin")
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "whisper":
        raise BenchmarkError(f"{folder} holds a '{settings.get('model_type')}' model, not Whisper")
    if settings.get("activation_function", "gelu") != "gelu":
        raise BenchmarkError(f"{folder}: activation_function {settings['activation_function']!r}; supported: 'gelu'")
    fields = ("num_mel_bins", "max_source_positions", "d_model", "encoder_ffn_dim", "encoder_attention_heads",
              "encoder_layers")  # fmt: skip
    mels, positions, dim, ffn, heads, layers = _integers(folder / "config.json", settings, fields)
    files = weight_files(folder)
    tensors = {name.removeprefix("model."): tensor for name, tensor in read_tensors(files).items()}
    tensors = _encoder(folder, tensors, "encoder.")
    config = _config(folder, tensors, mels, positions, dim, ffn, heads, layers)
    return Checkpoint(files[0], "Hugging Face", config, tensors, HUGGING_FACE)


def _from_ctranslate2(path: Path) -> Checkpoint:
    found = read_ctranslate2(path, "encoder/")
    if found.specification != "WhisperSpec":
        raise BenchmarkError(f"{path} holds a '{found.specification}' model, not Whisper")
    tensors = found.tensors
    heads = tensors.pop("encoder/num_heads", None)
    shape = {
        name: tuple(tensors[f"encoder/{name}"].shape) if f"encoder/{name}" in tensors else ()
        for name in ("conv1/weight", "position_encodings/encodings", "layer_0/ffn/linear_0/weight")
    }
    if heads is None or heads.numel() != 1 or heads.is_floating_point() or list(map(len, shape.values())) != [3, 2, 2]:
        raise BenchmarkError(f"{path} is no Whisper: its encoder has {shorten(sorted(tensors), most=5)}")
    (dim, mels, _), (positions, _), (ffn, _) = shape.values()
    layers = len({name.split("/")[1] for name in tensors if name.startswith("encoder/layer_") and name.count("/") > 2})
    config = _config(path, tensors, mels, positions, dim, ffn, int(heads), layers)
    for i in range(layers):
        _split(path, tensors, f"encoder/layer_{i}/self_attention/linear_0", dim)
    return Checkpoint(path, "CTranslate2", config, tensors, CTRANSLATE2)


def _split(path: Path, tensors: dict[str, Tensor], name: str, dim: int) -> None:
    """Replace the fused projection by three; the key's has no bias, which the fused one fills with zeros."""
    for kind in ("weight", "bias"):
        fused = tensors.pop(f"{name}/{kind}", None)
        if fused is None or fused.dim() != (2 if kind == "weight" else 1) or len(fused) != 3 * dim:
            raise BenchmarkError(
                f"{path}: {name}/{kind} is {'missing' if fused is None else list(fused.shape)}, expected query, key "
                f"and value of {dim} rows each"
            )
        q, k, v = torch.split(fused, dim)
        tensors |= {f"{name}/q/{kind}": q, f"{name}/k/{kind}": k, f"{name}/v/{kind}": v}
    if tensors.pop(f"{name}/k/bias").any():
        raise BenchmarkError(f"{path}: {name}/bias is not zero for the key, which has no bias in Whisper")


def _encoder(path: Path, tensors: Mapping[Any, Any], prefix: str) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if isinstance(name, str) and name.startswith(prefix)}
    if not found:
        raise BenchmarkError(f"{path} has no tensors '{prefix}…': no Whisper")
    return only_tensors(found, path)


def _integers(path: Path, values: Mapping[str, Any], fields: tuple[str, ...]) -> list[int]:
    wrong = [name for name in fields if type(values.get(name)) is not int]
    if wrong:
        raise BenchmarkError(f"{path}: {wrong[0]} is {values.get(wrong[0])!r}, expected an integer")
    return [values[name] for name in fields]


def _config(
    path: Path, tensors: Mapping[str, Tensor], mels: int, positions: int, dim: int, ffn: int, heads: int,
    layers: int,
) -> WhisperConfig:  # fmt: skip
    """A configuration, after checks that keep a wrong one from being built; shapes are checked when it is loaded."""
    sizes = {
        "mel bands": mels,
        "positions": positions,
        "width": dim,
        "feed-forward": ffn,
        "heads": heads,
        "blocks": layers,
    }
    most = max(max(tensor.shape, default=0) for tensor in tensors.values())
    wrong = [f"{name} = {size}" for name, size in sizes.items() if not 0 < size <= max(most, len(tensors))]
    if wrong or dim % heads or dim % 2 or dim < 4:
        raise BenchmarkError(
            f"{path}: not an encoder that its {len(tensors)} tensors could be of: "
            + ", ".join(wrong or [f"width = {dim} of {heads} heads"])
        )
    return WhisperConfig(mels=mels, positions=positions, dim=dim, ffn=ffn, heads=heads, layers=layers)
