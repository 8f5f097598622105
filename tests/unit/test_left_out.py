"""What readers of corpora leave out is said, and audio in another format or spelling is not left out at all."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import registry
from benchmark.errors import BenchmarkError
from downstream.corpora.tree import LeftOut, audio_files, scan

pytestmark = pytest.mark.medium  # needs a tree of every corpus

CASES = {
    # corpus -> folder of the corpus, a folder that holds audio at the right depth (a pattern)
    "voxceleb1": ("VoxCeleb1", "dev/wav/*/*"),
    "voxceleb1_identification": ("VoxCeleb1", "dev/wav/*/*"),
    "voxceleb2": ("VoxCeleb2", "dev/*/*/*"),
    "voxlingua107": ("VoxLingua107", "[a-z][a-z]"),
    "commonlanguage": ("CommonLanguage", "*/train/*"),
    "fleurs": ("fleurs", "*/audio/train"),
    "iemocap": ("IEMOCAP_full_release", "Session1/sentences/wav/*"),
    "speech_commands": ("speech_commands_v0.01", "yes"),
    "fluent_speech_commands": ("fluent_speech_commands_dataset", "wavs/speakers/*"),
    "librispeech": ("LibriSpeech", "dev-clean/*/*"),
    "librilight": ("LibriSpeech", "dev-clean/*/*"),
}


def test_every_corpus_has_a_case() -> None:
    assert set(CASES) == {entry.name for entry in registry.corpora} - {"debian_speech"}  # manifests, not a tree


@pytest.fixture
def tree(corpora_root: Path, tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    def make(name: str) -> tuple[Path, Path]:
        """The data root, with linked files, and a folder with audio in it."""
        root = tmp_path / "root"
        shutil.copytree(corpora_root, root, copy_function=os.link)
        top, pattern = CASES[name]
        return root, next(path for path in sorted((root / top).glob(pattern)) if audio_in(path))

    return make


def audio_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".wav", ".flac"))


def numbers(name: str, root: Path) -> dict[str, int]:
    return {split: len(those) for split, those in registry.corpora.get(name).load()(root).splits.items()}


def ids(name: str, root: Path) -> set[str]:
    return {u.id for those in registry.corpora.get(name).load()(root).splits.values() for u in those}


@pytest.mark.parametrize("ending", [".WAV", ".Flac", ".mp3"])
@pytest.mark.parametrize("name", CASES)
def test_audio_of_other_formats_is_read(tree: Callable[[str], tuple[Path, Path]], name: str, ending: str) -> None:
    root, folder = tree(name)
    before, known = numbers(name, root), ids(name, root)
    first = audio_in(folder)[0]
    first.rename(first.with_suffix(ending))
    assert numbers(name, root) == before
    assert ids(name, root) == known


@pytest.mark.parametrize("name", CASES)
def test_audio_at_the_wrong_depth_is_refused(tree: Callable[[str], tuple[Path, Path]], name: str) -> None:
    root, folder = tree(name)
    (folder / folder.name).mkdir()
    for path in audio_in(folder):
        path.rename(folder / folder.name / path.name)
    with pytest.raises(BenchmarkError) as caught:
        numbers(name, root)
    assert "audio files are not " in str(caught.value)
    assert f"{folder}/{folder.name}/" in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_other_files_are_said_once(
    tree: Callable[[str], tuple[Path, Path]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    root, folder = tree(name)
    before = numbers(name, root)
    for other in ("notes.doc", "more.doc", "._x.wav", "x.m4a"):
        (folder / other).touch()
    (folder / "empty").mkdir()
    caplog.clear()
    if name.startswith("voxceleb"):
        with pytest.raises(BenchmarkError, match=r"1 utterances under .* are \.m4a without a \.wav next to them"):
            numbers(name, root)
        (folder / "x.m4a").unlink()
    with caplog.at_level(logging.INFO):
        assert numbers(name, root) == before
    messages = [message for message in caplog.messages if "left out" in message and str(folder) in message]
    assert sum("files are not audio and are left out" in message for message in messages) == 1
    assert any(f": 2 files are not audio and are left out: {folder}/more.doc, {folder}/n" in m for m in messages)
    assert any(f"1 folders hold no audio and are left out: {folder}/empty" in message for message in messages)
    if not name.startswith("voxceleb"):
        expected = f"1 files are audio that libsndfile does not read and are left out: {folder}/x.m4a"
        assert any(expected in message for message in messages)
    assert not any("._x" in message for message in messages)


def test_a_language_without_audio(tree: Callable[[str], tuple[Path, Path]], caplog: pytest.LogCaptureFixture) -> None:
    root, folder = tree("voxlingua107")
    (folder.parent / "zz").mkdir()
    numbers("voxlingua107", root)
    assert f"VoxLingua107: 1 folders hold no audio and are left out: {folder.parent}/zz" in caplog.text


def test_languages_beside_those_of_train(
    tree: Callable[[str], tuple[Path, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    root, folder = tree("voxlingua107")
    (folder.parent / "train").mkdir()
    for path in folder.parent.glob("[a-z][a-z]"):
        path.rename(folder.parent / "train" / path.name)
    before = numbers("voxlingua107", root)
    shutil.copytree(folder.parent / "train" / folder.name, folder)
    assert numbers("voxlingua107", root) == before
    assert f"1 folders lie beside 'train', not in it, and are left out: {folder}" in caplog.text


def test_of_one_name_the_published_format_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in ("a.mp3", "a.wav", "A.wav", "b.WAV", "b.flac", "c.m4a", "c.wav"):
        (tmp_path / file).touch()
    left_out = LeftOut("corpus")
    found = audio_files(tmp_path, [], left_out)
    assert {name: Path(path).name for name, path in found.items()} == {
        "A.wav": "A.wav", "a.wav": "a.wav", "c.wav": "c.wav", "b.wav": "b.WAV"
    }  # fmt: skip
    left_out.say()
    assert caplog.messages == [
        "corpus: 2 audio files have one of the same name beside them, which is read, and are left out: "
        f"{tmp_path}/a.mp3, {tmp_path}/b.flac"
    ]


def test_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb.wav").touch()
    with pytest.raises(BenchmarkError, match=r"the name 'a\\nb.wav' in .* has a line break; rename it"):
        list(scan(tmp_path))


def test_transcripts_come_before_speakers(
    tree: Callable[[str], tuple[Path, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    """A missing .trans.txt is the error; nothing is said of SPEAKERS.TXT before it."""
    root, folder = tree("librispeech")
    next(folder.glob("*.trans.txt")).unlink()
    with pytest.raises(BenchmarkError, match=r"audio files have no transcript in the .trans.txt next to them"):
        numbers("librispeech", root)
    assert "SPEAKERS" not in caplog.text


def test_lines_of_speakers_that_say_nothing(
    tree: Callable[[str], tuple[Path, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    root, _ = tree("librispeech")
    path = root / "LibriSpeech" / "SPEAKERS.TXT"
    content = path.read_text() + "; a comment\nnothing\n"
    path.unlink()  # it is a link
    path.write_text(content)
    numbers("librispeech", root)
    line = len(content.splitlines())
    assert f"1 lines are not 'id | F or M | subset | …' and are left out: {path}:{line}" in caplog.text
