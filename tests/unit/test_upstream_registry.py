"""Every upstream of the registry, on arrival: cards are well formed, architectures can be built, files are checked."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_upstream_wav2vec2 import ragged, small_model

from benchmark.commands.list import upstream_table
from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream
from benchmark.registry import Entry, Registry, downstreams, list_downstreams, upstreams
from upstream import hub, list_upstreams, load_upstream
from upstream.fbank import Fbank
from upstream.wav2vec2 import OPTIONS, cards
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.export import save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model

CARDS = cards.read_cards()
FAMILY_PARAMETERS = {  # without the modules of pre-training; those of transformers' Wav2Vec2Model (5.23)
    "base": 94_371_712,
    "large": 315_428_992,
    "large_ll60k": 315_438_720,
    "xls_r_1b": 962_497_408,
    "xls_r_2b": 2_159_259_648,
    "omnilingual_3b": 3_060_320_896,
    "omnilingual_7b": 6_484_683_392,
    # those of transformers' HubertModel, WavLMModel and Data2VecAudioModel (5.24)
    "hubert_base": 94_371_712,
    "hubert_large": 315_435_136,
    "hubert_xlarge": 962_493_824,
    "wavlm_base": 94_381_936,
    "wavlm_large": 315_453_120,
    "data2vec_base": 93_164_288,
    "w2v_bert_2": 580_493_120,  # of Wav2Vec2BertModel
    "data2vec2_base": 93_164_300,  # as data2vec_base, and a scale for each head
    "data2vec2_large": 313_276_432,
}


CORPORA = {"LibriSpeech", "Libri-Light", "MLS", "CommonVoice", "VoxPopuli", "VoxLingua107", "BABEL", "MMS-lab-U",
           "GigaSpeech", "Switchboard", "Fisher", "DebianSpeech"}  # fmt: skip
"""Spellings in ``pretrained_on``."""


def test_importing_and_listing_import_no_torch() -> None:
    code = "import sys, upstream; upstream.list_upstreams(); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_names_that_users_know() -> None:
    same = {"wav2vec2_base": ["wav2vec2", "wav2vec2_base_960"], "wav2vec2_large": ["wav2vec2_large_ll60k"]}
    for name, aliases in same.items():
        for alias in aliases:
            assert upstreams.get(alias).name == name
    names = """wav2vec2_large_960 wav2vec2_large_lv60_cv_swbd_fsh xlsr_53 xls_r_300m xls_r_1b xls_r_2b
               wav2vec2_large_voxpopuli_100k wav2vec2_local wav2vec2_tiny fbank"""
    assert set(names.split()) < set(list_upstreams())


def test_names_are_listed_by_pattern() -> None:
    assert list_upstreams("xlsr_53") == list_upstreams("wav2vec2_xlsr") == ["xlsr_53"]  # the latter is an alias
    assert list_upstreams("*voxpopuli_?s") == ["wav2vec2_base_voxpopuli_es", "wav2vec2_large_voxpopuli_es"]
    assert list_upstreams("XLSR*") == list_upstreams("xlsr") == []
    assert set(list_upstreams("xlsr*")) < set(list_upstreams("*")) == set(list_upstreams())
    assert list_downstreams("voxceleb1_sv") == ["voxceleb1_sv"]
    assert set(list_downstreams("*_sv")) < set(list_downstreams())


def test_what_cards_say_is_listed_without_loading() -> None:
    (row,) = list_upstreams("wav2vec2_large_ll60k", details=True)  # an alias
    assert row == {
        "name": "wav2vec2_large", "summary": "Large, Libri-Light (SUPERB's Large)", "parameters": 315_438_720,
        "num_states": 25, "hidden_size": 1024, "sample_rate": 16000, "frame_shift": 320, "licence": "MIT",
        "data": "Libri-Light 60k h",
    }  # fmt: skip
    rows = {row["name"]: row for row in list_upstreams(details=True)}
    assert list(rows) == list_upstreams()
    for name in without_download():
        model = load_upstream(name)
        attributes = ("num_states", "hidden_size", "sample_rate", "frame_shift")
        assert [rows[name][key] for key in attributes] == [getattr(model, key) for key in attributes]
    assert rows["wav2vec2_tiny"]["parameters"] == sum(p.numel() for p in load_upstream("wav2vec2_tiny").parameters())
    assert rows["wav2vec2_base_voxpopuli_100k"]["parameters"] is None  # its card has the size alone
    assert rows["wav2vec2_base_voxpopuli_100k"]["num_states"] == 13
    assert rows["wav2vec2_local"]["num_states"] is None


def test_plugins_are_listed_with_what_their_classes_say(registries: None) -> None:
    upstreams.register("constant", Constant)
    (row,) = list_upstreams("constant", details=True)
    assert (row["sample_rate"], row["num_states"], row["frame_shift"], row["licence"]) == (16000, 1, 160, None)
    assert upstream_table("constant").splitlines()[1].split() == ["constant", "–", "1", "1", "16000", "100", "–", "–"]
    upstreams._load()["broken"] = Entry("broken", "nowhere:X", origin="package x", problem="there is no module")
    assert list_upstreams("broken", details=True)[0]["num_states"] is None
    with pytest.raises(BenchmarkError, match=r"no upstream is like 'wavlmm\*'"):
        upstream_table("wavlmm*")


@pytest.mark.parametrize("name", list_upstreams())
def test_entries_are_well_formed(name: str) -> None:
    entry = upstreams.get(name)
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert entry.summary
    assert callable(entry.load())


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_cards_are_well_formed(card: cards.Card) -> None:
    if not card.name.endswith("_local") and card.name != "hf":
        assert card.licence in ("MIT", "CC-BY-NC-4.0", "Apache-2.0")
        assert card.data
        assert (card.url is None) != (card.file is None)
    if card.url is not None:
        assert re.fullmatch(
            r"https://(dl\.fbaipublicfiles\.com|huggingface\.co/[\w-]+/[\w-]+/resolve/main)/[\w/-]+(\.pt|_no_FT)",
            card.url,
        ) or hub.name_of(card.url)
        assert card.paper is not None
        assert re.fullmatch(r"\d{4}\.\d{5}", card.paper)
        assert card.architecture.get("encoder_layers", 24) in (12, 24, 48, 60, 128)
    assert card.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert set(card.pretrained_on) <= CORPORA
    assert card.pretrained_on or card.url is None or card.name.startswith(("omnilingual", "w2v_bert"))
    Wav2Vec2Config(**{"pos_enc_type": "rel_pos", **card.architecture})  # known fields of the right types


def test_downloads_do_not_overwrite_each_other() -> None:
    files = [card.filename or card.url.rpartition("/")[2] for card in CARDS.values() if card.url]
    assert len(set(files)) == len(files)
    urls = [card.url for card in CARDS.values() if card.url]
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize("family", FAMILY_PARAMETERS)
def test_families_have_the_published_sizes(family: str) -> None:
    card = next(card for card in CARDS.values() if card.family == family)
    with torch.device("meta"):
        model = Wav2Vec2Model(Wav2Vec2Config(**card.architecture))
    assert sum(parameter.numel() for parameter in model.parameters()) == FAMILY_PARAMETERS[family]
    assert model.num_states == card.architecture["encoder_layers"] + 1
    assert model.hidden_size == card.architecture["encoder_embed_dim"]


def without_download() -> list[str]:
    """Upstreams that load in an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE", "nowhere")
        return [entry.name for entry in upstreams if entry.problem is None and entry.missing(None) is None]


