"""Kaldi directories, lhotse manifests and Hugging Face datasets, the latter two written by lhotse and datasets."""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from benchmark.data import audio
from benchmark.data.importers import IMPORTERS
from benchmark.data.importers.kaldi import _plain_file
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Trial, Utterance

RATE = 16000
kaldi, lhotse, datasets = IMPORTERS.values()


def tone(path: Path, seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return str(path)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text, encoding="utf-8")
    return folder


def refusal(importer: Callable[..., Any], source: Path, output: Path = Path("nowhere"), **more: Any) -> str:
    with pytest.raises(BenchmarkError) as caught:
        importer(source, output, **more)
    return str(caught.value)


def test_every_importer_takes_source_and_output(tmp_path: Path) -> None:
    assert list(IMPORTERS) == ["kaldi", "lhotse", "datasets"]
    for importer in IMPORTERS.values():
        assert str(tmp_path / "x") in refusal(importer, tmp_path / "x", tmp_path / "out")
        assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------- Kaldi


@pytest.fixture
def egs(tmp_path: Path) -> Path:
    """``data/train`` with segments and relative paths, ``data/test`` without."""
    tone(tmp_path / "wav" / "rec1.wav", 3.0)
    tone(tmp_path / "wav" / "rec2.flac", 2.0)
    for name in ("t1", "t2"):
        tone(tmp_path / "wav" / f"{name}.wav")
    write(
        tmp_path / "data" / "train",
        wav_scp="rec1 wav/rec1.wav\nrec2 flac -c -d -s wav/rec2.flac |\n",
        segments="ann-2 rec2 0.50 1.25\nann-1 rec1 0.0 3.2\nben-1 rec1 1.5 -1\n",
        text="ann-1 good  morning\nann-2 \u3000höre\u00a0zu\nben-1\n",
        utt2spk="ann-1 ann\nann-2 ann\nben-1 ben\n",
        spk2gender="ann f\nben m\n",
        spk2utt="ann ann-1 ann-2\nben ben-1\n",
        utt2lang="ann-1 en\nann-2 de\nben-1 en\n",
        reco2dur="rec1 3.0\nrec2 2.0\n",
    )
    write(
        tmp_path / "data" / "test",
        wav_scp=f"t1 {tmp_path}/wav/t1.wav\nt2\t{tmp_path}/wav/t2.wav\n",
        utt2spk="t1 cat\nt2 cat\n",
        trials="t1 t2 target\nt2 t1 nontarget\n",
    )
    write(tmp_path / "data" / "lang", words="a 1\n")
    return tmp_path


def test_kaldi(egs: Path) -> None:
    corpus = kaldi(egs / "data", egs / "out")
    assert list(corpus.splits) == ["test", "train"]
    rec1, rec2 = f"{egs}/wav/rec1.wav", f"{egs}/wav/rec2.flac"
    assert corpus.splits["train"] == [
        Utterance("ann-2", rec2, 0.5, 0.75, "höre\u00a0zu", "ann", "de", "rec2", "train", "f"),
        Utterance(
            "ann-1", rec1, 0.0, None, "good  morning", "ann", "en", "rec1", "train", "f"
        ),  # cut at the file's end
        Utterance("ben-1", rec1, 1.5, None, "", "ben", "en", "rec1", "train", "m"),
    ]
    assert corpus.splits["test"] == [
        Utterance("t1", f"{egs}/wav/t1.wav", speaker="cat", split="test"),
        Utterance("t2", f"{egs}/wav/t2.wav", speaker="cat", split="test"),
    ]
    assert corpus.trials == {"test_trials": [Trial(1, "t1", "t2"), Trial(0, "t2", "t1")]}
    seconds = audio.durations(corpus.splits["train"])
    assert seconds.tolist() == pytest.approx([0.75, 3.0, 1.5])
    assert not (egs / "out").exists()
    alone = kaldi(egs / "data" / "test", egs / "out")
    assert alone.splits == {"test": corpus.splits["test"]}
    assert list(alone.trials) == ["trials"]


