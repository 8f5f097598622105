"""The VoxLingua107 reader on trees that the test writes, and what it says of trees that are not right."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from support import add_wavs

from benchmark.errors import BenchmarkError
from downstream.corpora.voxlingua107 import LANGUAGES, prepare
from downstream.lid.task import LanguageIdentification, LIDConfig

TRAIN = [
    "en/-0XbR_2nvhs---0000.500-0004.000.wav",
    "en/-0XbR_2nvhs---0010.110-0013.000.wav",
    "en/AbC---d_e1g__U__S12---0001.000-0002.000.wav",
    "en/AbC---d_e1g__U__S3---0100.000-0102.000.wav",
    "iw/zzzzzzzzzzz---0001.000-0002.000.wav",
    "iw/yyyyyyyyyyy---0001.000-0002.000.wav",
    "jw/xxxxxxxxxxx---1001.000-1002.000.wav",
    "jw/xxxxxxxxxxx---1003.000-1004.000.wav",
    "jw/wwwwwwwwwww---1003.000-1004.000.wav",
]
DEV = ["en/ddddddddddd__U__S0---0003.000-0011.200.wav", "iw/eeeeeeeeeee---0003.000-0011.200.wav"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_wavs(tmp_path / "VoxLingua107", *TRAIN)
    add_wavs(tmp_path / "VoxLingua107" / "dev", *DEV)
    return tmp_path


def test_the_codes_are_the_107() -> None:
    assert len(LANGUAGES) == 107
    assert {"he", "jv", "ceb", "haw", "sco", "war"} <= LANGUAGES
    assert not {"iw", "jw"} & LANGUAGES


def test_reads_the_official_layout_with_obsolete_codes_mapped(root: Path) -> None:
    corpus = prepare(root)
    expected = sorted(name.replace("iw/", "he/").replace("jw/", "jv/") for name in TRAIN)
    assert [u.id for u in corpus.splits["train"]] == expected
    assert [u.id for u in corpus.splits["dev"]] == [f"dev/{name.replace('iw/', 'he/')}" for name in DEV]
    assert {u.language for u in corpus.splits["train"]} == {"en", "he", "jv"}
    by_id = {u.id: u for split in corpus.splits.values() for u in split}
    hebrew = by_id["dev/he/eeeeeeeeeee---0003.000-0011.200.wav"]
    assert (hebrew.language, hebrew.session, hebrew.split, hebrew.speaker) == ("he", "eeeeeeeeeee", "dev", None)
    assert Path(hebrew.path) == root / "VoxLingua107" / "dev" / DEV[1]
    assert all(soundfile.info(u.path).frames == 160 for u in by_id.values())
    # a video's segments are one session, whatever is in its name
    assert [u.session for u in corpus.splits["train"]][:4] == ["-0XbR_2nvhs"] * 2 + ["AbC---d_e1g"] * 2


def test_no_video_is_in_train_and_dev(root: Path) -> None:
    config = LIDConfig(dev_split=None, test_split="dev", dev_share=0.4)
    splits = LanguageIdentification.split(config, prepare(root))
    sessions = {name: {u.session for u in splits[name]} for name in ("train", "dev", "test")}
    assert sessions["dev"]
    assert not sessions["train"] & sessions["dev"]
    assert {u.language for u in splits.dev} == {"en", "he", "jv"}
    assert {u.id for u in splits.test} == {u.id for u in prepare(root).splits["dev"]}


def test_train_may_lie_in_a_folder_of_its_own(root: Path) -> None:
    expected = prepare(root)
    folder = root / "VoxLingua107"
    (folder / "train").mkdir()
    for language in ("en", "iw", "jw"):
        shutil.move(folder / language, folder / "train" / language)
    assert [u.id for u in prepare(root).splits["train"]] == [u.id for u in expected.splits["train"]]


def test_ignores_what_archives_leave_behind(root: Path) -> None:
    expected = prepare(root)
    folder = root / "VoxLingua107"
    (folder / "en" / "._-0XbR_2nvhs---0000.500-0004.000.wav").write_bytes(b"")
    (folder / "__MACOSX").mkdir()
    (folder / "en.zip").write_bytes(b"")
    (folder / "zip_urls.txt").write_text("")
    assert prepare(root) == expected


def test_says_which_languages_there_are(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_wavs(root / "VoxLingua107", "qq/aaaaaaaaaaa---0001.000-0002.000.wav")
    with caplog.at_level(logging.INFO):
        prepare(root)
    assert "languages that VoxLingua107 was not published with: qq" in caplog.text
    assert "has 3 of VoxLingua107's 107 languages; missing: ab, af, am" in caplog.text


def test_a_language_of_dev_that_train_has_not_is_refused_by_the_task(root: Path) -> None:
    add_wavs(root / "VoxLingua107" / "dev", "tr/fffffffffff---0001.000-0002.000.wav")
    config = LIDConfig(dev_split=None, test_split="dev", dev_share=0.4)
    with pytest.raises(
        BenchmarkError, match=r"test has 1 languages that training does not have: tr .1 utterances: dev/tr/ff"
    ):
        LanguageIdentification.split(config, prepare(root))
    config.languages = ["en", "he"]
    assert {u.language for u in LanguageIdentification.split(config, prepare(root)).test} == {"en", "he"}


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [shutil.rmtree(folder / name) for name in names] and None


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda folder: shutil.move(folder, folder.with_name("voxlingua-107")) and None,
            ["VoxLingua107 not found", "looked for the folder {root}/VoxLingua107", "voxlingua-107", "rename it",
             "bark.phon.ioc.ee", "--data-root", "$BENCHMARK_DATA"],
        ),
        (remove("dev"), ["dev set, which is the test set, not found", "{root}/VoxLingua107/dev", "en, iw, jw"]),
        (remove("en", "iw", "jw"), ["no .wav file in {root}/VoxLingua107/<language>/", "contains: dev"]),
        (remove("dev/en", "dev/iw"), ["no .wav file in {root}/VoxLingua107/dev/<language>/"]),
        (
            lambda folder: add_wavs(folder, "he/vvvvvvvvvvv---0001.000-0002.000.wav"),
            ["{root}/VoxLingua107 has both iw and he", "move the files of {root}/VoxLingua107/iw"],
        ),
        (
            lambda folder: add_wavs(folder, "en/one.wav", "en/two---1-2.wav"),
            ["2 .wav files", "VoxLingua107/en/one.wav", "<video>---<start>-<end>.wav"],
        ),
    ],
)  # fmt: skip
def test_errors_name_the_item(root: Path, change: Callable[[Path], None], parts: list[str]) -> None:
    change(root / "VoxLingua107")
    with pytest.raises(BenchmarkError) as caught:
        prepare(root)
    for part in parts:
        assert part.replace("{root}", str(root)) in str(caught.value)


def test_hints_at_a_data_root_one_level_off(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="looks like the corpus itself, but the data root is the folder above it"):
        prepare(root / "VoxLingua107")
    with pytest.raises(BenchmarkError, match=r"The data root .*/nowhere does not exist"):
        prepare(tmp_path / "nowhere")
