"""Hold a number of a notebook against its band, and keep it for the table."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from .bands import read_bands
from .environment import Settings
from .paper import rows
from .summaries import Number, Summary, format_number

__all__ = ["REMARK", "OutOfBand", "Record", "check", "record", "records", "remark", "start"]

REMARK = "remark"
"""The id under which :func:`remark` keeps its text."""


class OutOfBand(ValueError):
    """A number lies outside the band that repeated runs gave it."""


@dataclass(frozen=True)
class Record:
    """One number of a run."""

    id: str
    value: Number
    standard_error: float | None
    notebook: str | None
    scale: str
    seed: int | None
    checked: bool
    scatter: float | None = None
    runs: int | None = None
    positive: bool = False
    within: tuple[float, float] | None = None


_settings: Settings | None = None
_records: dict[tuple[str, str], Record] = {}


def start(settings: Settings) -> None:
    """Begin a run: forget the numbers of the one before."""
    global _settings
    _settings = settings
    _records.clear()


def records(scale: str | None = None) -> dict[str, Record]:
    """The numbers of the current run, by id, at its own scale or at the one named."""
    wanted = scale or _scale()
    return {n: found for (n, at), found in _records.items() if at == wanted and n != REMARK}


def current_notebook() -> str | None:
    """The notebook that :func:`galflow_lite.reproduction.settings` was called for."""
    return _settings.notebook if _settings else None


def _scale() -> str:
    return _settings.scale if _settings else "lite"


def record(
    row_id: str,
    value: Any,
    standard_error: float | None = None,
    *,
    scale: str | None = None,
) -> None:
    """Keep a number for the table without holding it against a band, such as a run time.

    Args:
        row_id: a row of ``data/paper_numbers.toml``.
        value: a number (one-element arrays and tensors too), a text, or a :class:`Summary` of
            several runs, of which mean, standard error, scatter and number of runs are kept.
        standard_error: its standard error; a summary brings its own.
        scale: the scale it was measured at, where that is not the scale of the notebook: a GPU
            cell of a lite run records ``scale="paper"``.

    Raises:
        ValueError: the row is not known, or a summary was given a second standard error.
    """
    known = rows()
    if row_id not in known:
        raise ValueError(
            f"row {row_id!r} is not in data/paper_numbers.toml{_similar(row_id, known)}; add it "
            "there, with what it is compared with"
        )
    _keep(row_id, value, standard_error, scale, checked=False)


def remark(text: str, *, scale: str | None = None) -> None:
    """Keep a sentence that stored results of this run carry, such as how often it was repeated.

    Args:
        text: what a reader of the results must know.
        scale: the scale it is about, where that is not the scale of the notebook.
    """
    _keep(REMARK, text, None, scale, checked=False)


def check(
    row_id: str,
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
        row_id: a name in ``data/bands.toml``, or a row with an ``expected`` value.
        value: a number (one-element arrays and tensors too), a :class:`Summary` of several runs,
            whose mean is held against the band, or, for an exact quantity, a text.
        standard_error: its standard error, kept for the table; a summary brings its own.
        positive: whether it is above zero by nature and scatters by factors, such as a divergence:
            its band is then made from logarithms.
        within: lowest and highest value that the quantity can have, such as (0, 1) for a share: its
            band then ends there.

    Raises:
        OutOfBand: the number is outside, or is not a number.
        ValueError: there is no band with this name, or a summary was given a second standard
            error.
    """
    found = _keep(
        row_id, value, standard_error, None, checked=True, positive=positive, within=within
    )
    plain, standard_error = found.value, found.standard_error
    if os.environ.get("GALFLOW_RECORD_ONLY") == "1":
        print(f"{row_id}   recorded, not checked")
        return
    if _settings is not None and not _settings.judged:
        print(f"{row_id}   recorded, not checked: bands hold for the default data")
        return
    row = rows().get(row_id)
    if row is not None and row.expected is not None:
        if plain != row.expected:
            raise OutOfBand(
                f"{row_id} is {format_number(plain)} where exactly {format_number(row.expected)} "
                "was expected: it does not depend on training, so look for a change in the code "
                "or the data"
            )
        print(f"{row_id}   exactly {format_number(row.expected)}   PASS")
        return
    if _scale() != "lite":
        print(f"{row_id}   recorded, not checked: bands hold at lite scale")
        return
    bands = read_bands()
    if row_id not in bands or bands[row_id].sides == "none":
        raise ValueError(
            f"there is no band for {row_id!r} in data/bands.toml{_similar(row_id, bands)}; make it "
            f"with `galflow-lite bands {current_notebook() or 'NOTEBOOK'}`"
        )
    band = bands[row_id]
    if isinstance(plain, str) or not band.low <= plain <= band.high:
        raise OutOfBand(
            f"{row_id} is {format_number(plain, standard_error)} and should be {band}: run the "
            "notebook from the top on a fresh kernel, and if it stays, what you changed moved this "
            f"result (new bands: `galflow-lite bands {current_notebook() or 'NOTEBOOK'}`)"
        )
    print(f"{row_id}   {band}   PASS")


def _keep(
    row_id: str,
    value: Any,
    standard_error: Any,
    scale: str | None,
    *,
    checked: bool,
    positive: bool = False,
    within: tuple[float, float] | None = None,
) -> Record:
    scatter = runs = None
    if isinstance(value, Summary):
        if standard_error is not None:
            raise ValueError(
                f"{row_id} was given a summary of {value.n} runs and a standard error, expected "
                "one of them: a summary brings its own"
            )
        standard_error, scatter, runs = value.standard_error, value.scatter, value.n
        value = value.mean
    found = Record(
        id=row_id,
        value=_plain(value),
        standard_error=None if standard_error is None else float(standard_error),
        notebook=current_notebook(),
        scale=scale or _scale(),
        seed=_settings.seed if _settings else None,
        checked=checked,
        scatter=scatter,
        runs=runs,
        positive=positive,
        within=None if within is None else (float(within[0]), float(within[1])),
    )
    _records[row_id, found.scale] = found
    path = os.environ.get("GALFLOW_RECORD")
    if not path:
        return found
    line = (json.dumps(asdict(found)) + "\n").encode()
    # One write in append mode: a kernel that dies later leaves whole lines behind.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)
    return found


def _plain(value: Any) -> Number:
    """A Python number or text from what notebooks hold: tensors, arrays, numpy numbers."""
    if isinstance(value, str):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(
            f"a check takes one number, and got {type(value).__name__} {value!r:.60}; pass a "
            "single int or float"
        )
    return number


def _similar(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f" (similar: {', '.join(close)})" if close else ""
