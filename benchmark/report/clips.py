"""Short copies of a test set's audio, for a page that plays them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Seconds, Utterance

SECONDS: Seconds = 10.0
"""Of an utterance that is kept: its beginning."""
RATE = 16_000
"""Hz."""
MOST = 60
"""Clips of one comparison."""


def at_hand(folder: Path, data_root: str | None = None) -> dict[str, Utterance]:
    """The utterances of a run's test set by id, from the data that the run was made with.

    Args:
        folder: the experiment folder.
        data_root: where the data is now; default: where the run found it.

    Raises:
        BenchmarkError: the data is not there, the folder holds no run, or a plug-in of the run is not loaded.
    """
    from benchmark import config, registry
    from benchmark.engine.prepare import Preparer, saved_configuration

    if (folder / "config.yaml").exists():
        loaded = registry.loaded_plugins()
        for plugin in config.read_yaml(folder / "config.yaml").get("plugins") or ():
            if str(Path(str(plugin)).resolve()) not in loaded:  # somebody else's folder must not run programs
                raise BenchmarkError(
                    f"{folder} was made with the plug-in {plugin}; if you trust it, add --plugin {plugin}"
                )
    settings = saved_configuration(folder)
    if data_root is not None:
        settings.data.root = data_root
    chosen, _ = Preparer().splits(settings)
    return {utterance.id: utterance for utterance in chosen.test}


class Clips:
    """FLAC files beside a page, made for the utterances that it shows.

    Args:
        utterances: by id; empty: there is no audio.
        folder: name of the folder, as the page refers to it.
    """

    def __init__(self, utterances: Mapping[str, Utterance], folder: str) -> None:
        self.utterances = utterances
        self.folder = folder
        self.files: dict[str, bytes] = {}
        """Name -> content. Names are numbers: an id may hold anything."""
        self.problems: list[str] = []
        """Why utterances cannot be played."""
        self._names: dict[tuple[str, str], str | None] = {}
        self._left = 0

    def begin(self, utterances: Mapping[str, Utterance]) -> None:
        """Go on with another test set, which may have :data:`MOST` clips of its own."""
        self.utterances, self._left = utterances, MOST

    def player(self, name: str) -> str:
        """HTML that plays an utterance; nothing where its audio is not at hand, or there are :data:`MOST` already."""
        utterance = self.utterances.get(name)
        if utterance is None:
            return ""
        key = (utterance.path, name)
        if key not in self._names:
            if not self._left:
                return ""
            self._names[key] = self._make(utterance)
        file = self._names[key]
        if file is None:
            return ""
        return f'<audio controls preload="none" src="{quote(self.folder)}/{file}"></audio>'

    def _make(self, utterance: Utterance) -> str | None:
        import soundfile

        from benchmark.data import audio

        try:
            samples = audio.load(utterance, RATE, crop=(SECONDS, 0.0)).numpy()
        except BenchmarkError as error:
            self.problems.append(str(error))
            return None
        file = io.BytesIO()
        soundfile.write(file, samples.clip(-1, 1), RATE, format="FLAC", subtype="PCM_16")
        name = f"{len(self.files) + 1:04d}.flac"
        self.files[name] = file.getvalue()
        self._left -= 1
        return name


def remove_old(folder: Path, kept: Sequence[str] = ()) -> None:
    """Remove the clips of an earlier page from a folder, and nothing else."""
    for path in folder.glob("[0-9][0-9][0-9][0-9].flac"):
        if path.name not in kept:
            path.unlink()
