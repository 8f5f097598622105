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

    from benchmark.engine.predict import TrainedRun
    from benchmark.files import write_atomically, write_text

    trained = TrainedRun(options.expdir, device=options.device)
    rows = trained.predict(options.files, batch_size=options.batch_size)
    if options.output and options.output.endswith(".npz"):
        write_atomically(Path(options.output), partial(_write_npz, _embeddings(rows, options.output)))
        return 0
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if options.output:
        write_text(Path(options.output), lines)
    else:
        sys.stdout.write(lines)
    return 0


def _embeddings(rows: Sequence[Mapping[str, Any]], output: str) -> dict[str, Any]:
    import numpy as np

    for row in rows:
        if "embedding" not in row:
            raise BenchmarkError(f"-o {output}: .npz is for embeddings, this run gives {', '.join([*row][1:])}")
    return {row["id"]: np.asarray(row["embedding"], dtype=np.float32) for row in rows}


def _write_npz(arrays: Mapping[str, Any], file: BinaryIO) -> None:
    """As ``numpy.savez``, whose own argument names an utterance id may clash with."""
    import numpy as np

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            name = name.encode(errors="backslashreplace").decode()  # of a file name that is not UTF-8
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
