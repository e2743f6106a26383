"""What every flow shares: nflows' Flow and its linear layer, with their traps closed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from nflows.distributions import StandardNormal
from nflows.distributions.base import Distribution
from nflows.flows import Flow as _NflowsFlow
from nflows.transforms import LULinear as _NflowsLULinear
from nflows.transforms.base import Transform
from torch import Tensor

from .bases import GaussianMixtureBase, ResampledBase
from .couplings import SharedContext
from .sizes import positive_integer

__all__ = ["Flow", "LULinear"]


class Flow(_NflowsFlow):
    """An nflows flow, forgiving in what it takes.

    Args:
        transform: nflows transform from data to noise.
        features: Dimension of the data.
        context_features: Dimension of the condition, 0 for none.
        shares_context: Whether the transforms take a :class:`SharedContext`, which is faster where
            many inputs share few conditions.
        base: Distribution of the noise; None for a standard normal one.

    Raises:
        ValueError: On a base for another number of features.
    """

    def __init__(
        self,
        transform: Transform,
        *,
        features: int,
        context_features: int = 0,
        shares_context: bool = False,
        base: ResampledBase | GaussianMixtureBase | None = None,
    ) -> None:
        if base is not None and base.features != features:
            raise ValueError(
                f"found a base with {base.features} features for a flow of {features}, expected as "
                "many: build the base anew"
            )
        super().__init__(transform, base or StandardNormal([features]))
        self.features = features
        self.context_features = context_features
        self.shares_context = shares_context

    def log_prob(self, inputs, context=None, context_index=None) -> Tensor:
        """Log-density of each row.

        Args:
            inputs: Tensor or array, shape (n, features).
            context: Tensor or array, shape (n, context_features), one condition for each row of
                inputs, or (1, context_features), one for all; None for a flow without context.
            context_index: Integers, shape (n,): the row of ``context``, which then may have any
                number of rows, that belongs to each input. Faster than repeated rows.

        Returns:
            Tensor, shape (n,), in nats.

        Raises:
            ValueError: On a wrong shape, or a missing or unwanted context.
        """
        inputs = self._tensor(inputs, "inputs", self.features)
        rows = self._context(context)
        if context_index is not None and rows is not None:
            index = torch.as_tensor(context_index, device=rows.device)
            if index.shape != (len(inputs),) or index.dtype.is_floating_point:
                raise ValueError(
                    f"found context_index of shape {tuple(index.shape)} and type {index.dtype}, "
                    f"expected {len(inputs)} integers: one for each row of inputs"
                )
            return self._log_prob(inputs, self._shared(rows, index, len(inputs)))
        if rows is not None and len(rows) != len(inputs):
            if len(rows) != 1:
                raise ValueError(
                    f"found {len(rows)} rows of context for {len(inputs)} rows of inputs, "
                    "expected as many or one: repeat the context or pass context_index"
                )
            return self._log_prob(inputs, self._shared(rows, None, len(inputs)))
        return self._log_prob(inputs, rows)

    def _log_prob(self, inputs: Tensor, context: Tensor | SharedContext | None) -> Tensor:
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
        context=None,
        batch_size: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw samples.

        Args:
            num_samples: Samples for each row of context, a positive integer.
            context: Tensor or array, shape (rows, context_features); None without context.
            batch_size: Most samples to transform at once, to bound memory.
            generator: Random generator on the flow's device.

        Returns:
            Tensor, shape (num_samples, features) without context and
            (rows, num_samples, features) with it.

        Raises:
            ValueError: On a number of samples below one, or a wrong context.
        """
        n = positive_integer(num_samples, "num_samples")
        context = self._context(context)
        rows = [None] if context is None else context.split(1)
        samples = torch.stack(
            [torch.cat(list(self._batches(n, row, batch_size, generator))) for row in rows]
        )
        return samples[0] if context is None else samples

    def _batches(
        self, n: int, row: Tensor | None, batch_size: int | None, generator
    ) -> Iterator[Tensor]:
        size = n if batch_size is None else positive_integer(batch_size, "batch_size")
        # All noise at once: the same seed gives the same draws whatever the batch size.
        for noise in self._noise(n, generator).split(size):
            context = None if row is None else self._shared(row, None, len(noise))
            yield self._transform.inverse(noise, context=context)[0]

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        if not isinstance(self._distribution, StandardNormal):
            return self._distribution.draw(n, generator=generator)
        like = self._like()
        return torch.randn(
            n, self.features, dtype=like.dtype, device=like.device, generator=generator
        )

    @property
    def base(self) -> Distribution:
        """Distribution of the noise."""
        return self._distribution

    def sample_and_log_prob(self, num_samples: int, context=None) -> tuple[Tensor, Tensor]:
        """Draw samples with their log-densities, of the shape of the samples less the last axis."""
        samples = self.sample(num_samples, context)
        if context is None:
            return samples, self.log_prob(samples)
        rows = self._context(context).split(1)
        log_prob = [self.log_prob(x, row) for x, row in zip(samples, rows, strict=True)]
        return samples, torch.stack(log_prob)

    def _like(self) -> Tensor:
        return next(self.parameters())

    def _tensor(self, values, name: str, width: int) -> Tensor:
        like = self._like()
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = values.copy()
        tensor = torch.as_tensor(values).to(dtype=like.dtype, device=like.device)
        if tensor.dim() != 2 or tensor.shape[1] != width:
            raise ValueError(
                f"found {name} of shape {tuple(tensor.shape)}, expected (n, {width}): "
                "pass one row for each point"
            )
        return tensor

    def _context(self, context) -> Tensor | None:
        if self.context_features == 0:
            if context is not None:
                raise ValueError(
                    "found a context for a flow without one: build it with context_features"
                )
            return None
        if context is None:
            raise ValueError(
                f"found no context, expected one with {self.context_features} columns: pass context"
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

    def weight_inverse(self) -> Tensor:
        lower, upper = self._create_lower_upper()
        identity = torch.eye(self.features, dtype=lower.dtype, device=lower.device)
        inverse = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, inverse, upper=True)
