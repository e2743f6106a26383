"""Exercises of the lessons: a check that says what is wrong with an answer, and hints.

Each lesson has a file, ``lesson_01.py``, with one function an exercise: it takes the answer, raises
:class:`Wrong` with a sentence for the learner, by `expect` or `refuse`, and returns a sentence
where the answer is right.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
import torch

from ..reproduction.checks import INSIDE, OPEN, OUTSIDE

__all__ = ["check", "hint"]

TRIES_BEFORE_AN_OFFER = 3


class Wrong(Exception):
    """What a learner should hear about an answer."""


def refuse(told: Mapping[str, Any]) -> None:
    """Raise :class:`Wrong` with the first sentence whose condition holds."""
    for said, wrong in told.items():
        if wrong:
            raise Wrong(said)


def expect(
    found: Any, right: Any, told: Mapping[str, Any], otherwise: str, *, within: float = 1e-3
) -> None:
    """Raise :class:`Wrong` unless the answer is right, with what led to this one.

    Args:
        found: the answer, a number or an array.
        right: what it should be.
        told: the sentence for a mistake, and the answer that this mistake gives.
        otherwise: the sentence for any other answer.
        within: tolerance, as a fraction of the largest number.
    """
    answer, goal = _tensor(found), _tensor(right)
    shapes = f"The shape is {tuple(answer.shape)}, expected {tuple(goal.shape)}."
    told = {said: _near(answer, _tensor(mistake), within) for said, mistake in told.items()}
    refuse(told | {shapes: answer.shape != goal.shape, otherwise: not _near(answer, goal, within)})


def _tensor(values: Any) -> torch.Tensor:
    found = torch.as_tensor(values).detach().double()
    return found.reshape(()) if found.numel() == 1 else found


def _near(one: torch.Tensor, other: torch.Tensor, within: float) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= within * other.abs().max() + 1e-6)


class Outcome(int):
    """Whether an answer is right: 1 or 0, and silent at the end of a cell."""

    def _ipython_display_(self) -> None:
        """Nothing: the line that was printed says it all."""


_judges: dict[str, Callable[..., str]] = {}
_tries: Counter[str] = Counter()
_hints_given: Counter[str] = Counter()


def exercise(number: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Make a function the judge of an exercise, such as ``"02.3"``; hints are in `hints.toml`."""

    def keep(judge: Callable[..., str]) -> Callable[..., str]:
        _judges[number] = judge
        return judge

    return keep


def find(number: str) -> Callable[..., str]:
    """The judge of the exercise of this number.

    Raises:
        ValueError: there is none.
    """
    try:
        importlib.import_module(f".lesson_{number[:2]}", __name__)
        return _judges[number]
    except (ImportError, KeyError, TypeError) as error:
        known = sorted(n for n in _judges if n[:2] == str(number)[:2]) or ["01.1", "01.2", "..."]
        expected = f"expected one of {', '.join(known)}"
        raise ValueError(f"found no exercise {number!r}, {expected}") from error


def check(number: str, *answers: Any) -> Outcome:
    """Print in one line whether an answer is right, and what is wrong with it if it is not.

    Nothing that an answer does stops the notebook: an error inside it is told like a wrong answer.

    Args:
        number: of the exercise, such as ``"02.3"``.
        answers: what the exercise asks for: functions, arrays, numbers.

    Returns:
        Whether the answer is right, for an ``if``.

    Raises:
        ValueError: there is no such exercise.
    """
    judge = find(number)
    try:
        if any(answer is ... for answer in answers):
            raise NotImplementedError("replace the dots")
        sign, said = INSIDE, judge(*map(_with_return, answers))
    except NotImplementedError as error:
        sign, said = OPEN, f"not filled in yet: {error}"
    except Wrong as error:
        sign, said = OUTSIDE, str(error)
    except Exception as error:  # an answer is anyone's code
        first = next(iter(str(error).splitlines()), "")
        sign, said = OUTSIDE, f"your answer stopped with {type(error).__name__}: {first}"
    _tries[number] += sign == OUTSIDE
    if sign == OUTSIDE and _tries[number] >= TRIES_BEFORE_AN_OFFER:
        said += f'  (stuck? exercises.hint("{number}"))'
    print(f"exercise {number}   {sign} {said}")
    return Outcome(sign == INSIDE)


def _with_return(answer: Any) -> Any:
    """A learner's function that says so where it returns nothing; any other answer as it is."""
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def returning(*args: Any, **options: Any) -> Any:
        if (found := answer(*args, **options)) is None:
            raise Wrong("your function returns nothing: is there a missing `return`?")
        return found

    return returning


@functools.cache
def _all_hints() -> dict[str, list[str]]:
    path = Path(__file__).with_name("hints.toml")
    return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()


def hint(number: str) -> None:
    """Print the next hint of an exercise; after the last one, the first again.

    Raises:
        ValueError: there is no such exercise.
    """
    find(number)
    hints = _all_hints()[number]
    at = _hints_given[number] % len(hints)
    _hints_given[number] += 1
    print(f"hint {at + 1} of {len(hints)}: {hints[at]}")
