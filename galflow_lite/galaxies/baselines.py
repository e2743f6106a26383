"""What GalaxyFlow is judged by: two baselines, which the paper does not have, and scores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from .. import metrics
from ..inputs import as_whole
from .catalogue import Catalogue
from .galaxy import COLUMNS, CONDITIONS, Galaxy, profile_distance
from .galaxy import conditions as conditions_of
from .scaling import Conditions, OutsideTrainingRange, Scaling, stars_and_conditions

# Width of the noise added to the conditions in the fit of the mixture, in their standard
# deviations: they take few distinct values, on which Gaussians would collapse.
_JITTER = 0.1
_COMPARED = ("rotation", "sigma_R", "sigma_z", "age", "feh")


class NearestGalaxy:
    """Answer with the stars of the training galaxy whose conditions are closest.

    Closest in the standardised conditions, the stellar mass as log10, each with the same weight.
    """

    conditions = Conditions(())

    def fit(self, catalogue: Catalogue) -> NearestGalaxy:
        """Keep the catalogue and standardise its conditions.

        Raises:
            ValueError: If a condition does not vary.
        """
        self.conditions = Conditions(catalogue.condition_names).fitted(catalogue, by_star=False)
        self._table = self.conditions.forward(catalogue.condition_table())
        self.catalogue = catalogue
        return self

    def sample(self, conditions: Any, n: int, *, seed: int = 0) -> Galaxy:
        """Draw n stars of the closest galaxy, without replacement as long as there are enough.

        The sample has the conditions that were asked for, as one of :meth:`GalaxyFlow.sample`,
        and the id of the galaxy.

        Raises:
            ValueError: On wrong conditions, n below one, or before :meth:`fit`.
        """
        n = as_whole(n, "n", least=1)
        self.conditions.require_fitted()
        wanted = self.conditions.forward(self.conditions.one(conditions)[None])
        distance = ((self._table - wanted) ** 2).sum(axis=1)
        galaxy = self.catalogue[int(np.argmin(distance))]
        rng = np.random.default_rng(as_whole(seed, "seed"))
        rows = rng.choice(len(galaxy), size=n, replace=n > len(galaxy))
        return self.conditions.galaxy(galaxy.stars[rows], conditions, galaxy.columns, galaxy.id)


class ConditionalMixture:
    """Gaussian mixture of stars and conditions together, conditioned on the conditions.

    Given its component, a star's mean is linear in the conditions; the weights of the components
    change with them as well (the conditional of a joint Gaussian mixture, in closed form).

    Args:
        columns: Columns of the stars.
        condition_columns: Conditions.
        components: Number of Gaussians, each with a full covariance.
        max_stars: Stars drawn from the catalogue for the fit.
        seed: Seed of the draw and of the fit.
    """

    def __init__(
        self,
        columns: Sequence[str] = COLUMNS,
        condition_columns: Sequence[str] = CONDITIONS,
        *,
        components: int = 32,
        max_stars: int = 40_000,
        seed: int = 0,
    ) -> None:
        self.stars, self.conditions = Scaling(columns), Conditions(condition_columns)
        self.components = as_whole(components, "components", least=1)
        self.max_stars = as_whole(max_stars, "max_stars", least=1)
        self.seed = as_whole(seed, "seed")

    def fit(self, catalogue: Catalogue) -> ConditionalMixture:
        """Fit the joint mixture by expectation maximisation, at most 100 iterations.

        Raises:
            ValueError: If the catalogue lacks a column or condition, one does not vary, or there
                are fewer stars than components.
        """
        self.conditions = self.conditions.fitted(catalogue)
        self.stars = self.stars.fitted(catalogue)
        columns = self.stars.columns
        stars = np.concatenate([catalogue.read_stars(k, columns) for k in range(len(catalogue))])
        table = self.conditions.forward(catalogue.condition_table(self.conditions.columns))
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(len(stars))[: self.max_stars]
        seen = np.repeat(table, catalogue.n_stars, axis=0)[rows]
        seen = seen + _JITTER * rng.standard_normal(seen.shape)
        with warnings.catch_warnings():
            # After the last iteration the mixture is a baseline as good as any.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(
                self.components, reg_covar=1e-4, random_state=self.seed, max_iter=100, tol=1e-3
            ).fit(np.hstack([self.stars.forward(stars[rows]), seen]))
        d = len(self.stars.columns)
        self._log_weights = np.log(mixture.weights_)
        self._means, covariances = mixture.means_, mixture.covariances_
        self._condition_covariances = covariances[:, d:, d:]
        # Regression of the stars on the conditions within each component.
        self._slopes = np.stack([np.linalg.solve(c[d:, d:], c[d:, :d]).T for c in covariances])
        self._covariances = covariances[:, :d, :d] - self._slopes @ covariances[:, d:, :d]
        return self

    def _given(self, conditions: Any) -> tuple[np.ndarray, np.ndarray]:
        """Log-weights (components,) and means (components, columns) at one galaxy's conditions."""
        self.stars.require_fitted()
        if not self.conditions.columns:
            return self._log_weights, self._means
        scaled = self.conditions.forward(self.conditions.one(conditions)[None])[0]
        d = len(self.stars.columns)
        log_weights = self._log_weights + [
            multivariate_normal.logpdf(scaled, mean[d:], covariance)
            for mean, covariance in zip(self._means, self._condition_covariances, strict=True)
        ]
        shifts = np.einsum("kdc,kc->kd", self._slopes, scaled - self._means[:, d:])
        return log_weights - logsumexp(log_weights), self._means[:, :d] + shifts

    def log_prob(self, stars: Any, conditions: Any = None) -> np.ndarray:
        """Log-density of stars, shape (n,), physical units; arguments as `GalaxyFlow.log_prob`.

        Raises:
            ValueError: On missing columns or conditions, NaN, or before :meth:`fit`.
        """
        stars, conditions = stars_and_conditions(stars, conditions, self.stars.columns)
        log_weights, means = self._given(conditions)
        scaled = self.stars.forward(stars)
        densities = [
            np.atleast_1d(multivariate_normal.logpdf(scaled, mean, covariance))
            for mean, covariance in zip(means, self._covariances, strict=True)
        ]
        return logsumexp(densities + log_weights[:, None], axis=0) + self.stars.log_abs_det(stars)

    def sample(self, conditions: Any, n: int, *, seed: int = 0) -> Galaxy:
        """Draw n stars at one galaxy's conditions, taken as in :meth:`GalaxyFlow.sample`.

        Raises:
            ValueError: On wrong conditions, n below one, or before :meth:`fit`.
        """
        n = as_whole(n, "n", least=1)
        log_weights, means = self._given(conditions)
        rng = np.random.default_rng(as_whole(seed, "seed"))
        weights = np.exp(log_weights)
        counts = rng.multinomial(n, weights / weights.sum())
        drawn = [
            rng.multivariate_normal(mean, covariance, size=count, method="cholesky")
            for mean, covariance, count in zip(means, self._covariances, counts, strict=True)
        ]
        stars = self.stars.inverse(rng.permutation(np.concatenate(drawn)))
        return self.conditions.galaxy(stars, conditions, self.stars.columns, "mixture")


