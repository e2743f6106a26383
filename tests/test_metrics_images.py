"""Spectra of images and the Frechet distance; by hand and over repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import kurtosis
from torch import Tensor

from galflow_lite.images import parametric_galaxies
from galflow_lite.metrics import frechet_distance, gaussian_frechet, power_spectrum
from galflow_lite.networks import FeatureNetwork


def themselves(x: Tensor) -> Tensor:
    return x


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def require_calibrated(z: list[float]) -> None:
    assert (np.abs(z) <= 3).mean() >= 0.95
    assert 0.5 <= np.std(z, ddof=1) <= 1.6
    # The null is the mean: 4 standard errors of the mean.
    assert abs(np.mean(z)) <= 4 / math.sqrt(len(z))


# --- spectra ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (12, 20), (9, 31), (2, 40)])
def test_power_adds_up_to_the_mean_square(size):
    images = 0.7 + normal(5, 2, *size)
    frequency, modes, power = power_spectrum(images)
    assert int(modes.sum()) == size[0] * size[1]
    torch.testing.assert_close((power * modes).sum(1), images.square().mean((1, 2, 3)))
    assert frequency[0] == 0
    assert (frequency.diff() > 0).all()
    assert frequency[-1] <= math.sqrt(0.5)
    torch.testing.assert_close(power[:, 0], images.mean((2, 3)).square().mean(1))


def test_a_wave_has_its_power_at_its_frequency():
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32, dtype=torch.float64) / 32)
    for images in (wave.expand(3, 1, 32, 32), wave[:, None].expand(3, 1, 32, 32)):
        frequency, modes, power = power_spectrum(images)
        ring = int(power[0].argmax())
        assert abs(float(frequency[ring]) - 5 / 32) < 0.5 / 32
        assert float(power[0, ring] * modes[ring]) == pytest.approx(0.5, rel=1e-12)
        assert float(power[0].sum() - power[0, ring]) < 1e-20


# --- Frechet distance: the formula ------------------------------------------------------------


def test_gaussians_whose_covariances_commute():
    parts = [[1.0, -2.0, 0.5], [4.0, 1.0, 9.0], [1.0, 1.0, 0.0]]
    shift, a, b = torch.tensor(parts, dtype=torch.float64)
    turn = torch.linalg.qr(normal(3, 3, seed=0)).Q
    first, second = (turn @ torch.diag(v) @ turn.T for v in (a, b))
    found = gaussian_frechet(torch.zeros(3), first, turn @ shift, second)
    # The shift, and the squares of the differences of standard deviations.
    assert float(found) == pytest.approx(5.25 + 1 + 0 + 9, rel=1e-12)


def test_the_formula_as_it_is_written_on_features_of_images():
    x, y = parametric_galaxies(300, seed=1).images, parametric_galaxies(260, seed=2).images + 0.02
    with torch.no_grad():
        a, b = (FeatureNetwork.shipped()(images).double().numpy() for images in (x, y))
    first, second, shift = np.cov(a.T), np.cov(b.T), a.mean(0) - b.mean(0)
    root = sqrtm(first @ second).real
    found = frechet_distance(x, y, resamplings=2)
    expected = shift @ shift + np.trace(first + second - 2 * root)
    assert found.value == pytest.approx(expected, rel=1e-5)
    other = frechet_distance(y.numpy(), x.numpy(), resamplings=2)
    assert other.value == pytest.approx(found.value, rel=1e-9)
    with pytest.raises(ValueError, match="x has whole numbers"):
        frechet_distance((x > 0).to(torch.uint8), y)


@pytest.mark.filterwarnings("error")
def test_singular_covariances_give_no_warning_and_the_right_value():
    x, y = normal(100, 4, seed=0), normal(80, 4, seed=1)
    for sample in (x, y):
        sample[:, 1] = 3.0  # constant in both
        sample[:, 2] = 2 * sample[:, 0]  # a copy
    y[:, 3] = -1.0  # constant in one
    found = frechet_distance(x, y, features=themselves)
    constant = frechet_distance(torch.ones(9, 3), torch.zeros(9, 3), features=themselves)
    a, b = x[:, 0], y[:, 0]
    # What is left: sqrt(5) times the first column, and the fourth against a constant.
    expected = 5 * ((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2)
    expected += (x[:, 3].mean() + 1) ** 2 + x[:, 3].var()
    assert found.value == pytest.approx(float(expected), rel=1e-7)
    assert math.isfinite(found.standard_error)
    assert constant.value == 3


# --- chance and errors ------------------------------------------------------------------------


def repeated(change=themselves, sizes=(250, 250)):
    found = []
    for k in range(60):
        x, y = (normal(n, 5, seed=2 * k + i) for i, n in enumerate(sizes))
        x[:, 0], y[:, 0] = x[:, 0].sinh(), y[:, 0].sinh()
        found.append(frechet_distance(x, change(y), features=themselves, resamplings=40))
    return found


@pytest.mark.parametrize("sizes", [(250, 250), (150, 400)])
def test_samples_of_one_law_stay_within_their_errors(sizes):
    require_calibrated([estimate.z for estimate in repeated(sizes=sizes)])


@pytest.mark.parametrize("strength", [0.15, 1.0])
def test_standard_error_is_the_spread_when_laws_differ(strength):
    found = repeated(lambda y: (1 + strength) * y + strength)
    values = [estimate.value for estimate in found]
    spread, claim = np.std(values, ddof=1), np.mean([estimate.standard_error for estimate in found])
    # The relative error of a standard deviation, which grows with the tails: of sinh, by far.
    error = math.sqrt((kurtosis(values, fisher=False) - 1) / (4 * len(values)))
    assert abs(spread - claim) < 4 * error * spread


def test_pairs_that_share_a_part_have_a_lower_null_and_calibrated_errors():
    z = []
    for k in range(60):
        base = normal(200, 5, seed=3 * k)
        x, y = (base + 0.3 * normal(200, 5, seed=3 * k + i) for i in (1, 2))
        options = {"features": themselves, "resamplings": 40}
        pairs, separate = (frechet_distance(x, y, paired=p, **options) for p in (True, False))
        assert pairs.value == separate.value
        assert pairs.null < 0.4 * separate.null
        z.append(pairs.z)
    require_calibrated(z)
