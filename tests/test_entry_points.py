"""The same good and bad inputs at every public entry point that takes points or images."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nflows.distributions.base import Distribution
from nflows.transforms import IdentityTransform

from galflow_lite import flows, images, interpolants, metrics, networks, samplers, targets
from galflow_lite.flows import masked_autoregressive_flow, neural_spline_flow, real_nvp
from galflow_lite.galaxies import Catalogue, Galaxy, GalaxyFlow
from galflow_lite.mcmc import hmc, langevin, svgd
from galflow_lite.piecewise import PiecewiseFlow, choose_clusters
from galflow_lite.plotting import sky
from galflow_lite.reproduction import repeat
from galflow_lite.training import TensorBatches, fit

N = 128
random = np.random.default_rng(0)
# Multiples of 1/8, which every floating type holds.
POINTS = random.integers(-24, 24, (N, 2)) / 8 + np.repeat([[-4.0], [4.0]], N // 2, axis=0)
OTHERS = random.normal(size=(N, 2))
COLUMNS = ("vx", "age")
IMAGES = random.integers(-8, 9, (N, 1, 8, 8)) / 8


def target() -> targets.Target:
    return targets.TwoMoons()


@cache
def flow(make: Callable) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(2, layers=1, hidden=4)


@cache
def pieces() -> PiecewiseFlow:
    model = PiecewiseFlow(layers=1, hidden=4)
    model.fit(POINTS, clusters=np.repeat([0, 1], N // 2), epochs=1)
    return model


@cache
def galaxy_flow() -> GalaxyFlow:
    with tempfile.TemporaryDirectory() as folder:
        galaxy = Galaxy(OTHERS, id="a", columns=COLUMNS)
        catalogue = Catalogue.write(Path(folder) / "galaxies.h5", [galaxy])
        model = GalaxyFlow(COLUMNS, (), layers=1, hidden=4)
        model.fit(Catalogue.open(catalogue), steps=1, batch_size=8)
    return model


def trained_pieces(x: Any, **options) -> Any:
    model = PiecewiseFlow(layers=1, hidden=4)
    model.fit(x, clusters=np.repeat([0, 1], N // 2), epochs=1, **options)
    return model.log_prob(POINTS)


FLOWS = ("neural_spline_flow", "masked_autoregressive_flow", "real_nvp")
POINTS_ENTER: dict[str, Callable[[Any], Any]] = {
    "neural_spline_flow": lambda x: flow(neural_spline_flow).log_prob(x),
    "masked_autoregressive_flow": lambda x: flow(masked_autoregressive_flow).log_prob(x),
    "real_nvp": lambda x: flow(real_nvp).log_prob(x),
    "Galaxy": lambda x: Galaxy(x, columns=COLUMNS).require_finite().stars,
    "GalaxyFlow.log_prob": lambda x: galaxy_flow().log_prob(x),
    "PiecewiseFlow.fit": trained_pieces,
    "PiecewiseFlow.log_prob": lambda x: pieces().log_prob(x),
    "PiecewiseFlow.responsibilities": lambda x: pieces().responsibilities(x),
    "choose_clusters": lambda x: choose_clusters(x, algorithm="kmeans").labels,
    "TensorBatches": lambda x: TensorBatches(x, batch_size=8)(0)[0],
    "Target.log_density": lambda x: target().log_density(x),
    "Target.score": lambda x: target().score(x),
    "langevin": lambda x: langevin(target(), x, steps=2, step_size=0.01, seed=0).samples,
    "hmc": lambda x: hmc(target(), x, steps=2, warmup=2, seed=0).samples,
    "svgd": lambda x: svgd(target(), x, steps=2).samples,
    "energy_distance": lambda x: metrics.energy_distance(x, OTHERS).value,
    "linear_mmd": lambda x: metrics.linear_mmd(x, OTHERS).value,
    "sliced_wasserstein": lambda x: metrics.sliced_wasserstein(x, OTHERS).value,
    "c2st": lambda x: metrics.c2st(x, OTHERS).value,
    "ksd": lambda x: metrics.ksd(x, target().score).value,
    "mode_weights": lambda x: metrics.mode_weights(x, targets.CircleOfGaussians()).shares,
}
IMAGES_ENTER: dict[str, Callable[[Any], Any]] = {
    "power_spectrum": lambda x: metrics.power_spectrum(x)[2],
}
GOOD: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian": lambda x: x.astype(">f8"),
    "single": lambda x: x.astype(np.float32),
    "half": lambda x: torch.tensor(x).half(),
    "negative strides": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "nothing masked": lambda x: np.ma.masked_array(x, mask=False),
    "lists": lambda x: x.tolist(),
    "tensor": torch.tensor,
}


def spoilt(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.reshape(N, -1)[5, 1] = value
        return x

    return spoil


def masked(x: np.ndarray) -> np.ma.MaskedArray:
    mask = np.zeros(x.shape, dtype=bool)
    mask.reshape(N, -1)[5, 1] = True
    return np.ma.masked_array(x, mask=mask)


BAD: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": spoilt(np.nan),
    "masked": masked,
    "three columns": lambda x: np.concatenate([x, x[:, :1]], axis=1),
    "one dimension": lambda x: x.reshape(-1),
    "complex": lambda x: x + 1j,
    "text": lambda x: np.full(x.shape, "a"),
    "ragged": lambda x: [[1.0], [1.0, 2.0]],
    "nothing": lambda x: None,
}


def result(name: str, x: Any) -> np.ndarray:
    found = {**POINTS_ENTER, **IMAGES_ENTER}[name](x)
    return torch.as_tensor(found).detach().double().numpy()


@cache
def expected(name: str) -> np.ndarray:
    return result(name, POINTS if name in POINTS_ENTER else IMAGES)


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("name", [*POINTS_ENTER, *IMAGES_ENTER])
def test_every_form_gives_the_same(name, kind):
    if kind == "half" and name in ("langevin", "hmc"):
        pytest.skip("single and double precision have other random numbers")
    plain = POINTS if name in POINTS_ENTER else IMAGES
    found = result(name, GOOD[kind](plain))
    # Half precision holds the points exactly, and what is computed from them in it does not.
    rounding = {"half": 2e-2, "single": 1e-4}.get(kind, 1e-6)
    np.testing.assert_allclose(found, expected(name), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", [*POINTS_ENTER, *IMAGES_ENTER])
def test_bad_inputs_get_one_sentence(name, kind):
    if kind == "three columns" and name in ("TensorBatches", "choose_clusters", *IMAGES_ENTER):
        pytest.skip("any number of columns, or channels, is welcome here")
    if kind == "one dimension" and name == "TensorBatches":
        pytest.skip("labels have one dimension")
    if kind in ("NaN", "masked") and name in FLOWS:
        pytest.skip("the density of NaN is NaN: every step of a training comes through here")
    enter = {**POINTS_ENTER, **IMAGES_ENTER}[name]
    bad = BAD[kind](POINTS if name in POINTS_ENTER else IMAGES)
    with pytest.raises(ValueError, match="expected") as caught:
        enter(bad)
    sentence = str(caught.value)
    assert len(sentence) < 400
    assert "\n" not in sentence
    assert ": " in sentence


def fitted_galaxies(table: np.ndarray, folder: Path) -> None:
    path = Catalogue.write(folder / "galaxies.h5", [Galaxy(table, id="a", columns=COLUMNS)])
    GalaxyFlow(COLUMNS, (), layers=1, hidden=4).fit(Catalogue.open(path), steps=1, batch_size=8)


def fitted_pieces(table: np.ndarray, folder: Path) -> None:
    columns = dict(zip(COLUMNS, table.T, strict=True))
    PiecewiseFlow(layers=1, hidden=4).fit(columns, clusters=1, epochs=1)


@pytest.mark.parametrize("fit", [fitted_galaxies, fitted_pieces])
@pytest.mark.parametrize("far", [1e20, -1e20])
def test_a_far_point_that_spoils_a_scale_is_noticed(fit, far, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(OTHERS, tmp_path)
    table = OTHERS.copy()
    table[7, 1] = far
    message = rf"column age is {far:.3g} in one of 128 rows, .*: correct or remove this row"
    with pytest.warns(RuntimeWarning, match=message.replace("+", r"\+")) as seen:
        fit(table, tmp_path)
    assert [found.filename for found in seen] == [__file__]


LINEAR = torch.nn.Linear(2, 2)
SMALL: dict[str, Any] = {"steps": 1, "hidden": (4,), "progress": False}
MIXTURE = interpolants.MixtureInterpolant(interpolants.Schedule.linear(), [0.0], [1.0])
POSTERIOR = targets.BayesianLogisticRegression(OTHERS, np.arange(N) % 2)
PATCH = ("a", "b"), "patches", "train", images.Stretch("linear")
IDENTITY = IdentityTransform()
CONDITIONAL = neural_spline_flow(2, layers=1, hidden=4, context_features=1)
UNET = networks.UNet.lite(1, classes=2)


class Column(Distribution):
    """A base whose log density has a column too many, which broadcasts."""

    features = 2

    def _log_prob(self, inputs: torch.Tensor, context: Any = None) -> torch.Tensor:
        return -inputs.square().sum(1, keepdim=True) / 2


# What nobody can mean, and was taken once: as it is, dropped, truncated or broadcast.
TAKEN_ONCE: list[tuple[str, Callable[[], Any]]] = [
    ("max_samples", lambda: metrics.sliced_wasserstein(POINTS, OTHERS, max_samples=-1)),
    ("n_projections", lambda: metrics.sliced_wasserstein(POINTS, OTHERS, n_projections=0)),
    ("resamplings", lambda: metrics.frechet_distance(IMAGES, IMAGES, features=len, resamplings=0)),
    ("keep_every", lambda: svgd(target(), POINTS, steps=2, keep_every=0)),
    ("context_features", lambda: networks.MLP(2, 1, hidden=(4,), context_features=-1)),
    ("a width", lambda: networks.MLP(2, 1, hidden=(0,))),
    ("tempering", lambda: samplers.train_sampler(target(), tempering=-1, **SMALL)),
    ("score_steps", lambda: samplers.train_sampler(target(), score_steps=1.5, **SMALL)),
    ("copies", lambda: images.parametric_galaxies(2, 8).augmented(seed=0, copies=0)),
    ("seeds", lambda: repeat(int, {}, -1, row="row")),
    ("again", lambda: repeat(int, {}, 1, row="row", again=-1)),
    ("mass", lambda: Galaxy(OTHERS, columns=COLUMNS, masses=-1.0)),
    ("mass", lambda: Galaxy(OTHERS, columns=COLUMNS, masses=9 - np.arange(N))),
    ("rtol", lambda: interpolants.sample_ode(torch.add, POINTS, method="dopri5", rtol=-1)),
    ("tail_bound", lambda: flows.SplineCoupling([True, False], tail_bound=-1)),
    ("context_features", lambda: flows.masked_autoregressive_flow(2, -1)),
    ("context_features", lambda: flows.neural_spline_flow(2, -1)),
    ("learning_rate", lambda: fit(len, LINEAR, len, 1, learning_rate=np.inf)),
    (r"schedule\(0\)", lambda: fit(len, LINEAR, len, 1, schedule=lambda step: -1.0)),
    ("the columns", lambda: GalaxyFlow(("vx", "vx"), ())),
    ("labels", lambda: images.ImageSet(IMAGES, np.arange(N), *PATCH)),
    ("labels", lambda: images.ImageSet(IMAGES, np.full(N, 0.5), *PATCH)),
    ("labels", lambda: images.ImageSet(IMAGES, [0, 1], *PATCH)),
    ("labels", lambda: POSTERIOR.evaluate(np.zeros((3, 3)), OTHERS, np.full(N, 7))),
    ("labels", lambda: POSTERIOR.constant_classifier([7, 8])),
    ("x has shape", lambda: MIXTURE.velocity(torch.zeros(3, 2), 0.5)),
    ("mean_y", lambda: metrics.gaussian_frechet([0, 0], np.eye(2), [0], np.eye(2))),
    ("a covariance", lambda: metrics.gaussian_frechet([0, 0], OTHERS[:2], [0, 0], np.eye(2))),
    ("a covariance", lambda: metrics.gaussian_frechet([0, 0], np.eye(2), [0, 0], -np.eye(2))),
    ("log_prob of the base", lambda: flows.Flow(IDENTITY, 2, base=Column()).log_prob(OTHERS)),
    ("context_index", lambda: CONDITIONAL.log_prob(OTHERS[:2], [[0.0], [1.0]], [0, 0.5])),
    ("context_index", lambda: CONDITIONAL.log_prob(OTHERS[:2], [[0.0], [1.0]], [0, -1])),
    ("context_index", lambda: CONDITIONAL.log_prob(OTHERS[:2], [[0.0], [1.0]], [0, 5])),
    ("context_index", lambda: CONDITIONAL.log_prob(OTHERS[:2], [[0.0], [1.0]], [0])),
    ("label", lambda: UNET(torch.zeros(1, 1, 8, 8), torch.rand(1), torch.tensor([0.5]))),
    ("label", lambda: UNET(torch.zeros(1, 1, 8, 8), torch.rand(1), torch.tensor([-5]))),
    ("label", lambda: MIXTURE.velocity(torch.zeros(1, 1), 0.5, torch.tensor([0.5]))),
    ("label", lambda: MIXTURE.velocity(torch.zeros(1, 1), 0.5, torch.tensor([1]))),
    ("times", lambda: MIXTURE.velocity(torch.zeros(1, 1), 1.1)),
    ("times", lambda: MIXTURE.schedule.at(np.nan, torch.zeros(1, 1))),
    ("times", lambda: MIXTURE.schedule.interpolate(torch.zeros(1, 1), torch.ones(1, 1), -0.1)),
    ("tempering", lambda: samplers.train_sampler(target(), tempering=lambda k: k - 1.0, **SMALL)),
    ("sigma", lambda: samplers.train_sampler(target(), sigma=0.0, **SMALL)),
    ("high", lambda: samplers.train_sampler(target(), sigma=samplers.LogUniform(2, 1), **SMALL)),
    ("learning_rate", lambda: trained_pieces(POINTS, learning_rate=np.inf)),
    ("weight_decay", lambda: trained_pieces(POINTS, weight_decay=True)),
    ("n_jobs", lambda: trained_pieces(POINTS, n_jobs=1.5)),
    ("jobs", lambda: repeat(int, {}, 1, row="row", jobs=1.5)),
    ("half_width", lambda: sky(None, OTHERS, half_width=np.nan)),
]


@pytest.mark.parametrize(("words", "call"), TAKEN_ONCE)
def test_what_nobody_can_mean_is_refused(words, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{words}.*expected"):
        call()


BYTES = random.integers(0, 256, (N, 1, 16, 16)).astype(np.uint8)
FLAT = images.Stretch("linear")
PICTURES_ENTER: dict[str, Callable[[Any], Any]] = {
    "ImageSet": lambda x: images.ImageSet(x, np.zeros(N), ("a",), "bytes", "train", FLAT),
    "frechet_distance": lambda x: metrics.frechet_distance(x, BYTES / 256, resamplings=2),
}


@pytest.mark.parametrize("name", PICTURES_ENTER)
def test_fluxes_are_not_taken_for_stretched_images(name):
    PICTURES_ENTER[name](torch.tensor(BYTES / 256))
    for kind in (np.uint8, np.float32, torch.tensor):
        with pytest.raises(ValueError, match="expected stretched ones of about -1 to 1: apply"):
            PICTURES_ENTER[name](kind(BYTES))
