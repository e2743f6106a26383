"""The one-dimensional mixture of Figure 2 of arXiv:2310.03725, for tests of the interpolants."""

from __future__ import annotations

import torch

from galflow_lite.interpolants import MixtureInterpolant, Schedule

MODES = (-5.75, 0.0, 5.75)
WIDTH = 0.65


def figure_two(schedule: Schedule, panel: str) -> MixtureInterpolant:
    """Panel "dependent" (mode to same mode) or "independent" (every mode to every mode)."""
    weights = torch.eye(3) if panel == "dependent" else torch.ones(3, 3)
    return MixtureInterpolant(
        schedule, MODES, MODES, base_width=WIDTH, data_width=WIDTH, weights=weights
    )


def from_noise(schedule: Schedule, *, mean: float = 0.0, sigma: float = 1.0) -> MixtureInterpolant:
    """From N(mean, sigma²) to the three modes."""
    return MixtureInterpolant(schedule, (mean,), MODES, base_width=sigma, data_width=WIDTH)
