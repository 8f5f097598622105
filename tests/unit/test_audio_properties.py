"""Lengths and stretches of every kind of file that libsndfile reads: written by soundfile here, by ffmpeg and SoX in
``tests/fixtures/audio``, and by ffmpeg and SoX here where they are installed."""

from __future__ import annotations

import random
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import REPOSITORY, shared_folder

from benchmark.data import audio, headers, pieces
from benchmark.data.examine import examine
from benchmark.data.headers import AudioError, Header
from benchmark.interfaces import Utterance

FIXTURES = REPOSITORY / "tests" / "fixtures" / "audio"
NO_CLAIM = ("IRCAM", "PAF", "PVF", "MAT4", "MAT5", "MPC2K", "SDS", "XI")
"""Formats without a length in their headers, and rare ones whose length is not read."""


def sweep(rate: int, channels: int, seconds: float) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).normal(0, 0.03, (len(time), channels))
    return (0.3 * np.sin(2 * np.pi * (200 * time + 30 * time**2))[:, None] + noise).astype(np.float32)


def write_all(folder: Path) -> None:
    """Every format and encoding that soundfile writes, and long files of those that are not sought exactly."""
    for form in soundfile.available_formats():
        for subtype in () if form in ("RAW", "SD2", "SDS") else soundfile.available_subtypes(form):
            for rate, channels in ((16000, 1), (48000 if subtype == "OPUS" else 44100, 2)):
                path = folder / f"{form}.{subtype}.{rate}"
                try:
                    soundfile.write(path, sweep(rate, channels, 1.3), rate, format=form, subtype=subtype)
                    assert soundfile.info(path).frames
                except (soundfile.SoundFileError, AssertionError):  # libsndfile has no such combination
                    path.unlink(missing_ok=True)
    for subtype, rate, channels, seconds in (
        ("VORBIS", 16000, 1, 45), ("VORBIS", 44100, 2, 16), ("OPUS", 16000, 1, 45), ("OPUS", 48000, 2, 15),
        ("MPEG_LAYER_III", 16000, 1, 12), ("MPEG_LAYER_III", 44100, 2, 6),
    ):  # fmt: skip
        form = "MP3" if subtype == "MPEG_LAYER_III" else "OGG"
        samples = sweep(rate, channels, seconds)
        soundfile.write(folder / f"long.{subtype}.{rate}", samples, rate, format=form, subtype=subtype)


def write_by_tools(folder: Path) -> None:
    """Long files by ffmpeg and SoX."""
    soundfile.write(folder / "source.wav", sweep(16000, 1, 40), 16000)
    for name, options in {
        "ff.ogg": "-c:a libvorbis -q:a 0", "ff.opus": "-c:a libopus -b:a 6k", "ff.mp3": "-b:a 8k", "vbr.mp3": "-q:a 7",
        "noxing.mp3": "-q:a 5 -write_xing 0", "ff44.mp3": "-ar 44100 -ac 2 -b:a 64k", "ff.mp2": "-b:a 32k",
        "ima.wav": "-c:a adpcm_ima_wav", "ms.wav": "-c:a adpcm_ms", "ff.caf": "", "ff.w64": "", "ff.au": "",
        "ff.flac": "",
    }.items():  # fmt: skip
        command = ["ffmpeg", "-y", "-i", "source.wav", *options.split(), name]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
    for name in ("sox.mp3", "sox.ogg", "sox.flac", "sox.sph", "sox.aiff", "sox.voc"):
        subprocess.run(["sox", "source.wav", name], cwd=folder, check=True)
    subprocess.run(["sox", "source.wav", "-e", "gsm", "gsm.wav"], cwd=folder, check=True)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(shared_folder(tmp_path_factory, "formats", write_all).iterdir())


