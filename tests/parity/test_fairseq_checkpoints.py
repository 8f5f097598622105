"""Checkpoints as fairseq writes them are read, and fairseq reads what we write.

The objects in them are fairseq's, omegaconf's and argparse's own, pickled for real.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq.checkpoint_utils
import pytest
import torch
from fairseq.data.text_compressor import TextCompressionLevel
from fairseq.dataclass.configs import EMAConfig
from fairseq.logging import meters, metrics
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model as FairseqModel
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc, Wav2VecEncoder
from omegaconf import DictConfig, OmegaConf
from test_wav2vec2_parity import (
    BASE,
    LL60K,
    TOLERANCE,
    batch,
    fairseq_states,
    make_fairseq,
    prepared,
    relative_error,
    waveforms,
)

from upstream.wav2vec2.checkpoint import load_model, read_checkpoint
from upstream.wav2vec2.export import save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model


def task(normalize: bool) -> dict[str, Any]:
    return {"_name": "audio_pretraining", "normalize": normalize, "sample_rate": 16000, "data": "/data"}


def cfg_dict(model: FairseqModel, normalize: bool) -> dict[str, Any]:
    return {"_name": None, "model": {**plain_config(model), "_name": "wav2vec2"}, "task": task(normalize)}


def plain_config(model: FairseqModel) -> dict[str, Any]:
    return OmegaConf.to_container(model.cfg, enum_to_str=True)


def args_namespace(model: FairseqModel, normalize: bool) -> argparse.Namespace:
    old = {key: value for key, value in plain_config(model).items() if key != "required_seq_len_multiple"}
    return argparse.Namespace(**old, arch="wav2vec2", task="audio_pretraining", normalize=normalize, sample_rate=16000)


def fine_tuned(model: FairseqModel, w2v_args: Any) -> dict[str, Any]:
    """The weights of fairseq's CTC model around ``model``."""
    cfg = OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path="", normalize=True, data=""))
    cfg.w2v_args = OmegaConf.create(cfg_dict(model, True))
    ctc = Wav2VecCtc(cfg, Wav2VecEncoder(cfg, 32))
    ctc.w2v_encoder.w2v_model.load_state_dict(model.state_dict(), strict=False)
    return ctc.state_dict()


def write_cfg_dict(model: FairseqModel, normalize: bool) -> dict[str, Any]:
    return {"args": None, "cfg": cfg_dict(model, normalize), "model": model.state_dict()}


def write_cfg_omegaconf(model: FairseqModel, normalize: bool) -> dict[str, Any]:
    """A DictConfig, partly structured: typed nodes, enumerations, interpolations, lists, references to classes."""
    cfg = OmegaConf.create(cfg_dict(model, normalize))
    cfg.ema = OmegaConf.structured(EMAConfig())
    cfg.task.text_compression_level = TextCompressionLevel.none
    cfg.model.fp16 = "${ema.store_ema}"
    cfg.common = {"levels": [1, 2.5, None, "???", {"typed": DictConfig({"a": 1}, element_type=int)}]}
    OmegaConf.set_struct(cfg, True)
    return {"args": None, "cfg": cfg, "model": model.state_dict()}


def write_args(model: FairseqModel, normalize: bool) -> dict[str, Any]:
    return {"args": args_namespace(model, normalize), "model": model.state_dict()}


def write_trainer(model: FairseqModel, normalize: bool) -> dict[str, Any]:
    """With the optimizer's state, meters, and a path."""
    parameters = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    optimizer = torch.optim.Adam(parameters, lr=0.0)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    with metrics.aggregate("train"):
        metrics.log_scalar("loss", torch.tensor(1.5).numpy(), 10)
        metrics.log_speed("wps", 3.0)
    return {
        **write_cfg_dict(model, normalize),
        "criterion": {},
        "optimizer_history": [{"criterion_name": "Wav2vecCriterion", "optimizer_name": "FairseqAdam",
                               "lr_scheduler_state": {"best": None}, "num_updates": 1}],
        "task_state": {},
        "extra_state": {"metrics": metrics.state_dict(), "previous_training_time": 1.5, "val_loss": meters.safe_round(
            torch.tensor(2.0).numpy(), 3), "save_dir": Path("/checkpoints"), "epoch": 1},
        "last_optimizer_state": optimizer.state_dict(),
    }  # fmt: skip


def write_s3prl(model: FairseqModel, normalize: bool) -> dict[str, Any]:
    return {"task_cfg": task(normalize), "model_cfg": plain_config(model), "model_weight": model.state_dict()}


