r"""Stochastic interpolants with data-dependent couplings (arXiv:2310.03725, arXiv:2303.08797).

I_t = α_t x0 + β_t x1 + γ_t z connects a base x0 at t = 0 with data x1 at t = 1; the base may depend
on the data. A velocity learned by :func:`velocity_loss` carries one to the other::

    schedule, coupling = Schedule.linear(), inpainting(tiles=8, hole_probability=0.3)
    velocity = MaskedVelocity(network)
    loss = velocity_loss(velocity, images, schedule=schedule, coupling=coupling)
    mask = coupling.condition(images)
    found = sample_ode(velocity, coupling(images, mask), mask, method="heun", steps=20)
"""

from .closed_form import MixtureInterpolant
from .couplings import Coupling, GaussianBase, custom, independent, optimal_transport
from .diffusion import decreasing, sample_sde, score_from_velocity
from .image_couplings import (
    MaskedVelocity,
    downsample,
    inpainting,
    super_resolution,
    tile_mask,
    upsample,
)
from .image_models import train_velocity
from .likelihood import log_likelihood
from .losses import denoiser_loss, draw_interpolant, velocity_loss
from .sampling import sample_ode
from .schedules import Gamma, Schedule
from .transport import flow_costs, transport_bound

__all__ = [
    "Coupling",
    "Gamma",
    "GaussianBase",
    "MaskedVelocity",
    "MixtureInterpolant",
    "Schedule",
    "custom",
    "decreasing",
    "denoiser_loss",
    "downsample",
    "draw_interpolant",
    "flow_costs",
    "independent",
    "inpainting",
    "log_likelihood",
    "optimal_transport",
    "sample_ode",
    "sample_sde",
    "score_from_velocity",
    "super_resolution",
    "tile_mask",
    "train_velocity",
    "transport_bound",
    "upsample",
    "velocity_loss",
]
