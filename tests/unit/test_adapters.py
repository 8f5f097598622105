"""Encoders of other libraries, as they are: s3prl's experts and XARES's encoders."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import REPOSITORY, SMALL, Cli
from torch import Tensor, nn

from benchmark.engine.conformance import examine
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream
from benchmark.registry import upstreams
from upstream import adapters, load_upstream


def noise(*samples: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(n, generator=generator) for n in samples]


def broken(upstream: Upstream) -> list[str]:
    return [finding.check.name for finding in examine(upstream) if finding.outcome == "wrong"]


def test_each_adapter_is_a_file_of_under_60_lines() -> None:
    for name in ("s3prl", "xares"):
        assert len((REPOSITORY / "upstream/adapters" / f"{name}.py").read_text().splitlines()) < 60


@pytest.mark.parametrize("name", ["s3prl", "xares"])
def test_the_listing_says_what_an_adapter_needs(name: str) -> None:
    assert "upstream.options.source=" in str(upstreams.get(name).missing(None))
    with pytest.raises(BenchmarkError, match=r"say which with -o upstream\.options\.source="):
        load_upstream(name)


# -- s3prl ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def apc(tmp_path: Path) -> Path:
    """A checkpoint of s3prl's APC with random weights; its expert takes states by hooks."""
    module = pytest.importorskip("s3prl.upstream.apc.apc")
    paras = {"hidden_size": 16, "num_layers": 3, "dropout": 0.1, "residual": True}
    audio = {"feat_type": "fbank", "feat_dim": 80, "frame_length": 25, "frame_shift": 10, "cmvn": True}
    torch.manual_seed(0)
    paras = {"rnn": "GRU", **paras} if "rnn" in inspect.signature(module.APC).parameters else paras
    model = module.APC(80, **paras)
    state = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}, "model": model.state_dict()}
    torch.save(state, tmp_path / "apc.ckpt")
    return tmp_path / "apc.ckpt"


@pytest.mark.parametrize("source", ["fbank", "fbank_no_cmvn", "mel", "s3prl.upstream.baseline.hubconf:linear"])
def test_an_entry_of_s3prl_gives_what_it_gives_there(source: str) -> None:
    pytest.importorskip("s3prl")
    upstream = load_upstream("s3prl", source=source)
    found = upstream(noise(16000, 9000, 12345))
    for row, wav in enumerate(noise(16000, 9000, 12345)):
        with torch.no_grad():
            expected = upstream.encoder([wav])["hidden_states"][0][0]  # type: ignore[operator]
        assert int(found.lengths[row]) == len(expected)
        assert torch.equal(found.states[0][row, : len(expected)], expected)
    assert upstream.info["source"] == source
    assert not broken(upstream)


def test_an_expert_with_hooks_and_a_checkpoint(apc: Path) -> None:
    upstream = load_upstream("s3prl", source="apc_local", checkpoint=apc)
    assert (upstream.num_states, upstream.hidden_size, upstream.frame_shift) == (3, 16, 160)
    assert len(upstream.info["sha256"]) == 64
    assert not broken(upstream)
    copied = copy.deepcopy(upstream)
    first, second = upstream(noise(8000)), copied(noise(8000))
    assert all(torch.equal(a, b) for a, b in zip(first.states, second.states, strict=True))
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert not torch.equal(copied(noise(8000)).states[-1], first.states[-1])
    assert torch.equal(upstream(noise(8000)).states[-1], first.states[-1])
    last = load_upstream("s3prl", source="apc_local", checkpoint=apc, key="last_hidden_state")
    assert torch.equal(last(noise(8000)).states[0], first.states[-1])


EXPERT = """
from ..interfaces import UpstreamBase
from .parts import Layer

class UpstreamExpert(UpstreamBase):
    def __init__(self, ckpt=None, size=4, **kwargs):
        super().__init__(**kwargs)
        self.layer = Layer(size)
        self.add_hook("self.layer", lambda input, output: output)
        self.add_hook("self.layer.norm", lambda input, output: output)

    def get_downsample_rates(self, key):
        return 320

    def forward(self, wavs):
        import torch
        self.layer(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True))
"""
PARTS = """
from torch import nn

class Layer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(1, size, 400, 320), nn.LayerNorm(size)

    def forward(self, wavs):
        return self.norm(self.convolution(wavs[:, None]).transpose(1, 2))
"""


