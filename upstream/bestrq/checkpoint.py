"""What SpeechBrain's BEST-RQ recipes save -> the encoder, and back.

The recipe for pre-training (``recipes/LibriSpeech/self-supervised-learning/BEST-RQ``) leaves ``hyperparams.yaml`` and
``save/CKPT+<date>`` with ``model.ckpt``, the parameters of the convolutions and the encoder. The fine-tuning recipe
calls the same ``pt_model.ckpt``. The sizes are those of the tensors; what they do not tell (strides, activation,
features) is read from ``hyperparams.yaml``, and is the recipe's where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from upstream.bestrq import hyperparams
from upstream.bestrq.model import ACTIVATIONS, BestRQConfig, BestRQEncoder
from upstream.readers import Rules, fit, load, only_tensors, renamed
from upstream.readers.torchfile import load_state

NAMES: Rules = (
    (r"^subsampling\.convs\.(\d+)\.", r"0.convblock_\1.convs.conv_0.conv."),
    (r"^subsampling\.norms\.(\d+)\.", r"0.convblock_\1.convs.norm_0.norm."),
    (r"^subsampling\.proj\.", "1.transformer.custom_src_module.layers.0.w."),
    (r"^layers\.", "1.transformer.encoder.layers."),
    (r"^layer_norm\.", "1.transformer.encoder.norm.norm."),
    (r"\.self_attn_layer_norm\.", ".norm1.norm."),
    (r"\.final_layer_norm\.", ".norm2.norm."),
    (r"\.self_attn\.pos_proj\.", ".mha_layer.linear_pos."),
    (r"\.self_attn\.", ".mha_layer."),
    (r"\.ffn([12])\.layer_norm\.", r".ffn_module\1.0."),
    (r"\.ffn([12])\.fc1\.", r".ffn_module\1.1.ffn.0."),
    (r"\.ffn([12])\.fc2\.", r".ffn_module\1.1.ffn.3."),
    (r"\.conv_module\.pointwise_conv1\.", ".convolution_module.bottleneck.0."),
    (r"\.conv_module\.depthwise_conv\.", ".convolution_module.conv."),
    (r"\.conv_module\.depthwise_norm\.", ".convolution_module.after_conv.0."),
    (r"\.conv_module\.pointwise_conv2\.", ".convolution_module.after_conv.2."),
    (r"\.conv_module\.", ".convolution_module."),
)
"""Native names -> SpeechBrain's, whose projection of queries, keys and values is one tensor."""

UNUSED = ("1.transformer.positional_encoding.inv_freq", "1.transformer.positional_encoding_decoder.pe")
"""Constants that SpeechBrain saves; the second is of a decoder that there is not."""
PROJECTIONS = ("q_proj.weight", "k_proj.weight", "v_proj.weight")


@dataclass
class Checkpoint:
    """An encoder as it stands in a file."""

    file: Path
    """With the weights."""
    config: BestRQConfig
    tensors: dict[str, Tensor]
    """Under SpeechBrain's names, but for the projections, which are split."""


