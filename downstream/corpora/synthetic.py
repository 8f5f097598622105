"""Small corpora of synthetic speech in official layouts.

VoxCeleb1, VoxCeleb2, LibriSpeech, Libri-light's sets of limited supervision, VoxLingua107, CommonLanguage and FLEURS.

espeak-ng speaks; everything else is drawn from a seed. A speaker is a voice definition (vocal-tract length and single
formants, pitch and its range, glottal tone, roughness, strength of consonants), a rate and an accent. A recording is a
room (decaying reverberation), a channel (random equaliser, band limits, saturation), a noise and a level: strong enough
that the mean spectrum tells more about the recording than about the speaker or the language.

    python -m downstream.corpora.synthetic data/demo --size demo

The same seed gives the same bytes, whatever the number of workers. Pre-training speech has speakers of its own and
draws its words from the other half of every vocabulary.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Audio = NDArray[np.float64]

CORPORA = (
    "VoxCeleb1", "VoxCeleb2", "LibriSpeech", "librispeech_finetuning", "VoxLingua107", "CommonLanguage", "fleurs",
)  # fmt: skip
"""Their folders in the data root, as their publishers call them."""
SAMPLE_RATE = 16_000  # Hz
VERSION = 1
"""Of what is written: raise it when the same parameters give other bytes."""
MARKER = "synthetic.json"
"""Lies in each corpus folder and says what made it."""


@dataclass(frozen=True)
class Size:
    """How much is written. Durations in seconds.

    Fields of a corpus begin alike (:data:`FIELDS`). A new field adds to trees that are already there.
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
    """As ``libri``; their speakers are numbered after those."""
    light_speakers: int
    """Libri-light: speakers of a 10-minute set, in ``clean`` and in ``other`` each, men and women in turn."""
    light_utterances: tuple[int, int]
    """Utterances of a speaker in the 10-minute set and in ``9h``. The published sets have them as 1 to 9."""
    light_words: tuple[int, int]
    lang_languages: tuple[str, ...]
    """VoxLingua107: languages."""
    lang_videos: int
    """Recordings of a language, each with a speaker of its own."""
    lang_utterances: int
    lang_dev: int
    """Recordings of a language in ``dev``, an utterance each."""
    lang_seconds: tuple[float, float]
    common_languages: tuple[str, ...]
    """CommonLanguage: languages, of :data:`COMMON`."""
    common_speakers: tuple[int, int, int]
    """Speakers of a language in ``train``, ``dev`` and ``test``."""
    common_utterances: int
    common_seconds: tuple[float, float]
    fleurs_configs: tuple[str, ...]
    """FLEURS: its names of languages."""
    fleurs_sentences: tuple[int, int, int]
    """Sentences of a language in ``train``, ``dev`` and ``test``."""
    fleurs_readings: int
    """Speakers who read a sentence; each reads one."""
    fleurs_seconds: tuple[float, float]


FIELDS = {
    "VoxCeleb1": ("vox_",), "VoxCeleb2": ("vox2_",), "LibriSpeech": ("libri", "light_"),
    "librispeech_finetuning": ("libri", "light_"), "VoxLingua107": ("lang_",), "CommonLanguage": ("common_",),
    "fleurs": ("fleurs_",),
}  # fmt: skip
"""Corpus -> how the fields of :class:`Size` begin that it depends on."""

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
    ),
}  # fmt: skip
SIZES["study"] = replace(  # shorter utterances and fewer trials: about three hours of the three corpora of `make demo`
    SIZES["demo"],
    vox_utterances=2, vox_seconds=(2.0, 3.0), vox_trials=1400,
    libri=(("train-clean-100", 48, 2, 9), ("dev-clean", 8, 2, 4), ("test-clean", 12, 2, 5)), libri_words=(3, 6),
    libri_more=(), light_speakers=1, light_utterances=(1, 1),
    lang_dev=20, lang_seconds=(3.0, 5.0),
)  # fmt: skip


# --- What is said -----------------------------------------------------------------------------------------------------

ENGLISH = {
    "noun": """
        actor animal answer apple army artist aunt baby baker bank barn basket beach bear bell bench bird blanket boat
        book bottle box branch bread bridge brother bucket building butter cabin cake camera candle captain carpet
        castle cat chair cheese chicken child church circle city clock cloud coat coffee corner country cousin cow
        crowd cup curtain dancer daughter desert diamond dinner doctor dog donkey door dragon dream driver drum duck
        eagle ear egg elephant engine evening eye face factory family farmer father feather fence field finger fire
        fish flag flower forest fountain fox friend frog garden gate giant girl glass goat goose grass guard guitar
        hammer hand harbor hat hill honey horse hospital hotel hour house hunter husband island jacket jar judge key
        king kitchen kitten knife ladder lady lake lamp lawyer leaf lemon letter library lion lizard lock machine map
        market meadow message milk miller mirror monkey moon morning mother mountain mouse museum music nail neck nest
        night noise nurse ocean office onion orange oven owl paper parrot path pencil pepper piano picture pigeon pilot
        pillow pirate planet plate pocket poet police potato prince prison puppet queen question rabbit radio rain
        ribbon ring river road robber rock roof room rope rose sailor salt sand school sea shadow sheep shelf ship shirt
        shoe shop singer sister sky smoke snake snow soldier song spider spoon spring star station stone storm stranger
        street sugar summer table tailor teacher tent theater thief thunder ticket tiger tower town toy train treasure
        tree tunnel turtle uncle valley vessel village violin voice wagon wall watch water weather wheel wife window
        winter witch wolf woman wood yard
    """,
    "adjective": """
        old young small large green yellow purple quiet noisy heavy light clever foolish gentle angry happy sad bright
        dark narrow wide golden silver broken empty hungry thirsty lazy busy brave strange famous lonely curious
        friendly wooden ancient modern silent frozen dusty muddy rusty shiny smooth rough sharp bitter sweet sour fresh
        rotten wild tame proud humble honest careful careless cheap precious royal simple perfect secret crooked
        enormous terrible beautiful wonderful dangerous
    """,
    "verb": """
        paint watch follow open push pull clean count cover offer answer help hunt lift load mark match need order pack
        plant print reach record repair repeat return search sketch touch visit want warn wash guard greet insult
        inspect invent collect protect attack admire borrow discover deliver destroy examine explain finish forget
        gather ignore imagine mention murder obey pardon polish praise prepare present punish remember rescue respect
        select shelter smell soften steal surround test trust twist welcome
    """,
    "adverb": """
        slowly quickly quietly again today yesterday often never always together already almost suddenly carefully
        gladly early late outside upstairs somewhere everywhere twice tonight secretly bravely finally perhaps indeed
        instead forever
    """,
    "name": """
        alice arthur anna benjamin betty carl catherine daniel diana edward emma felix frances george grace henry helen
        isaac irene james julia kevin laura louis margaret martin nancy nathan oliver olivia peter paula robert rachel
        samuel sarah thomas teresa victor vera walter wendy
    """,
    "number": """
        two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
        nineteen twenty thirty forty fifty sixty seventy eighty ninety
    """,
}
"""Vocabulary of the English grammar: even words for the demo corpora, odd ones for pre-training."""

