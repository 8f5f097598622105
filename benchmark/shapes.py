"""What JSON that somebody else may have written has to look like, checked in one place before anything uses it.

A shape is a type (``str``, ``bool``, ``int``; ``float`` takes integers, too), ``None``, a tuple of shapes (any of them;
the first is the usual one), ``[shape]`` (a list of it), or a mapping: names -> shapes, where ``...`` stands for all
other names, and a name that ends in ``?`` may be missing. Numbers must be finite, and of no more than 18 digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.errors import show

_LARGEST = 1e18
_NAMES = {str: "text", bool: "true or false", int: "an integer", float: "a number", None: "null"}


def problem(value: Any, shape: Any, where: str = "") -> str:
    """What is wrong with a value, as in ``cost.updates must be a number, found "x"``; empty: nothing.

    >>> problem({"a": [1, "x"]}, {"a": [float], "b?": str})
    'a[1] must be a number, found "x"'
    """
    if isinstance(shape, tuple):
        problems = [problem(value, one, where) for one in shape]
        return "" if "" in problems else problems[0]
    if isinstance(shape, Mapping):
        return _mapping(value, shape, where)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(where, "a list", value)
        return next(filter(None, (problem(one, shape[0], f"{where}[{at}]") for at, one in enumerate(value))), "")
    fits = value is None if shape is None else _fits(value, shape)
    return "" if fits else _wrong(where, _called(shape), value)


def _fits(value: Any, shape: type) -> bool:
    if shape is float:
        return _fits(value, int) or (isinstance(value, float) and math.isfinite(value) and abs(value) < _LARGEST)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, shape)


def _mapping(value: Any, shape: Mapping[Any, Any], where: str) -> str:
    if not isinstance(value, dict):
        return _wrong(where, "an object", value)
    dot = f"{where}." if where else ""
    for name, inner in shape.items():
        if name is ...:
            named: Sequence[str] = [key for key in value if key not in shape and f"{key}?" not in shape]
        elif (key := name.removesuffix("?")) in value:
            named = [key]
        elif key == name:
            return f"{dot}{name} is missing"
        else:
            continue
        for key in named:
            if found := problem(value[key], inner, f"{dot}{key}"):
                return found
    return ""


def _wrong(where: str, expected: str, value: Any) -> str:
    return f"{where or 'the whole'} must be {expected}, found {show(value)}"


def _called(shape: Any) -> str:
    return "a list" if isinstance(shape, list) else "an object" if isinstance(shape, Mapping) else _NAMES[shape]