def write_ctc(
    w2v_args: Callable[[FairseqModel], Any], *, old: bool = False, with_task: bool = True
) -> Callable[[FairseqModel, bool], Any]:
    def write(model: FairseqModel, normalize: bool) -> dict[str, Any]:
        inner = w2v_args(model)
        config: Any = {"_name": "wav2vec_ctc", "w2v_path": "base.pt", "w2v_args": inner, "apply_mask": True}
        if old:
            config = argparse.Namespace(**{**config, "arch": "wav2vec_ctc", "normalize": normalize})
            return {"args": config, "model": fine_tuned(model, inner)}
        return {
            "cfg": {"model": config, "task": task(normalize) if with_task else None},
            "model": fine_tuned(model, inner),
        }

    return write


LAYOUTS: dict[str, Callable[[FairseqModel, bool], dict[str, Any]]] = {
    "cfg, a dict": write_cfg_dict,
    "cfg, omegaconf": write_cfg_omegaconf,
    "args": write_args,
    "trainer": write_trainer,
    "s3prl": write_s3prl,
    "fine-tuned, cfg in cfg": write_ctc(lambda model: cfg_dict(model, True)),
    "fine-tuned, task in w2v_args only": write_ctc(lambda model: cfg_dict(model, True), with_task=False),
    "fine-tuned, omegaconf in cfg": write_ctc(lambda model: OmegaConf.create(cfg_dict(model, True))),
    "fine-tuned, args in cfg": write_ctc(lambda model: args_namespace(model, True)),
    "fine-tuned, args in args": write_ctc(lambda model: args_namespace(model, True), old=True),
}


@pytest.fixture(scope="module")
def reference() -> FairseqModel:
    return make_fairseq({**LL60K, "quantize_targets": True, "conv_pos": 16})


def assert_same_states(model: Wav2Vec2Model, reference: FairseqModel, normalize: bool) -> None:
    wav = waveforms()[0]
    expected = fairseq_states(reference, prepared(wav, normalize))
    with torch.no_grad():
        found = model(*batch([wav])).states
    assert max(relative_error(a, b) for a, b in zip(found, expected, strict=True)) < TOLERANCE


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read(layout: str, zipped: bool, reference: FairseqModel, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(LAYOUTS[layout](reference, True), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint.config.normalize
    assert checkpoint.config.extractor_mode == "layer_norm"
    if not layout.startswith("fine-tuned"):
        assert set(checkpoint.tensors) | set(checkpoint.pretraining) == set(reference.state_dict())
        assert {"quantizer.vars", "project_q.bias", "final_proj.weight"} < set(checkpoint.pretraining)
    assert_same_states(load_model(path), reference, normalize=True)


def test_half_precision_weights_are_read_as_float32(reference: FairseqModel, tmp_path: Path) -> None:
    state = write_cfg_dict(reference, True)
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    model = load_model(tmp_path / "half.pt")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


READ_WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "omegaconf", "hydra", "antlr4"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
from upstream.wav2vec2.checkpoint import load_model
for path in sys.argv[1:]:
    assert load_model(path).config.normalize
"""


def test_reading_needs_no_fairseq(reference: FairseqModel, tmp_path: Path) -> None:
    paths = []
    for i, write in enumerate(LAYOUTS.values()):
        paths.append(str(tmp_path / f"{i}.pt"))
        torch.save(write(reference, True), paths[-1])
    subprocess.run([sys.executable, "-c", READ_WITHOUT, *paths], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("overrides", [{**BASE, "quantize_targets": True}, {**LL60K, "target_glu": True}, LL60K])
def test_fairseq_reads_what_we_write(overrides: dict[str, Any], tmp_path: Path) -> None:
    original = make_fairseq({**overrides, "conv_pos": 15})
    torch.save(write_cfg_dict(original, True), tmp_path / "original.pt")
    save_checkpoint(load_model(tmp_path / "original.pt"), tmp_path / "written.pt")
    (again,), _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "written.pt")])
    assert again.state_dict().keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert_same_states(load_model(tmp_path / "written.pt"), original, normalize=True)


def test_fairseq_reads_a_model_without_pretraining_modules(tmp_path: Path) -> None:
    original = make_fairseq(BASE)
    torch.save(write_ctc(lambda model: cfg_dict(model, True))(original, True), tmp_path / "ctc.pt")
    save_checkpoint(load_model(tmp_path / "ctc.pt"), tmp_path / "written.pt")
    (again,), _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "written.pt")])
    assert_same_states(load_model(tmp_path / "written.pt"), again.eval(), normalize=True)