@pytest.mark.parametrize("name", without_download())
def test_upstreams_without_a_download_work(name: str) -> None:
    model = load_upstream(name)
    assert not model.training
    assert model.info["name"] == name
    wavs, wav_lens = ragged([16000, 9000, model.sample_rate // 2])
    with torch.no_grad():
        out = model(wavs, wav_lens)
        alone = model(wavs[1:2, :9000], wav_lens[1:2])
    frames = model.output_lengths(wav_lens)
    assert torch.equal(out.lengths, frames)
    assert len(out.states) == model.num_states
    for state, expected in zip(out.states, alone.states, strict=True):
        assert state.shape == (3, int(frames.max()), model.hidden_size)
        assert state.isfinite().all()
        assert not state[1, frames[1] :].any()
        torch.testing.assert_close(
            state[1, : frames[1]], expected[0], rtol=1e-5, atol=1e-5 * expected.abs().max().item()
        )


@pytest.mark.parametrize("name", without_download())
def test_a_list_of_waveforms_is_a_batch(name: str) -> None:
    model = load_upstream(name)
    padded, wav_lens = ragged([9000, 16000, 12000])
    wavs = [wav[:n] for wav, n in zip(padded, wav_lens, strict=True)]
    flipped = wavs[1].flip(0).numpy()[::-1]  # strides that torch does not have
    with torch.no_grad():
        expected = model(padded, wav_lens)
        for given in (wavs, (wavs[0].double(), flipped, wavs[2].numpy().astype(">f8"))):
            out = model(given)
            assert torch.equal(out.lengths, expected.lengths)
            assert all(torch.equal(a, b) for a, b in zip(out.states, expected.states, strict=True))
        assert torch.equal(model(padded[1:2]).states[-1], model(padded[1:2], wav_lens[1:2]).states[-1])
        assert torch.equal(model(wavs, keep=[0]).states[0], expected.states[0])
    assert out["hidden_states"] is out.states
    assert out["last_hidden_state"] is out.states[-1]
    with pytest.raises(KeyError, match="logits"):
        out["logits"]


def test_waveforms_are_moved_to_the_upstreams_device() -> None:
    class OnMeta(Constant):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

        def forward(self, wavs: Any, wav_lens: Any, *, keep: Any = None) -> HiddenStates:
            return HiddenStates([wavs], wav_lens)

    out = OnMeta()([torch.zeros(3), np.zeros(2)])
    assert out.states[0].device == out.lengths.device == torch.device("meta")


LIST = r"expected a list of 1-D waveforms, or a tensor \(batch, sample\) of floating-point samples"
WAVEFORM = r"expected a 1-D tensor or array of floating-point samples in \[-1, 1\] \(one channel; divide 16-bit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([[]], f"got an empty list; {LIST}"),
        ([torch.zeros(9000)], rf"got Tensor \[9000\] of float32; {LIST}"),
        ([torch.zeros(2, 9000, dtype=torch.int16)], rf"got Tensor \[2, 9000\] of int16; {LIST}"),
        ([np.zeros((2, 9000))], rf"got ndarray \[2, 9000\] of float64; {LIST}"),
        (["a.wav"], f"got a str; {LIST}"),
        ([[torch.zeros(9000), torch.zeros(1, 9000)]], rf"waveform 1 is Tensor \[1, 9000\] of float32; {WAVEFORM}"),
        ([[np.zeros((9000, 2))]], rf"waveform 0 is ndarray \[9000, 2\] of float64; {WAVEFORM}"),
        ([[torch.zeros(9000, dtype=torch.int16)]], rf"waveform 0 is Tensor \[9000\] of int16; {WAVEFORM}"),
        ([[np.zeros(9000, dtype=np.int16)]], rf"waveform 0 is ndarray \[9000\] of int16; {WAVEFORM}"),
        ([[0.0, 0.1]], f"waveform 0 is a float; {WAVEFORM}"),
        ([["a.wav"]], f"waveform 0 is a str; {WAVEFORM}"),
        ([[torch.zeros(9000)], torch.tensor([9000])], r"wav_lens goes with a padded \(batch, sample\) tensor only"),
        ([[torch.zeros(9000), torch.zeros(0)]], "item 1 of the batch has 0 samples"),
    ],
    ids=["empty", "one tensor", "integers", "array", "path", "2-D tensor", "2-D array", "integer tensor",
         "integer array", "numbers", "paths", "lengths", "no samples"],
)  # fmt: skip
def test_other_input_is_named(arguments: list[Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        Fbank()(*arguments)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(small_model("ll60k"), tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_a_local_checkpoint(checkpoint: Path) -> None:
    model = load_upstream("wav2vec2_local", checkpoint=checkpoint, encoder_layerdrop=0.1)
    assert model.info["name"] == "wav2vec2_local"
    assert model.info["checkpoint"] == str(checkpoint)
    assert len(model.info["sha256"]) == 64
    assert model.info["architecture"]["encoder_layers"] == 3
    assert model.info["options"] == {"encoder_layerdrop": 0.1}
    assert model.config.encoder_layerdrop == 0.1
    assert not model.training


def test_a_local_checkpoint_that_is_not_the_cards(checkpoint: Path) -> None:
    with pytest.raises(
        BenchmarkError, match=r"small\.pt is not 'wav2vec2_large': encoder_layers is 3, the card says 24;"
    ):
        load_upstream("wav2vec2_large_ll60k", checkpoint=checkpoint)


def test_checkpoints_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchmarkError, match=r"'wav2vec2_local' needs a checkpoint: give it with -k FILE"):
        load_upstream("wav2vec2_local")
    with pytest.raises(BenchmarkError, match=r"nowhere\.pt does not exist"):
        load_upstream("wav2vec2_local", checkpoint=tmp_path / "nowhere.pt")
    card = replace(cards.read_cards()["wav2vec2_tiny"], file=tmp_path / "wav2vec2_tiny.pt")
    monkeypatch.setattr("upstream.wav2vec2.read_cards", lambda: {card.name: card})
    with pytest.raises(BenchmarkError, match=r"'wav2vec2_tiny' is part of this package, but .* is missing"):
        load_upstream("wav2vec2_tiny")


def test_what_is_missing_is_said_without_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path))
    message = upstreams.get("wav2vec2_large").missing(None)
    assert message is not None
    assert f"downloaded from {CARDS['wav2vec2_large'].url}" in message
    assert f"put that file at {tmp_path / 'checkpoints' / 'wav2vec_vox_new.pt'}" in message
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "wav2vec_vox_new.pt").touch()
    assert upstreams.get("wav2vec2_large").missing(None) is None
    assert upstreams.get("wav2vec2_base").missing(str(tmp_path)) is None
    assert "nowhere.pt does not exist" in str(upstreams.get("wav2vec2_base").missing("nowhere.pt"))
    assert "-k FILE" in str(upstreams.get("wav2vec2_local").missing(None))
    assert upstreams.get("wav2vec2_tiny").missing(None) is upstreams.get("fbank").missing(None) is None


