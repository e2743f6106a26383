r"""Stochastic interpolants with data-dependent couplings (arXiv:2310.03725, arXiv:2303.08797).

I_t = α_t x0 + β_t x1 connects a base x0 at t = 0 with data x1 at t = 1; the base may depend
on the data. A velocity learned by :func:`velocity_loss` carries one to the other::

    schedule, coupling = Schedule.linear(), inpainting(tiles=8, hole_probability=0.3)
    velocity = MaskedVelocity(network)
    loss = velocity_loss(velocity, images, schedule=schedule, coupling=coupling)
    mask = coupling.condition(images)
    found = sample_ode(velocity, coupling(images, mask), mask, method="heun", steps=20)
"""

from .couplings import GaussianBase, custom, independent, optimal_transport
from .image_models import downsample, inpainting, super_resolution, tile_mask, train_velocity
from .integrals import flow_costs, log_likelihood, transport_bound
from .sampling import decreasing, sample_ode, sample_sde
from .velocities import MaskedVelocity, MixtureInterpolant, Schedule, velocity_loss

__all__ = [
    "GaussianBase",
    "MaskedVelocity",
    "MixtureInterpolant",
    "Schedule",
    "custom",
    "decreasing",
    "downsample",
    "flow_costs",
    "independent",
    "inpainting",
    "log_likelihood",
    "optimal_transport",
    "sample_ode",
    "sample_sde",
    "super_resolution",
    "tile_mask",
    "train_velocity",
    "transport_bound",
    "velocity_loss",
]
