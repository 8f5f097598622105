"""Checkpoints of every format that is read, damaged: for ``unit/test_damaged_checkpoints.py`` and ``make fuzz``.

The models are as small as the formats allow. Damage is of bytes, of a pickle's bytes inside an archive that is
otherwise whole (its checksum would else hide them), and of values: configurations, and tensors of other types, shapes
and kinds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import random
import shutil
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import upstream_files
import whisper_files
from fuzzing import VALUES, Reader, damaged_bytes, damaged_value

from benchmark.errors import BenchmarkError
from benchmark.registry import load_upstream
from upstream.bestrq.checkpoint import save_folder
from upstream.bestrq.model import BestRQConfig, BestRQEncoder
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.model import Wav2Vec2Model

SMALL: dict[str, Any] = {
    "conv_feature_layers": "[(8, 10, 5), (8, 3, 2)]", "encoder_layers": 1, "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 4, "conv_pos": 4, "conv_pos_groups": 2,
}  # fmt: skip
DEEP = {"pos_conv_depth": 2, "conv_pos": 12, "extractor_mode": "layer_norm", "always_project": True}
CONFORMER = {"layer_type": "conformer", "activation_fn": "swish", "depthwise_conv_kernel_size": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "wav2vec2": {},
    "hubert": {},
    "wavlm": {"relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 16, "max_distance": 40},
    "data2vec": DEEP,
    "data2vec2": DEEP | {"alibi": True},
    "conformer": {"family": "wav2vec2", "always_project": True, "layer_norm_first": True, "pos_enc_type": "rel_pos"}
    | CONFORMER,
    "w2v_bert": {"extractor_mode": "fbank", "always_project": True, "encoder_layer_norm": False, "causal_conv": True,
                 "pos_enc_type": "relative_key"} | CONFORMER,
    "fairseq2": {"family": "wav2vec2", "encoder_embed_dim": 32, "encoder_attention_heads": 16,
                 "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2"},
}  # fmt: skip

MODELS = {"wav2vec2": "Wav2Vec2Model", "whisper": "WhisperEncoder", "bestrq": "BestRQEncoder"}

TENSORS: list[Any] = [
    torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.full((16,), math.nan),
    torch.zeros(16, dtype=torch.complex64), torch.zeros(16).to_sparse(), torch.zeros(16, device="meta"),
    torch.zeros(16, dtype=torch.float8_e5m2), torch.zeros(16, dtype=torch.bool), torch.zeros(16, 16).T[::2],
    torch.zeros(1).expand(2**40), torch.nn.Parameter(torch.zeros(16)), torch.Size([3]), torch.float16,
    torch.quantize_per_tensor(torch.zeros(16), 0.1, 0, torch.qint8), torch.zeros(16, dtype=torch.bfloat16),
]  # fmt: skip
"""What a pickle may hold in place of a weight."""


def model(family: str) -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(Wav2Vec2Config(**{**SMALL, "family": family, **FAMILIES[family]})).eval()


# ------------------------------------------------------------------------------------------------------------- damage


@cache
def _state(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _copied(value: Any) -> Any:
    """With containers of its own, and the same tensors."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def damaged_pickle(data: bytes, draw: random.Random) -> bytes:
    """What ``torch.save`` wrote: other values, written as now or as before torch 1.6; the pickle's bytes; any bytes."""
    kind = draw.random()
    if kind < 0.45:
        state = _copied(_state(data))
        for _ in range(draw.randint(1, 3)):
            state = damaged_value(state, draw, [*VALUES, *TENSORS])
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=draw.random() < 0.7)
        return file.getvalue()
    if kind < 0.75:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as good, zipfile.ZipFile(file, "w") as archive:
            for name in good.namelist():
                content = good.read(name)
                archive.writestr(name, damaged_bytes(content, draw) if name.endswith("/data.pkl") else content)
        return file.getvalue()
    return damaged_bytes(data, draw)


def damaged_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Bytes, or the header's values, and its length with them."""
    if draw.random() < 0.5:
        return damaged_bytes(data, draw)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(list(header)) if header else "x"
        header[name] = damaged_value(header.get(name, {}), draw)
        if isinstance(header[name], dict) and draw.random() < 0.4:
            header[name]["dtype"] = draw.choice(("F16", "BF16", "I32", "F8_E4M3", "BOOL", "U8", "C64"))
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + data[8 + size :]


