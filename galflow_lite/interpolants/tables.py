"""Results of the paper's experiments over seeds, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reproduction import Summary, record
from .comparison import ABLATIONS, COUPLINGS, EULER_STEPS, TASKS

__all__ = ["over_seeds", "ratio", "record_tables"]

Results = Mapping[str, Mapping[str, Any]]

RATIO_STEPS = {"": 20, ".1": 1, ".50": 50}
"""Ending of a row to the Euler steps of its ratio."""


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


def ratio(
    results: Results, data: str, task: str, quantity: str, *, kinds: tuple[str, str] = COUPLINGS
) -> Summary:
    """A quantity of the dependent model over that of the uncoupled one, seed by seed.

    Args:
        results: as for `over_seeds`.
        data: "hubble", "parametric" or "galaxy_zoo".
        task: "inpainting" or "super_resolution".
        quantity: a number that `compare_couplings` returned.
        kinds: other kinds to be compared, the one above first.

    Raises:
        ValueError: as for `over_seeds`.
    """
    pair = [_values(results, f"{data}-{task}-{kind}", quantity) for kind in kinds]
    return Summary.of([a / b for a, b in zip(*pair, strict=True)])


def record_tables(results: Results) -> None:
    """Record every row of arXiv:2310.03725 that the results answer, at paper scale.

    In-painting is compared with the known pixels put back (they are there in any case for the
    dependent model), so that no model loses by pixels it was given.
    """
    for task in TASKS:
        for kind in COUPLINGS:
            _record_model(results, task, kind)
        for ending, n in RATIO_STEPS.items():
            found = ratio(results, "hubble", task, _fair(task, n))
            _keep(f"interpolants.ratio.{task}{ending}", found)
        _keep(f"interpolants.cost.{task}", ratio(results, "hubble", task, "transport_cost"))
        _record_parts(results, task)
        for data in ("parametric", "galaxy_zoo"):
            if not _values(results, f"{data}-{task}-dependent", "frechet_20"):
                continue
            _keep(f"interpolants.ratio.{data}.{task}", ratio(results, data, task, _fair(task, 20)))
            for kind in COUPLINGS:
                found = over_seeds(results, f"{data}-{task}-{kind}", _fair(task, 20))
                _keep(f"interpolants.frechet.{data}.{task}.{kind}.20", found)
    found = ratio(results, "hubble", "inpainting", "frechet_20")
    _keep("interpolants.ratio.inpainting.unpasted", found)


def _record_model(results: Results, task: str, kind: str) -> None:
    case, row = f"hubble-{task}-{kind}", f"{task}.{kind}"
    for n in EULER_STEPS:
        _keep(f"interpolants.frechet.{row}.{n}", over_seeds(results, case, f"frechet_{n}"))
        if (task, kind) == ("inpainting", "uncoupled"):
            found = over_seeds(results, case, f"frechet_pasted_{n}")
            _keep(f"interpolants.frechet.inpainting.pasted.{n}", found)
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


def _record_parts(results: Results, task: str) -> None:
    """The ratio of both couplings as a product of two: by way of the kind between them."""
    between = ABLATIONS[task]
    found = over_seeds(results, f"hubble-{task}-{between}", _fair(task, 20))
    _keep(f"interpolants.frechet.{task}.{between}.20", found)
    for part, kinds in (("first", (between, "uncoupled")), ("second", ("dependent", between))):
        for ending, n in (("", 20), (".50", 50)):
            found = ratio(results, "hubble", task, _fair(task, n), kinds=kinds)
            _keep(f"interpolants.part.{task}.{part}{ending}", found)


def _fair(task: str, n: int) -> str:
    return f"frechet_pasted_{n}" if task == "inpainting" else f"frechet_{n}"


def _keep(row: str, found: Summary) -> None:
    record(row, found, scale="paper")


def _values(results: Results, case: str, quantity: str) -> list[float]:
    return [result[quantity] for name, result in results.items() if name.rpartition("-")[0] == case]
