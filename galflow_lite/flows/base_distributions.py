"""Base distributions with several modes: learned rejection, and a mixture of Gaussians."""

from __future__ import annotations

import math

import torch
from nflows.distributions.base import Distribution
from torch import Tensor, nn

from ..inputs import as_number, as_tensor, as_whole
from ..networks import MLP

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
            accepted = self.acceptance(self._normal(count, generator)).double().cpu()
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
