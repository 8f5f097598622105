"""A model whose blocks stay in their file: for one that is larger than the memory.

A pass reads the file once, whatever the number of utterances in it. In memory are everything but the blocks, one block,
what the current block makes of all utterances, the states that are asked for, and one utterance's activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.errors import BenchmarkError, shorten
from benchmark.interfaces import HiddenStates
from upstream.checks import check_input, check_keep
from upstream.packing import Packing
from upstream.readers.mapped import MappedWeights
from upstream.wav2vec2.model import Wav2Vec2Model

STATES_BYTES = 2**30
"""All states, in float32, of the audio that a pass should be of."""


@dataclass
class _Part:
    """Utterances that go through a block together: on a CPU one, as everywhere."""

    of: list[int]
    packing: Packing
    x: Tensor
    """(row, dim)."""


class StreamedModel(Wav2Vec2Model):
    """wav2vec 2.0 whose blocks are read one after the other at each pass; it cannot be trained.

    Made without weights (on the device ``meta``), like a model that :func:`upstream.wav2vec2.checkpoint.load_model`
    reads; :meth:`take` gives it some.
    """

    trainable = False

    def take(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Take over the weights.

        Args:
            weights: all of the model's, by its names, mapped into memory; blocks are read from there.
            where: the file, for messages.

        Raises:
            BenchmarkError: some of a block's weights are not mapped.
        """
        self._count = super().parameter_count()
        block = self.encoder.layers[0].to_empty(device="cpu")
        self.encoder.layers = nn.ModuleList()
        own = self.state_dict()
        rest = {name: weights[name].to(tensor.dtype, copy=True) for name, tensor in own.items()}
        self.load_state_dict(rest, strict=True, assign=True)
        self.encoder.layers.append(block.requires_grad_(False))
        self._where = where
        self._weights = MappedWeights({name: tensor for name, tensor in weights.items() if name not in own})
        if unmapped := self._weights.in_memory():
            raise BenchmarkError(
                f"{where} cannot be streamed: {len(unmapped)} of its tensors cannot be mapped into memory "
                f"({shorten(unmapped, most=3)}). If torch wrote it before 1.6, save it again by torch.save"
            )
        self._weights.release()

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """None of them is there to be trained."""
        return ()

    @property
    def batch_seconds(self) -> float:  # type: ignore[override]
        """Audio of which all states take :data:`STATES_BYTES`."""
        frame = 4 * self.num_states * self.hidden_size
        return STATES_BYTES / frame * self.frame_shift / self.sample_rate

    def parameter_count(self) -> int:
        """Of the whole model."""
        return self._count

    def forward(self, wavs: Tensor, wav_lens: Tensor, *, keep: Sequence[int] | None = None) -> HiddenStates:
        """Compute hidden states; see :meth:`Wav2Vec2Model.forward`. Without gradients.

        Raises:
            BenchmarkError: also for weights that are not finite.
        """
        kept = check_keep(keep, self.num_states)
        samples = check_input(wavs, wav_lens, self.min_samples, self.sample_rate)
        lengths = self.output_lengths(wav_lens)
        with torch.no_grad():
            return HiddenStates(self._states(wavs, samples, lengths.tolist(), kept), lengths)

    def _states(self, wavs: Tensor, samples: list[int], frames: list[int], keep: list[int]) -> list[Tensor]:
        every = range(len(samples))
        parts = []
        for of in [[i] for i in every] if wavs.device.type == "cpu" else [list(every)]:
            wanted = [samples[i] for i in of]
            features, packing = self.extract_features(wavs[of, : max(wanted)], wanted)
            parts.append(_Part(of, packing, self.encoder.embed(self.project(features), packing)))
        states: list[Tensor] = []
        for k in range(max(keep) + 1):
            if k > 0:
                block = self._read(k - 1)
                for part in parts:
                    positions = self.encoder.positions(part.packing, part.x.device)
                    part.x = block(part.x, part.packing, positions)
            if k in keep:
                states.append(parts[0].x.new_zeros(len(samples), max(frames), self.hidden_size))
                for part in parts:
                    padded = part.packing.pad(self.encoder.state(part.x, k))
                    states[-1][part.of, : padded.size(1)] = padded
        return states

    def _read(self, number: int) -> nn.Module:
        """The block with the weights of block ``number``."""
        (block,) = self.encoder.layers
        broken = []
        for name, tensor in block.state_dict().items():
            tensor.copy_(self._weights[f"encoder.layers.{number}.{name}"])
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                broken.append(f"encoder.layers.{number}.{name}")
        self._weights.release()
        if broken:
            raise BenchmarkError(f"{self._where}: weights are not finite: {shorten(broken, most=5)}")
        return block