IRREGULAR = {"forget": "forgot", "steal": "stole", "admire": "admired", "examine": "examined", "rescue": "rescued",
             "imagine": "imagined", "ignore": "ignored", "prepare": "prepared", "praise": "praised",
             "murder": "murdered", "obey": "obeyed"}  # fmt: skip

PLURALS = {"child": "children", "fish": "fish", "foot": "feet", "goose": "geese", "knife": "knives", "leaf": "leaves",
           "man": "men", "mouse": "mice", "sheep": "sheep", "shelf": "shelves", "thief": "thieves", "wife": "wives",
           "wolf": "wolves", "woman": "women"}  # fmt: skip

WORDS = {
    "de": """
        haus straße mutter wasser schule freund garten fenster morgen abend küche brücke stadt kind blume vogel tisch
        schlüssel himmel sonne regen winter sommer arbeit zeitung kirche bäcker lehrer könig tochter schreiben sprechen
        laufen trinken schlafen verstehen glücklich langsam schnell zwischen wenig plötzlich natürlich gestern heute
        vielleicht immer niemals zusammen draußen freundlich richtig schwierig möglich wichtig jung reich dunkel
        hübsch leise weiß grün gelb schwarz
    """,
    "es": """
        casa calle madre agua escuela amigo jardín ventana mañana noche cocina puente ciudad niño flor pájaro mesa llave
        cielo lluvia invierno verano trabajo periódico iglesia panadero maestro rey hija escribir hablar correr beber
        dormir entender feliz despacio rápido entre poco siempre nunca juntos afuera ayer hoy quizás amable difícil
        posible importante joven rico oscuro guapo blanco verde amarillo negro corazón caballo zapato queso huevo leche
        guerra cuchara
    """,
    "fi": """
        talo katu äiti vesi koulu ystävä puutarha ikkuna aamu ilta keittiö silta kaupunki lapsi kukka lintu pöytä avain
        taivas aurinko sade talvi kesä työ sanomalehti kirkko leipuri opettaja kuningas tytär kirjoittaa puhua juosta
        juoda nukkua ymmärtää onnellinen hitaasti nopeasti välissä vähän aina koskaan yhdessä ulkona eilen tänään ehkä
        ystävällinen vaikea mahdollinen tärkeä nuori rikas tumma kaunis valkoinen vihreä keltainen musta hevonen kenkä
        juusto metsä
    """,
    "fr": """
        maison rue mère eau école ami jardin fenêtre matin soir cuisine pont ville enfant fleur oiseau table clé ciel
        soleil pluie hiver été travail journal église boulanger maître roi fille écrire parler courir boire dormir
        comprendre heureux lentement vite entre peu toujours jamais ensemble dehors hier demain aujourd'hui peut-être
        aimable difficile possible important jeune riche sombre beau blanc vert jaune noir cheval chaussure fromage œuf
        lait bouteille
    """,
    "it": """
        casa strada madre acqua scuola amico giardino finestra mattina sera cucina ponte città bambino fiore uccello
        tavola chiave cielo sole pioggia inverno estate lavoro giornale chiesa fornaio maestro re figlia scrivere
        parlare correre bere dormire capire felice lentamente presto poco sempre mai insieme fuori ieri oggi forse
        gentile difficile possibile importante giovane ricco scuro bello bianco verde giallo nero cavallo scarpa
        formaggio uovo latte bottiglia foglia coniglio
    """,
    "pl": """
        dom ulica matka woda szkoła przyjaciel ogród okno poranek wieczór kuchnia most miasto dziecko kwiat ptak stół
        klucz niebo słońce deszcz zima lato praca gazeta kościół piekarz nauczyciel król córka pisać mówić biegać pić
        spać rozumieć szczęśliwy powoli szybko między mało zawsze nigdy razem wczoraj dzisiaj może uprzejmy trudny
        możliwy ważny młody bogaty ciemny piękny biały zielony żółty czarny koń but ser jajko mleko butelka liść
        chrząszcz
    """,
    "tr": """
        ev sokak anne su okul arkadaş bahçe pencere sabah akşam mutfak köprü şehir çocuk çiçek kuş masa anahtar gökyüzü
        güneş yağmur kış yaz iş gazete kilise fırıncı öğretmen kral kız yazmak konuşmak koşmak içmek uyumak anlamak
        mutlu yavaş hızlı arasında az daima asla birlikte dışarıda dün bugün belki nazik zor mümkün önemli genç zengin
        karanlık güzel beyaz yeşil sarı siyah at ayakkabı peynir yumurta süt şişe yaprak
    """,
    "cs": """
        dům ulice matka voda škola přítel zahrada okno ráno večer kuchyně most město dítě květina pták stůl klíč nebe
        slunce déšť zima léto práce noviny kostel pekař učitel král dcera psát mluvit běžet pít spát rozumět šťastný
        pomalu rychle třicet
    """,
    "hu": """
        ház utca anya víz iskola barát kert ablak reggel este konyha híd város gyerek virág madár asztal kulcs ég nap
        eső tél nyár munka újság templom pék tanár király lány írni beszélni futni inni aludni érteni boldog lassan
        gyorsan között
    """,
    "id": """
        rumah jalan ibu air sekolah teman kebun jendela pagi malam dapur jembatan kota anak bunga burung meja kunci
        langit matahari hujan musim kerja koran gereja guru raja menulis berbicara berlari minum tidur mengerti bahagia
        pelan cepat antara sedikit selalu bersama
    """,
    "nl": """
        huis straat moeder water school vriend tuin venster morgen avond keuken brug stad kind bloem vogel tafel sleutel
        hemel zon regen winter zomer werk krant kerk bakker leraar koning dochter schrijven spreken lopen drinken
        slapen begrijpen gelukkig langzaam snel tussen
    """,
    "pt": """
        casa rua mãe água escola amigo jardim janela manhã noite cozinha ponte cidade criança flor pássaro mesa chave
        céu chuva inverno verão trabalho jornal igreja padeiro professor rei filha escrever falar correr beber dormir
        entender feliz devagar rápido pouco coração
    """,
    "ro": """
        casă stradă mamă apă școală prieten grădină fereastră dimineață seară bucătărie pod oraș copil floare pasăre
        masă cheie cer soare ploaie iarnă vară muncă ziar biserică brutar profesor rege fiică scrie vorbi alerga bea
        dormi înțelege fericit încet repede puțin
    """,
    "ru": """
        дом улица мать вода школа друг сад окно утро вечер кухня мост город ребёнок цветок птица стол ключ небо солнце
        дождь зима лето работа газета церковь пекарь учитель король дочь писать говорить бежать пить спать понимать
        счастливый медленно быстро между
    """,
    "sv": """
        hus gata mor vatten skola vän trädgård fönster morgon kväll kök bro stad barn blomma fågel bord nyckel himmel
        sol regn vinter sommar arbete tidning kyrka bagare lärare kung dotter skriva tala springa dricka sova förstå
        lycklig långsamt snabbt mellan
    """,
}
"""Common words of the other languages; spoken in random order, with numbers in digits between them."""

