"""nflows' Flow and its linear layer with their traps closed, and many small flows as one model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.distributions.base import Distribution
from nflows.flows import Flow as _NflowsFlow
from nflows.transforms import LULinear as _NflowsLULinear
from nflows.transforms.base import Transform
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..inputs import as_tensor, as_whole
from .base_distributions import GaussianMixtureBase, ResampledBase, draw_normal
from .coupling_layers import SharedContext


class Flow(_NflowsFlow):
    """An nflows flow, forgiving in what it takes.

    Args:
        transform: nflows transform from data to noise.
        features: Dimension of the data.
        context_features: Dimension of the condition, 0 for none.
        shares_context: Whether the transforms take a :class:`SharedContext`, which is faster where
            many inputs share few conditions.
        base: Distribution of the noise; None for a standard normal one.
    """

    def __init__(
        self,
        transform: Transform,
        features: int,
        context_features: int = 0,
        *,
        shares_context: bool = False,
        base: ResampledBase | GaussianMixtureBase | None = None,
    ) -> None:
        if base is not None and base.features != features:
            raise ValueError(
                f"base has {base.features} features, the flow {features}: build the base anew"
            )
        super().__init__(transform, base or StandardNormal([features]))
        self.features = features
        self.context_features = context_features
        self.shares_context = shares_context

    def log_prob(self, inputs: Any, context: Any = None, context_index: Any = None) -> Tensor:
        """Log-density of each row.

        Args:
            inputs: Tensor, array or table, shape (n, features). NaN in gives NaN out.
            context: Shape (n, context_features), one condition for each row of inputs, or
                (1, context_features), one for all; None for a flow without context.
            context_index: Integers, shape (n,): the row of ``context``, which then may have any
                number of rows, that belongs to each input. Faster than repeated rows.

        Returns:
            Tensor, shape (n,), in nats.
        """
        inputs = self._tensor(inputs, "inputs", self.features)
        rows = self._context(context)
        if context_index is not None and rows is not None:
            index = torch.as_tensor(context_index, device=rows.device)
            return self(inputs, self._shared(rows, index, len(inputs)))
        if rows is not None and len(rows) == 1 != len(inputs):
            return self(inputs, self._shared(rows, None, len(inputs)))
        if rows is not None and len(rows) != len(inputs):
            # Not left to the transforms, of which some would broadcast.
            raise ValueError(f"context has {len(rows)} rows, expected {len(inputs)} or one")
        return self(inputs, rows)

    def forward(self, inputs: Tensor, context: Tensor | SharedContext | None = None) -> Tensor:
        """Log-density of tensors that are known to be right."""
        noise, log_det = self._transform(inputs, context=context)
        return self._distribution.log_prob(noise) + log_det

    def _shared(self, rows: Tensor, index: Tensor | None, n: int) -> SharedContext | Tensor:
        """Conditions that inputs share, in the form that the transforms take."""
        if self.shares_context:
            return SharedContext(rows, index)
        return rows.expand(n, -1) if index is None else rows[index]

    def sample(
        self,
        num_samples: int,
        context: Any = None,
        batch_size: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw samples.

        Args:
            num_samples: Samples for each row of context, a positive integer.
            context: Shape (rows, context_features); None without context.
            batch_size: Most samples to transform at once, to bound memory. The draws are the same
                whatever it is.
            generator: Random generator on the flow's device.

        Returns:
            Tensor, shape (num_samples, features) without context and
            (rows, num_samples, features) with it.
        """
        n = as_whole(num_samples, "num_samples", least=1)
        size = n if batch_size is None else as_whole(batch_size, "batch_size", least=1)
        context = self._context(context)
        if context is None:
            return self._draw(n, None, size, generator)
        return torch.stack([self._draw(n, row, size, generator) for row in context.split(1)])

    def _draw(
        self, n: int, row: Tensor | None, size: int, generator: torch.Generator | None
    ) -> Tensor:
        batches = []
        for noise in self._noise(n, generator).split(size):
            context = None if row is None else self._shared(row, None, len(noise))
            batches.append(self._transform.inverse(noise, context=context)[0])
        return torch.cat(batches)

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        if not isinstance(self._distribution, StandardNormal):
            return self._distribution.draw(n, generator=generator)
        return draw_normal(n, self.features, next(self.parameters()), generator)

    @property
    def base(self) -> Distribution:
        """Distribution of the noise."""
        return self._distribution

    def _tensor(self, values: Any, name: str, width: int) -> Tensor:
        # No look for NaN: every step of a training comes through here.
        return as_tensor(values, name, ("n", width), like=self, finite=False)

    def _context(self, context: Any) -> Tensor | None:
        if context is None and not self.context_features:
            return None
        if context is None or not self.context_features:
            raise ValueError(
                f"context is {'None' if context is None else 'given'} for a flow that was built "
                f"with context_features={self.context_features}: pass so many columns, or none"
            )
        return self._tensor(context, "context", self.context_features)


