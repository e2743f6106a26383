"""What every target offers, and the check that its score is the gradient of its log density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..inputs import as_tensor, as_whole

_KNOWLEDGE = ("log_normalizer", "box", "mean_square_score", "modes", "mode_weights")


class Target:
    """A density known up to a constant.

    A subclass sets `dim` and writes `_log_density`. What else it knows of the attributes below it
    sets; where it can be drawn from it writes `_sample`, where its modes can be told apart
    `assign`. What a target does not know raises `NotImplementedError`.

    A score in closed form is written as `_closed_score`, differentiable in `x`; without it the
    score is the gradient of `_log_density` by automatic differentiation.

    Public methods take points of any kind. `_log_density` and `_score` take tensors as they are,
    without a look at their values: for loops that evaluate a target thousands of times.

    Attributes:
        dim: number of columns of a point.
        stochastic: whether each score is a fresh, independent and unbiased estimate and not the
            score itself.
        log_normalizer: log Z, the logarithm of the integral of f.
        box: half the width of a square about the origin that holds all but a negligible part.
        mean_square_score: mean of the squared norm of the score over the target itself.
        modes: centres of the modes, shape (k, dim).
        mode_weights: true share of each mode, shape (k,), sum 1.
    """

    dim: int
    stochastic: bool = False

    def __getattr__(self, name: str) -> NoReturn:
        # Python asks here for what it has not found elsewhere.
        if name in _KNOWLEDGE:
            self._unknown(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def log_density(self, x: Any) -> Tensor:
        """Unnormalised log-density log f, in nats; gradients flow back to `x`.

        Args:
            x: points, shape (n, dim). A floating tensor keeps its dtype and device; anything else
                is taken as float64.

        Returns:
            Shape (n,).
        """
        x = self._points(x, infinite=True)
        return self._require_shape("log density", self._log_density(x), x.shape[:1])

    def log_prob(self, x: Any) -> Tensor:
        """Normalised log-density, log f - log Z, shape (n,).

        Raises:
            NotImplementedError: the normaliser is not known.
        """
        return self.log_density(x) - self.log_normalizer

    def score(self, x: Any) -> Tensor:
        """Gradient of log f, shape (n, dim), detached from `x`."""
        return self._score(self._points(x).detach())

    def differentiable_score(self, x: Any) -> Tensor:
        """Gradient of log f, shape (n, dim), through which gradients flow back to `x`.

        A loss that contains the score of the target at points made by a sampler needs it: denoising
        Fisher training (arXiv:2411.01453) is one.
        """
        return self._score(self._points(x), create_graph=True)

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Independent exact draws, shape (n, dim), float64.

        Args:
            n: number of points.
            seed: of the draw; None continues torch's global generator.

        Raises:
            NotImplementedError: no exact sampler is known.
        """
        generator = torch.default_generator
        if seed is not None:
            generator = torch.Generator().manual_seed(as_whole(seed, "seed"))
        return self._sample(as_whole(n, "n"), generator)

    def assign(self, x: Any) -> Tensor:
        """Index of the mode that each point belongs to, shape (n,), from 0 to k - 1.

        Raises:
            NotImplementedError: the target has no modes, or no rule to tell them apart.
        """
        self._unknown("assign")

    def _closed_score(self, x: Tensor) -> Tensor | None:
        """Gradient of log f at checked points in closed form; None where there is none."""
        return None

    def _score(self, x: Tensor, *, create_graph: bool = False) -> Tensor:
        """Gradient of log f at checked points; with `create_graph`, differentiable in `x`."""
        # The caller may be sampling with gradients off.
        with torch.inference_mode(False):
            with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
                closed = self._closed_score(x)
            if closed is None:
                closed = self._gradient(x, create_graph)
        return self._require_shape("score", closed, x.shape)

    def _loop_score(self, x: Tensor) -> Tensor:
        """The score to rounding, by a faster formula where there is one, for Langevin chains."""
        return self._score(x)

    @torch.enable_grad()
    def _gradient(self, x: Tensor, create_graph: bool) -> Tensor:
        if not (create_graph and x.requires_grad):
            x = x.detach().clone().requires_grad_()
        log_f = self._require_shape("log density", self._log_density(x), x.shape[:1])
        return torch.autograd.grad(log_f.sum(), x, create_graph=create_graph)[0]

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        self._unknown("sample")

    def _unknown(self, name: str) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} has no {name}: only log_density and score are known, "
            "use a measure that needs nothing else"
        )

    def _at(self, name: str, x: Tensor) -> Tensor:
        """An attribute in the type and on the device of x, copied there once."""
        value, copies = getattr(self, name), vars(self).setdefault("_copies", {})
        if torch._C._are_functorch_transforms_active():
            return value.to(x)  # of no use after the transform
        key = name, x.dtype, x.device
        if key not in copies or copies[key][0] is not value:
            with torch.inference_mode(False):
                copies[key] = value, value.to(x)
        return copies[key][1]

    def _require_shape(self, what: str, value: Tensor, shape: torch.Size) -> Tensor:
        """`value` itself: a log density or score of another shape would be broadcast."""
        if value.shape != shape:
            raise ValueError(
                f"the {what} of {type(self).__name__} has shape {tuple(value.shape)}, expected "
                f"{tuple(shape)}: return one value a {'point' if len(shape) == 1 else 'coordinate'}"
            )
        return value

    def _points(self, x: Any, name: str = "x", *, infinite: bool = False) -> Tensor:
        return as_tensor(x, name, ("n", self.dim), infinite=infinite)


