"""The one-dimensional mixture of Figure 2 of arXiv:2310.03725, with all that is known of it."""

from __future__ import annotations

import torch

from galflow_lite.interpolants import GaussianBase, MixtureInterpolant, Schedule

MODES = (-5.75, 0.0, 5.75)
WIDTH = 0.65


def trigonometric():
    """α = cos(πt/2), β = sin(πt/2); the shifted argument makes α_1 exactly zero."""
    alpha, beta = lambda t: torch.sin(torch.pi / 2 * (1 - t)), lambda t: torch.sin(torch.pi / 2 * t)
    return Schedule(alpha, beta)


class ExactMixture(MixtureInterpolant):
    """Also the score and coupled draws."""

    def score(self, x, t):
        """By automatic differentiation of the density."""
        x = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.log_density(x, t).sum(), x)[0]

    def base(self, x):
        """Law of x0, where the base has one mode."""
        return GaussianBase(self.base_modes[0].to(x).expand(x.shape), self.base_width)

    def sample_pairs(self, n, *, generator=None):
        """Coupled x0 and x1, shape (n, dim), and the mode of x1."""
        flat = torch.multinomial(self.weights.flatten(), n, replacement=True, generator=generator)
        first, second = flat // len(self.data_modes), flat % len(self.data_modes)
        shape = (2, n, self.base_modes.shape[1])
        noise = torch.randn(shape, dtype=torch.float64, generator=generator)
        x0 = self.base_modes[first] + self.base_width * noise[0]
        return x0, self.data_modes[second] + self.data_width * noise[1], second


def figure_two(schedule: Schedule, panel: str) -> ExactMixture:
    """Panel "dependent" (mode to same mode) or "independent" (every mode to every mode)."""
    weights = torch.eye(3) if panel == "dependent" else torch.ones(3, 3)
    return ExactMixture(schedule, MODES, MODES, base_width=WIDTH, data_width=WIDTH, weights=weights)


def from_noise(schedule: Schedule, *, mean: float = 0.0, sigma: float = 1.0) -> ExactMixture:
    """From N(mean, sigma²) to the three modes."""
    return ExactMixture(schedule, (mean,), MODES, base_width=sigma, data_width=WIDTH)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hole_of_a_normal(x, t, condition=None):
    """Velocity of v from N(0, 1) to its law N(0.8, 0.36) given u = 1, for a correlation of 0.8."""
    t = t[:, None]
    variance = (1 - t) ** 2 + 0.36 * t**2
    return 0.8 + (0.36 * t - (1 - t)) / variance * (x - 0.8 * t)
