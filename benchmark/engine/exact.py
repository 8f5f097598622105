"""Linear probes without gradient steps: multinomial logistic regression on mean states, solved for a list of penalties.

Let ``x`` be the mean over time of an utterance's states (of one layer, or of the weighted sum), less its mean over the
training utterances and divided by one number, so that its features have a variance of 1 on average. The solution
minimises, over the matrix ``V`` and the biases ``b``::

    sum_i weight_i * cross_entropy(V x_i + b, class_i)  +  penalty / 2 * |V|²

The weights of the utterances sum to 1; biases are not penalised. This is scikit-learn's ``LogisticRegression`` with
``C = 1 / (utterances * penalty)`` on the same features, and what the heads with a linear layer before mean pooling and
a softmax loss converge to, were the product of their two layers penalised and of full rank. The problem is convex, and
the excess of a solution over the minimum is bounded: by the norm of the gradient, ``|g|² / (2 penalty)``.

For the weighted sum of layers the softmax weights are variables as well, from equal ones. The problem is not convex
then: matrix and biases are those of the minimum for the layer weights that are found, and these are a local optimum; the
search ends when it gains no more.

L-BFGS is scipy's. Features are rotated into the eigenbasis of their covariance, where the problem's curvature is about
diagonal and variables are scaled by it; solutions of larger penalties start those of smaller ones.
"""

from __future__ import annotations

import csv
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from benchmark.engine import batching
from benchmark.engine.featurizer import StateStatistics, WeightedSum
from benchmark.engine.trainer import Interrupted, StopRequest, Trainer
from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.interfaces import Batch, Evaluation, Utterance
from benchmark.tables import Table

log = logging.getLogger("wavbench")

FILE = "penalties.csv"
"""In the experiment folder: a line for each penalty."""
MOST_ITERATIONS = 20_000
PATIENCE = 10
"""Iterations that together have to lower the objective by more than the tolerance, where layers are weighted."""


@dataclass(frozen=True)
class Solution:
    """A classifier of mean states: ``weight @ (x - mean) + bias`` are the logits of ``x`` (dim,)."""

    penalty: float
    weight: Tensor
    """(class, dim) float64, of the states as they are."""
    bias: Tensor
    """(class,)."""
    mean: Tensor
    """(dim,): of the training utterances."""
    layer_weights: Tensor
    """(layer,): before the softmax."""
    loss: float
    """Mean cross-entropy."""
    objective: float
    """With the penalty."""
    gradient: float
    """Norm of the objective's gradient."""
    excess: float
    """What the objective is at most above its minimum for these layer weights; of the biases, which are not penalised,
    it is an estimate: what their Newton step would gain."""
    evaluations: int
    """Of the objective."""


