"""Checkpoints that are broken, foreign or hostile: one clear message each, and nothing in them is run.

What fairseq itself writes is read in ``tests/parity/test_fairseq_checkpoints.py``.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_upstream_wav2vec2 import ragged, small_model

from benchmark.errors import BenchmarkError
from upstream.readers.fairseq import read_fairseq
from upstream.readers.torchfile import load_state, plain
from upstream.wav2vec2.checkpoint import load_model, read_checkpoint
from upstream.wav2vec2.export import save_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.pt"
    save_checkpoint(small_model(), path)
    return path


def good_state(good: Path) -> dict[str, Any]:
    return torch.load(good, weights_only=True)


def test_a_model_survives_being_written_and_read(good: Path) -> None:
    model, again = small_model(), load_model(good)
    batch = ragged([4000, 2000])
    for a, b in zip(model(*batch).states, again(*batch).states, strict=True):
        assert torch.equal(a, b)
    assert again.config == model.config
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_loaded_model_can_be_trained_and_leaves_its_file_alone(good: Path) -> None:
    before = good.read_bytes()
    model = load_model(good).train()
    model(*ragged([4000])).states[-1].mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert good.read_bytes() == before


def test_options_change_the_configuration(good: Path) -> None:
    assert load_model(good, options={"encoder_layerdrop": 0.3}).config.encoder_layerdrop == 0.3


# --- broken and foreign ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_truncated(share: float, zipped: bool, good: Path, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save(good_state(good), whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BenchmarkError, match=r"cut\.pt \([\d,]+ bytes\) is truncated or damaged; fetch it again"):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a torch checkpoint: it is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML or XML page"),
        (b"\n  <html>", "HTML or XML page"),
        (b"Hello, this is not a checkpoint.", "starts with the text 'Hello, this is"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}' + bytes(20), "safetensors"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "starts with the bytes 52 49 46 46"),
        (pickle.dumps({"model": {}}), "starts with the bytes 80 04"),
    ],
    ids=["empty", "html", "html after spaces", "text", "git lfs", "safetensors", "wave", "pickle"],
)
def test_foreign_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(BenchmarkError, match=message):
        load_model(tmp_path / "file.pt")


def test_other_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BenchmarkError, match=r"zip archive, but not one written by torch\.save"):
        load_model(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.zip", "pickle")
    with pytest.raises(BenchmarkError, match="is not a torch checkpoint"):
        load_model(tmp_path / "a.tar")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    with pytest.raises(BenchmarkError, match=r"not one written by torch\.save"):
        load_model(tmp_path / "script.pt")


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is a folder"):
        load_model(tmp_path)
    with pytest.raises(BenchmarkError, match=r"nowhere\.pt cannot be read: No such file"):
        load_model(tmp_path / "nowhere.pt")


def changed(good: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    state = good_state(good)
    result = change(state)
    torch.save(state if result is None else result, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: torch.zeros(3), "holds a Tensor; expected a fairseq"),
        (lambda s: s["model"], r"has mask_emb, .* and \d+ more; expected a fairseq"),
        (lambda s: {"wav2vec2.encoder.layer_norm.bias": torch.zeros(3)}, "look like Hugging Face weights"),
        (lambda s: s.update(cfg=None), "expected a fairseq"),
        (lambda s: s.update(cfg=[1]), "'cfg' is a list"),
        (lambda s: s["cfg"].update(model=None), "the configuration of the model is a NoneType"),
        (lambda s: s.update(model=None), "'model' is a NoneType"),
        (lambda s: s["model"].update(mask_emb=3), "'mask_emb' among the weights is a int"),
        (lambda s: s["cfg"]["model"].update(_name="sew"), "is a 'sew' model; supported: wav2vec2, hubert, "),
        (lambda s: s["cfg"]["model"].update(_name=["wav2vec2"]), "is a '\\['wav2vec2'\\]' model"),
        (lambda s: s["cfg"]["model"].update(_name="wav2vec_ctc"), "'w2v_args', is a NoneType"),
        (lambda s: s["cfg"]["model"].update(_name="wav2vec_ctc", w2v_args={"model": {"_name": "sew"}}),
         "is a 'sew' model"),
        (lambda s: s["cfg"]["model"].update(_name="wav2vec_ctc", w2v_args={"model": None}),
         "the model in 'w2v_args' is a NoneType"),
        (lambda s: s["cfg"]["model"].update(_name=torch.zeros(3)), "is a 'a tensor' model"),
        (lambda s: s["cfg"].update(task=torch.zeros(3)), "the configuration of the task is a str"),
        (lambda s: s["cfg"]["model"].update(quantize_input=torch.zeros(3)), "quantize_input = 'a tensor' is not supp"),
        (lambda s: s["cfg"].update(task=3), "the configuration of the task is a int"),
        (lambda s: s["cfg"]["model"].update(layer_type="trf_adp"), "layer_type = 'trf_adp' is not supported"),
        (lambda s: s["cfg"]["model"].update(layer_type="conformer"), "attn_type = None is not supported"),
        (lambda s: s["cfg"]["model"].update(layer_type="conformer", attn_type="espnet"),
         "pos_enc_type = 'abs' is not supported; supported: 'rel_pos', 'rope' or 'relative_key'"),
        (lambda s: s["cfg"]["model"].update(layer_type="conformer", attn_type="espnet", pos_enc_type="rope",
                                            depthwise_conv_kernel_size=4), "depthwise_conv_kernel_size = 4 is not"),
        (lambda s: s["cfg"]["model"].update(encoder_layers="3"), "encoder_layers = '3' is a str, expected int"),
        (lambda s: s["cfg"]["model"].update(conv_feature_layers="exit()"), "conv_feature_layers = 'exit"),
        (lambda s: s["cfg"]["task"].update(normalize="yes"), "normalize = 'yes' is a str, expected bool"),
    ],
)  # fmt: skip
def test_wrong_contents_are_named(change: Any, message: str, good: Path, tmp_path: Path) -> None:
    path = changed(good, tmp_path, change)
    with pytest.raises(BenchmarkError, match=rf"changed\.pt.*{message}"):
        read_checkpoint(path)


def test_tensors_that_do_not_fit_are_listed(good: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        state["cfg"]["model"].update(encoder_layers=4, encoder_ffn_embed_dim=40)
        state["model"]["surprise"] = torch.zeros(1)

    with pytest.raises(BenchmarkError) as caught:
        load_model(changed(good, tmp_path, change))
    message = str(caught.value)
    assert "16 missing: encoder.layers.3.self_attn.k_proj.weight, " in message
    assert " and 11 more; 1 unexpected" in message
    assert "1 unexpected: surprise" in message
    assert "9 misshapen: encoder.layers.0.fc1.weight [48, 24], expected [40, 24], " in message
    assert len(message) < 1500


def test_the_reader_knows_no_model(tmp_path: Path) -> None:
    """What another family's reader starts from."""
    tensors = {"encoder.weight": torch.ones(2)}
    cfg = {"model": argparse.Namespace(_name="hubert", layers=[1]), "task": {"normalize": True}}
    torch.save({"cfg": cfg, "model": tensors}, tmp_path / "hubert.pt")
    file = read_fairseq(tmp_path / "hubert.pt")
    assert (file.model, file.task) == ({"_name": "hubert", "layers": [1]}, {"normalize": True})
    assert torch.equal(file.tensors["encoder.weight"], tensors["encoder.weight"])