ACCENTS = {"en-us": "USA", "en": "UK", "en-gb-scotland": "Ireland", "en-gb-x-rp": "Australia", "en-029": "Jamaica"}
"""espeak's English voices, and the nationality that ``vox1_meta.csv`` gives their speakers."""

COMMON = {"Dutch": "nl", "English": "en", "French": "fr", "German": "de", "Indonesian": "id", "Italian": "it",
          "Polish": "pl", "Portuguese": "pt", "Romanian": "ro", "Russian": "ru", "Spanish": "es", "Swedish": "sv",
          "Turkish": "tr"}  # fmt: skip
"""CommonLanguage's folders -> languages of :data:`WORDS`."""


def _half(words: str, parity: int) -> list[str]:
    return words.split()[parity::2]


def _plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeou" else noun + "s"


def english_sentence(rng: np.random.Generator, words: int, parity: int = 0) -> str:
    """Lower-case words, apostrophes and spaces; at least ``words`` words, in whole clauses."""
    vocabulary = {kind: _half(text, parity) for kind, text in ENGLISH.items()}

    def pick(kind: str) -> str:
        return str(rng.choice(vocabulary[kind]))

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def thing() -> str:
        adjective = pick("adjective") + " " if chance(0.5) else ""
        form = rng.integers(6)
        if form == 0:
            return f"{pick('name')}'s {adjective}{pick('noun')}"
        if form == 1:
            return f"{pick('number')} {adjective}{_plural(pick('noun'))}"
        determiner = rng.choice(["the", "the", "my", "our", "this", "every", "that", "his", "her"])
        return f"{determiner} {adjective}{pick('noun')}"

    def clause() -> str:
        subject = pick("name") if chance(0.2) else thing()
        verb = pick("verb")
        form = rng.integers(5)
        if form == 0:
            action = f"{rng.choice(['didn', 'couldn', 'wouldn', 'can'])}'t {verb}"
        elif form == 1:
            action = f"{rng.choice(['will', 'must', 'should', 'may'])} {verb}"
        else:
            action = IRREGULAR.get(verb, verb + "ed")
        place = f"{rng.choice(['near', 'behind', 'under', 'with', 'without', 'for', 'from'])} {thing()}"
        words = [subject, action, thing()]
        if chance(0.4):
            words.append(place)
        if chance(0.4):
            words.append(pick("adverb"))
        return " ".join(words)

    text = clause()
    while len(text.split()) < words:
        text += f" {rng.choice(['and', 'but', 'because', 'while', 'when', 'before', 'so'])} {clause()}"
    return text


def sentence(rng: np.random.Generator, language: str, words: int, parity: int = 0) -> str:
    """About ``words`` words in a language; ``parity`` says which half of the vocabulary and of the numbers."""
    if language == "en":
        return english_sentence(rng, words, parity)
    vocabulary = _half(WORDS[language], parity)
    said = []
    for _ in range(words):
        number = rng.random() < 0.2
        said.append(str(2 * rng.integers(1, 1000) + parity) if number else str(rng.choice(vocabulary)))
        if rng.random() < 0.15:
            said[-1] += ","
    return " ".join(said)


