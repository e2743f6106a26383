"""Networks of a sampler and of its score, small by default."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import MLP

__all__ = ["SamplerNetwork", "ScoreNetwork"]


class SamplerNetwork(nn.Module):
    """Map from noise to samples: g(z) = scale * (z + MLP(z)).

    Where the latent has more coordinates than a sample, z stands for its first ones; where it has
    fewer, zeros follow it.

    Args:
        latent_dim: columns of the latent z.
        dim: columns of a sample.
        hidden: widths of the hidden layers, with SiLU between them.
        skip: whether z is added; without it g(z) = scale * MLP(z).
        scale: of the output.
    """

    def __init__(
        self,
        latent_dim: int,
        dim: int,
        *,
        hidden: tuple[int, ...] = (64, 64, 64),
        skip: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.latent_dim, self.dim, self.skip, self.scale = latent_dim, dim, skip, scale
        self.settings = {"hidden": tuple(hidden), "skip": skip, "scale": scale}
        self.mlp = MLP(latent_dim, dim, hidden=tuple(hidden), activation=nn.SiLU)

    def forward(self, z: Tensor) -> Tensor:
        """Map z (n, latent_dim) to (n, dim)."""
        x = self.mlp(z)
        if self.skip:
            missing = self.dim - self.latent_dim
            x = x + (F.pad(z, (0, missing)) if missing > 0 else z[:, : self.dim])
        return x if self.scale == 1 else self.scale * x


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
        self.dim, self.conditional = dim, conditional
        self.mlp = MLP(
            dim,
            dim,
            hidden=tuple(hidden),
            context_features=int(conditional),
            activation=nn.SiLU,
        )

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Map x (n, dim), and where conditional sigma (n, 1), to (n, dim).

        Raises:
            ValueError: a noise level is given to a network that takes none, or is missing.
        """
        if self.conditional != (sigma is not None):
            found, expected = ("a", "none") if sigma is not None else ("no", "one")
            raise ValueError(
                f"the score network is given {found} noise level with each point, expected "
                f"{expected}: build it with conditional={not self.conditional}"
            )
        if not self.conditional:
            return self.mlp(x)
        return self.mlp(torch.cat((x / (1 + sigma), sigma.log()), dim=1)) / sigma
