"""One-step samplers of an energy model of images, against chains: quality and cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import mcmc
from ..metrics import energy_distance
from ..metrics.frechet import gaussian_frechet
from ..reproduction import Case
from ..seeds import child_seed
from ..targets import EnergyModel
from .energy_problem import (
    EnergyProblem,
    device_of,
    digits,
    drawn_galaxies,
    fit_energy_model,
    long_samples,
    problem,
)
from .equal_quality import EqualQuality, curves, equal_quality
from .networks import SamplerNetwork
from .noise import geometric
from .recipes import FIRST_SEED, last_good, train_stages
from .sampler import ImplicitSampler

__all__ = [
    "METHODS",
    "ONE_STEP",
    "SAMPLER_WIDTH",
    "STEPS",
    "STEP_SIZES",
    "EnergyProblem",
    "EqualQuality",
    "compare_energy_sampler",
    "curves",
    "digits",
    "drawn_galaxies",
    "equal_quality",
    "fit_energy_model",
    "frechet",
    "long_samples",
    "paper_cases",
    "problem",
    "train",
]

SAMPLES = 1000
"""Samples of a method that are judged."""

STEPS = (1, 10, 50, 100, 200, 500, 1000)
"""Numbers of steps of chains that are judged."""

STEP_SIZES = (0.003, 0.01, 0.03, 0.05, 0.1)
"""Of Langevin chains."""

SAMPLER_WIDTH = 2
"""Width of a sampler's hidden layers, in those of the energy model."""

_KL: dict[str, Any] = {
    "method": "kl",
    "steps": 2400,
    # Weights of modes go on moving after the ramp: it must end early.
    "tempering": geometric(0.2, 1.0, 1200),
    "learning_rate": 2e-3,
    "score_learning_rate": 4e-3,
}
# Careful: at the rates of KL it leaves a good sampler, and from scratch it ends farther away, with
# tempering or without.
_DFT: dict[str, Any] = {
    "method": "dft",
    "steps": 600,
    "learning_rate": 1e-4,
    "score_learning_rate": 1e-3,
    "score_steps": 5,
}

ONE_STEP: dict[str, Sequence[Mapping[str, Any]]] = {
    "kl": (_KL,),
    "dft": ({**_DFT, "steps": 2400},),
    "kl_then_dft": (_KL, _DFT),
}
"""Stages of the training of one-step samplers, arguments of `train_sampler`; each stage goes on
with the sampler of the one before, and the noise is that of the energy model. Settings of KL were
chosen with the seeds 5 and 6, those of DFT with 5."""

METHODS = ("again", *ONE_STEP, "langevin", "mala", "hmc")

_MEASURES = (
    "energy_distance",
    "energy_distance_error",
    "frechet",
    "denoised_energy_distance",
    "denoised_frechet",
)


