"""Writing the corpora: in parallel, resumable, never into a folder of another origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.files import MARKER, remove_partial, write_bytes, write_text
from downstream.corpora.processes import processes
from downstream.corpora.synthetic import debian, languages, libri, pretraining, superb, voxceleb
from downstream.corpora.synthetic.layout import Layout, Texts
from downstream.corpora.synthetic.recording import Clip, write_clip
from downstream.corpora.synthetic.sizes import SIZES

LAYOUTS: dict[str, Layout] = {
    layout.folder: layout for module in (voxceleb, libri, languages, superb, debian) for layout in module.LAYOUTS
}
"""Folder -> layout."""
CORPORA = tuple(LAYOUTS)
"""Folders in the data root, under their publishers' names."""
VERSION = 1
"""Of the output: increase it when the same parameters give other bytes."""
FEW = 100
"""Fewer clips than this are written faster in this process than processes start."""


def folders_of(corpus: str) -> list[str]:
    """The folders that a corpus of :data:`benchmark.registry.corpora` is read from."""
    return [layout.folder for layout in LAYOUTS.values() if corpus in layout.corpora]


def _claim(root: Path, parameters: dict[str, Any]) -> None:
    """Write the marker, which names the parameters, or refuse to add to a folder of another origin or other parameters.

    Parameters that an older marker does not have are accepted, and what depends on them is added to the tree.
    """
    marker = root / MARKER
    wanted = json.loads(json.dumps(parameters))
    if marker.exists():
        existing = json.loads(marker.read_text(encoding="utf-8"))
        old, new = ({**values, **values.get("size", {}), "size": None} for values in (existing, wanted))
        changed = [key for key, value in new.items() if old.get(key, value) != value]
        if changed:
            raise BenchmarkError(
                f"{root} holds synthetic speech of another size or seed ({', '.join(changed)} differ; see {marker}): "
                "choose another folder, or remove this one"
            )
        if existing == wanted:
            return
    elif root.exists() and any(root.iterdir()):
        raise BenchmarkError(
            f"{root} is not empty and was not made by this program ({MARKER} is missing): choose another folder"
        )
    write_text(marker, json.dumps(wanted, indent=1) + "\n")


def _run(root: Path, clips: Sequence[Clip], pool: Executor | None) -> Iterator[str]:
    """Write the clips, in any order."""
    write: Callable[[Clip], str] = partial(write_clip, root)
    if pool is None or len(clips) < FEW:
        yield from map(write, clips)
    else:
        for future in as_completed([pool.submit(write, clip) for clip in clips]):
            yield future.result()


def _fill(root: Path, parameters: dict[str, Any], clips: Sequence[Clip], texts: Texts, pool: Executor | None) -> None:
    """Write the clips that are missing, then the lists, which may have been made for fewer clips."""
    from tqdm import tqdm

    try:
        _claim(root, parameters)
        remove_partial(root)
        missing = [clip for clip in clips if not (root / clip.path).exists()]
        with tqdm(
            total=len(clips), initial=len(clips) - len(missing), desc=root.name, unit="clip", disable=None
        ) as bar:
            for _ in _run(root, missing, pool):
                bar.update()
        for path, content in texts.items():
            data = content.encode() if isinstance(content, str) else content
            if not (root / path).exists() or (root / path).read_bytes() != data:
                write_bytes(root / path, data)
    except OSError as error:
        raise BenchmarkError(f"synthetic speech cannot be written to {root}: {error}") from error


def synthesise(
    root: str | Path, corpora: Iterable[str] = CORPORA, *, size: str = "demo", seed: int = 0, workers: int | None = None
) -> None:
    """Write ``<root>/VoxCeleb1`` and so on. Existing audio is kept; what is missing is added.

    Args:
        root: the data root, as ``--data-root`` takes it.
        corpora: some of :data:`CORPORA`.
        size: one of :data:`.sizes.SIZES`.
        seed: the same seed gives the same bytes.
        workers: processes; ``None`` for one per core.

    Raises:
        BenchmarkError: an unknown name; a folder of another origin, size or seed; a file cannot be written.
    """
    if size not in SIZES:
        raise BenchmarkError(f"unknown size {size!r}: choose from {', '.join(SIZES)}")
    with processes(workers) as pool:
        for corpus in corpora:
            if corpus not in LAYOUTS:
                raise BenchmarkError(f"unknown synthetic corpus {corpus!r}: choose from {', '.join(CORPORA)}")
            layout = LAYOUTS[corpus]
            clips, texts = layout.plan(SIZES[size], seed)
            fields = {key: value for key, value in asdict(SIZES[size]).items() if key.startswith(layout.fields)}
            parameters = {"version": VERSION, "corpus": corpus, "seed": seed, "size": fields}
            _fill(Path(root) / corpus, parameters, clips, texts, pool)


def synthesise_quick(corpus: str, root: Path) -> None:
    """Write a small corpus in the layout that a corpus of :data:`benchmark.registry.corpora` is read from."""
    synthesise(root, folders_of(corpus), size="quick")


def synthesise_pretraining(root: str | Path, *, hours: float = 10.0, seed: int = 0, workers: int | None = None) -> None:
    """Write speech for pre-training, clips of 6 s in sixteen languages, and fairseq's ``train.tsv``, ``valid.tsv``."""
    root = Path(root)
    clips, texts = pretraining.plan(root, hours, seed)
    parameters = {"version": VERSION, "corpus": "pretraining", "seed": seed, "hours": hours}
    with processes(workers) as pool:
        _fill(root, parameters, clips, texts, pool)
