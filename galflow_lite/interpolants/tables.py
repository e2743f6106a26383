"""Results of the paper's experiments over seeds, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reproduction import Summary, record
from .comparison import COUPLINGS, EULER_STEPS, TASKS

__all__ = ["over_seeds", "ratio", "record_tables"]

Results = Mapping[str, Mapping[str, Any]]


def over_seeds(results: Results, case: str, quantity: str) -> Summary:
    """One quantity of a case, summarised over its seeds.

    Args:
        results: what `galflow_lite.reproduction.repeat` returned for
            `galflow_lite.interpolants.comparison.paper_cases`.
        case: name of the case without its seed, such as "hubble-inpainting-dependent".
        quantity: a number that `compare_couplings` returned, such as "frechet_20".

    Raises:
        ValueError: a case that was run with fewer than two seeds, or a value that is not finite.
    """
    return Summary.of(_values(results, case, quantity))


def ratio(results: Results, data: str, task: str, quantity: str) -> Summary:
    """A quantity of the dependent model over that of the uncoupled one, seed by seed.

    Raises:
        ValueError: as for `over_seeds`.
    """
    pair = [_values(results, f"{data}-{task}-{kind}", quantity) for kind in COUPLINGS]
    return Summary.of([a / b for a, b in zip(*pair, strict=True)])


def record_tables(results: Results) -> None:
    """Record every row of arXiv:2310.03725 that the results answer, at paper scale."""
    for task in TASKS:
        for kind in COUPLINGS:
            _record_model(results, task, kind)
        _keep(f"interpolants.ratio.{task}", ratio(results, "hubble", task, "frechet_20"))
        _keep(f"interpolants.cost.{task}", ratio(results, "hubble", task, "transport_cost"))
        for data in ("parametric", "galaxy_zoo"):
            if not _values(results, f"{data}-{task}-dependent", "frechet_20"):
                continue
            _keep(f"interpolants.ratio.{data}.{task}", ratio(results, data, task, "frechet_20"))
            for kind in COUPLINGS:
                found = over_seeds(results, f"{data}-{task}-{kind}", "frechet_20")
                _keep(f"interpolants.frechet.{data}.{task}.{kind}.20", found)


def _record_model(results: Results, task: str, kind: str) -> None:
    case, row = f"hubble-{task}-{kind}", f"{task}.{kind}"
    for n in EULER_STEPS:
        found = over_seeds(results, case, f"frechet_{n}")
        _keep(f"interpolants.frechet.{row}.{n}", found)
    if (task, kind) == ("inpainting", "uncoupled"):
        found = over_seeds(results, case, "frechet_pasted_20")
        _keep("interpolants.frechet.inpainting.pasted.20", found)
    _keep(f"interpolants.frechet_train.{row}", over_seeds(results, case, "frechet_train"))
    for tolerance in ("1e-2", "1e-3"):
        found = over_seeds(results, case, f"evaluations_{tolerance}")
        _keep(f"interpolants.evaluations.{row}.{tolerance}", found)
    bent = [
        energy / cost - 1
        for energy, cost in zip(
            _values(results, case, "kinetic_energy"),
            _values(results, case, "transport_cost"),
            strict=True,
        )
    ]
    _keep(f"interpolants.straightness.{row}", Summary.of(bent))


def _keep(row: str, found: Summary) -> None:
    record(row, found, scale="paper")


def _values(results: Results, case: str, quantity: str) -> list[float]:
    return [result[quantity] for name, result in results.items() if name.rpartition("-")[0] == case]