# --- Who says it, and where -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speaker:
    """A voice."""

    sex: str
    """``m`` or ``f``."""
    rate: int
    """Words a minute."""
    accent: str
    """espeak's English voice."""
    definition: str
    """espeak's voice variant file: https://github.com/espeak-ng/espeak-ng/blob/1.52.0/docs/voices.md"""


@dataclass(frozen=True)
class Clip:
    """One file to be made."""

    path: str
    """Relative to the corpus folder; the extension says the format."""
    speaker: Speaker
    language: str
    """espeak's name of it."""
    text: str
    seconds: float | None
    """Cut (the text begins anew where it is too short); ``None``: to the end of the text."""
    session: str
    """Seeds the room, the channel and the noise."""
    strength: float
    """How bad the recording is: 0 a studio, 1 a video on the web."""
    take: str = ""
    """Seeds the reading and the noise; the path where it is empty. Copies of a file have the same."""


def _rng(*key: object) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng([zlib.crc32(repr(part).encode()) for part in key])


def draw_speaker(*key: object, sex: str = "") -> Speaker:
    """A voice from a key, of either sex unless one is given.

    Never with ``breath``: espeak-ng reads memory there that it has not initialised.
    """
    rng = _rng("speaker", *key)
    sex = sex or "fm"[rng.integers(2)]
    low, high = (150, 240) if sex == "f" else (75, 140)
    pitch = rng.uniform(low, high)
    tract = rng.normal(1.14 if sex == "f" else 0.97, 0.07)
    formants = [
        f"formant {k} {100 * tract * rng.normal(1, 0.04):.0f} {100 * rng.normal(1, 0.2):.0f} {rng.uniform(90, 150):.0f}"
        for k in range(1, 7)
    ]
    tone = [int(rng.uniform(*span)) for span in ((120, 220), (90, 190), (60, 170))]
    definition = [
        f"name synthetic\nlanguage variant\ngender {'female' if sex == 'f' else 'male'}",
        f"pitch {pitch:.0f} {pitch * rng.uniform(1.15, 1.6):.0f}",
        *formants,
        f"flutter {rng.integers(0, 12)}",
        f"roughness {rng.integers(0, 5)}",
        f"voicing {rng.uniform(70, 140):.0f}",
        f"consonants {rng.uniform(70, 160):.0f} {rng.uniform(70, 160):.0f}",
        f"tone 600 {tone[0]} 1200 {tone[1]} 2000 {tone[2]}",
    ]
    accent = str(rng.choice(list(ACCENTS), p=[0.4, 0.2, 0.1, 0.2, 0.1]))
    return Speaker(sex, int(rng.uniform(135, 205)), accent, "\n".join(definition) + "\n")


class _Espeak:
    """libespeak-ng in this process.

    It keeps state from call to call, so that an utterance would depend on those before it: the library is loaded anew
    for each, which takes about two milliseconds.
    """

    _AUDIO_OUTPUT_SYNCHRONOUS, _CHARS_UTF8, _RATE, _PITCH, _RANGE, _DONT_EXIT = 2, 1, 1, 3, 4, 0x8000
    _Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise BenchmarkError(
                "synthetic speech needs espeakng-loader, which is not installed: pip install -e '.[demo]'"
            ) from error
        self._library_path = espeakng_loader.get_library_path()
        # A data folder of our own, since voice variants are read from it.
        self._folder = tempfile.TemporaryDirectory(prefix="espeak-")
        self._data = Path(self._folder.name) / "espeak-ng-data"
        (self._data / "voices" / "!v").mkdir(parents=True)
        for entry in Path(espeakng_loader.get_data_path()).iterdir():
            if entry.name != "voices":
                (self._data / entry.name).symlink_to(entry)
        self._chunks: list[bytes] = []
        self._callback = self._Callback(self._receive)

    def _receive(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, language: str, definition: str, rate: int, pitch: int, seed: int) -> Audio:
        """Speech at 16 kHz, float in [-1, 1]."""
        import _ctypes

        import numpy as np
        from scipy.signal import resample_poly

        (self._data / "voices" / "!v" / "speaker").write_text(definition)
        library = ctypes.CDLL(self._library_path)
        try:
            ctypes.CDLL(None).srand(seed)
            native = library.espeak_Initialize(
                self._AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self._data).encode(), self._DONT_EXIT
            )
            if native != 22_050:
                raise BenchmarkError(f"espeak-ng did not start on {self._data}: it answered {native}, not 22050 Hz")
            library.espeak_SetSynthCallback(self._callback)
            if library.espeak_SetVoiceByName(f"{language}+speaker".encode()) != 0:
                raise BenchmarkError(f"espeak-ng has no voice for the language {language!r}")
            for parameter, value in ((self._RATE, rate), (self._PITCH, pitch), (self._RANGE, 50)):
                library.espeak_SetParameter(parameter, value, 0)
            self._chunks.clear()
            encoded = text.encode()
            library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, self._CHARS_UTF8, None, None)
            library.espeak_Synchronize()
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
        speech = np.frombuffer(b"".join(self._chunks), np.int16).astype(np.float64) / 2**15
        return np.asarray(resample_poly(speech, 320, 441))  # 22,050 Hz -> 16,000 Hz