def test_configuration_objects_become_plain_data(tmp_path: Path) -> None:
    state = {
        "args": argparse.Namespace(a=1, inner=argparse.Namespace(b=[argparse.Namespace(c="x")])),
        "counts": defaultdict(list, {"k": [1]}),
        "path": Path("/some/where"),
    }
    torch.save(state, tmp_path / "objects.pt")
    read = plain(load_state(tmp_path / "objects.pt"))
    assert read["args"] == {"a": 1, "inner": {"b": [{"c": "x"}]}}
    assert read["counts"] == {"k": [1]}
    assert read["path"].endswith("some/where")


# --- hostile -----------------------------------------------------------------------------------------------------


class Call:
    """Pickles to a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Pickle wants functions that can be called; a call may be one."""


def attacks(marker: Path) -> dict[str, tuple[Any, str]]:
    """Objects that would make ``marker`` if they were unpickled, and the name that must be refused."""
    touch, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    load = importlib.import_module
    payload = pickle.dumps(Call(os.system, touch))
    inner = io.BytesIO()
    torch.save(Call(os.system, touch), inner)
    return {
        "os.system": (Call(os.system, touch), f"{os.system.__module__}.system"),
        "eval": (Call(eval, code), "builtins.eval"),
        "exec": (Call(exec, code), "builtins.exec"),
        "getattr": (Call(Call(getattr, Call(load, "os"), "system"), touch), "builtins.getattr, importlib"),
        "import": (Call(__import__, "antigravity"), "builtins.__import__"),
        "subprocess": (Call(load("subprocess").Popen, touch.split()), "subprocess.Popen"),
        "methodcaller": (Call(load("operator").methodcaller("system", touch), Call(load, "os")), "methodcaller"),
        "partial": (Call(load("functools").partial(os.system, touch)), "functools.partial"),
        "pickle.loads": (Call(pickle.loads, payload), "pickle.loads"),
        "torch storage": (Call(torch.storage._load_from_bytes, inner.getvalue()), "torch.storage._load_from_bytes"),
        "torch.load": (Call(torch.load, str(marker), None), "torch.serialization.load"),
        "timeit": (Call(load("timeit").timeit, code), "timeit.timeit"),
        "numpy": (Call(load("numpy.testing").runstring, code, {}), "runstring"),
    }  # fmt: skip


