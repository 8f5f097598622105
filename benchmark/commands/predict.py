"""``wavbench predict``: what a trained run predicts for audio files."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.commands import Parser, positive
from benchmark.errors import BenchmarkError

EXAMPLES = """\
examples:
  wavbench predict results/my_asr *.wav                    # a JSON object a line: {"id": …, "text": …}
  wavbench predict results/my_lid test.jsonl -o out.jsonl  # the utterances of a manifest
  wavbench predict results/my_sv *.wav -o embeddings.npz   # id -> (size,) float32
"""


def main(argv: Sequence[str]) -> int:
    """``wavbench predict EXPDIR FILES…``."""
    parser = Parser(
        "wavbench predict",
        "Embeddings (SV), posteriors (LID, SID, classify) or transcripts (ASR) of audio files, by a trained run.",
        EXAMPLES,
    )
    parser.add_argument("expdir", metavar="EXPDIR", help="the folder of a trained run")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files or manifests")
    parser.add_argument("-o", "--output", metavar="OUT", help=".jsonl, or .npz for embeddings; default: the terminal")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="utterances at a time; default 1")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(argv)
    if options.output and Path(options.output).suffix not in (".jsonl", ".npz"):
        raise BenchmarkError(f"-o {options.output}: expected a name that ends in .jsonl or .npz")

    from tqdm import tqdm

    from benchmark.engine.predict import TrainedRun, read_inputs
    from benchmark.files import write_atomically, write_text

    trained = TrainedRun(options.expdir, device=options.device)
    utterances = read_inputs(options.files, trained.labels)
    predictions: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(utterances), unit="utterance", disable=not sys.stderr.isatty()) as progress:
        for name, prediction in trained(utterances, batch_size=options.batch_size):
            predictions[name] = trained.present(prediction)
            progress.update()
    predictions = {utterance.id: predictions[utterance.id] for utterance in utterances}
    if options.output and options.output.endswith(".npz"):
        write_atomically(Path(options.output), partial(_write_npz, _embeddings(predictions, options.output)))
        return 0
    lines = "".join(json.dumps({"id": name, **shown}, ensure_ascii=False) + "\n" for name, shown in predictions.items())
    if options.output:
        write_text(Path(options.output), lines)
    else:
        sys.stdout.write(lines)
    return 0


def _embeddings(predictions: Mapping[str, Mapping[str, Any]], output: str) -> dict[str, Any]:
    import numpy as np

    for shown in predictions.values():
        if "embedding" not in shown:
            raise BenchmarkError(f"-o {output}: .npz is for embeddings, this run gives {', '.join(shown)}")
    return {name: np.asarray(shown["embedding"], dtype=np.float32) for name, shown in predictions.items()}


def _write_npz(arrays: Mapping[str, Any], file: BinaryIO) -> None:
    """As ``numpy.savez``, whose own argument names an utterance id may clash with."""
    import numpy as np

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
