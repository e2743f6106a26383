"""The one door for what people hand over: arrays, tables, tensors, numbers and names.

Every public entry point passes its arguments through these functions once. What comes out has one
type, byte order and memory layout, so the code behind it checks nothing again. What nobody can mean
raises a ValueError of one sentence: what was found, what was expected, and what to do.
"""

from __future__ import annotations

import math
import operator
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["as_array", "as_choice", "as_number", "as_tensor", "as_whole", "column_names"]

_waits = ContextVar("_waits", default=True)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Values of tensors on a GPU are not looked at in here: each look waits for all before it.

    For the steps of a training, whose data came through a door and whose loss tells of NaN.
    """
    token = _waits.set(False)
    try:
        yield
    finally:
        _waits.reset(token)


def may_look(x: Tensor) -> bool:
    """Whether values of x are at hand, or worth the wait."""
    return x.device.type == "cpu" or _waits.get()


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device. CUDA reads the memory of the host before it answers, and need not finish."""
    return x.to(device, non_blocking=device.type == "cuda")


def finest(device: torch.device) -> torch.dtype:
    """Double precision; single on Apple's devices, which have no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_array(
    value: Any,
    name: str,
    shape: Sequence[int | str] | None = None,
    *,
    dtype: Any = np.float64,
    columns: Sequence[str] | None = None,
    finite: bool = True,
    infinite: bool = False,
) -> np.ndarray:
    """Turn what a person hands over into a contiguous numpy array of the machine's byte order.

    Args:
        value: array of any type and layout, masked array, DataFrame, Series, structured array,
            mapping of columns, tensor on any device, or nested lists.
        name: what error messages call it.
        shape: expected shape; a text stands for any length: ``("n", 2)``.
        dtype: of the result.
        columns: names of the columns. A table (DataFrame, structured array, mapping) is matched
            by name, whatever its order; anything else must have them in this order.
        finite: refuse NaN and infinite values, and masked ones.
        infinite: let infinite values pass all the same.

    Returns:
        An array of type ``dtype``; the memory of ``value`` where that already fits.

    Raises:
        ValueError: other shape, a missing column, values that are not numbers, not finite, or
            too large for ``dtype``.

    Warns:
        RuntimeWarning: ``dtype`` is too coarse for the differences between the values.
    """
    dtype = np.dtype(dtype)
    found = _plain(value, name, columns)
    if found.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} holds values of type {found.dtype}, expected real numbers: convert them first"
        )
    _require_shape(found.shape, name, shape)
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.ascontiguousarray(found, dtype=dtype).reshape(found.shape)
    if result.dtype.kind == "f" and result.size:
        bad = ~np.isfinite(result)
        if bad.any():
            overflow = bad & np.isfinite(found)
            if overflow.any():
                largest = np.abs(found[overflow].astype(np.float64)).max()
                raise ValueError(
                    f"{name}{_where(overflow, columns)} reaches {largest:.3g}, which {dtype} "
                    "cannot hold: use larger units (solar masses, kpc), or scale it"
                )
            if finite:
                _refuse(bad if not infinite else np.isnan(result), name, columns, infinite)
        elif found.dtype != result.dtype and found.dtype.kind != "b":
            _warn_if_coarse(found, result, name, columns)
    return result


def as_tensor(
    value: Any,
    name: str,
    shape: Sequence[int | str] | None = None,
    *,
    like: Tensor | nn.Module | None = None,
    dtype: torch.dtype | None = None,
    columns: Sequence[str] | None = None,
    finite: bool = True,
    infinite: bool = False,
) -> Tensor:
    """As `as_array`, for torch: a floating tensor where and as the model computes.

    Args:
        value, name, shape, columns, finite, infinite: as in `as_array`.
        like: tensor or module whose type and device the result takes.
        dtype: in place of the type of ``like``. Without either, a tensor of single or double
            precision keeps its type, half precision becomes single, all else double. Double
            precision is on the CPU where the device has none.

    Gradients flow back to ``value`` where it is a tensor.
    """
    if isinstance(like, nn.Module):
        like = next(like.parameters(), None)
    if not isinstance(value, Tensor):
        wanted = dtype or (torch.float64 if like is None else like.dtype)
        # Half precision has no numpy type of its own in every case: it is cast by torch.
        through = {torch.float32: np.float32}.get(wanted, np.float64)
        options = {"columns": columns, "finite": finite, "infinite": infinite}
        array = as_array(value, name, shape, dtype=through, **options)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.to(dtype=wanted, device=None if like is None else like.device)
    if value.is_complex():
        raise ValueError(f"{name} is complex, expected real numbers: take a part of it")
    _require_shape(value.shape, name, shape)
    wanted = dtype or (like.dtype if like is not None else None)
    if wanted is None:
        wanted = value.dtype if value.is_floating_point() else torch.float64
        wanted = torch.float32 if wanted in (torch.half, torch.bfloat16) else wanted
    device = value.device if like is None else like.device
    if wanted == torch.float64 != finest(value.device):
        device, value = torch.device("cpu"), value.cpu()
    result = value.to(dtype=wanted, device=device)
    # NaN and infinity spread into the extremes, which need no memory of their own.
    look = finite and result.numel() and may_look(result)
    if look and not all(map(torch.isfinite, result.detach().aminmax())):
        bad = (result.isnan() if infinite else ~result.isfinite()).detach().cpu().numpy()
        _refuse(bad, name, columns, infinite)
    return result


def as_values(value: Any, name: str, shape: Sequence[int | str] | None = None, **reading) -> Tensor:
    """As `as_tensor`, for stretched images, whose values are about -1 to 1.

    Whole numbers or values beyond 100 are no such images.
    """
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    images = as_tensor(value, name, shape, **reading)
    large = may_look(images) and bool((images.detach().abs() > 100).any())
    if large or dtype.startswith(("int", "uint", "bool")):
        raise ValueError(
            f"{name} has whole numbers or values beyond 100, expected stretched ones "
            "of about -1 to 1: apply a Stretch to them first"
        )
    return images


def as_hole(mask: Any, x: Tensor) -> Tensor:
    """Where a mask (1 known, 0 hole) is 0, as booleans of the shape of `x`.

    Args:
        mask: boolean or of zeros and ones, of the shape of `x` up to axes of length 1.
        x: images, or points with known coordinates, shape (batch, *dim).
    """
    mask = as_tensor(mask, "mask", like=x)
    fits = mask.ndim == x.ndim and all(
        have in (1, want) for have, want in zip(mask.shape, x.shape, strict=True)
    )
    if not fits or (may_look(mask) and not bool(((mask == 0) | (mask == 1)).all())):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and values from {float(mask.min()):g} to "
            f"{float(mask.max()):g}, expected 1 for known pixels and 0 for holes and the shape "
            f"{tuple(x.shape)}, or 1 along some axes, such as one channel: reshape or threshold it"
        )
    return (mask == 0).expand(x.shape)


def shaped_as(x: Tensor, found: Tensor, name: str) -> Tensor:
    """`found`, what a velocity, a coupling or a base returned: torch broadcasts other shapes."""
    if not isinstance(found, Tensor) or found.shape != x.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the {name} returns {shape}, expected a tensor of the shape {tuple(x.shape)} of what "
            "it was given: correct it"
        )
    return found


def as_whole(value: Any, name: str, *, least: int = 0) -> int:
    """A size or a seed as an int of at least ``least``; numpy integers are welcome, bools not."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(
            f"{name} is {value!r}, expected a whole number of at least {least}: change it"
        )
    return number


