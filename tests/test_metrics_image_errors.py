"""Errors of pixels, flux and spectra: by hand, in closed form, and over repeated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from galflow_lite.images import Stretch, parametric_galaxies
from galflow_lite.interpolants import downsample, tile_mask
from galflow_lite.metrics import (
    flux_conservation,
    low_resolution_error,
    masked_error,
    power_spectrum,
    residual_power_spectrum,
    spectrum_ratio,
)

LINEAR = Stretch("linear", low=-10.0, high=10.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- pixels of holes --------------------------------------------------------------------------


def test_masked_error_by_hand():
    truth = torch.zeros(2, 1, 2, 2)
    sample = torch.tensor([[[[3.0, 9.0], [0.0, 9.0]]], [[[1.0, 9.0], [9.0, 9.0]]]])
    mask = torch.tensor([[[[0, 1], [0, 1]]], [[[0, 1], [1, 1]]]])
    estimate = masked_error(sample, truth, mask)
    assert estimate.value == pytest.approx(math.sqrt((9 + 0 + 1) / 3))
    # Residuals of the ratio 10 / 3: 9 - 20 / 3 and 1 - 10 / 3, over the mean of 1.5 pixels.
    spread = np.std([(9 - 20 / 3) / 1.5, (1 - 10 / 3) / 1.5], ddof=1) / math.sqrt(2)
    assert estimate.standard_error == pytest.approx(spread / (2 * estimate.value))
    assert masked_error(sample, truth, mask.bool()).value == estimate.value


def test_known_pixels_and_colours_under_one_mask():
    truth, mask = noise(30, 3, 16, 16), tile_mask(30, 16, tiles=4)
    sample = torch.where(mask > 0, truth, truth + 0.5)
    assert masked_error(sample, truth, mask).value == pytest.approx(0.5, rel=1e-6)
    far = torch.where(mask > 0, truth + 100, truth)
    exact = masked_error(far, truth, mask)
    assert (exact.value, exact.standard_error) == (0.0, 0.0)


def test_errors_of_pixels_and_flux_are_the_spread_over_repeated_sets():
    found = []
    for seed in range(200):
        truth = 2 + noise(200, 1, 8, 8, seed=seed)
        scale = 0.5 + noise(200, 1, 1, 1, seed=1000 + seed).abs()
        sample = truth + scale * noise(200, 1, 8, 8, seed=2000 + seed)
        mask = tile_mask(200, 8, tiles=4, generator=torch.Generator().manual_seed(seed))
        flux = flux_conservation(sample, truth, LINEAR, mask=mask)
        found.append((masked_error(sample, truth, mask), flux.bias, flux.scatter))
    for estimates in zip(*found, strict=True):
        spread = np.std([estimate.value for estimate in estimates], ddof=1)
        claimed = np.mean([estimate.standard_error for estimate in estimates])
        # The spread of 200 values is known to 5 %. The scale makes heavy tails, under which the
        # error of a root mean square comes out low: a tenth for 200 images, a quarter for 40.
        assert 0.8 <= spread / claimed <= 1.25


# --- flux -------------------------------------------------------------------------------------


def test_flux_is_compared_without_the_stretch():
    flux = 0.2 + noise(50, 1, 8, 8).abs()
    for stretch in (
        Stretch("square root", high=9.0),
        Stretch("arcsinh", high=9.0),
        Stretch("linear", high=9.0),
    ):
        error = flux_conservation(stretch(1.1 * flux), stretch(flux), stretch)
        assert error.bias.value == pytest.approx(0.1, rel=1e-9)
        assert error.bias.standard_error == pytest.approx(0, abs=1e-12)
        assert error.bias.null == 0
        total = flux.sum((1, 2, 3))
        expected = 0.1 * float(total.square().mean().sqrt() / total.mean())
        assert error.scatter.value == pytest.approx(expected, rel=1e-9)
    assert "bias" in str(error)


def test_flux_that_only_moves_is_kept_and_a_mask_counts_holes_alone():
    images = parametric_galaxies(40)
    moved = images.images.roll(5, dims=3)
    error = flux_conservation(moved, images.images, images.stretch)
    assert error.scatter.value == pytest.approx(0, abs=1e-6)
    mask = torch.ones(40, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    empty = torch.where(mask > 0, images.images, torch.tensor(-1.0))
    holes = flux_conservation(empty, images.images, images.stretch, mask=mask)
    assert holes.bias.value == pytest.approx(-1, abs=1e-6)
    whole = flux_conservation(empty, images.images, images.stretch)
    share = (images.flux * (1 - mask)).sum() / images.flux.sum()
    assert whole.bias.value == pytest.approx(-float(share), rel=1e-5)


def test_a_fair_sample_has_no_bias():
    truth = 1 + noise(400, 1, 8, 8)
    error = flux_conservation(1 + noise(400, 1, 8, 8, seed=1), truth, LINEAR)
    assert abs(error.bias.z) < 3
    assert error.scatter.z > 20


# --- low resolution ---------------------------------------------------------------------------


def test_low_resolution_error_in_values_and_in_flux():
    images = parametric_galaxies(30)
    x = images.images.double()
    low = downsample(x, 4)
    assert low_resolution_error(x, low).value == pytest.approx(0, abs=1e-12)
    detail = noise(30, 1, 32, 32)
    detail = detail - downsample(detail, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert low_resolution_error(x + detail, low).value == pytest.approx(0, abs=1e-12)
    assert low_resolution_error(x + 0.25, low).value == pytest.approx(0.25, rel=1e-9)
    assert low_resolution_error(x, x).value == 0
    binned = images.stretch(torch.nn.functional.avg_pool2d(images.flux, 4))
    inside = low_resolution_error(x, binned, stretch=images.stretch)
    assert inside.value == pytest.approx(0, abs=1e-6)
    # Means of values and means of fluxes are not the same thing.
    assert low_resolution_error(x, binned).value > 0.02


@pytest.mark.parametrize("shape", [(4, 1, 9, 9), (4, 1, 8, 16), (4, 3, 8, 8), (5, 1, 8, 8)])
def test_sizes_that_do_not_divide(shape):
    with pytest.raises(ValueError, match="expected one whole factor between their heights and"):
        low_resolution_error(torch.zeros(4, 1, 32, 32), torch.zeros(shape))


# --- spectra ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (12, 20), (9, 31), (2, 40)])
def test_power_adds_up_to_the_mean_square(size):
    images = 0.7 + noise(5, 2, *size)
    found = power_spectrum(images)
    assert int(found.modes.sum()) == size[0] * size[1]
    total = float((found.value * found.modes).sum())
    assert total == pytest.approx(float(images.square().mean()), rel=1e-12)
    assert found.frequency[0] == 0
    assert (found.frequency.diff() > 0).all()
    assert found.frequency[-1] <= math.sqrt(0.5)
    expected = images.mean((2, 3)).square().mean()
    assert float(found.value[0]) == pytest.approx(float(expected), rel=1e-12)


def test_a_wave_has_its_power_at_its_frequency():
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32, dtype=torch.float64) / 32)
    for images in (wave.expand(3, 1, 32, 32), wave[:, None].expand(3, 1, 32, 32)):
        found = power_spectrum(images)
        ring = int(found.value.argmax())
        assert abs(float(found.frequency[ring]) - 5 / 32) < 0.5 / 32
        assert float(found.value[ring] * found.modes[ring]) == pytest.approx(0.5, rel=1e-12)
        assert float(found.value.sum() - found.value[ring]) < 1e-20


def test_white_noise_is_flat_within_its_errors():
    found = power_spectrum(noise(400, 1, 16, 16))
    z = (found.value - 1 / 256) / found.standard_error
    assert (z.abs() < 4).all()
    assert z.std() < 2


def test_blur_multiplies_the_spectrum_by_the_square_of_its_transfer():
    truth = noise(300, 1, 32, 32)
    blurred = (truth.roll(1, 3) + 2 * truth + truth.roll(-1, 3)) / 4
    blurred = (blurred.roll(1, 2) + 2 * blurred + blurred.roll(-1, 2)) / 4
    found = spectrum_ratio(blurred, truth, paired=True)
    wave = (0.5 + 0.5 * torch.cos(2 * math.pi * torch.fft.fftfreq(32).double())).square()
    transfer = (wave[:, None] * wave[None, :]).flatten()
    grid = torch.fft.fftfreq(32).double() * 32
    ring = torch.hypot(grid[:, None], grid[None, :]).round().long().flatten()
    expected = ring.bincount(weights=transfer) / ring.bincount()
    assert ((found.value - expected).abs() <= 5 * found.standard_error + 1e-12).all()
    assert found.value[0] == pytest.approx(1)
    assert float(found.value[-1]) < 1e-3


def test_the_errors_of_a_ratio_are_its_spread():
    found = []
    for seed in range(100):
        scale = noise(60, 1, 1, 1, seed=3000 + seed).exp()
        truth = scale * noise(60, 1, 8, 8, seed=seed)
        found.append(spectrum_ratio(noise(50, 1, 8, 8, seed=1000 + seed), truth, n_bootstrap=100))
    spread = torch.stack([s.value for s in found]).log().std(0)
    claimed = torch.stack([s.standard_error / s.value for s in found]).mean(0)
    assert (0.6 <= spread / claimed).all()
    assert (spread / claimed <= 1.6).all()
    again = spectrum_ratio(noise(50, 1, 8, 8, seed=1099), truth, n_bootstrap=100)
    assert torch.equal(again.standard_error, found[-1].standard_error)


def test_pairs_have_smaller_errors_than_separate_sets():
    truth = noise(200, 1, 1, 1).exp() * noise(200, 1, 16, 16, seed=1)
    sample = truth + 0.05 * noise(200, 1, 16, 16, seed=2)
    paired, separate = (spectrum_ratio(sample, truth, paired=p) for p in (True, False))
    assert torch.equal(paired.value, separate.value)
    assert (paired.standard_error < 0.3 * separate.standard_error).all()


def test_residual_power_of_perfect_empty_and_independent_samples():
    truth = noise(500, 1, 16, 16)
    assert residual_power_spectrum(truth, truth).value.abs().max() == 0
    empty = residual_power_spectrum(torch.zeros_like(truth), truth)
    torch.testing.assert_close(empty.value, torch.ones_like(empty.value))
    other = residual_power_spectrum(noise(500, 1, 16, 16, seed=1), truth)
    assert ((other.value - 2).abs() < 4 * other.standard_error).all()


# --- bad input --------------------------------------------------------------------------------

X = torch.zeros(4, 1, 8, 8)
MASK = torch.zeros(4, 1, 8, 8)
PAIRS = {
    "masked_error": lambda x, y: masked_error(x, y, MASK),
    "flux_conservation": lambda x, y: flux_conservation(x, y, LINEAR),
    "residual_power_spectrum": residual_power_spectrum,
    "spectrum_ratio, paired": lambda x, y: spectrum_ratio(x, y, paired=True),
}
every_pair = pytest.mark.parametrize("name", PAIRS)


@every_pair
def test_nan_other_shapes_and_too_few_images(name):
    metric, spoilt = PAIRS[name], torch.ones(4, 1, 8, 8)
    spoilt[2, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="sample has 1 of 4 images with NaN or infinite values"):
        metric(spoilt, X)
    with pytest.raises(ValueError, match="truth has 1 of 4 images with NaN or infinite values"):
        metric(X, spoilt)
    with pytest.raises(ValueError, match=r"sample has the shape \(4, 1, 8, 9\) and truth"):
        metric(torch.zeros(4, 1, 8, 9), X)
    with pytest.raises(ValueError, match=r"truth has the shape \(4, 8, 8\), expected images"):
        metric(X, X[:, 0])
    with pytest.raises(ValueError, match="sample has 1 images, expected at least 2 for a standard"):
        metric(X[:1], X[:1])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(4, 8, 8), r"the mask has the shape \(4, 8, 8\), expected \(4, 1, 8, 8\) or 1"),
        (torch.zeros(4, 3, 8, 8), r"the mask has the shape \(4, 3, 8, 8\)"),
        (torch.zeros(3, 1, 8, 8), r"the mask has the shape \(3, 1, 8, 8\)"),
        (torch.full((4, 1, 8, 8), 0.5), "the mask has values other than 0 and 1"),
        (torch.full((4, 1, 8, 8), torch.nan), "the mask has values other than 0 and 1"),
    ],
)
def test_wrong_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        masked_error(X, X, mask)
    with pytest.raises(ValueError, match=message):
        flux_conservation(X, X, LINEAR, mask=mask)


def test_no_holes_no_flux_no_power():
    with pytest.raises(ValueError, match="0 of 4 images have holes, expected at least 2"):
        masked_error(X, X, torch.ones(4, 1, 8, 8))
    with pytest.raises(ValueError, match="the true images have the flux 0 .* expected a positive"):
        flux_conservation(X, X - 1, LINEAR)
    with pytest.raises(ValueError, match="no power at 0.151 cycles per pixel, expected some at"):
        spectrum_ratio(X, X + 1)
    with pytest.raises(ValueError, match="n_bootstrap is 1, expected at least 2"):
        spectrum_ratio(noise(4, 1, 8, 8), noise(4, 1, 8, 8), n_bootstrap=1)
    with pytest.raises(ValueError, match="expected one shape: bring them to the same size"):
        spectrum_ratio(noise(4, 1, 8, 8), noise(4, 1, 8, 16))