def record(speech: Audio, session: str, take: str, strength: float) -> Audio:
    """Play ``speech`` (sample,) in a room and record it; the room and the channel are the session's."""
    import numpy as np

    rng = _rng("session", session)
    samples = len(speech)
    size = 1 << (samples + SAMPLE_RATE // 2).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    position = np.log1p(frequency / 700) / np.log1p(SAMPLE_RATE / 2 / 700)  # mel, from 0 to 1

    def equaliser(spread: float) -> Audio:
        """Gain over frequency: a random smooth curve, ``spread`` dB."""
        decibel = sum(
            rng.normal(0, spread / np.sqrt(k)) * np.cos(np.pi * k * position + rng.uniform(0, np.pi))
            for k in range(1, 8)
        )
        return np.asarray(10 ** (decibel / 20))

    def band(low: float, high: float) -> Audio:
        response = np.sqrt(1 + (low / np.maximum(frequency, 1)) ** 6) * np.sqrt(1 + (frequency / high) ** 16)
        return np.asarray(1 / response)

    # The room: a direct sound and a decaying noise.
    t60 = rng.uniform(0.1, 0.15 + 0.35 * strength)  # seconds until 60 dB down
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    tail = rng.normal(size=time.size) * 10 ** (-3 * time / t60) * (time > 0.002)
    tail *= 10 ** (-rng.uniform(15 - 11 * strength, 25 - 13 * strength) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1

    # The channel.
    telephone = rng.random() < 0.25 * strength
    low = rng.uniform(200, 400) if telephone else rng.uniform(30, 60 + 140 * strength)
    high = rng.uniform(3200, 4000) if telephone else rng.uniform(8000 - 3000 * strength, 8000)
    channel = equaliser(3.5 * strength) * band(low, high)
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(tail, size) * channel, size)[:samples]

    # The noise: coloured, with a slow swell, and at times a hum or a tone.
    colour = equaliser(5) / (1 + frequency / 100) ** rng.uniform(0, 1.2) * band(low, high)
    snr = rng.uniform(25 - 15 * strength, 35 - 12 * strength)  # dB
    swell, tone, loud = rng.uniform(0, 0.6), rng.uniform(60, 1000), rng.random() < 0.3
    level = 10 ** (rng.uniform(-32, -18) / 20)
    drive = rng.uniform(1, 4) if rng.random() < 0.3 * strength else 0.0

    rng = _rng("take", take)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=size)) * colour, size)[:samples]
    seconds = np.arange(samples) / SAMPLE_RATE
    noise *= 1 + swell * np.sin(2 * np.pi * (rng.uniform(0.2, 1.5) * seconds + rng.random()))
    if loud:
        noise += np.std(noise) * sum(
            rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * (k * tone * seconds + rng.random())) for k in (1, 2, 3)
        )
    power = np.sqrt(np.mean(wet**2)) + 1e-9
    mixed = wet / power + noise / (np.sqrt(np.mean(noise**2)) + 1e-9) * 10 ** (-snr / 20)
    if drive:
        mixed = np.tanh(drive * mixed / 4)
    mixed *= level * 10 ** (rng.uniform(-2, 2) / 20) / np.sqrt(np.mean(mixed**2))
    return np.asarray(mixed * min(1.0, 0.97 / np.max(np.abs(mixed))))


_espeak: _Espeak | None = None  # one in a process


def _make(root: Path, clip: Clip) -> str:
    """Write one clip, whole or not at all."""
    global _espeak
    import numpy as np
    import soundfile

    _espeak = _espeak or _Espeak()
    take = clip.take or clip.path
    rng = _rng("clip", clip.session, take)
    pitch, rate = int(rng.integers(42, 59)), round(clip.speaker.rate * rng.uniform(0.92, 1.08))
    speech = _espeak.say(clip.text, clip.language, clip.speaker.definition, rate, pitch, int(rng.integers(2**31)))
    if speech.size < SAMPLE_RATE // 10:
        raise BenchmarkError(f"espeak-ng made no speech of {clip.text!r} in {clip.language!r} for {clip.path}")
    if clip.seconds is None:
        silence = np.zeros(int(rng.uniform(0.1, 0.3) * SAMPLE_RATE))
        speech = np.concatenate([silence, speech, silence])
    else:
        samples = round(clip.seconds * SAMPLE_RATE)
        start = int(rng.integers(max(1, speech.size - samples + 1)))
        speech = np.resize(speech, max(samples, speech.size))[start : start + samples]
    audio = record(speech, clip.session, take, clip.strength)
    target = root / clip.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        pcm = np.round(audio * (2**15 - 1)).astype(np.int16)
        soundfile.write(part, pcm, SAMPLE_RATE, format=target.suffix[1:].upper(), subtype="PCM_16")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return clip.path


# --- What is made -----------------------------------------------------------------------------------------------------

Texts = dict[str, str | bytes]
"""Lists to be written: path relative to the corpus folder -> content, text in UTF-8."""


def _words(rng: np.random.Generator, seconds: float) -> int:
    """Words that take about ``seconds`` to say and some more."""
    return int(seconds * 3) + int(rng.integers(2, 6))


