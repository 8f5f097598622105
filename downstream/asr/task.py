"""Speech recognition: characters, CTC, word and character error rates."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark import metrics
from benchmark.data.manifest import OWN_DATA
from benchmark.errors import BenchmarkError, MissingData, shorten
from benchmark.evaluation import About, Edits, clusters_of
from benchmark.interfaces import Corpus, Evaluation, Head, Seconds, Splits, Target, Task, Utterance
from benchmark.registry import suggest
from benchmark.text import escape
from downstream import recover
from downstream.asr.decoding import LMConfig, beam_decoder, greedy, unavailable
from downstream.asr.heads import CTCHeadConfig, make_head
from downstream.asr.specaugment import SpecAugmentConfig
from downstream.asr.text import BLANK, Alphabet, TextConfig, normalise, spell
from downstream.splits import warn_of_unknown

log = logging.getLogger("wavbench")

SELECTION = "wer_or_cer"
"""The default of :attr:`ASRConfig.selection`."""
FEW_WORDS = 90.0
"""WER at or above which :data:`SELECTION` compares by CER. Without any output it is 100; the most frequent word and
nothing else brings it a little below, and a talkative output with most characters right may well be above."""
COLLAPSED = 25.0
"""Characters that are written, in percent of the references', below which an evaluation warns."""

_STUCK = (
    "CTC is stuck on the blank, which is normal in the first updates. If it stays there: train for more updates "
    "(trainer.max_steps), lower the learning rates (optim.lr; fine-tuning: optim.upstream_lr), warm up "
    "(optim.warmup_steps), train the head alone first (tune.freeze_updates), compare some transcripts with their audio"
)
_SCORED = "The chosen checkpoint does not recognise this speech; do not compare its error rates with others"


@dataclass
class ASRConfig:
    """Options of speech recognition."""

    train_splits: list[str] = field(default_factory=lambda: ["train-clean-100"])
    """The publisher's splits to train on."""
    dev_splits: list[str] = field(default_factory=lambda: ["dev-clean"])
    """The splits that choose the checkpoint."""
    test_splits: list[str] = field(default_factory=lambda: ["test-clean", "test-other"])
    """The first is the evaluation set ``test``; the others are scored under their own names, if the corpus has them."""
    shared_speakers: bool = False
    """Own data: train even if training speakers also occur in dev or test."""
    text: TextConfig = field(default_factory=TextConfig)
    """See :class:`downstream.asr.text.TextConfig`."""
    head: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    """See :class:`downstream.asr.heads.CTCHeadConfig`."""
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    """See :class:`downstream.asr.specaugment.SpecAugmentConfig`."""
    lm: LMConfig = field(default_factory=LMConfig)
    """See :class:`downstream.asr.decoding.LMConfig`."""

    selection: str = SELECTION
    """What chooses the checkpoint on dev: ``wer_or_cer``, ``wer`` or ``cer``; see :meth:`SpeechRecognition.rank`."""


@dataclass(frozen=True, kw_only=True)
class ASRSplits(Splits):
    """Splits with the evaluation sets (:attr:`sets`: name -> utterances) and the alphabet of all training data."""

    alphabet: Alphabet


