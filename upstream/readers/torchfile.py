"""Reading what torch.save wrote, without running any code in it.

A checkpoint is a pickle, and unpickling can run any code. Here torch's weights-only unpickler reads it: it calls
nothing but torch's own rebuilding of tensors and the names that it is given. Checkpoints also hold configuration
objects (argparse, omegaconf, fairseq); each of those is given to the unpickler as an inert stand-in that only
remembers its arguments (:class:`StandIn`), and :func:`plain` turns the stand-ins into plain data. Any other name is
refused, and named.

Zip checkpoints are memory-mapped: weights are paged in as they are used, and optimizer states not at all. Mapping
also confines a storage that claims to be larger than it is to the bytes of the file.
"""

from __future__ import annotations

import _compat_pickle
import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from benchmark.errors import BenchmarkError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Pickle of ``torch.serialization.MAGIC_NUMBER``, with which files written before torch 1.6 start."""


class StandIn:
    """What the unpickler makes instead of a configuration object: it remembers its arguments and state."""

    qualified_name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> StandIn:  # noqa: D102
        self = object.__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _make_dict(*_: Any) -> dict[Any, Any]:
    """Replaces ``defaultdict``, whose factory is not called."""
    return {}


def _stand_in(name: str) -> Any:
    """What replaces a global (``module.name``); ``None`` if it is not allowed."""
    if name == "collections.defaultdict":
        return _make_dict
    if name in _INERT_NAMES or name.startswith(_INERT_PACKAGES):
        return type(name.rpartition(".")[2], (StandIn,), {"qualified_name": name})
    return None


_INERT_PACKAGES = ("omegaconf.", "fairseq.", "examples.", "data2vec.", "hydra.", "typing.", "pathlib.")
"""``examples`` is fairseq's, whose configurations of data2vec 2.0 are pickled as of there or of its ``user_dir``."""
_INERT_NAMES = {
    "argparse.Namespace",
    # the types of omegaconf's fields: typing.Dict[str, int] is operator.getitem(typing.Dict, (str, int))
    *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "bytes", "dict", "list", "tuple", "object")),
    "operator.getitem",
    "_operator.getitem",
    # numbers in the trainer's meters
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
}
_TORCH = ("torch.", "collections.OrderedDict", "collections.Counter", "_codecs.encode",
          "builtins.set", "builtins.bytearray", "builtins.complex")  # fmt: skip
"""Left to torch's unpickler, which has its own list and names what is not on it."""


def plain(value: Any) -> Any:
    """Stand-ins -> dicts, lists, strings and numbers."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else list(value)
    if isinstance(value, type) and issubclass(value, StandIn):
        return value.qualified_name
    if not isinstance(value, StandIn):
        return value
    if isinstance(value.state, dict):
        for key in ("_content", "_val"):  # omegaconf's containers, omegaconf's values
            if key in value.state and value.qualified_name.startswith("omegaconf."):
                return plain(value.state[key])
        return plain(value.state)  # Namespace, dataclass
    if value.qualified_name.startswith("pathlib."):
        return "/".join(str(part) for part in value.arguments)
    return plain(value.arguments[0]) if len(value.arguments) == 1 else None  # enumerations


def load_state(path: Path) -> Any:
    """The pickled object of a torch checkpoint, with stand-ins for configuration objects.

    Raises:
        BenchmarkError: for what is not a torch checkpoint, is damaged, or names a global that is not allowed.
    """
    if path.is_dir():
        raise BenchmarkError(f"{path} is a folder; expected a checkpoint file")
    try:
        with path.open("rb") as file:
            magic = file.read(len(LEGACY_MAGIC))
    except OSError as error:
        raise BenchmarkError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    is_zip = magic.startswith(ZIP_MAGIC)
    if not is_zip and magic != LEGACY_MAGIC:
        raise BenchmarkError(f"{path} is not a torch checkpoint: {_kind_of(path, magic)}")
    try:
        names = set(_globals_in_zip(path) if is_zip else _globals_in_legacy(path))
        stand_ins = {name: _stand_in(name) for name in names if not name.startswith(_TORCH)}
        refused = sorted(name for name, stand_in in stand_ins.items() if stand_in is None)
        if refused:
            raise _refusal(path, ", ".join(refused))
        allowed: list[Any] = [(stand_in, name) for name, stand_in in stand_ins.items()]
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except BenchmarkError:
        raise
    except pickle.UnpicklingError as error:
        message = str(error)
        marker = "GLOBAL "
        if marker in message:
            raise _refusal(path, message.partition(marker)[2].split()[0]) from None
        raise unreadable(path, error) from error
    except Exception as error:  # whatever a damaged or hostile file makes torch, zipfile and pickletools raise
        raise unreadable(path, error) from error


def _globals_in_zip(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        pickles = {name for name in names if name.endswith("/data.pkl") and name.count("/") == 1}
        if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in names):  # the latter: TorchScript
            raise BenchmarkError(f"{path} is a zip archive, but not one written by torch.save")
        if len(set(names)) < len(names):
            raise ValueError("two members of one name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed members, which torch.save does not write")
        with archive.open(pickles.pop()) as member, io.BufferedReader(cast(io.RawIOBase, member)) as file:
            yield from _globals_in_pickle(file, path)


def _globals_in_legacy(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for _ in range(5):  # magic number, protocol, system, the object, keys of its storages
            yield from _globals_in_pickle(file, path)


def _globals_in_pickle(file: IO[bytes], path: Path) -> Iterator[str]:
    """The globals that a pickle names, without running it. Torch's unpickler checks them again."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            yield f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
        elif opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID"):
            raise BenchmarkError(
                f"{path}: refused: its pickle uses {opcode.name}, which torch.save does not write by default; "
                "load it where it comes from and save it again with torch.save"
            )


def _refusal(path: Path, names: str) -> BenchmarkError:
    return BenchmarkError(
        f"{path}: refused: its pickle names {names}, which a checkpoint of weights and configuration does not need. "
        "Nothing in it was run. If you trust its source, load it with the program that made it, and save "
        "{'cfg': <plain dict>, 'model': <state dict>} again"
    )


def unreadable(path: Path, error: Exception) -> BenchmarkError:
    """The error for a file that is not what it should be, made of what a library raised on reading it."""
    reason = (str(error).splitlines() or [""])[0][:200]
    return BenchmarkError(
        f"checkpoint {path} ({path.stat().st_size:,} bytes) is truncated or damaged; fetch it again. "
        f"({type(error).__name__}: {reason})"
    )


def _kind_of(path: Path, magic: bytes) -> str:
    if not magic:
        return "it is empty"
    if len(magic) > 8 and magic[8:9] == b"{" and struct.unpack("<Q", magic[:8])[0] < path.stat().st_size:
        return "it looks like safetensors; expected a .pt file. If it is of a Hugging Face folder, give the folder"
    start = magic.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is an HTML or XML page; was the download answered by a web page?"
    if magic.startswith(b"version https"):
        return "it is a Git LFS pointer; fetch the file itself"
    if magic.isascii() and magic.decode("ascii").isprintable():
        return f"it starts with the text {magic.decode('ascii')!r}"
    return f"it starts with the bytes {magic.hex(' ')}"
