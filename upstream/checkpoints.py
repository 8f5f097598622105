"""Where the file or folder of a card is: given, on the disk, or fetched. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import BenchmarkError
from upstream import download, hub
from upstream.cards import Card


def locate(about: Card, checkpoint: str | Path | None, hint: str = "") -> tuple[Path, str | None]:
    """The file of a card, and its hash where that is known without reading it.

    Args:
        about: the card. Its file is downloaded if it is not there.
        checkpoint: a local file or folder to read in place of that, or the name of a model of the Hugging Face hub.
        hint: follows the message where ``checkpoint`` does not exist.

    Raises:
        BenchmarkError: there is no file.
    """
    if checkpoint is not None:
        path = Path(checkpoint).expanduser()
        if hub.is_name(str(checkpoint)):
            return hub.fetch(str(checkpoint)), None
        if not path.exists():
            raise BenchmarkError(f"checkpoint {path} does not exist (given for '{about.name}' with -k){hint}")
        return path, None
    if about.file is not None:
        if not about.file.exists():
            raise BenchmarkError(
                f"'{about.name}' is part of this package, but {about.file} is missing; install the package again"
            )
        return about.file, None
    if about.url is None:
        raise BenchmarkError(f"'{about.name}' needs a checkpoint: give it with -k FILE (checkpoint=FILE in Python)")
    if (name := hub.name_of(about.url)) is not None:
        return hub.fetch(name), None
    return download.cached(about.url, name=about.filename, sha256=about.sha256)


def missing(about: Card, checkpoint: str | Path | None) -> str | None:
    """What has to be fetched before a card can be loaded, and how; ``None`` if its file is there. As :func:`locate`."""
    named = str(checkpoint) if checkpoint is not None and hub.is_name(str(checkpoint)) else None
    named = named or (hub.name_of(about.url) if checkpoint is None else None)
    if named is not None:
        if hub.find(named) is not None:
            return None
        return (
            f"The checkpoint of '{about.name}' has not been fetched yet either. {named} is fetched from the Hugging "
            "Face hub when it is needed; without network, fetch its folder elsewhere and give it with -k FOLDER."
        )
    if checkpoint is not None:
        return None if Path(checkpoint).expanduser().exists() else f"The checkpoint {checkpoint} does not exist either."
    if about.file is not None:
        return None
    if about.url is None:
        return f"'{about.name}' needs a checkpoint too: give it with -k FILE."
    target = download.place(about.url, about.filename)
    if target.exists():
        return None
    return (
        f"The checkpoint of '{about.name}' has not been downloaded yet either. It is downloaded from {about.url} when "
        f"it is needed; without network, put that file at {target}, or give a local file with -k FILE."
    )
