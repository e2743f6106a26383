"""An energy model of images and long samples of it, which its samplers are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from .. import mcmc
from ..images import parametric_galaxies
from ..metrics import Estimate, energy_distance
from ..seeds import child_seed
from ..targets import EnergyModel

__all__ = [
    "EnergyProblem",
    "device_of",
    "digits",
    "drawn_galaxies",
    "fit_energy_model",
    "long_samples",
    "problem",
]


@dataclass(frozen=True, eq=False)
class EnergyProblem:
    """An energy model and samples that it should have.

    Attributes:
        data: what it was fitted to, shape (n, dim).
        model: the energy model.
        reference: long samples of the model, from data and from noise, shape (m, dim).
        again: others, independent of these: what a perfect sampler would score.
        agreement: energy distance between long samples from data and those from noise: 0 within
            its error where both kinds of chains have forgotten their start. Where it is not, do
            not trust the reference: some models have a region without data that chains hardly
            enter or leave. One that neither kind finds it cannot show; chains from the points of a
            one-step sampler would.
    """

    data: Tensor
    model: EnergyModel
    reference: Tensor
    again: Tensor
    agreement: Estimate


def digits() -> Tensor:
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn, (1797, 64), in [-1, 1]."""
    return torch.from_numpy(load_digits().data / 8 - 1).float()


def drawn_galaxies(size: int = 28, *, n: int = 5000, seed: int = 0) -> Tensor:
    """Galaxies of `images.parametric_galaxies`, grey, flattened: shape (n, size^2).

    Less the mean of each pixel, and in units in which the standard deviation over all is 0.5.

    Raises:
        ValueError: as `images.parametric_galaxies`.
    """
    x = parametric_galaxies(n, size, seed=seed).images.flatten(1)
    x = x - x.mean(0)
    return x * (0.5 / x.std())


_DATA: dict[str, Callable[[], Tensor]] = {"digits": digits, "galaxies": drawn_galaxies}

# Of many pixels, with less noise or fewer steps, chains from data drifted away to a region without
# any, of higher density.
_MODELS: dict[str, dict[str, Any]] = {
    "digits": {"hidden": (256, 256, 256)},
    "galaxies": {"hidden": (512, 512, 512), "sigma": 0.5, "steps": 20_000},
}
_CHAINS: dict[str, dict[str, int]] = {"digits": {}, "galaxies": {"warmup": 200, "steps": 400}}


def fit_energy_model(
    data: Tensor,
    *,
    seed: int,
    hidden: tuple[int, ...] = (256, 256, 256),
    sigma: float = 0.3,
    steps: int = 3000,
    device: str | torch.device = "cpu",
) -> EnergyModel:
    """An energy model of data by denoising score matching.

    Args:
        data: shape (n, dim).
        seed: of weights, batches and noise.
        hidden, sigma, steps: as for `targets.EnergyModel`.
        device: where it is trained and stays.

    Raises:
        ValueError: as `targets.EnergyModel` and its ``fit``.
    """
    model = EnergyModel(data.shape[1], hidden=hidden, sigma=sigma, seed=seed)
    model.network.to(device)
    model.fit(data, steps=steps, seed=seed, progress=False)
    return model


def long_samples(
    model: EnergyModel,
    data: Tensor,
    *,
    chains: int = 500,
    warmup: int = 40,
    steps: int = 60,
    keep: int = 4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Hamiltonian chains from both ends: noisy data, and N(0, I).

    Args:
        model: what is sampled.
        data: where the one kind of chains starts, after noise of the model's width.
        chains: of each kind.
        warmup: steps that are dropped.
        steps: after it, of 10 leapfrog steps each.
        keep: positions of each chain, evenly spaced.
        seed: of starts and chains.

    Returns:
        "data" and "noise", each of shape (keep, chains, dim).

    Raises:
        ValueError: as `mcmc.hmc`.
    """
    generator = torch.Generator().manual_seed(child_seed(seed, "start"))
    rows = torch.randint(len(data), (chains,), generator=generator)
    noise = torch.randn(2, chains, data.shape[1], generator=generator)
    starts = {"data": data[rows].cpu() + model.sigma * noise[0], "noise": noise[1]}
    every = max(1, steps // keep)
    found = {}
    for name, start in starts.items():
        # Chains that share their random numbers would grow together and look alike too early.
        run = mcmc.hmc(
            model,
            start.to(device_of(model)),
            steps=every * keep,
            warmup=warmup,
            seed=child_seed(seed, name),
            keep_every=every,
        )
        found[name] = run.path
    return found


def problem(*, data: str, seed: int, device: str = "cpu") -> EnergyProblem:
    """The energy model of a seed and its long samples; kept for all methods of a process.

    Args:
        data: "digits" or "galaxies" (28 x 28 pixels, meant for a GPU).
        seed: of the model and the chains.
        device: where everything is.

    Raises:
        ValueError: unknown data.
    """
    if data not in _DATA:
        raise ValueError(f"found the data {data!r}, expected one of {', '.join(_DATA)}")
    return _problem(data, seed, str(device))


# The cache tells arguments by name from arguments by position.
@lru_cache(maxsize=2)
def _problem(data: str, seed: int, device: str) -> EnergyProblem:
    x = _DATA[data]()
    # The covariance of the samples needs several times as many of them as columns.
    chains = max(500, 2 * x.shape[1])
    model = fit_energy_model(x, seed=seed, device=device, **_MODELS[data])
    runs = long_samples(model, x, seed=seed, chains=chains, **_CHAINS[data])
    # Other chains for the floor: positions of one chain are not independent of each other.
    half = chains // 2
    return EnergyProblem(
        data=x.to(device),
        model=model,
        reference=torch.cat([run[:, :half].flatten(0, 1) for run in runs.values()]),
        again=torch.cat([run[1::2, half:].flatten(0, 1) for run in runs.values()]),
        agreement=energy_distance(runs["data"][-1], runs["noise"][-1]),
    )


def device_of(model: EnergyModel) -> torch.device:
    """Where a model is."""
    return next(model.network.parameters()).device
