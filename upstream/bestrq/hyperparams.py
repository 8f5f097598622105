"""SpeechBrain's ``hyperparams.yaml``, without making the objects that it names.

HyperPyYAML's tags (``!new:``, ``!name:``, ``!ref``) say what to import and call; here they are names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmark.errors import BenchmarkError
from upstream.readers.torchfile import unreadable

LARGEST = 1 << 20
"""Bytes."""
_REF = re.compile(r"^<([^<>\[\].]+)>$")


@dataclass
class Object:
    """What SpeechBrain would make: a class and its arguments."""

    arguments: dict[str, str] = field(default_factory=dict)
    """As they are written; classes by their last name."""

    def integers(self, name: str, default: str) -> tuple[int, ...]:
        """An argument such as ``(3, 3)`` or ``80``."""
        text = self.arguments.get(name, default)
        return tuple(int(number) for number in re.findall(r"-?\d+", text)[:100])


def read(path: Path) -> dict[str, Object]:
    """The objects on the top level that have arguments: ``Fbank``, ``InputNormalization`` …, by class.

    Of several of one class the one called as the first in SpeechBrain's recipes is taken, which is the first.

    Raises:
        BenchmarkError: for what is not such a file.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        root = yaml.compose(path.read_bytes(), Loader=yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise unreadable(path, error) from error
    if not isinstance(root, yaml.MappingNode):
        raise BenchmarkError(f"{path} has no settings; expected SpeechBrain's hyperparams.yaml")
    top = {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}
    objects: dict[str, Object] = {}
    for node in top.values():
        if isinstance(node, yaml.MappingNode) and node.tag.startswith("!new:"):
            arguments = {key.value: _text(value, top) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
            objects.setdefault(node.tag.rpartition(".")[2], Object(arguments))
    return objects


def _text(node: yaml.Node, top: Mapping[str, yaml.Node]) -> str:
    for _ in range(10):  # references to references
        name = _REF.match(str(node.value)) if node.tag == "!ref" else None
        if name is None or name[1] not in top:
            break
        node = top[name[1]]
    if isinstance(node, yaml.SequenceNode):
        return str([part.value for part in node.value if isinstance(part, yaml.ScalarNode)])
    if node.tag.startswith(("!name:", "!new:")):
        return node.tag.rpartition(".")[2]
    return node.value if isinstance(node, yaml.ScalarNode) else ""