def load_model(
    path: str | Path, *, options: Mapping[str, Any] | None = None, random_weights: bool = False
) -> tuple[BestRQEncoder, Checkpoint]:
    """Read a checkpoint into an encoder, in evaluation mode.

    Args:
        path: see :func:`read_checkpoint`.
        options: fields of :class:`BestRQConfig` to change.
        random_weights: take the architecture only; weights are drawn from torch's random state.

    Raises:
        BenchmarkError: for a file that is not such a checkpoint, or whose tensors are not those of its architecture.
    """
    found = read_checkpoint(path)
    config = replace(found.config, **(options or {}))
    if random_weights:
        model = BestRQEncoder(config).eval()
        if config.norm == "global":
            model.mean, model.deviation = found.tensors["mean"], found.tensors["deviation"]
        return model, found
    with torch.device("meta"):
        model = BestRQEncoder(config)

    def theirs(name: str) -> str:
        return renamed(name, NAMES)

    load(model, fit(model, found.tensors, found.file, theirs), found.file, theirs)
    return model.eval(), found


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read an encoder without running any code in its files.

    Args:
        path: the recipe's output folder (its newest checkpoint is taken), a folder ``CKPT+<date>``, or a file of the
            kind of ``model.ckpt``.

    Raises:
        BenchmarkError: naming the file and what is wrong with it.
    """
    file, settings = _find(Path(path))
    state = load_state(file)
    if not isinstance(state, dict) or not state:
        raise BenchmarkError(f"{file} holds a {type(state).__name__}; expected the parameters of a model")
    strange = [name for name, tensor in state.items() if not (isinstance(name, str) and isinstance(tensor, Tensor))]
    if strange:
        raise BenchmarkError(f"{file}: {str(strange[0])[:80]!r} is not a tensor; expected SpeechBrain's model.ckpt")
    tensors = only_tensors({name: tensor for name, tensor in state.items() if name not in UNUSED}, file)
    config = _sizes(file, tensors, BestRQConfig() if settings is None else _settings(settings))
    if config.norm == "global":
        tensors |= _statistics(file, config.mels)
    return Checkpoint(file, config, _split(file, tensors, config))


def save_folder(model: BestRQEncoder, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``model.ckpt`` and ``hyperparams.yaml`` as SpeechBrain reads them.

    Raises:
        BenchmarkError: the folder cannot be written.
    """
    from benchmark.files import write_atomically, write_text

    tensors = {name: tensor.to(dtype) for name, tensor in to_speechbrain(model).items()}
    write_atomically(folder / "model.ckpt", lambda file: torch.save(tensors, file))
    config = model.config
    if config.norm == "global":
        statistics = {"count": 1, "glob_mean": model.mean.cpu(), "glob_std": model.deviation.cpu()}
        write_atomically(folder / "normalize.ckpt", lambda file: torch.save(statistics, file))
    values = {name: getattr(config, name) for name in ("mels", "dim", "ffn", "heads", "layers", "norm", "conv_kernel")}
    write_text(
        folder / "hyperparams.yaml",
        _TEMPLATE.format(
            **values,
            blocks=len(config.channels),
            channels=config.channels,
            kernels=config.kernels,
            strides=config.strides,
            residuals=(False,) * len(config.channels),
            features=model.subsampling.proj.in_features,
            activation={"Swish": "speechbrain.nnet.activations.Swish"}.get(
                config.activation, f"torch.nn.{config.activation}"
            ),
        ),
    )


