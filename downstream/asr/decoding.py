"""Log posteriors -> text: greedily, or by beam search with a lexicon and a KenLM language model.

The beam search is Flashlight's, called through ``torchaudio.models.decoder.ctc_decoder``; the extra ``lm`` installs it
and KenLM.
"""

from __future__ import annotations

import functools
import importlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from torch import Tensor

from benchmark import text
from benchmark.config import absolute
from benchmark.errors import BenchmarkError
from downstream.asr.text import BLANK, SPACE, Alphabet, collapse

log = logging.getLogger("wavbench")

Lexicon = list[tuple[str, str]]
"""(word, its symbols with spaces between them); a word may have several spellings."""


@dataclass
class LMConfig:
    """Beam search with a language model; off while ``path`` is ``None``.

    The defaults are SUPERB's (s3prl ec8064b5 ``downstream/asr/config.yaml``): beam 5, beam threshold 25, LM weight 2,
    word score -1, with LibriSpeech's official 4-gram (https://www.openslr.org/resources/11/4-gram.arpa.gz) and
    fairseq's letter lexicon (https://dl.fbaipublicfiles.com/fairseq/wav2vec/librispeech_lexicon.lst). fairseq's
    ``examples/wav2vec/README.md`` has the same weight and word score; wav2vec 2.0's own figures come from much wider
    beams, with weights tuned on dev-other.
    """

    path: str | None = None
    """A KenLM model of words: ARPA text (also ``.gz``) or KenLM's binary format."""
    lexicon: str | None = None
    """Lines of a word and its symbols (``CAT C A T |``); ``None``: the words of the model, which must be ARPA text,
    spelt in their characters. Words that are not in the lexicon are never written."""
    beam: int = 5
    """Hypotheses kept at each frame."""
    threshold: float = 25.0
    """Hypotheses that score lower than the best by more than this are dropped."""
    weight: float = 2.0
    """Weight of the language model's log probability (base 10), relative to the acoustic one (base e)."""
    word_score: float = -1.0
    """Added for each word."""

    def __post_init__(self) -> None:
        self.path, self.lexicon = absolute(self.path), absolute(self.lexicon)

    def check(self, alphabet: Alphabet) -> None:
        """Raise on values out of range, missing files and lexicons that do not fit the alphabet.

        The model itself is not loaded: that may take minutes, and gigabytes of memory throughout training.
        """
        if self.beam < 1 or not self.threshold > 0:
            raise BenchmarkError(
                f"task.lm.beam must be at least 1 and task.lm.threshold positive, got {self.beam} and {self.threshold}"
            )
        if self.path is None:
            if self.lexicon is not None:
                raise BenchmarkError("task.lm.lexicon is set without a language model; set task.lm.path as well")
            return
        for key, value in (("path", self.path), ("lexicon", self.lexicon)):
            if value is not None and not Path(value).is_file():
                raise BenchmarkError(f"task.lm.{key}: {value} does not exist")
        read_lexicon(self, alphabet)


def greedy(log_posteriors: Tensor, alphabet: Alphabet) -> str:
    """The text of the best symbol of each frame; ``log_posteriors`` (frame, symbol)."""
    return alphabet.decode(collapse(log_posteriors.argmax(dim=1)))