@pytest.fixture(scope="session")
def by_tools(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if not (shutil.which("ffmpeg") and shutil.which("sox")):
        pytest.skip("ffmpeg and sox are not installed")
    return sorted(shared_folder(tmp_path_factory, "tools", write_by_tools).iterdir())


def fixtures() -> list[Path]:
    return sorted(path for path in FIXTURES.iterdir() if path.suffix != ".py")


class Straight(soundfile.SoundFile):
    """Never seeks, which soundfile does after reading, and libsndfile cannot in all formats."""

    def seekable(self) -> bool:
        return False


@cache
def whole(path: Path) -> tuple[np.ndarray, int]:
    header = headers.of(str(path))
    samples = audio.load(Utterance("whole", str(path)), header.rate).numpy()
    assert len(samples) == header.frames
    if not header.pieces:  # libsndfile's own word, from the start to the end
        with Straight(path) as file:
            plain = file.read(header.frames, dtype="float32", always_2d=True).mean(axis=1)
        np.testing.assert_allclose(samples, plain, atol=1e-6)
    return samples, header.rate


def check_stretches(paths: list[Path], cases: int, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(cases):
        path = chosen.choice(paths)
        samples, rate = whole(path)
        seconds = len(samples) / rate
        start = chosen.choice([0.0, chosen.uniform(0, seconds), max(0.0, seconds - chosen.uniform(0.01, 1.5))])
        duration = chosen.choice([None, chosen.uniform(2 / rate, max(3 / rate, min(2.0, seconds - start)))])
        crop = chosen.choice([None, (chosen.uniform(0.01, 1.0), chosen.random())])
        first = round(start * rate)
        last = min(len(samples), len(samples) if duration is None else first + round(duration * rate))
        if last <= first:
            continue
        if crop and last - first > (length := round(crop[0] * rate)):
            first += int(crop[1] * (last - first - length + 1))
            last = first + length
        part = audio.load(Utterance("part", str(path), start, duration), rate, crop=crop).numpy()
        assert len(part) == last - first, (path, start, duration, crop)
        difference = float(np.abs(part - samples[first:last]).max())
        assert difference < 1e-6, (path, start, duration, crop, difference)


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(4))
def test_any_stretch_is_that_of_the_whole_file(written: list[Path], seed: int) -> None:
    assert len(written) > 100
    check_stretches([*written, *(path for path in written if path.name.startswith("long"))], 400, seed)


@pytest.mark.medium
def test_any_stretch_of_what_ffmpeg_and_sox_write(by_tools: list[Path]) -> None:
    check_stretches(by_tools, 300, 1)


@pytest.mark.medium
def test_any_stretch_of_the_fixtures(tmp_path: Path) -> None:
    check_stretches(fixtures(), 400, 2)


def found_or_harmless(path: Path, data: bytes, original: np.ndarray, cut: Path, *, decode: bool) -> str | None:
    cut.write_bytes(data)
    utterance = Utterance("cut", str(cut))
    (report,) = examine([utterance], decode=decode, workers=1)
    if report.problems:
        return report.problems[0]
    samples = audio.load(utterance, headers.of(str(cut)).rate).numpy()
    assert len(samples) == len(original), f"{path}: {len(data)} bytes give {len(samples)} of {len(original)} samples"
    np.testing.assert_allclose(samples, original, atol=1e-6, err_msg=str(path))
    return None


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(2))
def test_a_truncated_file_is_found_or_harmless(written: list[Path], tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    paths = [
        path
        for path in (*written, *fixtures())
        if path.name.split(".")[0] not in (*NO_CLAIM, "long", "ff-pipe", "sox-pipe")
    ]
    found = 0
    for number in range(250):
        path = chosen.choice(paths)
        data = path.read_bytes()
        size = chosen.choice([chosen.randrange(1, len(data)), len(data) - chosen.randrange(1, min(300, len(data)))])
        form = soundfile.info(path).format
        problem = found_or_harmless(path, data[:size], whole(path)[0], tmp_path / f"{number}", decode=form == "FLAC")
        found += problem is not None
    assert found > 240


@pytest.mark.parametrize(
    ("form", "subtype", "mark", "message"),
    [("OGG", "VORBIS", b"OggS", "its last page is not marked as the last"), ("OGG", "OPUS", b"OggS", "its last page"),
     ("MP3", "MPEG_LAYER_III", None, r"its header promises \d+ frames, it has \d+"),
     ("FLAC", "PCM_16", b"\xff\xf8", "its header promises 48,000 samples, its last frame ends at 45,056")],
)  # fmt: skip
def test_a_file_that_ends_with_a_whole_page_or_frame(
    tmp_path: Path, form: str, subtype: str, mark: bytes | None, message: str
) -> None:
    path = tmp_path / "a"
    soundfile.write(path, sweep(16000, 1, 3), 16000, format=form, subtype=subtype)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(mark or data[:3])])
    with pytest.raises(AudioError, match=f"ends early: {message}"):
        audio.durations([Utterance("a", str(path))])


