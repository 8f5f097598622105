"""Linear probes without gradient steps: multinomial logistic regression on mean states, solved for a list of penalties.

Let ``x`` be the mean over time of an utterance's states (of one layer, or of the weighted sum), less its mean over the
training utterances and divided by one number, so that its features have a variance of 1 on average. The solution
minimises, over the matrix ``V`` and the biases ``b``::

    sum_i weight_i * cross_entropy(V x_i + b, class_i)  +  penalty / 2 * |V|²

The weights of the utterances sum to 1; biases are not penalised. This is scikit-learn's ``LogisticRegression`` with
``C = 1 / (utterances * penalty)`` on the same features, and what the heads with a linear layer before mean pooling and
a softmax loss converge to, were the product of their two layers penalised and of full rank. The problem is convex, and
the excess of a solution over the minimum is bounded: by the norm of the gradient, ``|g|² / (2 penalty)``.

The weights of a weighted sum of layers would make the problem non-convex. They are determined first, for each penalty:
they minimise the objective of ridge regression of class indicators, whose matrix is in closed form
(:meth:`Problem.layer_weights`). The classifier of the sum that they give is the minimum as above.

L-BFGS is scipy's. Features are rotated into the eigenbasis of their covariance, where the problem's curvature is about
diagonal and variables are scaled by it; solutions of larger penalties start those of smaller ones.
"""

from __future__ import annotations

import csv
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
from benchmark.engine.stopping import Interrupted, StopRequest
from benchmark.engine.trainer import Trainer
from benchmark.errors import BenchmarkError
from benchmark.files import write_text
from benchmark.interfaces import Batch, Evaluation, Utterance
from benchmark.tables import Table

log = logging.getLogger("wavbench")

FILE = "penalties.csv"
"""In the experiment folder: a line for each penalty."""
MOST_ITERATIONS = 20_000


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
    """What the objective is at most above its minimum; of the biases, which are not penalised, it is an estimate: what
    their Newton step would gain."""
    evaluations: int
    """Of the objective."""


class Features:
    """What a classifier sees: centred states, scaled by one number, rotated into the eigenbasis of their covariance.

    Args:
        states: (utterance, dim) float64, centred.
        weights: (utterance,): sum to 1.
    """

    def __init__(self, states: Tensor, weights: Tensor) -> None:
        rooted = states * weights.sqrt()[:, None]
        self.scale = math.sqrt(float(rooted.square().sum()) / rooted.shape[1]) or 1.0
        rooted = rooted / self.scale
        few = len(rooted) < rooted.shape[1]  # then the products of utterances are the smaller matrix
        values, vectors = torch.linalg.eigh(rooted @ rooted.T if few else rooted.T @ rooted)
        there = values > values[-1] * len(values) * torch.finfo(torch.float64).eps  # others would have no weight
        self.variances, vectors = values[there], vectors[:, there]
        self.basis = rooted.T @ (vectors / self.variances.sqrt()) if few else vectors
        self.values = states @ (self.basis / self.scale)
        """(utterance, direction): uncorrelated."""


