"""Posteriors: the reference and its diagnostics, what is judged, and the bias of mini-batches.

About 20 s on a busy core, most of it for short references.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from galflow_lite.neural_samplers import dft_loss, posteriors
from galflow_lite.targets import BayesianLogisticRegression


@pytest.fixture(scope="module")
def target() -> BayesianLogisticRegression:
    """A regression on 300 rows of two columns."""
    rng = np.random.default_rng(0)
    design = rng.standard_normal((300, 2))
    labels = rng.random(300) < 1 / (1 + np.exp(-design @ [1.5, -1.0]))
    return BayesianLogisticRegression(design, labels.astype(int), bias=True)


def test_r_hat_of_a_known_case():
    # Halves (0, 2), (2, 4), (0, 2), (2, 4): W = 2, variance of the means 4/3, n = 2.
    path = torch.tensor([0.0, 2.0, 2.0, 4.0])[:, None, None].repeat(1, 2, 1)
    assert float(posteriors.split_r_hat(path)) == pytest.approx(math.sqrt(1 / 2 + 2 / 3))
    # An odd number of steps loses the first.
    longer = torch.cat([torch.full((1, 2, 1), 99.0), path])
    assert torch.equal(posteriors.split_r_hat(longer), posteriors.split_r_hat(path))


def test_r_hat_sees_drift_and_chains_apart():
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(400, 50, 3, generator=generator, dtype=torch.float64)
    path[:, 0:25, 1] += 1
    path[:, :, 2] += torch.linspace(0, 2, 400, dtype=torch.float64)[:, None]
    same, apart, drift = posteriors.split_r_hat(path)
    assert abs(same - 1) < 0.01
    # Means at 0 and 1: a variance of 1/4 between them; halves of the drift, 1 apart, alike.
    assert apart == pytest.approx(math.sqrt(1.25), abs=0.02)
    assert drift == pytest.approx(math.sqrt(1 + 0.25 / (1 + 1 / 12)), abs=0.02)


@pytest.mark.parametrize("shape", [(400, 3), (3, 5, 2)])
def test_r_hat_needs_a_path(shape):
    with pytest.raises(ValueError, match=r"path has shape .* expected \(steps, chains, dim\)"):
        posteriors.split_r_hat(torch.zeros(shape))


def test_r_hat_of_chains_that_stand_still():
    with pytest.raises(ValueError, match="2 of 2 coordinates never move"):
        posteriors.split_r_hat(torch.zeros(10, 5, 2))


def test_two_references_agree_within_their_errors(target):
    one, two = (
        posteriors.reference_posterior(target, chains=60, steps=200, warmup=80, seed=seed)
        for seed in (0, 1)
    )
    assert one.samples.shape == (posteriors.SAMPLES, target.dim)
    assert one.r_hat.max() < 1.05
    error = one.std * (1 / one.effective_samples + 1 / two.effective_samples).sqrt()
    assert ((one.mean - two.mean).abs() < 5 * error).all()
    error = (one.std_error.square() + two.std_error.square()).sqrt()
    assert ((one.std / two.std - 1).abs() < 5 * error).all()
    assert error.max() < 0.1
    # The draws that are compared have the moments of all.
    x = target.whitened().to_original(one.samples)
    assert ((x.mean(0) - one.mean).abs() < 0.15 * one.std).all()
    assert not torch.equal(one.samples, two.samples)


def test_reference_needs_chains(target):
    with pytest.raises(ValueError, match="found 3 chains of 10 steps, expected at least 4 of each"):
        posteriors.reference_posterior(target, chains=3, steps=10)


def test_one_mini_batch_for_both_factors_adds_its_variance_to_the_loss():
    """The loss is quadratic in the score: one batch biases it, two independent ones do not."""
    given = posteriors.problem("breast_cancer")
    batches = given.target.with_batches(given.batch_size, seed=1).whitened()
    exact = given.target.whitened()
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(20, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    x = x0 + 0.1 * noise

    def loss(target, independent: bool) -> float:
        return float(
            dft_loss(target.score, lambda x: -x, x0, noise, 0.1, independent_scores=independent)
        )

    draws = torch.stack([batches.score(x) for _ in range(500)])
    variance = float(draws.var(0).sum(1).mean())
    one, two = (
        torch.tensor([loss(batches, independent) for _ in range(500)]) for independent in (0, 1)
    )
    full = loss(exact, False)
    error = {"one": float(one.std()) / 500**0.5, "two": float(two.std()) / 500**0.5}
    assert abs(float(two.mean()) - full) < 4 * error["two"]
    assert abs(float(one.mean()) - full - variance) < 4 * error["one"] + 0.03 * variance
    assert variance > 10 * error["one"]


def test_mini_batches_are_what_the_names_say(monkeypatch):
    """What each one-step method hands to the training."""
    calls = {}

    def train(target, **options):
        calls[name] = target.stochastic, options["method"], options.get("independent_scores")
        return real(target, **options)

    real = posteriors.train_sampler
    monkeypatch.setattr(posteriors, "train_sampler", train)
    monkeypatch.setattr(
        posteriors, "_TRAINING", {"steps": 2, "pretrain": 1, "hidden": (8,), "progress": False}
    )
    given = posteriors.problem("breast_cancer")
    evaluations = {}
    for name in posteriors.ONE_STEP:
        u, cost = posteriors._draw(name, given, 0)
        evaluations[name], seconds = cost["gradient_evaluations"], cost["sampling_seconds"]
        assert cost["diverged"] == 0
        assert u.shape == (posteriors.SAMPLES, 32)
        assert seconds > 0
    assert calls == {
        "kl": (False, "kl", None),
        "kl_mini": (True, "kl", None),
        "dft": (False, "dft", None),
        "dft_mini": (True, "dft", False),
        "dft_two": (True, "dft", True),
    }
    # One more score at each of 256 points, in each of two steps.
    assert evaluations["dft_two"] == evaluations["dft_mini"] + 2 * 256


def test_data_are_scaled_by_the_training_rows_and_always_the_same():
    given = posteriors.problem("breast_cancer")
    assert given is posteriors.problem("breast_cancer")
    assert given.target.dim == 32
    assert given.design.shape == (171, 30)
    train = given.target._design
    torch.testing.assert_close(train[:, :-1].mean(0), torch.zeros(30).double())
    torch.testing.assert_close(train[:, :-1].std(0, correction=0), torch.ones(30).double())
    share = given.target._labels.mean()
    assert given.labels.mean() == pytest.approx(float(share), abs=0.01)


def test_methods_on_breast_cancer(monkeypatch):
    """A short reference stands in for the long one."""
    short = posteriors.reference_posterior(
        posteriors.problem("breast_cancer").target, chains=60, steps=100, warmup=80
    )
    monkeypatch.setattr(posteriors, "_reference", lambda data, folder: short)
    run = {
        method: posteriors.compare_posterior(data="breast_cancer", method=method, seed=0)
        for method in ("constant", "laplace", "hmc")
    }
    # 357 benign of 569 rows, and the same share in the test rows.
    assert run["constant"]["accuracy"] == pytest.approx(357 / 569, abs=0.003)
    assert set(run["constant"]) == {"accuracy", "log_likelihood"}
    assert run["laplace"]["accuracy"] > 0.9
    # Accuracy hardly tells them apart, the widths do: this posterior is far from its Gaussian fit.
    assert abs(run["laplace"]["accuracy"] - run["hmc"]["accuracy"]) < 0.03
    assert run["laplace"]["std_ratio_median"] < 0.8
    assert run["hmc"]["std_ratio_median"] == pytest.approx(1, abs=0.1)
    assert run["hmc"]["energy_distance"] < 0.1 * run["laplace"]["energy_distance"]
    assert run["hmc"]["gradient_evaluations"] > 0


def test_unknown_names():
    with pytest.raises(ValueError, match="found the data 'iris', expected one of breast_cancer, "):
        posteriors.problem("iris")
    with pytest.raises(ValueError, match="found the method 'nuts', expected one of constant, "):
        posteriors.compare_posterior(data="breast_cancer", method="nuts", seed=0)


def test_covertype_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="data fetch covertype"):
        posteriors.problem("covertype", folder=str(tmp_path))


def test_covertype_of_a_small_file(tmp_path, monkeypatch):
    monkeypatch.setattr(posteriors, "_COVERTYPE_ROWS", 100)
    rng = np.random.default_rng(0)
    table = {
        "x": rng.integers(0, 9, (300, 54)).astype(np.int16),
        "y": (1 + np.arange(300) % 7).astype(np.uint8),
    }
    (tmp_path / "covertype").mkdir()
    np.savez(tmp_path / "covertype" / "covertype.npz", **table)
    given = posteriors.problem("covertype", folder=str(tmp_path))
    assert given.target.dim == 56
    assert given.design.shape == (100, 54)
    assert set(given.labels) == {0, 1}
    # Ten measured columns are scaled, the indicators are not.
    assert abs(given.design[:, :10].mean()) < 0.2
    assert given.design[:, 10:].min() == 0


def test_cases():
    cases = posteriors.paper_cases(seeds=3)
    assert len({case.name for case in cases}) == len(cases) == 3 * len(posteriors.METHODS)
