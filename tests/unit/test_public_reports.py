"""Kinds of faults that users of neighbouring tools have reported in public trackers; each test names reports."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
import torch
import yaml
from support import REPOSITORY
from test_upstream_wav2vec2 import ragged, small_model
from toys import ToyUpstream

from benchmark import config, files, memory
from benchmark.data import audio, headers, manifest
from benchmark.data.decode import decode_all
from benchmark.engine.feature_store import FeatureStore
from benchmark.engine.folder import exclusive
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Utterance
from benchmark.text import from_yaml
from downstream import protocols
from downstream.asr.text import TextConfig, normalise
from downstream.classify.task import ClassifyConfig
from downstream.corpora.tree import LeftOut, audio_files
from upstream.wav2vec2.checkpoint import load_model
from upstream.wav2vec2.export import save_checkpoint

OLD = 1_700_000_000
CARD = {"name": "classify", "version": 1}


# -------------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("no", "no"), ("[no, sv, yes, on, off]", ["no", "sv", "yes", "on", "off"]), ("{n: y}", {"n": "y"}),
        ("true", True), ("FALSE", False), ("'true'", "true"),
        ("0010", "0010"), ("12:30", "12:30"), ("1_000", "1_000"), ("2020-01-01", "2020-01-01"), ("12", 12), ("-3", -3),
        ("1e-3", 1e-3), ("2E5", 2e5), (".5", 0.5), ("1.5e-4", 1.5e-4), (".inf", float("inf")), ("1.0.0", "1.0.0"),
        ("null", None), ("~", None), ("", None), ("{a: &x {b: 1}, c: {<<: *x}}", {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)  # fmt: skip
def test_yaml_takes_no_words_for_booleans_and_no_names_for_numbers(source: str, value: Any) -> None:
    """huggingface_hub#797: the language ``no`` becomes ``False``; trl#1450: ``1e-4`` becomes text."""
    assert from_yaml(source) == value
    assert type(from_yaml(source)) is type(value)


def test_yaml_that_is_refused() -> None:
    for source in ("a: 1\na: 2", "[1, 2", "!!python/object/apply:os.system ['true']"):
        with pytest.raises(yaml.YAMLError):
            from_yaml(source)


def test_words_and_leading_zeros_in_options_files_and_cards(tmp_path: Path) -> None:
    """As above, wherever YAML is read: ``-o``, configuration files, protocol cards."""
    values = "[no, yes, 0010, 12:30]"
    (tmp_path / "a.yaml").write_text(f"trainer: {{precision: no}}\ntask: {{classes: {values}}}\n")
    file = ("a.yaml", config.read_yaml(tmp_path / "a.yaml"))
    base = [("-u", {"upstream": {"name": "x"}})]
    for run in (
        config.compose(CARD, ClassifyConfig, [*base, file]),
        config.compose(CARD, ClassifyConfig, base, ["trainer.precision=no", f"config.task.classes={values}"]),
    ):
        assert run.trainer.precision == "no"
        assert run.task.classes == ["no", "yes", "0010", "12:30"]
        (tmp_path / "saved.yaml").write_text(config.to_yaml(run))
        assert config.differences(config.read_yaml(tmp_path / "saved.yaml"), run) == []
    card = (REPOSITORY / "downstream/protocols/voxceleb1_sid.yaml").read_text()
    (tmp_path / "card.yaml").write_text(card + f"\nwords: {values}\n")
    assert protocols._read(tmp_path / "card.yaml", ())["words"] == ["no", "yes", "0010", "12:30"]


def test_a_seed_that_torch_does_not_take() -> None:
    """numpy#17079, thinc#965: an error of the random generator long after the start."""
    base = [("-u", {"upstream": {"name": "x"}})]
    assert config.compose(CARD, ClassifyConfig, base, [f"seed={2**63 - 1}"]).seed == 2**63 - 1
    torch.manual_seed(2**63 - 1)
    with pytest.raises(BenchmarkError, match=r"seed is 9223372036854775808; expected less than 2\^63"):
        config.compose(CARD, ClassifyConfig, base, [f"seed={2**63}"])


# ---------------------------------------------------------------------------------------------------------- environment


