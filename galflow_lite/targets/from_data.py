"""Targets made of data: the posterior of a logistic regression, and an energy that is learnt."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..inputs import as_number, as_tensor, as_whole, child_seed, seeded, sent
from ..networks import MLP
from ..training import History, TensorBatches, fit
from .target import Target, as_target, constant

# Shape a_0 and rate b_0 of the prior of the precision.
_SHAPE, _RATE = 1.0, 0.01

# Coordinates need no more digits of the logarithm of the precision.
_SETTLED = 1e-4


class Affine(Target):
    """A target in coordinates u with x = mean + factor u, for example those of a Laplace fit.

    Samplers work best where all directions are about equally wide; `to_original` brings their
    points back.

    Args:
        target: any target.
        mean: shape (dim,).
        factor: shape (dim, dim), invertible; for a covariance C its Cholesky factor makes the
            target about N(0, I).
    """

    def __init__(self, target: Target, mean: Any, factor: Any) -> None:
        self.target, self.dim = as_target(target), target.dim
        self.stochastic = target.stochastic
        self.mean = constant(mean, "mean", (self.dim,))
        self.factor = constant(factor, "factor", (self.dim, self.dim))

    def to_original(self, u: Tensor) -> Tensor:
        """Points of the target for points in these coordinates, both shape (n, dim)."""
        return self._at("mean", u) + u @ self._at("factor", u).T

    def _log_density(self, x: Tensor) -> Tensor:
        return self.target._log_density(self.to_original(x))

    def _score(self, x: Tensor, *, create_graph: bool = False) -> Tensor:
        score = self.target._score(self.to_original(x), create_graph=create_graph)
        return score @ self._at("factor", x)


class Prediction(NamedTuple):
    """How well labels are predicted.

    Attributes:
        accuracy: share of rows whose label has the larger probability.
        log_likelihood: mean log probability of the labels, in nats a row.
    """

    accuracy: float
    log_likelihood: float


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
        design: shape (rows, columns); columns of about unit scale are wise.
        labels: shape (rows,), two different values; the larger is 1.
        bias: add a column of ones, which the prior treats as the others.

    Attributes:
        dim: columns of the design, with the bias, and one.
        weights: columns of the design, with the bias.
        classes: the two labels, the smaller first.
        batch_size: rows of a mini-batch by which each score is estimated, see `with_batches`.
    """

    batch_size: int | None = None
    _generator: torch.Generator

    def __init__(self, design: Any, labels: Any, *, bias: bool = False) -> None:
        self.bias = bias
        self._design = self._with_bias(constant(design, "design", ("rows", "columns")))
        labels = constant(labels, "labels", (len(self._design),))
        self.classes = tuple(labels.unique().tolist())
        if len(self.classes) != 2:
            raise ValueError(
                f"labels has {len(self.classes)} different values, expected 2: compare with one "
                "class, as in labels == 2"
            )
        self._labels = (labels == self.classes[1]).double()
        self.weights = self._design.shape[1]
        self.dim = self.weights + 1

    def with_batches(self, batch_size: int, *, seed: int = 0) -> BayesianLogisticRegression:
        """The same posterior, whose score is estimated from mini-batches; the data are shared.

        Each call of `score` and `differentiable_score` draws its rows with replacement: unbiased,
        independent from call to call, the same rows for all points of a call. `log_density` takes
        all rows.

        Args:
            batch_size: rows of a mini-batch.
            seed: of the mini-batches.
        """
        other = copy.copy(self)
        other.batch_size = as_whole(batch_size, "batch_size", least=1)
        other.stochastic = True
        seed = child_seed(as_whole(seed, "seed"), "batches")
        other._generator = torch.Generator().manual_seed(seed)
        return other

    def whitened(self) -> Affine:
        r"""This posterior in the coordinates of a Gaussian fit, where it is about N(0, I).

        The weights get their mode and the inverse Hessian there, at the precision that is the
        fixed point of :math:`\alpha = (\gamma + 2 a_0) / (|w|^2 + 2 b_0)` with :math:`\gamma = D -
        \alpha\, \mathrm{tr}\, \Sigma` (MacKay, 1992). log alpha is taken as independent of them,
        with the width :math:`\sqrt{2 / (\gamma + 2 a_0)}` from the curvature there.
        """
        alpha = 1.0
        weights = torch.zeros(self.weights, dtype=torch.float64)
        for _ in range(500):
            weights, covariance = self._mode(weights, alpha)
            square = float(weights.square().sum())
            determined = self.weights - alpha * float(covariance.trace())
            following = (determined + 2 * _SHAPE) / (square + 2 * _RATE)
            if abs(math.log(following / alpha)) < _SETTLED:
                break
            alpha = following
        factor = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        factor[:-1, :-1] = torch.linalg.cholesky(covariance)
        factor[-1, -1] = math.sqrt(2 / (determined + 2 * _SHAPE))
        # In single precision: the stored runs have these coordinates.
        centre = torch.tensor([math.log(alpha)], dtype=torch.float32)
        return Affine(self, torch.cat([weights, centre.double()]), factor)

    def evaluate(self, samples: Any, design: Any, labels: Any) -> Prediction:
        """How well labels are predicted by probabilities that are averaged over samples of theta.

        Args:
            samples: shape (n, dim), in the original coordinates.
            design: shape (rows, columns), without the bias.
            labels: shape (rows,), of the same two values as in the training.
        """
        weights = constant(samples, "samples", ("n", self.dim))[:, :-1].T
        columns = self.weights - self.bias
        rows = self._with_bias(constant(design, "design", ("rows", columns)))
        ones = self._ones(labels, len(rows))
        logits = rows @ weights
        # Of the logarithm, as 1 - probability is 0 from a logit of 37 on.
        logs = functional.logsigmoid((2 * ones[:, None] - 1) * logits)
        log_likelihood = logs.logsumexp(1) - math.log(weights.shape[1])
        return _judge(logits.sigmoid().mean(1), log_likelihood, ones)

    def constant_classifier(self, labels: Any) -> Prediction:
        """What the share of the training labels predicts, whatever the row: the row to beat.

        Args:
            labels: shape (rows,), of the same two values as in the training.
        """
        ones = self._ones(labels, "rows")
        share = self._labels.mean()
        likelihood = torch.where(ones > 0.5, share, 1 - share)
        return _judge(share.expand(len(ones)), likelihood.log(), ones)

    def _ones(self, labels: Any, rows: int | str) -> Tensor:
        """1 for the larger class of the training, 0 for the other."""
        labels = constant(labels, "labels", (rows,))
        if not bool(torch.isin(labels, torch.tensor(self.classes).double()).all()):
            raise ValueError(
                f"labels has other values than {self.classes}, expected those: map them"
            )
        return (labels == self.classes[1]).double()

    def _with_bias(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1) if self.bias else rows

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

    def _log_density(self, x: Tensor) -> Tensor:
        rows, labels = self._at("_design", x), self._at("_labels", x)
        w, log_alpha = x[:, :-1], x[:, -1]
        logits = w @ rows.T
        fit = logits @ labels - functional.softplus(logits).sum(1)
        alpha = log_alpha.exp()
        prior = (self.weights / 2 + _SHAPE) * log_alpha
        return fit + prior - alpha * (w.square().sum(1) / 2 + _RATE)

    def _closed_score(self, x: Tensor) -> Tensor:
        rows, labels, scale = self._at("_design", x), self._at("_labels", x), 1.0
        if self.batch_size is not None:
            chosen = torch.randint(len(rows), (self.batch_size,), generator=self._generator)
            scale, chosen = len(rows) / self.batch_size, sent(chosen, x.device)
            rows, labels = rows[chosen], labels[chosen]
        w, alpha = x[:, :-1], x[:, -1:].exp()
        fit = (labels - (w @ rows.T).sigmoid()) @ rows
        half = w.square().sum(1, keepdim=True) / 2 + _RATE
        slope = self.weights / 2 + _SHAPE - alpha * half
        return torch.cat([scale * fit - alpha * w, slope], dim=1)


