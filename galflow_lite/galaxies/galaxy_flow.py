"""GalaxyFlow: the distribution of stars in any galaxy, given its global parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import read_state, sha256, write_state
from ..flows import neural_spline_flow
from ..inputs import as_whole, seeded, sent
from ..training import History, fit
from .catalogue import Catalogue
from .galaxy import COLUMNS, CONDITIONS, Galaxy
from .scaling import Conditions, Scaling, stars_and_conditions

_KIND = "a galaxy flow"
# Stars that pass the flow at once: few enough for a processor's cache, enough to fill a GPU.
_BATCH, _CUDA_BATCH = 5_000, 250_000
# Bytes of stars that stay on a GPU during a training, which needs twice as much at its start.
_HELD = 2**30


def paper_schedule(step: int) -> float:
    """Factor on the paper's learning rate of 9e-5 (public code of arXiv:2312.06017).

    Falls by 0.998 every 10 steps down to 3e-6, then by 0.998 every 120 steps.
    """
    fast = 1699  # the first k with 9e-5 * 0.998**k <= 3e-6
    slow = max(step // 10 - fast, 0) * 10 // 120
    return 0.998 ** (min(step // 10, fast) + slow)


class GalaxyFlow:
    """p(star | galaxy): a conditional neural spline flow over the stars of all galaxies.

    The extended distribution function of Wolf & Buck 2023 (arXiv:2312.06017):
    positions, velocities, chemistry and ages of stars, given the stellar mass, two percentiles of
    the ages and the mean metallicity of their galaxy. Everything goes in and comes out in physical
    units (:data:`galflow_lite.galaxies.UNITS`).

    Args:
        columns: Columns of the stars to model, any subset of a catalogue's columns.
        condition_columns: Conditions to depend on, any subset of a catalogue's conditions; M_stars
            enters as log10.
        layers, hidden, tail_bound: As in :func:`galflow_lite.flows.neural_spline_flow`; the
            defaults are the paper's.
        seed: Seed of the initial weights.

    Example:
        >>> flow = GalaxyFlow(layers=4, hidden=32)  # doctest: +SKIP
        >>> flow.fit(catalogue, steps=2000, learning_rate=2e-3, schedule="cosine")  # doctest: +SKIP
        >>> stars = flow.sample({"M_stars": 1e10, "tau50": 5.5, "tau10": 1.5, "Z_av": 0.015}, 1000)
        ... # doctest: +SKIP
    """

    def __init__(
        self,
        columns: Sequence[str] = COLUMNS,
        condition_columns: Sequence[str] = CONDITIONS,
        *,
        layers: int = 14,
        hidden: int = 128,
        tail_bound: float = 3.0,
        seed: int = 0,
    ) -> None:
        self.settings = dict(layers=layers, hidden=hidden, tail_bound=tail_bound)
        self.stars, self.conditions = Scaling(columns), Conditions(condition_columns)
        self.columns, self.condition_columns = self.stars.columns, self.conditions.columns
        with seeded(as_whole(seed, "seed")):
            widths = len(self.columns), len(self.condition_columns)
            self.flow = neural_spline_flow(*widths, **self.settings)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.flow.parameters())

    def to(self, device: str | torch.device) -> GalaxyFlow:
        """Move the flow to a device and return it."""
        self.flow.to(device)
        return self

    def fit(
        self,
        catalogue: Catalogue,
        *,
        steps: int | None = None,
        batch_size: int = 1024,
        learning_rate: float = 9e-5,
        optimizer: str = "radam",
        schedule: str | Callable[[int], float] = "paper",
        stars_per_galaxy: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> History:
        """Maximise the likelihood of the stars of a catalogue, read in a stream.

        The defaults are those of the paper's public code: RAdam, 9 epochs, batch 1024, no
        weighting, so that a galaxy counts in proportion to its stars. A call that raises leaves
        weights and scales as they were. A GPU holds up to 1 GB of stars, 26 million of ten columns,
        and is sent each batch of more.

        Args:
            catalogue: Training galaxies; split galaxies, never the stars of one galaxy. Columns
                and conditions are taken by name.
            steps: Number of updates; None takes 9 passes over the stars.
            batch_size: Stars for each update.
            learning_rate: Learning rate before the schedule's factor.
            optimizer: ``"radam"`` (the paper's) or ``"adam"``.
            schedule: ``"paper"`` (`paper_schedule`), or as in :func:`galflow_lite.training.fit`.
            stars_per_galaxy: Most stars taken from each galaxy. This changes the target: massive
                galaxies then count for less than their stars.
            seed: Seed of the order of the stars.
            **options: Further arguments of :func:`galflow_lite.training.fit`: ``clip_norm``,
                ``ema_decay``, ``checkpoint``, ``cuda_graph`` and others; as ``validation`` for
                example ``lambda: -flow.log_prob(held_out[0]).mean()``.

        Returns:
            A History; its losses are in nats, in standardised coordinates.

        Raises:
            ValueError: If the catalogue lacks a column or condition, or one does not vary.

        Warns:
            RuntimeWarning: A single star makes up nearly all variance of a column.
        """
        stars, conditions = self.stars.fitted(catalogue), self.conditions.fitted(catalogue)
        names = dict(columns=self.columns, conditions=self.condition_columns)
        order = dict(batch_size=batch_size, seed=seed, stars_per_galaxy=stars_per_galaxy)
        stream = catalogue.batches(**names, **order)
        steps = 9 * len(stream) if steps is None else steps
        if options.get("checkpoint") is not None:  # which refuses to go on with another training
            model = dict(**names, **self.settings)
            data = dict(file=sha256(catalogue.path), galaxies=list(catalogue.ids), **order)
            options["settings"] = {**model, **data, **options.get("settings", {})}
        if schedule == "paper":
            schedule = paper_schedule

        device, held = next(self.flow.parameters()).device, None
        if device.type != "cpu" and stream.stars.nbytes <= _HELD:
            parts = np.array_split(stream.stars, 1 + len(stream.stars) // _CUDA_BATCH)
            held = torch.cat([self._scaled(stars, part) for part in parts])
            galaxies = sent(torch.from_numpy(stream.galaxies), device)
            table = self._scaled(conditions, stream.table)

        def batch(step: int) -> tuple[Tensor | None, ...]:
            rows = stream.rows(step)
            if held is not None:
                places = sent(torch.from_numpy(rows), device)
                return held[places], table, galaxies[places]
            some = self._scaled(self.stars, stream.stars[rows])
            if not self.condition_columns:
                return some, None
            given, index = stream.table, stream.galaxies[rows]
            if some.device.type == "cpu":
                # A batch has many stars and few galaxies. A GPU prefers shapes that do not change.
                given, index = np.unique(given[index], axis=0, return_inverse=True)
            context = self._scaled(self.conditions, given)
            return some, context, sent(torch.from_numpy(index.reshape(-1)), some.device)

        options |= dict(learning_rate=learning_rate, optimizer=optimizer, schedule=schedule)
        before = self.stars, self.conditions, deepcopy(self.flow.state_dict())
        self.stars, self.conditions = stars, conditions
        try:
            return fit(self._loss, self.flow, batch, steps, **options)
        except BaseException:
            self.stars, self.conditions, weights = before
            self.flow.load_state_dict(weights)
            raise

    def _loss(self, batch: tuple[Tensor | None, ...]) -> Tensor:
        return -self.flow.log_prob(*batch).mean()

    def log_prob(self, stars: Any, conditions: Any = None) -> np.ndarray:
        """Log-density of stars in physical units, Jacobian of the scales included.

        Args:
            stars: Array, shape (n, len(columns)), a table whose columns are matched by name, or a
                Galaxy.
            conditions: Mapping or sequence of one galaxy's conditions; a Galaxy brings its own.

        Returns:
            Array, shape (n,), natural logarithm of a density per unit of each column
            (kpc^-3 (km/s)^-3 dex^-2 Gyr^-1 for all ten, Z being a pure number).

        Raises:
            ValueError: On a wrong shape, NaN, missing columns, or before :meth:`fit`.
        """
        stars, conditions = stars_and_conditions(stars, conditions, self.columns)
        given = self._scaled(self.conditions, self.conditions.one(conditions)[None])
        result = np.empty(len(stars))
        size = self._batch()
        for part in (slice(start, start + size) for start in range(0, len(stars), size)):
            with torch.no_grad():
                scaled = self._scaled(self.stars, stars[part])
                result[part] = self.flow.log_prob(scaled, given).cpu().numpy()
        return result + self.stars.log_abs_det(stars)

    def sample(self, conditions: Any, n: int, *, seed: int | None = None) -> Galaxy:
        """Draw the stars of one galaxy.

        Args:
            conditions: Mapping of every condition to its value in physical units, or a sequence
                in the order of ``condition_columns``.
            n: Number of stars.
            seed: Seed of the draw; None continues torch's global generator.

        Returns:
            A Galaxy with n stars and the requested conditions.

        Raises:
            ValueError: On wrong conditions, n below one, or before :meth:`fit`.

        Warns:
            OutsideTrainingRange: If a condition lies outside the range of the training galaxies.
        """
        stars = np.concatenate(list(self.sample_batches(conditions, n, seed=seed)))
        return self.conditions.galaxy(stars, conditions, self.columns, "sample")

    def sample_batches(
        self, conditions: Any, n: int, *, seed: int | None = None
    ) -> Iterator[np.ndarray]:
        """Draw stars in arrays (at most 10,000, len(columns)): any n in little memory.

        On CUDA an array has up to 500,000 rows. Arguments, errors and warnings are those of
        :meth:`sample`.
        """
        self.stars.require_fitted()
        n = as_whole(n, "n", least=1)
        row = self.conditions.one(conditions)
        context = self._scaled(self.conditions, row[None])
        self.conditions.warn_outside(row)
        size = self._batch()
        generator = None
        if seed is not None:
            generator = torch.Generator(next(self.flow.parameters()).device)
            generator.manual_seed(as_whole(seed, "seed"))

        def draw(count: int) -> np.ndarray:
            with torch.no_grad():
                scaled = self.flow.sample(count, context, size, generator=generator)
            return self.stars.inverse(scaled.reshape(count, -1).cpu().numpy())

        return (draw(min(2 * size, n - start)) for start in range(0, n, 2 * size))

    def _batch(self) -> int:
        return _CUDA_BATCH if next(self.flow.parameters()).device.type == "cuda" else _BATCH

    def save(self, path: str | Path) -> None:
        """Write weights, architecture and scales to one safetensors file with a JSON header."""
        self.stars.require_fitted()
        scales = [
            dict(vars(scale), mean=scale.mean.tolist(), std=scale.std.tolist())
            for scale in (self.stars, self.conditions)
        ]
        state = dict(settings=self.settings, scalings=scales, weights=self.flow.state_dict())
        write_state(path, state, kind=_KIND)

    @classmethod
    def load(cls, path: str | Path) -> GalaxyFlow:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or of another kind.
        """
        state = read_state(path, kind=_KIND)
        stars, conditions = state["scalings"]
        model = cls(stars["columns"], conditions["columns"], **state["settings"])
        model.stars = Scaling(**stars).with_moments(stars["mean"], stars["std"])
        model.conditions = Conditions(**conditions).with_moments(
            conditions["mean"], conditions["std"]
        )
        model.flow.load_state_dict(state["weights"])
        return model

    def _scaled(self, scaling: Scaling, values: np.ndarray) -> Tensor | None:
        """Standardised values as the flow takes them; None for no columns."""
        if not scaling.columns:
            return None
        weight = next(self.flow.parameters())
        return sent(torch.from_numpy(scaling.forward(values)).to(weight.dtype), weight.device)
