"""wavbench: what does fine-tuning wav2vec 2.0 buy, compared with keeping it frozen?

>>> import wavbench
>>> result = wavbench.run("wav2vec2_base", "voxceleb1_sv", data_root="/corpora", lr=1e-4)
>>> hidden = wavbench.load_upstream("wav2vec2_large")([wav1, wav2])

Importing this imports nothing heavy; torch is imported when it is needed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("benchmark", "upstream", "downstream")


def _check_packages() -> None:
    """Refuse packages of the names that wavbench uses which are not wavbench's own."""
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if origin is None:
            raise ImportError(f"wavbench needs its package '{name}', which is not installed; install wavbench again")
        if not Path(origin).resolve().is_relative_to(_ROOT / name):
            raise ImportError(
                f"wavbench needs its own package '{name}', but Python finds another one first: {origin}. Run from "
                "another folder, rename that package, or take its folder out of PYTHONPATH"
            )


def _load_own() -> None:
    """Load the packages from beside this one, whatever Python finds first."""
    for name in _PACKAGES:
        spec = importlib.machinery.PathFinder.find_spec(name, [str(_ROOT)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


try:
    _check_packages()
except ImportError as error:
    if sys.argv[1:2] == ["doctor"]:  # which reports it
        _load_own()
    elif sys.argv[0] == "-m" or Path(sys.argv[0]).stem == "wavbench":  # the command: a message, no traceback
        sys.exit(f"error: {error}")
    else:
        raise

from wavbench import api  # noqa: E402  after the check
from wavbench.api import *  # noqa: E402, F403

__all__ = api.__all__
