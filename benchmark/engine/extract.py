"""Hidden states of audio files, or their means over time, as files for other programs.

A folder holds a file an utterance, ``index.jsonl`` with a line for each that is complete, and ``extract.json``, which
says what they are. Upstream and utterances have the digests of the feature store
(:mod:`benchmark.engine.feature_store`), by which features of both can be told to be the same. A folder that is there is
continued.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from filelock import Timeout
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from benchmark.data import audio
from benchmark.engine import batching
from benchmark.engine.feature_store import LARGEST_HALF, FeatureStore, SizedBatches, identity
from benchmark.engine.precision import Precision, choose_device, use_tf32
from benchmark.engine.prepare import frame_counts, weights_digest
from benchmark.errors import BenchmarkError
from benchmark.files import locked, remove_partial, write_atomically, write_text
from benchmark.interfaces import HiddenStates, Upstream, Utterance

INDEX, ABOUT = "index.jsonl", "extract.json"
FORMATS = ("safetensors", "npy")
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Wanted:
    """What is extracted."""

    states: Sequence[int]
    """In increasing order; blocks above the last are not run."""
    means: bool = False
    """Over time, (dim,) each; else frames, (frame, dim)."""
    form: str = "safetensors"
    """One of :data:`FORMATS`: a tensor a state, named by its number; or one array (state, …)."""
    dtype: str = "float32"
    """Of the files; one of :data:`DTYPES`."""
    precision: str = "no"
    """Of the upstream: ``no``, ``bf16`` or ``fp16``."""


def parse_states(text: str, num_states: int) -> list[int]:
    """``all``, or numbers separated by commas, of which ``last`` is one: ``0,6,last``.

    Raises:
        BenchmarkError: there is no such state.
    """
    if text == "all":
        return list(range(num_states))
    chosen = set()
    for part in text.split(","):
        if part != "last" and not (part.isascii() and part.isdigit() and int(part) < num_states):
            raise BenchmarkError(
                f"--states {text}: expected all, last or numbers from 0 to {num_states - 1}, as in 0,last"
            )
        chosen.add(num_states - 1 if part == "last" else int(part))
    return sorted(chosen)


def extract(
    upstream: Upstream,
    utterances: Sequence[Utterance],
    folder: Path,
    wanted: Wanted,
    *,
    options: Mapping[str, Any],
    device: str = "auto",
    batch_size: int = 1,
    workers: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Write the states of utterances that are not there yet.

    Args:
        upstream: in evaluation mode.
        utterances: with different ids.
        folder: made where it is not there.
        wanted: of each utterance.
        options: what the upstream was loaded with; part of its digest.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: utterances at a time; states do not depend on it. A streamed upstream gets as many as it wants.
        workers: processes that read audio.
        overwrite: start again where the folder holds something else.
        quiet: no progress bar.

    Returns:
        how many utterances were run over; the others were there.

    Raises:
        BenchmarkError: audio that cannot be read or is too short, which is named before the first is run over; a folder
            that holds something else or is in use; states that float16 cannot hold.
    """
    seconds = audio.durations(utterances)
    short = [u.id for u, n in zip(utterances, frame_counts(upstream, seconds), strict=True) if n < 1]
    if short:
        raise BenchmarkError(f"too short for a single frame: {', '.join(short[:5])} ({len(short)} in all)")
    files = _file_names(utterances, wanted.form)
    more = [] if wanted.precision == "no" else [wanted.precision]
    streamed = upstream.batch_seconds > 0  # its states are those of the upstream in memory
    options = {key: value for key, value in options.items() if not (streamed and key == "stream")}
    name = identity(weights_digest(upstream), upstream.info["name"], options, *more)
    store = FeatureStore(upstream, name)
    about = _about(upstream, store.folder.parent.name, wanted)
    use_tf32(False)
    computing = Precision(wanted.precision, choose_device(device))
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", timeout=0))
        except Timeout as error:
            raise BenchmarkError(f"another process is extracting to {folder}") from error
        remove_partial(folder)
        keys = {utterance.id: store.key(utterance) for utterance in utterances}
        there = _open(folder, about, overwrite, keys)
        todo = [i for i, utterance in enumerate(utterances) if utterance.id not in there]
        model = computing.frozen(upstream).to(computing.device).eval()
        batches = (
            SizedBatches(seconds[todo].tolist(), upstream.batch_seconds)
            if streamed
            else batching.EvaluationBatches(seconds[todo], batch_size)
        )
        chosen = {utterances[i].id: (utterances[i], float(seconds[i])) for i in todo}
        progress = stack.enter_context(tqdm(total=len(todo), desc="extracting", unit="utterance", disable=quiet))
        index = stack.enter_context(open(folder / INDEX, "a", encoding="utf-8"))
        stack.enter_context(torch.inference_mode())
        reader = batching.loader(
            [utterances[i] for i in todo], batches, sample_rate=upstream.sample_rate, workers=min(workers, len(batches))
        )
        for batch in reader:
            with computing.autocast():
                hidden = model(
                    batch.wavs.to(computing.device), batch.wav_lens.to(computing.device), keep=list(wanted.states)
                )
            for row, name in enumerate(batch.ids):
                utterance, duration = chosen[name]
                line = {"id": name, "file": files[name], "key": keys[name], "frames": int(hidden.lengths[row])}
                line |= {"seconds": round(duration, 6), "path": utterance.path}
                _write(folder / files[name], _states(hidden, row, wanted, name), wanted, line, about["digest"])
                _add(index, line)
            progress.update(len(batch.ids))
    return len(todo)


