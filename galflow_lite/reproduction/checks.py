"""Hold a number of a notebook against its band, and keep it for the table."""

from __future__ import annotations

import difflib
import json
import os
from types import SimpleNamespace
from typing import Any

from ..files import append_line
from .bands import read_bands
from .rows import Summary, format_number, rows
from .settings import current

REMARK = "remark"
"""The name under which :func:`remark` keeps its text."""


class OutOfBand(ValueError):
    """A number lies outside the band that repeated runs gave it."""


def records(scale: str | None = None) -> dict[str, SimpleNamespace]:
    """The numbers of the current run, by name, at its own scale or at the one named.

    Each has ``value``, ``standard_error``, ``scatter`` over so many ``runs``, and whether it was
    ``checked``.
    """
    run = current()
    wanted = scale or run.scale
    return {
        name: kept for (name, at), kept in run.records.items() if at == wanted and name != REMARK
    }


def record(
    name: str, value: Any, standard_error: float | None = None, *, scale: str | None = None
) -> None:
    """Keep a number without holding it against a band, such as a run time.

    Args:
        name: what it is called, in parts: ``"samplers.seconds.recipe"``. The table shows it where
            this is a row of ``data/paper_numbers.toml``.
        value: a number (one-element arrays and tensors too), a text, or a :class:`Summary` of
            several runs, of which mean, standard error, scatter and number of runs are kept.
        standard_error: its standard error; a summary brings its own.
        scale: the scale it was measured at, where that is not the scale of the notebook: a GPU
            cell of a lite run records ``scale="paper"``.
    """
    _keep(name, value, standard_error, scale)


def remark(text: str, *, scale: str | None = None) -> None:
    """Keep a sentence that stored results of this run carry, such as how often it was repeated.

    Args:
        text: what a reader of the results must know.
        scale: the scale it is about, where that is not the scale of the notebook.
    """
    _keep(REMARK, text, scale=scale)


def check(
    name: str,
    value: Any,
    *,
    standard_error: float | None = None,
    positive: bool = False,
    within: tuple[float, float] | None = None,
) -> None:
    """Hold a number against its band: print one line with the verdict, raise when it is outside.

    A trained number differs a little from machine to machine, so the line holds the band and the
    verdict and not the number. Its band comes from repeated runs (``galflow-lite bands``) and holds
    at lite scale; at paper scale the number is kept and not judged. A quantity that is fixed before
    training (``expected`` in ``data/paper_numbers.toml``) is compared exactly, at any scale.

    Args:
        name: of a band in ``data/bands.toml``, or of a row with an ``expected`` value.
        value: a number (one-element arrays and tensors too), a :class:`Summary` of several runs,
            whose mean is held against the band, or, for an exact quantity, a text.
        standard_error: its standard error, kept for the table; a summary brings its own.
        positive: whether it is above zero by nature and scatters by factors, such as a divergence:
            its band is then made from logarithms.
        within: lowest and highest value that the quantity can have, such as (0, 1) for a share: its
            band then ends there.

    Raises:
        OutOfBand: the number is outside, or is not a number.
        ValueError: there is no band with this name.
    """
    found = _keep(name, value, standard_error, checked=True, positive=positive, within=within)
    run, row, reason = current(), rows().get(name), ""
    if os.environ.get("GALFLOW_RECORD_ONLY") == "1":
        reason = "recorded, not checked"
    elif not run.judged:
        reason = "recorded, not checked: bands hold for the default data"
    elif row is not None and row.expected is not None:
        reason = f"exactly {format_number(row.expected)}   PASS"
        if found.value != row.expected:
            raise OutOfBand(
                f"{name} is {format_number(found.value)} where exactly "
                f"{format_number(row.expected)} was expected: it does not depend on training, so "
                "look for a change in the code or the data"
            )
    elif run.scale != "lite":
        reason = "recorded, not checked: bands hold at lite scale"
    print(f"{name}   {reason or _held(found)}")


def _held(found: SimpleNamespace) -> str:
    bands = read_bands()
    band = bands.get(found.id)
    command = f"`galflow-lite bands {found.notebook or 'NOTEBOOK'}`"
    if band is None or band.sides == "none":
        close = ", ".join(difflib.get_close_matches(found.id, list(bands)))
        raise ValueError(
            f"there is no band for {found.id!r} in data/bands.toml (similar: {close or 'none'}): "
            f"make it with {command}"
        )
    if isinstance(found.value, str) or not band.low <= found.value <= band.high:
        raise OutOfBand(
            f"{found.id} is {format_number(found.value, found.standard_error)} and should be "
            f"{band}: run the notebook from the top on a fresh kernel, and if it stays, what you "
            f"changed moved this result (new bands: {command})"
        )
    return f"{band}   PASS"


def _keep(
    name: str, value: Any, standard_error: Any = None, scale: str | None = None, **more: Any
) -> SimpleNamespace:
    run, scatter, n = current(), None, None
    if isinstance(value, Summary):
        standard_error, scatter, n = value.standard_error, value.scatter, value.n
        value = value.mean
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{name} is {value!r:.60}, expected a single number: pass an int or float")
    error = None if standard_error is None else float(standard_error)
    line = dict(id=name, value=value, standard_error=error, scatter=scatter, runs=n, checked=False)
    line |= dict(notebook=run.notebook, scale=scale or run.scale, seed=run.seed) | more
    if path := os.environ.get("GALFLOW_RECORD"):
        append_line(path, json.dumps(line))
    run.records[name, line["scale"]] = SimpleNamespace(**line)
    return run.records[name, line["scale"]]
