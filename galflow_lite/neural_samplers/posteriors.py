"""Posteriors of logistic regressions: how wide each method leaves them, and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor

from .. import mcmc
from ..data import covertype
from ..metrics import energy_distance
from ..reproduction import Case
from ..seeds import child_seed
from ..targets import BayesianLogisticRegression, Target
from .recipes import FIRST_SEED, last_good
from .training import train_sampler

__all__ = [
    "DATA",
    "METHODS",
    "ONE_STEP",
    "PosteriorProblem",
    "ReferencePosterior",
    "compare_posterior",
    "paper_cases",
    "problem",
    "reference_posterior",
    "split_r_hat",
]

SAMPLES = 2000
"""Draws of a method that are judged, and of the reference that they are compared with."""

ONE_STEP: dict[str, Mapping[str, Any]] = {
    "kl": {"method": "kl"},
    "kl_mini": {"method": "kl", "mini_batch": True},
    "dft": {"method": "dft"},
    "dft_mini": {"method": "dft", "mini_batch": True, "independent_scores": False},
    "dft_two": {"method": "dft", "mini_batch": True, "independent_scores": True},
}
"""One-step samplers, by what sets them apart: the loss, whether its scores of the target come from
a mini-batch, and whether its two factors get two independent ones. All else is `_TRAINING`."""

METHODS = ("constant", "laplace", "reference_again", "hmc", "langevin", "svgd", *ONE_STEP)

# The defaults of train_sampler, but for networks twice as wide, with one layer less: narrower ones
# leave all directions too narrow in 32 dimensions.
_TRAINING = {"steps": 2000, "hidden": (128, 128), "progress": False}

_COVERTYPE_ROWS = 10_000


@dataclass(frozen=True, eq=False)
class PosteriorProblem:
    """A logistic regression and the rows that it is judged on.

    Attributes:
        name: of the data.
        target: posterior given the training rows, with the score of all of them.
        design: test rows, shape (rows, columns), without the bias, scaled as the training rows.
        labels: shape (rows,).
        batch_size: rows of a mini-batch, where one is used.
    """

    name: str
    target: BayesianLogisticRegression
    design: np.ndarray
    labels: np.ndarray
    batch_size: int


@dataclass(frozen=True, eq=False)
class ReferencePosterior:
    """A long run of chains, and how far it can be trusted.

    Standard errors come from the scatter of the chains, which are independent of each other; so
    they need no model of the correlations within a chain.

    Attributes:
        samples: `SAMPLES` draws in Laplace coordinates, shape (n, dim), evenly spaced in each
            chain.
        mean: of all draws, in the original coordinates, shape (dim,).
        std: alike.
        r_hat: `split_r_hat` of each Laplace coordinate, shape (dim,).
        effective_samples: of the means, shape (dim,): variance over squared standard error.
        std_error: relative standard error of `std`, shape (dim,).
        gradient_evaluations: with the warm-up.
        seconds: wall time.
    """

    samples: Tensor
    mean: Tensor
    std: Tensor
    r_hat: Tensor
    effective_samples: Tensor
    std_error: Tensor
    gradient_evaluations: int
    seconds: float


@lru_cache(maxsize=4)
def problem(name: str, *, folder: str | Path | None = None) -> PosteriorProblem:
    """A posterior and its test rows, the same ones in every call.

    "breast_cancer": 569 rows of 30 columns that ship with scikit-learn, 30 % of them for testing,
    mini-batches of 100. "covertype": class 2 against the rest, 10,000 rows for training and as
    many for testing, drawn at random from the 581,012; mini-batches of 500. Both parts have the
    same shares of the classes. Columns are centred and scaled by the training rows (of the cover
    types the ten measured ones; the others are indicators), and one of ones follows.

    Args:
        name: one of `DATA`.
        folder: where "covertype" has been fetched to, see `galflow_lite.data.covertype`.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: "covertype" has not been fetched.
    """
    if name not in DATA:
        raise ValueError(f"found the data {name!r}, expected one of {', '.join(DATA)}")
    x, y, sizes, scaled, batch_size = DATA[name](folder)
    train, test, train_labels, labels = train_test_split(x, y, **sizes, stratify=y, random_state=0)
    centre, scale = train[:, :scaled].mean(0), train[:, :scaled].std(0)
    for part in (train, test):
        part[:, :scaled] = (part[:, :scaled] - centre) / scale
    target = BayesianLogisticRegression(train, train_labels, bias=True)
    return PosteriorProblem(name, target, test, labels, batch_size)


def reference_posterior(
    target: BayesianLogisticRegression,
    *,
    chains: int = 100,
    steps: int = 600,
    warmup: int = 150,
    leapfrog_steps: int = 15,
    target_acceptance: float = 0.9,
    spread: float = 2.0,
    seed: int = 0,
) -> ReferencePosterior:
    """Hamiltonian chains in Laplace coordinates, from starts wider than the Laplace fit.

    Args:
        target: the posterior, with the score of all rows.
        chains: how many; their scatter is what the errors come from.
        steps: of each, after the warm-up.
        warmup: steps that find the step size and are dropped.
        leapfrog_steps: of each step.
        target_acceptance: as in `mcmc.hmc`; high, for the posterior narrows where alpha is large,
            and chains with long steps stay out of there for long.
        spread: starts are drawn from N(0, spread^2 I).
        seed: of starts and chains, two streams.

    Raises:
        ValueError: fewer than 4 chains or 4 steps, or than `SAMPLES` positions in all; otherwise
            as `mcmc.hmc`.
    """
    if chains < 4 or steps < 4 or chains * steps < SAMPLES:
        raise ValueError(
            f"found {chains} chains of {steps} steps, expected at least 4 of each and {SAMPLES} "
            "positions in all: take 100 chains of 600 steps"
        )
    whitened = target.whitened()
    generator = torch.Generator().manual_seed(child_seed(seed, "start"))
    start = spread * torch.randn(chains, target.dim, generator=generator, dtype=torch.float64)
    run = mcmc.hmc(
        whitened,
        start,
        steps=steps,
        warmup=warmup,
        leapfrog_steps=leapfrog_steps,
        target_acceptance=target_acceptance,
        seed=seed,
        keep_every=1,
    )
    x = whitened.to_original(run.path.flatten(0, 1)).reshape(run.path.shape)
    mean = x.mean((0, 1))
    squares = (x - mean).square().mean(0)
    variance = squares.mean(0)
    mean_error = x.mean(0).std(0) / math.sqrt(chains)
    kept = torch.linspace(0, steps - 1, math.ceil(SAMPLES / chains)).long()
    return ReferencePosterior(
        samples=run.path[kept].flatten(0, 1)[-SAMPLES:],
        mean=mean,
        std=variance.sqrt(),
        r_hat=split_r_hat(run.path),
        effective_samples=variance / mean_error.square(),
        std_error=squares.std(0) / math.sqrt(chains) / (2 * variance),
        gradient_evaluations=run.gradient_evaluations,
        seconds=run.seconds,
    )


def split_r_hat(path: Tensor) -> Tensor:
    r"""Potential scale reduction of chains cut into halves (Gelman et al., Bayesian Data Analysis).

    With W the mean variance within the m half chains of n steps and B / n the variance of their
    means, :math:`\hat R = \sqrt{(n - 1) / n + (B / n) / W}`. It is 1 up to noise where all of them
    have seen the same law, and above where some have not, or drift.

    Args:
        path: positions, shape (steps, chains, dim); of an odd number of steps the first is left
            out.

    Returns:
        Shape (dim,).

    Raises:
        ValueError: another shape, fewer than 4 steps, or a coordinate that never moves.
    """
    if path.ndim != 3 or len(path) < 4:
        raise ValueError(
            f"path has shape {tuple(path.shape)}, expected (steps, chains, dim) with at least 4 "
            "steps: keep more positions with keep_every"
        )
    n = len(path) // 2
    halves = torch.cat([path[-2 * n : -n], path[-n:]], dim=1)
    within = halves.var(0).mean(0)
    still = int((within <= 0).sum())
    if still:
        raise ValueError(
            f"{still} of {path.shape[2]} coordinates never move, expected chains that do: look at "
            "their acceptance and their step size"
        )
    return ((n - 1) / n + halves.mean(0).var(0) / within).sqrt()


def compare_posterior(
    *, data: str, method: str, seed: int, folder: str | None = None
) -> dict[str, float]:
    """Draw from a posterior by a method, and compare it with the reference.

    All methods work in Laplace coordinates, where the Gaussian fit is N(0, I), and begin there.
    Of one-step samplers the noised samples are taken: theirs is the law that is trained.

    Args:
        data: one of `DATA`.
        method: one of `METHODS`. "constant" predicts the share of the labels; "laplace" draws from
            the Gaussian fit; "reference_again" is a second run of the reference, the floor of all
            distances; "hmc", "langevin" (unadjusted) and "svgd" are short runs; for the others see
            `ONE_STEP`.
        seed: of the method; data and reference are always the same.
        folder: see `problem`.

    Returns:
        ``accuracy`` and ``log_likelihood`` of the test rows; ``mean_deviation``, root mean square
        over the coordinates of the shift of the mean in standard deviations of the reference;
        ``std_ratio_median``, ``_min`` and ``_max`` over the weights and ``std_ratio_log_alpha``,
        standard deviations over those of the reference; ``energy_distance`` in Laplace coordinates
        with ``_error``; ``seconds`` of processor time (``sampling_seconds`` thereof, after a
        training, for 1,000 draws) and ``gradient_evaluations``, each over all rows or a
        mini-batch; of one-step samplers ``diverged`` as `comparison.draw` has it. For "constant"
        the first two alone.

    Raises:
        ValueError: an unknown method or unknown data.
        FileNotFoundError: data that have not been fetched.
    """
    if method not in METHODS:
        raise ValueError(f"found the method {method!r}, expected one of {', '.join(METHODS)}")
    given = problem(data, folder=folder)
    target = given.target
    if method == "constant":
        prediction = target.constant_classifier(given.labels)
        return {
            "accuracy": prediction.accuracy,
            "log_likelihood": prediction.log_likelihood,
        }
    reference = _reference(data, folder)
    began = time.process_time()
    u, cost = _draw(method, given, seed)
    seconds = time.process_time() - began
    x = target.whitened().to_original(u)
    prediction = target.evaluate(x, given.design, given.labels)
    ratio = x.std(0) / reference.std
    distance = energy_distance(u, reference.samples)
    shift = (x.mean(0) - reference.mean) / reference.std
    return {
        "accuracy": prediction.accuracy,
        "log_likelihood": prediction.log_likelihood,
        "mean_deviation": float(shift.square().mean().sqrt()),
        "std_ratio_median": float(ratio[:-1].median()),
        "std_ratio_min": float(ratio[:-1].min()),
        "std_ratio_max": float(ratio[:-1].max()),
        "std_ratio_log_alpha": float(ratio[-1]),
        "energy_distance": distance.value,
        "energy_distance_error": distance.standard_error,
        "seconds": seconds,
        **cost,
    }


def paper_cases(
    *, seeds: int = 10, data: str = "breast_cancer", folder: str | Path | None = None
) -> list[Case]:
    """All methods on one set of data, over seeds.

    Args:
        seeds: repetitions; data and reference are always the same.
        data: one of `DATA`.
        folder: see `problem`.
    """
    options = {} if folder is None else {"folder": str(folder)}
    return [
        Case(f"{data}-{method}-{seed}", {"data": data, "method": method, "seed": seed, **options})
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for method in METHODS
    ]


def _breast_cancer(folder: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any], int, int]:
    x, y = load_breast_cancer(return_X_y=True)
    return x, y, {"test_size": 0.3}, x.shape[1], 100


def _cover_types(folder: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any], int, int]:
    x, y = covertype(folder)
    sizes = {"train_size": _COVERTYPE_ROWS, "test_size": _COVERTYPE_ROWS}
    return x, (y == 2).astype(np.int64), sizes, 10, 500


DATA: dict[str, Callable[[Any], tuple[np.ndarray, np.ndarray, dict[str, Any], int, int]]] = {
    "breast_cancer": _breast_cancer,
    "covertype": _cover_types,
}
"""Rows, labels, sizes of the parts, columns to be scaled (the first so many), and the size of a
mini-batch."""


# One for all methods and seeds of a process.
@lru_cache(maxsize=4)
def _reference(data: str, folder: str | None) -> ReferencePosterior:
    return reference_posterior(problem(data, folder=folder).target)


def _draw(method: str, given: PosteriorProblem, seed: int) -> tuple[Tensor, dict[str, float]]:
    """Draws in Laplace coordinates, and what they cost once the data are there."""
    whitened = given.target.whitened()
    if method == "laplace":
        generator = torch.Generator().manual_seed(seed)
        u = torch.randn(SAMPLES, whitened.dim, generator=generator, dtype=torch.float64)
        return u, _cost(0)
    if method == "reference_again":
        # Its starts and chains share no random number with those of the reference.
        again = reference_posterior(given.target, seed=child_seed(seed, "again"))
        return again.samples, _cost(again.gradient_evaluations)
    if method in _CHAINS:
        chains = _CHAINS[method](whitened, seed)
        return chains.samples, _cost(chains.gradient_evaluations)
    return _one_step(method, given, seed)


_CHAINS: dict[str, Callable[[Target, int], mcmc.Chains]] = {
    "hmc": lambda target, seed: mcmc.hmc(
        target, SAMPLES, steps=10, warmup=20, leapfrog_steps=10, seed=seed
    ),
    "langevin": lambda target, seed: mcmc.langevin(
        target, SAMPLES, steps=300, step_size=0.05, seed=seed
    ),
    # Every step looks at all pairs of particles.
    "svgd": lambda target, seed: mcmc.svgd(target, 500, steps=300, seed=seed),
}


def _cost(evaluations: int) -> dict[str, float]:
    return {"sampling_seconds": math.nan, "gradient_evaluations": evaluations}


def _one_step(method: str, given: PosteriorProblem, seed: int) -> tuple[Tensor, dict[str, float]]:
    options = dict(ONE_STEP[method])
    target = given.target
    if options.pop("mini_batch", False):
        target = target.with_batches(given.batch_size, seed=child_seed(seed, "batches"))
    sampler, diverged = last_good(
        lambda: train_sampler(target.whitened(), seed=seed, **_TRAINING, **options)
    )
    began = time.process_time()
    sampler.sample(1000, seed=child_seed(seed, "draws"), noisy=True)
    drawing = time.process_time() - began
    u = sampler.sample(SAMPLES, seed=child_seed(seed, "draws"), noisy=True).double()
    return u, {
        "sampling_seconds": drawing,
        "gradient_evaluations": sampler.history.gradient_evaluations,
        "diverged": diverged,
    }
