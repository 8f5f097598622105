"""Speech recognition: characters, CTC, word and character error rates."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Corpus, Evaluation, Head, Task, Utterance
from benchmark.data.manifest import OWN_DATA, some
from benchmark.metrics import character_edits, edit_rate, word_edits
from benchmark.registry import suggest
from downstream.asr.decoding import LMConfig, beam_decoder, greedy, unavailable
from downstream.asr.heads import HeadConfig, make_head
from downstream.asr.specaugment import SpecAugmentConfig
from downstream.asr.text import BLANK, Alphabet, TextConfig, normalise
from downstream.heads import nested

log = logging.getLogger("wavbench")

STUCK = 99.0
"""Percent of blank frames from which on dev evaluation warns."""


@dataclass
class ASRConfig:
    """Options of speech recognition."""

    train_splits: list[str] = field(default_factory=lambda: ["train-clean-100"])
    """The publisher's splits to train on."""
    dev_splits: list[str] = field(default_factory=lambda: ["dev-clean"])
    """The splits that choose the checkpoint."""
    test_splits: list[str] = field(default_factory=lambda: ["test-clean", "test-other"])
    """The first is the evaluation set ``test``; the others are scored under their own names, where they are there."""
    shared_speakers: bool = False
    """Own data: train although speakers of the training data occur in dev or test."""
    text: TextConfig = field(default_factory=TextConfig)
    """See :class:`downstream.asr.text.TextConfig`."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """See :class:`downstream.asr.heads.HeadConfig`."""
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    """See :class:`downstream.asr.specaugment.SpecAugmentConfig`."""
    lm: LMConfig = field(default_factory=LMConfig)
    """See :class:`downstream.asr.decoding.LMConfig`."""

    selection: str = "wer"
    """The metric of dev that chooses the checkpoint: ``wer``, or ``cer`` where words are too few or too long."""

    def __post_init__(self) -> None:
        self.text = nested(TextConfig, "text", self.text)
        self.head = nested(HeadConfig, "head", self.head)
        self.specaugment = nested(SpecAugmentConfig, "specaugment", self.specaugment)
        self.lm = nested(LMConfig, "lm", self.lm)


class SpeechRecognition(Task):
    """Train a CTC head on characters; score its best path, and beam search with a language model if one is given.

    Raises:
        BenchmarkError: an option out of range; a split that is not there; utterances without transcript, with an empty
            one or with characters that the alphabet does not have; own data whose training speakers occur in dev or
            test. All that is wrong with the transcripts is said at once.
    """

    Config = ASRConfig
    requires = ("text",)
    strata = ("gender", "speaker")
    scoring = ("lm",)
    selection = "wer"
    higher_is_better = False
    croppable = False

    def __init__(self, config: ASRConfig, corpus: Corpus) -> None:
        self.config = config
        if config.selection not in ("wer", "cer"):
            raise BenchmarkError(f"task.selection is '{config.selection}'; expected wer or cer")
        self.selection = config.selection
        config.text.check()
        config.head.check()
        config.specaugment.check()
        train = self._join(corpus, "train_splits", config.train_splits)
        self.sets = {"dev": self._join(corpus, "dev_splits", config.dev_splits)}
        """Evaluation set -> utterances."""
        for position, name in enumerate(config.test_splits):
            key = name if position else "test"
            if position and name not in corpus.splits:
                log.warning("corpus '%s' has no split '%s' (task.test_splits); it is not scored", corpus.name, name)
            elif key in self.sets:
                raise BenchmarkError(f"task.test_splits: '{name}' is named twice, or is the name of another set")
            else:
                self.sets[key] = self._join(corpus, "test_splits", [name])
        if "test" not in self.sets:
            raise BenchmarkError("task.test_splits is empty; name the split behind the 'test' metrics")
        self.splits = {
            "train": train,
            "dev": self.sets["dev"],
            "test": [u for name, utterances in self.sets.items() if name != "dev" for u in utterances],
        }
        self.alphabet = Alphabet.of(config.text, (self._text(utterance) for utterance in train))
        self._check_transcripts({"train": train, **self.sets})
        self._check_speakers({str(u.speaker) for u in train if u.speaker}, strict=corpus.name == OWN_DATA)
        config.lm.check(self.alphabet)
        self.beam_search = config.lm.path is not None
        reason = unavailable() if self.beam_search else None
        if reason is not None:
            self.beam_search = False
            log.warning(
                "task.lm.path is set, but beam search with a language model is not installed here (%s). Only greedy "
                "decoding is scored, and there will be no sets named …_lm; pip install -e '.[lm]' brings it",
                reason,
            )

    @staticmethod
    def _join(corpus: Corpus, key: str, names: Sequence[str]) -> list[Utterance]:
        """The utterances of splits, sorted by id."""
        if not names:
            raise BenchmarkError(f"task.{key} is empty; name at least one split of '{corpus.name}'")
        for name in names:
            if name not in corpus.splits:
                if corpus.name == OWN_DATA and name in ("train", "dev", "test"):
                    raise BenchmarkError(
                        f"speech recognition needs a manifest of {name} utterances; give --{name} FILE"
                    )
                raise BenchmarkError(
                    f"corpus '{corpus.name}' has no split '{name}' (task.{key}); unpack it beside the others, or name "
                    "another. " + suggest(name, sorted(corpus.splits))
                )
        joined = sorted((u for name in names for u in corpus.splits[name]), key=lambda utterance: utterance.id)
        twice = [a.id for a, b in pairwise(joined) if a.id == b.id]
        if twice:
            raise BenchmarkError(f"task.{key}: {len(twice)} utterances are in two of {', '.join(names)}: {some(twice)}")
        if not joined:
            raise BenchmarkError(f"task.{key}: there is no utterance in {', '.join(names)} of '{corpus.name}'")
        return joined

    def _text(self, utterance: Utterance) -> str:
        return normalise(utterance.text or "", self.config.text)

    def _check_transcripts(self, sets: Mapping[str, Sequence[Utterance]]) -> None:
        """Raise on missing and empty transcripts and on characters that the head cannot write."""
        problems = []
        counts: Counter[str] = Counter()
        first: dict[str, str] = {}
        for name, utterances in sets.items():
            missing = [u.id for u in utterances if u.text is None]
            empty = [u.id for u in utterances if u.text is not None and not self._text(u)]
            for found, what in ((missing, "have no transcript"), (empty, "have an empty transcript")):
                if found:
                    problems.append(f"{len(found)} utterances of {name} {what}: {some(found)}")
            for utterance in utterances:
                unknown = self.alphabet.unknown(self._text(utterance))
                counts.update(unknown)
                for character in unknown:
                    first.setdefault(character, f"{utterance.id} of {name}")
        if counts:
            shown = [f"{c!r} ({n} times, first in {first[c]})" for c, n in counts.most_common()]
            problems.append(
                f"{len(counts)} characters are not in the alphabet ({''.join(self.alphabet.symbols)}): "
                f"{some(shown, most=10)}"
            )
        if problems:
            raise BenchmarkError(
                "the transcripts cannot be used:\n  " + "\n  ".join(problems) + "\nMend the transcripts or take these "
                "utterances out. Characters: task.text.case and task.text.strip_punctuation normalise, and "
                "task.text.alphabet names all that the head shall write; '|' stands for the space and cannot be one"
            )

    def _check_speakers(self, trained: set[str], *, strict: bool) -> None:
        """Warn of training speakers in dev or test; with ``strict`` raise, unless the options allow them."""
        for name, utterances in self.sets.items():
            shared = sorted({str(u.speaker) for u in utterances if u.speaker} & trained)
            if not shared:
                continue
            found = f"{len(shared)} speakers are in both the training data and {name}: {some(shared)}"
            if strict and not self.config.shared_speakers:
                raise BenchmarkError(
                    f"{found}. Error rates of known speakers are lower than those of others; move them to one side, or "
                    "set task.shared_speakers=true if that is what you want to know"
                )
            log.warning("%s; error rates of known speakers are lower than those of others", found)

    def targets(self, utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
        """Labels (batch, label) int64, padded with the blank, and how many each has (batch,) int64."""
        labels = [torch.tensor(self.alphabet.encode(self._text(utterance))) for utterance in utterances]
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=BLANK)
        return padded, torch.tensor([len(row) for row in labels])

    def frames_needed(self, utterance: Utterance) -> int:
        """A frame for each label and one for the blank between two equal ones: CTC aligns no shorter utterance."""
        labels = self.alphabet.encode(self._text(utterance))
        return len(labels) + sum(a == b for a, b in pairwise(labels))

    def inventory(self) -> dict[str, Any]:
        """The symbols of the head's outputs, in their order."""
        return {"alphabet": list(self.alphabet.symbols)}

    @classmethod
    def make_head(cls, config: ASRConfig, inventory: Mapping[str, Any], feature_size: int) -> Head:
        """A fresh head with an output a symbol of ``inventory["alphabet"]``."""
        return make_head(feature_size, len(inventory["alphabet"]), config.head, config.specaugment)

    def evaluate(self, split: str, predictions: Mapping[str, Any]) -> Evaluation:
        """Decode and score.

        Args:
            split: ``dev``, or ``test`` for all of the other sets.
            predictions: utterance id -> log posteriors, a tensor (frame, symbol).

        Returns:
            By evaluation set: wer and its parts substitutions, deletions and insertions in percent of the reference
            words; cer in percent of the characters, spaces between words among them; blank_share in percent of the
            frames (best path only). ``<set>_lm`` is beam search with the language model.
            ``predictions*.jsonl``: id, reference, prediction, word edits; of test also ``hyp_*.trn`` and ``ref_*.trn``
            as NIST's sclite reads them.
        """
        result = Evaluation(metrics={})
        sets = {name: utterances for name, utterances in self.sets.items() if (name == "dev") == (split == "dev")}
        for name, utterances in sets.items():
            texts = {u.id: greedy(torch.as_tensor(predictions[u.id]), self.alphabet) for u in utterances}
            self._score(name, utterances, texts, result)
            blank = sum(int((torch.as_tensor(predictions[u.id]).argmax(dim=1) == BLANK).sum()) for u in utterances)
            share = 100 * blank / sum(len(predictions[u.id]) for u in utterances)
            result.metrics[name]["blank_share"] = share
            if name == "dev" and (share >= STUCK or not any(texts.values())):
                log.warning(
                    "dev: %.1f %% of all frames are blank, %d of %d hypotheses are empty. CTC is stuck on the blank, "
                    "as in the first updates of most runs. If it stays there: lower the rates (optim.lr; fine-tuning: "
                    "optim.upstream_lr), warm up (optim.warmup_steps), train the head alone first "
                    "(tune.freeze_updates), and compare some transcripts with their audio",
                    share,
                    sum(not text for text in texts.values()),
                    len(texts),
                )
        if self.beam_search and split != "dev":
            try:
                decode = beam_decoder(self.config.lm, self.alphabet)
            except BenchmarkError as error:  # not what a trained run should be lost for
                log.warning("%s; only greedy decoding is scored, and there are no sets named …_lm", error)
                return result
            for name, utterances in sets.items():
                texts = {u.id: decode(torch.as_tensor(predictions[u.id])) for u in utterances}
                self._score(f"{name}_lm", utterances, texts, result)
        return result

    def _score(self, name: str, utterances: Sequence[Utterance], texts: Mapping[str, str], result: Evaluation) -> None:
        references = [self._text(utterance) for utterance in utterances]
        hypotheses = [texts[utterance.id] for utterance in utterances]
        words = [word_edits(*pair) for pair in zip(references, hypotheses, strict=True)]
        characters = [character_edits(*pair) for pair in zip(references, hypotheses, strict=True)]
        length = sum(edits.length for edits in words)
        result.metrics[name] = {
            "wer": edit_rate(words),
            "cer": edit_rate(characters),
            "substitutions": 100 * sum(edits.substitutions for edits in words) / length,
            "deletions": 100 * sum(edits.deletions for edits in words) / length,
            "insertions": 100 * sum(edits.insertions for edits in words) / length,
        }
        lines = [
            {"id": u.id, "speaker": u.speaker, "reference": reference, "prediction": hypothesis}
            | {kind: getattr(edits, kind) for kind in ("substitutions", "deletions", "insertions")}
            for u, reference, hypothesis, edits in zip(utterances, references, hypotheses, words, strict=True)
        ]
        result.files["predictions.jsonl" if name == "test" else f"predictions_{name}.jsonl"] = "".join(
            json.dumps(line, ensure_ascii=False) + "\n" for line in lines
        )
        if name != "dev":
            ids = [_trn_id(utterance) for utterance in utterances]
            for kind, rows in (("ref", references), ("hyp", hypotheses)):
                result.files[f"{kind}_{name}.trn"] = "".join(
                    f"{text} ({name})\n" for text, name in zip(rows, ids, strict=True)
                )

    def retarget(self, name: str, corpus: Corpus) -> None:
        """Score the split ``name`` of ``corpus`` instead of the test splits; it becomes the evaluation set ``test``.

        Raises:
            BenchmarkError: there is no such split, or its transcripts are missing, empty or have characters that the
                head cannot write.
        """
        utterances = self._join(corpus, "test_splits", [name])
        self._check_transcripts({name: utterances})
        self.sets = {"dev": self.sets["dev"], "test": utterances}
        self.splits["test"] = utterances
        self._check_speakers({str(u.speaker) for u in self.splits["train"] if u.speaker}, strict=False)

    @classmethod
    def present(cls, config: ASRConfig, inventory: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        """``text``, the best path; with a language model also ``text_lm``."""
        alphabet, log_posteriors = Alphabet(inventory["alphabet"]), torch.as_tensor(prediction)
        shown = {"text": greedy(log_posteriors, alphabet)}
        if config.lm.path is not None and unavailable() is None:
            shown["text_lm"] = beam_decoder(config.lm, alphabet)(log_posteriors)
        return shown


def _trn_id(utterance: Utterance) -> str:
    """``speaker-utterance``, the form from which sclite tells the speaker; no white space or parentheses."""
    known = utterance.speaker is None or utterance.id.startswith(f"{utterance.speaker}-")
    name = utterance.id if known else f"{utterance.speaker}-{utterance.id}"
    return "".join("_" if c.isspace() or c in "()" else c for c in name)
