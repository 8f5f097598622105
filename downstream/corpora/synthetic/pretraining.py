"""Speech for pre-training, with speakers and words of its own."""

from __future__ import annotations

from pathlib import Path

from downstream.corpora.synthetic.layout import Texts
from downstream.corpora.synthetic.recording import SAMPLE_RATE, Clip
from downstream.corpora.synthetic.sentences import WORDS, sentence, words_in
from downstream.corpora.synthetic.voices import draw_speaker, generator


def plan(root: Path, hours: float, seed: int) -> tuple[list[Clip], Texts]:
    """Clips of 6 s in all languages, and fairseq's manifests, which name ``root``."""
    languages = ("en", *WORDS)
    seconds = 6.0
    count = max(32, round(hours * 3600 / seconds))
    clips = []
    for k in range(count):
        rng = generator(seed, "pretraining", k)
        number = k % max(16, count // 12)
        speaker = draw_speaker(seed, "pretraining", number)
        language = str(rng.choice(languages, p=[0.25] + [0.75 / len(WORDS)] * len(WORDS)))
        text = sentence(rng, language, words_in(rng, seconds), parity=1)
        path = f"wav/{number:04d}/{number:04d}-{k:05d}-{language}.wav"
        strength = round(rng.uniform(0, 1), 3)
        clips.append(Clip(path, speaker, speaker.voice(language), text, seconds, f"{seed} pretraining {k}", strength))
    # Every 50th speaker is for validation. fairseq's manifests: the folder, then "path<tab>samples" lines.
    lists: dict[str, list[str]] = {"train": [], "valid": []}
    for clip in clips:
        part = "valid" if int(clip.path.split("/")[1]) % 50 == 0 else "train"
        lists[part].append(f"{clip.path}\t{round(seconds * SAMPLE_RATE)}")
    return clips, {f"{part}.tsv": "\n".join([str(root.resolve()), *lines]) + "\n" for part, lines in lists.items()}
