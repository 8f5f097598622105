"""Where it is recorded: clips, the rooms, channels and noises of their sessions, and the files made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically
from downstream.corpora.synthetic.voices import Espeak, Speaker, generator

if TYPE_CHECKING:
    import numpy as np

    from downstream.corpora.synthetic.voices import Audio

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True)
class Clip:
    """One file to be made."""

    path: str
    """Relative to the corpus folder; the extension gives the format."""
    speaker: Speaker
    language: str
    """espeak's voice, see :meth:`Speaker.voice`."""
    text: str
    """Empty: noise."""
    seconds: float | None
    """Cut to this length (the text is repeated if it is too short); ``None``: as long as the text."""
    session: str
    """Seeds the room, the channel and the noise."""
    strength: float
    """How bad the recording is: 0 a studio, 1 a web video."""
    take: str = ""
    """Seeds the reading and the noise; if empty, the path does. Copies of a file share it."""
    pad: bool = False
    """Put a text that is too short into silence, rather than repeat it."""


def record(speech: Audio, session: str, take: str, strength: float) -> Audio:
    """Play ``speech`` (sample,) in a room and record it; the session determines room and channel."""
    import numpy as np

    rng = generator("session", session)
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

    rng = generator("take", take)
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


def _bursts(rng: np.random.Generator, samples: int) -> Audio:
    """Noise (sample,) that swells and fades, by up to 40 dB, several times a second."""
    import numpy as np

    knots = np.arange(0, samples + SAMPLE_RATE // 5, SAMPLE_RATE // 5)
    level = 10 ** rng.uniform(-2, 0, knots.size)
    return np.asarray(rng.normal(size=samples) * np.interp(np.arange(samples), knots, level))


_espeak: Espeak | None = None  # one per process


def write_clip(root: Path, clip: Clip) -> str:
    """Write one clip, whole or not at all; returns its path."""
    global _espeak
    import numpy as np
    import soundfile

    _espeak = _espeak or Espeak()
    take = clip.take or clip.path
    rng = generator("clip", clip.session, take)
    pitch, rate = int(rng.integers(42, 59)), round(clip.speaker.rate * rng.uniform(0.92, 1.08))
    seed = int(rng.integers(2**31))
    if clip.text:
        speech = _espeak.say(clip.text, clip.language, clip.speaker.definition, rate, pitch, seed)
    else:
        speech = _bursts(rng, round((clip.seconds or 1.0) * SAMPLE_RATE))
    if speech.size < SAMPLE_RATE // 10:
        raise BenchmarkError(f"espeak-ng made no speech from {clip.text!r} in {clip.language!r} for {clip.path}")
    if clip.seconds is None:
        silence = np.zeros(int(rng.uniform(0.1, 0.3) * SAMPLE_RATE))
        speech = np.concatenate([silence, speech, silence])
    else:
        samples = round(clip.seconds * SAMPLE_RATE)
        if clip.pad and speech.size < samples:
            before = int(rng.integers(samples - speech.size))
            speech = np.pad(speech, (before, samples - speech.size - before))
        start = int(rng.integers(max(1, speech.size - samples + 1)))
        speech = np.resize(speech, max(samples, speech.size))[start : start + samples]
    audio = record(speech, clip.session, take, clip.strength)
    pcm = np.round(audio * (2**15 - 1)).astype(np.int16)
    path = root / clip.path
    form = path.suffix[1:].upper()
    write_atomically(path, lambda file: soundfile.write(file, pcm, SAMPLE_RATE, format=form, subtype="PCM_16"))
    return clip.path
