"""Human speech out of Debian's packages: on packages that the test makes."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import debian_packages
import numpy as np
import pytest
import soundfile
import yaml
from support import shared_folder

from benchmark.data import manifest
from benchmark.errors import BenchmarkError, MissingData
from benchmark.interfaces import Utterance
from downstream.corpora.debian_speech import __main__ as command
from downstream.corpora.debian_speech import building, check, packages
from downstream.corpora.debian_speech.building import FOLDER, build
from downstream.corpora.debian_speech.clips import Clip, excluded, transcript
from downstream.corpora.debian_speech.corpus import prepare
from downstream.corpora.debian_speech.decode import decode, narrow
from downstream.corpora.debian_speech.packages import fetch, read_packages, unpack
from downstream.corpora.debian_speech.sources import COLLECTIONS
from downstream.corpora.debian_speech.texts import ALPHABETS, DIGITS, normalise
from downstream.corpora.debian_speech.trials import make_trials

pytest.importorskip("av")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, and ``packages.yaml``."""
    return shared_folder(tmp_path_factory, "debs", lambda folder: debian_packages.write(folder / "all")) / "all"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, debs: Path) -> Path:
    """A data root with everything that the packages hold."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packages, "PACKAGES", debs / "packages.yaml")
            build(folder, debs=debs, workers=1)

    return shared_folder(tmp_path_factory, "debian_speech", make)


@pytest.fixture(autouse=True)
def _pinned(debs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "PACKAGES", debs / "packages.yaml")
    monkeypatch.setenv("BENCHMARK_CACHE", str(tmp_path / "cache"))


# --- What is written --------------------------------------------------------------------------------------------------


def test_every_source_is_read(built: Path) -> None:
    folder = built / FOLDER
    said = {
        u.id: u.text
        for path in folder.glob("*.jsonl")
        if not path.name.endswith("-4kHz.jsonl")
        for u in manifest.read(path)
    }
    assert said == {
        **{f"asterisk_{language}/letters/a": None for language in ("en", "es", "fr", "it", "ru")},  # one letter
        "asterisk_en/vm-press": "PRESS ONE NOW PLEASE",
        "asterisk_es/vm-press": "PRESS UNO NOW PLEASE",
        "asterisk_fr/vm-press": "PRESS UN NOW PLEASE",
        "asterisk_it/vm-press": "PRESS UNO NOW PLEASE",
        "asterisk_ru/vm-press": "НАЖМИТЕ ОДИН",
        "prompts_es/hola": None, "prompts_es/digits/1": None, "prompts_fr/salut": None, "prompts_fr/digits/1": None,
        "prompts_it/ciao": None,
        "festvox_ru/ru_0001": "ГЛАЗА ЛЕНИВЫЕ СЕРО КАРИЕ", "festvox_ru/ru_0002": None,
        "festvox_ru/ru_0003": "ТАКОВ В ОБЩИХ ЧЕРТАХ", "festvox_ru/ru_0004": "ИДТИ БЫЛО ЛЕГКО",
        "festvox_ru/ru_0005": "НУ НЕТ",
        "amazon_queen/060007P1": "OKAY", "amazon_queen/060007P2": "MISTER BOB'S", "amazon_queen/060007P3": "SHOP",
        "amazon_queen/060007J1": "HELLO THERE", "amazon_queen/070001P1": None,
        "amazon_queen/07001FJ1": "IS IT", "amazon_queen/07001FJ2": "NINE O'CLOCK",
        "amazon_queen/080001P1": "HELLO THERE", "amazon_queen/080001J1": "THAT'S ALL",
        **{name: text for name, text in said.items() if name.startswith(("drascula_", "fillets_"))},
        "tuxpaint_es/animals/owl": "UN BÚHO", "tuxpaint_fr/animals/owl": "UN HIBOU", "tuxpaint_ru/animals/owl": "СОВА",
        "tuxpaint_bg/animals/owl": None,  # its texts are not what is said
        "klettres_it/alpha/a": None, "ktuberling_it/naso": None,
    }  # fmt: skip
    assert said["drascula_en/D3"] == "NO LINE C NANDU"
    assert said["drascula_es/BJ7"] == "JA LINE G ÑANDÚ"
    assert said["drascula_es/1"] == "NO LINE A ÑANDÚ"
    assert {key: text for key, text in said.items() if key.startswith("fillets_cs")} == {
        "fillets_cs/gods/line-0": "PODÍVEJ ŘÍKALA", "fillets_cs/gods/line-1": "AHA NO", "fillets_cs/gods/line-2": None,
        "fillets_cs/gods/line-3": None, "fillets_cs/keys/line-0": "PODÍVEJ ŘÍKALA", "fillets_cs/keys/line-1": "AHA NO",
        "fillets_cs/keys/line-2": None, "fillets_cs/keys/line-3": None,
    }  # fmt: skip


def test_speakers_and_sessions(built: Path) -> None:
    folder = built / FOLDER
    queen = {u.id.split("/")[1]: u for u in manifest.read(folder / "amazon_queen.jsonl")}
    assert (queen["060007P2"].speaker, queen["060007P2"].session) == ("amazon_queen/bob", "amazon_queen/BOB2.DOG")
    assert queen["060007J1"].speaker == queen["080001J1"].speaker == "amazon_queen/joe"
    drascula = {u.id: u.speaker for u in manifest.read(folder / "drascula_en.jsonl")}
    assert len(set(drascula.values())) == 10
    assert drascula["drascula_en/VB2"] == "drascula_en/von_braun"
    fish = {u.id: u.speaker for u in manifest.read(folder / "fillets_nl.jsonl")}
    assert fish["fillets_nl/keys/line-0"] == "fillets_nl/small_fish"
    assert fish["fillets_nl/keys/line-1"] == "fillets_nl/big_fish"
    assert fish["fillets_nl/keys/line-3"] == "fillets_nl/unknown"


def test_audio_is_16_khz_and_narrow_audio_has_nothing_above_4_khz(built: Path) -> None:
    folder = built / FOLDER
    files = sorted(folder.rglob("*.flac"))
    assert {(soundfile.info(path).samplerate, soundfile.info(path).channels) for path in files} == {(16000, 1)}
    pairs = {"asterisk_en/vm-press": 200, "amazon_queen/060007P1": 150, "prompts_es/hola": 500, "drascula_en/1": 200}
    for name, frequency in pairs.items():
        for part in ("audio", "audio-4kHz"):
            wav, rate = soundfile.read(folder / part / f"{name}.flac")
            spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav))))
            assert np.fft.rfftfreq(len(wav), 1 / rate)[spectrum.argmax()] == pytest.approx(frequency, abs=3), name
            assert 0.2 < np.abs(wav).max() < 0.4, name
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(narrow(noise) * np.hanning(16000))) ** 2
    assert spectrum[4100:].max() < 1e-4 * spectrum[500:3800].mean()
    assert narrow(noise).shape == noise.shape


def test_the_table_says_what_was_dropped_and_whose_it_is(built: Path) -> None:
    with (built / FOLDER / "SOURCES.tsv").open(encoding="utf-8") as file:
        rows = {row["source"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert rows["asterisk_en"]["not decoded or kept"] == "under 0.3 s 1"
    assert rows["asterisk_en"]["without text"] == "one letter 1"
    assert rows["festvox_ru"]["without text"] == "number 1"
    assert (rows["festvox_ru"]["clips"], rows["festvox_ru"]["clips with text"]) == ("5", "4")
    assert rows["drascula_es"]["packages"] == "drascula-spanish=1-1 drascula=1-1"
    assert rows["klettres_it"]["packages"] == "klettres-data=1-1"
    assert all(row["licence"] == "none" and row["credit"] == "nobody" for row in rows.values())
    assert {row["source"] for row in rows.values()} == {
        path.name.removesuffix(".jsonl") for path in (built / FOLDER).glob("*.jsonl") if "-4kHz" not in path.name
    }


@pytest.mark.medium
def test_twice_by_several_processes_gives_the_same_bytes(built: Path, debs: Path, tmp_path: Path) -> None:
    assert command.main([str(tmp_path), "--debs", str(debs), "--corpus", "asterisk_ru", "--corpus", "kde"]) == 0
    first, second = digests(built / FOLDER), digests(tmp_path / FOLDER)
    second.pop("SOURCES.tsv")
    assert second
    assert second.items() <= first.items()


def test_a_killed_run_goes_on(built: Path, debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, decoded, calls = building._decode, [], []

    def dying(folder: Path, recording: Any) -> Clip:
        calls.append(recording.name)
        if len(calls) == 60:
            (folder / "audio" / ".x.flac.1.part").write_bytes(b"half")
            raise KeyboardInterrupt
        return whole(folder, recording)

    monkeypatch.setattr(building, "_decode", dying)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, debs=debs, workers=1)
    assert len(list((tmp_path / FOLDER).rglob("*.flac"))) >= 50
    monkeypatch.setattr(building, "_decode", whole)
    inside = building.decode_chunk

    def counting(folder: Path, chunk: Any) -> list[Clip]:
        decoded.extend(chunk)
        return inside(folder, chunk)

    monkeypatch.setattr(building, "decode_chunk", counting)
    build(tmp_path, debs=debs, workers=1)
    assert digests(tmp_path / FOLDER) == digests(built / FOLDER)
    decoded.clear()
    build(tmp_path, debs=tmp_path / "nowhere", workers=1)  # nothing is missing: no package is needed
    assert not decoded
    assert digests(tmp_path / FOLDER) == digests(built / FOLDER)


def test_folders_of_another_origin_are_not_touched(debs: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / FOLDER).mkdir(parents=True)
    (tmp_path / "a" / FOLDER / "mine.txt").touch()
    with pytest.raises(BenchmarkError, match="is not empty and was not made by this program"):
        build(tmp_path / "a", debs=debs, workers=1)
    (tmp_path / "b" / FOLDER).mkdir(parents=True)
    (tmp_path / "b" / FOLDER / building.MARKER).write_text('{"version": 0}')
    with pytest.raises(BenchmarkError, match=r"made by version 0 of this program, 1 is needed\. Remove the folder"):
        build(tmp_path / "b", debs=debs, workers=1)


# --- Packages ---------------------------------------------------------------------------------------------------------


def test_a_changed_package_is_refused(debs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(debs, tmp_path / "debs")
    path = tmp_path / "debs" / "ktuberling-data_1-1_all.deb"
    path.write_bytes(path.read_bytes() + b"\0")
    (tmp_path / "debs" / "klettres-data_1-1_all.deb").unlink()
    assert command.main([str(tmp_path), "--debs", str(tmp_path / "debs"), "--corpus", "kde", "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert "2 problems" in said
    assert "holds no klettres-data_*.deb (version 1-1)" in said
    assert "is not the pinned ktuberling-data 1-1: its sha256 is" in said
    assert "snapshot.debian.org" in said
    assert not list((tmp_path / FOLDER).rglob("*.flac"))


def test_fetching_from_a_mirror_checks_what_comes(debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "pool").mkdir(parents=True)
    name = "prompts_es"
    package = read_packages()[COLLECTIONS[name].packages[0]]
    source = debs / Path(package.file).name
    shutil.copy(source, mirror / package.file)
    said: list[str] = []
    found = fetch([package], tmp_path / "cache", mirror=mirror.as_uri(), say=said.append)
    assert found[package.name].read_bytes() == source.read_bytes()
    assert said == [f"fetching asterisk-prompt-es-co 1-1 ({package.size / 1e6:.0f} MB)"]
    shutil.rmtree(mirror)
    assert fetch([package], tmp_path / "cache", mirror=mirror.as_uri(), say=said.append) == found  # it is kept
    assert len(said) == 1
    found[package.name].write_bytes(b"cut off")
    with pytest.raises(BenchmarkError, match="is not the pinned asterisk-prompt-es-co"):
        fetch([package], tmp_path / "cache", mirror=mirror.as_uri())
    with pytest.raises(BenchmarkError, match="cannot be fetched from file:///"):
        fetch([package], tmp_path / "other", mirror=mirror.as_uri())
    (mirror / "pool").mkdir(parents=True)
    (mirror / package.file).write_bytes(b"something else")
    with pytest.raises(BenchmarkError, match="is not the pinned"):
        fetch([package], tmp_path / "other", mirror=mirror.as_uri())
    assert not list((tmp_path / "other").iterdir()), "what is not the pinned package is not kept"


def test_fetching_by_apt(debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program ``apt-get`` that writes an epoch into the name, as the real one does."""
    package = read_packages()["ktuberling-data"]
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\ntest \"$3\" = ktuberling-data=1-1 || {{ echo 'E: no $3' >&2; exit 100; }}\n"
        f"cp {debs}/ktuberling-data_1-1_all.deb ktuberling-data_4%3a1-1_all.deb\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    found = fetch([package], tmp_path / "cache", say=lambda text: None)["ktuberling-data"]
    assert found.name == "ktuberling-data_1-1_all.deb"
    monkeypatch.setattr(packages, "MIRROR", tmp_path.as_uri())
    said: list[str] = []
    with pytest.raises(BenchmarkError, match="klettres-data 1-1 cannot be fetched from"):
        fetch([read_packages()["klettres-data"]], tmp_path / "cache", say=said.append)
    assert said[1].startswith("apt-get has no klettres-data 1-1 (E: no")


