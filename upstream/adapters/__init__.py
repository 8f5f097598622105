"""Encoders of other libraries as upstreams: what their adapters share.

A foreign encoder says little about its frames and lets padding change them. So utterances are run one by one, which
makes their states independent of the batch, and sizes and frames are measured when it is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.interfaces import HiddenStates, Upstream
from benchmark.tables import plural


def needs_source(*, checkpoint: str | None = None) -> str:
    """What an adapter needs before it can be used, for :class:`benchmark.registry.Entry`."""
    return "It runs an encoder of yours: say which with -o upstream.options.source=… (docs/extending.md)."


class Adapter(Upstream):
    """A foreign encoder. A subclass sets ``sample_rate`` and calls :meth:`measure`.

    Args:
        source: where it is.
        look_up: turns ``source`` into a class or function.
        options: given to that.

    Raises:
        BenchmarkError: it cannot be found or made.
    """

    def __init__(self, source: str, look_up: Callable[[str], Callable[..., Any]], **options: Any) -> None:
        super().__init__()
        if not source:
            raise BenchmarkError(needs_source())
        try:
            self.encoder = look_up(source)(**options)
        except BenchmarkError:
            raise
        except Exception as error:  # whatever foreign code raises
            raise BenchmarkError(f"source={source} failed with {type(error).__name__}: {error}") from error
        self.info = {"source": source}

    @abstractmethod
    def states(self, wav: Tensor) -> list[Tensor]:
        """The states (frame, dim) of one waveform (sample,)."""

    def measure(self, frame_shift: int | None) -> None:
        """Find sizes and numbers of frames out by running the encoder over noise.

        Args:
            frame_shift: what the encoder says, if anything; it is not relied on.

        Raises:
            BenchmarkError: the encoder fails, its states have different sizes, or their frames do not grow with the
                audio.
        """
        try:
            self._measure(frame_shift)
        except BenchmarkError:
            raise
        except Exception as error:  # whatever foreign code raises
            raise BenchmarkError(
                f"source={self.info['source']} fails on a second of noise with {type(error).__name__}: {error}"
            ) from error

    def _measure(self, frame_shift: int | None) -> None:
        rate = self.sample_rate
        noise = 0.1 * torch.randn(4 * rate, generator=torch.Generator().manual_seed(0))
        was_training = self.training
        self.eval()

        def count(samples: int) -> int:
            return len(self.states(noise[:samples])[0])

        def works(samples: int) -> bool:
            try:
                with warnings.catch_warnings(action="ignore"):
                    states = self.states(noise[:samples])
            except Exception:  # whatever it raises of too few samples
                return False
            return len(states[0]) > 0 and all(bool(state.isfinite().all()) for state in states)

        with torch.no_grad():
            found = self.states(noise[:rate])
            sizes = {tuple(state.shape) for state in found}
            if len(sizes) > 1:
                raise BenchmarkError(f"the encoder's states differ in size: {sorted(sizes)} of a second; choose one")
            self.num_states, self.hidden_size, frames = len(found), found[0].shape[-1], len(found[0])
            first = _first(lambda n: count(n) > frames, rate, 2 * rate)
            hint = first + (frame_shift or 0)
            if frame_shift and count(hint - 1) == frames + 1 and count(hint) == frames + 2:
                self.frame_shift = frame_shift
            else:
                self.frame_shift = _first(lambda n: count(n) > frames + 1, first, first + 2 * rate) - first
            self._offset = first - frames * self.frame_shift  # samples before the end of the first frame
            shortest = max(self._offset, 1)
            self._shortest = shortest if works(shortest) else _first(works, shortest, rate)
        self.train(was_training)

    def output_lengths(self, wav_lens: Tensor) -> Tensor:
        """Frames (batch,) of waveforms of ``wav_lens`` (batch,) samples."""
        frames = torch.div(wav_lens - self._offset, self.frame_shift, rounding_mode="floor") + 1
        return torch.where(wav_lens < self._shortest, 0, frames)

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states; see :meth:`benchmark.interfaces.Upstream.forward`.

        Raises:
            BenchmarkError: the encoder gives fewer frames than of a second of noise, in proportion.
        """
        lengths, samples = self.output_lengths(wav_lens), wav_lens.tolist()
        rows = [self.states(wav[:n]) for wav, n in zip(wavs, samples, strict=True)]
        for row, n, frames in zip(rows, samples, lengths.tolist(), strict=True):
            if len(row) != self.num_states or len(row[0]) < frames:
                raise BenchmarkError(
                    f"the encoder gives {plural(len(row), 'state')} of {len(row[0])} frames for {n:,} samples, "
                    f"expected {self.num_states} of {frames}, one every {self.frame_shift} samples"
                )
        kept = range(self.num_states) if keep is None else keep
        cut = [[row[k][:n] for row, n in zip(rows, lengths.tolist(), strict=True)] for k in kept]
        return HiddenStates([torch.nn.utils.rnn.pad_sequence(states, batch_first=True) for states in cut], lengths)


def _first(true: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number above ``low`` from which on something is true, by bisection; it is not true of ``low``."""
    if not true(high):
        raise BenchmarkError(f"the encoder's frames do not grow with the audio, between {low:,} and {high:,} samples")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle, high)
    return high


def find(source: str) -> Callable[..., Any]:
    """A class or function: ``module:name``, ``FILE.py:name``, or ``FOLDER:name`` of a folder with ``hubconf.py``.

    Raises:
        BenchmarkError: there is none.
    """
    place, _, name = source.rpartition(":")
    if (Path(place) / "hubconf.py").is_file():
        return partial(torch.hub.load, str(Path(place)), name, source="local")
    module = load_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    if not callable(found := getattr(module, name, None)):
        raise BenchmarkError(f"source={source}: {place} has no class or function '{name}'")
    return cast("Callable[..., Any]", found)


def load_module(path: Path, parent: str | None = None) -> ModuleType:
    """Import a file, or a folder as a package, wherever it lies.

    Args:
        path: ``FILE.py``, or the folder, whose ``__init__.py`` is not run.
        parent: a package, which relative imports of the folder's modules reach.

    Raises:
        BenchmarkError: there is no such file.
    """
    path = path.resolve()
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    name = f"{parent}.{name}" if parent else f"wavbench_adapter_{name}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    if path.is_dir():
        module.__path__ = [str(path)]
        sys.modules[name] = module
        return module
    if not path.is_file():
        raise BenchmarkError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
