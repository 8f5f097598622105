"""Transcripts and alphabets, the greedy path against a naive one, and beam search that a language model changes."""

from __future__ import annotations

import gzip
import logging
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.errors import BenchmarkError
from downstream.asr.decoding import BeamDecoder, LMConfig, beam_decoder, greedy, read_lexicon, unavailable
from downstream.asr.text import ALPHABETS, Alphabet, TextConfig, collapse, normalise

LETTERS = Alphabet(ALPHABETS["librispeech"])

ARPA = r"""
\data\
ngram 1=9
ngram 2=5

\1-grams:
-1.5	<unk>	0
-99	<s>	-0.3
-1.0	</s>
-1.5	THE	-0.3
-1.5	CAT	-0.3
-2.5	CUT	-0.3
-1.9	SAT	-0.3
-2.0	NAÏVE	-0.3
-2.0	Ça	-0.3

\2-grams:
-0.3	<s> THE
-0.1	THE CAT
-3.0	THE CUT
-0.2	CAT SAT
-0.3	SAT </s>

\end\
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def acoustics(spoken: str, alphabet: Alphabet = LETTERS, second: str = "") -> Tensor:
    """Log posteriors (frame, symbol) whose best path is ``spoken`` (``-`` = blank), each symbol of it once, where
    ``second`` says otherwise nearly tied with that."""
    logits = torch.full((len(spoken), len(alphabet.symbols)), -12.0)
    for frame, (best, other) in enumerate(zip(spoken, second or spoken, strict=True)):
        logits[frame, alphabet.index.get(other, 0)] = -0.2
        logits[frame, alphabet.index.get(best, 0)] = 0.0
    return logits.log_softmax(1)


# --- Text -------------------------------------------------------------------------------------------------------------


def test_librispeechs_alphabet_is_fairseqs() -> None:
    """s3prl ec8064b5 downstream/asr/char.dict, behind fairseq's <s>, <pad>, </s>, <unk>."""
    assert " ".join(LETTERS.symbols) == "<s> <pad> </s> <unk> | E T A O N I H S R D L U M C W F G Y P B V K ' X J Q Z"
    assert len(LETTERS.symbols) == 32


def test_labels_are_words_each_followed_by_a_bar() -> None:
    assert [LETTERS.symbols[label] for label in LETTERS.encode("IT'S A CAT")] == list("IT'S|A|CAT|")
    assert LETTERS.encode("") == []
    assert LETTERS.unknown("A 5-É|<") == ["5", "-", "É", "|", "<"]
    assert LETTERS.unknown("IT'S A CAT") == []


@given(st.lists(st.text("ABC'", min_size=1), max_size=5).map(" ".join))
@settings(deadline=None)
def test_decoding_undoes_encoding(text: str) -> None:
    assert LETTERS.decode(LETTERS.encode(text)) == text


def test_special_symbols_write_nothing() -> None:
    labels = [LETTERS.index[s] for s in ("|", "<pad>", "A", "</s>", "B", "|", "|", "<unk>", "C", "<s>")]
    assert LETTERS.decode(labels) == "AB C"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("  Hello,\tworld \n", {}, "Hello, world"),
        ("Hello, world", {"case": "upper"}, "HELLO, WORLD"),
        ("Straße É", {"case": "lower"}, "straße é"),
        ("Hello, “world”—it’s well-known: 5 € …", {"strip_punctuation": True}, "Hello world it's well known 5"),
        ("cafe\u0301", {}, "café"),
        ("...", {"strip_punctuation": True}, ""),
    ],
)
def test_normalisation(text: str, options: dict[str, object], expected: str) -> None:
    normalised = normalise(text, TextConfig(**options))
    assert normalised == expected
    assert normalise(normalised, TextConfig(**options)) == normalised