class SpeechRecognition(Task):
    """Train a CTC head on characters; score its best path and, given a language model, beam search with it."""

    Config = ASRConfig
    scoring = ("lm",)
    croppable = False

    def __init__(self, config: ASRConfig, splits: ASRSplits, seconds: Mapping[str, Seconds]) -> None:
        super().__init__(config, splits, seconds)
        self.alphabet = splits.alphabet

    @classmethod
    def split(cls, config: ASRConfig, corpus: Corpus, target: Target | None = None) -> ASRSplits:
        """Join the configured splits and check their transcripts.

        Raises:
            BenchmarkError: an option is out of range; a split is missing; transcripts are missing, empty in training
                or in a whole set, or have characters that are not in the alphabet (all such problems are reported
                together); own data has training speakers in dev or test.
        """
        cls._check(config)
        train = _join(corpus, "train_splits", config.train_splits)
        sets = {"dev": _join(corpus, "dev_splits", config.dev_splits)}
        if target is None:
            sets |= _test_sets(config, corpus)
        else:
            sets["test"] = _join(target.corpus, "test_splits", [target.name])
        alphabet = Alphabet.from_config(config.text, (_text(utterance, config) for utterance in train))
        _check_transcripts(config, alphabet, {"train": train, **sets})
        strict = corpus.name == OWN_DATA and target is None and not config.shared_speakers
        _check_speakers({u.speaker for u in train if u.speaker}, sets, strict=strict)
        _check_lm(config, alphabet)
        return ASRSplits(
            corpus=corpus.name if target is None else target.corpus.name,
            train=train,
            dev=sets["dev"],
            test=[u for name, utterances in sets.items() if name != "dev" for u in utterances],
            sets=sets,
            alphabet=alphabet,
        )

    @classmethod
    def split_test(
        cls, config: ASRConfig, corpus: Corpus, vocabulary: Mapping[str, Any], name: str | None = None
    ) -> ASRSplits:
        """The test sets as :meth:`split` joins them. Which of their speakers training has seen is not known."""
        cls._check(config)
        sets = _test_sets(config, corpus) if name is None else {"test": _join(corpus, "test_splits", [name])}
        alphabet = Alphabet(vocabulary["alphabet"])
        _check_transcripts(config, alphabet, sets)
        _check_lm(config, alphabet)
        if name is not None:
            warn_of_unknown(name)
        test = [utterance for utterances in sets.values() for utterance in utterances]
        return ASRSplits(
            corpus=corpus.name, train=(), dev=(), test=test, sets=sets, vocabulary=vocabulary, alphabet=alphabet
        )

    @classmethod
    def _check(cls, config: ASRConfig) -> None:
        metrics.check_selection(config.selection, Edits.kind, SELECTION)
        config.text.check()
        config.head.check()
        config.specaugment.check()

    @property
    def selection(self) -> str:
        """The option; the metric of ``wer_or_cer`` is ``wer``."""
        return "wer" if self.config.selection == SELECTION else str(self.config.selection)

    def rank(self, dev: Mapping[str, float], error: float) -> tuple[float, ...]:
        """Order by the option ``selection``: a metric, or by ``wer_or_cer`` first those with a WER below
        :data:`FEW_WORDS`, by WER, then all others, by CER.

        WER alone prefers an output that says nothing (100) to one with four characters in ten right and some insertions
        (105).
        """
        if self.config.selection != SELECTION:
            return super().rank(dev, error)
        return (0, dev["wer"]) if dev["wer"] < FEW_WORDS else (1, dev["cer"])

    @classmethod
    def requires(cls, config: ASRConfig) -> tuple[str, ...]:
        """The transcript."""
        return ("text",)

    @classmethod
    def strata(cls, config: ASRConfig) -> tuple[str, ...]:
        """Genders, and speakers within them."""
        return ("gender", "speaker")

    @classmethod
    def frames_needed(cls, config: ASRConfig, splits: Splits) -> Callable[[Utterance], int]:
        """A frame for each label and one for the blank between two equal labels: CTC has no shorter alignment."""

        def frames(utterance: Utterance) -> int:
            labels = spell(_text(utterance, config))
            return len(labels) + sum(a == b for a, b in pairwise(labels))

        return frames

    def targets(self, utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
        """Labels (batch, label) int64, padded with the blank, and how many each utterance has (batch,) int64."""
        labels = [torch.tensor(self.alphabet.encode(_text(utterance, self.config))) for utterance in utterances]
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=BLANK)
        return padded, torch.tensor([len(row) for row in labels])

    def vocabulary(self) -> dict[str, Any]:
        """``alphabet``: the symbols, in the order of the head's outputs."""
        return {"alphabet": list(self.alphabet.symbols)}

    @classmethod
    def make_head(cls, config: ASRConfig, vocabulary: Mapping[str, Any], feature_size: int) -> Head:
        """A new head with an output for each symbol of ``vocabulary["alphabet"]``."""
        return make_head(feature_size, len(vocabulary["alphabet"]), config.head, config.specaugment)

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Decode and score.

        Args:
            split: ``dev``, or ``test`` for all other sets.
            predictions: utterance id -> log posteriors, a tensor (frame, symbol).

        Returns:
            For each evaluation set: wer and its parts substitutions, deletions and insertions in percent of the
            reference words; cer in percent of the characters, which include spaces between words; blank_share in
            percent of the frames (best path only). ``<set>_lm`` is beam search with the language model.
            ``predictions*.jsonl``: id, reference, prediction, word edits; for test sets also ``hyp_*.trn`` and
            ``ref_*.trn``, the input of NIST's sclite.
        """
        result = Evaluation(metrics={})
        logs = {name: torch.as_tensor(prediction) for name, prediction in predictions.items()}
        sets = {name: us for name, us in self.splits.sets.items() if (name == "dev") == (split == "dev")}
        for name, utterances in sets.items():
            items = self._score(name, utterances, [greedy(logs[u.id], self.alphabet) for u in utterances], result)
            if name == split:
                result.items = items
            blank = sum(int((logs[u.id].argmax(dim=1) == BLANK).sum()) for u in utterances)
            share = 100 * blank / sum(len(logs[u.id]) for u in utterances)
            result.metrics[name]["blank_share"] = share
            written = 100 * sum(map(len, items.hypotheses)) / sum(map(len, items.references))
            if written < COLLAPSED:
                log.warning(
                    "%s: the output is nearly empty: the hypotheses have %.1f %% as many characters as the references "
                    "(%d of %d are empty), %.1f %% of all frames are blank, and the CER is %.1f. %s",
                    name,
                    written,
                    items.hypotheses.count(""),
                    len(items),
                    share,
                    result.metrics[name]["cer"],
                    _STUCK if name == "dev" else _SCORED,
                )
        if split != "dev" and self.config.lm.path is not None and unavailable() is None:
            try:
                decode = beam_decoder(self.config.lm, self.alphabet)
            except BenchmarkError as error:  # no reason to lose a trained run
                log.warning("%s; only greedy decoding is scored, and there are no sets named …_lm", error)
                return result
            for name, utterances in sets.items():
                self._score(f"{name}_lm", utterances, [decode(logs[u.id]) for u in utterances], result)
        return result

    def _score(
        self, name: str, utterances: Sequence[Utterance], hypotheses: Sequence[str], result: Evaluation
    ) -> Edits:
        """Add the metrics and files of an evaluation set to ``result``."""
        cluster, clusters = clusters_of(utterances)
        references = [_text(utterance, self.config) for utterance in utterances]
        items = Edits([u.id for u in utterances], clusters, cluster, references, hypotheses)
        kinds = ("substitutions", "deletions", "insertions")
        length = sum(edits.length for edits in items.words)
        parts = {kind: 100 * sum(getattr(edits, kind) for edits in items.words) / length for kind in kinds}
        result.metrics[name] = metrics.score(items) | parts
        lines = [
            {"id": u.id, "speaker": u.speaker, "reference": reference, "prediction": hypothesis}
            | {kind: getattr(edits, kind) for kind in kinds}
            for u, reference, hypothesis, edits in zip(utterances, references, hypotheses, items.words, strict=True)
        ]
        result.files["predictions.jsonl" if name == "test" else f"predictions_{name}.jsonl"] = "".join(
            json.dumps(line, ensure_ascii=False) + "\n" for line in lines
        )
        if name != "dev":
            ids = [_trn_id(utterance) for utterance in utterances]
            if len(set(ids)) < len(ids):  # "a b" and "a_b"
                ids = [_trn_id(replace(u, id=escape(u.id).replace("_", "%5F"))) for u in utterances]
            for kind, texts in (("ref", references), ("hyp", hypotheses)):
                result.files[f"{kind}_{name}.trn"] = "".join(
                    f"{text} ({id_})\n" for text, id_ in zip(texts, ids, strict=True)
                )
        return items

    @classmethod
    def recover(cls, folder: Path) -> About | None:
        """See :func:`downstream.recover.edits`."""
        return recover.edits(folder)

    @classmethod
    def present(cls, config: ASRConfig, vocabulary: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """``text``, the best path; with a language model also ``text_lm``."""
        alphabet, log_posteriors = Alphabet(vocabulary["alphabet"]), torch.as_tensor(prediction)
        shown = {"text": greedy(log_posteriors, alphabet)}
        if config.lm.path is not None and unavailable() is None:
            shown["text_lm"] = beam_decoder(config.lm, alphabet)(log_posteriors)
        return shown


def _check_lm(config: ASRConfig, alphabet: Alphabet) -> None:
    config.lm.check(alphabet)
    if config.lm.path is not None and (reason := unavailable()) is not None:
        log.warning(
            "task.lm.path is set, but beam search with a language model is not installed (%s). Only greedy "
            "decoding is scored, and there are no evaluation sets …_lm; to install it: pip install -e '.[lm]'",
            reason,
        )


def _text(utterance: Utterance, config: ASRConfig) -> str:
    """The normalised transcript."""
    return normalise(utterance.text or "", config.text)


def _join(corpus: Corpus, key: str, names: Sequence[str]) -> list[Utterance]:
    """The utterances of splits, sorted by id."""
    if not names:
        raise BenchmarkError(f"task.{key} is empty; name at least one split of '{corpus.name}'")
    for name in names:
        if name not in corpus.splits:
            if corpus.name == OWN_DATA and name in ("train", "dev", "test"):
                raise MissingData(f"speech recognition needs a manifest of {name} utterances; give --{name} FILE", name)
            raise MissingData(
                f"corpus '{corpus.name}' has no split '{name}' (task.{key}); unpack it next to the others, or name "
                "another. " + suggest(name, sorted(corpus.splits)),
                split=name,
            )
    joined = sorted((u for name in names for u in corpus.splits[name]), key=lambda utterance: utterance.id)
    duplicated = [a.id for a, b in pairwise(joined) if a.id == b.id]
    if duplicated:
        raise BenchmarkError(
            f"task.{key}: {len(duplicated)} utterances are in two of {', '.join(names)}: {shorten(duplicated)}"
        )
    if not joined:
        raise BenchmarkError(f"task.{key}: there is no utterance in {', '.join(names)} of '{corpus.name}'")
    return joined


def _test_sets(config: ASRConfig, corpus: Corpus) -> dict[str, list[Utterance]]:
    """Evaluation set -> utterances, of the protocol's own test splits."""
    if not config.test_splits:
        raise BenchmarkError("task.test_splits is empty; name the split behind the 'test' metrics")
    sets: dict[str, list[Utterance]] = {}
    for name in config.test_splits:
        key = name if sets else "test"
        if sets and name not in corpus.splits:
            log.warning("corpus '%s' has no split '%s' (task.test_splits); it is not scored", corpus.name, name)
        elif key in (*sets, "dev"):
            raise BenchmarkError(f"task.test_splits: '{name}' is duplicated, or is the name of another evaluation set")
        else:
            sets[key] = _join(corpus, "test_splits", [name])
    return sets


