"""Whether a checkpoint is of the same training: its settings, and its target by values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .noise import LogUniform, value_at

if TYPE_CHECKING:
    from .loop import Loop

__all__ = ["identity", "require_same"]

# Steps, evenly spaced from the first to the last one, at which schedules are compared.
_LOOKS = 9
# Rounding of float32 on another machine is less, relative to the largest value.
_TOLERANCE = 1e-4
# Points near the origin and far from it, as multiples of standard normal ones.
_SPREADS = (0.5, 1.0, 2.0, 4.0)


def identity(loop: Loop) -> dict[str, Any]:
    """What has to be the same for a training to go on, in types that a checkpoint can hold.

    Functions are described by their values: their names or addresses would refuse the same one
    made anew, or accept another one.
    """
    target, stochastic = loop.target, bool(getattr(loop.target, "stochastic", False))
    settings = {"target": type(target).__name__, "stochastic": stochastic}
    for name, value in vars(loop.options).items():
        if isinstance(value, LogUniform):
            settings[name] = type(value).__name__
            settings[f"low of {name}"] = _values_at(value.low, loop.options.steps)
            settings[f"high of {name}"] = _values_at(value.high, loop.options.steps)
        elif name == "noised":
            # A function is part of the score below.
            settings[name] = "a function" if callable(value) else value
        elif name in ("sigma", "tempering", "alpha", "score_steps"):
            settings[name] = _values_at(value, loop.options.steps)
        else:
            settings[name] = value
    settings |= {
        "latent_dim": loop.latent_dim,
        "device": loop.device.type,
        "dtype": str(loop.dtype).removeprefix("torch."),
    }
    if not stochastic:
        settings |= _target_values(loop)
    return settings


def require_same(path: str | Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare what `identity` said when the checkpoint was written with what it says now.

    Raises:
        ValueError: they differ.
    """
    for name, value in wanted.items():
        before = found.get(name)
        if isinstance(value, Tensor):
            if not _close(before, value):
                raise ValueError(
                    f"the checkpoint {path} was written with another {wanted['target']}, whose "
                    f"{name} differs from that of this call at fixed points: use the same target "
                    "or another file"
                )
            continue
        if before == value:
            continue
        where = ""
        if isinstance(before, dict) and isinstance(value, dict) and before.keys() == value.keys():
            step = next(step for step in value if before[step] != value[step])
            where, before, value = f" at step {step}", before[step], value[step]
        raise ValueError(
            f"the checkpoint {path} was written with {name} = {before}{where}, but this call has "
            f"{value}: use the same settings or another file"
        )


def _values_at(schedule: Any, steps: int) -> float | dict[int, float]:
    """A number, or the values of a function at some steps, without the digits that may round."""
    if not callable(schedule):
        return schedule if isinstance(schedule, int) else float(schedule)
    looks = {k * (steps - 1) // (_LOOKS - 1) for k in range(_LOOKS)}
    return {step: float(f"{value_at(schedule, step):.6g}") for step in sorted(looks)}


def _target_values(loop: Loop) -> dict[str, Tensor]:
    """Score and log density at points that are always the same, and at the modes if known."""
    target, generator = loop.target, torch.Generator().manual_seed(0)
    x = torch.randn(len(_SPREADS), target.dim, generator=generator, dtype=torch.float64)
    x = x * torch.tensor(_SPREADS)[:, None]
    with suppress(NotImplementedError, AttributeError):
        x = torch.cat((x, target.modes.to(x)))
    x = x.to(loop.device, loop.dtype)
    sigma = loop.options.sigma
    level = value_at(sigma.low if isinstance(sigma, LogUniform) else sigma, 0)
    values = {"score": loop.target_score(level, 0)(x).detach().double()}
    # The score says nothing of the weights of modes that are far apart. A constant is free.
    with suppress(NotImplementedError, AttributeError), torch.no_grad():
        log_density = target.log_density(x).double()
        values["log density"] = log_density - log_density[0]
    return values


def _close(a: Any, b: Tensor) -> bool:
    """Whether finite values agree, and the others are in the same places."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    b = b.cpu()
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite):
        return False
    a, b = a[finite], b[finite]
    allowed = _TOLERANCE * max(1.0, float(b.abs().max())) if len(b) else 0.0
    return bool(((a - b).abs() <= allowed).all())