def test_a_folder_with_an_expert(tmp_path: Path) -> None:
    """It imports from s3prl and from its own folder; its rate is right and s3prl's rounding of lengths is not."""
    pytest.importorskip("s3prl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "expert.py").write_text(EXPERT)
    (tmp_path / "mine" / "parts.py").write_text(PARTS)
    upstream = load_upstream("s3prl", source=str(tmp_path / "mine"), size=6)
    assert (upstream.num_states, upstream.hidden_size, upstream.frame_shift) == (2, 6, 320)
    samples = torch.tensor([399, 400, 719, 720, 16000, 16079, 16080])
    assert upstream.output_lengths(samples).tolist() == [0, 1, 1, 2, 49, 49, 50]
    assert not broken(upstream)


def test_a_folder_with_a_hubconf(tmp_path: Path) -> None:
    (tmp_path / "hubconf.py").write_text(
        "dependencies = ['torch']\nimport torch\n"
        "class Expert(torch.nn.Module):\n"
        "    def get_downsample_rates(self, key):\n        return 100\n"
        "    def forward(self, wavs):\n"
        "        return {'hidden_states': torch.stack(wavs).unfold(1, 100, 100) + 0.0}\n"
        "def mine(**kwargs):\n    return Expert()\n"
    )
    upstream = load_upstream("s3prl", source=f"{tmp_path}:mine")
    assert (upstream.num_states, upstream.hidden_size, upstream.frame_shift) == (1, 100, 100)
    assert torch.equal(upstream(noise(1050)).states[0].flatten(), noise(1050)[0][:1000])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fbnk", r"source=fbnk: an installed s3prl \(\d+ upstreams\) has none of this name"),
        ("apc_local", r"source=apc_local failed with TypeError: apc_local\(\) missing"),
        ("nowhere:x", "source=nowhere:x failed with ModuleNotFoundError"),
        ("json:nothing", "json has no class or function 'nothing'"),
        ("no/such.py:X", "there is no file .*such.py"),
    ],
)
def test_what_cannot_be_loaded_is_said(source: str, message: str) -> None:
    pytest.importorskip("s3prl")
    with pytest.raises(BenchmarkError, match=message):
        load_upstream("s3prl", source=source)


@pytest.mark.medium
def test_an_upstream_of_s3prl_runs_a_benchmark(cli: Cli, data_root: Path, apc: Path) -> None:
    """In float32, and in bfloat16 on a copy of an expert with hooks; the folder says what it was."""
    run = ["-u", "s3prl", "-d", "voxceleb1_sv", "--data-root", data_root, "--max-steps", 2]
    done = cli(*run, "-p", "run", "-o", "upstream.options.source=fbank", *SMALL)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path("run/result.json").read_text())
    assert result["upstream"]["source"] == "fbank"
    assert 0 <= result["metrics"]["test"]["eer"] <= 100
    half = ["upstream.options.source=apc_local", "trainer.precision=bf16", *SMALL]
    done = cli(*run, "-k", apc, "-p", "half", "-o", *half)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(Path("half/result.json").read_text())["layer_weights"]) == 3
    files = sorted((data_root / "VoxCeleb1").rglob("*.wav"))[:2]
    assert cli("predict", "run", *files).returncode == 0


# -- XARES ---------------------------------------------------------------------------------------------------------

