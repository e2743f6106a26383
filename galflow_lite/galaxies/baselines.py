"""Two baselines for GalaxyFlow, which the paper does not have: a galaxy and a mixture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from .catalogue import Catalogue
from .scaling import Scaling
from .table import COLUMNS, CONDITIONS, Galaxy

__all__ = ["ConditionalMixture", "NearestGalaxy"]


class NearestGalaxy:
    """Answer with the stars of the training galaxy whose conditions are closest.

    Closest in the standardised conditions (log10 of the stellar mass), each with the same weight.

    Args:
        condition_columns: Conditions that count.
        log: Conditions on a logarithmic scale.
    """

    def __init__(self, condition_columns=CONDITIONS, *, log=("M_stars",)) -> None:
        self.conditions = Scaling(tuple(condition_columns), log=tuple(log))

    def fit(self, catalogue: Catalogue) -> NearestGalaxy:
        """Keep the catalogue and standardise its conditions."""
        self.catalogue = catalogue
        self._table = catalogue.condition_table(self.conditions.columns)
        curved = self.conditions.curve(self._table)
        self.conditions.set_moments(curved.mean(axis=0), curved.std(axis=0))
        return self

    def nearest(self, conditions) -> Galaxy:
        """The closest training galaxy, all its stars."""
        wanted = np.array([[conditions[name] for name in self.conditions.columns]])
        offset = self.conditions.forward(self._table) - self.conditions.forward(wanted)
        return self.catalogue[int(np.argmin((offset**2).sum(axis=1)))]

    def sample(self, conditions, n: int, *, seed: int = 0) -> Galaxy:
        """Draw n stars of the closest galaxy, without replacement as long as there are enough."""
        galaxy = self.nearest(conditions)
        rng = np.random.default_rng(seed)
        return galaxy.take(rng.choice(len(galaxy), size=n, replace=n > len(galaxy)))


class ConditionalMixture:
    """Gaussian mixture of stars and conditions together, conditioned on the conditions.

    Given its component, a star's mean is linear in the conditions; the weights of the components
    change with them as well (the conditional of a joint Gaussian mixture, in closed form).

    Args:
        columns: Columns of the stars.
        condition_columns: Conditions.
        components: Number of Gaussians, each with a full covariance.
        log: Columns and conditions that enter as log10.
        max_stars: Stars drawn from the catalogue for the fit.
        jitter: Width of the noise added to the conditions in the fit, in their standard
            deviations. The conditions take few distinct values, on which Gaussians would
            collapse.
        seed: Seed of the draw and of the fit.
    """

    def __init__(
        self,
        columns=COLUMNS,
        condition_columns=CONDITIONS,
        *,
        components: int = 32,
        log=("M_stars",),
        max_stars: int = 40_000,
        jitter: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.stars = Scaling(tuple(columns), log=tuple(log))
        self.conditions = Scaling(tuple(condition_columns), log=tuple(log))
        self.components, self.max_stars = components, max_stars
        self.jitter, self.seed = jitter, seed

    def fit(self, catalogue: Catalogue) -> ConditionalMixture:
        """Fit the joint mixture by expectation maximisation."""
        stars, conditions = catalogue.stack(
            columns=self.stars.columns, conditions=self.conditions.columns
        )
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(len(stars))[: self.max_stars]
        joint = []
        for scaling, values in ((self.stars, stars), (self.conditions, conditions)):
            curved = scaling.curve(values)
            scaling.set_moments(curved.mean(axis=0), curved.std(axis=0))
            joint.append(((curved - scaling.mean) / scaling.std)[rows])
        joint[1] = joint[1] + self.jitter * rng.standard_normal(joint[1].shape)
        mixture = GaussianMixture(
            self.components, reg_covar=1e-4, random_state=self.seed, max_iter=100, tol=1e-3
        ).fit(np.hstack(joint))
        d = len(self.stars.columns)
        self._log_weights = np.log(mixture.weights_)
        self._means, covariances = mixture.means_, mixture.covariances_
        self._condition_covariances = covariances[:, d:, d:]
        # Regression of the stars on the conditions within each component.
        self._slopes = np.stack([np.linalg.solve(c[d:, d:], c[d:, :d]).T for c in covariances])
        self._covariances = np.stack(
            [
                c[:d, :d] - slope @ c[d:, :d]
                for c, slope in zip(covariances, self._slopes, strict=True)
            ]
        )
        return self

    def _given(self, conditions) -> tuple[np.ndarray, np.ndarray]:
        """Log-weights (components,) and means (components, columns) at one galaxy's conditions."""
        if not self.conditions.columns:
            return self._log_weights, self._means
        row = np.array([[conditions[name] for name in self.conditions.columns]])
        scaled = self.conditions.forward(row)[0]
        d = len(self.stars.columns)
        log_weights = self._log_weights + [
            multivariate_normal.logpdf(scaled, mean[d:], covariance)
            for mean, covariance in zip(self._means, self._condition_covariances, strict=True)
        ]
        shifts = np.einsum("kdc,kc->kd", self._slopes, scaled - self._means[:, d:])
        return log_weights - logsumexp(log_weights), self._means[:, :d] + shifts

    def log_prob(self, galaxy: Galaxy) -> np.ndarray:
        """Log-density of a galaxy's stars given its conditions, physical units, shape (n,)."""
        stars = galaxy.select(self.stars.columns).stars
        log_weights, means = self._given(galaxy.conditions)
        scaled = self.stars.forward(stars)
        parts = np.stack(
            [
                weight + np.atleast_1d(multivariate_normal.logpdf(scaled, mean, covariance))
                for weight, mean, covariance in zip(
                    log_weights, means, self._covariances, strict=True
                )
            ]
        )
        return logsumexp(parts, axis=0) + self.stars.log_abs_det(stars)

    def sample(self, conditions, n: int, *, seed: int = 0) -> Galaxy:
        """Draw n stars at one galaxy's conditions."""
        log_weights, means = self._given(conditions)
        rng = np.random.default_rng(seed)
        weights = np.exp(log_weights)
        counts = rng.multinomial(n, weights / weights.sum())
        drawn = np.concatenate(
            [
                rng.multivariate_normal(mean, covariance, size=count, method="cholesky")
                for mean, covariance, count in zip(means, self._covariances, counts, strict=True)
            ]
        )
        stars = self.stars.inverse(rng.permutation(drawn)).astype(np.float32)
        galaxy = Galaxy(stars, id="mixture", columns=self.stars.columns)
        mass = conditions.get("M_stars")
        return replace(
            galaxy, conditions=dict(conditions), masses=None if mass is None else mass / n
        )