def test_kaldi_speakers_that_are_not_known(egs: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(egs / "data" / "test", utt2spk="t1 t1\nt2 t2\n", trials="model1 t2 target\n")
    corpus = kaldi(egs / "data" / "test", egs)
    assert {u.speaker for u in corpus.splits["test"]} == {None}
    assert corpus.trials == {}
    assert "utt2spk gives each utterance a speaker of its own" in caplog.text
    assert "trials is not imported: 1 of its names are not utterances" in caplog.text


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("/a/b.wav", "/a/b.wav"),
        ("/a/with space.wav", "/a/with space.wav"),
        ("flac -c -d -s /a/b.flac |", "/a/b.flac"),
        ("/usr/bin/flac -cds '/a/b c.flac' |", "/a/b c.flac"),
        ("cat /a/b.wav|", "/a/b.wav"),
        ("sph2pipe -f wav -p /a/b.sph |", "/a/b.sph"),
        ("sox /a/b.flac -t wav - |", "/a/b.flac"),
        ("sox -t mp3 /a/b -t wav -r 16k -b 16 -e signed -c 1 - |", "/a/b"),
        ("ffmpeg -v 8 -i /a/b.mp3 -f wav -ar 16000 -ac 1 -|", "/a/b.mp3"),
        ("ffmpeg -nostdin -i /a/b.ogg -acodec pcm_s16le -f wav pipe:1 |", "/a/b.ogg"),
        # what an utterance cannot say
        ("/a/raw.ark:1234", None),
        ("sph2pipe -f wav -p -c 2 /a/b.sph |", None),
        ("sox /a/b.wav -t wav -r 8k - |", None),
        ("sox /a/b.wav -t wav - remix 1 |", None),
        ("sox -v 0.5 /a/b.wav -t wav - |", None),
        ("sox /a/b.wav /a/c.wav -t wav - |", None),
        ("sox /a/b.wav -c 2 -t wav - |", None),
        ("sox - -t wav - |", None),
        ("ffmpeg -ss 10 -i /a/b.mp3 -f wav - |", None),
        ("ffmpeg -i /a/b.mp3 -ar 8000 -f wav - |", None),
        ("cat /a/b.flac | flac -dc - |", None),
        ("wav-reverberate --shift-output=true /a/b.wav - |", None),
        ("sox `ls /a` -t wav - |", None),
        ("sox 'a -t wav - |", None),
        ("", None),
    ],
)  # fmt: skip
def test_which_entries_are_plain_files(entry: str, path: str | None) -> None:
    found, reason = _plain_file(entry)
    assert found == path
    assert bool(reason) == (path is None)