def test_a_truncated_flac_is_found_by_its_header_or_by_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, sweep(16000, 1, 3), 16000)
    data = path.read_bytes()
    for size in range(200, len(data), len(data) // 40):
        problem = found_or_harmless(path, data[:size], whole(path)[0], tmp_path / f"{size}.flac", decode=True)
        assert "fetch" in str(problem)


# ---------------------------------------------------------------------------------------------------------- lengths


def test_what_ffmpeg_and_sox_wrote_is_read_in_full() -> None:
    """Half a second, which codecs round up to blocks of their own."""
    found = headers.read(map(str, fixtures()))
    broken = {Path(path).name: header for path, header in found.items() if isinstance(header, str)}
    assert list(broken) == []
    for path, header in found.items():
        assert isinstance(header, Header)
        expected = 10 if Path(path).name == "long.mp3" else 0.5
        assert expected - 1e-9 <= header.frames / header.rate < expected + 0.2, path


def sized(folder: Path, form: str, subtype: str = "PCM_16") -> tuple[bytearray, int, int, str]:
    """A file of 8,000 samples, and where it has their 16,000 bytes: (position, width, byte order)."""
    path = folder / f"{form}.{subtype}"
    soundfile.write(path, sweep(16000, 1, 0.5), 16000, format=form, subtype=subtype)
    data = bytearray(path.read_bytes())
    mark, skip, width, order = {
        "WAV": (b"data", 4, 4, "little"), "WAVEX": (b"data", 4, 4, "little"), "AIFF": (b"SSND", 4, 4, "big"),
        "AU": (b".snd", 8, 4, "big"), "CAF": (b"data", 4, 8, "big"), "W64": (b"data\xf3\xac", 16, 8, "little"),
        "RF64": (b"ds64", 16, 8, "little"), "SVX": (b"BODY", 4, 4, "big"),
    }[form]  # fmt: skip
    position = data.index(mark) + skip
    extra = {"AIFF": 8, "W64": 24, "CAF": 4}.get(form, 0)
    assert int.from_bytes(data[position : position + width], order) == 16000 + extra  # type: ignore[arg-type]
    return data, position, width, order


UNKNOWN = [
    ("WAV", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000, 0x80000000]),
    ("WAVEX", [0, 0xFFFFFFFF]),
    ("AIFF", [0, 0x7F000008, 0xFFFFFFFF, 0x7FFFFFFF]),
    ("AU", [0, 0xFFFFFFFF, 0x7FFFFFFF]),
    ("CAF", [2**64 - 1]),
    ("W64", [2**64 - 1, 2**63 - 1, 24]),
    ("RF64", [0, 2**64 - 1, 2**63 - 1]),
]


@pytest.mark.parametrize(("form", "size"), [(form, size) for form, sizes in UNKNOWN for size in sizes])
def test_sizes_that_mean_unknown(tmp_path: Path, form: str, size: int) -> None:
    data, position, width, order = sized(tmp_path, form)
    data[position : position + width] = size.to_bytes(width, order)  # type: ignore[arg-type]
    if form in ("WAV", "WAVEX"):
        data[4:8] = data[position : position + 4]
    (tmp_path / "a").write_bytes(data)
    header = headers.read([str(tmp_path / "a")])[str(tmp_path / "a")]
    assert isinstance(header, Header), header
    assert header.frames == 8000
    wav = audio.load(Utterance("a", str(tmp_path / "a")), 16000)
    np.testing.assert_array_equal(wav, soundfile.read(tmp_path / f"{form}.PCM_16", dtype="float32")[0])


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "AIFF", "AU", "CAF", "W64", "RF64", "SVX"])
def test_audio_beyond_what_the_header_claims_is_read(tmp_path: Path, form: str) -> None:
    data, position, width, order = sized(tmp_path, form)
    claimed = int.from_bytes(data[position : position + width], order) - 8000  # type: ignore[arg-type]
    data[position : position + width] = claimed.to_bytes(width, order)  # type: ignore[arg-type]
    (tmp_path / "a").write_bytes(data)
    wav = audio.load(Utterance("a", str(tmp_path / "a")), 16000).numpy()
    plain = soundfile.read(tmp_path / f"{form}.PCM_16", dtype="float32")[0]
    np.testing.assert_array_equal(wav[: len(plain)], plain)
    assert len(plain) <= len(wav) < len(plain) + 64  # chunks at the end of CAF and WAVEX, if any


