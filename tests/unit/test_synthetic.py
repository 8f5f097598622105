"""Synthetic corpora: the same bytes from the same seed, official layouts, resumable, fit to listen to."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="pip install -e '.[demo]'")

from benchmark.errors import BenchmarkError
from benchmark.files import MARKER
from benchmark.registry import corpora
from downstream.corpora.synthetic import (
    LAYOUTS,
    SIZES,
    folders_of,
    libri,
    pretraining,
    recording,
    synthesise,
    synthesise_pretraining,
    voxceleb,
    writing,
)
from downstream.corpora.synthetic.__main__ import main
from downstream.corpora.synthetic.sentences import ENGLISH, WORDS
from downstream.corpora.synthetic.voices import ACCENTS, Speaker, draw_speaker

pytestmark = pytest.mark.medium  # speaks whole trees


def digests(root: Path) -> dict[str, str]:
    """Every file below ``root`` and the digest of its bytes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def tree(corpora_root: Path) -> Path:
    return corpora_root


def test_same_bytes_whatever_the_workers(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "FEW", 1)
    synthesise(tmp_path, size="test", workers=2)
    assert digests(tmp_path) == digests(tree)


def test_a_clip_does_not_depend_on_those_before_it(tree: Path, tmp_path: Path) -> None:
    clips, _ = voxceleb.voxceleb1(SIZES["test"], 0)
    for clip in (clips[9], clips[-1], clips[0]):
        recording.write_clip(tmp_path, clip)
        assert (tmp_path / clip.path).read_bytes() == (tree / "VoxCeleb1" / clip.path).read_bytes(), clip.path


@pytest.mark.parametrize("name", [entry.name for entry in corpora if entry.origin == "built in"])
def test_every_corpus_has_a_synthetic_tree_that_its_reader_accepts(name: str, tree: Path, tmp_path: Path) -> None:
    assert folders_of(name), f"no layout in downstream/corpora/synthetic names '{name}' among its corpora"
    for folder in folders_of(name):
        (tmp_path / folder).symlink_to(tree / folder)
    corpus = corpora.get(name).load()(tmp_path)
    assert all(corpus.splits.values())
    utterances = [utterance for split in corpus.splits.values() for utterance in split]
    assert all(Path(utterance.path).is_file() for utterance in utterances)
    read = {Path(utterance.path).relative_to(tmp_path).parts[0] for utterance in utterances}
    assert read == set(folders_of(name)), "a folder is not read"


def test_layouts_name_corpora_that_exist() -> None:
    for layout in LAYOUTS.values():
        assert set(layout.corpora) <= set(corpora.names())


def test_another_seed_gives_other_bytes(tree: Path, tmp_path: Path) -> None:
    synthesise(tmp_path, ["VoxLingua107"], size="test", seed=1, workers=1)
    audio = {name: digest for name, digest in digests(tmp_path).items() if name.endswith(".wav")}
    assert not set(audio.values()) & set(digests(tree).values())


def test_voxceleb1_layout(tree: Path) -> None:
    root, size = tree / "VoxCeleb1", SIZES["test"]
    names = {part: {path.name for path in (root / part / "wav").iterdir()} for part in ("dev", "test")}
    assert len(names["dev"]) == size.vox_dev
    assert len(names["test"]) == size.vox_test
    assert not names["dev"] & names["test"]
    files = [str(path.relative_to(root)) for path in root.rglob("*.wav")]
    assert len(files) == (size.vox_dev + size.vox_test) * size.vox_videos * size.vox_utterances
    assert all(re.fullmatch(r"(dev|test)/wav/id1\d{4}/[\w-]{11}/\d{5}\.wav", file) for file in files)
    lines = (root / "vox1_meta.csv").read_text().splitlines()
    assert lines[0].split("\t") == ["VoxCeleb1 ID", "VGGFace1 ID", "Gender", "Nationality", "Set"]
    rows = [line.split("\t") for line in lines[1:]]
    assert {(row[0], row[4]) for row in rows} == {(name, part) for part in names for name in names[part]}
    assert {row[2] for row in rows} <= {"m", "f"}


def test_trials(tree: Path) -> None:
    root = tree / "VoxCeleb1"
    cleaned, original = ((root / name).read_text().splitlines() for name in ("veri_test2.txt", "veri_test.txt"))
    assert set(cleaned) < set(original), "the cleaned list leaves some trials out"
    assert len(cleaned) == len(set(cleaned))
    labels = []
    for line in original:
        label, enrolment, test = line.split(" ")
        labels.append(label)
        assert (root / "test" / "wav" / enrolment).is_file()
        assert (root / "test" / "wav" / test).is_file()
        assert (label == "1") == (enrolment.split("/")[0] == test.split("/")[0])
        assert enrolment.split("/")[:2] != test.split("/")[:2], "trials compare recordings"
    assert 0.3 < labels.count("1") / len(labels) < 0.7