def train(name: str, model: EnergyModel, *, seed: int) -> ImplicitSampler:
    """Train a one-step sampler through all its stages.

    Its score network is as wide as the model, itself it is `SAMPLER_WIDTH` times as wide: to keep
    modes apart it must be steep between them, and one no wider than the model gave some of them up.

    Args:
        name: one of `ONE_STEP`.
        model: what to sample.
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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(child_seed(seed, "sampler"))
        hidden = tuple(SAMPLER_WIDTH * width for width in model.hidden)
        network = SamplerNetwork(model.dim, model.dim, hidden=hidden)
    return train_stages(
        model,
        ONE_STEP[name],
        seed=seed,
        sampler=network,
        # With the noise of the model the sampler itself has to make clean images.
        sigma=model.sigma,
        hidden=model.hidden,
        device=device_of(model),
    )


def frechet(x: Tensor, y: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to the pixels of x and y, shapes (n, d).

    Constant pixels make the covariances singular, which does no harm here. Samples of one law are
    at a positive distance, the smaller the more there are: compare with that of exact samples.

    Raises:
        ValueError: fewer than 2 rows, or other columns in y than in x.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}, expected at least 2 rows in each"
            " and the same columns: draw more"
        )
    moments = [(v.mean(0), torch.cov(v.T)) for v in (x.detach().double(), y.detach().double())]
    return float(gaussian_frechet(*moments[0], *moments[1]))


def compare_energy_sampler(
    *,
    method: str,
    seed: int,
    data: str = "digits",
    start: str = "normal",
    steps: Sequence[int] = STEPS,
    step_sizes: Sequence[float] = STEP_SIZES,
    pictures: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Draw from the energy model of a seed by a method, and compare with its long samples.

    Of one-step samplers the noised samples are taken: theirs is the law that is trained.

    Args:
        method: one of `METHODS`. "again" are other long samples, the floor; "langevin" is
            unadjusted; "mala" takes the step size 0.01.
        seed: of the model and the method.
        data: as for `problem`.
        start: of chains: "normal", N(0, I), where the latent of a sampler comes from; or "pixels",
            mean and standard deviation of each pixel of the data, which samplers are not told.
        steps: at which "langevin" and "mala" are judged, rising.
        step_sizes: of "langevin".
        pictures: how many samples to return as well.
        device: where everything runs; on a CPU in one thread.

    Returns:
        ``energy_distance`` with ``_error`` and ``frechet``, in pixels, from long samples;
        ``denoised_energy_distance`` and ``denoised_frechet`` of samples after `EnergyModel.denoise`
        from the data; ``sampling_seconds`` for 1,000 samples; ``training_seconds`` and
        ``training_gradients``, gradient evaluations, and ``diverged`` as `comparison.draw` has it;
        ``gradients_per_sample``;
        ``agreement`` with ``_error`` of the long samples. Of "langevin" the first two, with
        ``lost``, the share of chains that diverged, for each step size e and number of steps N as
        ``energy_distance_e_N``, and ``seconds_per_step`` for 1,000 samples; without endings it is
        the best step size at most steps, infinite where half of the chains of each were lost.
        "mala" likewise, with the endings ``_N``.
        Where asked for, ``pictures``, denoised samples of shape (pictures, dim).

    Raises:
        ValueError: an unknown method, start or data.
    """
    if method not in METHODS:
        raise ValueError(f"found the method {method!r}, expected one of {', '.join(METHODS)}")
    if start not in _STARTS:
        raise ValueError(f"found the start {start!r}, expected one of {', '.join(_STARTS)}")
    given = problem(data=data, seed=seed, device=device)
    model = given.model
    n = max(SAMPLES, 2 * model.dim)
    found = {
        "agreement": given.agreement.value,
        "agreement_error": given.agreement.standard_error,
        "training_seconds": 0.0,
        "training_gradients": 0,
        "gradients_per_sample": 0.0,
    }
    if method == "again":
        return {**found, **_judge(given.again[:n], given, pictures)}
    if method in ONE_STEP:
        began = _clock(model)
        sampler, diverged = last_good(lambda: train(method, model, seed=seed))
        trained = _clock(model)
        x = sampler.sample(n, seed=child_seed(seed, "draws"), noisy=True)
        return {
            **found,
            "diverged": diverged,
            "training_seconds": trained - began,
            "training_gradients": sampler.history.gradient_evaluations,
            "sampling_seconds": _seconds(lambda: sampler.sample(1000, seed=0, noisy=True), model),
            **_judge(x, given, pictures),
        }
    x = _STARTS[start](given, n, seed)
    if method == "hmc":
        began = _clock(model)
        run = mcmc.hmc(model, x, steps=20, warmup=20, seed=child_seed(seed, "chain"))
        evaluations = run.gradient_evaluations_per_sample
        found["gradients_per_sample"] = evaluations
        found["sampling_seconds"] = (_clock(model) - began) * 1000 / n
        return {**found, **_judge(run.samples, given, pictures)}
    ten = x[:1000] if n >= 1000 else x
    adjust = method == "mala"
    per_step = _seconds(
        lambda: mcmc.langevin(model, ten, steps=10, step_size=0.01, adjust=adjust, seed=0), model
    )
    found["seconds_per_step"] = per_step / 10 * 1000 / len(ten)
    best, ending = math.inf, None
    for size in (0.01,) if adjust else step_sizes:
        name = "" if adjust else f"_{size:g}"
        for count, points, evaluations in _segments(model, x, steps, size, adjust, seed):
            lost, each = 1 - len(points) / n, evaluations / n
            enough = lost < 0.5
            distance = energy_distance(points, given.reference).value if enough else math.inf
            found[f"energy_distance{name}_{count}"] = distance
            found[f"frechet{name}_{count}"] = (
                frechet(points, given.reference) if enough else math.inf
            )
            found[f"lost{name}_{count}"] = lost
        if distance < best:
            best, ending, found["gradients_per_sample"] = distance, points, each
    found["sampling_seconds"] = steps[-1] * found["seconds_per_step"]
    if ending is None:
        return {**found, **dict.fromkeys(_MEASURES, math.inf)}
    return {**found, **_judge(ending, given, pictures)}