def test_a_sphere_file_longer_than_it_says(tmp_path: Path) -> None:
    data = (FIXTURES / "sox.sph").read_bytes()
    assert b"sample_count -i 4000\n" in data
    path = tmp_path / "a.sph"
    path.write_bytes(data.replace(b"sample_count -i 4000\n", b"sample_count -i 999\n", 1)[:1023] + b"\n" + data[1024:])
    np.testing.assert_array_equal(
        audio.load(Utterance("a", str(path)), 8000), audio.load(Utterance("b", str(FIXTURES / "sox.sph")), 8000)
    )


@pytest.mark.parametrize(
    "after",
    [b"LIST" + (68).to_bytes(4, "little") + b"INFO" + bytes(64), b"TAG" + b"title".ljust(125), bytes(500), b"junk",
     b"APETAGEX" + bytes(100)],
)  # fmt: skip
@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3"])
def test_tags_and_padding_after_the_audio_are_not_audio(tmp_path: Path, form: str, after: bytes) -> None:
    path = tmp_path / "a"
    soundfile.write(path, sweep(16000, 1, 0.5), 16000, format=form)
    frames = soundfile.info(path).frames
    path.write_bytes(path.read_bytes() + after)
    assert headers.of(str(path)) == Header(16000, frames, 1)
    assert len(audio.load(Utterance("a", str(path)), 16000)) == frames


@pytest.mark.parametrize("form", ["MP3", "FLAC", "OGG.VORBIS", "OGG.OPUS"])
@pytest.mark.parametrize("lengths", [(0.5, 0.7, 0.3), (0.5, 0.5), (0.3, 0.9)])
def test_joined_files_are_read_one_after_the_other(tmp_path: Path, form: str, lengths: tuple[float, ...]) -> None:
    parts, data = [], b""
    for seconds in lengths:
        path = tmp_path / f"{seconds}"
        soundfile.write(path, sweep(16000, 1, seconds), 16000, format=form[:4].strip("."), subtype=form[4:] or None)
        parts.append(soundfile.read(path, dtype="float32")[0])
        data += path.read_bytes()
    (tmp_path / "joined").write_bytes(data)
    utterance = Utterance("joined", str(tmp_path / "joined"))
    if form == "FLAC" and len(set(lengths)) == 1:  # which only reading all of it tells
        (report,) = examine([utterance], decode=True, workers=1)
        assert "is 2 files in one, of which the first is read" in report.problems[0]
        return
    joined = np.concatenate(parts)
    np.testing.assert_allclose(audio.load(utterance, 16000), joined, atol=1e-6)
    across = audio.load(Utterance("across", utterance.path, 0.2, 0.55), 16000)
    np.testing.assert_allclose(across, joined[3200:12000], atol=1e-6)


def test_joined_files_of_different_rates_are_refused(tmp_path: Path) -> None:
    for rate in (16000, 44100):
        soundfile.write(tmp_path / f"{rate}.mp3", sweep(rate, 1, 0.5), rate)
    (tmp_path / "a.mp3").write_bytes((tmp_path / "16000.mp3").read_bytes() + (tmp_path / "44100.mp3").read_bytes())
    with pytest.raises(AudioError, match="is several files in one, of 16000 Hz, 1 channel and 44100 Hz, 1 channel"):
        audio.load(Utterance("a", str(tmp_path / "a.mp3")), 16000)


def test_an_mp3_without_a_xing_header_is_that_with_one(tmp_path: Path) -> None:
    """The encoder's delay stays, as there is nothing that says how long it is."""
    full = audio.load(Utterance("a", str(FIXTURES / "ff.mp3")), 8000).numpy()
    bare = audio.load(Utterance("b", str(FIXTURES / "ff-noxing.mp3")), 8000).numpy()
    with Straight(FIXTURES / "ff-noxing.mp3") as file:
        plain = file.read(3000, dtype="float32")
    np.testing.assert_allclose(bare[:3000], plain, atol=1e-6)
    delay = int(np.argmax([np.dot(bare[k : k + 2000], full[:2000]) for k in range(2000)]))
    np.testing.assert_allclose(bare[delay : delay + len(full)], full[: len(bare) - delay], atol=1e-6)


