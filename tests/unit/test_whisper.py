"""Whisper's encoder: lengths, options, training, cards, and files that are not what they should be."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from whisper_files import (
    POSITIONS,
    ctranslate2_bytes,
    ctranslate2_variables,
    openai_state,
    ragged,
    save_ctranslate2,
    save_folder,
    whisper_model,
)  # fmt: skip

from benchmark.config import TuneConfig
from benchmark.engine.conformance import check
from benchmark.engine.regimes import Partial, apply_regime
from benchmark.errors import BenchmarkError
from upstream import list_upstreams, load_upstream
from upstream.readers.ctranslate2 import read_ctranslate2
from upstream.whisper.cards import read_cards
from upstream.whisper.checkpoint import read_checkpoint

LENGTHS = ("window", "valid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CTranslate2 folder, the quickest to read."""
    return save_ctranslate2(whisper_model(), tmp_path_factory.mktemp("whisper"))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_contract_is_kept(folder: Path, length: str) -> None:
    check(load_upstream("whisper_local", checkpoint=folder, length=length))


@pytest.mark.parametrize("length", LENGTHS)
def test_silence_and_single_samples_are_finite(folder: Path, length: str) -> None:
    model = load_upstream("whisper_local", checkpoint=folder, length=length)
    for n in (1, 320, 321, 16001):
        out = model(torch.zeros(1, n))
        assert out.lengths.tolist() == [-(-n // 320)] == [state.size(1) for state in out.states][:1]
        assert all(state.isfinite().all() for state in out.states)
    with pytest.raises(BenchmarkError, match="item 1 of the batch has 0 samples"):
        model(torch.zeros(2, 400), torch.tensor([400, 0]))
    with pytest.raises(BenchmarkError, match=r"keep = \[4\]: expected increasing states from 0 to 3"):
        model(torch.zeros(1, 400), keep=[4])


def test_how_length_is_treated_matters_and_is_said(folder: Path) -> None:
    models = {length: load_upstream("whisper_local", checkpoint=folder, length=length) for length in LENGTHS}
    short, full = ragged([3200])[0], ragged([320 * POSITIONS])[0]
    states = {length: [model(wavs).states[-1] for wavs in (short, full)] for length, model in models.items()}
    assert not torch.allclose(states["window"][0], states["valid"][0], atol=1e-3)  # attention sees the silence, or not
    torch.testing.assert_close(states["window"][1], states["valid"][1])  # there is none
    for length, model in models.items():
        assert model.info["length"] == model.info["options"]["length"] == length
    with pytest.raises(BenchmarkError, match=r"length = 'windows' of 'whisper_local'\. Did you mean 'window'\?"):
        load_upstream("whisper_local", checkpoint=folder, length="windows")


def test_info_and_random_weights(folder: Path) -> None:
    model = load_upstream("whisper_local", checkpoint=folder)
    assert model.info["architecture"] == {
        "family": "whisper", "mels": 80, "encoder_layers": 3, "encoder_embed_dim": 32,
        "parameters": sum(p.numel() for p in whisper_model().encoder.parameters()) - POSITIONS * 32,
    }  # fmt: skip
    assert len(model.info["sha256"]) == 64
    drawn = load_upstream("whisper_local", checkpoint=folder, random_weights=True)
    assert drawn.info["sha256"] is None
    assert not torch.allclose(drawn.layers[0].fc1.weight, model.layers[0].fc1.weight, atol=0.01)
    assert {k: v.shape for k, v in drawn.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_random_positions_are_openais() -> None:
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    from upstream.whisper.model import sinusoids

    torch.testing.assert_close(sinusoids(1500, 64), theirs(1500, 64))


def test_training(folder: Path) -> None:
    wavs, wav_lens = ragged([16000, 9000])

    def gradient(**options: Any) -> torch.Tensor:
        model = load_upstream("whisper_local", checkpoint=folder, **options).train()
        apply_regime(Partial(), model, TuneConfig(top_blocks=2))
        assert not model.layers[0].fc1.weight.requires_grad
        torch.manual_seed(0)
        model(wavs, wav_lens).states[-1].square().sum().backward()
        assert model.layers[1].fc1.weight.grad is not None
        return model.layers[1].fc1.weight.grad

    torch.testing.assert_close(gradient(), gradient(checkpoint_activations=True))
    assert not torch.allclose(gradient(), gradient(dropout=0.5))
    model = load_upstream("whisper_local", checkpoint=folder, encoder_layerdrop=1.0).train()
    states = model(wavs, wav_lens).states
    assert len(states) == 4
    assert torch.equal(states[0], states[2])


def test_cards() -> None:
    cards = read_cards()
    assert set(cards) == set(list_upstreams("whisper*"))
    assert len(cards) == 13
    for card in cards.values():
        assert re.fullmatch(r"[a-z0-9_]+", card.name)
        if card.url is not None:
            assert card.sha256 is not None
            assert re.fullmatch(
                rf"https://openaipublic\.azureedge\.net/main/whisper/models/{card.sha256}/[\w.-]+\.pt", card.url
            )
            assert re.fullmatch(r"[0-9a-f]{64}", card.sha256)
            assert card.licence == "MIT"
            assert card.data
            assert card.architecture["dim"] == 64 * card.architecture["heads"]
    assert len({card.sha256 for card in cards.values()}) == len({card.filename for card in cards.values()}) == 13


def test_a_file_that_is_not_the_cards(folder: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"is not 'whisper_tiny': dim is 32, the card says 384"):
        load_upstream("whisper_tiny", checkpoint=folder)
    with pytest.raises(BenchmarkError, match=r"'whisper_local' needs a checkpoint: give it with -k"):
        load_upstream("whisper_local")
    with pytest.raises(BenchmarkError, match=r"nowhere does not exist"):
        load_upstream("whisper_local", checkpoint=folder / "nowhere")


Variables = dict[str, torch.Tensor]
Q = "encoder/layer_1/self_attention/linear_0"


def _changed(**changes: Any) -> Callable[[Variables], Variables]:
    def change(variables: Variables) -> Variables:
        for name, value in changes.items():
            variables[name] = value(variables[name])
        return variables

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {k: x for k, x in v.items() if k != "encoder/conv2/bias"}, r"1 missing: encoder/conv2/bias"),
        (lambda v: v | {"encoder/layer_0/gate": torch.ones(2)}, r"1 unexpected: encoder/layer_0/gate"),
        (_changed(**{"encoder/layer_norm/beta": lambda x: x[:5]}), r"encoder/layer_norm/beta \[5\], expected \[32\]"),
        (_changed(**{f"{Q}/weight": lambda x: x[:64]}), r"linear_0/weight is \[64, 32\], expected query, key"),
        (lambda v: {k: x for k, x in v.items() if k != f"{Q}/bias"}, r"linear_0/bias is missing"),
        (_changed(**{f"{Q}/bias": lambda x: x + 1}), r"linear_0/bias is not zero for the key"),
        (_changed(**{"encoder/layer_0/ffn/linear_0/weight": lambda x: x.char()}), r"not floating-point .* quantised"),
        (_changed(**{"encoder/conv1/bias": lambda x: x / 0}), r"NaN or infinite values: encoder/conv1/bias"),
        (_changed(**{"encoder/num_heads": lambda x: x - 1}), r"width = 32 of 3 heads"),
        (_changed(**{"encoder/num_heads": lambda x: -x}), r"heads = -4"),
        (lambda v: {k: x for k, x in v.items() if k != "encoder/num_heads"}, r"is no Whisper: its encoder has"),
        (lambda v: {"decoder/a": torch.ones(1), "decoder/embeddings/weight": torch.ones(1)}, r"is no Whisper"),
    ],
    ids=["missing", "unexpected", "misshapen", "not three", "no bias", "a key's bias", "int8", "infinite", "3 heads",
         "-4 heads", "no heads", "no encoder"],
)  # fmt: skip
def test_ctranslate2_folders_that_hold_something_else(
    change: Callable[[Variables], Variables], message: str, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(ctranslate2_bytes(change(ctranslate2_variables(whisper_model()))))
    with pytest.raises(BenchmarkError, match=message):
        load_upstream("whisper_local", checkpoint=tmp_path)


def test_ctranslate2_files_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    good = ctranslate2_bytes({"a": torch.ones(2, 3), "decoder/embeddings/weight": torch.ones(1)})

    def message(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(BenchmarkError) as raised:
            read_ctranslate2(path)
        return str(raised.value)

    path.write_bytes(good)
    assert read_ctranslate2(path).tensors["a"].tolist() == [[1.0] * 3] * 2
    assert read_ctranslate2(path, "decoder/").tensors.keys() == {"decoder/embeddings/weight"}
    assert "it is empty" in message(b"")
    assert "not a CTranslate2 model of format 6: it starts with 05 00 00 00" in message(b"\5" + good[1:])
    for end in range(4, len(good)):
        assert "is truncated or damaged" in message(good[:end])
    assert "3 bytes follow what it declares" in message(good + b"abc")
    at = good.index(b"\2\0a\0") + 4  # rank, shape, type, bytes
    assert "'a' has 9 dimensions" in message(good[:at] + b"\x09" + good[at + 1 :])
    assert "'a' of shape [4294967295, 3] has 24 bytes" in message(good[: at + 1] + b"\xff" * 4 + good[at + 5 :])
    assert "'a' has the unknown type 6" in message(good[: at + 9] + b"\6" + good[at + 10 :])
    assert "is no text" in message(good.replace(b"\2\0a\0", b"\2\0\xff\0"))
    assert "two variables are called 'a'" in message(
        good[: at - 8] + struct.pack("<I", 3) + 2 * good[at - 4 : at + 38] + good[at + 38 :]
    )
    assert "which is none" in message(
        good.replace(b"\0decoder/embeddings/weight\0", b"\0decoder/embeddings/weighs\0", 1)
    )


def test_openais_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"

    def message(state: Any) -> str:
        torch.save(state, path)
        with pytest.raises(BenchmarkError) as raised:
            load_upstream("whisper_local", checkpoint=path)
        return str(raised.value)

    state = openai_state(whisper_model())
    assert "holds model; expected OpenAI's 'dims'" in message({"model": {}})
    assert "n_mels is '80', expected an integer" in message(state | {"dims": state["dims"] | {"n_mels": "80"}})
    assert "blocks = 1000000000" in message(state | {"dims": state["dims"] | {"n_audio_layer": 10**9}})
    assert "missing: encoder.blocks.3" in message(state | {"dims": state["dims"] | {"n_audio_layer": 4}})
    assert "has no tensors 'encoder.…'" in message(state | {"model_state_dict": {}})
    assert "'encoder.x' among the weights is a int" in message(state | {"model_state_dict": {"encoder.x": 1}})
    assert "refused" in message(state | {"dims": print})


def test_hugging_face_folders_that_hold_something_else(tmp_path: Path) -> None:
    save_folder(whisper_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def message(**changes: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(BenchmarkError) as raised:
            load_upstream("whisper_local", checkpoint=tmp_path)
        return str(raised.value)

    assert "holds a 'wav2vec2' model, not Whisper" in message(model_type="wav2vec2")
    assert "activation_function 'relu'" in message(activation_function="relu")
    assert "d_model is None, expected an integer" in message(d_model=None)
    assert "misshapen" in message(num_mel_bins=128)
    with pytest.raises(BenchmarkError, match=r"has neither config\.json"):
        read_checkpoint(tmp_path.parent)
