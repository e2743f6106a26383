"""Coupling layers, affine and rational-quadratic, and the networks that set them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from nflows.transforms.base import Transform
from torch import Tensor, nn

from ..inputs import as_number, as_whole
from ..networks import MLP
from .spline import LEAK, rational_quadratic_spline


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
        activation = partial(nn.LeakyReLU, LEAK, inplace=True)
        options = dict(hidden=(hidden,) * 3, activation=activation, final_activation=True)
        self.of_inputs = MLP(inputs, outputs, **options)
        self.of_context = MLP(context, outputs, **options) if context else None

    def forward(self, inputs: Tensor, context: Tensor | SharedContext | None = None) -> Tensor:
        """Return parameters with the batch last, shape (outputs, batch)."""
        parameters = _batch_last(self.of_inputs.layers, inputs)
        if self.of_context is None:
            return parameters
        # The network of a shared context sees each condition once, not once for each star.
        rows, index = context if isinstance(context, SharedContext) else (context, None)
        factors = _batch_last(self.of_context.layers, rows)
        return parameters * (factors if index is None else factors.index_select(1, index))


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

    In single precision on a CPU, :mod:`.fused_coupling` computes it in compiled loops, unless the
    environment variable GALFLOW_FUSED is 0, which second derivatives ask for. Everything else,
    gradients of the inverse too, takes :func:`rational_quadratic_spline`.

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
        self.bins = as_whole(bins, "bins", least=2)
        self.tail_bound = as_number(tail_bound, "tail_bound", above=0)
        per_feature = 3 * self.bins - 1
        self.conditioner = ProductConditioner(
            len(self._kept), len(self._moved) * per_feature, context_features, hidden=hidden
        )

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (batch, features) to outputs of the same shape and log|det J|, shape (batch,)."""
        return self._bend(inputs, context, inverse=False)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse map and its log|det J|; shapes as in :meth:`forward`."""
        return self._bend(inputs, context, inverse=True)

    def _bend(self, inputs: Tensor, context: Tensor | SharedContext | None, *, inverse: bool):
        weight = self.conditioner.of_inputs.layers[0].weight
        # Compiled loops would read beyond a context of fewer rows; torch refuses it.
        short = isinstance(context, Tensor) and len(context) != len(inputs)
        if short or not _is_simple(inputs, weight, inverse):
            return self.bend_plainly(inputs, context, inverse=inverse)
        # It imports numba, which takes a second.
        from .fused_coupling import FusedCoupling

        index = self._moved  # not used without conditions
        if isinstance(context, SharedContext):
            context, index = context.rows, index if context.index is None else context.index
        elif context is not None:
            index = torch.arange(len(inputs))
        nets = (self.conditioner.of_inputs, self.conditioner.of_context)
        linear = [layer for net in nets if net is not None for layer in list(net.layers)[::2]]
        parameters = [v for layer in linear for v in (layer.weight, layer.bias)]
        rows = inputs.t().contiguous()
        outputs, log_det = FusedCoupling.apply(self, inverse, rows, context, index, *parameters)
        return outputs.t(), log_det

    def bend_plainly(
        self, inputs: Tensor, context: Tensor | SharedContext | None, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """:meth:`forward` or :meth:`inverse` by the readable spline."""
        rows = inputs.t()
        kept, moved = rows[self._kept], rows[self._moved]
        parameters = self.conditioner(kept.t(), context)
        parameters = parameters.unflatten(0, (len(moved), 3 * self.bins - 1))
        bent, log_derivative = rational_quadratic_spline(
            moved, parameters, bins=self.bins, tail_bound=self.tail_bound, inverse=inverse
        )
        outputs = torch.cat((bent, kept))[self._restore]
        return outputs.t(), log_derivative.sum(dim=0)


def _is_simple(inputs: Tensor, weight: Tensor, inverse: bool) -> bool:
    """Whether compiled loops can take it: single precision on a CPU, gradients backwards alone."""
    return (
        len(inputs) > 0
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == weight.device.type == "cpu"
        and not (inverse and torch.is_grad_enabled())
        and os.environ.get("GALFLOW_FUSED") != "0"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


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
        options = dict(hidden=(hidden, hidden), context_features=context_features)
        self.conditioner = MLP(len(self._kept), 2 * len(self._moved), **options)
        for parameter in self.conditioner.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (batch, features) to outputs of the same shape and log|det J|, shape (batch,)."""
        moved, kept, shift, log_scale = self._parts(inputs, context)
        outputs = torch.cat((moved * log_scale.exp() + shift, kept), dim=1)
        return outputs.index_select(1, self._restore), log_scale.sum(dim=1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse map and its log|det J|; shapes as in :meth:`forward`."""
        moved, kept, shift, log_scale = self._parts(inputs, context)
        outputs = torch.cat(((moved - shift) * (-log_scale).exp(), kept), dim=1)
        return outputs.index_select(1, self._restore), -log_scale.sum(dim=1)

    def _parts(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        kept = inputs.index_select(1, self._kept)
        shift, log_scale = self.conditioner(kept, context).chunk(2, dim=1)
        # A ReLU network grows without end, and its exponential overflows a few units from the data.
        log_scale = _LOG_SCALE_LIMIT * torch.tanh(log_scale / _LOG_SCALE_LIMIT)
        return inputs.index_select(1, self._moved), kept, shift, log_scale


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
