"""From fluxes to values that a network can learn, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Stretch"]

_KINDS = ("linear", "square root", "arcsinh")


@dataclass(frozen=True)
class Stretch:
    """A monotone map of flux to value: zero flux becomes -1, the flux ``scale`` becomes 1.

    Most pixels of a galaxy are faint; the square root and the arcsinh spread them out. With
    u = flux / scale the value is 2 f(u) - 1, where f(u) is u, sqrt(u), or arcsinh(s u) / arcsinh(s)
    with the softening s.

    Attributes:
        kind: "linear", "square root" or "arcsinh".
        scale: Flux that becomes 1.
        low: Smallest flux, smaller ones are set to it; below zero for "linear" and "arcsinh" only.
        high: Largest flux, larger ones are set to it; None takes ``scale``.
        softening: s of the arcsinh: the larger it is, the brighter the faint pixels.

    Raises:
        ValueError: If these do not make a stretch.

    Example:
        >>> import torch
        >>> Stretch("square root", scale=0.6)(torch.tensor([0.0, 0.15, 0.6, 0.9]))
        tensor([-1.,  0.,  1.,  1.])
    """

    kind: str
    scale: float = 1.0
    low: float = 0.0
    high: float | None = None
    softening: float = 6.0

    def __post_init__(self) -> None:
        if self.high is None:
            object.__setattr__(self, "high", self.scale)
        if self.kind not in _KINDS:
            raise ValueError(
                f"there is no stretch {self.kind!r}, expected one of {', '.join(_KINDS)}: choose "
                "among these."
            )
        if not (self.scale > 0 and self.softening > 0 and self.low < self.high):
            raise ValueError(
                f"found scale {self.scale}, softening {self.softening} and fluxes from {self.low} "
                f"to {self.high}, expected positive numbers and a low flux below the high one: "
                "correct them."
            )
        if self.kind == "square root" and self.low < 0:
            raise ValueError(
                f"the square root is to start at the flux {self.low}, expected 0 or more: take "
                "arcsinh for negative fluxes."
            )

    def __call__(self, flux: Tensor) -> Tensor:
        """Values of fluxes, any shape; fluxes outside ``low`` to ``high`` are set to these."""
        u = flux.clamp(self.low, self.high) / self.scale
        if self.kind == "square root":
            u = u.sqrt()
        elif self.kind == "arcsinh":
            u = (self.softening * u).asinh() / math.asinh(self.softening)
        return 2 * u - 1

    def inverse(self, values: Tensor) -> Tensor:
        """Fluxes of values, any shape: the exact inverse between the low and the high flux.

        Values beyond those continue smoothly and are not cut off: what a model makes of a pixel
        stays visible. Below -1 the square root continues as an odd function.
        """
        u = (values + 1) / 2
        if self.kind == "square root":
            u = u * u.abs()
        elif self.kind == "arcsinh":
            u = (u * math.asinh(self.softening)).sinh() / self.softening
        return u * self.scale

    def __str__(self) -> str:
        s = f", softening {self.softening:g}" if self.kind == "arcsinh" else ""
        return f"{self.kind} of fluxes {self.low:.3g} to {self.high:.3g} (1 at {self.scale:g}{s})"
