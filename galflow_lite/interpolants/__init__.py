r"""Stochastic interpolants with data-dependent couplings (arXiv:2310.03725, arXiv:2303.08797).

I_t = α_t x0 + β_t x1 + γ_t z connects a base x0 at t = 0 with data x1 at t = 1; the base may depend
on the data. A velocity learned by :func:`velocity_loss` carries one to the other::

    schedule, coupling = Schedule.linear(), inpainting(tiles=8, hole_probability=0.3)
    velocity = MaskedVelocity(network)
    loss = velocity_loss(velocity, images, schedule=schedule, coupling=coupling)
    mask = coupling.condition(images)
    found = sample_ode(velocity, coupling(images, mask), mask, method="heun", steps=20)
"""

from .conversions import (
    base_mean,
    base_noise,
    data_mean,
    denoiser_from_score,
    score_from_denoiser,
    score_from_velocity,
    velocity_from_data_mean,
    velocity_from_score,
)
from .costs import FlowCosts, flow_costs, transport_bound, transport_cost
from .couplings import Coupling, Pair, custom, independent
from .diffusion import constant, decreasing, rise_and_fall, sample_sde
from .gammas import Gamma
from .image_couplings import downsample, inpainting, super_resolution, upsample
from .laws import GaussianBase, standard_normal
from .likelihood import Likelihood, log_likelihood
from .losses import Draw, denoiser_loss, draw_interpolant, velocity_loss
from .masks import MaskedVelocity, tile_mask
from .mixtures import MixtureInterpolant
from .optimal import assignment, optimal_transport
from .sampling import Samples, sample_ode
from .schedules import Interpolant, Schedule
from .several import SampleSet, sample_several
from .solvers import SolverError

__all__ = [
    "Coupling",
    "Draw",
    "FlowCosts",
    "Gamma",
    "GaussianBase",
    "Interpolant",
    "Likelihood",
    "MaskedVelocity",
    "MixtureInterpolant",
    "Pair",
    "SampleSet",
    "Samples",
    "Schedule",
    "SolverError",
    "assignment",
    "base_mean",
    "base_noise",
    "constant",
    "custom",
    "data_mean",
    "decreasing",
    "denoiser_from_score",
    "denoiser_loss",
    "downsample",
    "draw_interpolant",
    "flow_costs",
    "independent",
    "inpainting",
    "log_likelihood",
    "optimal_transport",
    "rise_and_fall",
    "sample_ode",
    "sample_sde",
    "sample_several",
    "score_from_denoiser",
    "score_from_velocity",
    "standard_normal",
    "super_resolution",
    "tile_mask",
    "transport_bound",
    "transport_cost",
    "upsample",
    "velocity_from_data_mean",
    "velocity_from_score",
    "velocity_loss",
]
