"""nflows' Flow and linear layer with their traps closed, and bases other than a normal one."""

from __future__ import annotations

import math
from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.distributions.base import Distribution
from nflows.flows import Flow as _NflowsFlow
from nflows.transforms import LULinear as _NflowsLULinear
from nflows.transforms.base import Transform
from torch import Tensor, nn

from ..inputs import as_index, as_number, as_tensor, as_whole, shaped_as
from ..networks import MLP
from .coupling_layers import SharedContext

_BATCH = 50_000


class ResampledBase(Distribution):
    r"""Standard normal noise, accepted or rejected by a learned network.

    The base of Stimper et al. 2022 (arXiv:2110.15828), which can have several modes and holes where
    a Gaussian has none: a proposal z from N(0, I) is accepted with probability a(z); after T - 1
    rejections the next proposal is taken unseen. Its density is

    .. math:: p(z) = (1 - \alpha) \frac{a(z)}{Z} N(z) + \alpha N(z), \quad
              \alpha = (1 - Z)^{T - 1}, \quad Z = \int a(z) N(z) dz.

    While it is trained, Z is a running mean over fresh draws from N(0, I), with the gradient of the
    latest draws; afterwards the mean is kept as it is, and :meth:`refine` replaces it by an
    accurate one: with a wrong Z the density does not integrate to one, so call it before densities
    are compared.

    Args:
        features: Dimension of the noise.
        hidden: Widths of the hidden layers of the acceptance network, which ends in a sigmoid.

    Attributes:
        truncation: Number of proposals T, the last of which is always accepted; as in the paper.
        momentum: Weight of the latest draws in the running mean; as in the paper's code.
        draws: Draws from N(0, I) at each step of the training.

    Example:
        >>> ResampledBase(2, hidden=(16,)).log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    truncation = 100
    momentum = 0.1
    draws = 1024

    def __init__(self, features: int, *, hidden: tuple[int, ...] = (128, 128)) -> None:
        super().__init__()
        self.features = as_whole(features, "features", least=1)
        self.network = MLP(self.features, 1, hidden=hidden)
        self.register_buffer("normalizer", torch.tensor(0.5))
        self.refine(10_000)

    def acceptance(self, z: Tensor) -> Tensor:
        """Probability of accepting each row of z, shape (n,)."""
        return self.network(z).squeeze(-1).sigmoid()

    @torch.no_grad()
    def refine(self, draws: int = 1_000_000, *, generator: torch.Generator | None = None) -> float:
        """Set Z to the mean acceptance of this many draws; returns its standard error."""
        draws = as_whole(draws, "draws", least=1)
        total = squares = torch.zeros((), dtype=torch.float64)
        for start in range(0, draws, _BATCH):
            count = min(_BATCH, draws - start)
            accepted = self.acceptance(self._normal(count, generator)).cpu().double()
            total, squares = total + accepted.sum(), squares + accepted.square().sum()
        mean = total / draws
        self.normalizer.copy_(mean)
        return float((squares / draws - mean**2).clamp(min=0).div(draws).sqrt())

    def _log_prob(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        normal = _log_normal(inputs).sum(dim=1)
        # Logarithms throughout: far out a(z) is too small for a float, and so may be alpha.
        z = self._normalizer()
        log_alpha = (self.truncation - 1) * torch.log1p(-z.clamp(max=1 - 1e-6))
        log_accepted = torch.log(-torch.expm1(log_alpha)) - z.log()
        log_acceptance = nn.functional.logsigmoid(self.network(inputs).squeeze(-1))
        return normal + torch.logaddexp(log_accepted + log_acceptance, log_alpha)

    def _normalizer(self) -> Tensor:
        if not self.training:
            return self.normalizer
        latest = self.acceptance(self._normal(self.draws, None)).mean()
        mean = torch.lerp(self.normalizer, latest.detach(), self.momentum)
        self.normalizer.copy_(mean)
        return mean + latest - latest.detach()  # value of the mean, gradient of the latest

    def draw(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Samples, shape (n, features)."""
        z = self._normal(n, generator)
        waiting = torch.arange(n, device=z.device)
        for _ in range(self.truncation - 1):
            uniform = torch.rand(len(waiting), dtype=z.dtype, device=z.device, generator=generator)
            accepted = [self.acceptance(z[part]) for part in waiting.split(_BATCH)]
            waiting = waiting[uniform >= torch.cat(accepted)]
            if not len(waiting):
                break
            z[waiting] = self._normal(len(waiting), generator)
        return z

    def _normal(self, n: int, generator: torch.Generator | None) -> Tensor:
        return draw_normal(n, self.features, next(self.parameters()), generator)


