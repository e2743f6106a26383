"""Results of the experiments over seeds, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from ..reproduction import Summary, record
from ..targets import BENCHMARKS
from . import energy, posteriors
from .comparison import HARD, METHODS
from .recipes import PLAIN, REMEDIES

__all__ = ["EIGHT", "equal_steps", "record_energy", "record_planar", "record_posteriors"]

Results = Mapping[str, Mapping[str, Any]]

EIGHT = ("gaussian", "mog2", "rosenbrock", "donut", "funnel", "squiggle", "mog2_hard", "ring8")
"""Targets on which the recipe has to hold."""


def record_planar(results: Results) -> None:
    """Record distances and weights on the planar targets, at paper scale.

    Args:
        results: what `galflow_lite.reproduction.repeat` returned for
            `galflow_lite.neural_samplers.comparison.paper_cases`.
    """
    for target in BENCHMARKS:
        for method in (*METHODS, "langevin-off_centre", "hmc-off_centre"):
            _record_samples(results, target, method)
    for target in HARD:
        for method in REMEDIES:
            _record_samples(results, target, method)
    for method in METHODS:
        each = [_values(results, f"{target}-{method}", "seconds") for target in EIGHT]
        _keep(f"samplers.seconds.{method}", [mean(seed) for seed in zip(*each, strict=True)])
    for method in (*PLAIN, "recipe"):
        _keep(f"samplers.diverged.{method}", _diverged(results, method))
    _record_goal(results)


def _diverged(results: Results, method: str) -> list[float]:
    """Trainings on all targets that ended early, seed by seed."""
    each = [
        [result.get("diverged", 0.0) for name, result in results.items() if _case(name) == case]
        for case in (f"{target}-{method}" for target in BENCHMARKS)
    ]
    return [float(sum(seed)) for seed in zip(*each, strict=True)]


def _record_samples(results: Results, target: str, method: str) -> None:
    case, row = f"{target}-{method}", f"{target}.{method.replace('-', '_')}"
    _keep(f"samplers.energy.{row}", _values(results, case, "energy_distance"))
    floors = _values(results, case, "ksd_floor")
    over = [v / floor for v, floor in zip(_values(results, case, "ksd"), floors, strict=True)]
    _keep(f"samplers.ksd.{row}", over)
    _keep(f"samplers.weights.{row}", [100 * v for v in _values(results, case, "mode_deviation")])


def _record_goal(results: Results) -> None:
    """The worst of the recipe on the eight targets, seed by seed, and how often all is reached."""
    worst: dict[str, list[float]] = {"energy": [], "weights": [], "seconds": []}
    for seed in _seeds(results, f"{EIGHT[0]}-recipe"):
        found = [results[f"{target}-recipe-{seed}"] for target in EIGHT]
        exact = [results[f"{target}-exact-{seed}"] for target in EIGHT]
        pairs = zip(found, exact, strict=True)
        worst["energy"].append(max(a["energy_distance"] - b["energy_distance"] for a, b in pairs))
        worst["weights"].append(100 * max(each.get("mode_deviation", 0.0) for each in found))
        worst["seconds"].append(max(each["seconds"] for each in found))
    for name, values in worst.items():
        _keep(f"samplers.goal.{name}", values)
    met = [float(e < 0.01 and w < 5 and s < 60) for e, w, s in zip(*worst.values(), strict=True)]
    _keep("samplers.goal.share", met)


def record_posteriors(results: Results) -> None:
    """Record means, widths and predictions of the logistic regression, at paper scale.

    Args:
        results: for `galflow_lite.neural_samplers.posteriors.paper_cases`, breast cancer.
    """
    for method in posteriors.METHODS:
        for quantity in (
            "accuracy",
            "log_likelihood",
            "mean_deviation",
            "std_ratio_median",
        ):
            values = _values(results, f"breast_cancer-{method}", quantity)
            _keep(f"samplers.posterior.{method}.{quantity}", values)


def record_energy(results: Results) -> None:
    """Record qualities and equal costs of samplers of the energy model, at paper scale.

    Args:
        results: for `galflow_lite.neural_samplers.energy.paper_cases`, digits.
    """
    for method in energy.METHODS:
        case = f"digits-{method}"
        for quantity in ("energy_distance", "denoised_frechet"):
            _keep(f"samplers.digits.{method}.{quantity}", _values(results, case, quantity))
    for steps in energy.STEPS:
        best = [
            min(curve[steps] for curve in energy.curves(results[name]).values())
            for name in results
            if _case(name) == "digits-langevin"
        ]
        _keep(f"samplers.digits.langevin.{steps}", best)
    for method in energy.ONE_STEP:
        equal = equal_steps(results, method)
        for what in ("steps", "cost_ratio"):
            _keep(f"samplers.digits.{method}.equal_{what}", [getattr(e, what) for e in equal])
        met = [float(e.steps >= 200 and e.cost_ratio >= 100) for e in equal]
        _keep(f"samplers.digits.{method}.equal_share", met)
    _keep("samplers.digits.agreement", _values(results, "digits-again", "agreement"))


def equal_steps(results: Results, method: str) -> list[energy.EqualQuality]:
    """Langevin chains as good as a one-step sampler, in energy distance, seed by seed.

    Args:
        results: as for `record_energy`.
        method: one of `galflow_lite.neural_samplers.energy.ONE_STEP`.
    """
    found = []
    for seed in _seeds(results, f"digits-{method}"):
        one, chain = results[f"digits-{method}-{seed}"], results[f"digits-langevin-{seed}"]
        found.append(
            energy.equal_quality(
                energy.curves(chain),
                one["energy_distance"],
                seconds_per_step=chain["seconds_per_step"],
                sampling_seconds=one["sampling_seconds"],
                training_seconds=one["training_seconds"],
            )
        )
    return found


def _case(name: str) -> str:
    """Name of a run without its seed."""
    return name.rpartition("-")[0]


def _seeds(results: Results, case: str) -> list[str]:
    return [seed for name, _, seed in (name.rpartition("-") for name in results) if name == case]


def _values(results: Results, case: str, quantity: str) -> list[float]:
    """A quantity over seeds; empty where the case was not run or has no such quantity."""
    return [
        result[quantity]
        for name, result in results.items()
        if _case(name) == case and quantity in result
    ]


def _keep(row: str, values: list[float]) -> None:
    # One value says nothing of its scatter; what was not run stays open in the table, which has
    # rows for the comparisons that matter. All numbers are in the file of `shipped.ship`.
    if len(values) > 1:
        record(row, Summary.of(values), scale="paper")