def compare(data: Galaxy, sample: Galaxy, *, std: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Three scores of a sample; the other half of the galaxy shows what a perfect one gets.

    Args:
        data, sample: Galaxies of about as many stars, with all ten columns.
        std: Standard deviation of each column, for the score of the paper's code.
        seed: Of the classifier.

    Returns:
        ``c2st``, the accuracy of a classifier that tells them apart (0.5 is perfect); ``mmd``, the
        squared distance of their means (public code of arXiv:2312.06017); ``profiles``, the median
        of five profile distances.
    """
    own = data.stars.std(axis=0)
    return {
        "c2st": metrics.c2st(data.stars / own, sample.stars / own, seed=seed).value,
        "mmd": metrics.linear_mmd(data.stars, sample.stars, std=std).value,
        "profiles": float(np.nanmedian([profile_distance(data, sample, p) for p in _COMPARED])),
    }


def condition_errors(
    model: Any, galaxies: Catalogue | Sequence[Galaxy], *, stars: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How far the conditions of samples are from those asked for, in units of counting noise.

    Stellar mass is left out: a sample has as many stars as it is asked for. So are conditions that
    are not those of the paper.

    Args:
        model: Draws stars of given conditions, such as a `GalaxyFlow`.
        galaxies: Their conditions are asked for.
        stars: Of each sample.
        seed: Of the samples.

    Returns:
        Name of the condition to the root mean square over galaxies, divided by that of the change
        when a sample is drawn from again, with replacement.
    """
    names = [name for name in galaxies[0].conditions if name in CONDITIONS[1:]]
    rows = []
    for i, galaxy in enumerate(galaxies):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutsideTrainingRange)
            sample = model.sample(galaxy.conditions, stars, seed=100 * seed + i)
        resampled = sample.take(np.random.default_rng(100 * seed + i).integers(stars, size=stars))
        own = (galaxy.conditions, conditions_of(sample), conditions_of(resampled))
        rows.append([[values[name] for name in names] for values in own])
    asked, found, again = np.stack(rows, axis=1)
    ratio = ((found - asked) ** 2).mean(axis=0) / ((again - found) ** 2).mean(axis=0)
    return dict(zip(names, np.sqrt(ratio).tolist(), strict=True))
