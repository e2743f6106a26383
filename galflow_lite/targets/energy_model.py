"""An energy given by a small network, learnt from data by denoising score matching."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import read_state, write_state
from ..networks import MLP
from ..seeds import child_seed
from ..training import History, TensorBatches, fit
from .base import Target, positive_number, whole_number

__all__ = ["EnergyModel"]

_KIND = "an energy model of noisy data"


class EnergyModel(Target):
    r"""Density :math:`e^{-E(x)}` with :math:`E(x) = (|x|^2 / 2 - f(x)) / \sigma^2`, f a perceptron.

    `fit` learns the law of the data *with noise of width sigma*, so that a sample is brought back
    to the data by one step of `denoise` (deep energy estimator networks: Saremi, Mehrjou,
    Scholkopf and Hyvarinen, arXiv:1805.08306). Noisy data have exactly this form, with an f that
    grows no faster than linearly: :math:`\sigma^2 \log E_{x_0}
    \exp((x^T x_0 - |x_0|^2 / 2) / \sigma^2)`. So the quadratic term bounds the density where no
    noisy point was seen in training. With a weak one, :math:`|x|^2 / 8` beside a free network,
    regions without data could get most of the probability, on the digits with one seed of three.
    The gradient of f is what `denoise` returns.

    Args:
        dim: columns of a point.
        hidden: width of each hidden layer.
        sigma: width of the noise.
        seed: of the first weights.

    Attributes:
        network: the perceptron, float32; fixed, so that nothing that uses the score trains it.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        hidden: tuple[int, ...] = (256, 256, 256),
        sigma: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.dim = whole_number("dim", dim, least=1)
        self.hidden = tuple(whole_number("hidden", width, least=1) for width in hidden)
        self.sigma = positive_number("sigma", sigma)
        child = child_seed(whole_number("seed", seed, least=0), "energy model")
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPUs too, whose state is not restored here.
            torch.default_generator.manual_seed(child)
            self.network = MLP(self.dim, 1, hidden=self.hidden, activation=nn.SiLU)
        self._fix()

    def __repr__(self) -> str:
        return f"EnergyModel(dim={self.dim}, hidden={self.hidden}, sigma={self.sigma})"

    def fit(
        self,
        x: Any,
        *,
        steps: int = 3000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        seed: int = 0,
        progress: bool = True,
    ) -> History:
        r"""Train by denoising score matching: minimise :math:`E |\sigma s(x + \sigma e) + e|^2`.

        Args:
            x: data, shape (n, dim), or images, flattened here; values of about unit size.
            steps: number of updates; the learning rate falls to a fifth after two thirds of them.
            batch_size: rows a step.
            learning_rate: at the start.
            seed: of batches and noise.
            progress: show a bar.

        Returns:
            History; its loss is summed over the columns.

        Raises:
            ValueError: another number of columns, NaN or infinite data.
            TrainingDiverged: the loss is NaN or infinite; the last good weights are kept.
        """
        x = torch.as_tensor(x).float().flatten(1)
        if x.shape[1] != self.dim:
            raise ValueError(
                f"x has {x.shape[1]} columns, expected {self.dim}: make the model with "
                f"dim={x.shape[1]}"
            )
        batches = TensorBatches(x, batch_size=batch_size, seed=seed)
        device = next(self.network.parameters()).device
        child = child_seed(whole_number("seed", seed, least=0), "noise")
        noise = torch.Generator(device).manual_seed(child)

        def loss(batch: Any) -> Tensor:
            clean = (batch[0] if isinstance(batch, tuple | list) else batch).to(device)
            e = torch.randn(clean.shape, generator=noise, device=device)
            noisy = (clean + self.sigma * e).requires_grad_()
            score = self._gradient(noisy, create_graph=True)
            return (self.sigma * score + e).square().sum(1).mean()

        for parameter in self.network.parameters():
            parameter.requires_grad_(True)
        self._copies.clear()
        try:
            return fit(
                loss,
                self.network,
                batches,
                steps,
                learning_rate=learning_rate,
                schedule=lambda step: 1.0 if step < 2 * steps / 3 else 0.2,
                progress=progress,
                description="energy model",
            )
        finally:
            self._fix()

    def denoise(self, x: Any) -> Tensor:
        """Mean of the data given the noisy points, x + sigma^2 score(x) (Miyasawa, 1961).

        Args:
            x: shape (n, dim).

        Returns:
            Shape (n, dim), detached.

        Raises:
            ValueError: another shape, NaN or infinite points.
        """
        x = self._finite_points(x).detach()
        return x + self.sigma**2 * self.score(x)

    def save(self, path: str | Path) -> None:
        """Write sizes and weights as one safetensors file, whole or not at all.

        Raises:
            OSError: the file cannot be written; one that was there is intact.
        """
        state = {"dim": self.dim, "hidden": list(self.hidden), "sigma": self.sigma}
        write_state(path, state | {"weights": dict(self.network.state_dict())}, kind=_KIND)

    @classmethod
    def load(cls, path: str | Path) -> EnergyModel:
        """Read what `save` wrote, on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds something else.
        """
        state = read_state(path, kind=_KIND)
        model = cls(state["dim"], hidden=tuple(state["hidden"]), sigma=state["sigma"])
        model.network.load_state_dict(state["weights"])
        model._fix()
        return model

    def _fix(self) -> None:
        self.network.zero_grad(set_to_none=True)
        self.network.requires_grad_(False).eval()
        self._copies: dict[tuple, MLP] = {}

    def _network_for(self, x: Tensor) -> MLP:
        """The perceptron in the type and on the device of x; a copy where these differ."""
        weight = next(self.network.parameters())
        if (weight.dtype, weight.device) == (x.dtype, x.device):
            return self.network
        key = (x.dtype, x.device)
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self.network).to(x)
        return self._copies[key]

    def _log_density(self, x: Tensor) -> Tensor:
        return (self._network_for(x)(x).squeeze(1) - x.square().sum(1) / 2) / self.sigma**2
