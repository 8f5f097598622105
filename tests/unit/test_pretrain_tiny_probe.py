"""recipes/pretrain_tiny/probe.py: what is trained on and tested on, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import manifest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance
from recipes.pretrain_tiny import probe, sounds
from recipes.pretrain_tiny.sounds import Sets, Sound


def of_speakers(count: int, recordings: int) -> Sets:
    speech = [Sound(Path(f"{s}{r}.wav"), f"s{s}", f"s{s}/{r}") for s in range(count) for r in range(recordings)]
    return Sets([], [], speech, [], [])


def test_one_recording_of_each_speaker_is_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = of_speakers(4, 3)
    seen: dict[str, Any] = {}

    def classify(x: np.ndarray, y: list[str], x_test: np.ndarray, y_test: list[str]) -> float:
        seen.update(x=x[:, 0].tolist(), y=y, x_test=x_test[:, 0].tolist(), y_test=y_test)
        return 0.0

    monkeypatch.setattr(probe, "classify", classify)
    probe.speakers(np.arange(12, dtype=np.float32)[:, None], sets, seed=1)
    assert seen["x_test"] == [1, 4, 7, 10]
    assert seen["y_test"] == ["s0", "s1", "s2", "s3"]
    assert set(seen["x"]) == set(range(12)) - {1, 4, 7, 10}


def test_table_has_a_column_for_each_kind_of_speech() -> None:
    scores = {
        ("tiny", "language", 0, 0): 50.0, ("tiny", "language", 0, 1): 52.0,
        ("tiny", "real_language", 0, 0): 30.0, ("old", "real_cer", 6, 0): 80.0,
    }  # fmt: skip
    assert probe.table(scores).splitlines() == [
        "| system | state | synthetic: languages, accuracy % ↑ | human: languages, accuracy % ↑ "
        "| human: characters, error % ↓ |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| old | 6 | – | – | 80.0 |",
        "| tiny | 0 | 51.0 ± 1.4 | 30.0 | – |",
    ]


def test_human_speech_is_told_apart_by_source(tmp_path: Path) -> None:
    root = tmp_path / "DebianSpeech"
    root.mkdir()

    def write(source: str, language: str, name: str, clips: int) -> None:
        spoken = [
            Utterance(
                f"{source}/{k}",
                str(root / f"{source}{k}.flac"),
                speaker=f"{source}/s{k % 2}",
                language=language,
                text="A" * (10 + k),
            )
            for k in range(clips)
        ]
        manifest.write(root / f"{name}.jsonl", spoken)

    for source in sounds.LANGUAGE_TRAIN:
        write(source, source[-2:], f"{source}-4kHz", 3)
    for language in sounds.LANGUAGES:
        write(f"asterisk_{language}", language, f"asterisk_{language}-4kHz", 2)
    write("drascula_en", "en", "drascula_en", 16)
    write("asterisk_en", "en", "asterisk_en", 7)
    sets = sounds.real(root, sentences=4)
    assert {one.label for one in sets.lang_train} == {one.label for one in sets.lang_test} == set(sounds.LANGUAGES)
    trained, tested = ({one.group.split("/")[0] for one in part} for part in (sets.lang_train, sets.lang_test))
    assert not trained & tested
    assert {one.group for one in sets.speakers} == {f"drascula_en/s{s}/{fold}" for s in range(2) for fold in range(3)}
    assert [len(part) for part in (sets.text_train, sets.text_test)] == [4, 1]
    assert all(len(one.text) >= 15 for one in (*sets.text_train, *sets.text_test)), "short texts are left out"
    (root / "asterisk_ru-4kHz.jsonl").unlink()
    with pytest.raises(BenchmarkError, match="make real-data"):
        sounds.real(root, sentences=4)
