"""At how many steps chains match a one-step sampler, and what each then costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["EqualQuality", "curves", "equal_quality"]


@dataclass(frozen=True)
class EqualQuality:
    """What chains take to be as good as a one-step sampler.

    Attributes:
        steps: of the chain; interpolated. The longest one, where that is not as good.
        beyond: whether that is the case, so that `steps` and all below are lower bounds.
        step_size: of the chain that gets there first.
        cost_ratio: seconds of the chain over those of one step, for as many samples.
        samples_to_pay_off: beyond so many samples, training and drawing take less time than
            chains; infinite where one step takes as long as the chain.
    """

    steps: float
    beyond: bool
    step_size: float
    cost_ratio: float
    samples_to_pay_off: float


def curves(
    found: Mapping[str, float], *, measure: str = "energy_distance"
) -> dict[float, dict[int, float]]:
    """What `compare_energy_sampler` found for "langevin", by step size and number of steps.

    Args:
        found: its result.
        measure: "energy_distance", "frechet" or "lost".
    """
    table: dict[float, dict[int, float]] = {}
    for name, value in found.items():
        parts = name.removeprefix(f"{measure}_").split("_")
        if name.startswith(f"{measure}_") and len(parts) == 2 and parts[1].isdigit():
            table.setdefault(float(parts[0]), {})[int(parts[1])] = value
    return table


def equal_quality(
    table: Mapping[float, Mapping[int, float]],
    quality: float,
    *,
    seconds_per_step: float,
    sampling_seconds: float,
    training_seconds: float,
) -> EqualQuality:
    """How long chains must be to match a quality, and what that costs.

    For each number of steps the step size counts that is best there by the very measure that is
    then compared, which flatters the chains. Between numbers of steps the measure is interpolated
    linearly in log(steps); a longer chain counts as no worse than a shorter one.

    Args:
        table: distance, the smaller the better, by step size and number of steps; as from `curves`.
        quality: distance of the one-step sampler.
        seconds_per_step: of chains, for 1,000 samples.
        sampling_seconds: of the one-step sampler, for 1,000 samples.
        training_seconds: of the one-step sampler.

    Raises:
        ValueError: an empty table, step sizes with different numbers of steps, a quality that is
            NaN, or times that are not positive.
    """
    counts = sorted({count for curve in table.values() for count in curve})
    if not counts or any(sorted(curve) != counts for curve in table.values()):
        raise ValueError(
            f"found {len(table)} curves that do not share their numbers of steps, expected at "
            "least one and the same numbers in each: judge all step sizes alike"
        )
    if math.isnan(quality) or not min(seconds_per_step, sampling_seconds, training_seconds) > 0:
        raise ValueError(
            f"found the quality {quality} and the seconds {seconds_per_step}, {sampling_seconds}, "
            f"{training_seconds}, expected numbers and times above 0: measure them again"
        )
    steps, size, beyond, before = float(counts[-1]), math.nan, True, math.inf
    for k, count in enumerate(counts):
        size, value = min(
            ((size, curve[count]) for size, curve in table.items()), key=lambda pair: pair[1]
        )
        if value <= quality:
            steps, beyond = float(count), False
            if k and math.isfinite(before):
                share = (before - quality) / (before - value)
                steps = counts[k - 1] * (count / counts[k - 1]) ** share
            break
        before = min(before, value)
    ratio = steps * seconds_per_step / sampling_seconds
    saved = (steps * seconds_per_step - sampling_seconds) / 1000
    return EqualQuality(
        steps=steps,
        beyond=beyond,
        step_size=size,
        cost_ratio=ratio,
        samples_to_pay_off=training_seconds / saved if saved > 0 else math.inf,
    )
