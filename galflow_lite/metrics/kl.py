"""Kullback-Leibler divergences from log-densities at samples, and how far to trust them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs import as_tensor
from .estimate import Estimate

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
    return Divergence(
        value,
        error,
        median=float(np.median(ratios.cpu().numpy())),
        robust=not infinite and share <= 0.5,
        top_share=share,
        n=n,
        infinite=infinite,
    )


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