class FromLogDensity(Target):
    """A target given by a function; `check_score` tells whether it is fit for use.

    Args:
        log_density: takes points, shape (n, dim), returns log f, shape (n,); written in torch.
        dim: number of columns of a point.
        score: the gradient of log f in closed form, shape (n, dim), differentiable; None takes it
            by automatic differentiation.
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        dim: int,
        *,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.dim = as_whole(dim, "dim", least=1)
        self._log_density = log_density
        self._function = score

    def _closed_score(self, x: Tensor) -> Tensor | None:
        return None if self._function is None else self._function(x)


def as_target(value: Any) -> Target:
    """``value`` itself, if it is a `Target`.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, Target):
        raise ValueError(
            f"target is {value!r}, expected a galflow_lite.targets.Target: wrap its log density, "
            "targets.FromLogDensity(log_density, dim)"
        )
    return value


def constant(value: Any, name: str, shape: Sequence[int | str] | None = None) -> Tensor:
    """A float64 copy of `value` on the CPU, for a target to keep."""
    return as_tensor(value, name, shape, dtype=torch.float64).detach().cpu().clone()


def check_score(target: Target, x: Any) -> None:
    """Compare score and log density of a target at points, in float64.

    The score is compared with the gradient of log f, and that gradient and what flows back through
    `differentiable_score`, which training needs, with finite differences
    (`torch.autograd.gradcheck`).

    Args:
        target: not a stochastic one.
        x: points where the target should be smooth, shape (n, dim).

    Raises:
        ValueError: the score is stochastic, has another shape, is NaN or infinite; the log density
            has another shape, is not finite at the points, is not differentiable or does not match
            the score; gradients through `differentiable_score` do not match it either.
    """
    name = type(as_target(target)).__name__
    if target.stochastic:
        raise ValueError(
            f"the score of {name} is a fresh estimate on each call, expected one that repeats: "
            "check the same target with all its data"
        )
    x = as_tensor(target._points(x).detach(), "x", dtype=torch.float64).requires_grad_()

    try:
        gradient = target._gradient(x, create_graph=False)
        torch.testing.assert_close(target.score(x), gradient, rtol=1e-4, atol=1e-6)
        torch.autograd.gradcheck(target._log_density, x)
        torch.autograd.gradcheck(target.differentiable_score, x)
    except (AssertionError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise ValueError(
            f"score and log density of {name} do not match ({found}): mend the formula (0/0, a "
            "jump, an overflow, a detached tensor), or check it where it is smooth"
        ) from error