@pytest.mark.parametrize("videos", [1, 2, 3, 4])
def test_identification_split(videos: int) -> None:
    size = replace(SIZES["test"], vox_videos=videos, vox_utterances=3)
    clips, texts = voxceleb.voxceleb1(size, 0)
    rows = [line.split(" ") for line in str(texts["iden_split.txt"]).splitlines()]
    assert [file for _, file in rows] == [clip.path.split("/wav/")[1] for clip in clips], "dev's and test's speakers"
    seen: dict[str, dict[str, set[str]]] = {}
    for part, file in rows:
        speaker, video, _ = file.split("/")
        seen.setdefault(speaker, {}).setdefault(part, set()).add(video)
    for parts in seen.values():
        assert set(parts) == {"1", "2", "3"}
        assert videos < 2 or not parts["1"] & (parts["2"] | parts["3"])
        assert videos < 3 or not parts["2"] & parts["3"]


def test_trials_of_all_speakers_and_hard_ones() -> None:
    clips, texts = voxceleb.voxceleb1(SIZES["demo"], 0)
    there = {clip.path.split("/wav/")[1] for clip in clips}
    rows = [line.split("\t") for line in str(texts["vox1_meta.csv"]).splitlines()[1:]]
    voice, part = {row[0]: (row[2], row[3]) for row in rows}, {row[0]: row[4] for row in rows}
    for name in ("all", "hard"):
        original, cleaned = (
            [line.split(" ") for line in str(texts[f"list_test_{name}{ending}.txt"]).splitlines()]
            for ending in ("", "2")
        )
        assert set(map(tuple, cleaned)) < set(map(tuple, original))
        assert len(set(map(tuple, original))) == len(original)
        assert {label for label, _, _ in cleaned} == {"0", "1"}
        for label, *files in original:
            assert set(files) <= there
            speakers = [file.split("/")[0] for file in files]
            assert (label == "1") == (speakers[0] == speakers[1])
            assert files[0].split("/")[:2] != files[1].split("/")[:2]
            assert name == "all" or voice[speakers[0]] == voice[speakers[1]]
        heard = {part[file.split("/")[0]] for _, *files in cleaned for file in files}
        assert heard == {"dev", "test"}


def test_voxceleb2_layout(tree: Path) -> None:
    root, size = tree / "VoxCeleb2", SIZES["test"]
    files = [str(path.relative_to(root)) for path in root.rglob("*.wav")]
    assert all(re.fullmatch(r"dev/wav/id0\d{4}/[\w-]{11}/\d{5}\.wav", file) for file in files)
    assert len(files) == size.vox2_speakers * size.vox2_videos * size.vox2_utterances
    header, *lines = (root / "vox2_meta.csv").read_text().splitlines()
    assert header == "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set"
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    assert {row[0] for row in rows} == {path.name for path in (root / "dev" / "wav").iterdir()}
    assert all(row[2] in "mf" and row[3] == "dev" for row in rows)


def test_no_two_corpora_share_a_speaker() -> None:
    voices: list[set[Speaker]] = []
    for corpus, layout in LAYOUTS.items():
        if corpus not in ("librispeech_finetuning", "speech_commands_test_set_v0.01"):  # copies of others' files
            voices.append({clip.speaker for clip in layout.plan(SIZES["demo"], 0)[0]})
    assert sum(map(len, voices)) == len(set().union(*voices))


def read_transcripts(root: Path, pattern: str) -> dict[str, str]:
    """Utterance -> text of every ``trans.txt``, whose folder must hold just those utterances."""
    texts: dict[str, str] = {}
    for file in root.glob(f"{pattern}/*.trans.txt"):
        own = dict(line.split(" ", 1) for line in file.read_text().splitlines())
        assert {path.stem for path in file.parent.glob("*.flac")} == set(own)
        assert not set(own) & set(texts)
        texts |= own
    return texts


