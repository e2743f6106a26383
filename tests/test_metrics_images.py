"""Frechet distance: closed forms, a slow formula, calibrated errors, what it sees in galaxies."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional as F

from galflow_lite.images import ImageSet, digits, hubble_patches, parametric_galaxies
from galflow_lite.interpolants import tile_mask
from galflow_lite.metrics import frechet_distance, gaussian_frechet, train_test_floor
from galflow_lite.networks import FeatureNetwork


def themselves(x: Tensor) -> Tensor:
    return x


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def slow(x: Tensor, y: Tensor) -> float:
    """The formula as it is written, on rows of features."""
    x, y = x.double().numpy(), y.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(first @ second).real
    shift = x.mean(0) - y.mean(0)
    return float(shift @ shift + np.trace(first + second - 2 * root))


# --- the formula ------------------------------------------------------------------------------


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
    found = frechet_distance(x, y, n_bootstrap=2, n_permutations=2)
    assert found.value == pytest.approx(expected, rel=1e-5)
    other = frechet_distance(y.numpy(), x.numpy(), n_bootstrap=2, n_permutations=2)
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
        options = {"n_bootstrap": 40, "n_permutations": 40, **options}
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
        options = {"features": themselves, "n_bootstrap": 40, "n_permutations": 40}
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


@pytest.fixture(scope="module", params=["parametric", "hubble"])
def halves(request) -> tuple[ImageSet, ImageSet]:
    """Two times 1,000 images of one law."""
    if request.param == "parametric":
        return tuple(parametric_galaxies(1000, seed=seed, split="test") for seed in (1, 2))
    patches = hubble_patches()
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))
    return patches[order[:1000]], patches[order[1000:2000]]


def distance(x: Tensor, y: Tensor, **options):
    return frechet_distance(x, y, n_bootstrap=50, n_permutations=50, **options)


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
def test_damage_is_far_above_chance(halves, damage):
    x, y = halves
    found = distance(x.images, DAMAGES[damage](y.images))
    assert found.z > 5, found
    assert found.value > 2.5 * found.null


def test_more_damage_is_further_away(halves):
    x, y = (half.images[:400] for half in halves)
    for change in (
        lambda k: blurred(y, pixels=0.3 + 0.2 * k),
        lambda k: y + 0.05 * k * normal(*y.shape, seed=0).float(),
        lambda k: y + 0.03 * k,
    ):
        values = [
            frechet_distance(x, change(k), n_bootstrap=2, n_permutations=2) for k in (1, 2, 3)
        ]
        assert values[0].value < values[1].value < values[2].value


@pytest.mark.parametrize("seed", range(3))
def test_turned_and_flipped_images_of_one_law_stay_at_chance(halves, seed):
    x, y = halves
    found = distance(x.images, y.augmented(seed=seed).images)
    assert abs(found.z) < 3.5, found


@pytest.mark.parametrize("lost", range(3))
def test_a_missing_class_is_far_above_chance(lost):
    x, y = (parametric_galaxies(n, seed=n, split="test") for n in (1000, 1500))
    found = distance(x.images, y[y.labels != lost][:1000].images)
    assert found.z > 5, found
    assert found.value > 3 * found.null


def test_spirals_of_one_handedness_are_seen():
    x, y = (parametric_galaxies(1000, seed=seed, split="test") for seed in (1, 2))
    turned = (y.targets[:, y.target_names.index("pitch angle")] < 0) & (y.labels == 1)
    mirrored = torch.where(turned[:, None, None, None], y.images.flip(3), y.images)
    assert distance(x.images, mirrored).z > 5


# --- training images against test images ------------------------------------------------------


def test_the_floor_of_parametric_galaxies_is_chance_and_that_of_the_sky_is_not():
    train, test = parametric_galaxies(993), parametric_galaxies(993, split="test")
    assert abs(train_test_floor(train.images, test.images).z) < 3.5
    # Training and test patches are of different parts of the sky.
    train, test = hubble_patches(), hubble_patches(split="test")
    floors = [
        train_test_floor(train.images, test.images, n=n, n_bootstrap=20, n_permutations=20)
        for n in (400, len(test))
    ]
    assert floors[1].z > 4
    assert floors[1].value > 1.5 * floors[1].null
    assert floors[1].null < floors[0].null


def test_the_floor_draws_without_replacement_and_by_its_seed():
    train, test = normal(300, 3, seed=0), normal(100, 3, seed=1)
    options = {"features": themselves, "n_bootstrap": 2, "n_permutations": 2}
    everything = frechet_distance(train, test, **options).value
    assert train_test_floor(train, test, n=300, **options).value == pytest.approx(everything)
    assert train_test_floor(train, test, **options).value == everything
    first, second, other = (
        train_test_floor(train, test, n=100, seed=seed, **options).value for seed in (0, 0, 1)
    )
    assert first == second != other


# --- bad input --------------------------------------------------------------------------------

X = torch.zeros(80, 1, 16, 16)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X, torch.zeros(80, 1, 16, 17), {}, r"x has images of shape \(1, 16, 16\) and y of \(1, 1"),
        (X[:64], X, {}, "x has 64 images, expected more than the 64 features"),
        (X, X[:0], {}, "y has 0 images, expected more than the 64 features"),
        (X, X * torch.nan, {}, "y has 80 of 80 images with NaN or infinite values, expected none"),
        (X.byte(), X, {}, "x has the shape .* and the type torch.uint8, expected images"),
        (torch.zeros(80), X, {}, r"x has the shape \(80,\)"),
        (X[:70], X, {"paired": True}, "x has 70 images and y has 80, expected pairs of them"),
        (X, X, {"n_bootstrap": 1}, "n_bootstrap is 1, expected at least 2"),
        (X, X, {"n_permutations": 0}, "n_permutations is 0, expected at least 2"),
        (
            X,
            X,
            {"features": themselves},
            r"features of x have the shape \(80, 1, 16, 16\) .* \(batc",
        ),
        (X, X, {"features": lambda x: x.mean((1, 2, 3))}, r"features of x have the shape \(80,\)"),
        (
            X,
            X,
            {"features": lambda x: x[:5, 0, 0]},
            r"features of x have the shape \(5, 16\) for b",
        ),
        (
            X,
            X,
            {"features": lambda x: x[:, 0, 0].log() * 0},
            "the features of 80 images of x are N",
        ),
    ],
)
def test_bad_input(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y, **options)


def test_images_that_the_network_is_not_for():
    small = digits().images
    with pytest.raises(ValueError, match="expected sides of at least 16: average colours"):
        frechet_distance(small, small)
    with pytest.raises(ValueError, match=r"shape \(80, 3, 16, 16\)"):
        frechet_distance(X.expand(80, 3, 16, 16), X.expand(80, 3, 16, 16))


@pytest.mark.parametrize("n", [0, 81])
def test_more_training_images_than_there_are(n):
    with pytest.raises(ValueError, match=f"n is {n}, expected 1 to 80, the number of training ima"):
        train_test_floor(X, X, n=n)