PLACES: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "whole": lambda state, evil: evil,
    "in cfg": lambda state, evil: state["cfg"]["model"].update(latent_temp=evil),
    "in args": lambda state, evil: {"args": argparse.Namespace(arch="wav2vec2", data=[evil]), "model": state["model"]},
    "in the optimizer's state": lambda state, evil: state.update(last_optimizer_state={"state": {0: evil}}),
    "a key": lambda state, evil: state.update({"extra_state": [(evil,)]}),
    "a tensor": lambda state, evil: state["model"].update(mask_emb=evil),
    "a tensor's storage": lambda state, evil: state["model"].update(
        mask_emb=Call(torch._utils._rebuild_tensor_v2, evil, 0, (1,), (1,), False, OrderedDict())
    ),
    "a parameter's data": lambda state, evil: state["model"].update(
        mask_emb=Call(torch._utils._rebuild_parameter, evil, True, OrderedDict())
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", attacks(Path("x")))
def test_attacks_are_refused_by_name(attack: str, zipped: bool, good: Path, tmp_path: Path) -> None:
    evil, name = attacks(tmp_path / "marker")[attack]
    state = good_state(good)
    state["cfg"]["model"]["latent_temp"] = evil
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BenchmarkError, match=rf"evil\.pt: refused: .*{name}.*Nothing in it was run"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", PLACES)
def test_attacks_are_refused_wherever_they_are(place: str, zipped: bool, good: Path, tmp_path: Path) -> None:
    evil, name = attacks(tmp_path / "marker")["os.system"]
    state = good_state(good)
    state = PLACES[place](state, evil) or state
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BenchmarkError, match=rf"refused: .*{name}"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()


def test_the_attacks_are_real(good: Path, tmp_path: Path) -> None:
    """An unsafe reader does run them."""
    marker = tmp_path / "marker"
    for attack in ("os.system", "eval", "exec", "getattr", "methodcaller", "torch storage", "pickle.loads"):
        torch.save({"cfg": attacks(marker)[attack][0]}, tmp_path / "evil.pt")
        torch.load(tmp_path / "evil.pt", weights_only=False)
        assert marker.exists(), attack
        marker.unlink()


def with_member(good: Path, path: Path, name: str, data: bytes, *, replace: bool, compress: bool = False) -> None:
    """A copy of a zip checkpoint with a member added or replaced."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            if not (replace and member.filename == name):
                target.writestr(member, source.read(member))
        target.writestr(name, data, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)


def hostile_pickle(marker: Path) -> bytes:
    return f"cposix\nsystem\n(Vtouch {marker}\ntR.".encode()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_zip_members(good: Path, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    evil = hostile_pickle(marker)
    pickle.loads(evil)
    assert marker.exists(), "the pickle is real"
    marker.unlink()

    with_member(good, path, "archive/data.pkl", evil, replace=True)
    with pytest.raises(BenchmarkError, match=r"refused: its pickle names posix\.system"):
        load_model(path)
    with_member(good, path, "archive/data.pkl", evil, replace=False)  # two members of one name
    with pytest.raises(BenchmarkError, match=r"damaged.*two members of one name"):
        load_model(path)
    with_member(good, path, "other/data.pkl", evil, replace=False)
    with pytest.raises(BenchmarkError, match=r"not one written by torch\.save"):
        load_model(path)
    with_member(good, path, "archive/constants.pkl", evil, replace=False)  # would make it TorchScript
    with pytest.raises(BenchmarkError, match=r"not one written by torch\.save"):
        load_model(path)
    with_member(good, path, "archive/data/0", evil + bytes(96), replace=True)  # bytes of a tensor, never unpickled
    load_model(path)
    with_member(good, path, "archive/code/evil.pkl", evil, replace=False)  # not looked at
    load_model(path)
    with_member(good, path, "archive/bomb", bytes(10_000_000), replace=False, compress=True)
    with pytest.raises(BenchmarkError, match=r"damaged.*compressed members"):
        load_model(path)
    assert not marker.exists()


def pickle_in_zip(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(Call(os.system, "true"), protocol=4), "refused: its pickle uses STACK_GLOBAL"),
        (b"(iposix\nsystem\n.", "refused: its pickle uses INST"),
        (b"\x80\x02\x82\x01.", "refused: its pickle uses EXT1"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", r"refused: its pickle names builtins\.eval"),
        (b"\x80\x02ctorch.hub\nload\n.", r"refused: its pickle names torch\.hub\.load"),
        (b"\x80\x02cos\nsystem\n.", r"refused: its pickle names os\.system"),
        (b"\x80\x02cargparse\nNamespace.__init__\n.", r"refused: .*argparse\.Namespace\.__init__"),
        # a string of 4 GB, a list of nothing, memory that was never written, no end, nothing at all
        (b"\x80\x02X\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x02a.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02]", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02" + b"(" * 100_000 + b".", "damaged"),
        # a state for torch's rebuilding function and for a stand-in's class: attributes that would outlive the reading
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b.", "damaged"),
        (b"\x80\x02cargparse\nNamespace\n}}X\x0c\x00\x00\x00__setstate__K\x01s\x86b.", "damaged"),
        # a storage with a hostile identity, and one of a terabyte
        (b"\x80\x02cposix\nsystem\nQ.", r"posix\.system"),
        (b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
         b"\x8a\x06\x00\x00\x00\x00\x00\x01tQ.", "damaged"),
    ],
    ids=["STACK_GLOBAL", "INST", "EXT1", "eval", "torch.hub", "os.system", "a method", "huge string", "append only",
         "unwritten memory", "no end", "nothing", "deep marks", "function's state", "class's state", "hostile storage",
         "huge storage"],
)  # fmt: skip
def test_hand_written_pickles(data: bytes, message: str, tmp_path: Path) -> None:
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(BenchmarkError, match=message):
        load_state(pickle_in_zip(tmp_path / "evil.pt", data))
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_deeply_nested_configurations(tmp_path: Path) -> None:
    depth = 50_000
    path = pickle_in_zip(tmp_path / "deep.pt", b"\x80\x02}X\x03\x00\x00\x00cfg" + b"]" * depth + b"a" * (depth - 1) +
                         b"sX\x05\x00\x00\x00model}s.")  # fmt: skip
    with pytest.raises(BenchmarkError, match=r"deep\.pt.* is truncated or damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("shape_too", [False, True])
def test_storages_that_claim_to_be_larger_than_the_file(shape_too: bool, good: Path, tmp_path: Path) -> None:
    """A tensor never reaches beyond the bytes of the file."""
    with zipfile.ZipFile(good) as archive:
        data = archive.read("archive/data.pkl")
    size, huge = small_model().mask_emb.numel(), b"J" + struct.pack("<i", 2**31 - 1)
    at = data.index(b"K" + bytes([size]), data.index(b"X\x03\x00\x00\x00cpu"))  # elements of the first storage
    hostile = data[:at] + huge + data[at + 2 :]
    if shape_too:
        at = hostile.index(b"K" + bytes([size]), at + len(huge))
        hostile = hostile[:at] + huge + hostile[at + 2 :]
    with_member(good, tmp_path / "evil.pt", "archive/data.pkl", hostile, replace=True)
    if shape_too:
        with pytest.raises(BenchmarkError, match="damaged"):
            load_model(tmp_path / "evil.pt")
    else:
        storage = load_model(tmp_path / "evil.pt").mask_emb.untyped_storage()
        assert storage.nbytes() <= (tmp_path / "evil.pt").stat().st_size
