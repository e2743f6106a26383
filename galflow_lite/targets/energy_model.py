"""An energy given by a small network, learnt from data by denoising score matching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..inputs import as_number, as_tensor, as_whole, child_seed
from ..networks import MLP
from ..training import History, TensorBatches, fit
from .target import Target

# The gradient of SiLU as one operation, which autograd calls too.
silu_backward = torch.ops.aten.silu_backward.grad_input


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
        network: the perceptron; fixed, so that nothing that uses the score trains it.
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        hidden: tuple[int, ...] = (256, 256, 256),
        sigma: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.dim = as_whole(dim, "dim", least=1)
        self.hidden = tuple(as_whole(width, "hidden", least=1) for width in hidden)
        self.sigma = as_number(sigma, "sigma", above=0)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPUs too, whose state is not restored here.
            child = child_seed(as_whole(seed, "seed"), "energy model")
            torch.default_generator.manual_seed(child)
            self.network = MLP(self.dim, 1, hidden=self.hidden, activation=nn.SiLU)
        self.network.requires_grad_(False).eval()

    def fit(self, x: Any, *, steps: int = 3000, seed: int = 0, progress: bool = True) -> History:
        r"""Train by denoising score matching: minimise :math:`E |\sigma s(x + \sigma e) + e|^2`.

        Args:
            x: data, shape (n, dim); values of about unit size.
            steps: number of updates; the learning rate falls to a fifth after two thirds of them.
            seed: of batches and noise.
            progress: show a bar.

        Returns:
            History; its loss is summed over the columns.

        Raises:
            TrainingDiverged: the loss is NaN or infinite; the last good weights are kept.
        """
        x = as_tensor(x, "x", ("n", self.dim), like=self.network)
        batches = TensorBatches(x, batch_size=128, seed=seed)
        noise = torch.Generator(x.device).manual_seed(child_seed(as_whole(seed, "seed"), "noise"))

        def loss(batch: tuple[Tensor, ...]) -> Tensor:
            (clean,) = batch
            e = torch.randn(clean.shape, dtype=x.dtype, generator=noise, device=x.device)
            noisy = (clean + self.sigma * e).requires_grad_()
            score = self._score(noisy, create_graph=True)
            return (self.sigma * score + e).square().sum(1).mean()

        self.network.requires_grad_(True)
        try:
            options = {"learning_rate": 1e-3, "progress": progress, "description": "energy model"}
            options["schedule"] = lambda step: 1.0 if step < 2 * steps / 3 else 0.2
            return fit(loss, self.network, batches, steps, **options)
        finally:
            self.network.zero_grad(set_to_none=True)
            self.network.requires_grad_(False).eval()

    def denoise(self, x: Any) -> Tensor:
        """Mean of the data given the noisy points, x + sigma^2 score(x) (Miyasawa, 1961).

        Args:
            x: shape (n, dim).

        Returns:
            Shape (n, dim), detached.
        """
        x = self._points(x).detach()
        return x + self.sigma**2 * self._score(x)

    @torch.no_grad()
    def _gradient(self, x: Tensor, create_graph: bool) -> Tensor:
        """The score by hand, without a graph: products of matrices forward, then backward."""
        if create_graph:
            return super()._gradient(x, create_graph)
        *hidden, last = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        weights, sums, values = [layer.weight.to(x) for layer in hidden], [], x
        for layer, weight in zip(hidden, weights, strict=True):
            values = functional.silu(values) if sums else values
            values = torch.addmm(layer.bias.to(x), values, weight.T)
            sums.append(values)
        unit = x.new_ones(()) / self.sigma**2
        slope = (unit * last.weight.to(x)).expand(len(x), -1)
        for weight, values in zip(reversed(weights), reversed(sums), strict=True):
            # In place: fresh memory for each product takes a tenth of the time.
            slope = silu_backward(slope, values, grad_input=values) @ weight
        return slope - unit * x

    def _log_density(self, x: Tensor) -> Tensor:
        network = self.network
        if next(network.parameters()).dtype == x.dtype:
            value = network(x)
        else:
            weights = {name: weight.to(x) for name, weight in network.named_parameters()}
            value = torch.func.functional_call(network, weights, (x,))
        return (value.squeeze(1) - x.square().sum(1) / 2) / self.sigma**2
