"""The folder that ``downstream.corpora.debian_speech`` makes, with synthetic voices: as many as it takes for its
protocols to run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from downstream.corpora.debian_speech.building import FOLDER, MARKER, VERSION
from downstream.corpora.debian_speech.corpus import FISH_DEV_LEVELS, LID, QUEEN_DEV, QUEEN_TEST, VOICES
from downstream.corpora.debian_speech.trials import TRIALS
from downstream.corpora.synthetic.layout import Layout, Texts
from downstream.corpora.synthetic.recording import Clip
from downstream.corpora.synthetic.sentences import english_sentence, sentence, words_in
from downstream.corpora.synthetic.sizes import Size
from downstream.corpora.synthetic.voices import draw_speaker, generator

_LETTERS = str.maketrans("", "", "0123456789,")


@dataclass(frozen=True)
class _Line:
    """A clip to be: who says it, where, and whether it is in the source's manifest, in that of 4 kHz or in both."""

    source: str
    speaker: str
    session: str
    wide: bool
    narrow: bool


def _lines(size: Size) -> list[_Line]:
    lines = []
    count = size.real_clips
    for source in dict.fromkeys(source for sources in LID.values() for source in sources):
        if source not in ("amazon_queen", *TRIALS):
            wide = source in ("asterisk_en", "festvox_ru")
            total = 4 * count if source == "festvox_ru" else count
            lines += [_Line(source, "speaker", f"part{k % 2}", wide, k < count) for k in range(total)]
    for character, voice in enumerate(VOICES):
        dialogues = [("A.DOG", "B.DOG", QUEEN_TEST[0], QUEEN_DEV[0])[(k + character) % 4] for k in range(count)]
        lines += [_Line("amazon_queen", voice, dialogue, True, k < 1) for k, dialogue in enumerate(dialogues)]
    for source in TRIALS:
        for voice in ("hacker", "igor", "werewolf"):
            lines += [_Line(source, voice, voice, True, True) for _ in range(count)]
    for language in ("cs", "nl"):
        for fish in ("small_fish", "big_fish"):
            levels = [f"level{k % (FISH_DEV_LEVELS + 1)}" for k in range(2 * FISH_DEV_LEVELS)]
            lines += [_Line(f"fillets_{language}", fish, level, True, True) for level in levels[: 4 * count]]
    return lines


def debian_speech(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Wideband and 4 kHz clips are the same recordings here."""
    clips: list[Clip] = []
    manifests: dict[str, list[str]] = {}
    spoken: dict[str, list[tuple[str, str]]] = {}
    for number, line in enumerate(_lines(size)):
        rng = generator(seed, "DebianSpeech", number)
        language = line.source[-2:] if line.source != "amazon_queen" else "en"
        speaker = draw_speaker(seed, "DebianSpeech", line.source, line.speaker)
        seconds = round(rng.uniform(*size.real_seconds), 2)
        words = words_in(rng, seconds)
        said = english_sentence(rng, words) if language == "en" else sentence(rng, language, words)
        text = " ".join(said.translate(_LETTERS).upper().split()) or "НЕТ"
        name, path = f"{line.source}/{number:05}", f"audio/{line.source}/{number:05}.wav"
        clips.append(Clip(path, speaker, speaker.voice(language), text.lower(), seconds, f"{seed} {line.source}", 0.3))
        row = {"id": name, "path": path, "speaker": f"{line.source}/{line.speaker}", "language": language,
               "session": f"{line.source}/{line.session}"}  # fmt: skip
        if line.wide:
            manifests.setdefault(line.source, []).append(json.dumps(row | {"text": text}, ensure_ascii=False))
        if line.narrow:
            manifests.setdefault(f"{line.source}-4kHz", []).append(json.dumps(row))
        spoken.setdefault(line.source, []).append((name, line.speaker))
    texts: Texts = {f"{name}.jsonl": "\n".join([*rows, ""]) for name, rows in manifests.items()}
    for source in TRIALS:
        pairs = [(a, b) for place, a in enumerate(spoken[source]) for b in spoken[source][place + 1 :]]
        texts[f"{source}.trials"] = "".join(f"{int(a[1] == b[1])} {a[0]} {b[0]}\n" for a, b in pairs)
    texts[MARKER] = json.dumps({"version": VERSION}) + "\n"
    return clips, texts


LAYOUTS = (Layout(FOLDER, ("debian_speech",), ("real_",), debian_speech),)
