"""Packages as small as can be, in the containers and formats of the real ones: tones for voices."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import yaml

from downstream.corpora.debian_speech import packages
from downstream.corpora.debian_speech.sources import COLLECTIONS, DRASCULA

RATE = 8000


def tone(frequency: float, seconds: float = 1.2, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, **how: str) -> bytes:
    """By libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **how)
    return buffer.getvalue()


def wav(frequency: float = 300, seconds: float = 1.2, rate: int = 16000) -> bytes:
    return encoded(tone(frequency, seconds, rate), rate, format="WAV", subtype="PCM_16")


def ogg(frequency: float = 300, seconds: float = 1.2) -> bytes:
    return encoded(tone(frequency, seconds, 22050), 22050, format="OGG", subtype="VORBIS")


def gsm(frequency: float = 300, seconds: float = 1.2) -> bytes:
    return encoded(tone(frequency, seconds), RATE, format="RAW", subtype="GSM610")


def mp3(frequency: float = 300, seconds: float = 1.2) -> bytes:
    return encoded(tone(frequency, seconds, 11025), 11025, format="MP3")


def als(frequency: float = 300, seconds: float = 2.0) -> bytes:
    return b"\x80" * 32 + (tone(frequency, seconds, 11025) * 127 + 128).astype(np.uint8).tobytes()


