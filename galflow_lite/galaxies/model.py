"""GalaxyFlow: the distribution of stars in any galaxy, given its global parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from galflow_lite.files import read_state, write_state
from galflow_lite.flows import neural_spline_flow
from galflow_lite.training import History, fit, start_processes

from .catalogue import Catalogue
from .conditioning import Conditions, star_count
from .scaling import Scaling
from .table import COLUMNS, CONDITIONS, Galaxy

__all__ = ["GalaxyFlow", "paper_schedule"]

_KIND = "a galaxy flow"


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
        condition_columns: Conditions to depend on, any subset of a catalogue's conditions.
        layers, hidden, bins, tail_bound, conditioner: As in
            :func:`galflow_lite.flows.neural_spline_flow`; the defaults are the paper's.
        log: Columns and conditions that enter as log10; the paper has the stellar mass alone.
        bounds: Columns with sharp edges and their (low, high), in physical units; they enter
            through a logit (see :class:`Scaling`). The paper has none.
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
        bins: int = 10,
        tail_bound: float = 3.0,
        conditioner: str = "product",
        log: Sequence[str] = ("M_stars",),
        bounds: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 0,
    ) -> None:
        self.columns = tuple(columns)
        self.condition_columns = tuple(condition_columns)
        self.settings = {
            "layers": layers,
            "hidden": hidden,
            "bins": bins,
            "tail_bound": tail_bound,
            "conditioner": conditioner,
        }
        self.stars = Scaling(self.columns, log=tuple(log), bounds=bounds or {})
        self.conditions = Conditions(self.condition_columns, log=log)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.flow = neural_spline_flow(
                len(self.columns), len(self.condition_columns), **self.settings
            )

    @property
    def parameters(self) -> int:
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
        epochs: float = 9,
        batch_size: int = 1024,
        learning_rate: float = 9e-5,
        optimizer: str = "radam",
        schedule="paper",
        stars_per_galaxy: int | None = None,
        validation: Catalogue | None = None,
        validation_stars: int = 200,
        seed: int = 0,
        **options,
    ) -> History:
        """Maximise the likelihood of the stars of a catalogue, read in a stream.

        The defaults are those of the paper's public code: RAdam, 9 epochs, batch 1024, no
        weighting, so that a galaxy counts in proportion to its stars.

        Args:
            catalogue: Training galaxies; split galaxies, never the stars of one galaxy.
            steps: Number of updates; None takes ``epochs`` passes over the stars.
            epochs: Passes over the stars, where ``steps`` is None.
            batch_size: Stars for each update.
            learning_rate: Learning rate before the schedule's factor.
            optimizer: ``"radam"`` (the paper's), ``"adam"`` or ``"adamw"``.
            schedule: ``"paper"`` (:func:`paper_schedule`), or as in
                :func:`galflow_lite.training.fit`.
            stars_per_galaxy: Most stars taken from each galaxy. This changes the target: massive
                galaxies then count for less than their stars.
            validation: Galaxies whose negative log-likelihood is followed, or None.
            validation_stars: Stars taken from each of them.
            seed: Seed of the order of the stars.
            **options: Further arguments of :func:`galflow_lite.training.fit`: ``clip_norm``,
                ``ema_decay``, ``patience``, ``checkpoint``, ``progress`` and others.

        Returns:
            A History; its losses are in nats, in standardised coordinates.

        Raises:
            ValueError: If the catalogue lacks a column or condition, or one does not vary.
        """
        catalogue.check_conditions(self.condition_columns)
        self.conditions.fit(catalogue)
        self.stars.set_moments(*catalogue.moments(self.columns, transform=self.stars.curve))
        rank, world = start_processes(self._device())
        stream = catalogue.batches(
            batch_size,
            columns=self.columns,
            conditions=self.condition_columns,
            seed=seed,
            stars_per_galaxy=stars_per_galaxy,
            rank=rank,
            world=world,
        )
        if steps is None:
            steps = max(1, round(epochs * len(stream)))
        if validation is not None:
            held = [_some(galaxy, validation_stars, seed) for galaxy in validation]
            options["validation"] = [
                self._scaled(galaxy.select(self.columns).stars, galaxy) for galaxy in held
            ]

        def batch(step: int) -> tuple[Tensor, ...]:
            stars, conditions = (part.numpy() for part in stream(step))
            if not self.condition_columns:
                return self._scaled(stars, None)
            # A batch has many stars and few galaxies.
            rows, index = np.unique(conditions, axis=0, return_inverse=True)
            index = torch.from_numpy(index.reshape(-1)).to(self._device())
            return *self._scaled(stars, rows), index

        if options.get("checkpoint") is not None:  # which refuses to go on with other stars
            batch.settings = (
                f"{catalogue.fingerprint()}, batch_size={batch_size}, seed={seed}, "
                f"stars_per_galaxy={stars_per_galaxy}"
            )
        return fit(
            lambda pair: -self.flow.log_prob(*pair).mean(),
            self.flow,
            batch,
            steps,
            learning_rate=learning_rate,
            optimizer=optimizer,
            schedule=paper_schedule if schedule == "paper" else schedule,
            **options,
        )

    def log_prob(
        self, stars: np.ndarray | Galaxy, conditions=None, *, batch_size: int = 20_000
    ) -> np.ndarray:
        """Log-density of stars in physical units, Jacobian of the scales included.

        Args:
            stars: Array, shape (n, len(columns)), or a Galaxy.
            conditions: Mapping or sequence of one galaxy's conditions, or an array of shape
                (n, len(condition_columns)); a Galaxy brings its own.
            batch_size: Stars to evaluate at once.

        Returns:
            Array, shape (n,), natural logarithm of a density per unit of each column
            (kpc^-3 (km/s)^-3 dex^-2 Gyr^-1 for all ten, Z being a pure number).

        Raises:
            ValueError: On a wrong shape, NaN, missing columns, or before :meth:`fit`.
        """
        self._require_fitted()
        if isinstance(stars, Galaxy):
            conditions = stars.conditions if conditions is None else conditions
            stars = stars.select(self.columns).stars
        stars = np.asarray(stars, dtype=np.float64)
        if stars.ndim != 2 or stars.shape[1] != len(self.columns):
            raise ValueError(
                f"found stars of shape {stars.shape}, expected (n, {len(self.columns)}) "
                f"with the columns {', '.join(self.columns)}"
            )
        wrong = np.count_nonzero(~np.isfinite(stars).all(axis=1))
        if wrong:
            raise ValueError(
                f"found {wrong} of {len(stars)} stars with NaN or infinite values: remove them"
            )
        rows = self.conditions.rows(conditions)
        if len(rows) not in (1, len(stars)):
            raise ValueError(
                f"found {len(rows)} rows of conditions for {len(stars)} stars, expected as many "
                "or one"
            )
        result = np.empty(len(stars))
        with torch.no_grad():
            for start in range(0, len(stars), batch_size):
                part = slice(start, start + batch_size)
                scaled = self._scaled(stars[part], rows if len(rows) == 1 else rows[part])
                result[part] = self.flow.log_prob(*scaled).cpu()
        return result + self.stars.log_abs_det(stars)

    def sample(
        self,
        conditions,
        n: int,
        *,
        batch_size: int = 10_000,
        seed: int | None = None,
        progress: bool = False,
    ) -> Galaxy:
        """Draw the stars of one galaxy.

        Args:
            conditions: Mapping of every condition to its value in physical units, or a sequence
                in the order of ``condition_columns``.
            n: Number of stars.
            batch_size: Stars drawn at once; bounds the memory.
            seed: Seed of the draw; None continues torch's global generator.
            progress: Whether to show a progress bar.

        Returns:
            A Galaxy with n stars and the requested conditions.

        Raises:
            ValueError: On wrong conditions, n below one, or before :meth:`fit`.

        Warns:
            OutsideTrainingRange: If a condition lies outside the range of the training galaxies.
        """
        batches = self._batches(conditions, n, batch_size, seed, progress)
        stars = np.empty((int(n), len(self.columns)), dtype=np.float32)
        start = 0
        for batch in batches:
            stars[start : start + len(batch)] = batch
            start += len(batch)
        return self.conditions.galaxy(stars, conditions, columns=self.columns, id="sample")

    def sample_batches(
        self,
        conditions,
        n: int,
        *,
        batch_size: int = 10_000,
        seed: int | None = None,
        progress: bool = False,
    ) -> Iterator[np.ndarray]:
        """Draw stars in batches, arrays (at most batch_size, len(columns)): any n in little memory.

        Arguments, errors and warnings are those of :meth:`sample`.
        """
        return self._batches(conditions, n, batch_size, seed, progress)

    def _batches(self, conditions, n, batch_size, seed, progress) -> Iterator[np.ndarray]:
        self._require_fitted()
        n, batch_size = star_count(n), star_count(batch_size, "batch_size")
        row = self.conditions.one(conditions)
        context = self._context(row[None])
        self.conditions.warn_outside(row, stacklevel=3)
        generator = None
        if seed is not None:
            generator = torch.Generator(self._device()).manual_seed(seed)
        return self._draw(context, n, batch_size, generator, progress)

    def _draw(self, context, n, batch_size, generator, progress) -> Iterator[np.ndarray]:
        with tqdm(total=n, desc="stars", unit="", unit_scale=True, disable=not progress) as bar:
            for start in range(0, n, batch_size):
                count = min(batch_size, n - start)
                with torch.no_grad():
                    scaled = self.flow.sample(count, context, generator=generator)
                scaled = scaled.reshape(count, -1).cpu().numpy()
                bar.update(count)
                yield self.stars.inverse(scaled).astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Write weights, architecture and scales to one safetensors file with a JSON header."""
        self._require_fitted()
        state = {
            "columns": self.columns,
            "condition_columns": self.condition_columns,
            "settings": self.settings,
            "star_scaling": _state(self.stars),
            "condition_scaling": _state(self.conditions.scaling),
            "condition_range": self.conditions.range,
            "weights": self.flow.state_dict(),
        }
        write_state(path, state, kind=_KIND)

    @classmethod
    def load(cls, path: str | Path) -> GalaxyFlow:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, of another kind, or its weights do not fit its
                architecture.
        """
        state = read_state(path, kind=_KIND)
        model = cls(state["columns"], state["condition_columns"], **state["settings"])
        model.stars = _scaling(model.columns, state["star_scaling"])
        model.conditions.scaling = _scaling(model.condition_columns, state["condition_scaling"])
        model.conditions.range = {k: tuple(v) for k, v in state["condition_range"].items()}
        try:
            model.flow.load_state_dict(state["weights"])
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds weights of another architecture than it states "
                f"({str(error).splitlines()[-1].strip()}): train and save the flow anew"
            ) from None
        return model

    def _scaled(self, stars: np.ndarray, conditions) -> tuple[Tensor, Tensor | None]:
        """What the flow takes: standardised stars, and conditions or None."""
        scaled = _tensor(self.stars.forward(stars), self._device())
        return scaled, self._context(self.conditions.rows(conditions))

    def _context(self, rows: np.ndarray) -> Tensor | None:
        if not self.condition_columns:
            return None
        return _tensor(self.conditions.scaling.forward(rows), self._device())

    def _device(self) -> torch.device:
        return next(self.flow.parameters()).device

    def _require_fitted(self) -> None:
        if self.stars.mean is None:
            raise ValueError("this flow has not been trained yet: call fit() or load() first")


def _some(galaxy: Galaxy, n: int, seed: int) -> Galaxy:
    """At most n stars of a galaxy, drawn at random: stars may be stored in an order."""
    return galaxy.take(np.random.default_rng(seed).permutation(len(galaxy))[:n])


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).to(device)


def _state(scaling: Scaling) -> dict:
    return {
        "log": scaling.log,
        "bounds": dict(scaling.bounds),
        "mean": scaling.mean.tolist(),
        "std": scaling.std.tolist(),
    }


def _scaling(columns: tuple[str, ...], state: dict) -> Scaling:
    scaling = Scaling(columns, log=state["log"], bounds=state["bounds"])
    scaling.set_moments(state["mean"], state["std"])
    return scaling
