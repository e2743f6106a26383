"""Hold a number of a notebook against its band, and keep it for the table of runs."""

from __future__ import annotations

import difflib
import json
import os
from types import SimpleNamespace
from typing import Any

from ..files import append_line
from .bands import read_bands
from .settings import current
from .summaries import Summary, format_number
from .tables import rows

INSIDE, OUTSIDE, OPEN = "✔", "⚠", "–"
_ADVICE = "you changed something, or this machine differs"


def record(
    name: str,
    value: Any,
    standard_error: float | None = None,
    *,
    scale: str | None = None,
) -> None:
    """Keep a number without holding it against a band, such as a run time.

    Args:
        name: what it is called, in parts: ``"samplers.seconds.recipe"``.
        value: a number (one-element arrays and tensors too), a text, or a :class:`Summary` of
            several runs, of which each value is kept with its seed.
        standard_error: its standard error within this run.
        scale: the scale it was measured at, where that is not the scale of the notebook: a GPU
            cell of a lite run records ``scale="paper"``.
    """
    _append(_keep(name, value, standard_error, scale))


def check(
    name: str,
    value: Any,
    *,
    null: float | str | None = None,
    standard_error: float | None = None,
    positive: bool = False,
    within: tuple[float, float] | None = None,
) -> None:
    """Say whether a number lies where fresh seeds put it: one line, and no error.

    A trained number differs a little from machine to machine, so the line of a number that lies
    inside holds its band and not the number. The band comes from repeated runs (``galflow-lite
    bands``) and holds at lite scale; at paper scale the number is kept and not judged. A quantity
    that is fixed before training (``expected`` in ``data/paper_numbers.toml``) is compared
    exactly, at any scale.

    Args:
        name: of a band in ``data/bands.toml``, or of a row with an ``expected`` value.
        value: a number (one-element arrays and tensors too), a :class:`Summary` of several runs,
            whose mean is held against the band, or, for an exact quantity, a text.
        null: what the number would be if nothing had been learned, by the rival, or by definition,
            or the name of the number that it must not be: a band that holds it is refused when it
            is made.
        standard_error: its standard error, kept for the table; a summary brings its own.
        positive: whether it is above zero by nature and scatters by factors, such as a divergence:
            its band is then made from logarithms.
        within: lowest and highest value that the quantity can have, such as (0, 1) for a share: its
            band then ends there.
    """
    about = {"null": null.item() if hasattr(null, "item") else null, "within": within}
    found = _keep(name, value, standard_error, checked=True, positive=positive, **about)
    _print(found, *_judge(found))


def tell(name: str, good: bool, said: str) -> None:
    """Print the outcome of a comparison that has no band, and keep it as that of `check`."""
    _print(_keep(name, said), INSIDE if good else OUTSIDE, said)


def note_kept(row: str, path: Any) -> None:
    """Remember that runs of a repeated experiment are kept in a file."""
    _append(_keep(row, str(path), kept=str(path)))


def _judge(found: SimpleNamespace) -> tuple[str, str]:
    """A sign, and what there is to say."""
    run, row, value = current(), rows().get(found.id), format_number(found.value)
    if not run.judged:
        return OPEN, "kept: bands hold for the default data"
    if row is not None and row.expected is not None:
        expected = format_number(row.expected)
        if found.value == row.expected:
            return INSIDE, f"exactly {expected}"
        return OUTSIDE, f"{value} in place of exactly {expected}: {_ADVICE}"
    if run.scale != "lite":
        return OPEN, "kept: bands hold at lite scale"
    bands = read_bands()
    if (band := bands.get(found.id)) is None:
        close = ", ".join(difflib.get_close_matches(found.id, list(bands))) or "none"
        return OPEN, f"no band (similar names: {close}): galflow-lite bands {found.notebook}"
    null = "" if band.null is None else f" (null: {band.null:.4g})"
    if not isinstance(found.value, str) and band.low <= found.value <= band.high:
        return INSIDE, f"in its usual range {band}{null}"
    return OUTSIDE, f"{value} is outside its usual range {band}{null}: {_ADVICE}"


def _keep(
    name: str,
    value: Any,
    standard_error: Any = None,
    scale: str | None = None,
    **more: Any,
) -> SimpleNamespace:
    run, values, seeds = current(), None, None
    if isinstance(value, Summary):
        values, seeds = value.values, value.seeds or tuple(range(value.n))
        value, standard_error = value.mean, value.standard_error
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name} is {value!r:.60}, expected a single number: pass an int or float")
    error = None if standard_error is None else float(standard_error)
    line = dict(id=name, value=value, standard_error=error, values=values, seeds=seeds)
    line |= dict(notebook=run.notebook, scale=scale or run.scale, seed=run.seed)
    return SimpleNamespace(**line, **{"checked": False, **more})


def _print(found: SimpleNamespace, sign: str, said: str) -> None:
    found.sign, found.said = sign, said
    _append(found)
    print(f"{found.id}   {sign} {said}")


def _append(found: SimpleNamespace) -> None:
    if path := os.environ.get("GALFLOW_RECORD"):
        append_line(path, json.dumps(vars(found)))