class Problem:
    """States, classes and weights of the training utterances.

    Args:
        states: (layer, utterance, dim): means over time, on the device that computes.
        targets: (utterance,) int64.
        classes: how many there are.
        weights: (utterance,), of any sum; ``None``: all the same.
    """

    def __init__(self, states: Tensor, targets: Tensor, classes: int, weights: ArrayLike | None = None) -> None:
        given = np.ones(len(targets)) if weights is None else np.asarray(weights, dtype=np.float64)
        self.weights = torch.from_numpy(given / given.sum()).to(states.device)
        self.targets, self.classes = targets.to(states.device), classes
        self.indicators = torch.nn.functional.one_hot(self.targets, classes).double()
        """(utterance, class)."""
        self.means = torch.einsum("n,knd->kd", self.weights, states.double())
        self.states = states.double() - self.means[:, None]
        self.uniform = Features(self.states.mean(0), self.weights)
        """Of the layer, or of the sum of layers with equal weights."""

    def path(
        self, penalties: Iterable[float], tolerance: float, on_iteration: Callable[[], None] = lambda: None
    ) -> Iterator[Solution]:
        """The solution for each penalty, from that of the one before it.

        Args:
            penalties: more than 0.
            tolerance: the largest excess (:attr:`Solution.excess`); a warning says where it is not reached.
            on_iteration: called again and again; may raise.
        """
        matrix = torch.zeros(self.classes, self.states.shape[2]).to(self.states)
        bias = (self.weights @ self.indicators).clamp(min=1e-12).log()
        layer_weights, features = torch.zeros(len(self.states)).to(self.states), self.uniform
        for penalty in penalties:
            if len(self.states) > 1:
                layer_weights = self.layer_weights(penalty, layer_weights)
                features = Features(torch.tensordot(torch.softmax(layer_weights, 0), self.states, 1), self.weights)
            point = _Point(self, features, penalty, matrix @ features.basis, bias)
            point.minimise(tolerance, on_iteration)
            matrix, bias = point.matrix @ features.basis.T, point.bias
            yield Solution(
                penalty=penalty,
                weight=(matrix / features.scale).cpu(),
                bias=bias.cpu(),
                mean=(torch.softmax(layer_weights, 0) @ self.means).cpu(),
                layer_weights=layer_weights.cpu(),
                loss=point.loss,
                objective=point.objective,
                gradient=point.gradient,
                excess=point.excess,
                evaluations=point.evaluations,
            )

    def layer_weights(self, penalty: float, start: Tensor) -> Tensor:
        """Weights of the layers, before the softmax, of the least ``sum_i weight_i / 2 |indicator_i - V x_i - b|² +
        penalty / 2 |V|²``, where ``x`` is their weighted sum, scaled as ever; a local optimum.

        Args:
            penalty: the same as of the classifier.
            start: (layer,).
        """
        dim = self.states.shape[2]
        roots = self.weights.sqrt()[:, None]
        flat = (self.states * roots).flatten(1)
        gram = flat @ flat.T / dim  # (layer, layer)
        wanted = self.indicators * roots
        few = len(wanted) < dim  # then the products of utterances are the smaller matrix
        products = None if few else torch.einsum("knd,nc->kdc", self.states, wanted * roots)
        ridge = penalty * torch.eye(min(len(wanted), dim)).to(self.states)

        def function(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            variables = torch.from_numpy(x.copy()).to(self.states.device).requires_grad_()
            shares = torch.softmax(variables, 0)
            shares = shares / torch.sqrt(shares @ gram @ shares)
            summed = (shares @ flat).view(-1, dim)
            if products is None:
                kernel = summed @ summed.T
                explained = (wanted * (kernel @ torch.linalg.solve(kernel + ridge, wanted))).sum()
            else:
                product = torch.tensordot(shares, products, 1)
                explained = (product * torch.linalg.solve(summed.T @ summed + ridge, product)).sum()
            (gradient,) = torch.autograd.grad(-explained / 2, variables)
            return -explained.item() / 2, gradient.cpu().numpy()

        found = minimize(function, start.cpu().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 100})
        return torch.from_numpy(found.x).to(self.states.device)

    def leave_out(self, groups: Sequence[Any], penalty: float) -> Tensor:
        """Scores (utterance, class) of each utterance by ridge regression on the utterances of all other groups.

        The regression is of indicators of the classes (1 for the own, 0 for the others) on the same features, with
        equal weights where there are several layers: it minimises ``sum_i weight_i / 2 |indicator_i - V x_i - b|² +
        penalty / 2 |V|²``. With the hat matrix H, what a group's residuals e become without it is ``(I - H_gg)^-1
        e_g``, exactly; nothing is fitted again.

        Scores are divided by the class' share of the utterances that are left, so that all classes have the same prior:
        else a class would be the less likely the more of its utterances are left out with the one that is scored.
        Classes of which none is left have minus infinity.

        Args:
            groups: of each utterance, the speaker, say.
            penalty: the same for all, whatever the group's size.
        """
        features, indicators = self.uniform.values, self.indicators
        shrunk = features / (self.uniform.variances + penalty)
        shares = self.weights @ indicators  # (class,)
        residuals = indicators - shares - shrunk @ (features.T @ (indicators * self.weights[:, None]))
        members: dict[Any, list[int]] = {}
        for i, group in enumerate(groups):
            members.setdefault(group, []).append(i)
        scores = torch.empty_like(indicators)
        for those in members.values():
            index = torch.tensor(those, device=features.device)
            hat = (1 + shrunk[index] @ features[index].T) * self.weights[index]
            left = torch.linalg.solve(torch.eye(len(those)).to(hat) - hat, residuals[index])
            rest = shares - self.weights[index] @ indicators[index]  # (class,)
            scores[index] = ((indicators[index] - left) / rest).where(rest > 1e-9 * shares, -math.inf)
        return scores


