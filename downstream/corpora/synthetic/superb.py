"""IEMOCAP, Speech Commands with its test set, and Fluent Speech Commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from downstream.corpora.synthetic.layout import Layout, Texts
from downstream.corpora.synthetic.recording import Clip
from downstream.corpora.synthetic.sentences import english_sentence, words_in
from downstream.corpora.synthetic.sizes import Size
from downstream.corpora.synthetic.voices import Speaker, draw_speaker, generator

if TYPE_CHECKING:
    import numpy as np

DIALOGUES = ("F_impro01", "M_script01_1", "F_script02_1", "M_impro05")
PROSODY = {"neu": (1.0, 1.0, 1.0), "hap": (1.1, 1.25, 1.6), "exc": (1.2, 1.35, 1.8), "ang": (1.25, 1.0, 1.5),
           "sad": (0.75, 0.85, 0.4), "fru": (1.1, 0.9, 1.0)}  # fmt: skip
"""Emotion -> factors on a speaker's rate, pitch and range of pitch."""

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = ("bed", "bird", "cat", "happy", "marvin", "sheila", "tree", "wow")
NOISES = ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise")

PHRASES = (
    ("turn on the lights in the kitchen", "activate", "lights", "kitchen"),
    ("turn the lights off in the bedroom", "deactivate", "lights", "bedroom"),
    ("turn the heating up in the washroom", "increase", "heat", "washroom"),
    ("make the music a little louder", "increase", "volume", "none"),
    ("turn the heating down in the kitchen", "decrease", "heat", "kitchen"),
    ("could you lower the volume please", "decrease", "volume", "none"),
    ("would you bring me the newspaper", "bring", "newspaper", "none"),
    ("please go and get me some juice", "bring", "juice", "none"),
    ("switch the bedroom lights on", "activate", "lights", "bedroom"),
    ("please start playing the music", "activate", "music", "none"),
    ("stop playing the music now", "deactivate", "music", "none"),
    ("change the system language to german", "change language", "German", "none"),
)
"""Transcription, action, object, location."""


def _acting(speaker: Speaker, emotion: str) -> Speaker:
    """The same voice in an emotion."""
    rate, pitch, spread = PROSODY[emotion]
    lines = speaker.definition.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("pitch "))
    low, high = (float(value) * pitch for value in lines[place].split()[1:])
    lines[place] = f"pitch {low:.0f} {low + (high - low) * spread:.0f}"
    return replace(speaker, rate=round(speaker.rate * rate), definition="\n".join(lines) + "\n")


