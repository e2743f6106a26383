"""x0 = m + σζ, ζ ~ N(0, I): the law of the base given the condition, on the pixels that move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GaussianBase", "standard_normal"]


@dataclass(frozen=True)
class GaussianBase:
    """Law of x0 given the condition, eqs. 18-19 of arXiv:2310.03725.

    Attributes:
        mean: m, shape (batch, *dim).
        scale: σ, in the units of the data.
        hole: where the noise acts, boolean and of the shape of `mean`; elsewhere x0 = m is fixed
            and has no density. None: everywhere.
        independent: whether the noise is independent of x1 given the condition. The score follows
            from the velocity only then (not for optimal transport, which orders the noise by x1).
    """

    mean: Tensor
    scale: float = 1.0
    hole: Tensor | None = None
    independent: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(
                f"found a noise scale of {self.scale}, expected a number from 0 up: correct sigma"
            )
        if self.hole is not None and self.hole.shape != self.mean.shape:
            raise ValueError(
                f"found a hole of shape {tuple(self.hole.shape)}, expected that of the mean, "
                f"{tuple(self.mean.shape)}: expand it"
            )

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw x0 = m + σζ, shape (batch, *dim); outside the hole x0 equals m bit by bit."""
        m = self.mean
        noise = torch.randn(m.shape, dtype=m.dtype, device=m.device, generator=generator)
        return self.restrict(m + self.scale * noise, outside=m)

    def log_prob(self, x0: Tensor) -> Tensor:
        """log ρ0(x0 | condition) over the moving pixels, in nats, shape (batch,).

        Raises:
            ValueError: σ = 0, or another shape.
        """
        self.require_noise("a likelihood")
        if x0.shape != self.mean.shape:
            raise ValueError(
                f"found x0 of shape {tuple(x0.shape)}, expected {tuple(self.mean.shape)}: "
                "reshape it"
            )
        constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        each = -0.5 * ((x0 - self.mean) / self.scale).square() - constant
        return self.restrict(each).flatten(1).sum(1)

    def restrict(self, x: Tensor, *, outside: Tensor | float = 0.0) -> Tensor:
        """`x` in the hole, `outside` elsewhere."""
        if self.hole is None:
            return x
        return torch.where(self.hole, x, torch.as_tensor(outside, dtype=x.dtype, device=x.device))

    def require_noise(self, purpose: str) -> None:
        """Refuse σ = 0, where x0 lies on a surface of lower dimension.

        Raises:
            ValueError: σ = 0.
        """
        if self.scale == 0:
            raise ValueError(
                f"found sigma = 0, for which there is no density, and {purpose} was asked for: "
                "use a coupling with sigma above 0"
            )


def standard_normal(x: Tensor, *, independent: bool = True) -> GaussianBase:
    """N(0, I) of the shape, dtype and device of `x`."""
    return GaussianBase(torch.zeros_like(x), 1.0, None, independent)