@pytest.mark.parametrize("name", ["../evil.wav", "usr/../../evil.wav", "/etc/evil.wav"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = debian_packages.deb(tmp_path / "a.deb", {"usr/a.wav": b"1", name: b"2"})
    with pytest.raises(BenchmarkError, match="outside the package's own folder"):
        unpack(path, lambda name: True)


def test_links_are_not_followed(tmp_path: Path) -> None:
    path = debian_packages.deb(tmp_path / "a.deb", {"./usr/a.wav": b"1"}, {"usr/b.wav": "/etc/passwd"})
    assert unpack(path, lambda name: name.endswith(".wav")) == {"usr/a.wav": b"1"}


def test_files_that_are_no_packages(tmp_path: Path) -> None:
    path = debian_packages.deb(tmp_path / "a.deb", {"usr/a.wav": bytes(2000)})
    for content, reason in (
        (b"odd", "not an ar archive"),
        (path.read_bytes()[:150], "no data.tar.xz"),
        (path.read_bytes()[:-40], "cut off"),
        (path.read_bytes()[:-40] + bytes(40), "cannot be read as a Debian package"),
    ):
        path.with_name("b.deb").write_bytes(content)
        with pytest.raises(BenchmarkError, match=reason):
            unpack(path.with_name("b.deb"), lambda name: True)


def test_the_pinned_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    table = read_packages()
    assert {name for collection in COLLECTIONS.values() for name in collection.packages} == table.keys()
    assert all(len(package.sha256) == 64 and package.licence and package.credit for package in table.values())
    assert 6e8 < sum(package.size for package in table.values()) < 8e8
    assert all(f"/{name}_" in package.file and package.file.endswith("_all.deb") for name, package in table.items())


def test_packages_with_other_contents(tmp_path: Path, debs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = debian_packages.deb(tmp_path / "festvox-ru_1-1_all.deb", {"usr/share/other.wav": debian_packages.wav()})
    table = yaml.safe_load((debs / "packages.yaml").read_text())
    table["festvox-ru"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "packages.yaml").write_text(yaml.safe_dump(table))
    monkeypatch.setattr(packages, "PACKAGES", tmp_path / "packages.yaml")
    with pytest.raises(BenchmarkError, match="festvox-ru are not as expected"):
        build(tmp_path, ["festvox_ru"], debs=tmp_path, workers=1)


def test_audio_that_cannot_be_decoded() -> None:
    for kind in ("file", "mp3"):
        with pytest.raises(ValueError, match=f"no {kind}"):
            decode(b"no audio at all", kind)


# --- Texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Press 1 to accept, or 2 to reject it...", "PRESS ONE TO ACCEPT OR TWO TO REJECT IT"),
        ("en", "exclaimation-point [!]", "EXCLAIMATION POINT"),
        ("en", "IAX (note: does not say \"2\")", "IAX"),
        ("en", "A.M.", "A M"),
        ("en", "It's o'clock, 'they' said: rockin'", "IT'S O'CLOCK THEY SAID ROCKIN"),
        ("en", "Dr. Jekyll & Mr. Hyde", None),
        ("en", "Dr. Jekyll and Mrs. Hyde", "DOCTOR JEKYLL AND MISSUS HYDE"),
        ("en", "a café", "A CAFE"),
        ("en", "H.323", None),
        ("en", "3D audio disabled", None),
        ("en", "at least a 28.8 kilobit modem", None),
        ("en", "<beep ascending>", None),
        ("en", "...", None),
        ("es", "¿COMO VA TODO, IGOR?", "COMO VA TODO IGOR"),
        ("es", "MI PLAN, FASE 1", "MI PLAN FASE UNO"),
        ("fr", "Si c'est exact appuyer…", "SI C'EST EXACT APPUYER"),
        ("fr", "soixante-dix", "SOIXANTE DIX"),
        ("fr", "“Pour quitter, appuyez sur 8.”", "POUR QUITTER APPUYEZ SUR HUIT"),
        ("it", "Se questo ? corretto", "SE QUESTO CORRETTO"),
        ("it", "dall’interno", "DALL'INTERNO"),
        ("ru", "Глаз+а", None),
        ("ru", "«Эхо-тест» завершён.", "ЭХО ТЕСТ ЗАВЕРШЁН"),
        ("ru", "используйте 7 для Q", None),
        ("cs", "Že někdo…", "ŽE NĚKDO"),
        ("nl", "'n Lekkere vis", "N LEKKERE VIS"),
        ("ro", "O maşină", "O MAȘINĂ"),
        ("bg", "Бухал", None),
    ],
)  # fmt: skip
def test_texts(language: str, text: str, expected: str | None) -> None:
    said, reason = normalise(text, language)
    assert said == expected
    assert (said is None) == bool(reason)


def test_digits_are_written_with_the_letters_of_their_language() -> None:
    for language, digits in DIGITS.items():
        assert len(digits.split()) == 10
        assert set(digits) <= set(ALPHABETS[language]) | {" "}


def test_clips_whose_text_is_wrong_are_left_out(
    built: Path, debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "excluded", lambda: frozenset(["asterisk_it/vm-press"]))
    build(tmp_path, ["asterisk_it"], debs=debs, workers=1)
    texts = {u.id: u.text for u in manifest.read(tmp_path / FOLDER / "asterisk_it.jsonl")}
    assert texts == {"asterisk_it/vm-press": None, "asterisk_it/letters/a": None}
    assert "says something else 1" in (tmp_path / FOLDER / "SOURCES.tsv").read_text(encoding="utf-8")


def test_error_rates_of_the_check() -> None:
    assert check.plain("Élan, ёж 2!") == "ELANЕЖ2"
    assert check.cer("PRESS ONE NOW", "press, one. now") == 0
    assert check.cer("ABCD", "ABXD") == 25
    assert check.heard("Press 1.", "en") == "PRESS ONE"
    assert check.heard("512", "en") == "512"


def test_a_text_is_wrong_if_whisper_hears_something_else_twice(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "wrong_texts.txt"
    listed.write_text("# head\nprompts_es/known\t77\n", encoding="utf-8")
    monkeypatch.setattr(check, "__file__", str(tmp_path / "check.py"))
    texts = {u.id: str(u.text) for u in check.chosen(built / FOLDER, ["amazon_queen"])}
    wrong, doubtful, *right = texts
    asked: list[tuple[bool, list[str]]] = []

    def transcripts(utterances: Sequence[Utterance], weights: Path, whole: bool) -> Iterator[dict[str, object]]:
        asked.append((whole, [utterance.id for utterance in utterances]))
        for utterance in utterances:
            heard = "zzzz" if utterance.id == wrong or (utterance.id == doubtful and not whole) else utterance.text
            yield {"id": utterance.id, "text": heard, "whole": whole}

    monkeypatch.setattr(check, "transcripts", transcripts)
    root = tmp_path / "root"
    shutil.copytree(built / FOLDER, root / FOLDER)
    arguments = [str(root), "--weights", "weights", "--source", "amazon_queen"]
    assert check.main([*arguments, "--write"]) == 0
    assert asked == [(False, [wrong, doubtful, *right]), (True, [wrong, doubtful])]
    assert listed.read_text(encoding="utf-8") == f"# head\n{wrong}\t100\nprompts_es/known\t77\n"
    asked.clear()
    assert check.main(arguments) == 0
    assert not asked, "what has been heard is kept"


def test_the_committed_list_names_clips() -> None:
    assert all("/" in name and name.split("/")[0].split("_")[0] for name in excluded())


# --- The corpus -------------------------------------------------------------------------------------------------------


def test_splits_of_what_is_there(built: Path, tmp_path: Path) -> None:
    corpus = prepare(built)
    ids = {name: [u.id for u in those] for name, those in corpus.splits.items()}
    assert ids["en-test"] == ["amazon_queen/07001FJ1", "amazon_queen/07001FJ2"]
    assert ids["en-dev"] == ["amazon_queen/060007J1", "amazon_queen/060007P1", "amazon_queen/060007P2",
                             "amazon_queen/060007P3"]  # fmt: skip
    assert ids["en-train"] == ["amazon_queen/080001J1"], "a text that dev has is not trained on"
    assert ids["asterisk-en"] == ["asterisk_en/vm-press"]
    assert len(ids["ru-train"]) == 4, "a fifth of four sentences is none"
    assert {u.speaker for u in corpus.splits["fish-train"]} == {"fillets_cs/big_fish", "fillets_nl/big_fish"}
    assert {u.speaker for u in corpus.splits["fish-test"]} == {"fillets_cs/small_fish", "fillets_nl/small_fish"}
    assert {u.session for u in corpus.splits["fish-dev"]} == {"fillets_cs/gods", "fillets_nl/gods"}
    assert {u.session for u in corpus.splits["fish-train"]} == {"fillets_cs/keys", "fillets_nl/keys"}
    for rotation in ("lid1", "lid2"):
        speakers = [{u.speaker for u in corpus.splits[f"{rotation}-{part}"]} for part in ("train", "dev", "test")]
        assert sum(map(len, speakers)) == len(set().union(*speakers))
        for part in ("train", "test"):
            assert {u.language for u in corpus.splits[f"{rotation}-{part}"]} == {"en", "es", "fr", "it", "ru"}
            assert all("/audio-4kHz/" in u.path for u in corpus.splits[f"{rotation}-{part}"])
    assert set(corpus.trials) == {"sv-en", "sv-es"}
    with pytest.raises(MissingData, match="DebianSpeech not found"):
        prepare(tmp_path)


def test_sets_of_one_voice_a_source_are_not_larger_than_they_tell(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def most(name: str) -> int:
        return max(Counter(u.id.split("/")[0] for u in prepare(built).splits[name]).values())

    before = {name: most(name) for name in ("lid2-train", "lid2-dev", "lid2-test")}
    assert before["lid2-test"] > 1
    monkeypatch.setattr("downstream.corpora.debian_speech.corpus.LID_MOST", {"train": None, "dev": 1, "test": 1})
    assert (most("lid2-dev"), most("lid2-test")) == (1, 1)
    assert most("lid2-train") == before["lid2-train"]


def clips(count: int, speakers: int = 3) -> list[Clip]:
    return [
        Clip("s", f"{speaker}-{k}", f"s/{speaker}", "en", "s", "Yes." if k < 2 else f"{speaker} {k}", None, {}, 2.0, "")
        for speaker in range(speakers)
        for k in range(count)
    ]


def test_trials_are_balanced_and_never_of_the_same_text() -> None:
    those = clips(12)
    trials = make_trials(those)
    assert trials == make_trials(those[::-1])
    said = {clip.id: clip.text for clip in those}
    speaker = {clip.id: clip.speaker for clip in those}
    assert all(said[t.enrolment] != said[t.test] for t in trials)
    assert all(t.label == (speaker[t.enrolment] == speaker[t.test]) for t in trials)
    labels = [t.label for t in trials]
    assert sum(labels) == len(labels) / 2 == 3 * (12 * 11 // 2 - 1)
    assert len({(t.enrolment, t.test) for t in trials}) == len(trials)
    assert not make_trials(clips(5)), "too few clips of each"


def test_a_text_that_cannot_be_said_in_the_time_is_left_out() -> None:

    clip = Clip("s", "a", "s/x", "it", "s", "Un suono di beep discendente", None, {}, 0.38, "")
    assert transcript(clip, frozenset()) == (None, "too long for its time")
    assert transcript(replace(clip, seconds=2.0), frozenset())[0] == "UN SUONO DI BEEP DISCENDENTE"
    assert transcript(replace(clip, seconds=2.0), frozenset(["s/a"])) == (None, "says something else")