def iemocap(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Two actors a session, who say each emotion as often in each dialogue; with an emotion that SUPERB leaves out."""
    clips: list[Clip] = []
    texts: Texts = {}
    for number in range(1, 6):
        actors = {sex: draw_speaker(seed, "IEMOCAP", number, sex=sex.lower()) for sex in "FM"}
        for name in DIALOGUES[: size.iemocap_dialogues]:
            dialogue = f"Ses{number:02}{name}"
            rng = generator(seed, "IEMOCAP", dialogue)
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            turns = {"F": 0, "M": 0}
            plan = [(sex, emotion) for sex in actors for emotion in PROSODY for _ in range(size.iemocap_turns)]
            now = 5.0
            for sex, emotion in (plan[k] for k in rng.permutation(len(plan))):
                turn = f"{dialogue}_{sex}{turns[sex]:03}"
                turns[sex] += 1
                seconds = round(rng.uniform(*size.iemocap_seconds), 2)
                speaker = _acting(actors[sex], emotion)
                text = english_sentence(rng, words_in(rng, seconds))
                path = f"Session{number}/sentences/wav/{dialogue}/{turn}.wav"
                clips.append(Clip(path, speaker, speaker.accent, text, seconds, f"{seed} {dialogue}", 0.2))
                lines.append(f"[{now:.4f} - {now + seconds:.4f}]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]")
                lines += [f"C-E1:\t{emotion};\t()", "A-E1:\tval 3; act 2; dom  2;\t()", ""]
                now = round(now + seconds + rng.uniform(0.1, 2), 4)
            texts[f"Session{number}/dialog/EmoEvaluation/{dialogue}.txt"] = "\n".join(lines)
    return clips, texts


def _hexadecimal(rng: np.random.Generator, digits: int) -> str:
    return "".join(rng.choice(list("0123456789abcdef"), size=digits))


def _command(seed: int, path: str, name: str, speaker: Speaker, text: str, seconds: float = 1.0) -> Clip:
    return Clip(path, speaker, speaker.accent, text, seconds, f"{seed} SpeechCommands {name}", 0.5, pad=True)


def _commands(size: Size, seed: int) -> Iterator[tuple[str, str, Clip]]:
    """(``train``, ``validation`` or ``testing``; word; clip) of each word that a speaker says."""
    for split, speakers in zip(("train", "validation", "testing"), size.commands_speakers, strict=True):
        for k in range(speakers):
            name = _hexadecimal(generator(seed, "SpeechCommands", split, k), 8)
            speaker = draw_speaker(seed, "SpeechCommands", split, k)
            for word in (*KEYWORDS, *OTHER_WORDS[: size.commands_others]):
                yield split, word, _command(seed, f"{word}/{name}_nohash_0.wav", name, speaker, word)


def speech_commands(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Words of a second, the lists, and recordings of noise."""
    lists: dict[str, list[str]] = {"train": [], "validation": [], "testing": []}
    clips: list[Clip] = []
    for split, _, clip in _commands(size, seed):
        lists[split].append(clip.path)
        clips.append(clip)
    for name in NOISES:
        speaker = draw_speaker(seed, "SpeechCommands", name)  # who says nothing
        clips.append(_command(seed, f"_background_noise_/{name}.wav", name, speaker, "", size.commands_noise))
    return clips, {f"{split}_list.txt": "".join(f"{path}\n" for path in lists[split]) for split in list(lists)[1:]}


def speech_commands_test(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """The keywords of the testing list, one other word and one second of silence of each speaker."""
    clips: list[Clip] = []
    for split, word, clip in _commands(size, seed):
        if split != "testing":
            continue
        file = clip.path.rpartition("/")[2]
        if word in KEYWORDS:
            clips.append(replace(clip, take=clip.path))
        elif word == OTHER_WORDS[0]:
            clips.append(replace(clip, path=f"_unknown_/{file}", take=clip.path))
            clips.append(_command(seed, f"_silence_/{file}", f"silence {file}", clip.speaker, ""))
    return clips, {}


def fluent_speech_commands(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Each speaker says each phrase once."""
    clips: list[Clip] = []
    texts: Texts = {}
    for split, speakers in zip(("train", "valid", "test"), size.fluent_speakers, strict=True):
        rows = [",path,speakerId,transcription,action,object,location"]
        for k in range(speakers):
            rng = generator(seed, "FluentSpeechCommands", split, k)
            speaker, name = draw_speaker(seed, "FluentSpeechCommands", split, k), _hexadecimal(rng, 16)
            for text, *intent in PHRASES[: size.fluent_phrases]:
                file = "-".join(_hexadecimal(rng, digits) for digits in (8, 4, 4, 4, 12))
                path = f"wavs/speakers/{name}/{file}.wav"
                clips.append(Clip(path, speaker, speaker.accent, text, None, f"{seed} {name}", 0.4))
                written = text[0].upper() + text[1:]
                rows.append(f"{len(rows) - 1},{path},{name},{written},{','.join(intent)}")
        texts[f"data/{split}_data.csv"] = "\n".join(rows) + "\n"
    return clips, texts


LAYOUTS = (
    Layout("IEMOCAP_full_release", ("iemocap",), ("iemocap_",), iemocap),
    Layout("speech_commands_v0.01", ("speech_commands",), ("commands_",), speech_commands),
    Layout("speech_commands_test_set_v0.01", ("speech_commands",), ("commands_",), speech_commands_test),
    Layout("fluent_speech_commands_dataset", ("fluent_speech_commands",), ("fluent_",), fluent_speech_commands),
)
