"""A trained run, ready to be applied to audio."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmark import results
from benchmark.data import audio, manifest
from benchmark.engine import batching, checkpoint
from benchmark.engine.cards import open_labels, read_card, task_class
from benchmark.engine.model import Model, make_head
from benchmark.engine.precision import choose_device, use_tf32
from benchmark.engine.prepare import frame_counts, load_upstream, saved_configuration, weights_digest
from benchmark.errors import BenchmarkError
from benchmark.interfaces import Upstream, Utterance

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Paths, or one alone."""


class TrainedRun:
    """A trained run. Needs its folder and its upstream's checkpoint, not its corpus.

    Args:
        folder: the experiment folder.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        BenchmarkError: there is no trained run, or the upstream's weights are not those it was trained on.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto") -> None:
        self.folder = Path(folder)
        self.config = saved_configuration(self.folder)
        card = read_card(self.config.downstream)
        self.task = task_class(card)
        self.labels = open_labels(self.config, card)
        """Columns beside the known fields that manifests may have."""
        best = checkpoint.best(self.folder)
        torch.manual_seed(self.config.seed)  # as when it was trained: an upstream with random weights has the same ones
        chosen = self.config.upstream
        upstream = load_upstream(chosen, chosen.options)
        self.sample_rate = upstream.sample_rate
        self.vocabulary: dict[str, Any] = {}
        weights = weights_digest(upstream)

        def take_over(state: dict[str, Any]) -> None:
            trained_on = state["fingerprint"].get("upstream", weights)
            if trained_on != weights:
                raise BenchmarkError(
                    f"{folder} was trained on other weights of '{chosen.name}' (sha256 {trained_on[:12]}…) than those "
                    f"found now ({weights[:12]}…); restore that checkpoint"
                )
            self.vocabulary = state["inventory"]
            head = make_head(self.config, self.task, self.vocabulary, upstream)
            self.model = Model(upstream, head, self.config.regime, self.config.featurizer, self.config.tune)
            self.model.load_trained_state(state["pairing"])

        checkpoint.read(best, take_over)
        self.device = choose_device(device)
        use_tf32(self.config.trainer.tf32)
        self.model.to(self.device).eval()

    @property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``; :class:`BenchmarkError` where the run has not been evaluated yet."""
        return results.read(self.folder / "result.json")

    @property
    def upstream(self) -> Upstream:
        """The upstream as the checkpoint that was best on dev has it."""
        return self.model.upstream

    def __call__(self, utterances: Sequence[Utterance], *, batch_size: int = 1) -> Iterator[tuple[str, Any]]:
        """(id, prediction) of each utterance, longest first; the task's head defines what a prediction is.

        Raises:
            BenchmarkError: audio that cannot be used: all of it is named before the first prediction.
        """
        seconds = audio.durations(utterances)
        frames = frame_counts(self.upstream, seconds)
        short = [u.id for u, n in zip(utterances, frames, strict=True) if n < 1]
        if short:
            raise BenchmarkError(f"too short for a single frame: {', '.join(short[:5])} ({len(short)} in all)")
        batches = batching.EvaluationBatches(seconds, batch_size)
        progress = tqdm(total=len(utterances), unit="utterance", disable=not sys.stderr.isatty())
        with torch.inference_mode(), progress:
            for batch in batching.loader(utterances, batches, sample_rate=self.sample_rate):
                batch.wavs, batch.wav_lens = batch.wavs.to(self.device), batch.wav_lens.to(self.device)
                yield from zip(batch.ids, self.model.predict(batch), strict=True)
                progress.update(len(batch.ids))

    def present(self, prediction: Any) -> dict[str, Any]:
        """A prediction as plain data: ``{"text": …}``, ``{"language": …, "posteriors": …}``, ``{"embedding": …}``."""
        return self.task.present(self.config.task, self.vocabulary, prediction)

    def predict(self, inputs: Inputs, *, batch_size: int = 1) -> list[dict[str, Any]]:
        """What the run predicts for audio files.

        Args:
            inputs: paths of audio files and of manifests (``.jsonl``, ``.csv``, ``.tsv``), or one of them.
            batch_size: utterances at a time; predictions do not depend on it.

        Returns:
            one object an utterance, in the order of the inputs: ``id``, and what :meth:`present` gives.

        Raises:
            BenchmarkError: an input that is no path or cannot be read, or an id that is duplicated.
        """
        utterances = read_inputs(inputs, self.labels)
        predictions = {name: self.present(value) for name, value in self(utterances, batch_size=batch_size)}
        return [{"id": utterance.id, **predictions[utterance.id]} for utterance in utterances]


def read_inputs(inputs: Inputs, labels: Sequence[str] = ()) -> list[Utterance]:
    """Audio files, and the utterances of manifests (``.jsonl``, ``.csv``, ``.tsv``).

    Raises:
        BenchmarkError: an input that is no path, an id that is duplicated, or a manifest that cannot be read.
    """
    utterances: list[Utterance] = []
    for item in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        if not isinstance(item, str | os.PathLike):
            raise BenchmarkError(
                f"expected paths of audio files or manifests, found a {type(item).__name__}; write a waveform to a file"
            )
        path = os.fspath(item)
        if Path(path).suffix in manifest.ENDINGS:
            utterances += manifest.read(Path(path), labels=labels)
        else:
            utterances.append(Utterance(id=path, path=path))
    for name, times in Counter(utterance.id for utterance in utterances).items():
        if times > 1:
            raise BenchmarkError(f"utterance id '{name}' is duplicated among the inputs")
    return utterances
