"""How much of each corpus is written."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Size:
    """How much is written. Durations in seconds.

    The fields of a corpus share a prefix (:attr:`.layout.Layout.fields`). A new field extends existing trees.
    """

    vox_dev: int
    """VoxCeleb1: speakers in ``dev``."""
    vox_test: int
    vox_videos: int
    """Recordings of a speaker."""
    vox_utterances: int
    """Utterances of a recording."""
    vox_seconds: tuple[float, float]
    vox_trials: int
    """Trials of each list, half of them of one speaker."""
    vox2_speakers: int
    """VoxCeleb2: speakers, all in ``dev``."""
    vox2_videos: int
    vox2_utterances: int
    vox2_seconds: tuple[float, float]
    libri: tuple[tuple[str, int, int, int], ...]
    """LibriSpeech: (split, speakers, chapters of a speaker, utterances of a chapter)."""
    libri_words: tuple[int, int]
    """Words in an utterance: drawn from this range, then rounded up to whole clauses."""
    libri_more: tuple[tuple[str, int, int, int], ...]
    """As ``libri``, with speaker numbers after those."""
    light_speakers: int
    """Libri-light: speakers of a 10-minute set, as many in ``clean`` as in ``other``, women and men in turn."""
    light_utterances: tuple[int, int]
    """Utterances of a speaker in the 10-minute set and in ``9h``; in the published sets their ratio is 1 to 9."""
    light_words: tuple[int, int]
    lang_languages: tuple[str, ...]
    """VoxLingua107: languages."""
    lang_videos: int
    """Recordings of a language, each with a speaker of its own."""
    lang_utterances: int
    lang_dev: int
    """Recordings of a language in ``dev``, of one utterance each."""
    lang_seconds: tuple[float, float]
    common_languages: tuple[str, ...]
    """CommonLanguage: languages, of :data:`COMMON`."""
    common_speakers: tuple[int, int, int]
    """Speakers of a language in ``train``, ``dev`` and ``test``."""
    common_utterances: int
    common_seconds: tuple[float, float]
    fleurs_configs: tuple[str, ...]
    """FLEURS: its configs (languages)."""
    fleurs_sentences: tuple[int, int, int]
    """Sentences of a language in ``train``, ``dev`` and ``test``."""
    fleurs_readings: int
    """Speakers who read a sentence; each reads only one."""
    fleurs_seconds: tuple[float, float]
    iemocap_dialogues: int
    """IEMOCAP: dialogues of each session, at most four."""
    iemocap_turns: int
    """Turns of each emotion by each actor of a dialogue."""
    iemocap_seconds: tuple[float, float]
    commands_speakers: tuple[int, int, int]
    """Speech Commands: speakers of training, of the validation and of the testing list."""
    commands_others: int
    """Words beside the ten keywords, at most eight."""
    commands_noise: float
    """Length of each of the six recordings of noise."""
    fluent_speakers: tuple[int, int, int]
    """Fluent Speech Commands: speakers in ``train``, ``valid`` and ``test``."""
    fluent_phrases: int
    """Of :data:`.superb.PHRASES`, twelve."""
    real_clips: int
    """Real speech (DebianSpeech): clips of a source, and of a game's character."""
    real_seconds: tuple[float, float]