def unavailable() -> str | None:
    """Why beam search with a language model cannot run; ``None`` if it can."""
    try:
        importlib.import_module("flashlight.lib.text.decoder.kenlm")
        importlib.import_module("torchaudio.models.decoder._ctc_decoder")
    except (ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


class BeamDecoder:
    """Beam search over the words of a lexicon.

    Args:
        config: the model and the search, checked by :meth:`LMConfig.check`.
        alphabet: of the log posteriors.

    Raises:
        BenchmarkError: KenLM cannot read the model; as :func:`read_lexicon`.
    """

    def __init__(self, config: LMConfig, alphabet: Alphabet) -> None:
        from torchaudio.models.decoder import ctc_decoder  # an extra

        lexicon = read_lexicon(config, alphabet)
        with tempfile.NamedTemporaryFile("w", suffix=".lst", encoding="utf-8") as file:
            file.writelines(f"{word}\t{spelling}\n" for word, spelling in lexicon)
            file.flush()
            try:
                self._search = ctc_decoder(
                    lexicon=file.name,
                    tokens=list(alphabet.symbols),
                    lm=config.path,
                    beam_size=config.beam,
                    beam_threshold=config.threshold,
                    lm_weight=config.weight,
                    word_score=config.word_score,
                    blank_token=alphabet.symbols[BLANK],
                    sil_token=SPACE,
                )
            except Exception as error:  # whatever KenLM's exceptions become in Python
                raise BenchmarkError(
                    f"task.lm.path: {config.path} cannot be read by KenLM (…{' '.join(str(error).split())[-300:]}). "
                    "Build it again, or use its ARPA text"
                ) from error

    def __call__(self, log_posteriors: Tensor) -> str:
        """The best text; ``log_posteriors`` (frame, symbol). Empty if no hypothesis ends in a whole word."""
        hypotheses = self._search(log_posteriors.float().contiguous()[None])[0]
        return " ".join(hypotheses[0].words) if hypotheses else ""


def beam_decoder(config: LMConfig, alphabet: Alphabet) -> BeamDecoder:
    """A decoder; the last one is reused if nothing has changed, because loading a model is slow."""
    return _beam_decoder(astuple(config), alphabet.symbols)


@functools.lru_cache(maxsize=1)
def _beam_decoder(
    options: tuple[str | None, str | None, int, float, float, float], symbols: tuple[str, ...]
) -> BeamDecoder:
    return BeamDecoder(LMConfig(*options), Alphabet(symbols))


def read_lexicon(config: LMConfig, alphabet: Alphabet) -> Lexicon:
    """The words of ``config.lexicon``, or of the model, with their spellings.

    Raises:
        BenchmarkError: no word can be spelt in the alphabet; a line has no spelling; there is no lexicon and the model
            is not ARPA text.
    """
    assert config.path is not None
    if config.lexicon is not None:
        source, entries = f"lexicon {config.lexicon}", list(_lexicon_lines(Path(config.lexicon)))
    else:
        source = f"language model {config.path}"
        entries = [(word, [*word, SPACE]) for word in _unigrams(Path(config.path))]
    lexicon = [(word, " ".join(spelling)) for word, spelling in entries if set(spelling) <= alphabet.index.keys()]
    if not lexicon:
        words = ", ".join(repr(word) for word, _ in entries[:3])
        raise BenchmarkError(
            f"{source}: none of its {len(entries)} words can be spelt in the alphabet {' '.join(alphabet.symbols)} "
            f"(its first words: {words}). Does its case differ (task.text.case)?"
        )
    if len(lexicon) < len(entries):
        log.info(
            "%s: %d of %d words cannot be spelt and are left out", source, len(entries) - len(lexicon), len(entries)
        )
    return lexicon


def _lexicon_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in text.lines(path):
        fields = text.words(line)
        if len(fields) == 1:
            raise BenchmarkError(
                f"{path}:{number}: expected a word and its symbols, such as 'CAT C A T |', got {line!r}"
            )
        yield fields[0], fields[1:]


def _unigrams(path: Path) -> Iterator[str]:
    r"""The words in the section ``\1-grams:`` of an ARPA file: lines of log probability, word and back-off weight."""
    inside, problem = False, ""
    try:
        for _, line in text.lines(path):
            fields = text.words(line)
            if inside and fields[0].startswith("\\"):
                return
            if inside and fields[1] not in ("<s>", "</s>", "<unk>", "<UNK>"):
                yield fields[1]
            inside = inside or fields == ["\\1-grams:"]
    except (IndexError, BenchmarkError) as error:
        inside, problem = False, f" ({error})" if isinstance(error, BenchmarkError) else ""
    if not inside:
        raise BenchmarkError(
            f"task.lm.path: {path} has no readable \\1-grams: section, so it is not ARPA text. KenLM's binary format "
            "does not list its words: name a lexicon (task.lm.lexicon), or the ARPA file that the model was built from"
            + problem
        )