def paper_cases(*, seeds: int = 10, data: str = "digits", device: str = "cpu") -> list[Case]:
    """All methods, over seeds; Langevin chains from both starts.

    Args:
        seeds: repetitions, each with an energy model of its own.
        data: as for `problem`.
        device: where everything runs.
    """
    shared = {"data": data, "device": device}
    return [
        Case(
            f"{data}-{method}{'' if start == 'normal' else '-pixels'}-{seed}",
            {"method": method, "seed": seed, "start": start, **shared},
        )
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for method in METHODS
        for start in (_STARTS if method == "langevin" else ("normal",))
    ]


def _judge(x: Tensor, given: EnergyProblem, pictures: int) -> dict[str, Any]:
    distance = energy_distance(x, given.reference)
    clean = given.model.denoise(x)
    return {
        "energy_distance": distance.value,
        "energy_distance_error": distance.standard_error,
        "frechet": frechet(x, given.reference),
        "denoised_energy_distance": energy_distance(clean, given.data).value,
        "denoised_frechet": frechet(clean, given.data),
        **({"pictures": clean[:pictures].cpu()} if pictures else {}),
    }


def _segments(
    model: EnergyModel, x: Tensor, steps: Sequence[int], size: float, adjust: bool, seed: int
) -> Iterator[tuple[int, Tensor, int]]:
    """Points of the chains that are finite and evaluations so far, after each number of steps."""
    done = evaluations = 0
    for part, count in enumerate(steps):
        if len(x):
            run = mcmc.langevin(
                model,
                x,
                steps=count - done,
                step_size=size,
                adjust=adjust,
                seed=child_seed(seed, "chain", part),
            )
            x = run.finite
            evaluations += run.gradient_evaluations
        done = count
        yield count, x, evaluations


def _normal(given: EnergyProblem, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(child_seed(seed, "start"))
    x = torch.randn(n, given.model.dim, generator=generator)
    return x.to(device_of(given.model))


def _pixels(given: EnergyProblem, n: int, seed: int) -> Tensor:
    return given.data.mean(0) + given.data.std(0) * _normal(given, n, seed)


_STARTS = {"normal": _normal, "pixels": _pixels}


def _seconds(call: Callable[[], Any], model: EnergyModel) -> float:
    """Time of a call in one thread, the least of several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(6):
            began = _clock(model)
            call()
            times.append(_clock(model) - began)
    finally:
        torch.set_num_threads(before)
    return min(times)


def _clock(model: EnergyModel) -> float:
    """Seconds of processor time, which others on the machine do not lengthen; on CUDA, of time."""
    if device_of(model).type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