class Problem:
    """States, classes and weights of the training utterances.

    Args:
        states: (layer, utterance, dim): means over time, on the device that computes.
        targets: (utterance,) int64.
        classes: how many there are.
        weights: (utterance,), of any sum; ``None``: all the same.
    """

    def __init__(self, states: Tensor, targets: Tensor, classes: int, weights: ArrayLike | None = None) -> None:
        states = states.double()
        self.layers, count, self.dim = states.shape
        self.classes, self.targets = classes, targets.to(states.device)
        given = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        self.weights = torch.from_numpy(given / given.sum()).to(states.device)
        self.means = torch.einsum("n,knd->kd", self.weights, states)
        states = states - self.means[:, None]
        uniform = states.mean(0)  # (utterance, dim)
        covariance = (uniform * self.weights[:, None]).T @ uniform
        self.scale = math.sqrt(float(covariance.trace()) / self.dim) or 1.0
        values, vectors = torch.linalg.eigh(covariance / self.scale**2)
        if self.layers == 1:  # directions without variance have no weight
            there = values > values[-1] * self.dim * torch.finfo(torch.float64).eps
            values, vectors = values[there], vectors[:, there]
        self.variances, self.basis = values.clamp(min=0), vectors
        self.features = states @ (vectors / self.scale)
        """(layer, utterance, direction): of the uniform sum, uncorrelated."""
        flat = (self.features * self.weights.sqrt()[:, None]).flatten(1)
        self.gram = flat @ flat.T / self.dim
        """(layer, layer): inner products of the layers."""

    def path(
        self, penalties: Iterable[float], tolerance: float, on_iteration: Callable[[], None] = lambda: None
    ) -> Iterator[Solution]:
        """The solution for each penalty, from that of the one before it.

        Args:
            penalties: more than 0.
            tolerance: the largest excess (:attr:`Solution.excess`); a warning says where it is not reached.
            on_iteration: called again and again; may raise.
        """
        directions = len(self.variances)
        matrix = torch.zeros(self.classes, directions, dtype=torch.float64, device=self.weights.device)
        priors = torch.zeros(self.classes, dtype=torch.float64, device=self.weights.device)
        priors.index_add_(0, self.targets, self.weights)
        bias = priors.clamp(min=1e-12).log()
        layer_weights = matrix.new_zeros(self.layers)
        for penalty in penalties:
            point = _Point(self, penalty, matrix, bias, layer_weights)
            point.minimise(tolerance, on_iteration)
            matrix, bias, layer_weights = point.matrix, point.bias, point.layer_weights
            yield self._solution(point)

    def _solution(self, point: _Point) -> Solution:
        shares = torch.softmax(point.layer_weights, 0)
        size = torch.sqrt(shares @ self.gram @ shares) if self.layers > 1 else 1.0
        return Solution(
            penalty=point.penalty,
            weight=(point.matrix @ self.basis.T / (self.scale * size)).cpu(),
            bias=point.bias.cpu(),
            mean=(shares @ self.means).cpu(),
            layer_weights=point.layer_weights.cpu(),
            loss=point.loss,
            objective=point.objective,
            gradient=point.gradient,
            excess=point.excess,
            evaluations=point.evaluations,
        )

    def leave_out(self, groups: Sequence[Any], penalty: float) -> Tensor:
        """Scores (utterance, class) of each utterance by ridge regression on the utterances of all other groups.

        The regression is of indicators of the classes (1 for the own, 0 for the others) on the same features, of the
        uniform sum where there are layers, under the same kind of penalty: ``sum_i weight_i / 2 |indicator_i - V x_i -
        b|² + penalty / 2 |V|²``. With the hat matrix H, what a group's residuals e become without it is
        ``(I - H_gg)^-1 e_g``, exactly; nothing is fitted again.

        Scores are divided by the class' share of the utterances that are left, so that all classes have the same prior:
        else a class would be the less likely the more of its utterances are left out with the one that is scored.
        Classes of which none is left have minus infinity.

        Args:
            groups: of each utterance, the speaker, say.
            penalty: the same for all, whatever the group's size.
        """
        features = self.features.mean(0)  # (utterance, direction)
        indicators = torch.nn.functional.one_hot(self.targets, self.classes).double()
        shrunk = features / (self.variances + penalty)
        fitted = self.weights @ indicators + shrunk @ (features.T @ (indicators * self.weights[:, None]))
        residuals, shares = indicators - fitted, self.weights @ indicators
        members: dict[Any, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group, []).append(i)
        scores = torch.empty_like(indicators)
        for those in members.values():
            index = torch.tensor(those, device=features.device)
            hat = (1 + shrunk[index] @ features[index].T) * self.weights[index]
            left = torch.linalg.solve(torch.eye(len(those), dtype=hat.dtype, device=hat.device) - hat, residuals[index])
            rest = shares - self.weights[index] @ indicators[index]  # (class,)
            there = rest > 1e-9 * shares
            scores[index] = ((indicators[index] - left) / rest).where(there, -math.inf)
        return scores


