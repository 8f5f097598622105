"""Who speaks: voices drawn from a seed, and eSpeak NG, which speaks with them."""

from __future__ import annotations

import ctypes
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Audio = NDArray[np.float64]

ACCENTS = {"en-us": "USA", "en": "UK", "en-gb-scotland": "Ireland", "en-gb-x-rp": "Australia", "en-029": "Jamaica"}
"""espeak's English voices, and the nationality that ``vox1_meta.csv`` gives their speakers."""


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

    def voice(self, language: str) -> str:
        """espeak's voice for a language: English has the accent."""
        return self.accent if language == "en" else language


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    import numpy as np

    return np.random.default_rng([zlib.crc32(repr(part).encode()) for part in key])


def draw_speaker(*key: object, sex: str = "") -> Speaker:
    """The voice of a key, of either sex unless one is given.

    The setting ``breath`` is never used: espeak-ng reads uninitialised memory for it.
    """
    rng = generator("speaker", *key)
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


class Espeak:
    """libespeak-ng in this process.

    The library keeps state between calls, so that an utterance would depend on those before it. It is therefore loaded
    anew for each, which takes about two milliseconds.
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
        # A data folder of its own: voice variants are read from it.
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

        (self._data / "voices" / "!v" / "speaker").write_text(definition, encoding="utf-8")
        library = ctypes.CDLL(self._library_path)
        try:
            ctypes.CDLL(None).srand(seed)
            native = library.espeak_Initialize(
                self._AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self._data).encode(), self._DONT_EXIT
            )
            if native != 22_050:
                raise BenchmarkError(
                    f"espeak-ng did not start on {self._data}: it returned {native}, expected 22050 Hz"
                )
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