def _judge(probability: Tensor, log_likelihood: Tensor, ones: Tensor) -> Prediction:
    right = (probability > 0.5) == (ones > 0.5)
    return Prediction(float(right.double().mean()), float(log_likelihood.mean()))


# The gradient of SiLU as one operation, which autograd calls too.
silu_backward = torch.ops.aten.silu_backward.grad_input


class EnergyModel(Target):
    r"""Density :math:`e^{-E(x)}` with :math:`E(x) = (|x|^2 / 2 - f(x)) / \sigma^2`, f a perceptron.

    `fit` learns the distribution of the data *with noise of width sigma*, so that a sample is
    brought back to the data by one step of `denoise` (deep energy estimator networks: Saremi,
    Mehrjou, Scholkopf and Hyvarinen, arXiv:1805.08306). Noisy data have exactly this form, with an
    f that grows no faster than linearly: :math:`\sigma^2 \log E_{x_0}
    \exp((x^T x_0 - |x_0|^2 / 2) / \sigma^2)`. So the quadratic term bounds the density where no
    noisy point was seen in training. With a weak one, :math:`|x|^2 / 8` beside a free network,
    regions without data could get most of the probability, on the digits with one seed of three.
    The gradient of f is what `denoise` returns.

    Args:
        dim: columns of a point.
        hidden: width of each hidden layer.
        sigma: width of the noise.
        seed: of the first weights.

    Attributes:
        network: the perceptron; fixed, so that nothing that uses the score trains it.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        hidden: tuple[int, ...] = (256, 256, 256),
        sigma: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.dim = as_whole(dim, "dim", least=1)
        self.hidden = tuple(as_whole(width, "hidden", least=1) for width in hidden)
        self.sigma = as_number(sigma, "sigma", above=0)
        with seeded(child_seed(as_whole(seed, "seed"), "energy model")):
            self.network = MLP(self.dim, 1, hidden=self.hidden, activation=nn.SiLU)
        self.network.requires_grad_(False).eval()

    def fit(self, x: Any, *, steps: int = 3000, seed: int = 0, progress: bool = True) -> History:
        r"""Train by denoising score matching: minimise :math:`E |\sigma s(x + \sigma e) + e|^2`.

        Args:
            x: data, shape (n, dim); values of about unit size.
            steps: number of updates; the learning rate falls to a fifth after two thirds of them.
            seed: of batches and noise.
            progress: show a bar.

        Returns:
            History; its loss is summed over the columns.

        Raises:
            TrainingDiverged: the loss is NaN or infinite; the last good weights are kept.
        """
        x = as_tensor(x, "x", ("n", self.dim), like=self.network)
        batches = TensorBatches(x, batch_size=128, seed=seed)
        noise = torch.Generator(x.device).manual_seed(child_seed(as_whole(seed, "seed"), "noise"))

        def loss(batch: tuple[Tensor, ...]) -> Tensor:
            (clean,) = batch
            e = torch.randn(clean.shape, dtype=x.dtype, generator=noise, device=x.device)
            noisy = (clean + self.sigma * e).requires_grad_()
            score = self._score(noisy, create_graph=True)
            return (self.sigma * score + e).square().sum(1).mean()

        self.network.requires_grad_(True)
        try:
            options = {"learning_rate": 1e-3, "progress": progress, "description": "energy model"}
            options["schedule"] = lambda step: 1.0 if step < 2 * steps / 3 else 0.2
            return fit(loss, self.network, batches, steps, **options)
        finally:
            self.network.zero_grad(set_to_none=True)
            self.network.requires_grad_(False).eval()

    def denoise(self, x: Any) -> Tensor:
        """Mean of the data given the noisy points, x + sigma^2 score(x) (Miyasawa, 1961).

        Args:
            x: shape (n, dim).

        Returns:
            Shape (n, dim), detached.
        """
        x = self._points(x).detach()
        return x + self.sigma**2 * self._score(x)

    @torch.no_grad()
    def _gradient(self, x: Tensor, create_graph: bool) -> Tensor:
        """The score by hand, without a graph: products of matrices forward, then backward."""
        if create_graph:
            return super()._gradient(x, create_graph)
        *hidden, last = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        weights, sums, values = [layer.weight.to(x) for layer in hidden], [], x
        for layer, weight in zip(hidden, weights, strict=True):
            values = functional.silu(values) if sums else values
            values = torch.addmm(layer.bias.to(x), values, weight.T)
            sums.append(values)
        unit = x.new_ones(()) / self.sigma**2
        slope = (unit * last.weight.to(x)).expand(len(x), -1)
        for weight, values in zip(reversed(weights), reversed(sums), strict=True):
            # In place: fresh memory for each product takes a tenth of the time.
            slope = silu_backward(slope, values, grad_input=values) @ weight
        return slope - unit * x

    def _log_density(self, x: Tensor) -> Tensor:
        network = self.network
        weight = next(network.parameters())
        if (weight.dtype, weight.device) == (x.dtype, x.device):
            value = network(x)
        else:
            weights = {name: weight.to(x) for name, weight in network.named_parameters()}
            value = torch.func.functional_call(network, weights, (x,))
        return (value.squeeze(1) - x.square().sum(1) / 2) / self.sigma**2
