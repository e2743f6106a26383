"""Samplers of the same target on the same terms: one-step samplers, Markov chains, a flow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import mcmc
from ..flows import real_nvp
from ..metrics import energy_distance, ksd, mode_weights
from ..reproduction import Case
from ..seeds import child_seed
from ..targets import BENCHMARKS, GaussianMixture, Target
from ..training import fit
from .recipes import FIRST_SEED, ONE_STEP, PLAIN, REMEDIES, last_good, train_stages
from .sampler import ImplicitSampler

__all__ = [
    "HARD",
    "METHODS",
    "ONE_STEP",
    "REMEDIES",
    "SAMPLES",
    "compare_sampler",
    "draw",
    "judge",
    "paper_cases",
    "train",
]

SAMPLES = 4000
"""Samples of a method that are judged."""

HARD = ("mog2_hard", "ring8", "donut", "rosenbrock")
"""Targets on which plain DFT goes astray, or what follows it does."""

OFF_CENTRE = (3.0, 1.0)
"""Mean of the second start of the chains: N(0, I) lies at the centre of symmetry of the mixtures,
where chains get the weights of the modes for nothing."""

METHODS = ("exact", *PLAIN, "recipe", "langevin", "mala", "hmc", "svgd", "flow")
"""What is compared on every target; the additions of `REMEDIES` on the hard ones."""

_CHAIN_STEPS = 500
_FLOW_STEPS, _FLOW_BATCH = 2000, 256


def train(name: str, target: Target, *, seed: int) -> ImplicitSampler:
    """Train a one-step sampler through all its stages.

    Args:
        name: one of `ONE_STEP`.
        target: what to sample.
        seed: of networks and draws.

    Returns:
        The sampler of the last stage; seconds and gradient evaluations of its history are those of
        all stages together.

    Raises:
        ValueError: an unknown name.
        SamplerDiverged: as `train_sampler` does.
    """
    if name not in ONE_STEP:
        raise ValueError(f"found the method {name!r}, expected one of {', '.join(ONE_STEP)}")
    return train_stages(target, ONE_STEP[name], seed=seed)


def draw(
    method: str, target: Target, *, n: int = SAMPLES, seed: int = 0, off_centre: bool = False
) -> tuple[Tensor, dict[str, float]]:
    """Samples of a target by a method, and what they cost.

    Of one-step samplers the samples without noise are taken. Langevin chains take a step of
    0.1 d / J, with J = E|s|^2 the mean curvature: a rule that knows no metric. HMC finds its step
    size itself.

    Args:
        method: one of `METHODS` or `REMEDIES`; "exact" draws from the target.
        target: has `sample` and `mean_square_score`.
        n: number of samples.
        seed: of everything.
        off_centre: start the chains from N(`OFF_CENTRE`, I) in place of N(0, I).

    Returns:
        Points of shape (n, dim), float64 (of SVGD 500), chains that diverged left out; and
        ``seconds`` of processor time, which others on the machine do not lengthen, for training and
        sampling; ``sampling_seconds`` thereof where something was trained;
        ``gradient_evaluations``; ``lost``, the share of points left out; and of one-step samplers
        ``diverged``, 1 where a training ended early and the samples come from its last good
        weights, else 0.

    Raises:
        ValueError: an unknown method.
    """
    if method not in (*METHODS, *REMEDIES):
        known = ", ".join((*METHODS, *REMEDIES))
        raise ValueError(f"found the method {method!r}, expected one of {known}")
    began = time.process_time()
    if method == "exact":
        return target.sample(n, seed=child_seed(seed, "exact")), _cost(began, began, 0)
    if method in ONE_STEP:
        sampler, diverged = last_good(lambda: train(method, target, seed=seed))
        trained = time.process_time()
        x = sampler.sample(n, seed=child_seed(seed, "draws")).double()
        cost = _cost(began, trained, sampler.history.gradient_evaluations)
        return x, {**cost, "diverged": diverged}
    if method == "flow":
        return _reverse_kl_flow(target, n, seed)
    start = chain_start(target, n, seed, off_centre)
    chains = _CHAINS[method](target, start, child_seed(seed, "chain"))
    cost = _cost(began, began, chains.gradient_evaluations)
    return _finite(chains.samples, cost)


def judge(x: Tensor, target: Target, *, seed: int = 0) -> dict[str, float]:
    """Distances of samples from a target that has exact samples.

    Args:
        x: samples, shape (n, dim).
        target: what they should follow.
        seed: of the exact samples, another stream than those of "exact".

    Returns:
        ``ksd`` (V-statistic of 1,000 samples, or of all if they are fewer, which makes it larger)
        with ``ksd_floor`` for as many; ``ksd_squared`` (U); and
        ``energy_distance`` from `SAMPLES` exact samples, each with ``_error``; for mixtures
        ``mode_deviation``, the largest deviation of a mode's share from its weight, and ``shares``.

    Raises:
        ValueError: fewer than 2 samples, of another dimension, or not finite.
        NotImplementedError: the target has no exact samples.
    """
    few = x[:1000]
    v, u = (ksd(few, target, statistic=statistic) for statistic in ("V", "U"))
    distance = energy_distance(x, target.sample(SAMPLES, seed=child_seed(seed, "judge")))
    found: dict[str, Any] = {
        "ksd": v.value,
        "ksd_error": v.standard_error,
        "ksd_floor": v.null,
        "ksd_squared": u.value,
        "ksd_squared_error": u.standard_error,
        "energy_distance": distance.value,
        "energy_distance_error": distance.standard_error,
    }
    try:
        weights = mode_weights(x, target)
    except NotImplementedError:
        return found
    return {
        **found,
        "mode_deviation": weights.largest_deviation,
        "shares": weights.shares.tolist(),
    }


def compare_sampler(
    *, target: str, method: str, seed: int, off_centre: bool = False
) -> dict[str, Any]:
    """Draw from a target of `BENCHMARKS` by a method, and judge the samples.

    Args:
        target: name in `BENCHMARKS`.
        method: as for `draw`.
        seed: of everything.
        off_centre: as for `draw`.

    Returns:
        What `judge` returns and what `draw` says of costs; the latter alone where fewer than two
        points were left to judge.

    Raises:
        ValueError: an unknown target or method.
    """
    if target not in BENCHMARKS:
        raise ValueError(f"found the target {target!r}, expected one of {', '.join(BENCHMARKS)}")
    density = BENCHMARKS[target]()
    x, cost = draw(method, density, seed=seed, off_centre=off_centre)
    return {**(judge(x, density, seed=seed) if len(x) > 1 else {}), **cost}


def paper_cases(*, seeds: int = 10, names: Sequence[str] | None = None) -> list[Case]:
    """All methods on all planar targets, chains from both starts; remedies on the hard targets,
    and the first recipe on all, so that it can be seen what the second one changed.

    Whole seeds come one after the other, so that a run that is cut short holds whole seeds.

    Args:
        seeds: repetitions.
        names: targets, by default all of `BENCHMARKS`.
    """
    names = tuple(names or BENCHMARKS)
    kinds = [
        (name, method, away)
        for name in names
        for method in METHODS
        for away in ((False, True) if method in _CHAINS else (False,))
    ]
    kinds += [
        (name, method, False)
        for name in names
        for method in REMEDIES
        if (name in HARD or method == "recipe_first")
        and ("noised" not in method or isinstance(BENCHMARKS[name](), GaussianMixture))
    ]
    return [
        Case(
            f"{name}-{method}{'-off_centre' * away}-{seed}",
            {"target": name, "method": method, "seed": seed, "off_centre": away},
        )
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for name, method, away in kinds
    ]


def chain_start(target: Target, n: int, seed: int, off_centre: bool) -> Tensor:
    """Where chains start: N(0, I), or N(`OFF_CENTRE`, I) in the plane.

    Args:
        target: gives the dimension; 2 for `off_centre`.
        n: number of chains.
        seed: the stream is one of its own.
        off_centre: whether to start away from the origin.

    Returns:
        Shape (n, dim), float64.
    """
    generator = torch.Generator().manual_seed(child_seed(seed, "start"))
    x = torch.randn(n, target.dim, generator=generator, dtype=torch.float64)
    return x + torch.tensor(OFF_CENTRE, dtype=x.dtype) if off_centre else x


def _step(target: Target) -> float:
    return 0.1 * target.dim / target.mean_square_score


_CHAINS: dict[str, Callable[[Target, Tensor, int], mcmc.Chains]] = {
    "langevin": lambda target, start, seed: mcmc.langevin(
        target, start, steps=_CHAIN_STEPS, step_size=_step(target), seed=seed
    ),
    "mala": lambda target, start, seed: mcmc.langevin(
        target, start, steps=_CHAIN_STEPS, step_size=_step(target), adjust=True, seed=seed
    ),
    "hmc": lambda target, start, seed: mcmc.hmc(target, start, steps=40, warmup=100, seed=seed),
    # Every step looks at all pairs of particles.
    "svgd": lambda target, start, seed: mcmc.svgd(
        target, start[:500], steps=_CHAIN_STEPS, seed=seed
    ),
}


def _reverse_kl_flow(target: Target, n: int, seed: int) -> tuple[Tensor, dict[str, float]]:
    """A RealNVP trained by reverse KL, which, unlike the networks above, has a density."""
    began = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(child_seed(seed, "flow"))
        flow = real_nvp(target.dim, layers=8, hidden=32, act_norm=False)

        def loss(z: Tensor) -> Tensor:
            x, log_volume = flow._transform.inverse(z)
            return -(log_volume + target.log_density(x)).mean()

        fit(
            loss,
            flow,
            lambda step: torch.randn(_FLOW_BATCH, target.dim),
            _FLOW_STEPS,
            schedule="cosine",
            clip_norm=10.0,
            progress=False,
        )
    trained = time.process_time()
    generator = torch.Generator().manual_seed(child_seed(seed, "draws"))
    x = flow.sample(n, generator=generator).detach().double()
    return _finite(x, _cost(began, trained, _FLOW_STEPS * _FLOW_BATCH))


def _finite(x: Tensor, cost: dict[str, float]) -> tuple[Tensor, dict[str, float]]:
    whole = x.isfinite().all(1)
    return x[whole], {**cost, "lost": 1 - float(whole.double().mean())}


def _cost(began: float, trained: float, evaluations: int) -> dict[str, float]:
    now = time.process_time()
    return {
        "seconds": now - began,
        "sampling_seconds": now - trained if trained > began else math.nan,
        "gradient_evaluations": evaluations,
        "lost": 0.0,
    }
