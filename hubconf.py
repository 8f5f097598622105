"""torch.hub entry points: one for each name and alias in the registry of upstreams.

>>> model = torch.hub.load("path/to/clone", "wav2vec2_large", source="local")
"""

from functools import partial

from benchmark.registry import upstreams
from upstream import load_upstream

dependencies = ["filelock", "numpy", "torch", "torchaudio", "tqdm", "yaml"]

for _name in upstreams.names(aliases=True):
    _entry_point = partial(load_upstream, _name)
    _entry_point.__doc__ = upstreams.get(_name).summary
    globals()[_name] = _entry_point
