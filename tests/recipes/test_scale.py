"""``recipes/benchmarks/scale.py``, and that docs/scale.md says what it computes."""

from __future__ import annotations

import sys

import pytest
from support import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "recipes" / "benchmarks"))

import scale

from benchmark.engine import prepare

PAGE = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.medium
def test_the_page_has_the_numbers_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main([]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == 3
    for block in blocks:
        assert block in PAGE


def test_audio_and_seconds_of_a_run() -> None:
    settings = [
        "upstream.name=fbank",
        "trainer.max_steps=100",
        "trainer.batch_size=4",
        "trainer.accumulate=2",
        "trainer.eval_every=30",
    ]
    corpus = scale.Corpus(mean=10.0, dev=50.0, test=7.0, train=1000.0)
    rates = scale.Rates(forward=8.0, alone=4.0, step=2.0)
    frozen = prepare.configure("voxceleb1_sv", [], [*settings, "data.crop_seconds=8.0"])
    audio = scale.audio_of(frozen, corpus)
    assert audio == scale.Audio(forward=100 * 8 * 8.0, step=0.0, alone=4 * 50.0)
    assert audio.seconds(rates) == 6400 / 8 + 200 / 4
    tuned = [*settings, "regime=finetune", "data.crop_seconds=null", "tune.freeze_updates=25"]
    assert scale.audio_of(prepare.configure("voxceleb1_sv", [], tuned), corpus) == scale.Audio(2000.0, 6000.0, 200.0)
    assert corpus.pass_over(0.1) == 157.0


@pytest.mark.parametrize(("gpus", "seconds"), [(1, 10.0), (2, 7.0), (3, 5.0), (9, 4.0)])
def test_cells_go_to_the_gpu_that_is_free_first(gpus: int, seconds: float) -> None:
    assert scale.makespan([3.0, 1.0, 2.0, 4.0], gpus) == seconds
