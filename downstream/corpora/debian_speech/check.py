"""Which clips say something else than their text? Whisper-base's transcripts decide.

    pip install faster-whisper jiwer
    python -m downstream.corpora.debian_speech.check data/real --weights data/weights/whisper-base --write

transcribes every clip that has a text, greedily, and keeps the transcripts in
``data/real/DebianSpeech/checks/whisper.jsonl``; run again, it goes on. Whisper hears a clip without the padding to 30 s
first, which takes about a tenth of the time, and clips whose CER is then above :data:`WRONG` once more with it. What is
above it still is wrong; with ``--write`` the ids are added to ``wrong_texts.txt``, which :mod:`.clips` reads: their
texts are left out. The weights are those of ``make real-weights``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmark.data import manifest
from benchmark.data.audio import durations, load
from benchmark.files import write_text
from benchmark.interfaces import Utterance
from downstream.corpora.debian_speech.building import FOLDER
from downstream.corpora.debian_speech.texts import normalise

WRONG = 60.0
"""CER in percent above which a text is called wrong: Whisper-base itself is at 3 to 26 on these languages."""
FEW = 8
"""Letters: of shorter texts Whisper says too little to be sure; they are not checked."""


def plain(text: str) -> str:
    """Letters without accents, marks and spaces, so that spelling counts for less."""
    decomposed = unicodedata.normalize("NFKD", text.upper().replace("Ё", "Е"))
    return "".join(c for c in decomposed if c.isalnum())


def cer(reference: str, hypothesis: str) -> float:
    """Edits in percent of the reference's letters."""
    import jiwer

    return 100 * float(jiwer.cer(plain(reference), plain(hypothesis)))


def heard(text: str, language: str) -> str:
    """A transcript in the form of texts; as it is where that is not possible."""
    return normalise(text, language)[0] or text


def chosen(folder: Path, sources: Sequence[str]) -> list[Utterance]:
    """Utterances with a text that is long enough, of some sources or of all (no name)."""
    found: list[Utterance] = []
    for path in sorted(folder.glob("*.jsonl")):
        name = path.name.removesuffix(".jsonl")
        if not name.endswith("-4kHz") and (not sources or name in sources):
            found += [u for u in manifest.read(path) if u.text and len(plain(u.text)) >= FEW]
    return found


def transcripts(utterances: Sequence[Utterance], weights: Path, whole: bool) -> Iterator[dict[str, object]]:
    """Rows for the file of transcripts, in batches of one language and about one length.

    Args:
        whole: pad with silence to 30 s, as Whisper was trained, instead of by 4 to 6 s.
    """
    import ctranslate2
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

    whisper = WhisperModel(str(weights), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
    groups: defaultdict[tuple[str, int], list[Utterance]] = defaultdict(list)
    for utterance, length in zip(utterances, durations(utterances), strict=True):
        seconds = 30 if whole else min(30, 2 * math.ceil((length + 4) / 2))
        groups[str(utterance.language), seconds].append(utterance)
    for (language, seconds), members in sorted(groups.items(), key=lambda item: item[0]):
        tokens = Tokenizer(whisper.hf_tokenizer, True, task="transcribe", language=language)
        prompt = [*tokens.sot_sequence, tokens.no_timestamps]
        for start in range(0, len(members), 8):
            batch = members[start : start + 8]
            features = np.zeros((len(batch), 80, 100 * seconds), np.float32)
            for row, utterance in zip(features, batch, strict=True):
                samples = load(utterance, 16000).numpy()[: 16000 * seconds]
                padded = np.pad(samples, (0, 16000 * seconds - len(samples)))
                row[:] = whisper.feature_extractor(padded, padding=0)[:, : 100 * seconds]
            most = min(224, 12 + 10 * seconds)  # tokens: too short a silence makes it say one word again and again
            found = whisper.model.generate(
                ctranslate2.StorageView.from_array(features), [prompt] * len(batch), beam_size=1, max_length=most
            )
            for utterance, result in zip(batch, found, strict=True):
                text = tokens.decode(result.sequences_ids[0]).strip()
                yield {"id": utterance.id, "text": text, "whole": whole}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m downstream.corpora.debian_speech.check", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="folder with model.bin of CTranslate2")
    parser.add_argument("--source", action="append", default=[], help="a source to check (default: all)")
    parser.add_argument("--write", action="store_true", help="add to wrong_texts.txt")
    options = parser.parse_args(arguments)
    folder = options.root / FOLDER
    kept = folder / "checks" / "whisper.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known = {row["id"]: row for row in map(json.loads, lines)}
    utterances = chosen(folder, options.source)
    kept.parent.mkdir(exist_ok=True)
    rates: dict[str, float] = {}
    with kept.open("a", encoding="utf-8") as file:
        for whole in (False, True):
            asked = [u for u in utterances if not whole or rates.get(u.id, 0) > WRONG]
            left = [u for u in asked if u.id not in known or (whole and not known[u.id]["whole"])]
            for row in transcripts(left, options.weights, whole) if left else ():
                known[str(row["id"])] = row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
            for utterance in asked:
                said = heard(known[utterance.id]["text"], str(utterance.language))
                if any(c.isdigit() for c in said):  # "19" is no error for "nineteen"
                    rates.pop(utterance.id, None)
                else:
                    rates[utterance.id] = cer(str(utterance.text), said)
    by_source: defaultdict[str, list[float]] = defaultdict(list)
    for utterance in utterances:
        if utterance.id in rates:
            by_source[utterance.id.split("/")[0]].append(rates[utterance.id])
    for source, values in by_source.items():
        high, middle = sum(value > WRONG for value in values), statistics.median(values)
        print(f"{source}: {len(values)} checked, median CER {middle:.1f} %, {high} above {WRONG:g} %")
    if options.write:
        listed = Path(__file__).with_name("wrong_texts.txt")
        head, *before = listed.read_text(encoding="utf-8").splitlines()
        wrong = [f"{name}\t{rate:.0f}" for name, rate in rates.items() if rate > WRONG]
        write_text(listed, "\n".join([head, *sorted({*before, *wrong})]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
