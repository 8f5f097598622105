"""The VoxCeleb2 reader on trees that the test writes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from tasks import make_task

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Trial
from downstream.corpora.voxceleb2 import prepare
from downstream.sv.task import SpeakerVerification

TRAIN = [f"id0{s:04}/v{v}/{u:05}.wav" for s in range(12, 42, 3) for v in range(2) for u in range(2)]
DEV = ["id10001/aaa/00001.wav", "id10001/bbb/00001.wav", "id10002/ccc/00001.wav"]
TEST = ["id10270/ddd/00001.wav", "id10270/eee/00003.wav", "id10271/fff/00001.wav"]
OF_TEST = f"1 {TEST[0]} {TEST[1]}\n0 {TEST[0]} {TEST[2]}\n"
OF_ALL = f"1 {DEV[0]} {DEV[1]}\n0 {DEV[2]} {TEST[2]}\n"
CONFIG = SpeakerVerification.Config(more_trials=["veri_test", "list_test_all2", "list_test_hard2"])


def add(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path / "VoxCeleb2" / "dev" / "aac", TRAIN)
    for split, names in (("dev", DEV), ("test", TEST)):
        add(tmp_path / "VoxCeleb1" / split / "wav", names)
    for name in ("veri_test2", "veri_test"):
        (tmp_path / "VoxCeleb1" / f"{name}.txt").write_text(OF_TEST)
    for name in ("list_test_all2", "list_test_hard2"):
        (tmp_path / "VoxCeleb1" / f"{name}.txt").write_text(OF_ALL)
    return tmp_path


def test_reads_both_trees(root: Path) -> None:
    corpus = prepare(root)
    ids = {split: [u.id for u in those] for split, those in corpus.splits.items()}
    assert ids == {"dev": sorted(TRAIN), "voxceleb1_dev": DEV, "voxceleb1_test": TEST}
    first = corpus.splits["dev"][0]
    assert (first.speaker, first.session, first.split) == ("id00012", "v0", "dev")
    assert Path(first.path).is_file()
    assert corpus.trials["list_test_all2"] == [Trial(1, DEV[0], DEV[1]), Trial(0, DEV[2], TEST[2])]
    task = make_task(SpeakerVerification, CONFIG, corpus)
    assert list(task.splits.sets) == ["dev", "test", "veri_test", "list_test_all2", "list_test_hard2"]
    assert {u.id for u in task.splits["test"]} == {*TEST, *DEV}
    assert {str(u.speaker)[:3] for name in ("train", "dev") for u in task.splits[name]} == {"id0"}
    assert len(task.classes) == 8


def test_converted_audio_may_lie_beside_or_under_wav(root: Path) -> None:
    aac = root / "VoxCeleb2" / "dev" / "aac"
    beside = prepare(root)
    add(aac, [name.replace(".wav", ".m4a") for name in TRAIN])
    assert prepare(root).splits == beside.splits
    for path in sorted(aac.rglob("*.wav")):
        path.unlink()
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in (f"40 utterances under {aac} are .m4a without a .wav", "id00012/v0/00000.m4a", "and 37 more",
                 ".m4a files cannot be read; convert them: find", "ffmpeg"):  # fmt: skip
        assert part in str(caught.value)
    add(root / "VoxCeleb2" / "dev" / "wav", TRAIN)
    assert [u.id for u in prepare(root).splits["dev"]] == sorted(TRAIN)


def test_without_voxceleb1_dev_the_lists_of_the_test_set_remain(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(root / "VoxCeleb1" / "dev")
    with caplog.at_level(logging.WARNING):
        corpus = prepare(root)
        task = make_task(SpeakerVerification, CONFIG, corpus)
    assert list(corpus.trials) == ["veri_test2", "veri_test"]
    assert list(task.splits.sets) == ["dev", "test", "veri_test"]
    assert f"{root}/VoxCeleb1/dev does not exist, so the lists E and H cannot be scored" in caplog.text
    assert "no trial list list_test_all2, list_test_hard2" in caplog.text


def test_absent_speakers_of_the_dev_set_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "VoxCeleb2" / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \n"
        "id00012 ,n000012 ,m ,dev \nid00099 ,n1 ,f ,dev \nid00098 ,n2 ,f ,test "
    )
    with caplog.at_level(logging.WARNING):
        prepare(root)
    assert "lists 1 speakers that are not in the tree: id00099" in caplog.text


def test_errors_name_what_is_wrong(root: Path) -> None:
    def refused(*parts: str) -> None:
        with pytest.raises(BenchmarkError) as caught:
            prepare(root)
        for part in parts:
            assert part in str(caught.value)

    add(root / "VoxCeleb2" / "dev" / "aac", ["id10270/zzz/00001.wav"])
    refused("1 speakers are both under", "VoxCeleb2 and under", ": id10270.", "shares no speaker")
    shutil.rmtree(root / "VoxCeleb2" / "dev" / "aac")
    refused("VoxCeleb2's dev set not found", f"{root}/VoxCeleb2/dev/wav or {root}/VoxCeleb2/dev/aac", "vox2.html")
    shutil.rmtree(root / "VoxCeleb2")
    refused("VoxCeleb2 not found: looked for the folder", "contains: VoxCeleb1", "--data-root")
    add(root / "VoxCeleb2" / "dev" / "aac", TRAIN)
    (root / "VoxCeleb1" / "veri_test2.txt").unlink()
    refused("VoxCeleb1/veri_test2.txt not found", "Download")
    shutil.rmtree(root / "VoxCeleb1")
    refused("VoxCeleb1 not found: looked for the folder", "contains: VoxCeleb2")
