"""Several X_1 for one input: one draw of the base for each, and where the results disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .couplings import as_coupling
from .diffusion import sample_sde
from .losses import Field
from .masks import Condition
from .sampling import Samples, sample_ode

__all__ = ["SampleSet", "repeat_condition", "sample_several"]


@dataclass(frozen=True)
class SampleSet:
    """Several samples for each input.

    Attributes:
        samples: shape (count, batch, *dim).
        evaluations: calls of the velocity, each on count x batch samples.
    """

    samples: Tensor
    evaluations: int

    @property
    def mean(self) -> Tensor:
        """Pixelwise mean over the samples, shape (batch, *dim)."""
        return self.samples.mean(0)

    @property
    def standard_deviation(self) -> Tensor:
        """Pixelwise standard deviation over the samples, shape (batch, *dim); exactly 0 where all
        samples agree."""
        # Subtracting one of the samples first leaves no rounding error where all are the same.
        return (self.samples - self.samples[:1]).std(0)


def sample_several(
    velocity: Field,
    x1: Tensor,
    condition: Condition = None,
    *,
    coupling: Any,
    count: int = 8,
    sampler: Callable[..., Samples] = sample_ode,
    generator: torch.Generator | None = None,
    **options: Any,
) -> SampleSet:
    """Several samples for each input: one draw of the base for each of them.

    Args:
        velocity: callable (x, t, condition) -> tensor of the shape of x.
        x1: inputs, shape (batch, *dim): images of which the coupling reads what is known.
        condition: of the inputs. What the coupling adds, such as a mask, is drawn once for each
            input and shared by its samples.
        coupling: a `Coupling` or a function (x1, condition) -> x0.
        count: samples for each input.
        sampler: `sample_ode`, `sample_sde`, or a function of the same first three arguments.
        generator: source of the bases, and of the noise of `sample_sde`.
        options: passed on to the sampler. `sample_sde` takes its score from the coupling's law of
            x0, unless `base` or `denoiser` is given.

    Raises:
        ValueError: `count` below 1; and as the coupling and the sampler.
    """
    if count < 1:
        raise ValueError(f"found count={count}, expected at least 1: raise it")
    coupling = as_coupling(coupling)
    full = repeat_condition(coupling.condition(x1, condition, generator=generator), count)
    inputs = x1.repeat(count, *[1] * (x1.ndim - 1))
    x0 = coupling(inputs, full, generator=generator)
    if sampler is sample_sde:
        options.setdefault("generator", generator)
        if not {"base", "denoiser"} & set(options):
            options["base"] = coupling.base(inputs, full)
    found = sampler(velocity, x0, full, **options)
    return SampleSet(found.samples.unflatten(0, (count, len(x1))), found.evaluations)


def repeat_condition(condition: Condition, count: int) -> Condition:
    """The condition of a batch that is repeated `count` times as a whole."""
    if condition is None:
        return None
    if isinstance(condition, Mapping):
        return {name: repeat_condition(part, count) for name, part in condition.items()}
    if not isinstance(condition, Tensor) or condition.ndim == 0:
        return condition
    return condition.repeat(count, *[1] * (condition.ndim - 1))
