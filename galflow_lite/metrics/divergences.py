"""Estimates with standard errors: KL divergences, the classifier test, shares of modes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..inputs import as_tensor, as_whole, column_names


@dataclass(frozen=True)
class Estimate:
    """A value measured on samples.

    Attributes:
        value: the estimate.
        standard_error: standard deviation of the value over repeated samples.
        null: expected value when both samples share one distribution; `None` when not defined.
    """

    value: float
    standard_error: float
    null: float | None = None

    @property
    def z(self) -> float:
        """(value - null) / standard_error; the null counts as 0 when it is not defined."""
        return (self.value - (self.null or 0.0)) / self.standard_error

    def __str__(self) -> str:
        chance = "" if self.null is None else f" (by chance {self.null:.4g})"
        return f"{self.value:.4g} ± {self.standard_error:.2g}{chance}"


def sample_pair(x: Any, y: Any, *, least: int) -> tuple[Tensor, Tensor]:
    """Two samples as float64 tensors of shapes (n, d) and (m, d) on the device of the first.

    Columns of tables are matched by name.

    Raises:
        ValueError: other shapes, unequal d, fewer than `least` rows, NaN or infinite values.
    """
    names = column_names(x)
    x = sample_rows(x, "x", least=least)
    return x, sample_rows(y, "y", least=least, width=x.shape[1], like=x, columns=names)


def sample_rows(
    sample: Any, name: str, *, least: int = 1, width: int | None = None, **reading: Any
) -> Tensor:
    """A sample as float64 tensor of shape (n, d); a flat one becomes a column.

    Raises:
        ValueError: other shapes, fewer than `least` rows, NaN or infinite values.
    """
    rows = as_tensor(sample, name, dtype=torch.float64, **reading).detach()
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) < least or rows.shape[1] != (width or max(1, rows.shape[1])):
        raise ValueError(
            f"{name} has shape {tuple(rows.shape)}, expected (rows, {width or 'columns'}) with at "
            f"least {least} rows: reshape it, or use a larger sample"
        )
    return rows


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, shape (d,), and covariance, shape (d, d), of rows."""
    mean = values.mean(0)
    values = values - mean
    return mean, values.T @ values / (len(values) - 1)


def subsample(sample: Tensor, most: int | None, generator: torch.Generator) -> Tensor:
    """At most so many rows, drawn without replacement."""
    if most is None or len(sample) <= as_whole(most, "max_samples", least=2):
        return sample
    return sample[torch.randperm(len(sample), generator=generator)[:most].to(sample.device)]


_FOLDS, _MOST_ROWS = 5, 5000


