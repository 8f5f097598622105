"""VoxLingua107, CommonLanguage and FLEURS."""

from __future__ import annotations

from downstream.corpora.synthetic.layout import Layout, Texts
from downstream.corpora.synthetic.recording import SAMPLE_RATE, Clip
from downstream.corpora.synthetic.sentences import sentence, words_in
from downstream.corpora.synthetic.sizes import Size
from downstream.corpora.synthetic.voices import draw_speaker, generator
from downstream.corpora.synthetic.voxceleb import video_name

COMMON = {"Dutch": "nl", "English": "en", "French": "fr", "German": "de", "Indonesian": "id", "Italian": "it",
          "Polish": "pl", "Portuguese": "pt", "Romanian": "ro", "Russian": "ru", "Spanish": "es", "Swedish": "sv",
          "Turkish": "tr"}  # fmt: skip
"""CommonLanguage's folders -> languages of :data:`.sentences.WORDS`."""


def voxlingua107(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Every recording has a speaker of its own."""
    clips: list[Clip] = []
    for language in size.lang_languages:
        for part, videos, utterances in (("", size.lang_videos, size.lang_utterances), ("dev/", size.lang_dev, 1)):
            for k in range(videos):
                rng = generator(seed, "VoxLingua107", language, part, k)
                video = video_name(rng)
                speaker = draw_speaker(seed, "VoxLingua107", language, part, k)
                start = 0.0
                for segment in range(utterances):
                    start = round(start + rng.uniform(0.5, 20), 3)
                    end = round(start + round(rng.uniform(*size.lang_seconds), 2), 3)
                    text = sentence(rng, language, words_in(rng, end - start))
                    path = f"{part}{language}/{video}__U__S{segment}---{start:08.3f}-{end:08.3f}.wav"
                    seconds = round(end - start, 3)
                    clips.append(
                        Clip(path, speaker, speaker.voice(language), text, seconds, f"{seed} {language} {video}", 1.0)
                    )
    return clips, {}


def commonlanguage(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """With the published tables next to the folders: tab-separated, UTF-16. A clip holds a part of its sentence."""
    clips: list[Clip] = []
    texts: Texts = {}
    for name in size.common_languages:
        language = COMMON[name]
        for part, short, speakers in zip(
            ("train", "dev", "test"), ("trn", "dev", "tst"), size.common_speakers, strict=True
        ):
            rows = ["\tclient_id\tpath\tsentence\tage\tgender"]
            for k in range(1, speakers + 1):
                client = f"{language}_{short}_sp_{k}"
                speaker = draw_speaker(seed, "CommonLanguage", client)
                rng = generator(seed, "CommonLanguage", client)
                for _ in range(size.common_utterances):
                    seconds = round(rng.uniform(*size.common_seconds), 2)
                    text = sentence(rng, language, words_in(rng, seconds))
                    file = f"common_voice_{language}_{rng.integers(10_000_000, 100_000_000)}.wav"
                    path, session = f"{name}/{part}/{client}/{file}", f"{seed} {client}"
                    clips.append(Clip(path, speaker, speaker.voice(language), text, seconds, session, 0.7))
                    gender = "female" if speaker.sex == "f" else "male"
                    rows.append(f"{len(rows) - 1}\t{client}\t{file}\t{text}\tnot_defined\t{gender}")
            texts[f"{name}/{part}.csv"] = ("\n".join(rows) + "\n").encode("utf-16")
    return clips, texts


def fleurs(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Tables without a header: id of the sentence, file, text as written, text, characters, samples, gender.

    A clip holds only a part of its sentence, so that transcripts do not match the audio.
    """
    clips: list[Clip] = []
    texts: Texts = {}
    for config in size.fleurs_configs:
        language = config.split("_")[0]
        number = 0
        for part, sentences in zip(("train", "dev", "test"), size.fleurs_sentences, strict=True):
            rows = []
            for _ in range(sentences):
                number += 1  # the same in all languages: FLEURS reads translations
                rng = generator(seed, "fleurs", config, number)
                raw = sentence(rng, language, words_in(rng, sum(size.fleurs_seconds) / 2))
                text = raw.replace(",", "")
                for reading in range(size.fleurs_readings):
                    speaker = draw_speaker(seed, "fleurs", config, number, reading)
                    seconds = round(rng.uniform(*size.fleurs_seconds), 2)
                    file = f"{rng.integers(10**17, 10**18)}.wav"
                    path, session = f"{config}/audio/{part}/{file}", f"{seed} {config} {number} {reading}"
                    clips.append(Clip(path, speaker, speaker.voice(language), text, seconds, session, 0.5))
                    characters = " ".join("|".join(text.split())) + " |"
                    samples = round(seconds * SAMPLE_RATE)
                    gender = "FEMALE" if speaker.sex == "f" else "MALE"
                    written = raw[0].upper() + raw[1:] + "."
                    rows.append(f"{number}\t{file}\t{written}\t{text}\t{characters}\t{samples}\t{gender}")
            texts[f"{config}/{part}.tsv"] = "\n".join(rows) + "\n"
    return clips, texts


LAYOUTS = (
    Layout("VoxLingua107", ("voxlingua107",), ("lang_",), voxlingua107),
    Layout("CommonLanguage", ("commonlanguage",), ("common_",), commonlanguage),
    Layout("fleurs", ("fleurs",), ("fleurs_",), fleurs),
)
