"""``wavbench predict``: what a trained run makes of audio files."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from benchmark import config, registry
from benchmark.data import audio, manifest
from benchmark.engine import batching, run as experiment
from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically
from benchmark.interfaces import Task, Utterance
from benchmark.engine.regimes import Pairing
from benchmark.engine.trainer import read_checkpoint

EXAMPLES = """\
examples:
  wavbench predict results/my_asr *.wav                    # a JSON object a line: {"id": …, "text": …}
  wavbench predict results/my_lid test.jsonl -o out.jsonl  # the utterances of a manifest
  wavbench predict results/my_sv *.wav -o embeddings.npz   # id -> (size,) float32
"""


class Predictor:
    """A trained run, ready to be applied. Needs its folder and its upstream's checkpoint, not its corpus.

    Args:
        folder: the experiment folder.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        BenchmarkError: there is no trained run, or the upstream's weights are not those it was trained on.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto") -> None:
        folder = Path(folder)
        if not (folder / "config.yaml").exists():
            raise BenchmarkError(f"{folder} holds no run (no config.yaml)")
        saved = config.read_yaml(folder / "config.yaml")
        for plugin in saved.get("plugins") or []:
            registry.load_plugin(plugin)
        card = experiment.read_card(saved["downstream"])
        self.task: type[Task] = experiment.task_class(card)
        values = {key: value for key, value in saved.items() if key != "downstream"}
        self.run = config.compose(card, self.task.Config, [(str(folder / "config.yaml"), values)])
        if not (folder / "checkpoints" / "best.pt").exists():
            raise BenchmarkError(
                f"{folder} has no checkpoints/best.pt: the run has not reached its first evaluation on dev; go on with "
                f"run_downstream.py -e {folder}"
            )
        torch.manual_seed(self.run.seed)  # as experiment.prepare: an upstream with random weights has the same ones
        upstream = registry.load_upstream(
            self.run.upstream.name, checkpoint=self.run.upstream.checkpoint, **self.run.upstream.options
        )
        self.sample_rate = upstream.sample_rate
        self.inventory: dict[str, Any] = {}
        weights = experiment.weights_digest(upstream)

        def take_over(state: dict[str, Any]) -> None:
            trained_on = state["fingerprint"].get("upstream", weights)
            if trained_on != weights:
                raise BenchmarkError(
                    f"{folder} was trained on other weights of '{self.run.upstream.name}' (sha256 {trained_on[:12]}…) "
                    f"than are found now ({weights[:12]}…); put that checkpoint back"
                )
            self.inventory = state["inventory"]
            head = self.task.make_head(self.run.task, self.inventory, upstream.hidden_size)
            self.pairing = Pairing(upstream, head, self.run.regime, self.run.featurizer, self.run.tune)
            self.pairing.load_trained_state(state["pairing"])

        read_checkpoint(folder / "checkpoints" / "best.pt", take_over)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.pairing.to(self.device).eval()

    def __call__(self, utterances: Sequence[Utterance], *, batch_size: int = 1) -> Iterator[tuple[str, Any]]:
        """(id, prediction) of each utterance, longest first; what a prediction is, the task's head says.

        Raises:
            BenchmarkError: audio that cannot be used: all of it is named before the first prediction.
        """
        seconds = audio.durations(utterances)
        frames = experiment.frame_counts(self.pairing.upstream, seconds)
        short = [u.id for u, n in zip(utterances, frames, strict=True) if n < 1]
        if short:
            raise BenchmarkError(f"too short for a single frame: {', '.join(short[:5])} ({len(short)} in all)")
        batches = batching.EvaluationBatches(seconds, batch_size)
        with torch.inference_mode():
            for batch in batching.loader(utterances, batches, sample_rate=self.sample_rate):
                batch.wavs, batch.wav_lens = batch.wavs.to(self.device), batch.wav_lens.to(self.device)
                yield from zip(batch.ids, self.pairing.predict(batch), strict=True)

    def present(self, prediction: Any) -> dict[str, Any]:
        """A prediction as plain data: ``{"text": …}``, ``{"language": …, "posteriors": …}``, ``{"embedding": …}``."""
        return self.task.present(self.run.task, self.inventory, prediction)


def _write_npz(arrays: Mapping[str, Any], file: BinaryIO) -> None:
    """As ``numpy.savez``, which has arguments of its own that an utterance may be called like."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_inputs(paths: Sequence[str]) -> list[Utterance]:
    """Audio files, and the utterances of manifests (``.jsonl``, ``.csv``, ``.tsv``); ids are unique.

    Raises:
        BenchmarkError: an id that occurs twice, or a manifest that cannot be read.
    """
    found: list[Utterance] = []
    for path in paths:
        if Path(path).suffix in (".jsonl", ".csv", ".tsv"):
            found += manifest.read(Path(path))
        else:
            found.append(Utterance(id=path, path=path))
    ids: set[str] = set()
    for utterance in found:
        if utterance.id in ids:
            raise BenchmarkError(f"utterance id '{utterance.id}' occurs twice among the inputs")
        ids.add(utterance.id)
    return found


def main(argv: Sequence[str]) -> int:
    """``wavbench predict EXPDIR FILES…``."""
    parser = argparse.ArgumentParser(
        prog="wavbench predict",
        description="Embeddings (SV), posteriors (LID, SID) or transcripts (ASR) of audio files, by a trained run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("expdir", metavar="EXPDIR", help="the folder of a trained run")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files or manifests")
    parser.add_argument("-o", "--output", metavar="OUT", help=".jsonl, or .npz for embeddings; default: the terminal")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="utterances at a time; default 1")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        raise BenchmarkError(f"--batch-size is {options.batch_size}; expected at least 1")
    if options.output and Path(options.output).suffix not in (".jsonl", ".npz"):
        raise BenchmarkError(f"-o {options.output}: expected a name that ends in .jsonl or .npz")
    utterances = read_inputs(options.files)
    predictor = Predictor(options.expdir, device=options.device)
    progress = tqdm(total=len(utterances), unit="utterance", disable=not sys.stderr.isatty())
    found: dict[str, dict[str, Any]] = {}
    with progress:
        for name, prediction in predictor(utterances, batch_size=options.batch_size):
            found[name] = predictor.present(prediction)
            progress.update()
    ordered = {utterance.id: found[utterance.id] for utterance in utterances}
    if options.output and options.output.endswith(".npz"):
        arrays: dict[str, Any] = {}
        for name, shown in ordered.items():
            if "embedding" not in shown:
                raise BenchmarkError(f"-o {options.output}: .npz is for embeddings, this run gives {', '.join(shown)}")
            arrays[name] = np.asarray(shown["embedding"], dtype=np.float32)
        write_atomically(Path(options.output), partial(_write_npz, arrays))
        return 0
    lines = "".join(json.dumps({"id": name, **shown}, ensure_ascii=False) + "\n" for name, shown in ordered.items())
    if options.output:
        write_atomically(Path(options.output), lambda file: file.write(lines.encode()))
    else:
        sys.stdout.write(lines)
    return 0
