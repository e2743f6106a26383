"""The check of sizes that the flows share."""

from __future__ import annotations

__all__ = ["positive_integer"]


def positive_integer(value, name: str) -> int:
    """A Python int from any whole number above zero, NumPy's included.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(f"found {name}={value!r}, expected a positive integer")
    return int(value)
