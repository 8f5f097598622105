"""LibriSpeech, and Libri-light's sets for limited supervision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from downstream.corpora.synthetic.layout import Layout, Texts
from downstream.corpora.synthetic.recording import Clip
from downstream.corpora.synthetic.sentences import english_sentence
from downstream.corpora.synthetic.sizes import Size
from downstream.corpora.synthetic.voices import Speaker, draw_speaker, generator


def _libri_speakers(size: Size, seed: int) -> Iterator[tuple[str, int, Speaker, list[Clip]]]:
    """LibriSpeech by speaker: split, number, voice, clips in chapter order."""
    plan = [(*row, size.libri_words, "") for row in (*size.libri, *size.libri_more) for _ in range(row[1])]
    chapters = 2 if sum(size.light_utterances) > 1 else 1
    for split in ("train-clean-360", "train-other-500"):  # the source of Libri-light's sets
        for k in range(6 * size.light_speakers):
            utterances = -(-sum(size.light_utterances) // chapters)
            plan.append((split, 1, chapters, utterances, size.light_words, "fm"[k % 2]))
    for number, (split, _, chapters, utterances, words, sex) in enumerate(plan, start=101):
        speaker = draw_speaker(seed, "LibriSpeech", number, sex=sex)
        rng = generator(seed, "LibriSpeech", number)
        clips = []
        for chapter in range(number * 10 + 1, number * 10 + 1 + chapters):
            low, high = (0.5, 0.9) if "other" in split else (0.1, 0.5)
            strength = round(rng.uniform(low, high), 3)
            for k in range(utterances):
                text = english_sentence(rng, int(rng.integers(*words)))
                path = f"{split}/{number}/{chapter}/{number}-{chapter}-{k:04d}.flac"
                clips.append(Clip(path, speaker, speaker.accent, text, None, f"{seed} {chapter}", strength))
        yield split, number, speaker, clips


def _transcripts(clips: Iterable[Clip]) -> Texts:
    """``<speaker>-<chapter>.trans.txt`` of each folder of clips."""
    lines: dict[str, list[str]] = {}
    for clip in clips:
        folder, name = clip.path.rsplit("/", 1)
        transcript = f"{folder}/{name.rsplit('-', 1)[0]}.trans.txt"
        lines.setdefault(transcript, []).append(f"{name.removesuffix('.flac')} {clip.text.upper()}\n")
    return {path: "".join(transcript) for path, transcript in lines.items()}


def librispeech(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """With transcripts and ``SPEAKERS.TXT``."""
    clips: list[Clip] = []
    table = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for split, number, speaker, spoken in _libri_speakers(size, seed):
        clips += spoken
        table.append(f"{number:<5}| {speaker.sex.upper()} | {split:<17}| 0.00  | Synthetic {number}")
    return clips, _transcripts(clips) | {"SPEAKERS.TXT": "\n".join(table) + "\n"}


def librilight(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Copies of files of LibriSpeech's training sets. The hour is six disjoint sets of 10 minutes; the ten hours are it
    and ``9h``. Kahn et al.: Libri-light: a benchmark for ASR with limited or no supervision, ICASSP 2020."""
    clips: list[Clip] = []
    order = {"train-clean-360": 0, "train-other-500": 0}
    for split, _, _, spoken in _libri_speakers(size, seed):
        if split not in order:
            continue
        ten_minutes = order[split] // size.light_speakers
        order[split] += 1
        for k, clip in enumerate(spoken[: sum(size.light_utterances)]):
            folder = f"1h/{ten_minutes}" if k < size.light_utterances[0] else "9h"
            path = f"{folder}/{split.split('-')[1]}/{clip.path.removeprefix(split + '/')}"
            clips.append(replace(clip, path=path, take=clip.path))
    return clips, _transcripts(clips)


LAYOUTS = (
    Layout("LibriSpeech", ("librispeech", "librilight"), ("libri", "light_"), librispeech),
    Layout("librispeech_finetuning", ("librilight",), ("libri", "light_"), librilight),
)
