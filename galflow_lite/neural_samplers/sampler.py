"""An implicit sampler: noise through one network. It has samples and no density."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..files import read_state, write_state
from ..inputs import as_whole
from ..training import TrainingDiverged
from .networks import SamplerNetwork

__all__ = ["ImplicitSampler", "SamplerDiverged", "SamplerHistory"]

_KIND = "an implicit sampler"


@dataclass
class SamplerHistory:
    """What happened in a training, one value a step of the sampler.

    Attributes:
        loss: of the sampler. Not a measure of quality: a bad score network lowers it, and that of
            KL training has no meaning at all.
        score_loss: of the score network, mean over its steps since the last one of the sampler.
        gradient_norm: of the sampler, before clipping.
        gradient_evaluations: points at which the target's score was computed, altogether: by the
            loss, by the checks before the first step, for a checkpoint and after a failure. The
            work that DFT and Fisher training have with differentiating that score is not counted,
            and neither is what a resumed run repeats.
        seconds: wall time, pretraining included, summed over resumed runs.
        pretraining_seconds: the part of it before the first step of the sampler.
        stopped: "finished", "interrupted" or "diverged"; "running" in what a callback sees.
    """

    loss: list[float] = field(default_factory=list)
    score_loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    gradient_evaluations: int = 0
    seconds: float = 0.0
    pretraining_seconds: float = 0.0
    stopped: str = "finished"


class ImplicitSampler:
    """Samples g(z), z ~ N(0, I), in one evaluation of a network.

    Args:
        network: maps z (n, latent_dim) to points (n, dim).
        latent_dim: columns of z.
        dim: columns of a point.
        sigma: level of the noise that the sampler was trained under; None when there was none.
        history: of the training.

    Attributes:
        network, latent_dim, dim, sigma, history: as given.
        score_network: that of the training, the score of the noised sampler; None after loading.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        latent_dim: int,
        dim: int,
        sigma: float | None = None,
        history: SamplerHistory | None = None,
    ) -> None:
        self.network, self.latent_dim, self.dim = network, latent_dim, dim
        self.sigma = sigma
        self.history = SamplerHistory() if history is None else history
        self.score_network: nn.Module | None = None

    def __repr__(self) -> str:
        return f"ImplicitSampler(latent_dim={self.latent_dim}, dim={self.dim}, sigma={self.sigma})"

    def sample(
        self, n: int, *, seed: int | None = None, noisy: bool = False, block: int = 65_536
    ) -> Tensor:
        """Draw n points, shape (n, dim), in the dtype and on the device of the network.

        Args:
            n: number of points.
            seed: of the draw; None continues torch's global generator. On one device the same
                seed and n give the same points whatever the block.
            noisy: add sigma * noise: draws from the law that was trained, which is that of the
                noised sampler.
            block: points that go through the network at once.

        Raises:
            ValueError: `n` or `seed` is no whole number from 0 up, `block` is below 1, or noisy
                samples of a sampler without noise are asked for.
        """
        n, block = as_whole(n, "n"), as_whole(block, "block", least=1)
        if noisy and self.sigma is None:
            raise ValueError(
                "noisy samples are asked for and this sampler has no sigma, expected one from its "
                "training: draw with noisy=False"
            )
        weight = next(self.network.parameters())
        options: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        if seed is not None:
            generator = torch.Generator(weight.device)
            options["generator"] = generator.manual_seed(as_whole(seed, "seed"))
        with torch.no_grad():
            z = torch.randn(n, self.latent_dim, **options)
            x = torch.cat([self.network(part) for part in z.split(block)] or [z.new_empty(0)])
            x = x.reshape(n, self.dim)
            return x + self.sigma * torch.randn(x.shape, **options) if noisy else x

    def log_prob(self, x: Any) -> NoReturn:
        """Not available.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "an implicit sampler has no density, only samples: compare samples (energy_distance, "
            "ksd), or train a flow where log_prob is needed"
        )

    def save(self, path: str | Path) -> None:
        """Write the network and its architecture to one safetensors file with a JSON header.

        The score network and the history are not written.

        Raises:
            OSError: the file cannot be written; one that was there is intact.
        """
        built_in = isinstance(self.network, SamplerNetwork)
        state = {
            "latent_dim": self.latent_dim,
            "dim": self.dim,
            "sigma": self.sigma,
            "network": self.network.settings if built_in else "custom",
            "weights": dict(self.network.state_dict()),
        }
        write_state(path, state, kind=_KIND)

    @classmethod
    def load(cls, path: str | Path, *, network: nn.Module | None = None) -> ImplicitSampler:
        """Read what `save` wrote.

        Args:
            path: the file.
            network: where the sampler was trained with a network of your own, one like it, whose
                weights are replaced.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, of another kind, needs `network`, or its weights do
                not fit.
        """
        state = read_state(path, kind=_KIND)
        if network is None:
            if state["network"] == "custom":
                raise ValueError(
                    f"{path} holds the weights of a network of your own, found none: pass one like "
                    "it as network="
                )
            network = SamplerNetwork(state["latent_dim"], state["dim"], **state["network"])
            network.to(next(iter(state["weights"].values())).dtype)
        try:
            network.load_state_dict(state["weights"])
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds weights of another architecture "
                f"({str(error).splitlines()[-1].strip()}): pass the network it was trained with"
            ) from None
        return cls(
            network.eval(),
            latent_dim=state["latent_dim"],
            dim=state["dim"],
            sigma=state["sigma"],
        )


class SamplerDiverged(TrainingDiverged):
    """A training of a sampler became NaN, infinite or left all bounds.

    Attributes:
        step: the step where it was seen.
        history: up to it.
        sampler: the `ImplicitSampler` with the last good weights, of its score network too.
    """

    def __init__(
        self, message: str, step: int, history: SamplerHistory, sampler: ImplicitSampler
    ) -> None:
        super().__init__(message, step, history)
        self.sampler = sampler

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.step, self.history, self.sampler)