def _check_transcripts(config: ASRConfig, alphabet: Alphabet, sets: Mapping[str, Sequence[Utterance]]) -> None:
    """Raise on missing transcripts, on empty ones of training, and on characters that the head cannot write.

    In dev and test an empty transcript is silence, or noise: words that are recognised there are insertions.
    """
    problems = []
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for name, utterances in sets.items():
        texts = {u.id: _text(u, config) for u in utterances if u.text is not None}
        missing = [u.id for u in utterances if u.text is None]
        empty = [utterance for utterance, text in texts.items() if not text]
        if missing:
            problems.append(f"{len(missing)} utterances of {name} have no transcript: {shorten(missing)}")
        if empty and (name == "train" or len(empty) == len(utterances)):
            problems.append(f"{len(empty)} utterances of {name} have an empty transcript: {shorten(empty)}")
        elif empty:
            log.info(
                "%s: %d of %d utterances have an empty transcript; what is recognised there counts as insertions: %s",
                name, len(empty), len(utterances), shorten(empty),
            )  # fmt: skip
        for utterance, text in texts.items():
            unknown = alphabet.unknown(text)
            counts.update(unknown)
            for character in unknown:
                first.setdefault(character, f"{utterance} of {name}")
    if counts:
        shown = [f"{c!r} ({n} times, first in {first[c]})" for c, n in counts.most_common()]
        problems.append(
            f"{len(counts)} characters are not in the alphabet ({''.join(alphabet.symbols)}): {shorten(shown, most=10)}"
        )
    if problems:
        raise BenchmarkError(
            "the transcripts cannot be used:\n  " + "\n  ".join(problems) + "\nFix the transcripts or remove these "
            "utterances. Characters: task.text.case and task.text.strip_punctuation normalise, and task.text.alphabet "
            "names all characters that the head can write; '|' stands for the space and cannot be one of them"
        )


def _check_speakers(trained: set[str], sets: Mapping[str, Sequence[Utterance]], *, strict: bool) -> None:
    """Warn about training speakers in dev or test; raise if ``strict``."""
    for name, utterances in sets.items():
        shared = sorted({u.speaker for u in utterances if u.speaker} & trained)
        if not shared:
            continue
        problem = f"{len(shared)} speakers are in both the training data and {name}: {shorten(shared)}"
        if strict:
            raise BenchmarkError(
                f"{problem}. Error rates are lower for speakers seen in training; move them to one side, or set "
                "task.shared_speakers=true to allow this"
            )
        log.warning("%s; error rates are lower for speakers seen in training", problem)


def _trn_id(utterance: Utterance) -> str:
    """``speaker-utterance``, from which sclite reads the speaker; no white space or parentheses."""
    prefixed = utterance.speaker is None or utterance.id.startswith(f"{utterance.speaker}-")
    name = utterance.id if prefixed else f"{utterance.speaker}-{utterance.id}"
    return "".join("_" if c.isspace() or c in "()" else c for c in name)
