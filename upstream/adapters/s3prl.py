"""An upstream of s3prl as it is: ``-u s3prl -o upstream.options.source=…``. Its own code reads its checkpoints."""

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark import text
from benchmark.errors import BenchmarkError
from upstream.adapters import Adapter, find, load_module
from upstream.download import sha256_of


class S3prl(Adapter):
    """An expert: a list of waveforms at 16 kHz -> ``{"hidden_states": [(batch, frame, dim), …]}``.

    Args:
        source: a folder with ``expert.py``, an entry of the installed s3prl (``apc_local``), or as :func:`find` says.
        key: which of its outputs. The expert gets ``checkpoint`` as ``ckpt``, and ``options`` as they are.
    """

    sample_rate = 16000

    def __init__(self, source: str = "", key: str = "hidden_states", checkpoint: Any = None, **options: Any) -> None:
        file = {} if checkpoint is None else {"ckpt": str(checkpoint)}
        super().__init__(source, _find, **file, **options)
        self.key = key
        self.info |= {"key": key, "checkpoint": file.get("ckpt"), "sha256": checkpoint and sha256_of(Path(checkpoint))}
        self.measure(int(self.encoder.get_downsample_rates(key)))

    def states(self, wav: Tensor) -> list[Tensor]:
        """The states of one waveform."""
        value = self.encoder([wav])[self.key]
        return [state[0] for state in ([value] if isinstance(value, Tensor) else value)]

    def __deepcopy__(self, memo: dict[int, Any]) -> "S3prl":
        """With hooks of its own: those of a plain copy would write to the list of the original."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        for hook in getattr(copied.encoder, "hooks", ()):
            hook.handler.remove()
            copied.encoder._register_hook_handler(hook)
        return copied


def _find(source: str) -> Any:
    spec, entries = importlib.util.find_spec("s3prl"), {}
    if (Path(source) / "expert.py").is_file():
        parent = "s3prl.upstream" if spec else None
        return find(f"{load_module(Path(source), parent).__name__}.expert:UpstreamExpert")
    for path in Path(str(spec.origin)).parent.glob("upstream/*/hubconf.py") if spec else ():
        for name in re.findall(r"^def ([a-z]\w*)\(", text.read(path), re.MULTILINE):
            entries[name] = f"s3prl.upstream.{path.parent.name}.hubconf:{name}"
    if ":" not in source and source not in entries:
        raise BenchmarkError(f"source={source}: an installed s3prl ({len(entries)} upstreams) has none of this name")
    return find(entries.get(source, source))