def c2st(x: Any, y: Any, *, seed: int = 0) -> Estimate:
    """How well a classifier tells two samples apart (Lopez-Paz & Oquab, arXiv:1610.06545).

    The accuracy of gradient-boosted trees: 0.5 means that they cannot, 1 that they always can. Each
    row is judged by trees that were trained on the other four fifths. The larger sample is thinned,
    so that both classes are of one size, of at most 5,000 rows.

    The standard error joins the variance within a fold with the correlation between folds as
    Nadeau & Bengio (2003, Machine Learning 52:239) estimate it: 1 / folds + 1 / (folds - 1) times
    the former. Over simulated repetitions this covers the spread, which exceeds the binomial one
    by a factor of 1.0 to 1.4.

    Args:
        x: first sample, shape (n, d).
        y: second sample, shape (m, d).
        seed: of the thinning, the folds and the trees.

    Raises:
        ValueError: shapes differ, fewer than 50 rows, NaN.
    """
    x, y = sample_pair(x, y, least=10 * _FOLDS)
    seed = as_whole(seed, "seed")
    size = min(len(x), len(y), _MOST_ROWS)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([subsample(sample, size, generator) for sample in (x, y)]).cpu().numpy()
    labels = np.repeat([0, 1], len(rows) // 2)
    splits = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(rows, labels)
    # No early stopping: it would hold back rows, and only above 10,000 of them.
    # Smaller trees than the default: they memorise less noise, are faster and detect more.
    trees = HistGradientBoostingClassifier(
        max_leaf_nodes=16, min_samples_leaf=40, early_stopping=False, random_state=seed
    )
    values, variances = [], []
    # One thread: many threads on few cores are slower than one for data of this size.
    with threadpool_limits(1, user_api="openmp"):
        for train, test in splits:
            chance = trees.fit(rows[train], labels[train]).predict_proba(rows[test])[:, 1]
            # Ties of the probability count half.
            right = np.sign((chance - 0.5) * (2 * labels[test] - 1)) / 2 + 0.5
            # One half more right and one more wrong: a perfect score of a small sample is not
            # certain.
            share = (right.sum() + 0.5) / (len(right) + 1)
            values.append(right.mean())
            variances.append(share * (1 - share) / len(right))
    # The folds share most of their training rows, so that their scores are correlated.
    variance = float(np.mean(variances)) * (1 / _FOLDS + 1 / (_FOLDS - 1))
    return Estimate(float(np.mean(values)), math.sqrt(variance), 0.5)


@dataclass(frozen=True)
class ModeWeights:
    """Shares of the modes in a sample, beside the true weights.

    Attributes:
        shares: part of the sample that belongs to each mode, shape (k,), float64.
        standard_errors: binomial error of each share, shape (k,). With w the true weight it is
            sqrt(w (1 - w) / n) where the share is 0 or 1, so that it never vanishes.
        expected: shares that exact samples have on average, shape (k,).
        n: number of samples.
    """

    shares: Tensor
    standard_errors: Tensor
    expected: Tensor
    n: int

    @property
    def largest_deviation(self) -> float:
        """Largest |share - expected| over the modes."""
        return float((self.shares - self.expected).abs().max())

    def __str__(self) -> str:
        parts = "/".join(f"{100 * share:.0f}" for share in self.shares.tolist())
        return f"{parts} % (off by up to {100 * self.largest_deviation:.1f} points)"


def mode_weights(x: Any, target: Any) -> ModeWeights:
    """Share of each mode of a target in a sample.

    A point belongs to the mode that ``target.assign`` gives it. Where modes overlap, exact samples
    spread over them by the same rule, which for modes of unequal shape need not give the true
    weights to the last digit; separated modes do.

    Args:
        x: the sample, shape (n, d).
        target: a target with `assign(x)`, the index of the mode of each point, and
            `mode_weights`, the true weights, shape (k,).

    Raises:
        ValueError: an empty sample, NaN or infinite values.
        NotImplementedError: the target has no modes.
    """
    x = sample_rows(x, "x")
    expected = torch.as_tensor(target.mode_weights).double().cpu()
    index = torch.as_tensor(target.assign(x)).long().cpu()
    shares = torch.bincount(index, minlength=len(expected)).double() / len(x)
    spread = shares * (1 - shares)
    spread = torch.where(spread > 0, spread, expected * (1 - expected))
    return ModeWeights(shares, spread.sqrt() / math.sqrt(len(x)), expected, len(x))


HANDFUL = 5
"""Number of points whose share of the variance `Divergence.top_share` gives."""


@dataclass(frozen=True, kw_only=True)
class Divergence(Estimate):
    """Mean of log-ratios over a sample, in nats.

    The standard error describes the scatter only where the log-ratios have a variance that the
    sample shows: see `robust`. No statistic of the sample reveals a mode that it misses.

    Attributes:
        value: mean of the log-ratios; +inf when one of them is.
        standard_error: their standard deviation / sqrt(n); NaN when the value is infinite.
        null: `None`: densities that agree give 0 without any scatter.
        median: median of the log-ratios, which a few far points do not move.
        robust: whether the log-ratios are finite and the five that lie farthest from the mean
            carry at most half of the sum of squared deviations. If not, a handful of points
            decides the value and its standard error.
        top_share: that share, from 0 to 1.
        n: number of points.
        infinite: number of log-ratios that are +inf.
    """

    median: float
    robust: bool
    top_share: float
    n: int
    infinite: int = 0

    @property
    def z(self) -> float:
        """value / standard_error; 0 where densities agree at every point and both are 0."""
        return 0.0 if self.value == self.standard_error == 0 else super().z

    def __str__(self) -> str:
        if self.robust:
            return super().__str__()
        if self.infinite:
            why = f"infinite at {self.infinite} of {self.n} points"
        else:
            most = min(HANDFUL, self.n)
            why = f"{most} of {self.n} points carry {self.top_share:.0%} of the variance"
        return f"{super().__str__()} (not robust: {why}; median {self.median:.4g})"


def forward_kl(log_p: Any, log_q: Any) -> Divergence:
    """KL(p || q), the mean of log p - log q over samples of p.

    Args:
        log_p: normalised log-density of p at samples of p, shape (n,), finite.
        log_q: normalised log-density of q at the same points, shape (n,). A value of -inf, a point
            where q says that there is nothing, makes the divergence infinite.

    Raises:
        ValueError: other shapes, fewer than 2 points, unequal lengths, NaN or +inf anywhere, -inf
            in `log_p`.
    """
    log_p, log_q = _log_pair("log_p", log_p, "log_q", log_q)
    return _divergence(log_p - log_q)


def reverse_kl(log_q: Any, log_p: Any) -> Divergence:
    """KL(q || p), the mean of log q - log p over samples of q.

    Args:
        log_q: normalised log-density of q at samples of q, shape (n,), finite.
        log_p: normalised log-density of p at the same points, shape (n,). A value of -inf makes
            the divergence infinite.

    Raises:
        ValueError: other shapes, fewer than 2 points, unequal lengths, NaN or +inf anywhere, -inf
            in `log_q`.
    """
    log_q, log_p = _log_pair("log_q", log_q, "log_p", log_p)
    return _divergence(log_q - log_p)


def self_normalised_kl(log_q: Any, log_f: Any) -> Divergence:
    r"""The "KL(q || p)" of the public code behind arXiv:2305.02930, which is not a KL divergence.

    The estimator subtracts from log q and from the unnormalised log f their logsumexp over the
    samples of q, and averages the difference. That does not normalise f: by the law of large
    numbers, with f = Z p,

    .. math::
        \tfrac1n \sum_i q(x_i) \to \int q^2, \qquad
        \tfrac1n \sum_i f(x_i) \to Z \int q\,p \qquad (x_i \sim q),

    so that Z cancels and the estimate tends to
    :math:`\mathrm{KL}(q \| p) - \log\big(\int q^2 / \int q\,p\big)`. This can be negative: for p a
    standard normal density and q a normal one of variance v it is
    :math:`(v - 1)/2 - \tfrac12 \log\tfrac{1 + v}{2}`, below 0 for v just below 1. Use `reverse_kl`
    with a known normaliser; this function is here for comparison with published numbers.

    The standard error is theirs too, the standard deviation of the differences / sqrt(n): it
    leaves out the scatter of both sums.

    Args:
        log_q: log-density of q at samples of q, shape (n,), finite.
        log_f: log-density of the target at the same points up to a constant, shape (n,).

    Raises:
        ValueError: as in `reverse_kl`, and when `log_f` is -inf at every point.
    """
    log_q, log_f = _log_pair("log_q", log_q, "log_f", log_f)
    _require_mass("log_f", log_f)
    return _divergence((log_q - torch.logsumexp(log_q, 0)) - (log_f - torch.logsumexp(log_f, 0)))


def effective_sample_size(log_weights: Any) -> float:
    r"""Effective sample size of importance weights as a fraction of their number, in (0, 1].

    :math:`(\sum_i w_i)^2 / (n \sum_i w_i^2)` (Kish): 1 for equal weights and 1/n when one point
    carries all. It is a fraction, not a count: multiply by n for that. A constant in the
    log-weights drops out, so p may be unnormalised in w = p/q.

    Args:
        log_weights: log w, shape (n,); -inf is a weight of 0.

    Raises:
        ValueError: other shape, fewer than 2 weights, NaN or +inf, no weight above 0.
    """
    log_w = _log_values("log_weights", log_weights)
    _require_mass("log_weights", log_w)
    w = (log_w - log_w.max()).exp()
    return min(1.0, float(w.mean().square() / w.square().mean()))


def _require_mass(name: str, logs: Tensor) -> None:
    if logs.max() == -math.inf:
        raise ValueError(
            f"{name} is -inf at all {len(logs)} points, expected some mass: check that both "
            "densities overlap"
        )


def _divergence(ratios: Tensor) -> Divergence:
    n = len(ratios)
    infinite = int(ratios.isinf().sum())
    value = float(ratios.mean())
    if infinite:
        error, share = math.nan, 1.0
    else:
        deviation = (ratios - value).abs()
        # In units of the largest: the square of a huge log-ratio would overflow.
        unit = float(deviation.max()) or 1.0
        square = (deviation / unit).square()
        total = float(square.sum())
        error = unit * math.sqrt(total / (n * (n - 1)))
        share = float(square.topk(min(HANDFUL, n)).values.sum()) / total if total else 0.0
    more = {"robust": not infinite and share <= 0.5, "top_share": share, "infinite": infinite}
    return Divergence(value, error, median=float(np.median(ratios.cpu().numpy())), n=n, **more)


def _log_pair(own_name: str, own: Any, other_name: str, other: Any) -> tuple[Tensor, Tensor]:
    """Log-densities at the same points, the first one of the density that they were drawn from."""
    own = _log_values(own_name, own)
    if own.isinf().any():
        raise ValueError(
            f"{own_name} is -inf at {int(own.isinf().sum())} of {len(own)} points, which cannot be "
            "samples of that density: evaluate both at its own samples"
        )
    return own, _log_values(other_name, other, (len(own),), like=own)


def _log_values(name: str, values: Any, shape: tuple = ("points",), **reading: Any) -> Tensor:
    """Logarithms as a float64 tensor of shape (n,); -inf is one of them."""
    logs = as_tensor(values, name, shape, dtype=torch.float64, infinite=True, **reading).detach()
    if len(logs) < 2 or (logs == math.inf).any():
        raise ValueError(
            f"{name} has {len(logs)} values, {int((logs == math.inf).sum())} of them +inf, "
            "expected at least 2, finite or -inf: give one value for each point"
        )
    return logs