def test_kaldi_archives_and_pipes_are_listed_with_the_way_out(egs: Path) -> None:
    (egs / "wav" / "shorten.sph").write_bytes(b"NIST_1A")
    write(
        egs / "data" / "test",
        wav_scp="t1 raw.ark:17\nt2 sox wav/t2.wav -t wav - speed 1.1 |\nt3 sph2pipe -f wav wav/shorten.sph |\n",
    )
    message = refusal(kaldi, egs / "data" / "test")
    for part in (
        f"Kaldi data directory {egs}/data/test: 3 problems",
        "wav.scp:1: 'raw.ark:17' lies within an archive",
        "wav.scp:2: 'sox wav/t2.wav -t wav - speed 1.1 |' does more than decode one file",
        "wav.scp:3: 'sph2pipe -f wav wav/shorten.sph |' decodes a file that libsndfile cannot read",
        f"wav-copy scp:{egs}/data/test/wav.scp scp:{egs}/data/test/plain.scp && mv",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"wav_scp": "t1 gone/t1.wav\n"}, ["1 relative paths that do not exist: gone/t1.wav", "Looked in", "recipe"]),
        ({"wav_scp": "t1 wav/t1.wav\nt1 wav/t2.wav\n"}, ["wav.scp:2: 't1' is duplicated"]),
        ({"wav_scp": "t1\n"}, ["wav.scp:1: '' names no file"]),
        ({"utt2spk": "t1 cat\n"}, ["utt2spk lacks 1 utterances: t2", "fix_data_dir.sh"]),
        ({"text": "t1 a\nt2 b\nt9 c\n"}, ["text has, but there is no audio of 1 utterances: t9"]),
        ({"utt2lang": "t1 de\nt2\n"}, ["utt2lang has no label for 1 utterances: t2"]),
        ({"trials": "1 t1 t2\n"}, ["trials:1: expected '<enrolment> <test> <target or nontarget>', got '1 t1 t2'"]),
        (
            {"segments": "a t1 0 1\nb t9 0 1\nc t1 0\na t1 0 .5\n"},
            ["segments:2: wav.scp has no recording 't9'", ":3: expected '<utterance>", ":4: 'a' is duplicated"],
        ),
        (
            {
                "segments": "a t1 0 1.6\nb t1 2 -1\nc t1 .7 .7\nd t1 -1 .7\ne t1 0 nan\nf t1 x 1\ng t1 0 1.4\n",
                "utt2spk": "g s\n",
            },
            ["6 problems", ":1: segment 'a' spans 0–1.6 s of a recording that is", *[f":{n}:" for n in range(2, 7)]],
        ),
        ({"segments": "a t1 0 1\n", "wav_scp": "t1 /gone.wav\n"}, ["1 problem", "/gone.wav does not exist"]),
        ({"segments": "a st 0 1 1\n", "wav_scp": "st wav/st.wav\n"}, ["'a' is channel 1 of 2; an utterance has no"]),
    ],
)  # fmt: skip
def test_kaldi_problems_are_named(egs: Path, files: dict[str, str], parts: list[str]) -> None:
    tone(egs / "wav" / "st.wav", channels=2)
    message = refusal(kaldi, write(egs / "data" / "test", **files))
    for part in parts:
        assert part in message


def test_kaldi_labels(egs: Path) -> None:
    write(egs / "data" / "test", utt2emotion="t1 joy\nt2 rather calm\n", utt2dur="t1 1.0\nt2 1.0\n")
    found = kaldi(egs / "data" / "test", egs, labels=["emotion"]).splits["test"]
    assert [u.labels for u in found] == [{"emotion": "joy"}, {"emotion": "rather calm"}]
    assert {u.label("speaker") for u in found} == {"cat"}
    assert [u.labels for u in kaldi(egs / "data" / "test", egs).splits["test"]] == [{}, {}]
    message = refusal(kaldi, egs / "data", labels=["intent"])
    assert f"{egs}/data/test/utt2intent, which label 'intent' is read from, does not exist" in message
    write(egs / "data" / "test", utt2emotion="t1 joy\n")
    assert "utt2emotion lacks 1 utterances: t2" in refusal(kaldi, egs / "data" / "test", labels=["emotion"])


def test_kaldi_recordings_that_end_early(egs: Path) -> None:
    path = egs / "wav" / "rec1.wav"
    path.write_bytes(path.read_bytes()[:9000])
    message = refusal(kaldi, egs / "data" / "train")
    assert f"{path} ends early: its header promises 96,044 bytes, it has 9,000" in message


