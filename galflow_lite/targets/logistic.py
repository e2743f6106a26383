"""Bayesian logistic regression: a posterior over weights and their precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..seeds import child_seed
from .base import Target, positive_number, whole_number
from .derived import Affine

__all__ = ["BayesianLogisticRegression", "LaplaceFit", "Prediction"]


# Coordinates need no more digits of the logarithm of the precision.
_SETTLED = 1e-4

# Pairs of a row and a sample held at once.
_PAIRS = 10_000_000


@dataclass(frozen=True)
class Prediction:
    """How well labels are predicted.

    Attributes:
        accuracy: share of rows whose label has the larger probability.
        log_likelihood: mean log probability of the labels, in nats a row.
    """

    accuracy: float
    log_likelihood: float


@dataclass(frozen=True, eq=False)
class LaplaceFit:
    """A Gaussian fit of the posterior.

    Attributes:
        mean: shape (dim,).
        factor: Cholesky factor of the covariance, shape (dim, dim).
    """

    mean: Tensor
    factor: Tensor


class BayesianLogisticRegression(Target):
    r"""Posterior of a logistic regression with an uncertain prior precision.

    The parameters are :math:`\theta = (w, \log \alpha)`, with :math:`w | \alpha \sim N(0, I /
    \alpha)` and :math:`\alpha \sim \mathrm{Gamma}(a_0, b_0)`, rate b_0. For labels y in {0, 1}

    .. math::
        \log f = \sum_i \log p(y_i | w^T x_i) + \tfrac D2 \log \alpha - \tfrac \alpha2 |w|^2
        + a_0 \log \alpha - b_0 \alpha, \qquad p(1 | t) = \frac{1}{1 + e^{-t}}

    where :math:`a_0 \log \alpha` and not :math:`(a_0 - 1) \log \alpha` stands for the density of
    :math:`\log \alpha`. The set-up is that of arXiv:1608.04471, section 5, with the values a_0 = 1
    and b_0 = 0.01.

    Args:
        design: shape (rows, columns), numpy or tensor; columns of about unit scale are wise.
        labels: shape (rows,), two different values; the larger is 1.
        bias: add a column of ones, which the prior treats as the others.
        prior: "gamma", the only one.
        shape: a_0.
        rate: b_0.
        batch_size: rows, drawn with replacement, by which each call of `score` and
            `differentiable_score` estimates the score: unbiased, independent from call to call,
            the same rows for all points of a call. None takes all rows. `log_density` always does.
        seed: of the mini-batches.

    Attributes:
        dim: columns of the design, with the bias, and one.
        weights: columns of the design, with the bias.

    Raises:
        ValueError: wrong shapes, NaN or infinite values, labels that are not two values, another
            prior, an argument that is not positive.
    """

    def __init__(
        self,
        design: Any,
        labels: Any,
        *,
        bias: bool = False,
        prior: str = "gamma",
        shape: float = 1.0,
        rate: float = 0.01,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if prior != "gamma":
            raise ValueError(f"prior is {prior!r}, expected 'gamma': change it")
        self.bias = bias
        self._columns: int | None = None
        self._design = self._with_bias(design)
        self._columns = self._design.shape[1] - bias
        self.classes, self._labels = _classes(labels, len(self._design))
        self.shape, self.rate = positive_number("shape", shape), positive_number("rate", rate)
        self.weights = self._design.shape[1]
        self.dim = self.weights + 1
        self.batch_size = (
            None if batch_size is None else whole_number("batch_size", batch_size, least=1)
        )
        self.stochastic = batch_size is not None
        self._seed = whole_number("seed", seed, least=0)
        self._generator = torch.Generator().manual_seed(child_seed(self._seed, "batches"))
        self._copies: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        rows, batch = len(self._design), self.batch_size
        return f"BayesianLogisticRegression(rows={rows}, dim={self.dim}, batch_size={batch})"

    def with_batches(self, batch_size: int | None, *, seed: int = 0) -> BayesianLogisticRegression:
        """The same posterior with another batch size; the data are shared.

        Args:
            batch_size: rows of a mini-batch, None for all rows.
            seed: of the mini-batches.

        Raises:
            ValueError: no whole number of at least 1, a wrong seed.
        """
        other = object.__new__(BayesianLogisticRegression)
        other.__dict__.update(self.__dict__)
        other.batch_size = (
            None if batch_size is None else whole_number("batch_size", batch_size, least=1)
        )
        other.stochastic = batch_size is not None
        other._seed = whole_number("seed", seed, least=0)
        other._generator = torch.Generator().manual_seed(child_seed(other._seed, "batches"))
        return other

    def laplace(
        self, *, precision: float | None = None, log_precision_std: float | None = None
    ) -> LaplaceFit:
        r"""Gaussian fit, by which `whitened` turns and scales the coordinates.

        The weights get their mode at a fixed precision and the inverse Hessian there; log alpha is
        taken as independent of them.

        Args:
            precision: alpha at which the weights are fitted. None finds it together with them: the
                fixed point of :math:`\alpha = (\gamma + 2 a_0) / (|w|^2 + 2 b_0)` with
                :math:`\gamma = D - \alpha\, \mathrm{tr}\, \Sigma` (MacKay, 1992).
            log_precision_std: width of log alpha; None takes :math:`\sqrt{2 / (\gamma + 2 a_0)}`,
                from the curvature there.

        Returns:
            `LaplaceFit`. With a given precision, the mean of log alpha is log(D / |w|^2).

        Raises:
            ValueError: an argument is not positive.
        """
        fixed = precision is not None
        alpha = positive_number("precision", precision) if fixed else 1.0
        weights = torch.zeros(self.weights, dtype=torch.float64)
        for _ in range(500):
            weights, covariance = self._mode(weights, alpha)
            square = float(weights.square().sum())
            determined = self.weights - alpha * float(covariance.trace())
            following = (determined + 2 * self.shape) / (square + 2 * self.rate)
            settled = abs(math.log(following / alpha)) < _SETTLED
            if fixed or settled:
                break
            alpha = following
        if log_precision_std is None:
            width = math.sqrt(2 / (determined + 2 * self.shape))
        else:
            width = positive_number("log_precision_std", log_precision_std)
        centre = math.log(self.weights / square) if fixed else math.log(alpha)
        factor = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        factor[:-1, :-1] = torch.linalg.cholesky(covariance)
        factor[-1, -1] = width
        return LaplaceFit(torch.cat([weights, torch.tensor([centre]).double()]), factor)

    def whitened(self, **options: float | None) -> Affine:
        """This posterior in the coordinates of `laplace`, where it is about N(0, I).

        Args:
            options: of `laplace`.

        Raises:
            ValueError: as `laplace`.
        """
        fit = self.laplace(**options)
        return Affine(self, fit.mean, fit.factor)

    def predict(self, samples: Any, design: Any) -> Tensor:
        """Probability of the larger label, averaged over samples of theta.

        Args:
            samples: shape (n, dim), in the original coordinates.
            design: shape (rows, columns), without the bias.

        Returns:
            Shape (rows,), float64.

        Raises:
            ValueError: wrong shapes, no samples, NaN or infinite values.
        """
        weights, rows = self._weights_and_rows(samples, design)
        parts = ((part @ weights).sigmoid().mean(1) for part in _parts(rows, weights))
        return torch.cat(list(parts))

    def evaluate(self, samples: Any, design: Any, labels: Any) -> Prediction:
        """Accuracy and log likelihood of `predict`; arguments and errors as there.

        Args:
            samples: shape (n, dim), in the original coordinates.
            design: shape (rows, columns), without the bias.
            labels: shape (rows,), of the same two values as in the training.
        """
        weights, rows = self._weights_and_rows(samples, design)
        labels = self._known_labels(labels, len(rows))
        probability, log_likelihood = [], []
        for part, sign in zip(
            _parts(rows, weights), _parts(2 * labels[:, None] - 1, weights), strict=True
        ):
            logits = part @ weights
            probability.append(logits.sigmoid().mean(1))
            # Of the logarithm, as 1 - probability is 0 from a logit of 37 on.
            logs = functional.logsigmoid(sign * logits)
            log_likelihood.append(logs.logsumexp(1) - math.log(weights.shape[1]))
        return _judge(torch.cat(probability), torch.cat(log_likelihood), labels)

    def constant_classifier(self, labels: Any) -> Prediction:
        """What the share of the training labels predicts, whatever the row: the row to beat.

        Args:
            labels: shape (rows,), of the same two values as in the training.

        Raises:
            ValueError: another shape, or other values.
        """
        share = self._labels.mean()
        labels = self._known_labels(labels, None)
        likelihood = torch.where(labels > 0.5, share, 1 - share)
        return _judge(share.expand(len(labels)), likelihood.log(), labels)

    def _weights_and_rows(self, samples: Any, design: Any) -> tuple[Tensor, Tensor]:
        """Weights of the samples, shape (columns, n), and the design with its bias."""
        samples = self._finite_points(samples, "samples").detach().double().cpu()
        if not len(samples):
            raise ValueError("samples has 0 rows, expected at least one: draw some")
        return samples[:, :-1].T, self._with_bias(design)

    def _known_labels(self, labels: Any, rows: int | None) -> Tensor:
        values = _numbers("labels", labels)
        if values.ndim != 1 or (rows is not None and len(values) != rows) or not len(values):
            wanted = "rows" if rows is None else rows
            raise ValueError(
                f"labels has shape {tuple(values.shape)}, expected ({wanted},): give one a row"
            )
        unknown = set(values.unique().tolist()) - set(self.classes)
        if unknown:
            raise ValueError(
                f"labels has the value {min(unknown)}, expected {self.classes[0]} or "
                f"{self.classes[1]} as in the training: recode it"
            )
        return (values == self.classes[1]).double()

    def _with_bias(self, design: Any) -> Tensor:
        rows = _numbers("design", design)
        if rows.ndim != 2 or not rows.numel():
            raise ValueError(
                f"design has shape {tuple(rows.shape)}, expected (rows, columns) with some of each"
                ": reshape it"
            )
        if self._columns is not None and rows.shape[1] != self._columns:
            raise ValueError(
                f"design has {rows.shape[1]} columns, expected {self._columns} as in the training: "
                "leave the bias out, it is added here"
            )
        return torch.cat([rows, torch.ones(len(rows), 1).double()], dim=1) if self.bias else rows

    def _mode(self, weights: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        """Mode of the weights at a precision, by damped Newton steps, and the inverse Hessian."""
        rows, labels = self._design, self._labels
        prior = alpha * torch.eye(self.weights, dtype=torch.float64)

        def loss(w: Tensor) -> float:
            logits = rows @ w
            fit = functional.softplus(logits).sum() - labels @ logits
            return float(fit + alpha / 2 * w.square().sum())

        value = loss(weights)
        for _ in range(200):
            chance = (rows @ weights).sigmoid()
            slope = rows.T @ (chance - labels) + alpha * weights
            hessian = rows.T @ ((chance * (1 - chance))[:, None] * rows) + prior
            step = torch.linalg.solve(hessian, slope)
            if float(slope @ step) < 1e-20 * max(1.0, abs(value)):
                break
            share = 1.0
            while loss(weights - share * step) > value and share > 1e-10:
                share /= 2
            weights = weights - share * step
            value = loss(weights)
        return weights, torch.linalg.inv(hessian)

    def _data(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Design and labels in the type and on the device of x."""
        key = (x.dtype, x.device)
        if key not in self._copies:
            self._copies[key] = self._design.to(x), self._labels.to(x)
        return self._copies[key]

    def _log_density(self, x: Tensor) -> Tensor:
        rows, labels = self._data(x)
        w, log_alpha = x[:, :-1], x[:, -1]
        logits = w @ rows.T
        fit = logits @ labels - functional.softplus(logits).sum(1)
        alpha = log_alpha.exp()
        prior = (self.weights / 2 + self.shape) * log_alpha
        return fit + prior - alpha * (w.square().sum(1) / 2 + self.rate)

    def _closed_score(self, x: Tensor) -> Tensor:
        rows, labels = self._data(x)
        scale = 1.0
        if self.batch_size is not None:
            chosen = torch.randint(len(rows), (self.batch_size,), generator=self._generator)
            scale = len(rows) / self.batch_size
            rows, labels = rows[chosen.to(rows.device)], labels[chosen.to(rows.device)]
        w, alpha = x[:, :-1], x[:, -1:].exp()
        fit = (labels - (w @ rows.T).sigmoid()) @ rows
        half = w.square().sum(1, keepdim=True) / 2 + self.rate
        return torch.cat(
            [scale * fit - alpha * w, self.weights / 2 + self.shape - alpha * half], dim=1
        )


