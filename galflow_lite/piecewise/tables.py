"""Results of the paper's experiments over seeds, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reproduction import Summary, record
from .comparison import MODELS, TARGETS

__all__ = ["over_seeds", "record_tables"]

Results = Mapping[str, Mapping[str, Any]]


def over_seeds(results: Results, case: str, quantity: str) -> Summary:
    """One quantity of a case, summarised over its seeds.

    Args:
        results: What :func:`galflow_lite.reproduction.repeat` returned for
            :func:`galflow_lite.piecewise.comparison.paper_cases`.
        case: Name of the case without its seed, such as ``"moons-maf-paper"``.
        quantity: A number that the experiment returned, such as ``"reverse"``.

    Raises:
        ValueError: On a case that was run with fewer than two seeds, or a value that is not finite.
    """
    return Summary.of(_values(results, case, quantity))


def record_tables(results: Results) -> None:
    """Record every row of arXiv:2305.02930 that the results answer, at paper scale."""
    for target in TARGETS:
        for model in MODELS:
            _record_model(results, target, model)
        _record_kl(results, f"{target}-pieces-equal_joint", f"pieces.equal.{target}.joint")
    for shared in ("maf", "real_nvp"):
        _record(f"pieces.clustering.{shared}", results, f"rings-{shared}-paper", "reverse")
    _record_clustering(results, "kmeans", "rings-pieces-paper")
    for algorithm in ("mini_batch_kmeans", "mean_shift", "spectral", "agglomerative", "birch"):
        _record_clustering(results, algorithm, f"rings-{algorithm}")
        faulty = f"rings-{algorithm}-label_error"
        if algorithm != "mean_shift":
            _record(f"pieces.clustering.{algorithm}.label_error", results, faulty, "paper_forward")
            _record(f"pieces.clustering.{algorithm}.lost", results, faulty, "lost")
    _record(
        "pieces.clustering.mean_shift.paper_forward", results, "rings-mean_shift", "paper_forward"
    )
    for name in ("power", "power_half_year", "gas", "hepmass", "miniboone"):
        for model in ("maf", "pieces"):
            row = f"pieces.uci.{name}.{model}"
            _record(row, results, f"{name}-{model}", "log_likelihood")


def _record_model(results: Results, target: str, model: str) -> None:
    case, row = f"{target}-{model}-paper", f"pieces.kl.{target}.{model}"
    _record(row, results, case, "reverse")
    _record(f"{row}.paper_estimator", results, case, "paper_estimator")
    _record(f"{row}.forward", results, case, "forward")
    _record(f"pieces.epochs.{target}.{model}", results, case, "epochs")
    _record(f"pieces.seconds.{target}.{model}", results, case, "seconds")
    # The single flow has the size that the others are held to: its runs serve both comparisons.
    equal = case if model == "maf" else f"{target}-{model}-equal"
    _record_kl(results, equal, f"pieces.equal.{target}.{model}")
    unit = over_seeds(results, f"{target}-maf-paper", "cost").mean
    seen = [cost / unit for cost in _values(results, case, "cost")]
    if model == "real_nvp":
        record(f"pieces.cost.{target}.{model}.points_seen", Summary.of(seen), scale="paper")
        # The paper counts as many points as the single flow has, which RealNVP did not see.
        points = over_seeds(results, f"{target}-maf-paper", "points").mean
        own = _values(results, case, "points")
        seen = [cost * points / n for cost, n in zip(seen, own, strict=True)]
    record(f"pieces.cost.{target}.{model}", Summary.of(seen), scale="paper")


def _record_kl(results: Results, case: str, row: str) -> None:
    _record(f"{row}.forward", results, case, "forward")
    _record(f"{row}.reverse", results, case, "reverse")
    # A single run that blows up carries a mean.
    median = over_seeds(results, case, "forward").median
    record(f"{row}.forward_median", median, scale="paper")


def _record_clustering(results: Results, algorithm: str, case: str) -> None:
    _record(f"pieces.clustering.{algorithm}", results, case, "reverse")
    _record(f"pieces.clustering.{algorithm}.forward", results, case, "forward")


def _record(row: str, results: Results, case: str, quantity: str) -> None:
    """Record a row where its case was run."""
    values = _values(results, case, quantity)
    if values:
        record(row, Summary.of(values), scale="paper")


def _values(results: Results, case: str, quantity: str) -> list[float]:
    return [result[quantity] for name, result in results.items() if name.rpartition("-")[0] == case]