XARES = """
import torch

class Base(torch.nn.Module):
    def __init__(self, size=5):
        super().__init__()
        self.output_dim, self.sampling_rate, self.hop_size_in_ms = size, 8000, 40
        self.convolution = torch.nn.Conv1d(1, size, 400, 320)

    def features(self, audio):
        return self.convolution(audio[:, None]).transpose(1, 2)

class PlainEncoder(Base):
    def forward(self, audio):
        with torch.inference_mode():
            return self.features(audio)

class MaskedEncoder(Base):
    def forward(self, audio, audio_attention_mask=None):
        lengths = (audio_attention_mask.sum(1) - 400) // 320 + 1
        features = torch.nn.functional.pad(self.features(audio), (0, 0, 0, 7))  # as if to 30 s
        return features, (torch.arange(features.shape[1]) < lengths[:, None]).long()

class AudioMaskEncoder(Base):
    def forward(self, audio, audio_attention_mask=None):
        return self.features(audio), audio_attention_mask

class HopOfTheSpectrumEncoder(AudioMaskEncoder):
    def __init__(self):
        super().__init__()
        self.hop_size_in_ms = 10.0

class CentredEncoder(torch.nn.Module):
    sampling_rate, output_dim = 8000, 129

    def forward(self, audio):
        return torch.stft(audio, 256, 80, window=torch.ones(256), return_complex=True).abs().transpose(1, 2)

class TenSecondsEncoder(Base):
    def forward(self, audio):
        return torch.cat([self.features(part) for part in audio.split(80000, dim=1)], dim=1)

class ConstantEncoder(Base):
    def forward(self, audio, mask=None):
        return torch.randn(len(audio), 10, 5), mask
"""


@pytest.fixture
def encoders(tmp_path: Path) -> Path:
    (tmp_path / "encoders.py").write_text(XARES)
    return tmp_path / "encoders.py"


@pytest.mark.parametrize(
    ("name", "shift", "frames"),
    [
        ("PlainEncoder", 320, [0, 1, 24, 24]),
        ("MaskedEncoder", 320, [0, 1, 24, 24]),
        ("AudioMaskEncoder", 320, [0, 1, 24, 24]),
        ("HopOfTheSpectrumEncoder", 320, [0, 1, 24, 24]),
        ("CentredEncoder", 80, [5, 6, 101, 101]),
    ],
)
def test_an_encoder_of_xares(encoders: Path, name: str, shift: int, frames: Sequence[int]) -> None:
    upstream = load_upstream("xares", source=f"{encoders}:{name}")
    assert (upstream.sample_rate, upstream.num_states, upstream.frame_shift) == (8000, 1, shift)
    assert upstream.output_lengths(torch.tensor([399, 400, 8000, 8079])).tolist() == frames
    assert broken(upstream) == (["gradient"] if name == "PlainEncoder" else [])  # it uses inference_mode itself


def test_options_reach_the_encoder(encoders: Path, cli: Cli) -> None:
    assert load_upstream("xares", source=f"{encoders}:AudioMaskEncoder", size=3).hidden_size == 3
    done = cli("check-upstream", "xares", "--option", f"source={encoders}:PlainEncoder")
    assert done.returncode == 1
    assert "WRONG    gradient" in done.stdout
    assert "Frozen runs do not need this" in " ".join(done.stdout.split())


def test_an_encoder_whose_frames_are_not_evenly_spaced(encoders: Path) -> None:
    upstream = load_upstream("xares", source=f"{encoders}:TenSecondsEncoder")
    assert upstream(noise(80000)).lengths.tolist() == [249]
    with pytest.raises(BenchmarkError, match="gives 1 state of 253 frames for 81,600 samples, expected 1 of 254, one"):
        upstream(noise(81600))
    with pytest.raises(BenchmarkError, match="frames do not grow with the audio"):
        load_upstream("xares", source=f"{encoders}:ConstantEncoder")


def test_states_of_different_sizes_are_refused() -> None:
    class Odd(adapters.Adapter):
        sample_rate = 16000

        def __init__(self) -> None:
            super().__init__("here", lambda source: nn.Identity)
            self.measure(None)

        def states(self, wav: Tensor) -> list[Tensor]:
            return [wav.unfold(0, 10, 10), wav.unfold(0, 5, 10)]

    with pytest.raises(BenchmarkError, match=r"states differ in size: \[\(1600, 5\), \(1600, 10\)\]"):
        Odd()


def test_loading_draws_nothing_from_the_random_state(encoders: Path) -> None:
    def draw() -> Any:
        torch.manual_seed(3)
        load_upstream("xares", source=f"{encoders}:AudioMaskEncoder")
        return torch.rand(1)

    torch.manual_seed(3)
    nn.Conv1d(1, 5, 400, 320)  # its own weights
    assert torch.equal(torch.rand(1), draw())