def test_kaldi_not_found(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    message = refusal(kaldi, tmp_path)
    assert f"looked for {tmp_path}/wav.scp and {tmp_path}/<split>/wav.scp. In {tmp_path} there is: exp" in message


# ---------------------------------------------------------------------------------------------------------- lhotse


def segment(id_: str, recording: str, start: float, duration: float, **more: Any) -> SupervisionSegment:
    return SupervisionSegment(id=id_, recording_id=recording, start=start, duration=duration, **more)


@pytest.fixture
def recordings(tmp_path: Path) -> RecordingSet:
    """``one`` mono 3 s, ``two`` mono 44.1 kHz, ``stereo``."""
    paths = [tone(tmp_path / "one.wav", 3.0), tone(tmp_path / "two.flac", 100001 / 44100, rate=44100)]
    paths.append(tone(tmp_path / "stereo.wav", 2.0, channels=2))
    return RecordingSet.from_recordings(Recording.from_file(path) for path in paths)


@pytest.fixture
def supervisions() -> SupervisionSet:
    return SupervisionSet.from_segments(
        [
            segment("s1", "one", 0.1, 0.2, text="höre zu", speaker="ann", language="de", gender="female"),
            segment("s2", "one", 1.5, 1.5, text="", speaker="ben", gender="M"),
            segment("s3", "two", 0.0, 2.2676, speaker="ann"),
        ]
    )


EXPECTED = {
    "s1": (0.1, 0.2, "höre zu", "ann", "de", "one", "f"),
    "s2": (1.5, None, "", "ben", None, "one", "m"),
    "s3": (0.0, None, None, "ann", None, "two", None),
}


def check(found: list[Utterance], folder: Path, split: str) -> None:
    assert [u.id for u in found] == list(EXPECTED)
    for u in found:
        assert (u.start, u.duration, u.text, u.speaker, u.language, u.session, u.gender) == EXPECTED[u.id]
        assert u.path == str(folder / {"one": "one.wav", "two": "two.flac"}[str(u.session)])
        assert u.split == split
    assert audio.durations(found).tolist() == pytest.approx([0.2, 1.5, 100001 / 44100])


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "x_cuts_all.jsonl.gz"])
@pytest.mark.parametrize("trimmed", [False, True])
def test_lhotse_cuts(
    tmp_path: Path, recordings: RecordingSet, supervisions: SupervisionSet, name: str, trimmed: bool
) -> None:
    cuts = CutSet.from_manifests(recordings.filter(lambda r: r.id != "stereo"), supervisions)
    if trimmed:
        cuts = cuts.trim_to_supervisions(keep_overlapping=False).resample(16000)
    cuts.to_file(tmp_path / name)
    corpus = lhotse(tmp_path / name, tmp_path / "out")
    assert list(corpus.splits) == ["all"]
    check(corpus.splits["all"], tmp_path, "all")
    cuts.to_file(tmp_path / "libri_cuts_dev-clean.jsonl.gz")
    (tmp_path / "features.jsonl").write_text('{"type": "fbank", "num_frames": 3}\n')
    if name == "cuts.jsonl":
        assert list(lhotse(tmp_path, tmp_path).splits) == ["all", "dev-clean"]


def test_lhotse_recordings_with_supervisions(
    tmp_path: Path, recordings: RecordingSet, supervisions: SupervisionSet
) -> None:
    stereo = segment("s4", "stereo", 0.5, 1.0, channel=[0, 1])
    for split in ("train", "dev"):
        recordings.to_file(tmp_path / f"x_recordings_{split}.jsonl.gz")
        SupervisionSet.from_segments([*supervisions, stereo]).to_file(tmp_path / f"x_supervisions_{split}.jsonl.gz")
    corpus = lhotse(tmp_path, tmp_path)
    assert list(corpus.splits) == ["dev", "train"]
    found = corpus.splits["train"]
    check(found[:3], tmp_path, "train")
    assert (found[3].id, found[3].path) == (
        "s4",
        str(tmp_path / "stereo.wav"),
    )  # both channels: the file as it is loaded
    SupervisionSet.from_segments([segment("s9", "gone", 0, 1)]).to_file(tmp_path / "x_supervisions_dev.jsonl.gz")
    assert "1 recordings are not in" in refusal(lhotse, tmp_path)


@pytest.mark.parametrize(
    ("declared", "expected"), [(2.0, 2.0), (2.9995, None), (3.0, None), (3.0005, None), (3.02, 3.02)]
)
def test_lhotse_recordings_that_are_declared_shorter_or_longer(
    tmp_path: Path, declared: float, expected: float | None
) -> None:
    recording = Recording.from_file(tone(tmp_path / "one.wav", 3.0))
    recording.duration, recording.num_samples = declared, round(declared * recording.sampling_rate)
    CutSet.from_manifests(RecordingSet.from_recordings([recording])).to_file(tmp_path / "cuts.jsonl")
    found = lhotse(tmp_path / "cuts.jsonl", tmp_path).splits["all"]
    assert [(u.start, u.duration) for u in found] == [(0.0, expected)]
    assert audio.durations(found).tolist() == [2.0 if declared == 2.0 else 3.0]


