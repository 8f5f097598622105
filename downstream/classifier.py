"""The head of tasks that learn classes: an embedder and the loss that trains it.

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``dim`` features of the upstream, ``size`` of the embedding,
``class`` training classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.interfaces import Head
from downstream.embedders import EMBEDDERS, EmbedderConfig, MeanPooling
from downstream.losses import LOSSES, LossConfig, Softmax


class Classifier(Head):
    """An embedder and the loss that trains it; predicts log-posteriors.

    Args:
        feature_size: dim.
        classes: training classes.
        head: the embedder.
        loss: the loss.

    Raises:
        BenchmarkError: an unknown name, or a value out of range.
    """

    def __init__(self, feature_size: int, classes: int, head: EmbedderConfig, loss: LossConfig) -> None:
        super().__init__()
        head.check()
        loss.check()
        self.embedder = EMBEDDERS[head.name](feature_size, head)
        self.mean_suffices = head.name == "mean"  # a linear layer, then the mean
        self.attends = self.embedder.attends
        self.objective = LOSSES[loss.name](self.embedder.size, classes, loss)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, size)."""
        if int(lengths.min()) < 1:
            raise BenchmarkError("an utterance without a single frame cannot be embedded; drop it from the manifest")
        return self.embedder.embed(features, lengths)

    def loss(self, features: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean loss; ``targets`` (batch,) int64 are classes."""
        loss: Tensor = self.objective(self.embedder.classified(self.embed(features, lengths)), targets)
        return loss

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor, mean: Tensor) -> None:
        """See :meth:`benchmark.interfaces.Head.set_linear`. With ``weight = U S V'``, the embedding is
        ``S^(1/2) V' (x - mean)``: of all pairs of layers with this product the one of the least squared weights, which
        is what weight decay on both leads to."""
        assert isinstance(self.embedder, MeanPooling)
        assert isinstance(self.objective, Softmax)
        connector, classifier = self.embedder.connector, self.objective.fc
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        first, second = values.sqrt()[:, None] * right, left * values.sqrt()  # (size, dim), (class, size)
        for parameter, value in (
            (connector.weight, first), (connector.bias, -first @ mean), (classifier.weight, second),
            (classifier.bias, bias),
        ):  # fmt: skip
            parameter.copy_(value)

    def log_posteriors(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(batch, frame, dim) and (batch,) valid frames -> (batch, class), in float32."""
        return self.objective.logits(self.embedder.classified(self.embed(features, lengths))).log_softmax(1)

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Log-posteriors (class,) an utterance, float32."""
        return list(self.log_posteriors(features, lengths).cpu())