class _Point:
    """The objective of one penalty, and where its minimisation is."""

    def __init__(self, problem: Problem, penalty: float, matrix: Tensor, bias: Tensor, layer_weights: Tensor) -> None:
        self.problem, self.penalty, self.evaluations = problem, penalty, 0
        self.matrix, self.bias, self.layer_weights = matrix, bias, layer_weights
        self.loss = self.objective = self.gradient = self.excess = math.inf
        self._passed: list[float] = []
        """The objective after each iteration."""
        curvature = float(self._evaluate()[1])
        self.steps = 1 / torch.sqrt(curvature * problem.variances + penalty)  # (direction,)
        self.bias_step = curvature**-0.5

    def minimise(self, tolerance: float, on_iteration: Callable[[], None]) -> None:
        """Run L-BFGS until the excess is within the tolerance."""

        def function(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            self._unpack(x)
            (gradient, by_bias, by_layer), _ = self._evaluate()
            parts = [(gradient * self.steps).flatten(), by_bias * self.bias_step, by_layer]
            return self.objective, torch.cat(parts).cpu().numpy()

        def callback(intermediate_result: Any) -> None:
            on_iteration()
            self._passed.append(self.objective)
            if self._at_minimum(tolerance):
                raise StopIteration

        options = {"maxcor": 20, "maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "ftol": 0.0, "gtol": 0.0}
        for _ in range(3):  # where the line search fails for lack of digits, its memory is what is wrong
            if self._at_minimum(tolerance):
                return
            start = self._pack()
            found = minimize(function, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
            self._unpack(found.x)
            self._evaluate()
        if self.excess > tolerance:
            log.warning(
                "penalty %g: the objective may be %.1e above its minimum, more than probe.tolerance=%g",
                self.penalty, self.excess, tolerance,
            )  # fmt: skip

    def _at_minimum(self, tolerance: float) -> bool:
        if self.problem.layers > 1:
            if len(self._passed) <= PATIENCE or self._passed[-PATIENCE - 1] - self._passed[-1] > tolerance:
                return False
        return self.excess <= tolerance

    def _pack(self) -> NDArray[np.float64]:
        parts = [(self.matrix / self.steps).flatten(), self.bias / self.bias_step, self.layer_weights]
        return torch.cat(parts).cpu().numpy()

    def _unpack(self, x: NDArray[np.float64]) -> None:
        vector = torch.from_numpy(np.array(x)).to(self.steps.device)
        first, second = self.matrix.numel(), self.matrix.numel() + len(self.bias)
        self.matrix = vector[:first].view_as(self.matrix) * self.steps
        self.bias, self.layer_weights = vector[first:second] * self.bias_step, vector[second:]

    def _evaluate(self) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """The gradient, by matrix, biases and layer weights, and the mean curvature of the loss by logits."""
        problem, weights = self.problem, self.problem.weights
        self.evaluations += 1
        shares = torch.softmax(self.layer_weights, 0)
        by_size = problem.gram @ shares
        size = torch.sqrt(shares @ by_size) if problem.layers > 1 else torch.ones_like(shares[0])
        features = torch.tensordot(shares, problem.features, 1) / size  # (utterance, direction)
        logs = torch.log_softmax(features @ self.matrix.T + self.bias, 1)  # (utterance, class)
        own = problem.targets[:, None]
        self.loss = -float(weights @ logs.gather(1, own)[:, 0])
        self.objective = self.loss + self.penalty / 2 * float(self.matrix.square().sum())
        posteriors = logs.exp()
        spread = weights @ (posteriors * (1 - posteriors))  # (class,)
        by_logits = (posteriors.scatter_add(1, own, -torch.ones_like(logs[:, :1]))) * weights[:, None]
        gradient = by_logits.T @ features + self.penalty * self.matrix
        by_bias = by_logits.sum(0)
        by_layer = torch.zeros_like(shares)
        if problem.layers > 1:
            by_features = by_logits @ self.matrix
            by_share = (problem.features.flatten(1) @ by_features.flatten()) / size
            by_share = by_share - (features * by_features).sum() * by_size / size**2
            by_layer = shares * (by_share - shares @ by_share)
        squares = float(gradient.square().sum())
        self.gradient = math.sqrt(squares + float(by_bias.square().sum()) + float(by_layer.square().sum()))
        self.excess = squares / (2 * self.penalty)
        self.excess += float((by_bias.square() / (2 * spread.clamp(min=1e-12))).sum())
        return (gradient, by_bias, by_layer), spread.mean().clamp(min=1e-3 / problem.classes)


def leave_groups_out(
    features: ArrayLike, classes: Sequence[Any] | NDArray[Any], groups: Sequence[Any] | NDArray[Any], penalty: float
) -> NDArray[Any]:
    """What a linear classifier that was trained on all other groups predicts for each utterance.

    Leave-one-speaker-out (or -session-out) in closed form: ridge classification of centred features, scaled by one
    number to a mean variance of 1, with ``penalty`` as :class:`Problem` has it. The result is that of fitting the
    classifier once for every group, at the cost of fitting it once.

    Args:
        features: (utterance, dim): embeddings, or means of hidden states over time.
        classes: (utterance,): any values.
        groups: (utterance,): any values.
        penalty: more than 0.

    Returns:
        (utterance,): the predicted values of ``classes``.

    Raises:
        BenchmarkError: numbers that do not fit together, or one group alone.
    """
    states = torch.from_numpy(np.asarray(features, dtype=np.float64))
    names, targets = np.unique(np.asarray(classes), return_inverse=True)
    keys = np.asarray(groups).tolist()
    if states.dim() != 2 or not len(states) == len(targets) == len(keys):
        raise BenchmarkError(
            f"features of shape {tuple(states.shape)} do not fit {len(targets)} classes and {len(keys)} groups"
        )
    if not penalty > 0 or len(set(keys)) < 2:
        raise BenchmarkError("leaving groups out needs a penalty above 0 and at least two groups")
    scores = Problem(states[None], torch.from_numpy(targets), len(names)).leave_out(keys, penalty)
    predicted: NDArray[Any] = names[scores.argmax(1).numpy()]
    return predicted


class ExactTrainer(Trainer):
    """Solves instead of training: an update is the solution for one penalty, after which dev is evaluated.

    Raises:
        BenchmarkError: the task has no linear head, or the store of mean states no room.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.store is None:
            raise BenchmarkError("probe.solver=exact needs room for the means of the states: raise features.limit_gb")
        self._solutions: Iterator[Solution] | None = None
        self._rows: list[dict[str, float]] = []
        """What :data:`FILE` says of each penalty."""
        self._dev: list[Batch] | None = None

    def evaluate(
        self, split: Literal["dev", "test"], stop: StopRequest | None = None
    ) -> tuple[Evaluation, StateStatistics]:
        """Predict a whole split and score it; of dev, note it down."""
        evaluation, statistics = super().evaluate(split, stop)
        if split == "dev" and self._rows:
            self._rows[self.step - 1] |= {f"dev_{name}": value for name, value in evaluation.metrics[split].items()}
            columns = list(dict.fromkeys(name for row in self._rows[: self.step] for name in row))
            rows = [[row.get(name) for name in columns] for row in self._rows[: self.step]]
            write_text(self.folder / FILE, Table(columns, rows).csv())
        return evaluation, statistics

    def _training_batches(self) -> Iterator[Batch]:
        return iter(())

    def _load(self, utterances: Sequence[Utterance], batches: Any, *, scoring: str | None = None) -> Iterator[Batch]:
        """Dev is read once for all penalties: means are small."""
        if scoring != "dev":
            return super()._load(utterances, batches, scoring=scoring)
        if self._dev is None:
            self._dev = list(super()._load(utterances, batches, scoring=scoring))
        return iter(self._dev)

    def _update(self, batches: Iterator[Batch]) -> tuple[float, float]:
        """Put the solution for the next penalty in place; returns (mean loss, gradient norm)."""
        if self._solutions is None:
            self._solutions = itertools.islice(self._solve(), self.step, None)  # again, up to where a resumed run is
        solution = next(self._solutions)
        self.model.head.set_linear(solution.weight, solution.bias, solution.mean)
        if isinstance(self.model.featurizer, WeightedSum):
            self.model.featurizer.weights.data.copy_(solution.layer_weights)
        log.info(
            "penalty %g: loss %.6f, with the penalty %.6f, at most %.1e above the minimum; %d evaluations",
            solution.penalty, solution.loss, solution.objective, solution.excess, solution.evaluations,
        )  # fmt: skip
        self._rows[self.step] |= {
            name: getattr(solution, name) for name in ("loss", "objective", "excess", "evaluations")
        }
        self.step += 1
        return solution.loss, solution.gradient

    def _solve(self) -> Iterator[Solution]:
        utterances, probe = self.task.splits["train"], self.run.probe
        read = list(self._load(utterances, batching.EvaluationBatches(np.zeros(len(utterances)), 1024)))
        if self.step == 0:
            self.spent["samples_seen"] += sum(int(batch.wav_lens.sum()) for batch in read)
        hidden = [batch.hidden for batch in read if batch.hidden is not None]
        states = torch.stack([torch.cat(layer)[:, 0] for layer in zip(*(part.states for part in hidden), strict=True)])
        targets = torch.cat([batch.targets for batch in read])
        problem = Problem(states.to(self.device), targets, int(targets.max()) + 1, self.task.chances())
        self._rows = [{"penalty": penalty} for penalty in probe.regularisation]
        if self.step:
            with (self.folder / FILE).open(encoding="utf-8", newline="") as file:
                written = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
            self._rows[: self.step] = written[: self.step]
        self._leave_out(problem, utterances)
        return problem.path(probe.regularisation, probe.tolerance, self._check_stop)

    def _leave_out(self, problem: Problem, utterances: Sequence[Utterance]) -> None:
        """Score the training data without each speaker or, where that takes whole classes away, session."""
        targets = problem.targets.tolist()
        for name in ("speaker", "session"):
            groups = [utterance.label(name) for utterance in utterances]
            pairs = Counter(target for target, _ in set(zip(targets, groups, strict=True)))
            counted = torch.tensor([pairs[target] > 1 for target in targets], device=problem.targets.device)
            if None in groups or not counted.any():
                continue
            column = f"{name}_out_accuracy"
            for row in self._rows:
                right = problem.leave_out(groups, row["penalty"]).argmax(1) == problem.targets
                row[column] = 100 * float(right[counted].double().mean())
            best = max(self._rows, key=itemgetter(column))
            log.info(
                "leaving out one %s at a time: accuracy %.2f, by ridge regression with penalty %g; of %d of %d "
                "utterances, whose classes have other %ss",
                name, best[column], best["penalty"], int(counted.sum()), len(targets), name,
            )  # fmt: skip
            self.training_metrics = {f"train_{name}_out": {"accuracy": best[column]}}
            return

    def _check_stop(self) -> None:
        if self._stop.requested:
            self.save()
            raise Interrupted(f"stopped after update {self.step}, which is saved")
