"""Protocol cards: one YAML file a benchmark = task + corpus + every value that its published numbers depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark import text
from benchmark.errors import BenchmarkError
from benchmark.registry import overlay, suggest

_KEYS: dict[str, tuple[type, str]] = {
    "name": (str, "what -d takes"),
    "version": (int, "raised whenever a change of the card changes results"),
    "aliases": (list, "other names"),
    "summary": (str, "one line, for --list"),
    "source": (list, "where the values come from"),
    "deviations": (list, "differences from the source, each with its reason"),
    "confounds": (list, "what else could explain results, in plain words; kept in result.json and shown in reports"),
    "task": (str, "a registered task, or package.module:Class"),
    "corpus": (str, "a registered corpus, or package.module:prepare"),
    "config": (dict, "values of RunConfig"),
    "finetune": (dict, "values of RunConfig over these, where the regime trains the upstream"),
    "quick": (dict, "values of RunConfig over these for --quick: a run of a minute or two on a small synthetic corpus"),
    "extends": (str, "another card, whose keys hold where this one is silent; config is merged key by key"),
}
_OPTIONAL = ("aliases", "source", "deviations", "confounds", "config", "finetune", "quick", "extends")
"""Keys that may be missing: what they hold is empty then."""


def read_card(path: str | Path) -> dict[str, Any]:
    """Read and check a card.

    Raises:
        BenchmarkError: not YAML, or a key that is missing, unknown or of the wrong type.
    """
    path = Path(path)
    card = _read(path, ())
    for key in card:
        if key not in _KEYS:
            raise BenchmarkError(f"protocol card {path}: unknown key '{key}'. " + suggest(str(key), list(_KEYS)))
    card = {key: _KEYS[key][0]() for key in _OPTIONAL} | card
    for key, (kind, meaning) in _KEYS.items():
        if key not in card:
            raise BenchmarkError(f"protocol card {path}: key '{key}' is missing ({meaning})")
        if not isinstance(card[key], kind):
            raise BenchmarkError(
                f"protocol card {path}: '{key}' ({meaning}) must be {kind.__name__}, got {card[key]!r}"
            )
    return card


def _read(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """A card with what it takes from the one that it extends."""
    import yaml  # not at the top: importing the tables stays cheap

    try:
        card = text.from_yaml(text.read(path))
    except (BenchmarkError, yaml.YAMLError) as error:
        raise BenchmarkError(f"protocol card {path} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise BenchmarkError(f"protocol card {path} is not a YAML mapping; it needs the keys {', '.join(_KEYS)}")
    if not isinstance(card.get("extends", ""), str) or not card.get("extends"):
        return card
    base = path.with_name(f"{card['extends']}.yaml")
    if base == path or base in extended_by:
        raise BenchmarkError(f"protocol card {path}: the cards that it extends come back to it")
    inherited = _read(base, (*extended_by, path))
    for own in ("name", "aliases", "summary"):
        inherited.pop(own, None)
    whole: dict[str, Any] = overlay(inherited, card)
    return whole