def _about(upstream: Upstream, digest: str, wanted: Wanted) -> dict[str, Any]:
    return {
        "upstream": upstream.info["name"],
        "digest": digest,
        "kind": "means" if wanted.means else "frames",
        "states": list(wanted.states),
        "hidden_size": upstream.hidden_size,
        "sample_rate": upstream.sample_rate,
        "frame_shift": upstream.frame_shift,
        "format": wanted.form,
        "dtype": wanted.dtype,
    }


def _file_names(utterances: Sequence[Utterance], form: str) -> dict[str, str]:
    """Id -> file below the folder: the id, without what would lead out of it."""
    files: dict[str, str] = {}
    ids: dict[str, str] = {}
    for utterance in utterances:
        parts = [part for part in PurePosixPath(utterance.id).parts if part not in ("/", "//", "..")]
        file = f"{PurePosixPath(*parts)}.{form}" if parts else ""
        if not file or file in ids:
            other = f" and of '{ids[file]}'" if file else ""
            raise BenchmarkError(f"'{file}' would be the file of '{utterance.id}'{other}; give other ids in a manifest")
        files[utterance.id], ids[file] = file, utterance.id
    return files


def _open(
    folder: Path, about: Mapping[str, Any], overwrite: bool, keys: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Id -> line of the index, of a folder that holds the same kind of features; of an empty folder, nothing. Lines of
    utterances whose ``keys`` are others now, or whose files are gone, are removed."""
    path, index = folder / ABOUT, folder / INDEX
    lines: dict[str, dict[str, Any]] = {}
    if path.exists() and not overwrite:
        try:
            former = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            former = {}
        differing = [
            f"{key} {former.get(key)!r}, not {value!r}" for key, value in about.items() if former.get(key) != value
        ]
        if differing:
            raise BenchmarkError(
                f"{folder} holds other features ({'; '.join(differing)}). Choose another folder, or --overwrite"
            )
        for text in index.read_text(encoding="utf-8").splitlines() if index.exists() else ():
            try:
                line = json.loads(text)
                if line["key"] == keys.get(line["id"], line["key"]) and (folder / line["file"]).exists():
                    lines[line["id"]] = line
            except (ValueError, LookupError, TypeError):  # the last line of a process that was killed
                continue
    elif any(folder.iterdir()) and not overwrite and {entry.name for entry in folder.iterdir()} - {".lock"}:
        raise BenchmarkError(f"{folder} is not empty, and holds no features. Choose another folder, or --overwrite")
    write_text(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_text(index, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()))
    return lines


def _add(index: IO[str], line: Mapping[str, Any]) -> None:
    index.write(json.dumps(line) + "\n")
    index.flush()


def _states(hidden: HiddenStates, row: int, wanted: Wanted, name: str) -> Tensor:
    """(state, frame, dim) or (state, dim) of one utterance of a batch, on the CPU."""
    frames = int(hidden.lengths[row])
    states = torch.stack([state[row, :frames].float() for state in hidden.states])
    states = (states.mean(1) if wanted.means else states).cpu()
    if wanted.dtype == "float16" and float(states.abs().max()) > LARGEST_HALF:
        raise BenchmarkError(f"utterance {name} has states beyond what float16 holds; use --dtype float32")
    return states.to(DTYPES[wanted.dtype])


def _write(path: Path, states: Tensor, wanted: Wanted, line: Mapping[str, Any], digest: str) -> None:
    if wanted.form == "npy":
        array: Any = states.numpy()

        def write(file: BinaryIO) -> None:
            np.lib.format.write_array(file, array, allow_pickle=False)

        write_atomically(path, write)
        return
    tensors = {str(k): state.contiguous() for k, state in zip(wanted.states, states, strict=True)}
    about = {"id": line["id"], "key": line["key"], "digest": digest}
    printable = {key: value.encode(errors="backslashreplace").decode() for key, value in about.items()}
    data = save(tensors, metadata=printable)
    write_atomically(path, lambda file: file.write(data))