class LULinear(_NflowsLULinear):
    """Invertible linear layer W = L U, with the triangular solves of today's torch."""

    def inverse_no_cache(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._create_lower_upper()
        outputs = torch.linalg.solve_triangular(
            lower, (inputs - self.bias).t(), upper=False, unitriangular=True
        )
        outputs = torch.linalg.solve_triangular(upper, outputs, upper=True)
        return outputs.t(), -self.logabsdet() * inputs.new_ones(len(inputs))


class StackedFlows(nn.Module):
    """Flows of one architecture with their parameters stacked on a leading axis.

    A small network keeps a processor waiting for Python: one call for k flows costs little more
    than one call for one of them. The parameters are copies; :meth:`copy_to` writes them back.

    Args:
        flows: k flows of the same architecture, without context.

    Raises:
        ValueError: No flow, flows of several architectures, with a context, or with a resampled
            base, whose running mean is no function of its inputs.

    Example:
        >>> flows = [masked_autoregressive_flow(2) for _ in range(8)]
        >>> StackedFlows(flows).log_prob(torch.zeros(8, 100, 2)).shape
        torch.Size([8, 100])
    """

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        shapes = {tuple((n, v.shape) for n, v in flow.state_dict().items()) for flow in flows}
        alike = len(shapes) == 1 and not flows[0].context_features
        if not alike or isinstance(flows[0].base, ResampledBase):
            raise ValueError(
                f"found {len(flows)} flows of {len(shapes)} architectures, with a context or with "
                "a resampled base, expected one architecture without: train these one by one"
            )
        parameters, buffers = stack_module_state(list(flows))
        # A name of nn.Module has no dots.
        for name, values in parameters.items():
            own = nn.Parameter(values.detach(), values.requires_grad)
            self.register_parameter(name.replace(".", "/"), own)
        for name, values in buffers.items():
            self.register_buffer(name.replace(".", "/"), values, persistent=False)
        # Kept out of the submodules: it has no values of its own.
        self._template = (copy.deepcopy(flows[0]).to("meta"),)

    def __len__(self) -> int:
        return len(next(self.parameters()))

    def log_prob(self, inputs: Tensor) -> Tensor:
        """Log-densities, shape (k, n).

        Args:
            inputs: Shape (k, n, features), for each flow its own; or (n, features), for all.
        """
        (template,) = self._template

        def one(parameters: dict, buffers: dict, rows: Tensor) -> Tensor:
            return functional_call(template, (parameters, buffers), (rows,))

        # nflows adds to a tensor made like the inputs in place, so these need the axis as well.
        rows = inputs.expand(len(self), -1, -1) if inputs.dim() == 2 else inputs
        return vmap(one)(_dotted(self.named_parameters()), _dotted(self.named_buffers()), rows)

    @torch.no_grad()
    def copy_to(self, flows: Sequence[Flow]) -> None:
        """Write the parameters into flows of the same architecture and number."""
        values = {name.replace("/", "."): value for name, value in self.named_parameters()}
        for index, flow in enumerate(flows):
            for name, parameter in flow.named_parameters():
                parameter.copy_(values[name][index])


def _dotted(named) -> dict[str, Tensor]:
    return {name.replace("/", "."): value for name, value in named}