def _video(rng: np.random.Generator) -> str:
    """A name as YouTube gives them."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    return "".join(rng.choice(list(alphabet), size=11))


def _interview(
    rng: np.random.Generator,
    speaker: Speaker,
    folder: str,
    seed: int,
    videos: int,
    utterances: int,
    seconds: tuple[float, float],
) -> list[Clip]:
    """What VoxCeleb has of a speaker: ``<folder>/<video>/<utterance>.wav``."""
    clips = []
    for _ in range(videos):
        video = _video(rng)
        for k in range(1, utterances + 1):
            length = round(rng.uniform(*seconds), 2)
            text = english_sentence(rng, _words(rng, length))
            session = f"{seed} {Path(folder).name} {video}"
            clips.append(Clip(f"{folder}/{video}/{k:05d}.wav", speaker, speaker.accent, text, length, session, 0.4))
    return clips


Pair = tuple[str, str]


def _trial_lists(
    rng: np.random.Generator, same: Sequence[Pair], different: Sequence[Pair], count: int
) -> tuple[str, str]:
    """An original list and a cleaned one, of ``count`` trials where there are so many pairs."""
    half = min(count // 2, len(same), len(different))
    trials = [f"{label} {a} {b}" for label, pairs in ((1, same), (0, different))
              for a, b in (pairs[k] for k in rng.permutation(len(pairs))[: half + half // 100 + 1])]  # fmt: skip
    trials = [trials[k] for k in rng.permutation(len(trials))]
    # As with the real lists, the cleaned one leaves out some trials of the first.
    dropped = set(rng.permutation(len(trials))[: len(trials) - 2 * half].tolist())
    cleaned = [trial for k, trial in enumerate(trials) if k not in dropped]
    return "\n".join(trials) + "\n", "\n".join(cleaned) + "\n"


def _identification_split(files: Sequence[str]) -> list[str]:
    """Lines of ``iden_split.txt`` for a speaker's files: train, dev and test share no video where there are three."""
    videos = list(dict.fromkeys(file.split("/")[1] for file in files))
    if len(videos) >= 3:
        part = dict.fromkeys(videos, 1) | {videos[-2]: 2, videos[-1]: 3}
        return [f"{part[file.split('/')[1]]} {file}" for file in files]
    last = [file for file in files if file.split("/")[1] == videos[-1]]
    held_out = {file: 2 + k % 2 for k, file in enumerate(last if len(videos) > 1 else last[-2:])}
    return [f"{held_out.get(file, 1)} {file}" for file in files]


