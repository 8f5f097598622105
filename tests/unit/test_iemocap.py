"""The IEMOCAP reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import add_wavs

from benchmark.errors import BenchmarkError
from downstream.corpora import iemocap
from downstream.corpora.iemocap import prepare

LABELS = ("neu", "hap", "exc", "ang", "sad", "fru", "xxx")


def line(turn: str, emotion: str) -> str:
    return f"[6.2901 - 8.2357]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\nA-E3:\tval 3;\t()\n\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Each session: two dialogues of seven turns, whose numbers are of each actor."""
    for session in iemocap.SESSIONS:
        folder = tmp_path / "IEMOCAP_full_release" / f"Session{session}"
        for name in ("F_impro01", "M_script02_1"):
            dialogue = f"Ses0{session}{name}"
            turns = [f"{dialogue}_{'FM'[k % 2]}{k // 2:03}" for k in range(len(LABELS))]
            add_wavs(folder / "sentences" / "wav" / dialogue, *(f"{turn}.wav" for turn in turns))
            lines = [line(*pair) for pair in zip(turns, LABELS, strict=True)]
            path = folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "".join(lines))
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")  # as in the archive
        (path.parent / "Categorical").mkdir()
    return tmp_path


def test_reads_the_official_layout(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        corpus = prepare(root)
    folds = [f"fold{k}-{part}" for k in iemocap.SESSIONS for part in ("train", "dev")]
    assert list(corpus.splits) == [*(f"session{k}" for k in iemocap.SESSIONS), *folds]
    for session in iemocap.SESSIONS:
        turns = corpus.splits[f"session{session}"]
        assert [turn.id for turn in turns] == sorted(turn.id for turn in turns)
        assert sorted(turn.labels["emotion"] for turn in turns) == 2 * ["ang"] + 4 * ["hap"] + 2 * ["neu"] + 2 * ["sad"]
        assert {turn.speaker for turn in turns} == {f"Ses0{session}F", f"Ses0{session}M"}
        assert {turn.session for turn in turns} == {f"Ses0{session}F_impro01", f"Ses0{session}M_script02_1"}
    first = corpus.splits["session1"][0]
    assert (first.id, first.speaker, first.gender) == ("Ses01F_impro01_F000", "Ses01F", "f")
    assert corpus.splits["session1"][3].speaker == "Ses01M"  # speaks in a dialogue in which Ses01F wore the markers
    assert Path(first.path).is_file()
    assert "20 turns of other emotions are left out: 10 fru, 10 xxx" in caplog.text
    assert "10, 10, 10, 10, 10 turns of the four emotions in its sessions, IEMOCAP 1085, 1023, 1151" in caplog.text


def test_folds_divide_the_other_sessions(root: Path) -> None:
    splits = {name: {turn.id for turn in turns} for name, turns in prepare(root).splits.items()}
    for fold in iemocap.SESSIONS:
        train, dev, test = splits[f"fold{fold}-train"], splits[f"fold{fold}-dev"], splits[f"session{fold}"]
        assert (len(train), len(dev), len(test)) == (32, 8, 10)
        assert not train & dev
        assert train | dev == set().union(*(splits[f"session{k}"] for k in iemocap.SESSIONS if k != fold))


def test_another_name_of_the_folder(root: Path) -> None:
    expected = [turn.id for turn in prepare(root).splits["fold3-dev"]]
    (root / "IEMOCAP_full_release").rename(root / "IEMOCAP")
    assert [turn.id for turn in prepare(root).splits["fold3-dev"]] == expected
    with pytest.raises(BenchmarkError, match="looks like the corpus itself"):
        prepare(root / "IEMOCAP")


def test_files_without_a_label_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_wavs(root / "IEMOCAP_full_release/Session2/sentences/wav/Ses02F_impro01", "Ses02F_impro01_M077.wav")
    prepare(root)
    assert "1 files have no line in EmoEvaluation and are left out: Ses02F_impro01_M077" in caplog.text


def change(session: int, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / f"Session{session}/dialog/EmoEvaluation/Ses0{session}F_impro01.txt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return apply


@pytest.mark.parametrize(
    ("apply", "parts"),
    [
        (
            lambda folder: shutil.rmtree(folder / "Session4"),
            ["IEMOCAP is incomplete, 2 folders are missing", "{root}/Session4/dialog/EmoEvaluation", "sail.usc.edu"],
        ),
        (
            lambda folder: (folder / "Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_F001.wav").unlink(),
            ["1 problem", "Ses03F_impro01.txt:11: no Ses03F_impro01_F001.wav in"],
        ),
        (change(1, "Ses01F_impro01_F001\texc", "Ses01F_impro01_F000\texc"), [":11: Ses01F_impro01_F000 is duplicated"]),
        (
            change(1, "Ses01F_impro01_F001\texc", "Ses01F_impro07_F001\texc"),
            [":11: expected", "Ses01F_impro01_<F or M>"],
        ),
        (
            change(5, "Ses05F_impro01_F000\tneu\t", "Ses05F_impro01_F000 neu "),
            ["Ses05F_impro01.txt:3: expected", "got"],
        ),
    ],
)
def test_errors_name_the_item(root: Path, apply: Callable[[Path], None], parts: list[str]) -> None:
    folder = root / "IEMOCAP_full_release"
    apply(folder)
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part.replace("{root}", str(folder)) in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"IEMOCAP not found: .*IEMOCAP_full_release or .*--data-root"):
        prepare(tmp_path)