def test_lhotse_labels(tmp_path: Path, recordings: RecordingSet) -> None:
    segments = [segment("s1", "one", 0, 1, custom={"emotion": "joy", "snr": 3.5}), segment("s2", "two", 0, 1)]
    CutSet.from_manifests(
        recordings.filter(lambda r: r.id != "stereo"), SupervisionSet.from_segments(segments)
    ).to_file(tmp_path / "cuts.jsonl")
    found = lhotse(tmp_path / "cuts.jsonl", tmp_path, labels=["emotion", "intent"]).splits["all"]
    assert [u.labels for u in found] == [{"emotion": "joy"}, {}]
    assert [u.labels for u in lhotse(tmp_path / "cuts.jsonl", tmp_path).splits["all"]] == [{}, {}]
    message = refusal(lhotse, tmp_path / "cuts.jsonl", labels=["snr"])
    assert "cuts.jsonl:1: cut 'one-0' has the label snr=3.5; expected a string" in message


def test_lhotse_cuts_without_supervisions(
    tmp_path: Path, recordings: RecordingSet, supervisions: SupervisionSet, caplog: pytest.LogCaptureFixture
) -> None:
    mono = recordings.filter(lambda r: r.id != "stereo")
    windows = CutSet.from_manifests(mono).cut_into_windows(1.0)
    windows.to_file(tmp_path / "cuts.jsonl")
    found = lhotse(tmp_path / "cuts.jsonl", tmp_path).splits["all"]
    assert [(u.session, u.start, u.duration) for u in found[:4]] == [
        ("one", 0.0, 1.0), ("one", 1.0, 1.0), ("one", 2.0, None), ("two", 0.0, 1.0)
    ]  # fmt: skip
    assert audio.durations(found).sum() == pytest.approx(3 + 100001 / 44100, abs=1e-3)
    only_one = SupervisionSet.from_segments(list(supervisions)[:2])
    CutSet.from_manifests(mono, only_one).to_file(tmp_path / "cuts.jsonl")
    assert [u.id for u in lhotse(tmp_path / "cuts.jsonl", tmp_path).splits["all"]] == ["s1", "s2"]
    assert "1 cuts have no supervision and are left out: two" in caplog.text


def test_lhotse_files_of_one_channel_each(tmp_path: Path) -> None:
    """A recording of several files: an utterance lies in one of them."""
    left, right = (Recording.from_file(tone(tmp_path / name)) for name in ("left.wav", "right.wav"))
    source = right.sources[0]
    source.channels = [1]
    left.sources.append(source)
    left.channel_ids = [0, 1]
    cuts = [MonoCut(f"c{c}", 0, 1, c, [segment(f"s{c}", "left", 0, 1, channel=c)], recording=left) for c in (0, 1)]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    found = lhotse(tmp_path / "cuts.jsonl", tmp_path).splits["all"]
    assert [u.path for u in found] == [str(tmp_path / "left.wav"), str(tmp_path / "right.wav")]