def test_options_that_do_not_exist_are_named(checkpoint: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no option 'layerdrp'.*Did you mean|no option 'layerdrp'"):
        load_upstream("wav2vec2_local", checkpoint=checkpoint, layerdrp=0.1)
    with pytest.raises(BenchmarkError, match="no option 'encoder_layers'"):
        load_upstream("wav2vec2_local", checkpoint=checkpoint, encoder_layers=2)
    with pytest.raises(BenchmarkError, match="mask_prob = 'a lot' is a str, expected float"):
        load_upstream("wav2vec2_local", checkpoint=checkpoint, mask_prob="a lot")
    with pytest.raises(BenchmarkError, match="'fbank' has no option 'bins'"):
        load_upstream("fbank", bins=40)
    with pytest.raises(BenchmarkError, match=r"'fbank' takes no checkpoint \(-k\)"):
        load_upstream("fbank", checkpoint="file.pt")
    assert {"mask_prob", "feature_grad_mult"} < set(OPTIONS) < set(Wav2Vec2Config.__dataclass_fields__)


def test_random_weights_keep_the_architecture_only() -> None:
    trained = load_upstream("wav2vec2_tiny")
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(load_upstream("wav2vec2_tiny", random_weights=True))
    assert [{k: v.shape for k, v in model.state_dict().items()} for model in drawn[:1]] == [
        {k: v.shape for k, v in trained.state_dict().items()}
    ]
    first, same, other = (model.state_dict()["encoder.layers.0.fc1.weight"] for model in drawn)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.allclose(first, trained.state_dict()["encoder.layers.0.fc1.weight"], atol=0.01)
    assert drawn[0].info["sha256"] is None
    assert drawn[0].info["random_weights"]
    assert not trained.info["random_weights"]
    assert not drawn[0].training


def test_unknown_names_get_suggestions() -> None:
    count = len(upstreams.names())  # as `wavbench list` has them, without aliases
    with pytest.raises(BenchmarkError, match=rf"upstream 'qqq'\. \({count} available: wavbench list\)$"):
        load_upstream("qqq")
    with pytest.raises(BenchmarkError, match=rf"Did you mean .*\? \({count} available: wavbench list\)$") as caught:
        load_upstream("vec")
    assert len(str(caught.value)) < 250
    with pytest.raises(BenchmarkError, match=rf"Did you mean 'fbank'\? \({count} available: wavbench list\)$"):
        load_upstream("fbnk")
    with pytest.raises(BenchmarkError, match=r"downstream 'foo'\. \(\d+ available: wavbench list\)$"):
        downstreams.get("foo")  # not 'emotion'
    with pytest.raises(BenchmarkError, match=r"unknown upstream 'wav2vec2_larg'\. Did you mean 'wav2vec2_large'"):
        load_upstream("wav2vec2_larg")


class Constant(Upstream):
    """A plug-in's upstream: no options, no ``info``."""

    sample_rate, hidden_size, num_states, frame_shift = 16000, 1, 1, 160

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value

    def output_lengths(self, wav_lens: Any) -> Any:
        return wav_lens // 160

    def forward(self, wavs: Any, wav_lens: Any, *, keep: Any = None) -> HiddenStates:
        return HiddenStates([torch.full((len(wavs), wavs.size(1) // 160, 1), self.value)], wav_lens // 160)


def test_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("upstream", "wavbench.upstreams", "upstream:entries")
    monkeypatch.setattr("benchmark.registry.upstreams", registry)
    registry.register("constant", Constant)
    registry.register("broken", lambda: 1 / 0)
    registry.register("no_upstream", lambda: torch.nn.Linear(1, 1))
    model = load_upstream("constant", value=2.0)
    assert model.value == 2.0
    assert model.info["name"] == "constant"
    with pytest.raises(BenchmarkError, match=r"'constant' has no option 'valu'\. Did you mean 'value'"):
        load_upstream("constant", valu=2.0)
    with pytest.raises(BenchmarkError, match=r"'broken' \(from .*\) failed with ZeroDivisionError"):
        load_upstream("broken")
    with pytest.raises(BenchmarkError, match=r"'no_upstream' .* is a Linear; expected"):
        load_upstream("no_upstream")


def test_torch_hub() -> None:
    repository = str(Path(__file__).parents[2])
    public = {name for name, value in runpy.run_path(f"{repository}/hubconf.py").items() if callable(value)}
    assert {name for name in public if not name.startswith("_")} == set(upstreams.names(aliases=True))
    assert torch.hub.load(repository, "wav2vec2_tiny", source="local", random_weights=True).info["random_weights"]
    model = torch.hub.load(repository, "fbank", source="local")
    assert model.hidden_size == 240
    with pytest.raises(BenchmarkError, match="'wav2vec2_local' needs a checkpoint"):
        torch.hub.load(repository, "wav2vec2_custom", source="local")
