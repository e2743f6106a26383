"""Coupling layers, affine and rational-quadratic: the splines and the networks that set them.

The rational-quadratic splines (Durkan et al. 2019, arXiv:1906.04032) are laid out for speed. Their
parameters lie as (features, 3 * bins - 1, batch): the batch is the last axis, so that every
operation runs along contiguous memory. Three further savings over the textbook order:

* the knots stay unnormalised: one small matrix product turns exponentials into cumulative sums
  with the minimum bin size already in them, and only the two knots beside each input are divided
  by the total;
* the bin is found by counting how many knots lie below the input, without a search;
* derivatives pass through softplus after the gather, two for each input and not all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from nflows.transforms.base import Transform
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import MLP

_MIN_BIN_SIZE = 1e-3  # of a bin's width and height, as a fraction of the interval
_MIN_DERIVATIVE = 1e-3  # at a knot


def rational_quadratic_spline(
    inputs: Tensor,
    parameters: Tensor,
    *,
    bins: int,
    tail_bound: float,
    inverse: bool = False,
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
    return _implementation(inputs, parameters, bins, tail_bound, inverse)


def compile_splines(on: bool = True) -> None:
    """Let torch.compile fuse the spline's operations, in this process, for all flows.

    Training gets about 1.3 and sampling about 1.5 times faster on one CPU core, for a wait of some
    15 seconds at the first call and at each new kind of shape; results agree to rounding. Off by
    default, because it needs a C++ compiler.

    Args:
        on: Whether to compile; False goes back to plain torch.
    """
    global _implementation
    _implementation = torch.compile(_spline) if on else _spline


def _spline(
    inputs: Tensor, parameters: Tensor, bins: int, tail_bound: float, inverse: bool
) -> tuple[Tensor, Tensor]:
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
    # softplus(offset) + _MIN_DERIVATIVE = 1: the value that joins the tails.
    inner = F.softplus(inner) + _MIN_DERIVATIVE
    outer = (edges == 0) | (edges == bins)
    start, end = torch.where(outer, 1.0, inner).unbind(dim=1)

    position = (scaled - left[:, axis]) / size[:, axis]  # in [0, 1] within the bin
    curvature = start + end - 2 * slope
    if inverse:
        # Root of the quadratic for the position within the bin (equation 6 to 8), in the form
        # that does not cancel. Rounding can push the discriminant below zero: clamp it.
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


_implementation = _spline


def _cumulative(bins: int, like: Tensor) -> Tensor:
    """Matrix (bins + 1, bins) from unnormalised bin sizes to their unnormalised knots.

    Row k is (1 - bins * min) on the first k columns plus k * min on all of them: the cumulative
    sum of softmax sizes with the minimum built in, times the sum of the exponentials.
    """
    below = torch.ones(bins + 1, bins, dtype=like.dtype, device=like.device).tril(-1)
    steps = torch.arange(bins + 1, dtype=like.dtype, device=like.device).unsqueeze(1)
    return (1 - bins * _MIN_BIN_SIZE) * below + _MIN_BIN_SIZE * steps


class SharedContext(NamedTuple):
    """A few rows of context that many inputs share.

    Attributes:
        rows: Distinct conditions, shape (rows, context_features).
        index: Row of each input, shape (batch,); None where all share the only row.
    """

    rows: Tensor
    index: Tensor | None = None


class ProductConditioner(nn.Module):
    """The conditioner of GalacticFlow: MLP(context) times MLP(inputs), element by element.

    Both have LeakyReLU(0.2) after every layer, the last one included (public code of
    arXiv:2312.06017). Without context it is MLP(inputs) alone.
    """

    def __init__(self, inputs: int, outputs: int, context: int, *, hidden: int) -> None:
        super().__init__()
        build = partial(
            MLP,
            out_features=outputs,
            hidden=(hidden, hidden, hidden),
            activation=partial(nn.LeakyReLU, 0.2, inplace=True),
            final_activation=True,
        )
        self.of_inputs = build(inputs)
        self.of_context = build(context) if context else None

    def forward(self, inputs: Tensor, context: Tensor | SharedContext | None = None) -> Tensor:
        """Return parameters with the batch last, shape (outputs, batch)."""
        parameters = _batch_last(self.of_inputs.layers, inputs)
        if self.of_context is None:
            return parameters
        if not isinstance(context, SharedContext):
            return parameters * _batch_last(self.of_context.layers, context)
        # The network of the context sees each distinct condition once, not once for each star.
        factors = _batch_last(self.of_context.layers, context.rows)
        if context.index is not None:
            factors = factors.index_select(1, context.index)
        return parameters * factors


class _Coupling(Transform):
    """A transform of some features that the others set."""

    def __init__(self, transformed: Sequence[bool]) -> None:
        super().__init__()
        mask = torch.as_tensor(transformed, dtype=torch.bool)
        self.register_buffer("_moved", mask.nonzero().flatten(), persistent=False)
        self.register_buffer("_kept", (~mask).nonzero().flatten(), persistent=False)
        order = torch.cat((self._moved, self._kept))
        self.register_buffer("_restore", order.argsort(), persistent=False)


class SplineCoupling(_Coupling):
    """Rational-quadratic coupling: one part of the features bends under a spline set by the rest.

    An nflows transform with the interface of nflows' own
    ``PiecewiseRationalQuadraticCouplingTransform``, equal to it to rounding and several times
    faster on a CPU. A :class:`ProductConditioner` sets the spline.

    Args:
        transformed: For each feature, whether the spline acts on it.
        context_features: Dimension of the condition, 0 for none.
        hidden: Width of the conditioner's hidden layers.
        bins: Bins of each spline.
        tail_bound: The spline acts on [-tail_bound, tail_bound]; outside is the identity.
    """

    def __init__(
        self,
        transformed: Sequence[bool],
        *,
        context_features: int = 0,
        hidden: int = 128,
        bins: int = 10,
        tail_bound: float = 3.0,
    ) -> None:
        super().__init__(transformed)
        self.features = len(self._restore)
        self.bins = bins
        self.tail_bound = tail_bound
        per_feature = 3 * bins - 1
        self.conditioner = ProductConditioner(
            len(self._kept), len(self._moved) * per_feature, context_features, hidden=hidden
        )

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (batch, features) to outputs of the same shape and log|det J|, shape (batch,)."""
        return self._bend(inputs, context, inverse=False)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse map and its log|det J|; shapes as in :meth:`forward`."""
        return self._bend(inputs, context, inverse=True)

    def _bend(self, inputs: Tensor, context: Tensor | None, *, inverse: bool):
        rows = inputs.t()
        kept, moved = rows[self._kept], rows[self._moved]
        parameters = self.conditioner(kept.t(), context)
        parameters = parameters.unflatten(0, (len(moved), 3 * self.bins - 1))
        bent, log_derivative = rational_quadratic_spline(
            moved, parameters, bins=self.bins, tail_bound=self.tail_bound, inverse=inverse
        )
        outputs = torch.cat((bent, kept))[self._restore]
        return outputs.t(), log_derivative.sum(dim=0)


_LOG_SCALE_LIMIT = 3.0


class AffineCoupling(_Coupling):
    """Affine coupling: one part of the features is scaled and shifted as the rest says.

    Starts at the identity; no layer scales by more than exp(3). Unlike nflows' own it writes into
    no tensor, so that many can run as one batched model
    (:class:`galflow_lite.flows.StackedFlows`).

    Args:
        transformed: For each feature, whether it is transformed.
        context_features: Dimension of the condition, 0 for none.
        hidden: Width of the two hidden layers of the conditioner.
    """

    def __init__(
        self, transformed: Sequence[bool], *, context_features: int = 0, hidden: int = 32
    ) -> None:
        super().__init__(transformed)
        self.conditioner = MLP(
            len(self._kept),
            2 * len(self._moved),
            hidden=(hidden, hidden),
            context_features=context_features,
        )
        nn.init.zeros_(self.conditioner.layers[-1].weight)
        nn.init.zeros_(self.conditioner.layers[-1].bias)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (batch, features) to outputs of the same shape and log|det J|, shape (batch,)."""
        moved, kept, shift, log_scale = self._parts(inputs, context)
        outputs = torch.cat((moved * log_scale.exp() + shift, kept), dim=1)
        return outputs[:, self._restore], log_scale.sum(dim=1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse map and its log|det J|; shapes as in :meth:`forward`."""
        moved, kept, shift, log_scale = self._parts(inputs, context)
        outputs = torch.cat(((moved - shift) * (-log_scale).exp(), kept), dim=1)
        return outputs[:, self._restore], -log_scale.sum(dim=1)

    def _parts(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        kept = inputs[:, self._kept]
        shift, log_scale = self.conditioner(kept, context).chunk(2, dim=1)
        # A ReLU network grows without end, and its exponential overflows a few units from the data.
        log_scale = _LOG_SCALE_LIMIT * torch.tanh(log_scale / _LOG_SCALE_LIMIT)
        return inputs[:, self._moved], kept, shift, log_scale


class ActNorm(Transform):
    """A scale and a shift for each feature (Kingma & Dhariwal 2018, arXiv:1807.03039).

    Starts at the identity and not at the moments of the first batch: standardise the data.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (batch, features) to outputs of the same shape and log|det J|, shape (batch,)."""
        log_det = self.log_scale.sum().expand(len(inputs))
        return inputs * self.log_scale.exp() + self.shift, log_det

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse map and its log|det J|; shapes as in :meth:`forward`."""
        log_det = -self.log_scale.sum().expand(len(inputs))
        return (inputs - self.shift) * (-self.log_scale).exp(), log_det


def _batch_last(layers: nn.Sequential, inputs: Tensor) -> Tensor:
    """Run Linear-activation pairs, the last of them on transposed data: shape (outputs, batch).

    The product in the last layer then writes the layout that the spline wants, at no cost.
    """
    *body, last, activation = layers
    for layer in body:
        inputs = layer(inputs)
    return activation(torch.addmm(last.bias[:, None], last.weight, inputs.t()))