def _parts(rows: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Some rows at a time: all rows times all samples need not fit in memory."""
    return rows.split(max(1, _PAIRS // weights.shape[1]))


def _judge(probability: Tensor, log_likelihood: Tensor, labels: Tensor) -> Prediction:
    right = (probability > 0.5) == (labels > 0.5)
    return Prediction(float(right.double().mean()), float(log_likelihood.mean()))


def _classes(labels: Any, rows: int) -> tuple[tuple[float, float], Tensor]:
    """The two values, smaller first, and the labels as 0 and 1."""
    values = _numbers("labels", labels)
    if values.shape != (rows,):
        raise ValueError(
            f"labels has shape {tuple(values.shape)}, expected ({rows},): give one a row of design"
        )
    found = values.unique().tolist()
    if len(found) != 2:
        raise ValueError(
            f"labels has {len(found)} different values, expected 2: compare with one class, as in "
            "labels == 2"
        )
    return (found[0], found[1]), (values == found[1]).double()


def _numbers(name: str, value: Any) -> Tensor:
    """Finite float64 numbers on the CPU."""
    if isinstance(value, Tensor):
        numbers = value.detach().to("cpu", torch.float64)
    else:
        numbers = torch.tensor(np.asarray(value, dtype=np.float64))
    bad = int((~numbers.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} values that are NaN or infinite, expected none: remove their rows"
        )
    return numbers
