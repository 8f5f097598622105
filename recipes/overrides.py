"""``-o NAME=VALUE`` of the programs in these folders."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import yaml

from benchmark.errors import BenchmarkError


def changed(overrides: Sequence[str], *settings: Any) -> list[Any]:
    """Copies of dataclass instances, each with the values that are meant for it.

    Args:
        overrides: ``NAME=VALUE``, values as in YAML; lists become tuples.
        settings: instances whose fields have different names.

    Raises:
        BenchmarkError: for a name that none of them has, and a value of another type than the field's.
    """
    known = {field.name: getattr(one, field.name) for one in settings for field in fields(one)}
    values = {}
    for name, _, text in (override.partition("=") for override in overrides):
        if name not in known:
            raise BenchmarkError(f"unknown option {name!r}: choose from {', '.join(sorted(known))}")
        value, kind = _tuples(yaml.safe_load(text)), type(known[name])
        if kind is float and type(value) is not bool:
            with contextlib.suppress(ValueError):
                value = float(text)  # also 1e-3, a string in YAML
        if known[name] is not None and type(value) is not kind:
            raise BenchmarkError(f"option {name} = {text!r}: expected a {kind.__name__}, as {known[name]!r} is")
        values[name] = value
    return [replace(one, **{f.name: values[f.name] for f in fields(one) if f.name in values}) for one in settings]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