def _voxceleb1(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    clips: list[Clip] = []
    meta = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    split: list[str] = []
    files: dict[str, list[str]] = {}
    voices: dict[str, tuple[str, str]] = {}
    numbers = [("dev", 10001 + k) for k in range(size.vox_dev)] + [("test", 10270 + k) for k in range(size.vox_test)]
    for part, number in numbers:
        name = f"id{number}"
        speaker = draw_speaker(seed, "VoxCeleb1", name)
        voices[name] = speaker.sex, ACCENTS[speaker.accent]
        meta.append(f"{name}\tSynthetic_{number}\t{speaker.sex}\t{ACCENTS[speaker.accent]}\t{part}")
        rng = _rng(seed, "VoxCeleb1", name)
        made = _interview(
            rng, speaker, f"{part}/wav/{name}", seed, size.vox_videos, size.vox_utterances, size.vox_seconds
        )
        clips += made
        files[name] = [clip.path.removeprefix(f"{part}/wav/") for clip in made]
        split += _identification_split(files[name])

    def other_video(names: Iterable[str]) -> list[Pair]:
        return [pair for name in names for pair in combinations(files[name], 2) if pair[0][:19] != pair[1][:19]]

    rng = _rng(seed, "VoxCeleb1", "trials")
    test = [f"id{number}" for part, number in numbers if part == "test"]
    different = [(a, b) for x, y in combinations(test, 2) for a in files[x] for b in files[y]]
    original, cleaned = _trial_lists(rng, other_video(test), different, size.vox_trials)
    texts: Texts = {"vox1_meta.csv": "\n".join(meta) + "\n", "iden_split.txt": "\n".join(split) + "\n"}
    texts |= {"veri_test.txt": original, "veri_test2.txt": cleaned}

    # E: all speakers. H: speakers of one sex and nationality.
    everyone = list(combinations(files, 2))
    alike = [(x, y) for x, y in everyone if voices[x] == voices[y]]
    for name, pairs in (("all", everyone), ("hard", alike)):
        rng = _rng(seed, "VoxCeleb1", "trials", name)
        of_one = other_video(dict.fromkeys(speaker for pair in pairs for speaker in pair))
        # Two trials of each two speakers at most: there are millions.
        drawn = [tuple(files[x][rng.integers(len(files[x]))] for x in pair) for pair in pairs for _ in range(2)]
        different = [(a, b) for a, b in dict.fromkeys(drawn)]
        original, cleaned = _trial_lists(rng, of_one, different, size.vox_trials)
        texts |= {f"list_test_{name}.txt": original, f"list_test_{name}2.txt": cleaned}
    return clips, texts


def _voxceleb2(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Audio as it is after the usual conversion of the published ``dev/aac/**/*.m4a``."""
    clips: list[Clip] = []
    meta = ["VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set"]  # with a space before each comma, as published
    for k in range(size.vox2_speakers):
        number = 12 + 3 * k
        name = f"id{number:05d}"
        speaker = draw_speaker(seed, "VoxCeleb2", name)
        meta.append(f"{name} ,n{number:06d} ,{speaker.sex} ,dev")
        rng = _rng(seed, "VoxCeleb2", name)
        folder = f"dev/wav/{name}"
        clips += _interview(rng, speaker, folder, seed, size.vox2_videos, size.vox2_utterances, size.vox2_seconds)
    return clips, {"vox2_meta.csv": "\n".join(meta) + "\n"}


def _libri_speakers(size: Size, seed: int) -> Iterator[tuple[str, int, Speaker, list[Clip]]]:
    """LibriSpeech by speaker: split, number, voice, clips in the order of chapters."""
    plan = [(*row, size.libri_words, "") for row in (*size.libri, *size.libri_more) for _ in range(row[1])]
    chapters = 2 if sum(size.light_utterances) > 1 else 1
    for split in ("train-clean-360", "train-other-500"):  # what Libri-light's sets are taken from
        for k in range(6 * size.light_speakers):
            utterances = -(-sum(size.light_utterances) // chapters)
            plan.append((split, 1, chapters, utterances, size.light_words, "fm"[k % 2]))
    for number, (split, _, chapters, utterances, words, sex) in enumerate(plan, start=101):
        speaker = draw_speaker(seed, "LibriSpeech", number, sex=sex)
        rng = _rng(seed, "LibriSpeech", number)
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
    return {path: "".join(of_one) for path, of_one in lines.items()}


def _librispeech(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    clips: list[Clip] = []
    about = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for split, number, speaker, made in _libri_speakers(size, seed):
        clips += made
        about.append(f"{number:<5}| {speaker.sex.upper()} | {split:<17}| 0.00  | Synthetic {number}")
    return clips, _transcripts(clips) | {"SPEAKERS.TXT": "\n".join(about) + "\n"}


def _librilight(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Copies of files of LibriSpeech's training sets: six disjoint sets of 10 minutes are the hour, that and ``9h`` are
    the ten hours. Kahn et al.: Libri-light: a benchmark for ASR with limited or no supervision, ICASSP 2020."""
    clips: list[Clip] = []
    order = {"train-clean-360": 0, "train-other-500": 0}
    for split, _, _, made in _libri_speakers(size, seed):
        if split not in order:
            continue
        ten_minutes, of_one = order[split] // size.light_speakers, size.light_utterances
        order[split] += 1
        for k, clip in enumerate(made[: sum(of_one)]):
            folder = f"1h/{ten_minutes}" if k < of_one[0] else "9h"
            path = f"{folder}/{split.split('-')[1]}/{clip.path.removeprefix(split + '/')}"
            clips.append(replace(clip, path=path, take=clip.path))
    return clips, _transcripts(clips)


def _voxlingua107(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    clips: list[Clip] = []
    for language in size.lang_languages:
        for part, videos, utterances in (("", size.lang_videos, size.lang_utterances), ("dev/", size.lang_dev, 1)):
            for k in range(videos):
                rng = _rng(seed, "VoxLingua107", language, part, k)
                video = _video(rng)
                speaker = draw_speaker(seed, "VoxLingua107", language, part, k)
                start = 0.0
                for segment in range(utterances):
                    start = round(start + rng.uniform(0.5, 20), 3)
                    end = round(start + round(rng.uniform(*size.lang_seconds), 2), 3)
                    text = sentence(rng, language, _words(rng, end - start))
                    path = f"{part}{language}/{video}__U__S{segment}---{start:08.3f}-{end:08.3f}.wav"
                    voice = speaker.accent if language == "en" else language
                    seconds = round(end - start, 3)
                    clips.append(Clip(path, speaker, voice, text, seconds, f"{seed} {language} {video}", 1.0))
    return clips, {}


def _commonlanguage(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """With the published tables beside the folders: tab-separated, UTF-16. A clip holds a part of its sentence."""
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
                rng = _rng(seed, "CommonLanguage", client)
                for _ in range(size.common_utterances):
                    seconds = round(rng.uniform(*size.common_seconds), 2)
                    text = sentence(rng, language, _words(rng, seconds))
                    file = f"common_voice_{language}_{rng.integers(10_000_000, 100_000_000)}.wav"
                    voice = speaker.accent if language == "en" else language
                    path, session = f"{name}/{part}/{client}/{file}", f"{seed} {client}"
                    clips.append(Clip(path, speaker, voice, text, seconds, session, 0.7))
                    gender = "female" if speaker.sex == "f" else "male"
                    rows.append(f"{len(rows) - 1}\t{client}\t{file}\t{text}\tnot_defined\t{gender}")
            texts[f"{name}/{part}.csv"] = ("\n".join(rows) + "\n").encode("utf-16")
    return clips, texts


def _fleurs(size: Size, seed: int) -> tuple[list[Clip], Texts]:
    """Tables without a header: id of the sentence, file, text as written, text, characters, samples, gender.

    A clip holds a part of its sentence: good for languages, not for transcripts.
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
                rng = _rng(seed, "fleurs", config, number)
                raw = sentence(rng, language, _words(rng, sum(size.fleurs_seconds) / 2))
                text = raw.replace(",", "")
                for reading in range(size.fleurs_readings):
                    speaker = draw_speaker(seed, "fleurs", config, number, reading)
                    seconds = round(rng.uniform(*size.fleurs_seconds), 2)
                    file = f"{rng.integers(10**17, 10**18)}.wav"
                    voice = speaker.accent if language == "en" else language
                    path, session = f"{config}/audio/{part}/{file}", f"{seed} {config} {number} {reading}"
                    clips.append(Clip(path, speaker, voice, text, seconds, session, 0.5))
                    characters = " ".join("|".join(text.split())) + " |"
                    samples = round(seconds * SAMPLE_RATE)
                    gender = "FEMALE" if speaker.sex == "f" else "MALE"
                    written = raw[0].upper() + raw[1:] + "."
                    rows.append(f"{number}\t{file}\t{written}\t{text}\t{characters}\t{samples}\t{gender}")
            texts[f"{config}/{part}.tsv"] = "\n".join(rows) + "\n"
    return clips, texts


def _pretraining(root: Path, hours: float, seed: int) -> tuple[list[Clip], Texts]:
    languages = ("en", *WORDS)
    seconds = 6.0
    count = max(32, round(hours * 3600 / seconds))
    clips = []
    for k in range(count):
        rng = _rng(seed, "pretraining", k)
        number = k % max(16, count // 12)
        speaker = draw_speaker(seed, "pretraining", number)
        language = str(rng.choice(languages, p=[0.25] + [0.75 / len(WORDS)] * len(WORDS)))
        text = sentence(rng, language, _words(rng, seconds), parity=1)
        voice = speaker.accent if language == "en" else language
        path = f"wav/{number:04d}/{number:04d}-{k:05d}-{language}.wav"
        strength = round(rng.uniform(0, 1), 3)
        clips.append(Clip(path, speaker, voice, text, seconds, f"{seed} pretraining {k}", strength))
    # Every 50th speaker is for validation. fairseq's manifests: the folder, then "path<tab>samples" lines.
    lists: dict[str, list[str]] = {"train": [], "valid": []}
    for clip in clips:
        part = "valid" if int(clip.path.split("/")[1]) % 50 == 0 else "train"
        lists[part].append(f"{clip.path}\t{round(seconds * SAMPLE_RATE)}")
    return clips, {f"{part}.tsv": "\n".join([str(root.resolve()), *lines]) + "\n" for part, lines in lists.items()}


PLANS = dict(
    zip(
        CORPORA,
        (_voxceleb1, _voxceleb2, _librispeech, _librilight, _voxlingua107, _commonlanguage, _fleurs),
        strict=True,
    )
)


# --- Making it --------------------------------------------------------------------------------------------------------


def _claim(root: Path, parameters: dict[str, Any]) -> None:
    """Mark ``root`` as ours, or refuse: a folder of other origin or of other parameters is never added to.

    Parameters that a tree does not know yet are no others: what came with them is added to it.
    """
    marker = root / MARKER
    wanted = json.loads(json.dumps(parameters))
    if marker.exists():
        found = json.loads(marker.read_text())
        known = {**found, **found.get("size", {})}
        flat = {**{key: value for key, value in wanted.items() if key != "size"}, **wanted.get("size", {})}
        other = [key for key, value in flat.items() if known.get(key, value) != value]
        if other:
            raise BenchmarkError(
                f"{root} holds synthetic speech of another size or seed ({', '.join(other)} differ; see {marker}): "
                "choose another folder, or remove this one"
            )
        if found == wanted:
            return
    elif root.exists() and any(root.iterdir()):
        raise BenchmarkError(f"{root} is not empty and not made by this program ({MARKER} is missing): choose another")
    root.mkdir(parents=True, exist_ok=True)
    _write(marker, json.dumps(wanted, indent=1) + "\n")


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def _run(root: Path, clips: Sequence[Clip], workers: int | None) -> Iterator[str]:
    """Make the clips in ``workers`` processes, in any order."""
    make: Callable[[Clip], str] = partial(_make, root)
    workers = min(workers or len(os.sched_getaffinity(0)), len(clips) // 8)
    if workers <= 1:
        yield from map(make, clips)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(make, clip) for clip in clips]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fill(root: Path, parameters: dict[str, Any], clips: Sequence[Clip], texts: Texts, workers: int | None) -> None:
    """Write the clips that are missing, then the lists: those that were there may be of fewer clips."""
    from tqdm import tqdm

    try:
        _claim(root, parameters)
        for stale in root.rglob(".*.part"):
            stale.unlink()
        missing = [clip for clip in clips if not (root / clip.path).exists()]
        with tqdm(total=len(clips), initial=len(clips) - len(missing), desc=root.name, unit="clip") as bar:
            for _ in _run(root, missing, workers):
                bar.update()
        for path, content in texts.items():
            file = root / path
            if not file.exists() or file.read_bytes() != (content.encode() if isinstance(content, str) else content):
                _write(file, content)
    except OSError as error:
        raise BenchmarkError(f"synthetic speech cannot be written to {root}: {error}") from error


def synthesise(
    root: str | Path,
    corpora: Iterable[str] = CORPORA,
    *,
    size: str = "demo",
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write ``<root>/VoxCeleb1`` and so on. Audio that is there already is kept; what is missing is added.

    Args:
        root: the data root, as ``--data-root`` takes it.
        corpora: of :data:`CORPORA`.
        size: of :data:`SIZES`.
        seed: the same seed gives the same bytes.
        workers: processes; ``None`` for one a core.
    """
    if size not in SIZES:
        raise BenchmarkError(f"unknown size {size!r}: choose from {', '.join(SIZES)}")
    for corpus in corpora:
        if corpus not in PLANS:
            raise BenchmarkError(f"no synthetic corpus {corpus!r}: choose from {', '.join(CORPORA)}")
        clips, texts = PLANS[corpus](SIZES[size], seed)
        fields = {key: value for key, value in asdict(SIZES[size]).items() if key.startswith(FIELDS[corpus])}
        parameters = {"version": VERSION, "corpus": corpus, "seed": seed, "size": fields}
        _fill(Path(root) / corpus, parameters, clips, texts, workers)


def synthesise_pretraining(root: str | Path, *, hours: float = 10.0, seed: int = 0, workers: int | None = None) -> None:
    """Write speech for pre-training, clips of 6 s in sixteen languages, and fairseq's ``train.tsv``, ``valid.tsv``."""
    root = Path(root)
    clips, texts = _pretraining(root, hours, seed)
    parameters = {"version": VERSION, "corpus": "pretraining", "seed": seed, "hours": hours}
    _fill(root, parameters, clips, texts, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m downstream.corpora.synthetic ROOT``."""
    parser = argparse.ArgumentParser(
        prog="python -m downstream.corpora.synthetic", description="Write synthetic speech in official layouts."
    )
    parser.add_argument("root", type=Path, help="data root; the corpora become folders in it")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument(
        "--corpus",
        action="append",
        choices=[*CORPORA, "pretraining"],
        help="may be repeated (default: all but pretraining)",
    )
    parser.add_argument("--hours", type=float, default=10.0, help="of the pre-training set (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    options = parser.parse_args(arguments)
    try:
        for corpus in options.corpus or CORPORA:
            if corpus == "pretraining":
                folder = options.root / corpus
                synthesise_pretraining(folder, hours=options.hours, seed=options.seed, workers=options.workers)
            else:
                synthesise(options.root, [corpus], size=options.size, seed=options.seed, workers=options.workers)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