class GaussianMixtureBase(Distribution):
    """A mixture of Gaussians with diagonal covariances, trained with the flow.

    The most common alternative to a standard normal base for data with several modes (Izmailov et
    al. 2020, arXiv:1912.13025, use one for classes).

    Args:
        means: Where the components start, shape (components, features); for example the centres of
            clusters of the standardised data.
        scale: Standard deviation that they start with.

    Example:
        >>> GaussianMixtureBase(torch.randn(8, 2)).log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(self, means, *, scale: float = 0.5) -> None:
        super().__init__()
        means = as_tensor(means, "means", ("k", "d"), dtype=torch.get_default_dtype())
        scale = as_number(scale, "scale", above=0)
        self.features = means.shape[1]
        self.means = nn.Parameter(means.detach().clone())
        self.log_scales = nn.Parameter(torch.full_like(means, math.log(scale)))
        self.logits = nn.Parameter(means.new_zeros(len(means)))

    def _log_prob(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        scaled = (inputs[:, None] - self.means) * (-self.log_scales).exp()
        log_prob = (_log_normal(scaled) - self.log_scales).sum(dim=2)
        return torch.logsumexp(self.logits.log_softmax(0) + log_prob, dim=1)

    def draw(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Samples, shape (n, features)."""
        chosen = torch.multinomial(self.logits.softmax(0), n, True, generator=generator)
        noise = draw_normal(n, self.features, self.means, generator)
        return self.means[chosen] + self.log_scales[chosen].exp() * noise


def draw_normal(n: int, d: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws from N(0, I), shape (n, d), with the type and on the device of `like`."""
    return torch.randn(n, d, dtype=like.dtype, device=like.device, generator=generator)


def _log_normal(z: Tensor) -> Tensor:
    """Log-density of each value under N(0, 1), without checks that vmap and meta tensors refuse."""
    return -(z.square() + math.log(2 * math.pi)) / 2


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
        normal = StandardNormal([features])
        # A buffer in double precision, which a GPU of Apple refuses.
        normal._log_z = float(normal._buffers.pop("_log_z"))
        super().__init__(transform, base or normal)
        self.features = features
        self.context_features = context_features
        self.shares_context = shares_context

    def log_prob(self, inputs: Any, context: Any = None, context_index: Any = None) -> Tensor:
        """Log-density of each row.

        Memory grows with n: 1 kB a row with gradients off, 8 with them, for the flow of
        tests/benchmarks. Evaluate large samples under ``torch.no_grad()`` and in parts,
        ``inputs.split(10_000)``, which takes half the time as well.

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
            index = as_index(context_index, "context_index", inputs.shape[:1], len(rows), like=rows)
            # A stride would have the loops compiled again.
            return self(inputs, self._shared(rows, index.contiguous(), len(inputs)))
        if rows is not None and len(rows) == 1 != len(inputs):
            return self(inputs, self._shared(rows, None, len(inputs)))
        if rows is not None and len(rows) != len(inputs):
            # Not left to the transforms, of which some would broadcast.
            raise ValueError(f"context has {len(rows)} rows, expected {len(inputs)} or one")
        return self(inputs, rows)

    def forward(self, inputs: Tensor, context: Tensor | SharedContext | None = None) -> Tensor:
        """Log-density of tensors that are known to be right."""
        noise, log_det = self._transform(inputs, context=context)
        base = shaped_as(log_det, self._distribution.log_prob(noise), "log_prob of the base")
        return base + log_det

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
    """Invertible linear layer W = L U, with few operations and the triangular solves of today."""

    def __init__(self, features: int) -> None:
        super().__init__(features, identity_init=True)
        # Where the entries of L and of U stand among: lower, upper, diagonal, 0 and 1.
        half = len(self.lower_entries)
        place = torch.full((2, features, features), 2 * half + features)
        place[0][self.lower_indices] = torch.arange(half)
        place[0].diagonal().fill_(2 * half + features + 1)
        place[1][self.upper_indices] = torch.arange(half, 2 * half)
        place[1].diagonal().copy_(torch.arange(2 * half, 2 * half + features))
        self.register_buffer("_place", place.flatten(), persistent=False)
        self.register_buffer("_constants", torch.tensor([0.0, 1.0]), persistent=False)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """L, U and log|det W|."""
        diagonal = self.upper_diag
        parts = (self.lower_entries, self.upper_entries, diagonal, self._constants)
        factors = torch.cat(parts).gather(0, self._place).unflatten(0, (2, self.features, -1))
        return *factors, diagonal.log().sum()

    def forward_no_cache(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper, log_det = self._factors()
        # Rows of features: the layout that the couplings want.
        outputs = torch.addmm(self.bias[:, None], lower @ upper, inputs.t()).t()
        return outputs, log_det.expand(len(inputs))

    def inverse_no_cache(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper, log_det = self._factors()
        outputs = torch.linalg.solve_triangular(
            lower, (inputs - self.bias).t(), upper=False, unitriangular=True
        )
        outputs = torch.linalg.solve_triangular(upper, outputs, upper=True)
        return outputs.t(), -log_det.expand(len(inputs))