def test_alphabets_are_named_given_or_derived() -> None:
    assert Alphabet.from_config(TextConfig(alphabet="librispeech"), []).symbols == LETTERS.symbols
    assert Alphabet.from_config(TextConfig(), ["déjà vu", "a b"]).symbols == ("<s>", "|", *"abdjuvàé")
    assert Alphabet.from_config(TextConfig(), ["b|a"]).symbols == ("<s>", "|", "a", "b")
    assert Alphabet.from_config(TextConfig(alphabet="cab ac"), ["xyz"]).symbols == ("<s>", "|", "c", "a", "b")
    assert Alphabet.from_config(TextConfig(alphabet="e\u0301"), []).symbols == ("<s>", "|", "é")
    for options, message in (
        ({"case": "uper"}, r"task.text.case is 'uper'. Did you mean 'upper'"),
        ({"alphabet": "ab|"}, r"task.text.alphabet contains '\|'"),
        ({"alphabet": " "}, "task.text.alphabet is empty"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            TextConfig(**options).check()
    for symbols in (["|", "a"], ["<s>", "a"], ["<s>", "|", "a", "a"]):
        with pytest.raises(BenchmarkError, match="not an alphabet"):
            Alphabet(symbols)


# --- The best path ----------------------------------------------------------------------------------------------------


def naive(frames: list[int]) -> list[int]:
    labels, last = [], 0
    for frame in frames:
        if frame != last and frame != 0:
            labels.append(frame)
        last = frame
    return labels


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=500, deadline=None)
def test_collapse_is_ctcs_mapping(frames: list[int]) -> None:
    assert collapse(torch.tensor(frames)) == naive(frames)


def test_greedy_takes_the_best_symbol_of_each_frame() -> None:
    assert greedy(acoustics("--HHE-LL-LOO||WW-"), LETTERS) == "HELLO W"
    assert greedy(acoustics("HELO"), LETTERS) == "HELO"
    assert greedy(acoustics("----"), LETTERS) == ""
    assert greedy(acoustics("|-|"), LETTERS) == ""


# --- Beam search ------------------------------------------------------------------------------------------------------

SPOKEN, MEANT = "-TH-E-|-CUT-|-SAT-|-", "-TH-E-|-CAT-|-SAT-|-"


def test_a_language_model_decides_what_the_acoustics_leave_open(arpa: Path) -> None:
    log_posteriors = acoustics(SPOKEN, second=MEANT)
    assert greedy(log_posteriors, LETTERS) == "THE CUT SAT"
    decode = BeamDecoder(LMConfig(path=str(arpa)), LETTERS)
    assert decode(log_posteriors) == "THE CAT SAT"
    assert decode(acoustics(SPOKEN)) == "THE CUT SAT"  # where they leave nothing open, it does not
    assert BeamDecoder(LMConfig(path=str(arpa), weight=0.0), LETTERS)(log_posteriors) == "THE CUT SAT"


@pytest.mark.parametrize(("word_score", "expected"), [(2.0, "CAT SAT"), (-2.0, "CATSAT")])
def test_the_word_score_is_added_for_each_word(arpa: Path, tmp_path: Path, word_score: float, expected: str) -> None:
    (tmp_path / "lexicon.lst").write_text("CAT C A T |\nSAT S A T |\nCATSAT C A T S A T |\n")
    config = LMConfig(str(arpa), str(tmp_path / "lexicon.lst"), weight=0.0, word_score=word_score)
    # between the words a space or nothing
    assert BeamDecoder(config, LETTERS)(acoustics("CAT|SAT|", second="CAT-SAT|")) == expected


def test_only_words_of_the_lexicon_are_written(arpa: Path, tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.lst"
    lexicon.write_text("THE\tT H E |\nCUT\tC U T |\nKITTY C A T |\n\nSAT S A T |\n")
    decode = BeamDecoder(LMConfig(path=str(arpa), lexicon=str(lexicon)), LETTERS)
    assert decode(acoustics(MEANT)) == "THE KITTY SAT"
    assert decode(acoustics(SPOKEN)) == "THE CUT SAT"


def test_the_best_word_sequence_wins(arpa: Path) -> None:
    """Beam search with a wide beam against the scores of all sentences of up to three words, one alignment each."""
    decode = BeamDecoder(LMConfig(path=str(arpa), beam=500, threshold=1e3, weight=1.5, word_score=0.7), LETTERS)
    torch.manual_seed(0)
    log_posteriors = (acoustics(SPOKEN, second=MEANT) + torch.randn(len(SPOKEN), 32)).log_softmax(1)
    import kenlm

    model = kenlm.Model(str(arpa))
    scores = {}
    for count in range(1, 4):
        for words in product(("THE", "CAT", "CUT", "SAT"), repeat=count):
            labels = LETTERS.encode(" ".join(words))
            path = viterbi(log_posteriors, labels)
            scores[" ".join(words)] = path + 1.5 * model.score(" ".join(words)) + 0.7 * count
    assert decode(log_posteriors) == max(scores, key=scores.__getitem__)


def viterbi(log_posteriors: Tensor, labels: list[int]) -> float:
    """Score of the best alignment of labels (flashlight keeps the best, it does not sum)."""
    states = [0, *(s for label in labels for s in (label, 0))]
    score = [-1e9] * len(states)
    score[0], score[1] = (float(log_posteriors[0, s]) for s in states[:2])
    for frame in log_posteriors[1:]:
        score = [
            max(
                score[i],
                score[i - 1] if i > 0 else -1e9,
                score[i - 2] if i > 1 and states[i] not in (0, states[i - 2]) else -1e9,
            )
            + float(frame[s])
            for i, s in enumerate(states)
        ]
    return max(score[-1], score[-2])


def test_another_alphabet(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("CAT", "été").replace("CUT", "âté"), encoding="utf-8")
    alphabet = Alphabet.from_config(TextConfig(), ["THE", "été", "âté", "SAT"])
    log_posteriors = acoustics("T-HE-|âté|SAT|", alphabet, second="T-HE-|été|SAT|")
    assert greedy(log_posteriors, alphabet) == "THE âté SAT"
    assert BeamDecoder(LMConfig(path=str(path)), alphabet)(log_posteriors) == "THE été SAT"


def test_the_last_decoder_is_kept(arpa: Path) -> None:
    first = beam_decoder(LMConfig(path=str(arpa)), LETTERS)
    assert beam_decoder(LMConfig(path=str(arpa)), LETTERS) is first
    assert beam_decoder(LMConfig(path=str(arpa), beam=6), LETTERS) is not first


def test_the_lexicon_is_made_of_the_models_words(arpa: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wavbench"):
        lexicon = read_lexicon(LMConfig(path=str(arpa)), LETTERS)
    assert lexicon == [("THE", "T H E |"), ("CAT", "C A T |"), ("CUT", "C U T |"), ("SAT", "S A T |")]
    assert "2 of 6 words cannot be spelt and are left out" in caplog.text
    compressed = tmp_path / "lm.arpa.gz"
    compressed.write_bytes(gzip.compress(arpa.read_bytes(), mtime=0))
    assert read_lexicon(LMConfig(path=str(compressed)), LETTERS) == lexicon


BINARY = b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(range(256)) * 8


UNUSABLE: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "no model": (None, None, r"task.lm.path: .*/lm.arpa does not exist"),
    "binary without a lexicon": (BINARY, None, r"not ARPA text. KenLM's binary format .*task.lm.lexicon"),
    "empty": (b"", None, "not ARPA text"),
    "truncated gzip": (gzip.compress(ARPA.encode(), mtime=0)[:60], None, "not ARPA text"),
    "another case": (
        ARPA.lower().encode(), None, r"none of its 6 words can be spelt .*first words: 'the', 'cat', 'cut'.*case"
    ),
    "empty lexicon": (BINARY, b"", r"lexicon.lst: none of its 0 words"),
    "no spelling": (BINARY, b"CAT C A T |\nSAT\n", r"lexicon.lst:2: expected a word and its symbols"),
    "lexicon in another case": (BINARY, b"cat c a t |\n", r"none of its 1 words can be spelt"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "lexicon", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_models_are_found_before_training(
    tmp_path: Path, model: bytes | None, lexicon: bytes | None, message: str
) -> None:
    if model is not None:
        (tmp_path / "lm.arpa").write_bytes(model)
    if lexicon is not None:
        (tmp_path / "lexicon.lst").write_bytes(lexicon)
    config = LMConfig(str(tmp_path / "lm.arpa"), None if lexicon is None else str(tmp_path / "lexicon.lst"))
    with pytest.raises(BenchmarkError, match=message):
        config.check(LETTERS)


def test_options_are_checked(arpa: Path) -> None:
    LMConfig().check(LETTERS)
    LMConfig(path=str(arpa)).check(LETTERS)
    for config, message in (
        (LMConfig(beam=0), "task.lm.beam must be at least 1"),
        (LMConfig(threshold=0.0), "task.lm.threshold positive"),
        (LMConfig(lexicon="x"), r"task.lm.lexicon is set without a language model"),
        (LMConfig(path=str(arpa), lexicon=str(arpa) + "x"), r"task.lm.lexicon: .*x does not exist"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            config.check(LETTERS)


def test_a_broken_model_is_named(tmp_path: Path, arpa: Path) -> None:
    (tmp_path / "lexicon.lst").write_text("CAT C A T |\n")
    arpa.write_text(ARPA.replace("ngram 2=5", "ngram 2=7"), encoding="utf-8")
    with pytest.raises(BenchmarkError, match=rf"task.lm.path: {arpa} cannot be read by KenLM"):
        BeamDecoder(LMConfig(str(arpa), str(tmp_path / "lexicon.lst")), LETTERS)


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = LMConfig("a.arpa", "b.lst")
    assert (config.path, config.lexicon) == (str(tmp_path / "a.arpa"), str(tmp_path / "b.lst"))


@pytest.mark.parametrize("module", ["flashlight.lib.text.decoder.kenlm", "torchaudio.models.decoder._ctc_decoder"])
def test_says_when_it_is_not_installed(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable() is None
    monkeypatch.setitem(sys.modules, module, None)
    assert module in str(unavailable())