def as_number(
    value: Any,
    name: str,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """A finite float within bounds; numpy and torch scalars are welcome, bools are not."""
    try:
        number = math.nan if isinstance(value, bool | np.bool_ | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number) and above < number < below and least <= number <= most:
        return number
    bounds = {"above": above, "below": below, "from": least, "up to": most}
    ends = [f"{text} {end:g}" for text, end in bounds.items() if math.isfinite(end)]
    wanted = f"a finite number {' and '.join(ends)}".rstrip()
    raise ValueError(f"{name} is {value!r}, expected {wanted}: change it")


def as_index(
    value: Any, name: str, shape: Sequence[int | str], below: int, *, least: int = 0, like: Tensor
) -> Tensor:
    """Whole numbers from ``least`` to less than ``below``, such as classes, on a device, as int64.

    Others would be rounded, or count from the end.
    """
    found = value if isinstance(value, Tensor) else torch.tensor(as_array(value, name))
    _require_shape(found.shape, name, shape)
    index = found.long()
    if may_look(found) and not ((index == found) & (index >= least) & (index < below)).all():
        raise ValueError(
            f"{name} has the values {found.unique().tolist()[:9]}, expected whole numbers from "
            f"{least} to {below - 1}: correct them"
        )
    return index.to(like.device)


def as_choice(value: Any, name: str, choices: Collection[str]) -> str:
    """``value`` itself, if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}: choose one"
        )
    return value


def column_names(value: Any) -> list | None:
    """Names of the columns of a table (DataFrame, structured array, mapping); else None."""
    labels = getattr(value, "columns", getattr(getattr(value, "dtype", None), "names", None))
    labels = value if isinstance(value, Mapping) else labels
    return None if labels is None else list(labels)


def warn_of_far_points(
    columns: Iterable[Any], values: np.ndarray, shares: np.ndarray, rows: int
) -> None:
    """Warn of a value that alone makes up nine tenths of the variance of its column, or more.

    Args:
        columns: what the columns are called.
        values: of each column the value farthest from the mean, shape (columns,).
        shares: its part of the sum of squared deviations, shape (columns,).
        rows: number of values of a column; of ten or fewer, one may well be such.
    """
    for name, value, share in zip(columns, values, shares, strict=True):
        # NaN is the share of a value whose square overflows.
        if rows > 10 and not share <= 0.9:
            warnings.warn(
                f"column {name} is {value:.3g} in one of {rows:,} rows, which makes up nearly all "
                "its variance and leaves all others close together: correct or remove this row",
                RuntimeWarning,
                stacklevel=4,
            )


def child_seed(seed: int, *names: str | int) -> int:
    """A seed for one of several streams that share a seed.

    Generators that get the same seed draw the same numbers: a network and the noise it is trained
    with, or a start and the momenta of a chain, must not. Neighbouring seeds are no help where
    runs are repeated with neighbouring seeds. ``names`` say what the stream is for.
    """
    return mixed_seed(seed, *(zlib.crc32(str(name).encode()) for name in names))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """The global random state from a seed, on the CPU and on a device; put back afterwards."""
    device = torch.device(device)
    places = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(places, device_type=device.type):
        # `torch.manual_seed` would also seed accelerators, which are not put back.
        (torch.manual_seed if places else torch.default_generator.manual_seed)(seed)
        yield


def mixed_seed(*numbers: int) -> int:
    """One seed of 32 bits, all that torch's CPU generator looks at, of several whole numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _plain(value: Any, name: str, columns: Sequence[str] | None) -> np.ndarray:
    """A plain array; tables by column, masked values as NaN."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.double() if value.dtype in (torch.bfloat16, torch.half) else value).numpy()
    labels = column_names(value)
    if columns is not None and hasattr(value, "iloc") and labels is None:
        # A row of a DataFrame: a Series that carries the names of the columns.
        labels = value.index if all(isinstance(label, str) for label in value.index) else None
    if labels is not None:
        wanted = labels if columns is None else list(columns)
        missing = [column for column in wanted if column not in labels]
        if missing:
            raise ValueError(
                f"{name} has no column {', '.join(map(repr, missing))}, it has "
                f"{', '.join(map(str, labels))}: rename or add it"
            )
        if twice := [column for column in wanted if list(labels).count(column) > 1]:
            raise ValueError(f"{name} has several columns {twice[0]!r}, expected one: rename them")
        parts = [_plain(value[column], name, None) for column in wanted]
        if len({part.shape for part in parts}) > 1:
            lengths = dict(zip(wanted, (len(np.atleast_1d(part)) for part in parts), strict=True))
            raise ValueError(
                f"{name} has columns of different lengths {lengths}, expected one: check the table"
            )
        return np.stack(parts, axis=-1) if parts else np.empty(0)
    if isinstance(value, np.ma.MaskedArray):
        # The value under a mask is no value; an integer type has no NaN to say so.
        if not np.ma.is_masked(value):
            return value.data
        kind = np.float64 if value.dtype.kind in "biu" else value.dtype
        return np.ma.filled(value.astype(kind), np.nan)
    try:
        array = np.asarray(value)
        return array.astype(np.float64) if array.dtype.kind == "O" else array
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is no array of numbers ({str(error).splitlines()[0]}), expected one: convert "
            "it first"
        ) from None


def _require_shape(found: Sequence[int], name: str, shape: Sequence[int | str] | None) -> None:
    if shape is None:
        return
    fits = len(found) == len(shape) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(found, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(
            f"{name} has shape {tuple(found)}, expected ({expected}): reshape it, or choose the "
            "columns that belong to it"
        )


def _where(bad: np.ndarray, columns: Sequence[str] | None) -> str:
    if columns is None or bad.ndim != 2:
        return ""
    return f" in column {', '.join(np.asarray(columns)[bad.any(0)])}"


def _refuse(bad: np.ndarray, name: str, columns: Sequence[str] | None, infinite: bool) -> None:
    if not bad.any():
        return
    rows = bad.reshape(len(bad), -1).any(1) if bad.ndim else bad.reshape(1)
    what = "NaN or masked" if infinite else "NaN, infinite or masked"
    raise ValueError(
        f"{name} has {what} values in {int(rows.sum())} of {len(rows)} rows"
        f"{_where(bad, columns)}, expected none: drop or mend these rows"
    )


def _warn_if_coarse(
    found: np.ndarray, result: np.ndarray, name: str, columns: Sequence[str] | None
) -> None:
    """Warn where rounding eats the differences between the values of a column."""
    rows = found.reshape(len(found), -1) if found.ndim else found.reshape(1, 1)
    low, high = rows.min(0), rows.max(0)
    # In the type of the input: identifiers above 2^53 differ there, and not in float64.
    spread = (high - low).astype(np.float64)
    size = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    ratio = np.divide(size, spread, out=np.zeros_like(size), where=spread > 0)
    worst = int(ratio.argmax())
    if ratio[worst] * np.finfo(result.dtype).eps > 1e-3:
        label = columns[worst] if columns is not None and found.ndim == 2 else worst
        warnings.warn(
            f"{name} differs by {spread[worst]:.3g} at most in column {label}, around "
            f"{size[worst]:.3g}, which {result.dtype} resolves to less than three digits: "
            "subtract a reference value first",
            RuntimeWarning,
            stacklevel=4,
        )