def test_lhotse_relative_paths(
    tmp_path: Path, recordings: RecordingSet, supervisions: SupervisionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    relative = RecordingSet.from_recordings(Recording.from_file(name) for name in ("one.wav", "two.flac"))
    CutSet.from_manifests(relative, supervisions).to_file("data/manifests/cuts.jsonl")
    monkeypatch.chdir("/")
    check(lhotse(tmp_path / "data" / "manifests", tmp_path).splits["all"], tmp_path, "all")
    shutil.move(tmp_path / "one.wav", tmp_path / "uno.wav")
    assert "has the relative path one.wav, which is neither in" in refusal(lhotse, tmp_path / "data" / "manifests")


def stereo_cut(recordings: RecordingSet) -> MonoCut:
    return MonoCut("c", 0, 2, 1, [segment("s", "stereo", 0, 1, channel=1)], recording=recordings["stereo"])


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda cut, _: cut.perturb_speed(1.1), ["changed on the fly (Speed)", "save_audios"]),
        (lambda cut, _: cut.perturb_volume(2.0), ["changed on the fly (Volume)"]),
        (lambda cut, _: cut.pad(5.0), ["is a MixedCut", "save_audios"]),
        (
            lambda cut, _: cut.truncate(offset=0.2, duration=0.7),
            ["contains only a part of supervision 's1' (-0.10–0.10 s of a cut of 0.70 s)", "trim_to_supervisions"],
        ),
        (lambda _, recordings: stereo_cut(recordings), ["is channel 1 of the 2 channels of", "has no channel"]),
    ],
)  # fmt: skip
def test_lhotse_cuts_that_are_no_utterances(
    tmp_path: Path,
    recordings: RecordingSet,
    supervisions: SupervisionSet,
    change: Callable[[Any, RecordingSet], Any],
    parts: list[str],
) -> None:
    cut = CutSet.from_manifests(recordings.filter(lambda r: r.id == "one"), supervisions)[0]
    CutSet.from_cuts([change(cut, recordings)]).to_file(tmp_path / "cuts.jsonl")
    message = refusal(lhotse, tmp_path / "cuts.jsonl")
    for part in ["1 problem", "cuts.jsonl:1: cut '", *parts]:
        assert part in message


def change_cut(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda cut: cut.update(changes)


def set_source(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda cut: cut["recording"]["sources"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda cut: cut.pop("recording"), "has no recording"),
        (set_source(type="command", source="sox x |"), "has audio of type 'command', not a file"),
        (set_source(type="url"), "has audio of type 'url'"),
        (change_cut(channel=3), "has channels [3], but its recording has no file with them"),
        (
            lambda cut: cut.pop("start"),
            "not as lhotse writes it (TypeError: MonoCut.__init__() missing 1 required positional argument: 'start')",
        ),
        (change_cut(recording=3), "not as lhotse writes it (AttributeError"),
        (change_cut(start="1"), "not as lhotse writes it (TypeError"),
        (change_cut(type="SupervisionSegment"), "not as lhotse writes it (ValueError"),
        (lambda cut: cut.pop("type"), "not as lhotse writes it (TypeError"),
    ],
)
def test_lhotse_cuts_that_are_malformed(
    tmp_path: Path,
    recordings: RecordingSet,
    supervisions: SupervisionSet,
    change: Callable[[dict[str, Any]], None],
    part: str,
) -> None:
    path = tmp_path / "cuts.jsonl"
    CutSet.from_manifests(recordings.filter(lambda r: r.id == "one"), supervisions).to_file(path)
    cut = json.loads(path.read_text())
    good = json.dumps(cut)
    change(cut)
    path.write_text(f"{good}\n{json.dumps(cut)}\n{{\n[1]\n{good}\n")
    message = refusal(lhotse, path)
    for text in (
        "5 problems",
        f"{path}:2: ",
        part,
        f"{path}:3: not as lhotse writes it (JSONDecodeError: Expecting property name",
        f"{path}:4: not as lhotse writes it (TypeError: ",
        f"{path}:5: 's1' is already at",
    ):
        assert text in message  # fmt: skip


