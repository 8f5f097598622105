"""The CommonLanguage reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from support import add_wavs

from benchmark.errors import BenchmarkError
from downstream.corpora.commonlanguage import prepare

FILES = [
    f"{language}/{split}/{code}_{short}_sp_{speaker}/common_voice_{code}_{clip}.wav"
    for language, code in (("Italian", "itln"), ("Mangolian", "mnln"))
    for split, short in (("train", "trn"), ("dev", "dev"), ("test", "tst"))
    for speaker in (1, 2)
    for clip in (17, 18)
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "CommonLanguage"
    add_wavs(folder, *FILES)
    for language in ("Italian", "Mangolian"):
        for split in ("train", "dev", "test"):
            (folder / language / f"{split}.csv").write_text("\tclient_id\tpath\n", encoding="utf-16")
    (folder / "Italian" / "train" / "._itln_trn_sp_1").write_bytes(b"")
    return tmp_path


def test_reads_the_official_layout(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        corpus = prepare(root)
    assert list(corpus.splits) == ["train", "dev", "test"]
    for split, found in corpus.splits.items():
        assert [u.id for u in found] == sorted(name for name in FILES if f"/{split}/" in name)
        assert {u.split for u in found} == {split}
        assert all(soundfile.info(u.path).frames == 160 for u in found)
    first = corpus.splits["train"][0]
    assert (first.language, first.speaker, first.session) == ("Italian", "Italian/itln_trn_sp_1", None)
    assert {u.language for u in corpus.splits["test"]} == {"Italian", "Mangolian"}
    assert "has 2 languages; CommonLanguage was published with 45" in caplog.text


@pytest.mark.parametrize("place", ["common_voice_kpd", "CommonLanguage/common_voice_kpd"])
def test_the_archives_own_folder_is_accepted(root: Path, place: str) -> None:
    expected = prepare(root)
    shutil.move(root / "CommonLanguage", root / "moved")
    (root / place).parent.mkdir(exist_ok=True)
    shutil.move(root / "moved", root / place)
    found = prepare(root)
    assert {s: [u.id for u in us] for s, us in found.splits.items()} == {
        s: [u.id for u in us] for s, us in expected.splits.items()
    }
    assert Path(found.splits["dev"][0].path).is_file()


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [shutil.rmtree(folder / name) for name in names] and None


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda folder: shutil.move(folder, folder.with_name("common_language")) and None,
            ["CommonLanguage not found", "{root}/CommonLanguage or {root}/common_voice_kpd", "common_language",
             "rename it", "zenodo.5036977", "--data-root", "$BENCHMARK_DATA"],
        ),
        (remove("Italian", "Mangolian"), ["no language in {root}/CommonLanguage", "contains: nothing"]),
        (
            remove("Italian/dev", "Mangolian/test"),
            ["2 folders are missing", "{root}/CommonLanguage/Italian/dev", "{root}/CommonLanguage/Mangolian/test"],
        ),
        (remove("Italian/dev/itln_dev_sp_1", "Italian/dev/itln_dev_sp_2"), ["1 folders are missing or hold no <sp"]),
        (
            lambda folder: add_wavs(folder, "Italian/train/x.wav"),
            ["1 audio files are not", "Italian/train/x.wav", "move"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_item(root: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    change(root / "CommonLanguage")
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part.replace("{root}", str(root)) in str(caught.value)


def test_hints_at_a_data_root_one_level_off(root: Path) -> None:
    with pytest.raises(BenchmarkError, match="looks like the corpus itself"):
        prepare(root / "CommonLanguage")
