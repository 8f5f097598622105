"""``wavbench prepare`` and ``wavbench validate``: what they write, what they print, what they find."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from support import REPOSITORY

from benchmark import registry
from benchmark.cli import main
from benchmark.data import audio, decode, examine, manifest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import LABEL_FIELDS, Corpus, Utterance
from downstream.corpora.voxceleb1 import prepare as prepare_voxceleb1
from downstream.sv.task import SpeakerVerification, SVConfig

RATE = 16000


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noise(seconds: float = 1.0, channels: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * RATE), channels)).astype(np.float32)


def wav(name: str, samples: np.ndarray[Any, Any] | None = None, rate: int = RATE, **more: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise() if samples is None else samples, rate, **more)
    return path


def kaldi_directory(folder: Path = Path("egs/s5/data/train")) -> Path:
    """Three segments of two files; audio beside."""
    paths = [wav("wav/rec1.wav", noise(3.0)).resolve(), wav("wav/rec2.wav", noise(2.0)).resolve()]
    folder.mkdir(parents=True)
    (folder / "wav.scp").write_text(f"rec1 {paths[0]}\nrec2 {paths[1]}\n")
    (folder / "segments").write_text("a-1 rec1 0 1\na-2 rec1 1 2.5\nb-1 rec2 0 2\n")
    (folder / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b\n")
    return folder


# --------------------------------------------------------------------------------------------------------- prepare


def test_prepare_a_corpus(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "voxceleb1", str(data_root)]) == 0
    folder = Path("manifests/voxceleb1")
    corpus = prepare_voxceleb1(data_root)
    expected_names = {f"{split}.jsonl" for split in corpus.splits} | {f"{name}.txt" for name in corpus.trials}
    assert {path.name for path in folder.iterdir()} == expected_names > {"veri_test2.txt"}
    for split, expected in corpus.splits.items():
        found = manifest.read(folder / f"{split}.jsonl")
        assert [u.duration for u in found] == audio.durations(expected).tolist()
        assert [replace(u, duration=None) for u in found] == expected
        assert audio.durations(found).tolist() == audio.durations(expected).tolist()
    ids = {u.id for u in corpus.splits["test"]}
    ids |= {u.id for u in corpus.splits["dev"]}
    for name, trials in corpus.trials.items():
        assert manifest.read_trials(folder / f"{name}.txt", ids) == trials
    said = capsys.readouterr().out
    assert re.search(r"^split +utterances +hours +speakers +languages +min s +5 % +median +95 % +max s$", said, re.M)
    seconds = audio.durations(corpus.splits["dev"])
    speakers = len({u.speaker for u in corpus.splits["dev"]})
    assert re.search(
        rf"^dev +{len(seconds)} +{seconds.sum() / 3600:.2f} +{speakers} +– +{seconds.min():.2f}", said, re.M
    )
    assert re.search(rf"{np.median(seconds):.2f} +{np.quantile(seconds, 0.95):.2f} +{seconds.max():.2f}$", said, re.M)
    assert f"audio: 16000 Hz, 1 channel: {sum(map(len, corpus.splits.values()))} utterances" in said


def test_prepare_overwrites_nothing_unasked(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/mine.jsonl").write_text("mine")
    arguments = ["prepare", "voxceleb1", str(data_root), "-o", "out"]
    assert main(arguments) == 1
    assert "out is not empty; --overwrite replaces files in it, -o DIR writes elsewhere" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["mine.jsonl"]
    assert main([*arguments, "--overwrite"]) == 0
    assert "not written now, but also in out: mine.jsonl" in capsys.readouterr().out
    assert Path("out/mine.jsonl").read_text() == "mine"


def test_prepare_kaldi(capsys: pytest.CaptureFixture[str]) -> None:
    folder = kaldi_directory()
    (folder / "trials").write_text("a-1 a-2 target\na-1 b-1 nontarget\n")
    assert main(["prepare", "kaldi", str(folder)]) == 0
    found = manifest.read("manifests/kaldi-train/train.jsonl")
    assert [(u.id, u.start, u.duration, u.speaker, u.session) for u in found] == [
        ("a-1", 0.0, 1.0, "a", "rec1"), ("a-2", 1.0, 1.5, "a", "rec1"), ("b-1", 0.0, 2.0, "b", "rec2")
    ]  # fmt: skip
    assert Path("manifests/kaldi-train/trials.txt").read_text() == "1 a-1 a-2\n0 a-1 b-1\n"
    assert re.search(r"^train +3 +0.00 +2 +– +1.00", capsys.readouterr().out, re.M)


def test_prepare_lhotse_and_datasets(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    recordings = RecordingSet.from_recordings([Recording.from_file(wav("wav/r.wav", noise(2.0)).resolve())])
    supervisions = SupervisionSet.from_segments([SupervisionSegment("s", "r", 0.5, 1.0, text="hallo", language="de")])
    CutSet.from_manifests(recordings, supervisions).to_file("cuts_dev.jsonl.gz")
    assert main(["prepare", "lhotse", "cuts_dev.jsonl.gz", "-o", "l"]) == 0
    path = str(Path("wav/r.wav").resolve())
    assert manifest.read("l/dev.jsonl") == [
        Utterance("s", path, 0.5, 1.0, text="hallo", language="de", session="r", split="dev")
    ]
    blob = {"bytes": Path(path).read_bytes(), "path": None}
    hf.Dataset.from_dict({"audio": [blob], "text": ["x"], "plain": ["y"]}).cast_column(
        "audio", hf.Audio()
    ).save_to_disk("s")
    assert main(["prepare", "datasets", "s", "-o", "d", "--column", "text=plain"]) == 0
    expected = Utterance("s-000000", str(Path("d/audio/s/000000.wav").resolve()), 0.0, 2.0, text="y", split="s")
    assert manifest.read("d/s.jsonl") == [expected]
    assert json.loads(Path("d/s.jsonl").read_text())["path"] == "audio/s/000000.wav"  # moves with its folder
    assert "text = 'plain'" in caplog.text
    assert "Traceback" not in capsys.readouterr().err


def test_prepare_writes_the_labels_that_are_asked_for(
    data_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kaldi_directory()
    (folder / "utt2emotion").write_text("a-1 joy\na-2 calm\nb-1 joy\n")
    assert main(["prepare", "kaldi", str(folder), "-o", "out", "--label", "emotion", "--label", "speaker"]) == 0
    found = manifest.read("out/train.jsonl", labels=["emotion"])
    assert [u.labels["emotion"] for u in found] == ["joy", "calm", "joy"]
    assert re.search(r"^train +3 +0.00 +2 +– +2 +1.00", capsys.readouterr().out, re.M)
    assert main(["prepare", "kaldi", str(folder), "-o", "plain"]) == 0
    assert manifest.read("plain/train.jsonl") == [replace(u, labels={}) for u in found]

    corpus = Corpus("moods", {"train": [replace(found[0], labels={"emotion": "joy", "intent": "ask"}), found[1]]})
    monkeypatch.setitem(registry.corpora._load(), "moods", registry.Entry("moods", lambda root: corpus))
    assert main(["prepare", "moods", ".", "-o", "moods", "--label", "intent"]) == 0
    assert [u.labels for u in manifest.read("moods/train.jsonl", labels=["intent"])] == [{"intent": "ask"}, {}]
    capsys.readouterr()
    assert main(["prepare", "moods", ".", "-o", "none", "--label", "emotoin"]) == 1
    said = capsys.readouterr().err
    assert "--label emotoin: no utterance has it. Did you mean 'emotion'? other labels: emotion, intent" in said
    assert not Path("none").exists()


def test_prepare_leaves_out_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    folder = kaldi_directory()
    (folder / "segments").unlink()
    (folder / "utt2spk").unlink()
    (folder / "trials").write_text("rec1 rec2 target\nrec1 rec1 nontarget\n")
    Path("wav/rec2.wav").write_bytes(b"no audio")
    assert main(["prepare", "kaldi", str(folder), "-o", "out"]) == 1
    said = capsys.readouterr().err
    for part in ("no manifest was written: 1 problem", "rec2.wav cannot be read as audio", "--leave-out-broken"):
        assert part in said
    assert not Path("out").exists()
    assert main(["prepare", "kaldi", str(folder), "-o", "out", "--leave-out-broken"]) == 0
    assert [u.id for u in manifest.read("out/train.jsonl")] == ["rec1"]
    assert Path("out/trials.txt").read_text() == "0 rec1 rec1\n"
    assert "rec2.wav cannot be read" in Path("out/left_out.txt").read_text()
    assert "left out: 1 of 2 utterances" in capsys.readouterr().out
    Path("wav/rec1.wav").write_bytes(b"")
    assert main(["prepare", "kaldi", str(folder), "-o", "none", "--leave-out-broken"]) == 1
    assert not Path("none").exists()


def test_prepare_says_that_splits_share_utterances(capsys: pytest.CaptureFixture[str]) -> None:
    kaldi_directory(Path("data/a"))
    shutil.copytree("data/a", "data/b")
    assert main(["prepare", "kaldi", "data"]) == 0
    assert (
        "note: not all splits may be used together; they share 3 utterances: 'a-1' is in a and in b"
        in capsys.readouterr().out
    )


def test_prepare_keeps_splits_with_equal_ids_apart(capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        Path("data", name).mkdir(parents=True)
        Path("data", name, "wav.scp").write_text(f"x {wav(f'{name}.wav', noise(seconds)).resolve()}\n")
    assert main(["prepare", "kaldi", "data", "-o", "out"]) == 0
    assert [manifest.read(f"out/{name}.jsonl")[0].duration for name in "ab"] == [1.0, 2.0]
    assert "'x' is in a and in b, for two files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["voxcleb1", "."], "unknown corpus 'voxcleb1'. Did you mean 'voxceleb1'"),
        (["kalid", "."], "Did you mean 'kaldi'?"),
        (["kaldi", ".", "--column", "text=x"], "--column is for datasets; 'kaldi' has no columns"),
        (["datasets", ".", "--column", "text"], "--column text: expected FIELD=NAME"),
        (["voxceleb1", "nowhere"], "VoxCeleb1 not found"),
        (["kaldi", "nowhere"], "nowhere does not exist"),
        (["datasets", "nowhere"], "nowhere does not exist"),
        (
            ["datasets", ".", "--column", "emotion=x"],
            "--column emotion=…: no such field (for a label, add --label emotion)",
        ),
        (
            ["kaldi", "kaldi", "--label", "emotion"],
            "kaldi/utt2emotion, which label 'emotion' is read from, does not exist",
        ),
        (["kaldi", ".", "--plugin", "gone.py"], "plug-in file not found"),
    ],
)
def test_prepare_errors(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    kaldi_directory(Path("kaldi"))
    assert main(["prepare", *arguments]) == 1
    assert part in capsys.readouterr().err
    assert not Path("manifests").exists()


@pytest.mark.parametrize("entry", registry.downstreams, ids=lambda entry: entry.name)
def test_prepare_takes_the_names_of_benchmarks(entry: registry.Entry, capsys: pytest.CaptureFixture[str]) -> None:
    """``prepare voxceleb1_sid`` prepares ``voxceleb1_identification``; benchmarks of own data have no corpus."""
    card = entry.load()()
    for name in (entry.name, *entry.aliases):
        Path("nowhere").mkdir(exist_ok=True)
        assert main(["prepare", name, "nowhere"]) == 1
        said = capsys.readouterr().err
        if card["corpus"] == manifest.OWN_DATA:
            assert f"'{name}' is a benchmark of own data" in said
        else:
            assert "not found: looked for the folder nowhere/" in said
    assert not Path("manifests").exists()


def test_prepare_writes_to_the_folder_of_the_corpus(data_root: Path) -> None:
    assert main(["prepare", "voxceleb1_sid", str(data_root)]) == 0
    assert [path.name for path in Path("manifests").iterdir()] == ["voxceleb1_identification"]


def test_a_trial_list_that_is_optional_may_be_broken(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "root" / "VoxCeleb1"
    shutil.copytree(data_root / "VoxCeleb1", folder)
    with open(folder / "veri_test.txt", "a") as file:
        file.write("1 id1/x/00001.wav id1/x/00002.wav\n")
    assert main(["prepare", "voxceleb1", str(tmp_path / "root"), "-o", "out"]) == 0
    assert "the trial list 'veri_test' is left out. trial list" in caplog.text
    assert "names 2 utterances" in caplog.text
    assert {path.name for path in Path("out").glob("veri*")} == {"veri_test2.txt"}
    corpus = prepare_voxceleb1(tmp_path / "root")
    options = SVConfig(dev_speakers=2)
    assert list(SpeakerVerification.split(options, corpus).sets) == ["dev", "test"]
    assert "veri_test (task.more_trials): not scored. trial list" in caplog.text
    with open(folder / "veri_test2.txt", "a") as file:  # this one is required
        file.write("1 id1/x/00001.wav id1/x/00002.wav\n")
    assert main(["prepare", "voxceleb1", str(tmp_path / "root"), "-o", "none"]) == 1
    assert not Path("none").exists()


def test_ids_with_spaces_go_through_prepare_and_validate(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("my data/a 1.wav", "my data/b 2.wav"):
        wav(name)
    path = rows("a.jsonl", {"path": "my data/a 1.wav"}, {"path": "my data/b 2.wav"})
    for line in (
        "1 my data/a 1.wav my data/b 2.wav",
        "1\tmy data/a 1.wav\tmy data/b 2.wav",
        "1 my%20data/a%201.wav my%20data/b%202.wav",
    ):
        Path("trials.txt").write_text(f"{line}\n")
        assert validate(capsys, path, "--trials", "trials.txt")[:2] == (0, [])


# -------------------------------------------------------------------------------------------------------- validate


def rows(name: str, *utterances: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(utterance) + "\n" for utterance in utterances))
    return name


def validate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    """Exit status, problems, summary."""
    capsys.readouterr()
    status = main(["validate", *arguments])
    problems, _, summary = capsys.readouterr().out.rpartition("\n\n")
    return status, problems.splitlines(), summary


def write_bad_audio() -> list[str]:
    """A file of each kind; their names."""
    x = noise()
    wav("ok.wav")
    wav("empty.wav", x[:0])
    wav("cut.wav")
    Path("cut.wav").write_bytes(Path("cut.wav").read_bytes()[:9000])
    wav("cut.flac", noise(20.0))
    Path("cut.flac").write_bytes(Path("cut.flac").read_bytes()[:300_000])
    Path("junk.wav").write_bytes(b"<html>")
    Path("zero_bytes.wav").write_bytes(b"")
    Path("folder.wav").mkdir()
    # what decoding finds
    wav("hole.flac", noise(20.0))
    content = Path("hole.flac").read_bytes()
    Path("hole.flac").write_bytes(content[:300_000] + bytes(100_000) + content[400_000:])
    wav("nan.wav", np.where(np.arange(RATE)[:, None] == 8000, np.nan, x), subtype="FLOAT")
    wav("silent.wav", x * 0)
    wav("opposite.wav", np.concatenate([x, -x], axis=1), subtype="FLOAT")  # channels that cancel each other
    wav("clipped.wav", np.clip(x * 30, -1, 1))
    wav("loud.wav", x * 30000, subtype="FLOAT")
    wav("full_scale_once.wav", np.where(np.arange(RATE)[:, None] < 100, 1.0, x))  # 0.6 %: a plosive
    return sorted([*(str(path) for path in Path().glob("*.wav")), "cut.flac", "hole.flac", "gone.wav"])


HEADERS = {
    "cut.flac": "ends early: its header promises 320,000 samples, its last frame ends at 176,128; fetch the file again",
    "cut.wav": "ends early: its header promises 32,044 bytes, it has 9,000",
    "empty.wav": "holds no audio (0 samples)",
    "folder.wav": "cannot be read as audio",
    "gone.wav": "does not exist",
    "junk.wav": "cannot be read as audio",
    "zero_bytes.wav": "cannot be read as audio",
}
DECODED = HEADERS | {
    "hole.flac": "cannot be decoded beyond 8.192 s (",
    "nan.wav": "has 1 samples that are NaN or infinite, first at 0.500 s",
    "silent.wav": "is silent: all samples are 0",
    "opposite.wav": "has channels that cancel each other",
    "clipped.wav": "of its samples at full scale (--max-clipped 1)",
    "loud.wav": "it was written without scaling",
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], HEADERS), (["--decode", "--workers", "1"], DECODED), (["--decode", "--workers", "2"], DECODED)],
)
def test_validate_lists_every_bad_file(
    options: list[str], expected: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_CHUNK", 2)
    names = write_bad_audio()
    name = rows("a.jsonl", *({"path": path} for path in names))
    status, problems, summary = validate(capsys, name, *options)
    assert status == 1
    assert len(problems) == len(expected)
    for problem, (path, text) in zip(problems, sorted(expected.items()), strict=True):
        line = names.index(path) + 1
        assert problem.startswith(f"a.jsonl:{line}: utterance {path}: {Path(path).resolve()} ")
        assert text in problem
    assert f"{len(expected)} problems: {len(names)} utterances, " in summary
    assert f"a.jsonl  {' ' * 8}{len(names) - len(HEADERS):2}" in summary  # those whose length is known


def test_validate_passes_good_data(capsys: pytest.CaptureFixture[str]) -> None:
    wav("wav/a.wav")
    wav("wav/b.flac", noise(2.0, channels=2), rate=8000)
    Path("a.csv").write_text("path,start,duration,speaker,language\nwav/a.wav,0.25,0.5,x,de\nwav/b.flac,,,y,de\n")
    Path("b.tsv").write_text("path\tid\tstart\twav/a.wav\tz\t0.75\n".replace("\twav", "\nwav"))
    for options in ([], ["--decode", "--workers", "1"]):
        status, problems, summary = validate(capsys, "a.csv", "b.tsv", *options)
        assert (status, problems) == (0, [])
        assert re.search(r"^a.csv +2 +0.00 +2 +1 +0.50 .* 4.00$", summary, re.M)
        assert "16000 Hz, 1 channel: 2 utterances; 8000 Hz, 2 channels: 1 utterances; channels are averaged" in summary
        assert "no problems found: 3 utterances, " in summary


def test_validate_goes_on_after_bad_rows_and_across_files(capsys: pytest.CaptureFixture[str]) -> None:
    wav("a.wav", noise(3.0))
    wav("b.wav")
    one = rows(
        "one.jsonl",
        {"id": "a", "path": "a.wav", "start": 0, "duration": 1},
        {"path": "a.wav", "spk": "x"},
        {"id": "b", "path": "b.wav", "duration": -1},
        {"id": "c", "path": "a.wav", "start": 0, "duration": 1},
        {"id": "d", "path": "a.wav", "start": 2.5, "duration": 1},
        {"id": "e", "path": "gone.wav"},
        {"id": "f", "path": "gone.wav", "start": 1},
    )
    two = rows("two.jsonl", {"id": "a", "path": "b.wav"}, {"id": "g", "path": "a.wav", "start": 0.5, "duration": 1})
    Path("trials.txt").write_text("1 a g\n0 a nobody\n")
    status, problems, _ = validate(capsys, one, two, "--trials", "trials.txt")
    assert status == 1
    expected = [
        "one.jsonl:2: unknown column 'spk'. Did you mean 'speaker'?",
        "one.jsonl:3: duration must be more than 0 seconds, found -1",
        "one.jsonl:4: utterance c: the same audio as line 1",
        "one.jsonl:5: utterance d: ",
        "one.jsonl:6: utterance e: ",
        "'a' is in one.jsonl and in two.jsonl, for two files",
        "'a.wav' of one.jsonl and 'g' of two.jsonl share audio",
        "trial list trials.txt names 1 utterances (of 3) that do not exist: nobody",
    ]
    assert len(problems) == len(expected)
    for problem, text in zip(problems, expected, strict=True):
        assert problem.startswith(text)
    assert "is 3.000 s long, but the utterance spans 2.500–3.500 s of it" in problems[3]
    assert problems[4].endswith("gone.wav does not exist (2 utterances of it)")
    status, problems, summary = validate(capsys, one, two, "--most", "2")
    assert problems == [expected[0] + problems[0].removeprefix(expected[0]), expected[1], "… and 5 more (--most 2)"]
    assert "7 problems" in summary


def test_validate_for_a_task(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Options:
        more: bool = True

    class Toy:
        Config = Options

        @classmethod
        def requires(cls, config: Options) -> tuple[str, ...]:
            return ("text", "speaker") if config.more else ()

    monkeypatch.setitem(registry.tasks._load(), "toy", registry.Entry("toy", Toy))
    for name in "abc":
        wav(f"{name}.wav")
    name = rows("a.jsonl", {"path": "a.wav", "text": "x"}, {"path": "b.wav", "text": ""}, {"path": "c.wav"})
    status, problems, summary = validate(capsys, name, "--task", "toy")
    assert "note: 1 utterance with an empty text, which only dev and test sets may have" in summary
    assert (status, problems) == (
        1,
        [
            "a.jsonl: no utterance has the label 'speaker' (task toy)",
            "a.jsonl:3: utterance c.wav: label 'text' is missing (task toy)",
        ],
    )
    assert validate(capsys, name)[0] == 0
    assert main(["validate", name, "--task", "tyo"]) == 1
    assert "unknown task 'tyo'. Did you mean 'toy'" in capsys.readouterr().err


def test_validate_labels(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        wav(f"{name}.wav")
    labelled = [
        {"path": f"{name}.wav", "emotion": value} for name, value in zip("abc", ("joy", "calm", "joy"), strict=True)
    ]
    name = rows("a.jsonl", *labelled)
    status, problems, _ = validate(capsys, name)
    assert (status, problems) == (0, [])
    assert "a.jsonl: columns that nothing asks for are ignored: emotion (as labels: --label NAME" in caplog.text
    for arguments in (("--label", "emotion"), ("--task", "classify", "--label", "emotion")):
        status, problems, summary = validate(capsys, name, *arguments)
        assert (status, problems) == (0, [])
        assert re.search(r"^split +utterances +hours +speakers +languages +emotion +min s", summary, re.M)
        assert re.search(r"^a.jsonl +3 +0.00 +– +– +2 +1.00", summary, re.M)
    name = rows("a.jsonl", labelled[0], {"path": "b.wav"}, labelled[2])
    for arguments, why in (
        (("--label", "emotion"), "--label emotion"),
        (("--task", "classify", "--label", "emotion"), "task classify"),
    ):
        assert validate(capsys, name, *arguments)[1] == [
            f"a.jsonl:2: utterance b.wav: label 'emotion' is missing ({why})"
        ]
    assert (
        validate(capsys, name, "--label", "emotion", "--label", "speaker")[1][0]
        == "a.jsonl: no utterance has the label 'speaker' (--label speaker)"
    )
    assert main(["validate", name, "--task", "classify"]) == 1
    assert "--label emotion" in capsys.readouterr().err


def test_tasks_say_what_they_require() -> None:
    for entry in registry.tasks:
        task = entry.load()
        config = task.Config()
        if hasattr(config, "label"):
            config = replace(config, label="emotion")
        assert set(task.requires(config)) <= {*LABEL_FIELDS, "emotion"}


def test_validate_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "gone.jsonl"]) == 1
    assert "manifest gone.jsonl not found" in capsys.readouterr().err
    Path("empty.csv").write_text("")
    assert validate(capsys, "empty.csv") == (1, ["empty.csv: contains no utterances"], "1 problem: 0 utterances, headers read, audio not decoded (--decode does)\n")  # fmt: skip  # noqa: E501
    with pytest.raises(SystemExit):
        main(["validate", "empty.csv", "--workers", "0"])


def test_examine_opens_a_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(wav("a.wav", noise(10.0)))
    opened: list[str] = []
    real = soundfile.SoundFile

    def counted(file: str, *more: Any) -> Any:
        opened.append(file)
        return real(file, *more)

    monkeypatch.setattr(soundfile, "SoundFile", counted)
    utterances = [Utterance(str(n), path, n / 10, 0.1) for n in range(100)]
    reports = examine.examine(utterances, decode=False, workers=2)
    assert opened == [path]
    assert [report.seconds for report in reports] == pytest.approx([0.1] * 100)


@pytest.mark.medium
def test_a_worker_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(wav("a.wav"))
    monkeypatch.setattr(decode, "_decode", _die)
    with pytest.raises(BenchmarkError, match="a worker process died while decoding"):
        examine.examine([Utterance("a", path)], decode=True, workers=2)


def _die(*_: object) -> None:
    import os

    os._exit(1)


# ------------------------------------------------------------------------------------------------- help and the docs


@pytest.mark.parametrize("command", ["prepare", "validate"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from benchmark.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'datasets', 'soundfile'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, command]
    done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert "examples:" in done.stdout


def documented() -> Sequence[str]:
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    return re.findall(r"^wavbench ((?:prepare|validate) [^#\n]*)", page, re.M)


def test_the_examples_of_the_documentation_run(data_root: Path) -> None:
    Path("data").mkdir()
    Path("data/demo").symlink_to(data_root)
    kaldi_directory()
    Path("lhotse").mkdir()
    recording = Recording.from_file(Path("wav/rec1.wav").resolve())
    CutSet.from_manifests(RecordingSet.from_recordings([recording])).to_file("lhotse/cuts_train.jsonl.gz")
    hf.Dataset.from_dict({"file": [str(Path("wav/rec1.wav").resolve())], "normalised": ["a"]}).save_to_disk("saved")
    lines = documented()
    assert len(lines) >= 6
    for line in lines:
        assert main(shlex.split(line)) == 0, line


def test_the_manifest_of_the_documentation_is_one() -> None:
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    Path("a.jsonl").write_text(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    assert [u.id for u in manifest.read("a.jsonl")] == ["anna-001", "ben-017"]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.M))))
    assert named == set(manifest.FIELDS)