def test_librilight_layout(tree: Path) -> None:
    root = tree / "librispeech_finetuning"
    folders = {str(path.relative_to(root)) for pattern in ("1h/*/*", "9h/*") for path in root.glob(pattern)}
    assert folders == {
        f"{part}/{kind}" for part in (*(f"1h/{k}" for k in range(6)), "9h") for kind in ("clean", "other")
    }
    hour = [read_transcripts(root, f"1h/{k}/*/*/*") for k in range(6)]
    nine = read_transcripts(root, "9h/*/*/*")
    sets = [*map(set, hour), set(nine)]
    assert all(sets)
    assert len(set().union(*sets)) == sum(map(len, sets)), "the sets are disjoint"
    # The same recordings as in LibriSpeech's training sets.
    libri = {path.name: path for path in (tree / "LibriSpeech").glob("train-*/*/*/*.flac")}
    for path in root.rglob("*.flac"):
        kind = path.parts[-4]
        assert libri[path.name].read_bytes() == path.read_bytes()
        assert kind in libri[path.name].parts[-4]
    assert {**nine, **{name: text for utterances in hour for name, text in utterances.items()}}.items() <= (
        read_transcripts(tree / "LibriSpeech", "train-*/*/*").items()
    )


def test_librilight_proportions() -> None:
    clips, _ = libri.librilight(SIZES["demo"], 0)
    sets: dict[tuple[str, str], list[Speaker]] = {}
    for clip in clips:
        name, kind = re.fullmatch(r"(1h/\d|9h)/(\w+)/.*", clip.path).groups()  # type: ignore[union-attr]
        sets.setdefault((name, kind), []).append(clip.speaker)
    hour = [utterances for (name, _), utterances in sets.items() if name != "9h"]
    assert len(hour) == 12
    for utterances in hour:
        assert len(set(utterances)) == 2
        assert {speaker.sex for speaker in utterances} == {"f", "m"}
    assert len(sets["9h", "clean"]) == len(sets["9h", "other"]) == 9 * sum(map(len, hour)) / 2


def test_commonlanguage_layout(tree: Path) -> None:
    root, size = tree / "CommonLanguage", SIZES["test"]
    speakers: dict[tuple[str, str], set[str]] = {}
    for path in root.rglob("*.wav"):
        language, part, speaker, _ = path.relative_to(root).parts
        speakers.setdefault((language, part), set()).add(speaker)
    assert {language for language, _ in speakers} == set(size.common_languages)
    counts = dict(zip(("train", "dev", "test"), size.common_speakers, strict=True))
    assert all(len(utterances) == counts[part] for (_, part), utterances in speakers.items())
    assert len(set().union(*speakers.values())) == sum(map(len, speakers.values())), "a speaker is in one part"
    for language, part in speakers:
        header, *lines = (root / language / f"{part}.csv").read_text("utf-16").splitlines()
        assert header.split("\t") == ["", "client_id", "path", "sentence", "age", "gender"]
        listed = {"/".join(line.split("\t")[1:3]) for line in lines}
        folder = root / language / part
        assert listed == {str(path.relative_to(folder)) for path in folder.rglob("*.wav")}


def test_fleurs_layout(tree: Path) -> None:
    root, size = tree / "fleurs", SIZES["test"]
    assert {path.name for path in root.iterdir() if path.is_dir()} == set(size.fleurs_configs)
    for config in size.fleurs_configs:
        sentences: dict[str, set[str]] = {}
        for part in ("train", "dev", "test"):
            rows = [line.split("\t") for line in (root / config / f"{part}.tsv").read_text().splitlines()]
            folder = root / config / "audio" / part
            assert {row[1] for row in rows} == {path.name for path in folder.iterdir()}
            assert len({row[1] for row in rows}) == len(rows)
            for number, file, written, text, characters, samples, gender in rows:
                sentences.setdefault(part, set()).add(number)
                assert written.lower().replace(",", "").rstrip(".") == text
                assert characters.replace(" ", "").replace("|", " ").strip() == text
                assert soundfile.info(folder / file).frames == int(samples)
                assert gender in ("MALE", "FEMALE")
            assert len(rows) == len(sentences[part]) * size.fleurs_readings
        assert len(set().union(*sentences.values())) == sum(map(len, sentences.values()))


def test_librispeech_layout(tree: Path) -> None:
    root = tree / "LibriSpeech"
    speakers: dict[str, str] = {}
    transcribed = set()
    for file in root.glob("*/*/*/*.trans.txt"):
        split, speaker, chapter = file.parts[-4:-1]
        assert file.name == f"{speaker}-{chapter}.trans.txt"
        assert speakers.setdefault(speaker, split) == split, "a speaker is in one split"
        for line in file.read_text().splitlines():
            name, _, text = line.partition(" ")
            assert re.fullmatch(rf"{speaker}-{chapter}-\d{{4}}", name)
            assert re.fullmatch(r"[A-Z']+( [A-Z']+)+", text)
            transcribed.add(file.with_name(f"{name}.flac"))
    assert transcribed == set(root.rglob("*.flac"))
    assert set(speakers.values()) == {
        "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other"
    }  # fmt: skip
    listed = [line for line in (root / "SPEAKERS.TXT").read_text().splitlines() if not line.startswith(";")]
    assert {tuple(field.strip() for field in line.split("|"))[::2][:2] for line in listed} == set(speakers.items())