def test_lhotse_files_that_are_damaged_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"type": "MixedCut", "id": "x" * 5000}).encode() + b"\n" * 100000)[:-40])
    assert "not a whole gzip file" in refusal(lhotse, path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "other.jsonl").write_text('{"type": "fbank"}\n')
    message = refusal(lhotse, tmp_path / "empty")
    assert f"looked for {tmp_path}/empty/*cuts*.jsonl(.gz), as written by" in message
    assert "pairs of *recordings*.jsonl(.gz) and *supervisions*.jsonl(.gz)" in message
    assert f"In {tmp_path}/empty there is: other.jsonl" in message
    assert "there is: nothing" in refusal(lhotse, write(tmp_path / "nothing"))
    message = refusal(lhotse, tmp_path / "empty" / "other.jsonl")
    assert "other.jsonl:1: not as lhotse writes it (ValueError: Unexpected cut type" in message
    cut = MonoCut("c", 0, 1, 0, recording=Recording.from_file(tone(tmp_path / "a.wav")))
    for name in ("train_cuts.jsonl", "cuts_train.jsonl"):
        CutSet.from_cuts([cut]).to_file(tmp_path / "empty" / name)
    assert "hold the split 'train'" in refusal(lhotse, tmp_path / "empty")


# -------------------------------------------------------------------------------------------- Hugging Face datasets


def encoded(kind: str, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(1).normal(0, 0.1, round(seconds * RATE)), RATE, format=kind)
    return file.getvalue()


def dataset(audios: list[Any], **columns: Any) -> hf.Dataset:
    """With an ``Audio`` column, made without decoding (which would need torchcodec)."""
    kinds = {name: column[1] for name, column in columns.items() if isinstance(column, tuple)}
    values = {name: column[0] if isinstance(column, tuple) else column for name, column in columns.items()}
    made = hf.Dataset.from_dict({"audio": audios, **values})
    for name, kind in {"audio": hf.Audio(RATE), **kinds}.items():
        made = made.cast_column(name, kind)
    return made


def test_datasets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tone(tmp_path / "apart.wav", 2.0)
    blobs = {kind: encoded(kind) for kind in ("WAV", "FLAC", "OGG", "MP3")}
    audios = [{"bytes": data, "path": f"x.{kind}"} for kind, data in blobs.items()] + [{"bytes": None, "path": path}]
    train = dataset(
        audios,
        sentence=["a", "b", None, 'd "quoted"', ""],
        speaker_id=[1, 2, 2, None, 5],
        lang_id=([0, 1, 1, -1, None], hf.ClassLabel(names=["de", "fr"])),
        gender=["male", "FEMALE", "other", None, "f"],
        id=[7, 7, 8, 9, 10],
        up_votes=[1, 2, 3, 4, 5],
    )
    hf.DatasetDict(train=train, test=train.select([4])).save_to_disk(tmp_path / "saved")
    corpus = datasets(tmp_path / "saved", tmp_path / "out")
    assert list(corpus.splits) == ["train", "test"]
    found = corpus.splits["train"]
    assert [u.id for u in found] == [f"train-00000{n}" for n in range(5)]  # 7 occurs twice
    assert [u.text for u in found] == ["a", "b", None, 'd "quoted"', ""]
    assert [u.speaker for u in found] == ["1", "2", "2", None, "5"]
    assert [u.language for u in found] == ["de", "fr", "fr", None, None]
    assert [u.gender for u in found] == ["m", "f", None, None, "f"]
    folder = tmp_path / "out" / "audio" / "train"
    assert [u.path for u in found] == [
        str(folder / name) for name in ("000000.wav", "000001.flac", "000002.ogg", "000003.mp3", "000004.wav")
    ]  # fmt: skip
    assert [Path(u.path).read_bytes() for u in found] == [*blobs.values(), Path(path).read_bytes()]  # unchanged
    assert audio.durations(found) == pytest.approx([1, 1, 1, 1, 2])
    other = str(tmp_path / "out" / "audio" / "test" / "000000.wav")
    assert corpus.splits["test"] == [Utterance("test-000000", other, text="", speaker="5", split="test", gender="f")]
    assert "split 'train': path = 'audio', id = 'id', text = 'sentence', speaker = 'speaker_id', language = 'lang_id', gender = 'gender'; not used: up_votes" in caplog.text  # fmt: skip  # noqa: E501
    assert "the values of column 'id' are not unique" in caplog.text


