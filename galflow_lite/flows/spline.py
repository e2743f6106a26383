"""Rational-quadratic splines, the readable version.

The splines of Durkan et al. 2019 (arXiv:1906.04032) for every device, type and derivative; on a
CPU, :mod:`.fused_coupling` does the same in compiled loops. The parameters lie as
(features, 3 * bins - 1, batch): the batch is the last axis, so that every operation runs along
contiguous memory. Three further savings over the textbook order:

* the knots stay unnormalised: one small matrix product turns exponentials into cumulative sums
  with the minimum bin size already in them, and only the two knots beside each input are divided
  by the total;
* the bin is found by counting how many knots lie below the input, without a search;
* derivatives pass through softplus after the gather, two for each input and not all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_BIN_SIZE = 1e-3  # of a bin's width and height, as a fraction of the interval
MIN_DERIVATIVE = 1e-3  # at a knot
LEAK = 0.2  # slope of LeakyReLU below zero, in the conditioner that sets them


def rational_quadratic_spline(
    inputs: Tensor, parameters: Tensor, *, bins: int, tail_bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Rational-quadratic spline on [-tail_bound, tail_bound] with the identity outside.

    Equations 4 to 8 of arXiv:1906.04032. The derivative is 1 at both ends, so the spline joins
    its linear tails smoothly.

    Args:
        inputs: Values to transform, shape (features, batch).
        parameters: Unconstrained parameters, shape (features, 3 * bins - 1, batch): ``bins``
            widths, ``bins`` heights, then ``bins - 1`` derivatives at the inner knots.
        bins: Number of bins.
        tail_bound: Half-width of the interval on which the spline acts.
        inverse: Whether to apply the inverse map.

    Returns:
        The outputs and the logarithm of the absolute derivative, both of shape (features, batch).
        With ``inverse`` the derivative is that of the inverse map.
    """
    sizes, slopes = parameters.split([2 * bins, bins - 1], dim=1)
    sizes = sizes.unflatten(1, (2, bins))
    # Softmax without its division: the shift only guards against overflow, hence no gradient.
    sizes = (sizes - sizes.detach().amax(dim=2, keepdim=True)).exp()
    # knots[:, 0] belong to the inputs' axis, knots[:, 1] to the outputs'; (features, 2, bins+1, B).
    knots = torch.matmul(_cumulative(bins, sizes), sizes)
    total = sizes.sum(dim=2)  # equals the last knot, with a cheaper gradient

    axis = 1 if inverse else 0
    unit = (inputs / (2 * tail_bound) + 0.5).clamp(0.0, 1.0)
    scaled = unit * total[:, axis]
    with torch.no_grad():
        bin_index = (knots[:, axis, 1:-1] <= scaled.unsqueeze(1)).sum(dim=1)

    edges = torch.stack((bin_index, bin_index + 1), dim=1)
    left, right = knots.gather(2, edges.unsqueeze(1).expand(-1, 2, -1, -1)).unbind(dim=2)
    size = right - left
    slope = (size[:, 1] * total[:, 0]) / (size[:, 0] * total[:, 1])

    inner = slopes.gather(1, (edges - 1).clamp(0, bins - 2))
    # softplus(offset) + MIN_DERIVATIVE = 1: the value that joins the tails.
    inner = F.softplus(inner) + MIN_DERIVATIVE
    outer = (edges == 0) | (edges == bins)
    start, end = torch.where(outer, 1.0, inner).unbind(dim=1)

    position = (scaled - left[:, axis]) / size[:, axis]  # in [0, 1] within the bin
    curvature = start + end - 2 * slope
    if inverse:
        # Root of the quadratic for the position within the bin (equation 6 to 8), in the form
        # that does not cancel for b > 0. Rounding can push the discriminant below zero: clamp it.
        tilt = position * curvature
        b = start - tilt
        discriminant = (b * b + 4 * (slope - start + tilt) * slope * position).clamp_min(0.0)
        xi = 2 * slope * position / (b + discriminant.sqrt())
        blend = xi * (1 - xi)
        denominator = slope + curvature * blend
        mapped = (left[:, 0] + xi * size[:, 0]) / total[:, 0]
    else:
        xi = position
        blend = xi * (1 - xi)
        denominator = slope + curvature * blend
        rise = (slope * xi * xi + start * blend) / denominator
        mapped = (left[:, 1] + rise * size[:, 1]) / total[:, 1]

    derivative = slope * slope * (end * xi * xi + 2 * slope * blend + start * (1 - xi) ** 2)
    log_derivative = derivative.log() - 2 * denominator.log()
    if inverse:
        log_derivative = -log_derivative

    inside = inputs.abs() <= tail_bound
    outputs = torch.where(inside, (2 * mapped - 1) * tail_bound, inputs)
    return outputs, torch.where(inside, log_derivative, 0.0)


def _cumulative(bins: int, like: Tensor) -> Tensor:
    """Matrix (bins + 1, bins) from unnormalised bin sizes to their unnormalised knots.

    Row k is (1 - bins * min) on the first k columns plus k * min on all of them: the cumulative
    sum of softmax sizes with the minimum built in, times the sum of the exponentials.
    """
    below = torch.ones(bins + 1, bins, dtype=like.dtype, device=like.device).tril(-1)
    steps = torch.arange(bins + 1, dtype=like.dtype, device=like.device).unsqueeze(1)
    return (1 - bins * MIN_BIN_SIZE) * below + MIN_BIN_SIZE * steps