def test_voxlingua107_layout(tree: Path) -> None:
    root, size = tree / "VoxLingua107", SIZES["test"]
    videos: dict[str, set[str]] = {"": set(), "dev/": set()}
    for path in root.rglob("*.wav"):
        match = re.fullmatch(
            r"(dev/)?([a-z]{2})/([\w-]{11})__U__S\d+---(\d{4}\.\d{3})-(\d{4}\.\d{3})\.wav", str(path.relative_to(root))
        )
        assert match, path
        videos[match[1] or ""].add(match[3])
        assert match[2] in size.lang_languages
        assert soundfile.info(path).duration == pytest.approx(float(match[5]) - float(match[4]), abs=1e-3)
    assert not videos[""] & videos["dev/"]
    assert len(videos[""]) == len(size.lang_languages) * size.lang_videos
    assert len(videos["dev/"]) == len(size.lang_languages) * size.lang_dev


def test_audio_is_sane(tree: Path) -> None:
    levels = []
    for path in [*tree.rglob("*.wav"), *tree.rglob("*.flac")]:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16"), path
        assert info.duration >= (0.3 if "DebianSpeech" in path.parts else 1.0), path
        audio = soundfile.read(path)[0]
        assert np.abs(audio).max() < 0.999, f"{path} clips"
        levels.append(20 * np.log10(np.sqrt(np.mean(audio**2))))
        windows = audio[: len(audio) // 400 * 400].reshape(-1, 400)
        energy = np.sort(np.log10(np.mean(windows**2, axis=1) + 1e-12))
        assert energy[-len(energy) // 10] - energy[len(energy) // 10] > 0.3, f"{path}: no pauses or no speech"
    assert min(levels) > -45
    assert max(levels) < -10
    assert max(levels) - min(levels) > 8, "recordings differ in level"


def test_replaces_what_is_missing(tree: Path, tmp_path: Path) -> None:
    synthesise(tmp_path, ["VoxCeleb1"], size="test", workers=1)
    files = sorted(tmp_path.rglob("*.wav"))
    kept, lost = files[0], files[1:4]
    kept.write_bytes(b"kept")
    for path in lost:
        path.unlink()
    stale = lost[0].with_name(".00001.wav.1.part")
    stale.write_bytes(b"half")
    (tmp_path / "VoxCeleb1" / "veri_test2.txt").unlink()
    synthesise(tmp_path, ["VoxCeleb1"], size="test", workers=1)
    assert kept.read_bytes() == b"kept"
    assert not stale.exists()
    rewritten, expected = digests(tmp_path / "VoxCeleb1"), digests(tree / "VoxCeleb1")
    name = str(kept.relative_to(tmp_path / "VoxCeleb1"))
    del rewritten[name], expected[name]
    assert rewritten == expected


def test_resumes_after_an_interrupt(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = writing.write_clip, []

    def interrupted(root: Path, clip: recording.Clip) -> str:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(clip.path)
        return real(root, clip)

    monkeypatch.setattr(writing, "write_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path, ["VoxLingua107"], size="test", workers=1)
    monkeypatch.setattr(writing, "write_clip", real)
    synthesise(tmp_path, ["VoxLingua107"], size="test", workers=1)
    assert digests(tmp_path / "VoxLingua107") == digests(tree / "VoxLingua107")


def test_other_parameters_are_refused(tree: Path) -> None:
    before = digests(tree)
    with pytest.raises(BenchmarkError, match="seed"):
        synthesise(tree, ["VoxCeleb1"], size="test", seed=1)
    with pytest.raises(BenchmarkError, match=r"another size or seed .*vox_dev"):
        synthesise(tree, ["VoxCeleb1"], size="demo")
    assert digests(tree) == before


def test_adds_to_a_tree_of_an_earlier_version(tree: Path, tmp_path: Path) -> None:
    """Made before there were ``libri_more`` and ``iden_split.txt``; the marker then named all fields of the size."""
    size = SIZES["test"]
    early = {key: value for key, value in vars(size).items() if key.startswith(("vox_", "libri", "lang_"))}
    early = early | {"lang_dev": 99}  # another corpus's business
    del early["libri_more"]
    synthesise(tmp_path, ["LibriSpeech"], size="test", workers=1)
    root = tmp_path / "LibriSpeech"
    kept = {name: digest for name, digest in digests(root).items() if "-clean" in name and name.endswith(".flac")}
    for path in root.glob("dev-other/**/*.flac"):
        path.unlink()
    full = (root / "SPEAKERS.TXT").read_text()
    (root / "SPEAKERS.TXT").write_text("".join(line for line in full.splitlines(True) if "dev-other" not in line))
    marker = {"version": writing.VERSION, "corpus": "LibriSpeech", "seed": 0, "size": early}
    (root / MARKER).write_text(json.dumps(marker))
    synthesise(tmp_path, ["LibriSpeech"], size="test", workers=1)
    assert kept.items() <= digests(root).items()
    assert digests(root) == digests(tree / "LibriSpeech")

    marker["size"] = early | {"libri_words": [1, 2]}
    (root / MARKER).write_text(json.dumps(marker))
    with pytest.raises(BenchmarkError, match="libri_words"):
        synthesise(tmp_path, ["LibriSpeech"], size="test", workers=1)


def test_a_real_corpus_is_never_added_to(tmp_path: Path) -> None:
    precious = tmp_path / "VoxCeleb1" / "dev" / "wav" / "id10001" / "1zcIwhmdeo4" / "00001.wav"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    with pytest.raises(BenchmarkError, match="not empty"):
        synthesise(tmp_path, ["VoxCeleb1"], size="test")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [precious]


@pytest.mark.parametrize(("arguments", "match"), [({"size": "huge"}, "huge"), ({"corpora": ["TIMIT"]}, "TIMIT")])
def test_unknown_names(tmp_path: Path, arguments: dict[str, object], match: str) -> None:
    with pytest.raises(BenchmarkError, match=match):
        synthesise(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_without_espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_espeak", None)
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(BenchmarkError, match=r"pip install -e '\.\[demo\]'"):
        synthesise(tmp_path, ["VoxLingua107"], size="test", workers=1)


def test_pretraining_set(tmp_path: Path) -> None:
    synthesise_pretraining(tmp_path, hours=0.05, workers=2)
    paths: dict[str, list[str]] = {}
    for part in ("train", "valid"):
        root, *lines = (tmp_path / f"{part}.tsv").read_text().splitlines()
        assert Path(root) == tmp_path.resolve()
        paths[part] = [line.split("\t")[0] for line in lines]
        for line in lines:
            path, samples = line.split("\t")
            assert soundfile.info(tmp_path / path).frames == int(samples)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.wav")} == {*paths["train"], *paths["valid"]}
    speakers = {part: {path.split("/")[1] for path in paths[part]} for part in paths}
    assert speakers["train"]
    assert speakers["valid"]
    assert not speakers["train"] & speakers["valid"]


def test_pretraining_shares_no_speaker_and_no_words(tmp_path: Path) -> None:
    size = replace(SIZES["demo"], lang_languages=("en", *WORDS))
    extra, _ = pretraining.plan(tmp_path, 2.0, 0)
    demo = [clip for layout in LAYOUTS.values() for clip in layout.plan(size, 0)[0]]
    assert not {clip.speaker for clip in extra} & {clip.speaker for clip in demo}
    assert not {clip.session for clip in extra} & {clip.session for clip in demo}
    assert not {clip.text for clip in extra} & {clip.text for clip in demo}
    for words in (*ENGLISH.values(), *WORDS.values()):
        content = set(words.split())
        assert len(content) == len(words.split()), "a word that comes twice is in both halves"
    for language in WORDS:
        spoken = [
            {word.strip(",") for clip in clips if clip.language == language for word in clip.text.split()}
            for clips in (extra, demo)
        ]
        assert all(spoken), language
        assert not spoken[0] & spoken[1], language


def test_speakers_are_many_voices() -> None:
    voices = [draw_speaker("test", k) for k in range(200)]
    assert len(set(voices)) == 200
    assert {voice.sex for voice in voices} == {"m", "f"}
    assert {voice.accent for voice in voices} == set(ACCENTS)
    assert not any("breath" in voice.definition for voice in voices), "espeak-ng's breath is not deterministic"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--size", "test", "--corpus", "VoxLingua107", "--workers", "1"]) == 0
    assert json.loads((tmp_path / "VoxLingua107" / MARKER).read_text())["seed"] == 0
    assert main([str(tmp_path), "--size", "demo", "--corpus", "VoxLingua107"]) == 1
    assert "another size or seed" in capsys.readouterr().err