def test_a_matplotlib_backend_that_is_not_installed() -> None:
    """colabtools#5148, spinalcordtoolbox#4523: a notebook leaves its backend to the commands that it starts, whose
    environment need not have it."""
    done = subprocess.run(
        [sys.executable, "-c", "from benchmark import plots; print(len(plots.png(plots.Figure(1, 1))) > 0)"],
        cwd=REPOSITORY,
        env={**os.environ, "MPLBACKEND": "not_installed"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """datasets#2618, BOINC#1563: NFS and Lustre that are mounted without locks."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with caplog.at_level(logging.WARNING), exclusive(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
    assert "cannot be locked" in caplog.text
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    utterance = Utterance("a", str(tmp_path / "a.wav"))
    store = FeatureStore(ToyUpstream().eval(), "toy", folder=tmp_path / "features")
    assert store.fill([utterance], [0.1], quiet=True) == 0.1
    assert store.missing([utterance]) == []


def test_a_folder_that_cannot_be_written_is_no_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with (
        pytest.raises(BenchmarkError, match=r"cannot write into .*: Read-only file system"),
        exclusive(tmp_path / "run"),
    ):
        pass


def test_a_disk_that_fills_up_within_a_checkpoint(tmp_path: Path) -> None:
    """pytorch#10577, so-vits-svc#46: ``unexpected pos 190007680 vs 190007572`` and no word of the disk."""

    class Disk:
        def __init__(self, file: BinaryIO) -> None:
            self.file, self.room = file, 4000

        def write(self, data: bytes) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    path = tmp_path / "last.pt"
    files.write_bytes(path, b"before")
    with pytest.raises(BenchmarkError, match=r"cannot write .*last\.pt: No space left on device"):
        files.write_atomically(path, lambda file: torch.save({"a": torch.zeros(5000)}, Disk(file)))
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["last.pt"]


def replace(path: Path, rate: int) -> None:
    """Write a file of the same size and date."""
    soundfile.write(path, np.zeros(1600), rate)
    os.utime(path, (OLD, OLD))


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MSS#2123, pocket-casts-ios#4240: what was remembered of the old file is taken for the new one's."""
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.wav"
    replace(path, 16000)
    utterance = Utterance("a", str(path))
    store = FeatureStore(ToyUpstream().eval(), "toy", folder=tmp_path / "features")
    kept = store.key(utterance)
    assert headers.read([str(path)])[str(path)] == headers.of(str(path)) == headers.Header(16000, 1600, 1)
    asked: list[str] = []
    find = lambda paths: asked.extend(paths) or [(path, 1) for path in paths]  # noqa: E731
    for _ in range(2):
        memory.remembered("kind", [str(path)], find)
    assert len(asked) == 1
    time.sleep(0.02)  # more than the clock of file systems needs for another time of change
    replace(path, 8000)
    assert headers.read([str(path)])[str(path)] == headers.of(str(path)) == headers.Header(8000, 1600, 1)
    memory.remembered("kind", [str(path)], find)
    assert len(asked) == 2
    assert store.key(utterance) != kept


# ---------------------------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize("name", ["a.raw", "a.RAW"])
def test_files_that_are_called_raw(name: str, tmp_path: Path) -> None:
    """python-soundfile#249, RawGAT-ST-antispoofing#3: ``TypeError: samplerate must be specified``."""
    path = tmp_path / name
    path.write_bytes(bytes(3200))
    assert "is called .raw" in str(headers.read([str(path)])[str(path)])
    with pytest.raises(BenchmarkError, match=r"utterance u: .*is called \.raw.*Convert or rename it"):
        audio.load(Utterance("u", str(path)), 16000)
    (tmp_path / "m.jsonl").write_text(f'{{"path": "{name}"}}\n')
    with pytest.raises(BenchmarkError, match=r"is called \.raw"):
        audio.durations(manifest.read(tmp_path / "m.jsonl"))


@pytest.mark.parametrize(
    ("second", "cancel"), [("inverted", True), ("inverted, with a little noise", True), ("the same", False),
                           ("other noise", False), ("silent", False)],
)  # fmt: skip
def test_channels_that_cancel_each_other(second: str, cancel: bool, tmp_path: Path) -> None:
    """whisperX#750: one channel of a recording is inverted, so that the average of both is silence."""
    random = np.random.default_rng(0)
    first, other = random.normal(0, 0.1, (2, 100_000))
    channel = {
        "inverted": -first, "inverted, with a little noise": 0.05 * other - first, "the same": first,
        "other noise": other, "silent": np.zeros_like(first),
    }[second]  # fmt: skip
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.stack([first, channel], axis=1), 16000)
    ((problems),) = decode_all([(path, 16000, (), [(0, 100_000)])], 0.01, workers=1)
    assert any("cancel each other" in problem for problem in problems) == cancel
    assert len(problems) == cancel


def test_what_macos_adds_to_archives_is_not_misplaced_audio(tmp_path: Path) -> None:
    """openneuro#2520, BirdNET-Analyzer#635: ``__MACOSX/…/._a.wav`` is taken for audio."""
    for name in ("__MACOSX/en/._a.wav", "__MACOSX/._b.wav", ".hidden/c.wav", "@eaDir/a.wav/SYNOAUDIO_01APIC_03.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("a.wav", "deep/er/b.wav"):
        soundfile.write(tmp_path / name, np.zeros(16), 16000)
    misplaced: list[str] = []
    assert list(audio_files(tmp_path, misplaced, LeftOut("test"))) == ["a.wav"]
    assert misplaced == [str(tmp_path / "deep/er/b.wav")]


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.pt"
    save_checkpoint(small_model(), path)
    return path


def changed(good: Path, path: Path, change: Any) -> Path:
    """A checkpoint whose weights were changed: (name, tensor) -> (name, tensor)."""
    state = torch.load(good, weights_only=True)
    state["model"] = dict(change(name, tensor) for name, tensor in state["model"].items())
    torch.save(state, path)
    return path


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", ""])
@pytest.mark.parametrize("renamed", [False, True])
def test_names_of_wrapped_models_and_of_the_other_weight_norm(
    prefix: str, renamed: bool, good: Path, tmp_path: Path
) -> None:
    """pytorch#3805 (``module.``), transformers#31633 (``parametrizations.weight.original0``)."""

    def rename(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        if renamed:
            for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
                name = name.replace(old, f"parametrizations.weight.{new}")
        return prefix + name, tensor

    batch = ragged([4000, 2000])
    expected, found = load_model(good), load_model(changed(good, tmp_path / "a.pt", rename))
    for a, b in zip(expected(*batch).states, found(*batch).states, strict=True):
        assert torch.equal(a, b)


def test_weights_that_are_no_numbers(good: Path, tmp_path: Path) -> None:
    """FineVQ#6, fairseq#2696: a diverged training leaves a checkpoint of NaN, which is found only when something is
    trained on it, and blamed on that."""

    def one(value: float) -> Any:
        def change(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
            if name == "encoder.layers.0.fc1.weight":
                tensor = tensor.clone()
                tensor[0, 0] = value
            return name, tensor

        return change

    for value in (float("nan"), float("inf")):
        with pytest.raises(
            BenchmarkError, match=r"1 tensors have NaN or infinite values: encoder\.layers\.0\.fc1\.wei"
        ):
            load_model(changed(good, tmp_path / "a.pt", one(value)))
    with pytest.raises(BenchmarkError, match="tensors are not floating-point numbers, but quantised"):
        load_model(changed(good, tmp_path / "b.pt", lambda name, tensor: (name, tensor.to(torch.int8))))


# ----------------------------------------------------------------------------------------------------------------- text


def test_values_that_others_take_for_missing(tmp_path: Path) -> None:
    """datasets#4467, pyannote-database#115: the words null, NA and nan, and ids with leading zeros, are text."""
    words = ["null", "NA", "nan", "None", "N/A", "true", "0012", "1e5", "inf", "-"]
    (tmp_path / "a.csv").write_text("path,text,speaker\n" + "".join(f"{word},{word},{word}\n" for word in words))
    for word, utterance in zip(words, manifest.read(tmp_path / "a.csv"), strict=True):
        assert (utterance.text, utterance.speaker) == (word, word)


def test_the_case_of_turkish() -> None:
    """TTS#2190, MeloTTS#223: I is not the capital of i, and ``"İ".lower()`` has two characters."""
    lower, upper = TextConfig(case="lower", turkic=True), TextConfig(case="upper", turkic=True)
    assert normalise("İstanbul IĞDIR", lower) == normalise("I\u0307stanbul IĞDIR", lower) == "istanbul ığdır"
    assert normalise("istanbul ığdır", upper) == "İSTANBUL IĞDIR"
    assert normalise("Iris", TextConfig(case="lower")) == "iris"
    assert normalise("iris", TextConfig(case="upper")) == "IRIS"


@pytest.mark.parametrize("case", ["keep", "upper", "lower"])
@pytest.mark.parametrize("turkic", [False, True])
def test_normalised_text_stays_as_it_is(case: str, turkic: bool) -> None:
    """Capitals of some letters are written in several characters, which have to be composed again."""
    options = TextConfig(case=case, turkic=turkic, strip_punctuation=True)
    for code in (*range(0x20, 0xD800), *range(0xF900, 0x1F000)):
        once = normalise(f"a{chr(code)}b", options)
        assert normalise(once, options) == once, hex(code)


def test_invisible_characters_are_no_letters() -> None:
    """wikipron#377, Handy#500: zero-width spaces and the like become outputs of the head, and errors unseen."""
    text = "\ufeffze\u200bro wi\u00addth\u200e \u2060end"
    assert normalise(text, TextConfig(strip_punctuation=True)) == "zero width end"
    assert normalise("می\u200cخواهم क्\u200dष", TextConfig(strip_punctuation=True)) == "می\u200cخواهم क्\u200dष"
    assert normalise("a\u00a0b\u3000c\u2003d", TextConfig()) == "a b c d"