def to_speechbrain(model: BestRQEncoder) -> dict[str, Tensor]:
    """The parameters as SpeechBrain's ``model.ckpt`` has them, on the CPU."""
    config, ours = model.config, {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    out: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name in ("mean", "deviation"):  # in normalize.ckpt
            continue
        if name.endswith(PROJECTIONS):
            if name.endswith(PROJECTIONS[0]):
                parts = [ours[name.replace(PROJECTIONS[0], part)] for part in PROJECTIONS]
                heads = [part.view(config.heads, -1, config.dim) for part in parts]
                out[renamed(name, NAMES).replace(PROJECTIONS[0], "in_proj_weight")] = torch.cat(heads, 1).flatten(0, 1)
        elif "pos_bias_" in name:
            out[renamed(name, NAMES)] = tensor.reshape(-1, config.heads)
        else:
            out[renamed(name, NAMES)] = tensor.unsqueeze(2) if "pointwise_conv1.weight" in name else tensor
    exponents = torch.arange(0, config.dim, 2) / config.dim
    return out | {UNUSED[0]: 10000.0**-exponents, UNUSED[1]: torch.tensor([0.0, 1.0]).repeat(1, 1, config.dim // 2)}


def export(model: BestRQEncoder, path: Path) -> str:
    """Write a folder; see :attr:`benchmark.interfaces.Upstream.exports`."""
    save_folder(model, path)
    return f"SpeechBrain: hyperparams.yaml makes 'model', which loads model.ckpt; here: -u bestrq -k {path}"


def _find(path: Path) -> tuple[Path, Path | None]:
    """The file with the weights, and ``hyperparams.yaml`` if there is one."""
    path = path.resolve()
    if path.is_dir() and not _weights(path):
        saved = [folder for folder in (path / "save").glob("CKPT*") if _weights(folder)]
        if not saved:
            raise BenchmarkError(f"{path} has no model.ckpt, and no save/CKPT+…/model.ckpt: no folder of SpeechBrain's")
        path = max(saved, key=lambda folder: folder.name)  # the name has the date
    file = _weights(path) or path
    places = [file.parent, file.parent.parent.parent]  # save/CKPT+…/model.ckpt
    return file, next((place / "hyperparams.yaml" for place in places if (place / "hyperparams.yaml").exists()), None)


def _weights(folder: Path) -> Path | None:
    return next((folder / name for name in ("pt_model.ckpt", "model.ckpt") if (folder / name).exists()), None)


def _settings(path: Path) -> BestRQConfig:
    """What the tensors do not tell, from ``hyperparams.yaml``; the rest of the configuration is not meant."""
    found = hyperparams.read(path)
    needed = ("ConvolutionFrontEnd", "TransformerASR", "Fbank", "InputNormalization")
    if missing := [name for name in needed if name not in found]:
        raise BenchmarkError(f"{path} makes no {missing[0]}; expected the settings of SpeechBrain's BEST-RQ recipe")
    convolutions, transformer, fbank, normalization = (found[name] for name in needed)
    fixed = {
        "num_layers_per_block": (convolutions, "5", "1"),
        "residuals": (convolutions, "True", "False"),
        "padding": (convolutions, "same", "same"),
        "encoder_module": (transformer, "transformer", "conformer"),
        "attention_type": (transformer, "regularMHA", "RelPosMHAXL"),
        "causal": (transformer, "True", "False"),
        "sample_rate": (fbank, "16000", "16000"),
        "n_fft": (fbank, "400", "400"),
        "win_length": (fbank, "25", "25"),
        "hop_length": (fbank, "10", "10"),
        "deltas": (fbank, "False", "False"),
        "context": (fbank, "False", "False"),
        "f_min": (fbank, "0", "0"),
        "std_norm": (normalization, "True", "True"),
    }
    for name, (thing, default, needs) in fixed.items():
        value = thing.arguments.get(name, default)
        if not re.fullmatch(rf"\W*{needs}(\W+{needs})*\W*", value, re.IGNORECASE):
            raise BenchmarkError(f"{path}: {name} is {value[:80]}; only encoders with {name}: {needs} are read")
    activation = transformer.arguments.get("conformer_activation", "Swish")
    if activation not in ACTIVATIONS:
        raise BenchmarkError(f"{path}: activation is {activation[:80]}; expected one of {', '.join(ACTIVATIONS)}")
    norm = normalization.arguments.get("norm_type", "global")
    if norm not in ("sentence", "global"):
        raise BenchmarkError(f"{path}: norm_type is {norm[:80]}; expected sentence or global")
    strides, mels = convolutions.integers("strides", "1, 2, 2"), fbank.integers("n_mels", "40")
    if not strides or min(strides) < 2 or max(strides) > 8 or len(mels) != 1 or not 0 < mels[0] <= 200:
        raise BenchmarkError(f"{path}: strides {list(strides)}, n_mels {list(mels)}; expected strides of 2 and 80 mels")
    return BestRQConfig(strides=strides, mels=mels[0], activation=activation, norm=norm)


def _sizes(file: Path, tensors: Mapping[str, Tensor], config: BestRQConfig) -> BestRQConfig:
    """``config`` with the sizes of the tensors, after checks that keep a wrong one from being built."""
    prefix = "1.transformer.encoder.layers."
    indices = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    convolutions = [name for name in tensors if re.fullmatch(r"0\.convblock_\d+\.convs\.conv_0\.conv\.weight", name)]
    wanted = {
        "proj": "1.transformer.custom_src_module.layers.0.w.weight",
        "bias": f"{prefix}0.mha_layer.pos_bias_u",
        "ffn": f"{prefix}0.ffn_module1.1.ffn.0.weight",
        "kernel": f"{prefix}0.convolution_module.conv.weight",
        **{f"conv{i}": f"0.convblock_{i}.convs.conv_0.conv.weight" for i in range(max(1, len(convolutions)))},
    }
    for key, name in wanted.items():
        dims = {"kernel": 3}.get(key, 4 if key.startswith("conv") else 2)
        if name not in tensors or tensors[name].dim() != dims or 0 in tensors[name].shape:
            shape = f"is {list(tensors[name].shape)}" if name in tensors else "is not there"
            raise BenchmarkError(
                f"{file}: {name} {shape}; expected a tensor of {dims} dimensions. This is not the model.ckpt of "
                "SpeechBrain's BEST-RQ"
            )
    shapes = {key: tuple(tensors[name].shape) for key, name in wanted.items()}
    kernels = tuple(shapes[f"conv{i}"][3] for i in range(len(convolutions)))
    if len(config.strides) != len(kernels) and config.strides != BestRQConfig().strides:
        raise BenchmarkError(f"{file} has {len(kernels)} convolutions, but hyperparams.yaml {len(config.strides)}")
    (dim, _), (size, heads) = shapes["proj"], shapes["bias"]
    if size * heads != dim or dim % 2 or any(kernel % 2 == 0 for kernel in (*kernels, shapes["kernel"][2])):
        raise BenchmarkError(
            f"{file}: a width of {dim} with {heads} heads of {size}, kernels of {kernels} and {shapes['kernel'][2]} "
            "frames; expected an even width, heads that divide it, and odd kernels"
        )
    return replace(
        config,
        channels=tuple(shapes[f"conv{i}"][0] for i in range(len(kernels))),
        kernels=kernels,
        strides=config.strides if len(config.strides) == len(kernels) else (2,) * len(kernels),
        dim=dim,
        ffn=shapes["ffn"][0],
        heads=heads,
        layers=len(indices),
        conv_kernel=shapes["kernel"][2],
    )


def _split(file: Path, tensors: dict[str, Tensor], config: BestRQConfig) -> dict[str, Tensor]:
    """Tensors with queries, keys and values apart, in the shapes of the native model."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".in_proj_weight"):
            if tensor.shape != (3 * config.dim, config.dim):
                raise BenchmarkError(
                    f"{file}: {name} is {list(tensor.shape)}, expected queries, keys and values of {config.dim}"
                )
            heads = tensor.reshape(config.heads, 3, -1, config.dim)  # each head's queries, keys, values
            for i, part in enumerate(PROJECTIONS):
                out[name.replace("in_proj_weight", part)] = heads[:, i].flatten(0, 1)
        elif "pos_bias_" in name and tensor.numel() == config.dim:
            out[name] = tensor.reshape(config.heads, -1)  # saved as (dim / head, head), read in another order
        elif name.endswith("bottleneck.0.weight") and tensor.dim() == 3 and tensor.size(2) == 1:
            out[name] = tensor.squeeze(2)
        else:
            out[name] = tensor
    return out


def _statistics(file: Path, mels: int) -> dict[str, Tensor]:
    """The mean and the deviation of the training data, from beside ``file``."""
    path = next((p for n in ("normalize", "normalizer") if (p := file.with_name(f"{n}.ckpt")).exists()), None)
    if path is None:
        raise BenchmarkError(f"{file} needs normalize.ckpt beside it: hyperparams.yaml has norm_type: global")
    state = load_state(path)
    names = {"mean": "glob_mean", "deviation": "glob_std"}
    found = {name: state.get(theirs) for name, theirs in names.items()} if isinstance(state, dict) else {}
    if any(not isinstance(x, Tensor) or x.shape != (mels,) for x in found.values()) or not found:
        raise BenchmarkError(f"{path} has no mean and deviation of {mels} bands, which norm_type: global needs")
    return only_tensors(found, path)


_TEMPLATE = """\
# What SpeechBrain needs to make the model that model.ckpt is of.
CNN: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    input_shape: (8, 10, {mels})
    num_blocks: {blocks}
    num_layers_per_block: 1
    out_channels: {channels}
    kernel_sizes: {kernels}
    strides: {strides}
    residuals: {residuals}

Transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    input_size: {features}
    tgt_vocab: 1
    d_model: {dim}
    nhead: {heads}
    num_encoder_layers: {layers}
    num_decoder_layers: 0
    d_ffn: {ffn}
    dropout: 0.0
    kernel_size: {conv_kernel}
    activation: !name:{activation}
    conformer_activation: !name:{activation}
    encoder_module: conformer
    attention_type: RelPosMHAXL
    normalize_before: True
    causal: False
    max_length: 1

wrapper: !new:speechbrain.lobes.models.transformer.TransformerASR.EncoderWrapper
    transformer: !ref <Transformer>

model: !new:torch.nn.ModuleList
    - [!ref <CNN>, !ref <wrapper>]

compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: 16000
    n_fft: 400
    n_mels: {mels}

normalize: !new:speechbrain.processing.features.InputNormalization
    norm_type: {norm}
"""