def g722(frequency: float = 300, seconds: float = 1.2) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono", format="s16")
        samples = (tone(frequency, seconds, 16000) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def queen(dialogues: Mapping[str, bytes], audio: Mapping[str, bytes]) -> bytes:
    """``queen.1c``."""
    entries = sorted({**dialogues, **audio}.items())
    place = 15 + 21 * len(entries)
    head = b"QTBLCEM10" + bytes(4) + struct.pack(">H", len(entries))
    table = b""
    for name, content in entries:
        table += struct.pack(">12sBII", name.encode(), 1, place, len(content))
        place += len(content)
    return head + table + b"".join(content for _, content in entries)


def dialogue(key: int, other: list[tuple[int, str]], player: list[tuple[int, str]]) -> bytes:
    """A ``.DOG`` file of one level."""

    def lines(those: list[tuple[int, str]], start: int) -> bytes:
        table = b""
        for number, text in those:
            spoken = text.encode("cp850")
            table += struct.pack(">HHB", 0, number, len(spoken)) + spoken
            table += bytes(-(start + len(table)) % 4)
        return table

    first = 32 + 96
    own = lines(player, first)
    second = first + len(own)
    data = struct.pack(">5h", 1, 0, key, len(player), len(other)).ljust(22, b"\0") + struct.pack(">H", second)
    return b"AmBk" + bytes(16) + data.ljust(first, b"\0") + own + lines(other, second)


def drascula_dat(texts: Mapping[str, list[str]]) -> bytes:
    """Tables of texts, all languages alike; the hero's has 501."""
    data = b"DRASCULA\6" + bytes(20) + struct.pack(">H", 6)
    for table in dict.fromkeys(("", "d", "b", "bj", "e", "i", "l", "p", "t", "vb")):
        those = ["", *texts.get(table, [])]
        those += [""] * (501 - len(those) if table == "" else 1)
        spoken = [text.encode("cp850") + b"\0" for text in those]
        block = bytes(2) + b"".join(struct.pack(">H", len(text) + 2) + text for text in spoken)
        data += struct.pack(">H", len(those)) + 6 * (struct.pack(">H", len(block)) + block)
    return data


def deb(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] = {}) -> Path:
    """An ``ar`` archive with ``data.tar.xz``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    data = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(b"odd")),
                          ("data.tar.xz", lzma.compress(buffer.getvalue()))):  # fmt: skip
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return path


def everything() -> dict[str, dict[str, bytes]]:
    """Package -> its files, of every collection."""
    made: dict[str, dict[str, bytes]] = {}
    for place, language in enumerate(("en", "es", "fr", "it", "ru")):
        sounds = f"./usr/share/asterisk/sounds/{language}_XX"
        made[f"asterisk-core-sounds-{language}-g722"] = {
            f"{sounds}/vm-press.g722": g722(200 + 40 * place),
            f"{sounds}/letters/a.g722": g722(250 + 40 * place),
            f"{sounds}/silence/1.g722": g722(1),
            f"{sounds}/beep.g722": g722(900, 0.2),
        }
        listed = "\ufeff; Core Sounds\n\nvm-press: Press 1: now, please...\nletters/a: a\nbeep: [tone]\n"
        listed = listed if language != "ru" else listed.replace("Press 1: now, please", "Нажмите 1")
        made[f"asterisk-core-sounds-{language}"] = {
            f"./usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz": gzip.compress(
                listed.encode()
            )
        }
    sounds = "./usr/share/asterisk/sounds"
    made["asterisk-prompt-es-co"] = {f"{sounds}/es/hola.gsm": gsm(500), f"{sounds}/es/digits/1.gsm": gsm(510)}
    made["asterisk-prompt-fr-armelle"] = {f"{sounds}/fr/salut.gsm": gsm(520), f"{sounds}/digits/fr/1.gsm": gsm(530)}
    made["asterisk-prompt-it-menardi-wav"] = {f"{sounds}/it_IT_f_Menardi/ciao.wav": wav(540, rate=8000)}
    voice = "./usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    sentences = [
        "Глаз+а ленивые, серо-карие.",
        "В 1914 году.",
        "Таков, в общих чертах.",
        "Идти было легко.",
        "Ну, нет.",
    ]
    lines = [f'( ru_{k:04d} "{text}" )' for k, text in enumerate(sentences, start=1)]
    made["festvox-ru"] = {f"{voice}/etc/txt.done.data": "\n".join([*lines, ""]).encode()} | {
        f"{voice}/wav/ru_{k:04d}.wav": wav(100 + 10 * k) for k in range(1, 6)
    }
    made["flight-of-the-amazon-queen"] = {"./usr/share/scummvm/flight-of-the-amazon-queen/queen.1c": queen(*_queen())}
    drascula = {f"{name}{k}.ALS": als(200 + 30 * place) for place, name in enumerate(DRASCULA) for k in range(1, 8)}
    texts = {"bj": "ja", **dict.fromkeys(("", "d", "b", "e", "i", "l", "p", "t", "vb"), "no")}
    spoken = {table: [f"{word}, line {k}? ñandú".upper() for k in "abcdefg"] for table, word in texts.items()}
    made["drascula"] = {f"./usr/share/scummvm/drascula/en/{name}": data for name, data in drascula.items()} | {
        "./usr/share/scummvm/drascula/en/drascula.dat": drascula_dat(spoken),
        "./usr/share/scummvm/drascula/en/S1.ALS": als(),
    }
    made["drascula-spanish"] = {f"./usr/share/scummvm/drascula/es/{name}": data for name, data in drascula.items()}
    game = "./usr/share/games/fillets-ng"
    fish = [("font_small", "Podívej, říkala?"), ("font_big", 'Aha \\"no\\".'), ("font_white", "100 let")]
    for language in ("cs", "nl"):
        made[f"fillets-ng-data-{language}"] = {
            f"{game}/sound/{level}/{language}/line-{k}.ogg": ogg(200 + 50 * k)
            for level in ("keys", "gods") for k in range(4)
        }  # fmt: skip
    scripts = {
        f"{game}/script/{level}/{kind}dialogs_{language}.lua": "\n".join(
            f'dialogId("line-{k}", "{font}", "An \\"English\\" line.")\ndialogStr("{text}")\n'
            for k, (font, text) in enumerate(fish)
        ).encode()
        for level in ("keys", "gods") for kind in ("", "demo_") for language in ("cs", "nl", "de")
    }  # fmt: skip
    made["fillets-ng-data"] = scripts | {f"{game}/sound/keys/splash.ogg": ogg()}
    stamps = "./usr/share/tuxpaint/stamps/animals"
    made["tuxpaint-stamps-default"] = {
        f"{stamps}/owl_desc_{language}.ogg": ogg(200 + 30 * k)
        for k, language in enumerate(("es", "fr", "ru", "bg", "ko"))
    } | {f"{stamps}/owl.txt": "An owl.\nes.utf8=Un búho.\nfr.utf8=Un hibou\nru.utf8=Сова.\nbg.utf8=Бухал".encode()}
    made["klettres-data"] = {f"./usr/share/klettres/{language}/alpha/a.ogg": ogg(440, 0.6) for language in ("it", "lt")}
    made["ktuberling-data"] = {"./usr/share/ktuberling/sounds/it/naso.wav": wav(450, 0.7)}
    return made


def _queen() -> tuple[dict[str, bytes], dict[str, bytes]]:
    dialogues = {
        "BOB2.DOG": dialogue(6, [(7, "Okay.*00Mr. Bob's*XY00(128,112) shop.")], [(7, "Hello there.*03")]),
        "FAYE4.DOG": dialogue(7, [(1, "Yes, 25!"), (1, "Not said.")], [(31, "Is it *AO9 o'clock?")]),
        "JOHN1.DOG": dialogue(8, [(1, "Hello there.")], [(1, "That's all."), (2, "No recording.")]),
    }
    codes = ("060007P1", "060007P2", "060007P3", "060007J1", "070001P1", "07001FJ1", "07001FJ2", "080001P1", "080001J1")
    audio = {f"{code}.SB": mp3(150 + 20 * k) for k, code in enumerate((*codes, "C1A__011"))}
    return dialogues, audio


def write(folder: Path) -> Path:
    """Write all packages, and the table that pins them; returns the latter."""
    folder.mkdir(parents=True)
    table = {}
    for name, files in everything().items():
        path = deb(folder / f"{name}_1-1_all.deb", files)
        table[name] = {
            "version": "1-1", "file": f"pool/{path.name}", "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "licence": "none", "credit": "nobody",
        }  # fmt: skip
    assert table.keys() == {name for collection in COLLECTIONS.values() for name in collection.packages}
    assert table.keys() == packages.read_packages().keys()
    listed = folder / "packages.yaml"
    listed.write_text(yaml.safe_dump(table))
    return listed
