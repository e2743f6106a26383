"""An implicit sampler: noise through one network. It has samples and no density."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inputs import as_whole
from ..networks import MLP
from ..training import History

# Points that go through the network at once.
_BLOCK = 65_536


class SamplerNetwork(nn.Module):
    """Map from noise to samples: g(z) = z + MLP(z).

    Where the latent has more coordinates than a sample, z stands for its first ones; where it has
    fewer, zeros follow it.

    Args:
        latent_dim: columns of the latent z.
        dim: columns of a sample.
        hidden: widths of the hidden layers, with SiLU between them.
    """

    def __init__(
        self, latent_dim: int, dim: int, *, hidden: tuple[int, ...] = (64, 64, 64)
    ) -> None:
        super().__init__()
        self.latent_dim, self.dim = latent_dim, dim
        self.mlp = MLP(latent_dim, dim, hidden=tuple(hidden), activation=nn.SiLU)

    def forward(self, z: Tensor) -> Tensor:
        """Map z (n, latent_dim) to (n, dim)."""
        missing = self.dim - self.latent_dim
        return self.mlp(z) + (F.pad(z, (0, missing)) if missing > 0 else z[..., : self.dim])


class ScoreNetwork(nn.Module):
    """Score of the noised sampler: an MLP, or for varying noise MLP(x / (1 + s), log s) / s.

    SiLU, since training differentiates the network with respect to its input.

    Args:
        dim: columns of a point.
        hidden: widths of the hidden layers.
        conditional: whether the noise level of each point is given.
    """

    def __init__(
        self, dim: int, *, hidden: tuple[int, ...] = (64, 64, 64), conditional: bool = False
    ) -> None:
        super().__init__()
        context = int(conditional)
        self.mlp = MLP(dim, dim, hidden=tuple(hidden), context_features=context, activation=nn.SiLU)

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Map x (n, dim), and where conditional sigma (n, 1), to (n, dim)."""
        if sigma is None:
            return self.mlp(x)
        return self.mlp(torch.cat((x / (1 + sigma), sigma.log()), dim=-1)) / sigma


class _Linears(nn.Module):
    """k linear layers in one call, from (k, n, in) to (k, n, out)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        # A product whose last axis is narrow is several times slower, above all its gradient.
        if self.weight.shape[1] < self.weight.shape[2]:
            return torch.baddbmm(self.bias[..., None], self.weight, x.mT).mT
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


def stacked(
    networks: Sequence[SamplerNetwork] | Sequence[ScoreNetwork],
) -> SamplerNetwork | ScoreNetwork:
    """Networks of the same sizes as one, which maps (k, n, in) to (k, n, out).

    A small network keeps a processor waiting for Python: one call for k of them costs little more
    than a call for one. The parameters are copies, in the same order, with a leading axis.
    """
    found = copy.deepcopy(networks[0])
    for i, layers in enumerate(zip(*(network.mlp.layers for network in networks), strict=True)):
        if isinstance(layers[0], nn.Linear):
            found.mlp.layers[i] = _Linears(layers)
    return found


@dataclass(eq=False)
class ImplicitSampler:
    """Samples g(z), z ~ N(0, I), in one evaluation of a network. It has no density.

    Attributes:
        network: maps z (n, latent_dim) to points (n, dim).
        latent_dim: columns of z.
        dim: columns of a point.
        sigma: level of the noise that the sampler was trained under, of a `LogUniform` the lowest;
            0 when there was none.
        history: of the training: `loss`, and in `logs` "score_loss", the mean over the steps of the
            score network in each step. The loss is no measure of quality: a bad score network
            lowers it, and that of KL training has no meaning at all.
        score_network: that of the training, the score of the noised sampler.
        gradient_evaluations: points at which the training computed the target's score. The work
            that DFT and Fisher training have with differentiating that score is not counted.
    """

    network: nn.Module = field(repr=False)
    latent_dim: int
    dim: int
    sigma: float = 0.0
    history: History = field(default_factory=History, repr=False)
    score_network: nn.Module | None = field(default=None, repr=False)
    gradient_evaluations: int = 0

    def sample(self, n: int, *, seed: int | None = None, noisy: bool = False) -> Tensor:
        """Draw n points, shape (n, dim), in the dtype and on the device of the network.

        Args:
            n: number of points.
            seed: of the draw; None continues torch's global generator.
            noisy: add sigma * noise: draws from the distribution that was trained, which is that of
                the noised sampler (of a `LogUniform`, at its lowest level).
        """
        n, weight = as_whole(n, "n"), next(self.network.parameters())
        options: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        if seed is not None:
            generator = torch.Generator(weight.device)
            options["generator"] = generator.manual_seed(as_whole(seed, "seed"))
        with torch.no_grad():
            z = torch.randn(n, self.latent_dim, **options)
            x = torch.cat([self.network(part) for part in z.split(_BLOCK)] or [z.new_empty(0)])
            x = x.reshape(n, self.dim)
            return x + self.sigma * torch.randn(x.shape, **options) if noisy else x
