"""The Large architecture by the real command: a fairseq-format file of 1.27 GB, where its download would be cached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import Cli

from benchmark import results
from upstream.download import place
from upstream.wav2vec2.cards import read_cards
from upstream.wav2vec2.config import Wav2Vec2Config
from upstream.wav2vec2.export import save_checkpoint
from upstream.wav2vec2.model import Wav2Vec2Model

pytestmark = pytest.mark.slow


def test_large_trains_and_evaluates(process: Cli, data_root: Path, tmp_path: Path) -> None:
    card = read_cards()["wav2vec2_large"]
    torch.manual_seed(0)
    assert card.url is not None
    cached = tmp_path / "cache" / "checkpoints" / place(card.url).name
    save_checkpoint(Wav2Vec2Model(Wav2Vec2Config(**card.architecture)), cached)
    assert cached.stat().st_size > 1.2e9

    arguments = ["--data-root", data_root, "-p", "run", "--max-steps", 3]
    smaller = ["trainer.accumulate=1", "trainer.batch_size=4", "data.crop_seconds=1.0", "data.min_seconds=1.0"]
    done = process("-u", "wav2vec2_large", "-d", "voxceleb1_sv", *arguments, "-o", *smaller)
    assert done.returncode == 0, done.stderr
    result = results.read(tmp_path / "run" / "result.json")
    assert len(result["layer_weights"]) == 25
    assert result["upstream"]["checkpoint"] == str(cached)
    assert 1.5e9 < result["cost"]["peak_memory_bytes"] < 6e9
    assert (cached.with_name(cached.name + ".sha256")).read_text().split()[0] == result["upstream"]["sha256"]
    cached.unlink()  # pytest keeps the folders of the last runs
