"""Which clips say something else than their text? Whisper-base's transcripts decide.

    pip install faster-whisper jiwer
    python -m downstream.corpora.debian_speech.check data/real --weights data/weights/whisper-base \\
        --every asterisk_en --sample 60 --seconds 600

transcribes every clip of some sources and a sample of the others, greedily, and keeps the transcripts in
``data/real/DebianSpeech/checks/whisper.jsonl``; run again, it goes on. With ``--write``, ids of clips whose CER is
above :data:`WRONG` are written to ``wrong_texts.txt``, which :mod:`.clips` reads: their texts are left out. The weights
are those of ``make real-weights``; ``tokenizer.json``, which lies in the first package beside them, has to be added.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.data import manifest
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


def chosen(folder: Path, every: Sequence[str], sample: int) -> list[Utterance]:
    """What is transcribed, in the order in which it is: all of some sources, of the others the first of a hash."""
    order: list[tuple[int, str, Utterance]] = []
    for path in sorted(folder.glob("*.jsonl")):
        name = path.name.removesuffix(".jsonl")
        if name.endswith("-4kHz"):
            continue
        utterances = [u for u in manifest.read(path) if u.text and len(plain(u.text)) >= FEW]
        utterances.sort(key=lambda u: hashlib.sha256(u.id.encode()).hexdigest())
        kept = utterances if name in every else utterances[:sample]
        order += [(place, u.id, u) for place, u in enumerate(kept)]
    return [utterance for *_, utterance in sorted(order, key=lambda item: item[:2])]


def transcribe(utterances: Sequence[Utterance], weights: Path, seconds: float) -> Iterator[dict[str, str]]:
    """Transcripts of as many utterances as ``seconds`` of processor time allow."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(weights), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True)
    for utterance in utterances:
        if time.process_time() > seconds:
            return
        parts, _ = model.transcribe(
            utterance.path, language=utterance.language, beam_size=1, temperature=0.0, without_timestamps=True,
            condition_on_previous_text=False,
        )  # fmt: skip
        yield {"id": utterance.id, "text": " ".join(part.text.strip() for part in parts)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m downstream.corpora.debian_speech.check", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="folder with model.bin of CTranslate2")
    parser.add_argument("--every", action="append", default=[], help="a source of which all is transcribed")
    parser.add_argument("--sample", type=int, default=60, help="clips of each other source")
    parser.add_argument("--seconds", type=float, default=600.0, help="of processor time, at most")
    parser.add_argument("--write", action="store_true", help="write wrong_texts.txt")
    options = parser.parse_args(arguments)
    folder = options.root / FOLDER
    kept = folder / "checks" / "whisper.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known = {row["id"]: row["text"] for row in map(json.loads, lines)}
    utterances = chosen(folder, options.every, options.sample)
    left = [utterance for utterance in utterances if utterance.id not in known]
    kept.parent.mkdir(exist_ok=True)
    with kept.open("a", encoding="utf-8") as file:
        for row in transcribe(left, options.weights, options.seconds) if left else ():
            known[row["id"]] = row["text"]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    wrong: dict[str, float] = {}
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for utterance in utterances:
        said = heard(known.get(utterance.id, ""), str(utterance.language))
        if utterance.id in known and not any(c.isdigit() for c in said):  # "19" is no error for "nineteen"
            rate = cer(str(utterance.text), said)
            rates[utterance.id.split("/")[0]].append(rate)
            if rate > WRONG:
                wrong[utterance.id] = rate
    for source, values in rates.items():
        high = sum(value > WRONG for value in values)
        middle = sorted(values)[len(values) // 2]
        print(f"{source}: {len(values)} checked, median CER {middle:.1f} %, {high} above {WRONG:g} %")
    if options.write:
        listed = "".join(f"{name}\t{rate:.0f}\n" for name, rate in sorted(wrong.items()))
        head = f"# Clips that say something else than their text: id, CER in percent (above {WRONG:g}); by check.py\n"
        write_text(Path(__file__).with_name("wrong_texts.txt"), head + listed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
