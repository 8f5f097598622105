"""Heads that are not trained: nearest neighbours, and the mean states themselves (``probe.solver=knn``).

Shapes: ``batch`` utterances, ``frame`` upstream frames, ``dim`` features of the upstream, ``class`` training classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.interfaces import NeighbourHead
from downstream.pooling import mean_pooling

TEMPERATURE = 0.07
"""Of the votes: Wu et al. 2018, section 3.4; also DINO's (2104.14294, section 4.1)."""
SPREAD = 1e-3
"""Share of the votes that all classes get alike, so that none has a posterior of 0."""


class NearestNeighbours(NeighbourHead):
    """The training utterances whose mean features are nearest by the cosine vote for their classes, each with the
    weight ``exp(cosine / 0.07)`` (Wu, Xiong, Yu and Lin: Unsupervised feature learning via non-parametric instance
    discrimination, CVPR 2018, section 3.4). Posteriors are shares of the votes.

    Args:
        feature_size: dim.
        classes: training classes.
    """

    def __init__(self, feature_size: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("remembered", torch.empty(0, feature_size))
        self.register_buffer("targets", torch.empty(0, dtype=torch.int64))
        self.register_buffer("neighbours", torch.tensor(1))
        self.remembered: Tensor
        self.targets: Tensor
        self.neighbours: Tensor

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in ("remembered", "targets"):  # how many utterances there are, only the checkpoint says
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def remember(self, features: Tensor, targets: Tensor, neighbours: int) -> None:
        """See :meth:`benchmark.interfaces.NeighbourHead.remember`; ``targets`` (utterance,) int64."""
        device = self.remembered.device
        self.remembered = F.normalize(features.float(), dim=1).to(device)
        self.targets = targets.to(device)
        self.neighbours = torch.tensor(neighbours, device=device)

    @torch.no_grad()
    def predict_by(self, features: Tensor, lengths: Tensor, neighbours: Sequence[int]) -> dict[int, list[Tensor]]:
        """Number of neighbours -> log-posteriors (class,) an utterance."""
        means = F.normalize(mean_pooling(features.transpose(1, 2), lengths), dim=1)
        with torch.autocast(means.device.type, enabled=False):
            cosines = means @ self.remembered.T  # (batch, utterance)
        nearest, which = cosines.topk(min(max(neighbours), len(self.targets)), dim=1)
        found = {}
        for count in neighbours:
            weights = (nearest[:, :count] / TEMPERATURE).softmax(1)
            votes = weights.new_zeros(len(means), self.classes)
            votes = votes.scatter_add(1, self.targets[which[:, :count]], weights)
            posteriors = (votes + SPREAD / self.classes) / (1 + SPREAD)
            found[count] = list(posteriors.log().cpu())
        return found

    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Log-posteriors (class,) an utterance, float32."""
        count = int(self.neighbours)
        return self.predict_by(features, lengths, [count])[count]


class MeanState(NeighbourHead):
    """The mean of the features over time, as an embedding."""

    def remember(self, features: Tensor, targets: Any, neighbours: int) -> None:
        """Nothing: embeddings are compared with each other."""

    def predict_by(self, features: Tensor, lengths: Tensor, neighbours: Sequence[int]) -> dict[int, list[Tensor]]:
        """The first of the numbers -> one embedding (dim,) an utterance."""
        return {neighbours[0]: self.predict(features, lengths)}

    @torch.no_grad()
    def predict(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """One embedding (dim,) an utterance, float32."""
        return list(mean_pooling(features.transpose(1, 2), lengths).cpu())