SIZES = {
    "test": Size(  # about five minutes of speech
        vox_dev=6, vox_test=4, vox_videos=2, vox_utterances=2, vox_seconds=(1.5, 2.5), vox_trials=40,
        libri=(("train-clean-100", 3, 1, 4), ("dev-clean", 2, 1, 2), ("test-clean", 2, 1, 2), ("test-other", 2, 1, 2)),
        libri_words=(3, 5),
        lang_languages=("de", "en", "fi"), lang_videos=4, lang_utterances=1, lang_dev=2, lang_seconds=(1.5, 2.5),
        vox2_speakers=5, vox2_videos=2, vox2_utterances=2, vox2_seconds=(1.2, 2.0),
        libri_more=(("dev-other", 2, 1, 2),), light_speakers=1, light_utterances=(1, 1), light_words=(2, 3),
        common_languages=("English", "German", "Swedish"), common_speakers=(3, 1, 2), common_utterances=1,
        common_seconds=(1.2, 2.0),
        fleurs_configs=("de_de", "en_us", "es_419"), fleurs_sentences=(2, 1, 1), fleurs_readings=2,
        fleurs_seconds=(1.2, 2.0),
        iemocap_dialogues=1, iemocap_turns=1, iemocap_seconds=(1.2, 1.6),
        commands_speakers=(2, 1, 1), commands_others=1, commands_noise=3.0,
        fluent_speakers=(2, 1, 1), fluent_phrases=4,
        real_clips=4, real_seconds=(0.8, 1.2),
    ),
    "demo": Size(  # about six hours of speech
        vox_dev=100, vox_test=30, vox_videos=4, vox_utterances=3, vox_seconds=(3.0, 5.0), vox_trials=3000,
        libri=(
            ("train-clean-100", 40, 2, 9), ("dev-clean", 8, 2, 6), ("test-clean", 10, 2, 6), ("test-other", 10, 2, 6),
        ),
        libri_words=(6, 18),
        lang_languages=("de", "en", "es", "fi", "fr", "it", "pl", "tr"),
        lang_videos=40, lang_utterances=2, lang_dev=25, lang_seconds=(3.0, 6.0),
        vox2_speakers=100, vox2_videos=3, vox2_utterances=2, vox2_seconds=(2.5, 3.5),
        libri_more=(("dev-other", 8, 2, 6),), light_speakers=2, light_utterances=(1, 9), light_words=(5, 14),
        common_languages=("Dutch", "English", "German", "Indonesian", "Portuguese", "Romanian", "Russian", "Swedish"),
        common_speakers=(20, 6, 8), common_utterances=2, common_seconds=(2.0, 4.0),
        fleurs_configs=("cs_cz", "de_de", "en_us", "es_419", "fi_fi", "fr_fr", "hu_hu", "tr_tr"),
        fleurs_sentences=(14, 4, 6), fleurs_readings=2, fleurs_seconds=(2.5, 4.5),
        iemocap_dialogues=3, iemocap_turns=3, iemocap_seconds=(2.0, 3.5),
        commands_speakers=(40, 10, 12), commands_others=4, commands_noise=20.0,
        fluent_speakers=(30, 8, 10), fluent_phrases=12,
        real_clips=8, real_seconds=(1.5, 3.0),
    ),
}  # fmt: skip
SIZES["quick"] = replace(  # about twenty minutes a corpus, for --quick
    SIZES["demo"],
    vox_dev=60, vox_test=16, vox_videos=3, vox_utterances=2, vox_seconds=(2.0, 3.0), vox_trials=600,
    vox2_speakers=60, vox2_videos=3, vox2_utterances=2, vox2_seconds=(2.0, 3.0),
    libri=(("train-clean-100", 16, 2, 8), ("dev-clean", 6, 1, 6), ("test-clean", 8, 1, 6)), libri_words=(3, 6),
    libri_more=(("dev-other", 6, 1, 6), ("test-other", 8, 1, 6)), light_words=(3, 6),
    lang_languages=("de", "en", "es", "fi", "fr", "it"), lang_videos=30, lang_dev=15, lang_seconds=(2.0, 4.0),
    common_languages=("Dutch", "English", "German", "Indonesian", "Portuguese", "Romanian"),
    fleurs_configs=("cs_cz", "de_de", "en_us", "es_419", "fi_fi", "fr_fr"),
    iemocap_dialogues=2,
    iemocap_turns=3,
    iemocap_seconds=(1.5, 2.5),
    commands_speakers=(30, 8, 10),
    commands_noise=10.0,
    fluent_speakers=(24, 6, 8),
    real_clips=16,
)  # fmt: skip
SIZES["study"] = replace(  # shorter utterances and fewer trials: about three hours of the three corpora of `make demo`
    SIZES["demo"],
    vox_utterances=2, vox_seconds=(2.0, 3.0), vox_trials=1400,
    libri=(("train-clean-100", 48, 2, 9), ("dev-clean", 8, 2, 4), ("test-clean", 12, 2, 5)), libri_words=(3, 6),
    libri_more=(), light_speakers=1, light_utterances=(1, 1),
    lang_dev=20, lang_seconds=(3.0, 5.0),
)  # fmt: skip
