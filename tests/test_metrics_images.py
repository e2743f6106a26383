"""Errors of images: pixels in holes, flux, spectra, Frechet distance; by hand and over repeats."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional as F

from galflow_lite.images import ImageSet, Stretch, hubble_patches, parametric_galaxies
from galflow_lite.interpolants import tile_mask
from galflow_lite.metrics import (
    flux_conservation,
    frechet_distance,
    gaussian_frechet,
    masked_error,
    spectrum_ratio,
)
from galflow_lite.metrics.spectra import ring_power
from galflow_lite.networks import FeatureNetwork

LINEAR = Stretch("linear", low=-10.0, high=10.0)


def themselves(x: Tensor) -> Tensor:
    return x


def normal(*shape: int, seed: int = 0) -> Tensor:
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
    truth, mask = normal(30, 3, 16, 16), tile_mask(30, 16, tiles=4)
    sample = torch.where(mask > 0, truth, truth + 0.5)
    assert masked_error(sample, truth, mask).value == pytest.approx(0.5, rel=1e-6)
    far = torch.where(mask > 0, truth + 100, truth)
    exact = masked_error(far, truth, mask)
    assert (exact.value, exact.standard_error) == (0.0, 0.0)


def test_errors_of_pixels_and_flux_are_the_spread_over_repeated_sets():
    found = []
    for seed in range(120):
        truth = 2 + normal(200, 1, 8, 8, seed=seed)
        scale = 0.5 + normal(200, 1, 1, 1, seed=1000 + seed).abs()
        sample = truth + scale * normal(200, 1, 8, 8, seed=2000 + seed)
        mask = tile_mask(200, 8, tiles=4, generator=torch.Generator().manual_seed(seed))
        flux = flux_conservation(sample, truth, LINEAR, mask=mask)
        found.append((masked_error(sample, truth, mask), flux.bias, flux.scatter))
    for estimates in zip(*found, strict=True):
        spread = np.std([estimate.value for estimate in estimates], ddof=1)
        claimed = np.mean([estimate.standard_error for estimate in estimates])
        # The spread of 120 values is known to 7 %. The scale makes heavy tails, under which the
        # error of a root mean square comes out low: a tenth for 200 images, a quarter for 40.
        assert 0.8 <= spread / claimed <= 1.25


# --- flux -------------------------------------------------------------------------------------


def test_flux_is_compared_without_the_stretch():
    flux = 0.2 + normal(50, 1, 8, 8).abs()
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
    truth = 1 + normal(400, 1, 8, 8)
    error = flux_conservation(1 + normal(400, 1, 8, 8, seed=1), truth, LINEAR)
    assert abs(error.bias.z) < 3
    assert error.scatter.z > 20


# --- spectra ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (12, 20), (9, 31), (2, 40)])
def test_power_adds_up_to_the_mean_square(size):
    images = 0.7 + normal(5, 2, *size)
    frequency, modes, power = ring_power(images)
    assert int(modes.sum()) == size[0] * size[1]
    torch.testing.assert_close((power * modes).sum(1), images.square().mean((1, 2, 3)))
    assert frequency[0] == 0
    assert (frequency.diff() > 0).all()
    assert frequency[-1] <= math.sqrt(0.5)
    torch.testing.assert_close(power[:, 0], images.mean((2, 3)).square().mean(1))


def test_a_wave_has_its_power_at_its_frequency():
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32, dtype=torch.float64) / 32)
    for images in (wave.expand(3, 1, 32, 32), wave[:, None].expand(3, 1, 32, 32)):
        frequency, modes, power = ring_power(images)
        ring = int(power[0].argmax())
        assert abs(float(frequency[ring]) - 5 / 32) < 0.5 / 32
        assert float(power[0, ring] * modes[ring]) == pytest.approx(0.5, rel=1e-12)
        assert float(power[0].sum() - power[0, ring]) < 1e-20


def test_blur_multiplies_the_spectrum_by_the_square_of_its_transfer():
    truth = normal(300, 1, 32, 32)
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
        scale = normal(60, 1, 1, 1, seed=3000 + seed).exp()
        truth = scale * normal(60, 1, 8, 8, seed=seed)
        found.append(spectrum_ratio(normal(50, 1, 8, 8, seed=1000 + seed), truth, resamplings=100))
    spread = torch.stack([s.value for s in found]).log().std(0)
    claimed = torch.stack([s.standard_error / s.value for s in found]).mean(0)
    assert (0.6 <= spread / claimed).all()
    assert (spread / claimed <= 1.6).all()
    again = spectrum_ratio(normal(50, 1, 8, 8, seed=1099), truth, resamplings=100)
    assert torch.equal(again.standard_error, found[-1].standard_error)


def test_pairs_have_smaller_errors_than_separate_sets():
    truth = normal(200, 1, 1, 1).exp() * normal(200, 1, 16, 16, seed=1)
    sample = truth + 0.05 * normal(200, 1, 16, 16, seed=2)
    paired, separate = (spectrum_ratio(sample, truth, paired=p) for p in (True, False))
    assert torch.equal(paired.value, separate.value)
    assert (paired.standard_error < 0.3 * separate.standard_error).all()


# --- Frechet distance: the formula ------------------------------------------------------------


def slow(x: Tensor, y: Tensor) -> float:
    """The formula as it is written, on rows of features."""
    x, y = x.double().numpy(), y.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(first @ second).real
    shift = x.mean(0) - y.mean(0)
    return float(shift @ shift + np.trace(first + second - 2 * root))


def test_gaussians_whose_covariances_commute():
    shift, a, b = (
        torch.tensor([1.0, -2.0, 0.5]),
        torch.tensor([4.0, 1, 9]),
        torch.tensor([1.0, 1, 0]),
    )
    turn = torch.linalg.qr(normal(3, 3, seed=0)).Q
    first, second = (turn @ torch.diag(v.double()) @ turn.T for v in (a, b))
    found = gaussian_frechet(torch.zeros(3), first, turn @ shift.double(), second)
    expected = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(found) == pytest.approx(5.25 + 1 + 0 + 9)


@pytest.mark.parametrize("d", [1, 2, 7])
def test_gaussians_whose_covariances_do_not_commute(d):
    roots, means = normal(2, d, d, seed=d), normal(2, d, seed=d + 1)
    first, second = roots @ roots.mT
    found = gaussian_frechet(means[0], first, means[1], second)
    cross = np.trace(sqrtm((first @ second).numpy()).real)
    expected = float((means[0] - means[1]).square().sum() + first.trace() + second.trace())
    assert float(found) == pytest.approx(expected - 2 * cross, rel=1e-9)
    assert float(gaussian_frechet(means[1], second, means[0], first)) == pytest.approx(float(found))


def test_samples_of_gaussians_agree_with_the_closed_form():
    root = torch.tensor([[1.5, 0.0], [0.5, 1.0]], dtype=torch.float64)
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)
    exact = gaussian_frechet(torch.zeros(2), torch.eye(2), shift, root @ root.T)
    n = 20_000
    x, y = normal(n, 2, seed=0), normal(n, 2, seed=1) @ root.T + shift
    found = frechet_distance(x, y, features=themselves)
    assert abs(found.value - float(exact)) < 4 * found.standard_error
    assert found.standard_error < 0.05 * float(exact)


def test_the_slow_formula_on_features_of_images():
    x, y = parametric_galaxies(300, seed=1).images, parametric_galaxies(260, seed=2).images + 0.02
    with torch.no_grad():
        expected = slow(*(FeatureNetwork.shipped()(images) for images in (x, y)))
    found = frechet_distance(x, y, resamplings=2)
    assert found.value == pytest.approx(expected, rel=1e-5)
    other = frechet_distance(y.numpy(), x.numpy(), resamplings=2)
    assert other.value == pytest.approx(found.value, rel=1e-9)


def test_identical_samples_are_at_distance_0():
    images = parametric_galaxies(200).images
    assert frechet_distance(images, images.clone()).value < 1e-10
    # Paired as well, there is nothing that could differ by chance.
    pairs = frechet_distance(images, images.clone(), paired=True)
    assert max(pairs.value, pairs.null, pairs.standard_error) < 1e-10


def test_singular_covariances_give_no_warning_and_the_right_value():
    x, y = normal(100, 4, seed=0), normal(80, 4, seed=1)
    for sample in (x, y):
        sample[:, 1] = 3.0  # constant in both
        sample[:, 2] = 2 * sample[:, 0]  # a copy
    y[:, 3] = -1.0  # constant in one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
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


def repeated(change=themselves, sizes=(250, 250), times: int = 60, **options):
    found = []
    for k in range(times):
        x, y = normal(sizes[0], 5, seed=2 * k), normal(sizes[1], 5, seed=2 * k + 1)
        x[:, 0], y[:, 0] = x[:, 0].sinh(), y[:, 0].sinh()
        options = {"resamplings": 40, **options}
        found.append(frechet_distance(x, change(y), features=themselves, **options))
    return found


@pytest.mark.parametrize("sizes", [(250, 250), (150, 400)])
def test_samples_of_one_law_stay_within_their_errors(sizes):
    z = np.array([estimate.z for estimate in repeated(sizes=sizes)])
    assert (np.abs(z) <= 3).mean() >= 0.95
    assert 0.5 <= z.std(ddof=1) <= 1.6
    # The null is the mean: 4 standard errors of the mean of 60 values.
    assert abs(z.mean()) <= 4 / math.sqrt(len(z))


@pytest.mark.parametrize("strength", [0.15, 1.0])
def test_standard_error_is_the_spread_when_laws_differ(strength):
    found = repeated(lambda y: (1 + strength) * y + strength)
    spread = np.std([estimate.value for estimate in found], ddof=1)
    claimed = np.mean([estimate.standard_error for estimate in found])
    # The spread of 60 values is known to 9 %; the tails of sinh add to that.
    assert 0.6 <= spread / claimed <= 1.5


def test_the_bias_is_the_null_and_falls_with_the_sample_size():
    by_size = {}
    for n in (100, 400):
        found = repeated(lambda y: y + 0.5, sizes=(n, n), times=40)
        values, nulls = (np.array([getattr(e, name) for e in found]) for name in ("value", "null"))
        by_size[n] = values.mean(), nulls.mean()
        # Five columns, each shifted by a half: the law's distance, where nothing else differs.
        excess = values - nulls - 5 * 0.25
        assert abs(excess.mean()) < 4 * excess.std(ddof=1) / math.sqrt(len(excess))
    assert by_size[100][0] > by_size[400][0]
    assert 3 < by_size[100][1] / by_size[400][1] < 5.5


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
    assert (np.abs(z) <= 3).mean() >= 0.95
    assert 0.5 <= np.std(z, ddof=1) <= 1.6
    assert abs(np.mean(z)) <= 4 / math.sqrt(len(z))


def test_a_seed_fixes_errors_and_null_and_no_other_random_number():
    x, y = normal(60, 3, seed=0), normal(50, 3, seed=1)
    state = torch.random.get_rng_state()
    first = frechet_distance(x, y, features=themselves, seed=3)
    assert first == frechet_distance(x, y, features=themselves, seed=3)
    other = frechet_distance(x, y, features=themselves, seed=4)
    assert other.value == first.value
    assert (other.standard_error, other.null) != (first.standard_error, first.null)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- what it sees in galaxies -----------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return FeatureNetwork.shipped()


@pytest.fixture(scope="module", params=["parametric", "hubble"])
def halves(request, network) -> tuple[Tensor, ImageSet]:
    """Features of 700 images, and 700 other images of the same law."""
    if request.param == "parametric":
        x, y = (parametric_galaxies(700, seed=seed, split="test") for seed in (1, 2))
    else:
        patches = hubble_patches()
        order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))
        x, y = patches[order[:700]], patches[order[700:1400]]
    with torch.no_grad():
        return network(x.images), y


def distance(features: Tensor, images: Tensor, network: FeatureNetwork, resamplings: int = 50):
    with torch.no_grad():
        other = network(images)
    return frechet_distance(features, other, features=themselves, resamplings=resamplings)


def blurred(x: Tensor, *, pixels: float) -> Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / pixels) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    return F.conv2d(F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel), kernel.mT)


def holes(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return tile_mask(len(x), 32, hole_probability=0.05, generator=generator)


DAMAGES = {
    "blur of half a pixel": lambda x: blurred(x, pixels=0.5),
    "noise of a twentieth of the range": lambda x: x + 0.1 * normal(*x.shape, seed=0).float(),
    "background of a fortieth of the range": lambda x: x + 0.05,
    "every twentieth tile zero": lambda x: x * holes(x),
    "every twentieth tile dark": lambda x: torch.where(holes(x) > 0, x, torch.tensor(-1.0)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_far_above_chance(halves, network, damage):
    x, y = halves
    found = distance(x, DAMAGES[damage](y.images), network)
    assert found.z > 5, found
    assert found.value > 2 * found.null


def test_more_damage_is_further_away(halves, network):
    x, y = halves[0][:250], halves[1].images[:250]
    for change in (
        lambda k: blurred(y, pixels=0.3 + 0.2 * k),
        lambda k: y + 0.05 * k * normal(*y.shape, seed=0).float(),
        lambda k: y + 0.03 * k,
    ):
        near, far = (distance(x, change(k), network, 2).value for k in (1, 3))
        assert near < far


def test_turned_and_flipped_images_of_one_law_stay_at_chance(halves, network):
    x, y = halves
    found = distance(x, y.augmented(seed=0).images, network)
    assert abs(found.z) < 3.5, found


def test_a_missing_class_and_one_handedness_are_far_above_chance(network):
    x, y = (parametric_galaxies(n, seed=n, split="test") for n in (700, 1000))
    with torch.no_grad():
        x, seen = network(x.images), network(y.images)
    for lost in range(3):
        found = frechet_distance(x, seen[y.labels != lost], features=themselves, resamplings=50)
        assert found.z > 5, found
        assert found.value > 2 * found.null
    turned = (y.targets[:, y.target_names.index("pitch angle")] < 0) & (y.labels == 1)
    mirrored = torch.where(turned[:, None, None, None], y.images.flip(3), y.images)
    assert distance(x, mirrored, network).z > 5


# --- input ------------------------------------------------------------------------------------


def test_images_of_any_floating_type():
    images = parametric_galaxies(80).images
    double = images.double()
    assert frechet_distance(double, images, resamplings=2).value < 1e-10
    assert (spectrum_ratio(images, double).value == 1).all()


def test_what_cannot_be_compared_is_refused():
    x = torch.zeros(80, 1, 16, 16)
    for bad in (
        lambda: frechet_distance(x[:64], x),  # no more images than features
        lambda: frechet_distance(x[:70], x, paired=True),
        lambda: frechet_distance(*torch.zeros(2, 80, 1, 8, 8)),  # too small for the network
        lambda: masked_error(x, x, torch.ones_like(x)),  # no hole
        lambda: masked_error(x, x, torch.full_like(x, 0.5)),
        lambda: masked_error(x, x, torch.zeros(80, 3, 16, 16)),
        lambda: flux_conservation(x, x - 1, LINEAR),  # no flux
        lambda: spectrum_ratio(x, x + 1),  # no power
    ):
        with pytest.raises(ValueError, match="expected"):
            bad()
