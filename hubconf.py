"""torch.hub entry points: one for each name and alias in the registry of upstreams, installed plug-ins included.

>>> model = torch.hub.load("path/to/clone", "wav2vec2_large", source="local")

Options and ``checkpoint`` are keyword arguments, as of :func:`benchmark.registry.load_upstream`.
"""

from functools import partial as _partial

from benchmark.registry import load_upstream as _load_upstream
from benchmark.registry import upstreams as _upstreams

dependencies = ["filelock", "numpy", "safetensors", "torch", "torchaudio", "tqdm", "yaml"]

for _name in _upstreams.names(aliases=True):
    _entry_point = _partial(_load_upstream, _name)
    _entry_point.__doc__ = _upstreams.get(_name).summary
    globals()[_name] = _entry_point
