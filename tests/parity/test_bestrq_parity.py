"""BEST-RQ's encoder against SpeechBrain, on files that SpeechBrain wrote (tests/fixtures/bestrq/make.py)."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import REPOSITORY
from torch import Tensor

from upstream import load_upstream
from upstream.bestrq.checkpoint import save_folder
from upstream.bestrq.frontend import log_mel, mel_frames, normalise
from upstream.bestrq.quantizer import RandomProjectionQuantizer
from upstream.readers.torchfile import load_state

FIXTURES = REPOSITORY / "tests" / "fixtures" / "bestrq"
SAVED = FIXTURES / "run" / "save" / "CKPT+fixture"
TOLERANCE = 1e-5
"""Of a state's largest value."""


@pytest.fixture(scope="module")
def wavs() -> list[Tensor]:
    return [torch.from_numpy(wav) for wav in runpy.run_path(str(FIXTURES / "make.py"))["wavs"]()]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(FIXTURES / "golden.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def compare(states: list[Tensor], golden: dict[str, Tensor], kind: str, i: int) -> None:
    assert len(states) == 3
    for k, state in enumerate(states):
        expected = golden[f"{kind}_{i}_{k}"]
        assert (state[: len(expected)] - expected).abs().max() < TOLERANCE * expected.abs().max()
        assert not state[len(expected) :].any()


@pytest.mark.parametrize("gradients", [False, True], ids=["one by one", "packed"])
def test_states_alone_and_in_a_batch(gradients: bool, wavs: list[Tensor], golden: dict[str, Tensor]) -> None:
    model = load_upstream("bestrq", checkpoint=FIXTURES / "run")
    with torch.set_grad_enabled(gradients):
        batch = model(wavs)
        for i, wav in enumerate(wavs):
            alone = model([wav])
            assert alone.lengths.tolist() == [len(golden[f"alone_{i}_0"])] == [batch.lengths[i]]
            compare([state[0] for state in alone.states], golden, "alone", i)
            compare([state[i] for state in batch.states], golden, "alone", i)


def test_global_normalisation(wavs: list[Tensor], golden: dict[str, Tensor], tmp_path: Path) -> None:
    settings = (FIXTURES / "run" / "hyperparams.yaml").read_text()
    (tmp_path / "hyperparams.yaml").write_text(settings.replace("norm_type: sentence", "norm_type: global"))
    shutil.copy(SAVED / "model.ckpt", tmp_path)
    shutil.copy(SAVED / "other_normalize.ckpt", tmp_path / "normalize.ckpt")
    model = load_upstream("bestrq", checkpoint=tmp_path)
    assert model.info["architecture"]["norm"] == "global"
    for i, state in enumerate(zip(*model(wavs).states, strict=True)):
        compare(list(state), golden, "global", i)
    random = load_upstream("bestrq", checkpoint=tmp_path, random_weights=True)
    assert torch.equal(random.deviation, model.deviation)


def test_features_and_codes(wavs: list[Tensor], golden: dict[str, Tensor]) -> None:
    frames = mel_frames(torch.tensor([len(wavs[0])]))
    features = normalise(log_mel(wavs[0][None], frames, 80), frames)
    torch.testing.assert_close(features[0, :, ::8], golden["features"], atol=1e-4, rtol=0)
    quantizer = RandomProjectionQuantizer(320, 16, 64)
    saved = load_state(SAVED / "quantizer.ckpt")
    quantizer.load_state_dict({name: tensor[None] for name, tensor in saved.items()})
    codes = quantizer(features[:, :100].reshape(25, 320))
    assert torch.equal(codes[:, 0], golden["codes"])
    assert len(codes.unique()) > 5


def test_speechbrains_batches_depend_on_padding(wavs: list[Tensor], golden: dict[str, Tensor]) -> None:
    """Why a batch of SpeechBrain's is not what is compared: the last frame before the blocks, and all after them."""
    for i in (1, 2, 3):
        alone, batch = golden[f"alone_{i}_0"], golden["batch_0"][i]
        difference = (alone - batch[: len(alone)]).abs().amax(1) / alone.abs().max()
        assert difference[-1] > 0.3
        assert not (difference[:-1] > TOLERANCE).any()
        last = golden[f"alone_{i}_2"]
        assert (last - golden["batch_2"][i, : len(last)]).abs().max() > 0.3 * last.abs().max()


@pytest.mark.medium
def test_speechbrain_reads_what_is_written(wavs: list[Tensor], tmp_path: Path) -> None:
    """Runs where SpeechBrain is installed."""
    pytest.importorskip("speechbrain")
    from hyperpyyaml import load_hyperpyyaml

    ours = load_upstream("bestrq_tiny")
    save_folder(ours, tmp_path)
    with (tmp_path / "hyperparams.yaml").open() as file:
        theirs: dict[str, Any] = load_hyperpyyaml(file)
    theirs["model"].load_state_dict(torch.load(tmp_path / "model.ckpt"))
    theirs["model"].eval()
    with torch.no_grad():
        features = theirs["normalize"](theirs["compute_features"](wavs[0][None]), torch.ones(1))
        expected = theirs["wrapper"](theirs["CNN"](features), torch.ones(1))
        state = ours([wavs[0]]).states[-1]
    assert (state - expected).abs().max() < TOLERANCE * expected.abs().max()