def test_datasets_other_columns(tmp_path: Path) -> None:
    one = dataset(
        [{"bytes": encoded("WAV"), "path": None}] * 2, text=["a", "b"], plain=["c", "d"], key=["x", "y"], who=["p", "q"]
    )
    one.save_to_disk(tmp_path / "saved")
    found = datasets(tmp_path / "saved", tmp_path, columns={"text": "plain", "id": "key", "speaker": "who"}).splits[
        "saved"
    ]
    assert [(u.id, u.text, u.speaker) for u in found] == [("x", "c", "p"), ("y", "d", "q")]
    for columns, part in (
        ({"text": "plein"}, "no column 'plein' (--column text=plein). Did you mean 'plain'?"),
        ({"txt": "plain"}, "--column txt=…: no such field (for a label, add --label txt). Did you mean 'text'?"),
        ({"id": "audio"}, ""),
    ):
        if part:
            assert part in refusal(datasets, tmp_path / "saved", tmp_path, columns=columns)
    twice = one.select([0, 0])
    twice.save_to_disk(tmp_path / "twice")
    assert "its values are not unique: x" in refusal(datasets, tmp_path / "twice", tmp_path, columns={"id": "key"})


def test_datasets_labels(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav")
    columns = {"file": [path] * 3, "emotion": ["joy", None, "calm"], "kw": [0, 1, -1], "age": [30, 31, 32]}
    made = hf.Dataset.from_dict(columns).cast_column("kw", hf.ClassLabel(names=["yes", "no"]))
    made.save_to_disk(tmp_path / "saved")
    names = ["emotion", "keyword", "age"]
    found = datasets(tmp_path / "saved", tmp_path, labels=names, columns={"keyword": "kw"}).splits["saved"]
    assert [u.labels for u in found] == [
        {"emotion": "joy", "keyword": "yes", "age": "30"},
        {"keyword": "no", "age": "31"},
        {"emotion": "calm", "age": "32"},
    ]
    assert [u.labels for u in datasets(tmp_path / "saved", tmp_path).splits["saved"]] == [{}] * 3
    message = refusal(datasets, tmp_path / "saved", tmp_path, labels=["emotoin"])
    assert "no column 'emotoin' (--column emotoin=emotoin). Did you mean 'emotion'?" in message


def test_datasets_of_paths(tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav")
    hf.Dataset.from_dict({"file": [path], "id": ["a"]}, split="validation").save_to_disk(tmp_path / "saved")
    found = datasets(tmp_path / "saved", tmp_path / "out").splits
    assert found == {"validation": [Utterance("a", path, split="validation")]}
    assert not list((tmp_path / "out").glob("*"))
    hf.Dataset.from_dict({"sound": [path]}).save_to_disk(tmp_path / "other")
    message = refusal(datasets, tmp_path / "other", tmp_path)
    assert "has no audio column; its columns are sound" in message
    assert datasets(tmp_path / "other", tmp_path, columns={"path": "sound"}).splits["other"][0].path == path


def test_datasets_with_audio_that_cannot_be_used(tmp_path: Path) -> None:
    audios = [{"bytes": b"junk", "path": "x.m4a"}, {"bytes": None, "path": "/gone.wav"}, None]
    hf.Dataset.from_dict({"audio": audios}).save_to_disk(tmp_path / "saved")  # as Audio, it would not save a lost file
    message = refusal(datasets, tmp_path / "saved", tmp_path / "out")
    for part in (
        "3 problems",
        "split 'saved', row 0: libsndfile cannot read its 4 bytes of audio (x.m4a): Format not recognised.",
        "split 'saved', row 1: the audio file /gone.wav does not exist",
        "split 'saved', row 2: no audio",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["datasets", "lhotse"])
def test_libraries_are_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    message = refusal(IMPORTERS[name], tmp_path, tmp_path)
    assert f"pip install 'wavbench[{name}]' (in a checkout: pip install -e '.[{name}]')" in message


def test_datasets_not_found(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "train.parquet").write_bytes(b"")
    message = refusal(datasets, tmp_path / "parquet", tmp_path)
    assert "there is: train.parquet" in message
    assert "load_dataset(NAME).save_to_disk(FOLDER)" in message
