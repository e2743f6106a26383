"""What every target offers: density and score; where they are known, normaliser and samples."""

from __future__ import annotations

import math
import operator
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

__all__ = ["Target", "positive_number", "whole_number"]


class Target:
    """A density known up to a constant.

    A subclass sets `dim` and writes `_log_density`. Where the target is normalised it also writes
    `log_normalizer`; where it can be drawn from, `_sample`; and `entropy` and `box` as it can. What
    a target does not write raises `NotImplementedError`.

    A score in closed form is written as `_closed_score`, differentiable in `x`; without it the
    score is the gradient of `_log_density` by automatic differentiation.

    Attributes:
        dim: number of columns of a point.
        stochastic: whether each call of `score` and `differentiable_score` returns a fresh,
            independent and unbiased estimate and not the score itself.
    """

    dim: int
    stochastic: bool = False

    def log_density(self, x: Any) -> Tensor:
        """Unnormalised log-density log f, in nats; gradients flow back to `x`.

        Args:
            x: points, shape (n, dim). A floating tensor keeps its dtype and device; anything else
                is taken as float64.

        Returns:
            Shape (n,).

        Raises:
            ValueError: other shape, NaN, or a log density of another shape.
        """
        x = self._points(x)
        return self._require_one_a_point(self._log_density(x), x)

    def log_prob(self, x: Any) -> Tensor:
        """Normalised log-density, log f - log Z; arguments and errors as in `log_density`.

        Raises:
            NotImplementedError: the normaliser is not known.
        """
        return self.log_density(x) - self.log_normalizer

    def score(self, x: Any) -> Tensor:
        """Gradient of log f, shape (n, dim), detached from `x`.

        Raises:
            ValueError: other shape, NaN or infinite points, a log density without a gradient, a
                log density or score of another shape.
        """
        x = self._finite_points(x).detach()
        # The caller may be sampling with gradients off.
        with torch.inference_mode(False):
            with torch.no_grad():
                closed = self._closed_score(x)
            if closed is not None:
                return self._require_like_points(closed, x)
            with torch.enable_grad():
                return self._gradient(x.clone().requires_grad_(), create_graph=False)

    def differentiable_score(self, x: Any) -> Tensor:
        """Gradient of log f, shape (n, dim), through which gradients flow back to `x`.

        A loss that contains the score of the target at points made by a sampler needs it: denoising
        Fisher training (arXiv:2411.01453) is one.

        Raises:
            ValueError: other shape, NaN or infinite points, a log density without a gradient, a
                log density or score of another shape.
        """
        x = self._finite_points(x)
        closed = self._closed_score(x)
        if closed is not None:
            return self._require_like_points(closed, x)
        with torch.enable_grad():
            return self._gradient(
                x if x.requires_grad else x.clone().requires_grad_(), create_graph=True
            )

    def sample(
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent exact draws, shape (n, dim), float64, on the device of the generator.

        Args:
            n: number of points.
            seed: of the draw; None continues torch's global generator.
            generator: drawn from in place of a seed.

        Raises:
            ValueError: `n` or `seed` is no whole number from 0 up, or both a seed and a generator
                are given.
            NotImplementedError: no exact sampler is known.
        """
        n = whole_number("n", n, least=0)
        if seed is not None:
            if generator is not None:
                raise ValueError("found both seed and generator, expected one of them: drop one")
            generator = torch.Generator().manual_seed(whole_number("seed", seed, least=0))
        return self._sample(n, torch.default_generator if generator is None else generator)

    @cached_property
    def log_normalizer(self) -> float:
        """log Z, the logarithm of the integral of f.

        Raises:
            NotImplementedError: it is not known.
        """
        self._unknown("log_normalizer")

    @cached_property
    def entropy(self) -> float:
        """Differential entropy of the normalised density, in nats.

        Raises:
            NotImplementedError: it is not known.
        """
        self._unknown("entropy")

    @property
    def box(self) -> float:
        """Half the width of a square about the origin that holds all but a negligible part.

        Raises:
            NotImplementedError: it is not known.
        """
        self._unknown("box")

    @cached_property
    def mean_square_score(self) -> float:
        """Mean of the squared norm of the score over the target itself, E|score|^2.

        Raises:
            NotImplementedError: it is not known.
        """
        self._unknown("mean_square_score")

    @cached_property
    def modes(self) -> Tensor:
        """Centres of the modes, shape (k, dim).

        Raises:
            NotImplementedError: the target has none, or they are not known.
        """
        self._unknown("modes")

    @cached_property
    def mode_weights(self) -> Tensor:
        """True share of each mode, shape (k,), sum 1.

        Raises:
            NotImplementedError: the target has no modes, or their shares are not known.
        """
        self._unknown("mode_weights")

    def assign(self, x: Any) -> Tensor:
        """Index of the mode that each point belongs to, shape (n,), from 0 to k - 1.

        Args:
            x: points, shape (n, dim).

        Raises:
            ValueError: other shape, NaN.
            NotImplementedError: the target has no modes, or no rule to tell them apart.
        """
        self._unknown("assign")

    def _require_one_a_point(self, log_density: Tensor, x: Tensor) -> Tensor:
        """`log_density` itself, if it has one value for each of the points.

        Raises:
            ValueError: it is not of shape (n,), which broadcasting would not tell.
        """
        if log_density.shape != x.shape[:1]:
            raise ValueError(
                f"the log density of {type(self).__name__} has shape {tuple(log_density.shape)}, "
                f"expected ({len(x)},): return one value a point"
            )
        return log_density

    def _require_like_points(self, score: Tensor, x: Tensor) -> Tensor:
        """`score` itself, if it has the shape of the points.

        Raises:
            ValueError: it is not of shape (n, dim), which broadcasting would not tell.
        """
        if score.shape != x.shape:
            raise ValueError(
                f"the score of {type(self).__name__} has shape {tuple(score.shape)} for points of "
                f"shape {tuple(x.shape)}, expected the same: return one value a coordinate"
            )
        return score

    def _log_density(self, x: Tensor) -> Tensor:
        """log f at checked points."""
        raise NotImplementedError(f"{type(self).__name__} has no _log_density: write it")

    def _closed_score(self, x: Tensor) -> Tensor | None:
        """Gradient of log f at checked points in closed form; None where there is none."""
        return None

    def _gradient(self, x: Tensor, *, create_graph: bool) -> Tensor:
        """Gradient of log f by automatic differentiation.

        Raises:
            ValueError: log f cannot be differentiated, or has another shape.
        """
        try:
            log_f = self._log_density(x)
        except RuntimeError as error:
            # What is wrong without gradients too, is raised as it is.
            with torch.no_grad():
                self._log_density(x.detach())
            raise ValueError(
                f"the log density of {type(self).__name__} cannot be differentiated "
                f"({str(error).splitlines()[0]}), expected torch operations from x to the result: "
                "rewrite it, or write _closed_score"
            ) from error
        if not log_f.requires_grad:
            raise ValueError(
                f"the log density of {type(self).__name__} has no gradient with respect to x, "
                "expected one that automatic differentiation can follow: compute it from x with "
                "torch operations, without detach, or write _closed_score"
            )
        self._require_one_a_point(log_f, x)
        (gradient,) = torch.autograd.grad(log_f.sum(), x, create_graph=create_graph)
        return gradient

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        self._unknown("sample")

    def _unknown(self, name: str) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} has no {name}: only log_density and score are known, "
            "use a measure that needs nothing else"
        )

    def _finite_points(self, x: Any, name: str = "x") -> Tensor:
        """`x` as `_points` gives it, without infinite values."""
        x = self._points(x, name)
        bad = int((~x.isfinite()).any(1).sum())
        if bad:
            raise ValueError(
                f"{name} has infinite values in {bad} of {len(x)} points, where a gradient has no "
                "meaning: remove these points"
            )
        return x

    def _points(self, x: Any, name: str = "x") -> Tensor:
        """`x` as a checked floating tensor of shape (n, dim)."""
        if not isinstance(x, Tensor):
            # A copy: torch warns when it shares the memory of an array that is read-only.
            x = torch.tensor(np.asarray(x, dtype=np.float64))
        elif not x.is_floating_point():
            x = x.double()
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected (n, {self.dim}): give one point a row"
            )
        bad = int(x.isnan().any(1).sum())
        if bad:
            raise ValueError(
                f"{name} has NaN in {bad} of {len(x)} points, expected numbers: remove these points"
            )
        return x


def whole_number(name: str, value: Any, *, least: int) -> int:
    """`value` as an int of at least `least`; NumPy integers are welcome, bools are not.

    Raises:
        ValueError: anything else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least {least}")
    return number


def positive_number(name: str, value: Any) -> float:
    """`value` as a finite float above 0.

    Raises:
        ValueError: anything else.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {value!r}, expected a finite number above 0: change it")
    return number
