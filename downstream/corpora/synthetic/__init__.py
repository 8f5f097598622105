"""Small corpora of synthetic speech in official layouts.

VoxCeleb1, VoxCeleb2, LibriSpeech, Libri-light's sets for limited supervision, VoxLingua107, CommonLanguage, FLEURS,
IEMOCAP, Speech Commands and Fluent Speech Commands.

eSpeak NG speaks; everything else is drawn from a seed. A speaker is a voice definition (vocal-tract length and single
formants, pitch and its range, glottal tone, roughness, strength of consonants), a rate and an accent. A recording is a
room (decaying reverberation), a channel (random equaliser, band limits, saturation), a noise and a level; together they
are strong enough that the mean spectrum reveals more about the recording than about the speaker or the language.

    python -m downstream.corpora.synthetic data/demo --size demo

The same seed gives the same bytes, whatever the number of workers. Pre-training speech has speakers of its own and
draws its words from the other half of every vocabulary.
"""

from downstream.corpora.synthetic.sizes import SIZES
from downstream.corpora.synthetic.writing import (
    CORPORA,
    LAYOUTS,
    folders_of,
    synthesise,
    synthesise_pretraining,
    synthesise_quick,
)

__all__ = ["CORPORA", "LAYOUTS", "SIZES", "folders_of", "synthesise", "synthesise_pretraining", "synthesise_quick"]