def damaged_json(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return damaged_bytes(data, draw)
    values = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        values = damaged_value(values, draw)
    return json.dumps(values).encode()


def one_of(files: Iterable[str], damaged: Callable[[bytes, random.Random], bytes]) -> Callable[..., None]:
    """Damages one of the files of a folder, by chance."""
    names = list(files)

    def damage(folder: Path, draw: random.Random) -> None:
        path = folder / draw.choice(names)
        path.write_bytes(damaged(path.read_bytes(), draw))

    return damage


def damaged_variables(data: bytes, draw: random.Random) -> bytes:
    """CTranslate2's: bytes, or tensors and their names."""
    if draw.random() < 0.6:
        return damaged_bytes(data, draw)
    variables = dict(_variables())
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(list(variables))
        tensor = variables.pop(name)
        kind = draw.randrange(4)
        if kind == 0:
            others = (name + "x", name.replace("encoder", "decoder"), "", draw.choice(list(variables)))
            variables[draw.choice(others)] = tensor
        elif kind == 1:
            variables[name] = tensor.to(draw.choice(whisper_files.TYPES))
        elif kind == 2:
            shape = [draw.choice((1, 2, 3, 16)) for _ in range(draw.randint(1, 3))]
            variables[name] = torch.full(shape, draw.choice((0.0, 1.0, math.nan)))
    return whisper_files.ctranslate2_bytes(variables, draw.choice(("WhisperSpec",) * 5 + ("", "TransformerSpec")))


@cache
def _variables() -> dict[str, Any]:
    return whisper_files.ctranslate2_variables(_whisper())


@cache
def _whisper() -> Any:
    return whisper_files.whisper_model(layers=1)


# ------------------------------------------------------------------------------------------------------------- readers


@cache
def once(module: str, name: str) -> Any:
    """Makes a module's models, one for each configuration: loading replaces all of their tensors."""
    kind, made = getattr(importlib.import_module(module), name), dict[str, Any]()

    def make(config: Any, **more: Any) -> Any:
        if len(made) > 100:
            made.clear()
        if repr(config) not in made:
            made[repr(config)] = kind(config, **more)
        return made[repr(config)]

    return mock.patch(f"{module}.{name}", make)


def read(name: str, inside: str = "") -> Callable[[Path], None]:
    """Loads an upstream; what is refused is named."""

    def load(folder: Path) -> None:
        try:
            with contextlib.ExitStack() as stack:
                for family, model in MODELS.items():
                    stack.enter_context(once(f"upstream.{family}.checkpoint", model))
                load_upstream(name, checkpoint=folder / inside)
        except BenchmarkError as error:
            if str(folder) not in str(error):
                raise ValueError(f"which file is not said: {error}") from error
            raise

    return load


def one_family(damage: Callable[[Path, random.Random], object], inside: str) -> Callable[..., None]:
    """The file or folder of a family that is drawn takes the place of the good one, damaged."""

    def damaged(folder: Path, draw: random.Random) -> None:
        good, chosen = folder / inside, draw.choice(sorted(families(folder).iterdir()))
        if chosen.is_dir():
            shutil.rmtree(good)
            shutil.copytree(chosen, good)
        else:
            shutil.copy(chosen, good)
        damage(folder, draw)

    return damaged


def families(folder: Path) -> Path:
    """Beside the folder that is copied for each input."""
    return folder.parent / "families"


def write_fairseq(folder: Path) -> None:
    families(folder).mkdir()
    for family in ("wav2vec2", "hubert", "data2vec", "conformer"):
        upstream_files.save_fairseq(model(family), families(folder) / f"{family}.pt")
    for family in ("wav2vec2", "hubert"):
        upstream_files.save_fairseq(model(family), families(folder) / f"{family}_ctc.pt", fine_tuned=True)
    upstream_files.save_fairseq(model("wav2vec2"), folder / "file.pt")


def write_folders(kind: str) -> Callable[[Path], None]:
    """Hugging Face folders: ``safetensors``, ``pickle`` or, in several parts, ``index``."""

    def write(folder: Path) -> None:
        for family in ("wav2vec2", "hubert", "wavlm", "data2vec", "conformer", "w2v_bert"):
            upstream_files.save_folder(model(family), families(folder) / family)
            divide(families(folder) / family, kind)
        upstream_files.save_folder(model("wav2vec2"), folder / "hf")
        divide(folder / "hf", kind)

    return write


def divide(folder: Path, kind: str) -> None:
    """Put the weights of a folder into a pickle, or into two files and an index."""
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    if kind == "pickle":
        torch.save(tensors, folder / "pytorch_model.bin")
        weights.unlink()
    elif kind == "index":
        parts = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
        for part in set(parts.values()):
            save_file({name: tensors[name] for name in parts if parts[name] == part}, folder / part, {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": parts}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        weights.unlink()


def write_one(family: str) -> Callable[[Path], None]:
    save = upstream_files.save_fairseq2 if family == "fairseq2" else upstream_files.save
    return lambda folder: save(model(family), folder / "file.pt")


def write_openai(folder: Path) -> None:
    torch.save(whisper_files.openai_state(_whisper()), folder / "file.pt")


def write_whisper_folder(folder: Path) -> None:
    from safetensors.torch import save_file

    whisper = _whisper()
    whisper.config.save_pretrained(folder)
    tensors = {f"model.encoder.{name}": tensor for name, tensor in whisper.encoder.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_bestrq(folder: Path) -> None:
    torch.manual_seed(0)
    config = BestRQConfig(channels=(4, 4), dim=8, ffn=8, heads=2, layers=1, conv_kernel=3, norm="global")
    encoder = BestRQEncoder(config).eval()
    encoder.mean, encoder.deviation = torch.zeros(80), torch.ones(80)
    save_folder(encoder, folder)


_FILE = one_of(["file.pt"], damaged_pickle)
_SETTINGS = ["hf/config.json", "hf/config.json", "hf/preprocessor_config.json", "hf/model.safetensors.index.json"]

READERS: dict[str, Reader] = {
    f"checkpoints: {name}": Reader(f"checkpoints: {name}", write, load, damage=damage)
    for name, write, load, damage in (
        ("fairseq", write_fairseq, read("hf", "file.pt"), one_family(_FILE, "file.pt")),
        ("data2vec 2.0", write_one("data2vec2"), read("hf", "file.pt"), _FILE),
        ("WavLM", write_one("wavlm"), read("hf", "file.pt"), _FILE),
        ("fairseq2", write_one("fairseq2"), read("hf", "file.pt"), _FILE),
        ("Hugging Face, safetensors", write_folders("safetensors"), read("hf", "hf"),
         one_family(one_of(["hf/model.safetensors"], damaged_safetensors), "hf")),
        ("Hugging Face, pickles", write_folders("pickle"), read("hf", "hf"),
         one_family(one_of(["hf/pytorch_model.bin"], damaged_pickle), "hf")),
        ("Hugging Face, settings", write_folders("index"), read("hf", "hf"),
         one_family(one_of(_SETTINGS, damaged_json), "hf")),
        ("OpenAI", write_openai, read("whisper_local", "file.pt"), _FILE),
        ("CTranslate2", lambda folder: whisper_files.save_ctranslate2(_whisper(), folder), read("whisper_local"),
         one_of(["model.bin"], damaged_variables)),
        ("Whisper, weights", write_whisper_folder, read("whisper_local"),
         one_of(["model.safetensors"], damaged_safetensors)),
        ("Whisper, settings", write_whisper_folder, read("whisper_local"), one_of(["config.json"], damaged_json)),
        ("SpeechBrain", write_bestrq, read("bestrq"), one_of(["model.ckpt"], damaged_pickle)),
        ("SpeechBrain, settings", write_bestrq, read("bestrq"), one_of(["hyperparams.yaml"], damaged_bytes)),
        ("SpeechBrain, statistics", write_bestrq, read("bestrq"), one_of(["normalize.ckpt"], damaged_pickle)),
    )
}  # fmt: skip