def test_a_header_written_twice(tmp_path: Path) -> None:
    data, *_ = sized(tmp_path, "W64")
    header = bytearray(data[: data.index(b"data\xf3\xac") + 24])
    header[-8:] = (24).to_bytes(8, "little")
    (tmp_path / "a").write_bytes(header + header + data[len(header) :])
    assert "has its header twice" in str(headers.read([str(tmp_path / "a")])[str(tmp_path / "a")])


# ------------------------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(("rate", "frames"), [(16000, 50505), (44100, 139217), (8000, 8001), (22050, 44101)])
@pytest.mark.parametrize("digits", [2, 3, 9])
def test_rounded_times_are_cut_to_the_file(tmp_path: Path, rate: int, frames: int, digits: int) -> None:
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.full(frames, 0.1, np.float32), rate)
    for start in (0.0, 0.015, 0.35):
        utterance = Utterance("a", path, start, round(frames / rate - start, digits))
        expected = min(frames, round(start * rate) + round(utterance.duration * rate)) - round(start * rate)  # type: ignore[operator]
        assert len(audio.load(utterance, rate)) == expected
        assert audio.durations([utterance]).tolist() == [expected / rate]


def test_beyond_the_tolerance_is_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.full(16000, 0.1, np.float32), 16000)
    assert len(audio.load(Utterance("a", path, 0.5, 0.525), 16000)) == 8000
    with pytest.raises(AudioError, match=r"1\.000 s long, but the utterance spans 0\.500–1\.026 s"):
        audio.load(Utterance("a", path, 0.5, 0.526), 16000)
    with pytest.raises(AudioError, match=r"spans 1\.000–1\.010 s"):
        audio.load(Utterance("a", path, 1.0, 0.01), 16000)


# ------------------------------------------------------------------------------------------------------------- cost


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "before"),
    [("long.MPEG_LAYER_III.16000", 2**15), ("long.VORBIS.16000", 2**18), ("long.OPUS.48000", 2**18),
     ("WAV.PCM_16.16000", 0), ("FLAC.PCM_16.16000", 0), ("CAF.ALAC_16.16000", 0)],
)  # fmt: skip
def test_a_stretch_costs_no_more_than_what_has_to_be_decoded_before_it(
    written: list[Path], monkeypatch: pytest.MonkeyPatch, name: str, before: int
) -> None:
    path = str(written[0].parent / name)
    header = headers.of(path)
    decoded: list[int] = []
    real = pieces._Stream.read

    def read(self: object, frames: int, *args: object, **options: object) -> np.ndarray:
        decoded.append(frames)
        return real(self, frames, *args, **options)

    monkeypatch.setattr(pieces._Stream, "read", read)
    start = 0.6 * header.frames / header.rate
    samples = audio.load(Utterance("a", path, start, 0.2), header.rate)
    assert len(samples) == round(0.2 * header.rate)
    assert sum(decoded) <= len(samples) + 2 * before


@pytest.mark.parametrize("signal", ["silence", "constant", "noise"])
def test_flac_files_of_any_length_are_whole(tmp_path: Path, signal: str) -> None:
    """The last frame may hold a single sample, and take fewer bytes than a longest header."""
    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal(3 * 4096 + 40)).astype(np.float32)
    samples = {"silence": 0 * noise, "constant": 0 * noise + 0.25, "noise": noise}[signal]
    lengths = [blocks * 4096 + rest for blocks in (0, 1, 3) for rest in range(1, 40)]
    for length in lengths:
        for channels in (1, 2):
            path = tmp_path / f"{length}-{channels}.flac"
            soundfile.write(path, np.repeat(samples[:length, None], channels, axis=1), 16000)
    found = headers.read(str(path) for path in tmp_path.iterdir())
    frames = {Path(path).stem: getattr(header, "frames", header) for path, header in found.items()}
    assert frames == {f"{length}-{channels}": length for length in lengths for channels in (1, 2)}
