"""Groups of options inside a task's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.errors import BenchmarkError
from benchmark.registry import suggest


def nested(kind: type[Any], key: str, value: Any) -> Any:
    """A nested option group ``task.<key>`` that a card or a call gave as a mapping, as the dataclass ``kind``."""
    if not isinstance(value, Mapping):
        return value
    known = list(kind.__dataclass_fields__)
    for name in value:
        if name not in known:
            raise BenchmarkError(f"unknown option 'task.{key}.{name}'. " + suggest(str(name), known))
    return kind(**value)
