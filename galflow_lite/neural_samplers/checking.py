"""A first look at target and networks, before anything is trained."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from .loop import Loop
from .noise import noise_level

__all__ = ["look"]


def look(loop: Loop) -> float:
    """Check on a first batch that everything fits.

    Returns:
        The bound that samples of a sane training keep: 1000 times the size of the first samples,
        of the target's box, or of 10.

    Raises:
        ValueError: wrong shapes, a score that is NaN, infinite or not differentiable.
    """
    # Draws of its own: looking changes no result.
    generator = torch.Generator(loop.device).manual_seed(0)
    z = loop.normal((loop.rows, loop.latent_dim), generator)
    name, dim = type(loop.target).__name__, loop.target.dim
    x = _evaluate(loop.network, "the sampler network", z)
    if x.shape != (loop.rows, dim):
        raise ValueError(
            f"the sampler network maps latent points to shape {tuple(x.shape)}, expected "
            f"({loop.rows}, {dim}) for the target {name}: match the dimensions"
        )
    sigma = noise_level(loop.options.sigma, loop.rows, 0, generator)
    inputs = (x, sigma) if isinstance(sigma, Tensor) else (x,)
    p = _evaluate(loop.score_network, "the score network", *inputs)
    if p.shape != x.shape:
        raise ValueError(
            f"the score network maps points of shape {tuple(x.shape)} to {tuple(p.shape)}, "
            "expected the same shape: match the dimensions"
        )
    _look_at_score(loop, x, sigma, name)
    scale = max(10.0, float(x.abs().max()))
    with suppress(NotImplementedError):
        scale = max(scale, float(loop.target.box))
    return 1e3 * scale


def _look_at_score(loop: Loop, x: Tensor, sigma: float | Tensor, name: str) -> None:
    x = x.clone().requires_grad_()
    try:
        score = loop.target_score(sigma, 0)(x)
    except NotImplementedError:
        # No noised law: a RuntimeError by its class, and clear as it is.
        raise
    except RuntimeError as error:
        raise ValueError(
            f"the log density of {name} is not differentiable ({str(error).splitlines()[0]}), "
            "expected torch operations from the points to its value: rewrite it"
        ) from error
    if score.shape != x.shape:
        raise ValueError(
            f"the score of {name} has shape {tuple(score.shape)} for points of shape "
            f"{tuple(x.shape)}, expected the same: return one value a coordinate"
        )
    bad = int((~score.isfinite()).any(1).sum())
    if bad:
        raise ValueError(
            f"the score of {name} is NaN or infinite at {bad} of {len(x)} points of the sampler "
            "as it begins, expected finite values: look at it with targets.check_score"
        )
    if loop.options.method != "kl" and not score.requires_grad:
        raise ValueError(
            f"the score of {name} does not depend on the points differentiably, which method "
            f"{loop.options.method!r} needs: write it smoothly, or use method='kl'"
        )


def _evaluate(network: nn.Module, name: str, *inputs: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return network(*inputs)
    except (RuntimeError, TypeError) as error:
        shapes = " and ".join(str(tuple(value.shape)) for value in inputs)
        raise ValueError(
            f"{name} fails on inputs of shape {shapes} ({str(error).splitlines()[0]}), expected it "
            "to take them: match its input to the latent, the target and the noise"
        ) from error