class _Point:
    """The objective of one penalty, and where its minimisation is."""

    def __init__(self, problem: Problem, features: Features, penalty: float, matrix: Tensor, bias: Tensor) -> None:
        self.features, self.penalty, self.matrix, self.bias = features.values, penalty, matrix, bias
        self.indicators, self.weights = problem.indicators, problem.weights[:, None]
        self.loss = self.objective = self.gradient = self.excess = math.inf
        self.evaluations = 0
        self._evaluate()
        curvature = float(self.spread.mean().clamp(min=1e-3 / problem.classes))
        self.steps = 1 / torch.sqrt(curvature * features.variances + penalty)  # (direction,)
        self.bias_step = curvature**-0.5

    def minimise(self, tolerance: float, on_iteration: Callable[[], None]) -> None:
        """Run L-BFGS until the excess is within the tolerance."""

        def function(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            self._unpack(x)
            by_matrix, by_bias = self._evaluate()
            gradient = torch.cat([(by_matrix * self.steps).flatten(), by_bias * self.bias_step])
            return self.objective, gradient.cpu().numpy()

        def callback(intermediate_result: Any) -> None:
            on_iteration()
            if self.excess <= tolerance:
                raise StopIteration

        options = {"maxcor": 20, "maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "ftol": 0.0, "gtol": 0.0}
        for _ in range(3):  # where the line search fails for lack of digits, its memory is what is wrong
            if self.excess <= tolerance:
                return
            start = torch.cat([(self.matrix / self.steps).flatten(), self.bias / self.bias_step]).cpu().numpy()
            found = minimize(function, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
            self._unpack(found.x)
            self._evaluate()
        if self.excess > tolerance:
            log.warning(
                "penalty %g: the objective may be %.1e above its minimum, more than probe.tolerance=%g",
                self.penalty, self.excess, tolerance,
            )  # fmt: skip

    def _unpack(self, x: NDArray[np.float64]) -> None:
        vector = torch.from_numpy(x.copy()).to(self.steps.device)
        self.matrix = vector[: self.matrix.numel()].view_as(self.matrix) * self.steps
        self.bias = vector[self.matrix.numel() :] * self.bias_step

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """The gradient by matrix and biases."""
        self.evaluations += 1
        logs = torch.log_softmax(self.features @ self.matrix.T + self.bias, 1)  # (utterance, class)
        self.loss = -float((logs * self.indicators * self.weights).sum())
        self.objective = self.loss + self.penalty / 2 * float(self.matrix.square().sum())
        posteriors = logs.exp()
        self.spread = (posteriors * (1 - posteriors) * self.weights).sum(0)  # (class,): of each, over utterances
        by_logits = (posteriors - self.indicators) * self.weights
        by_matrix, by_bias = by_logits.T @ self.features + self.penalty * self.matrix, by_logits.sum(0)
        squares = float(by_matrix.square().sum())
        self.gradient = math.sqrt(squares + float(by_bias.square().sum()))
        newton = by_bias.square() / (2 * self.spread.clamp(min=1e-12))
        self.excess = squares / (2 * self.penalty) + float(newton.sum())
        return by_matrix, by_bias


def leave_groups_out(features: ArrayLike, classes: ArrayLike, groups: ArrayLike, penalty: float) -> NDArray[Any]:
    """See :func:`wavbench.leave_groups_out`."""
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
        if split == "dev":
            self._begin()
        evaluation, statistics = super().evaluate(split, stop)
        if split == "dev":
            rows = self._rows[: self.step]
            rows[-1] |= {f"dev_{name}": value for name, value in evaluation.metrics[split].items()}
            columns = list(rows[-1])
            table = Table(columns, [[row.get(name) for name in columns] for row in rows])
            write_text(self.folder / FILE, table.csv())
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
        self._begin()
        assert self._solutions is not None
        solution = next(self._solutions)
        self.model.head.set_linear(solution.weight, solution.bias, solution.mean)
        if isinstance(self.model.featurizer, WeightedSum):
            self.model.featurizer.weights.data.copy_(solution.layer_weights)
        log.info(
            "penalty %g: loss %.6f, with the penalty %.6f, at most %.1e above the minimum; %d evaluations",
            solution.penalty, solution.loss, solution.objective, solution.excess, solution.evaluations,
        )  # fmt: skip
        self._rows[self.step] |= _noted(solution)
        self.step += 1
        return solution.loss, solution.gradient

    def _begin(self) -> None:
        """Read the training data; solve, as they were, the penalties that a resumed run had done."""
        if self._solutions is not None:
            return
        utterances, probe = self.task.splits["train"], self.run.probe
        read = list(self._load(utterances, batching.EvaluationBatches(np.zeros(len(utterances)), 1024)))
        hidden = [batch.hidden for batch in read if batch.hidden is not None]
        states = torch.stack([torch.cat(layer)[:, 0] for layer in zip(*(part.states for part in hidden), strict=True)])
        targets = torch.cat([batch.targets for batch in read])
        problem = Problem(states.to(self.device), targets, int(targets.max()) + 1, self.task.chances())
        self._rows = [{"penalty": penalty} for penalty in probe.regularisation]
        self._leave_out(problem, utterances)
        self._solutions = problem.path(probe.regularisation, probe.tolerance, self._check_stop)
        self.spent["samples_seen"] = sum(int(batch.wav_lens.sum()) for batch in read)  # once, however often it is read
        if self.step == 0:
            return
        for row, solution in zip(self._rows[: self.step], self._solutions, strict=False):
            row |= _noted(solution)
        if (self.folder / FILE).exists():
            with (self.folder / FILE).open(encoding="utf-8", newline="") as file:
                for row, written in zip(self._rows, csv.DictReader(file), strict=False):
                    row |= {name: float(value) for name, value in written.items() if name.startswith("dev_")}

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


def _noted(solution: Solution) -> dict[str, float]:
    return {name: getattr(solution, name) for name in ("loss", "objective", "excess", "evaluations")}
