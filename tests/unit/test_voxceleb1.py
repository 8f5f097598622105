"""The VoxCeleb1 reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import add_wavs
from tasks import make_task

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Target, Trial
from downstream.corpora.voxceleb1 import prepare, prepare_identification
from downstream.sv.task import SpeakerVerification

IDS = {
    "dev": ["id10001/aaa/00001.wav", "id10001/bbb/00001.wav", "id10002/ccc/00001.wav", "id10002/ccc/00002.wav"],
    "test": ["id10270/ddd/00001.wav", "id10270/eee/00003.wav", "id10271/fff/00001.wav"],
}
LIST = [
    "1 id10270/eee/00003.wav id10270/ddd/00001.wav",
    "0 id10270/ddd/00001.wav id10271/fff/00001.wav",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "VoxCeleb1"
    for split, ids in IDS.items():
        add_wavs(folder / split / "wav", *reversed(ids))
    (folder / "veri_test2.txt").write_text("\n".join(LIST) + "\n\n")
    (folder / "veri_test.txt").write_text("\r\n".join(reversed(LIST)))
    return tmp_path


def test_reads_the_official_layout(root: Path) -> None:
    corpus = prepare(root)
    assert {split: [u.id for u in utterances] for split, utterances in corpus.splits.items()} == IDS
    first = corpus.splits["test"][0]
    assert (first.speaker, first.session, first.split) == ("id10270", "ddd", "test")
    assert soundfile.info(first.path).frames == 160
    assert corpus.trials["veri_test2"] == [
        Trial(1, "id10270/eee/00003.wav", "id10270/ddd/00001.wav"),
        Trial(0, "id10270/ddd/00001.wav", "id10271/fff/00001.wav"),
    ]
    assert corpus.trials["veri_test"] == corpus.trials["veri_test2"][::-1]


def test_reads_the_synthetic_tree(data_root: Path) -> None:
    corpus = prepare(data_root)
    assert {"veri_test2", "veri_test"} <= set(corpus.trials)
    speakers = {split: {u.speaker for u in utterances} for split, utterances in corpus.splits.items()}
    assert not speakers["dev"] & speakers["test"]
    task = make_task(SpeakerVerification, SpeakerVerification.Config(), corpus)
    scored = [corpus.trials[name] for name in ("veri_test2", "veri_test")]
    assert {name for trials in scored for t in trials for name in (t.enrolment, t.test)} == {
        u.id for u in task.splits["test"]
    }
    for split in ("dev", "test"):
        metrics = task.evaluate(split, {u.id: np.ones(4) for u in task.splits[split]}).metrics
        assert all(values["eer"] == pytest.approx(50) for values in metrics.values())


def test_is_sorted_whatever_the_disk_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = prepare(root)
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder: str | Path) -> None:
            self.found = scandir(folder)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return sorted(self.found, key=lambda entry: entry.name, reverse=True)

        def __exit__(self, *_: object) -> None:
            self.found.close()

    monkeypatch.setattr(os, "scandir", Reversed)
    assert prepare(root) == expected


def test_ignores_what_archives_leave_behind(root: Path) -> None:
    wav = root / "VoxCeleb1" / "dev" / "wav"
    (wav / "id10001" / "aaa" / "._00001.wav").write_bytes(b"")
    (wav / ".DS_Store").write_bytes(b"")
    (wav / "id10001" / "aaa" / "00001.txt").write_text("")
    add_wavs(wav, "id10001/aaa/00009.wav")
    (wav / "id10001" / "aaa" / "00009.m4a").write_bytes(b"")
    assert [u.id for u in prepare(root).splits["dev"]] == sorted([*IDS["dev"], "id10001/aaa/00009.wav"])


def test_symbolic_links_are_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "VoxCeleb1").symlink_to(root / "VoxCeleb1")
    assert [u.id for u in prepare(other).splits["test"]] == IDS["test"]


def test_says_what_is_optional_and_absent(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "VoxCeleb1" / "veri_test.txt").unlink()
    (root / "VoxCeleb1" / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
        + "".join(f"{name}\tA_B\tm\tIreland\tdev\n" for name in ("id10001", "id10002", "id10003", "id10270", "id10271"))
    )
    with caplog.at_level(logging.WARNING):
        assert list(prepare(root).trials) == ["veri_test2"]
    assert "lists 1 speakers that are not in the tree: id10003" in caplog.text


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: shutil.move(folder / old, folder / new) and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def to_m4a(folder: Path) -> None:
    for path in sorted(folder.glob("dev/wav/*/*/*.wav")):
        path.rename(path.with_suffix(".m4a"))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            rename("", "../Voxceleb_1"),
            ["VoxCeleb1 not found", "looked for the folder {root}/VoxCeleb1", "contains: Voxceleb_1", "rename it",
             "robots.ox.ac.uk", "veri_test2.txt", "--data-root", "$BENCHMARK_DATA"],
        ),
        (remove("dev"), ["dev set not found", "{root}/VoxCeleb1/dev/wav", "contains: test, veri_test", "--data-root"]),
        (remove("test"), ["test set not found", "{root}/VoxCeleb1/test/wav", "robots.ox.ac.uk"]),
        (rename("dev/wav", "dev/aac"), ["dev set not found", "{root}/VoxCeleb1/dev contains: aac"]),
        (rename("dev/wav", "wav"), ["dev set not found", "{root}/VoxCeleb1/dev contains: nothing"]),
        (remove("dev/wav/id10001", "dev/wav/id10002"), ["no .wav file in {root}/VoxCeleb1/dev/wav/<speaker>/<video>/"]),
        (to_m4a, ["4 utterances", ".m4a without a .wav", "id10001/aaa/00001.m4a", "and 1 more", "ffmpeg"]),
        (
            rename("test/wav/id10270/ddd/00001.wav", "test/wav/id10270/00001.wav"),
            ["1 audio files are not", "{root}/VoxCeleb1/test/wav/id10270/00001.wav", "<speaker>/<video>"],
        ),
        (
            lambda folder: add_wavs(folder / "dev" / "wav", "id10270/ddd/00001.wav"),
            ["1 utterances are both under", "id10270/ddd/00001.wav", "delete"],
        ),
        (remove("veri_test2.txt"), ["{root}/VoxCeleb1/veri_test2.txt not found", "meta/veri_test2.txt"]),
        (write("veri_test2.txt", "\n"), ["veri_test2.txt is empty"]),
        (write("veri_test2.txt", LIST[0] + "\n1 id10270/eee/00003.wav\n"), ["veri_test2.txt:2: expected", "<1 or 0>"]),
        (write("veri_test.txt", "<!DOCTYPE html>\n"), ["veri_test.txt:1: expected", "<!DOCTYPE html>"]),
        (write("veri_test2.txt", LIST[0].replace("1 ", "2 ", 1)), ["veri_test2.txt:1: expected"]),
        (
            write("veri_test2.txt", "\n".join(LIST + [f"0 id10270/eee/00003.wav id1/x/{i}.wav" for i in range(5)])),
            ["names 5 utterances (of 8) that do not exist: id1/x/0.wav, id1/x/1.wav, id1/x/2.wav and 2 more",
             "Expected each at {root}/VoxCeleb1/{dev,test}/wav/<utterance>"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_item(root: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    change(root / "VoxCeleb1")
    with pytest.raises(BenchmarkError) as caught:
        list(prepare(root).trials.values())
    for part in parts:
        assert part.replace("{root}", str(root)) in str(caught.value)


def test_hints_at_a_data_root_one_level_off(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="looks like the corpus itself, but the data root is the folder above it"):
        prepare(root / "VoxCeleb1")
    with pytest.raises(BenchmarkError, match=r"The data root .*/nowhere does not exist"):
        prepare(tmp_path / "nowhere")


def test_trial_lists_are_read_when_they_are_asked_for(root: Path) -> None:
    folder = root / "VoxCeleb1"
    (folder / "list_test_hard2.txt").write_text("1 id10001/aaa/00001.wav id10001/bbb/00001.wav\n")
    (folder / "list_test_all.txt").write_text("<html>")
    trials = prepare(root).trials
    assert list(trials) == ["veri_test2", "veri_test", "list_test_all", "list_test_hard2"]
    assert ("list_test_all" in trials, "list_test_all2" in trials, len(trials)) == (True, False, 4)
    assert trials["list_test_hard2"] == [Trial(1, "id10001/aaa/00001.wav", "id10001/bbb/00001.wav")]
    with pytest.raises(KeyError):
        trials["list_test_all2"]
    with pytest.raises(BenchmarkError, match=r"list_test_all\.txt:1: expected.*<html>"):
        trials["list_test_all"]


def test_lists_of_training_speakers_are_refused(data_root: Path) -> None:
    """E and H pair the speakers of dev, which voxceleb1_sv trains on."""
    corpus = prepare(data_root)
    for name in ("list_test_all2", "list_test_hard2"):
        assert name in corpus.trials
        with pytest.raises(BenchmarkError, match=f"trial list '{name}' has .* speakers that training sees: id1"):
            SpeakerVerification.split(SpeakerVerification.Config(trials=name), corpus)
        with pytest.raises(BenchmarkError, match=f"trial list '{name}' has .* speakers that training sees: id1"):
            SpeakerVerification.split(SpeakerVerification.Config(), corpus, Target(name, corpus))


# --- Identification ---------------------------------------------------------------------------------------------------

SPLIT = [f"{1 + k % 3} {name}" for k, name in enumerate([*IDS["test"], *IDS["dev"]])]


@pytest.mark.parametrize("name", ["iden_split.txt", "veri_test_class.txt"])
def test_identification_needs_no_trial_list(root: Path, name: str) -> None:
    folder = root / "VoxCeleb1"
    remove("veri_test.txt", "veri_test2.txt")(folder)
    (folder / name).write_text("\r\n".join(SPLIT))
    corpus = prepare_identification(root)
    assert {split: [u.id for u in those] for split, those in corpus.splits.items()} == {
        "train": ["id10001/aaa/00001.wav", "id10002/ccc/00002.wav", "id10270/ddd/00001.wav"],
        "dev": ["id10001/bbb/00001.wav", "id10270/eee/00003.wav"],
        "test": ["id10002/ccc/00001.wav", "id10271/fff/00001.wav"],
    }
    assert not corpus.trials
    for split, those in corpus.splits.items():
        for u in those:
            assert (u.split, u.speaker) == (split, u.id.split("/")[0])
            assert Path(u.path).is_file()


def test_the_official_split_is_preferred_and_gaps_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "VoxCeleb1" / "iden_split.txt").write_text("\n".join(SPLIT[:-1]))
    (root / "VoxCeleb1" / "veri_test_class.txt").write_text("nonsense")
    with caplog.at_level(logging.WARNING):
        assert sum(map(len, prepare_identification(root).splits.values())) == 6
    assert "1 utterances of the tree are not in" in caplog.text
    assert "id10002/ccc/00002.wav" in caplog.text


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (remove("iden_split.txt"), ["split not found", "iden_split.txt and {root}/VoxCeleb1/veri_test_class.txt",
                                    "meta/iden_split.txt"]),
        (write("iden_split.txt", SPLIT[0] + "\n4 id10001/aaa/00001.wav"), ["iden_split.txt:2: expected '<1, 2 or 3>"]),
        (
            write("iden_split.txt", "\n".join([*SPLIT, SPLIT[1]])),
            ["iden_split.txt:8: id10270/eee/00003.wav is duplicated"],
        ),
        (
            write("iden_split.txt", "\n".join([*SPLIT, "1 id1/x/1.wav"])),
            ["names 1 of 8 utterances that are not in the tree: id1/x/1.wav", "unpack"],
        ),
        (write("iden_split.txt", "\n".join(SPLIT[:2])), ["no utterance for test"]),
        (remove("dev"), ["dev set not found", "iden_split.txt"]),
    ],
)  # fmt: skip
def test_errors_of_identification_name_the_item(root: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    (root / "VoxCeleb1" / "iden_split.txt").write_text("\n".join(SPLIT))
    change(root / "VoxCeleb1")
    with pytest.raises(BenchmarkError) as caught:
        prepare_identification(root)
    for part in parts:
        assert part.replace("{root}", str(root)) in str(caught.value)
