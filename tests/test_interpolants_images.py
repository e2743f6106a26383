"""Image models: equal terms for both couplings, equal trainings, and the models that ship."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from galflow_lite import interpolants
from galflow_lite.files import share
from galflow_lite.images import hubble_patches, parametric_galaxies
from galflow_lite.interpolants import image_models, shipped

COUPLINGS = shipped.shipped_couplings()


@pytest.fixture(scope="module")
def galaxies():
    """Small images with three classes."""
    return parametric_galaxies(80, 16, split="train")


@pytest.fixture(scope="module")
def models(galaxies):
    options = {"seed": 0, "steps": 3, "batch_size": 8}
    return {
        job: interpolants.train_velocity(galaxies, coupling, **options)
        for job, coupling in COUPLINGS.items()
    }


@pytest.fixture(scope="module")
def test_set():
    return hubble_patches(32, split="test")


def given(task, images, **more):
    coupling = COUPLINGS[task, "dependent"]
    generator = torch.Generator().manual_seed(3)
    return {coupling.needs: coupling.condition(images, generator=generator), **more}


def test_both_couplings_get_the_same_network(models):
    """But for the channel of known pixels, without which the rival would be no in-painter."""
    size = {job: sum(p.numel() for p in m.velocity.parameters()) for job, m in models.items()}
    assert len({size[job] for job in size if job != ("inpainting", "uncoupled")}) == 1
    more = size["inpainting", "uncoupled"] - size["inpainting", "dependent"]
    assert 0 < more < 0.005 * size["inpainting", "dependent"]


@pytest.mark.parametrize("task", ["inpainting", "super_resolution"])
def test_models_are_given_the_same_problem(galaxies, models, task):
    x1 = galaxies.images
    problem = given(task, x1, label=galaxies.labels)
    known = problem["mask"] == 1 if task == "inpainting" else torch.zeros_like(x1).bool()
    for kind in ("dependent", "uncoupled"):
        x0, full = models[task, kind].start(x1, problem)
        assert all(torch.equal(full[name], part) for name, part in problem.items())
        assert torch.equal(x0[known], x1[known]) == (kind == "dependent" or not known.any())
    assert 0.8 < x0.std() < 1.2
    samples = models[task, "dependent"].generate(x1, problem, seed=1, steps=3).samples
    assert torch.equal(samples[known], x1[known])
    assert not torch.equal(samples, x1)


def test_a_seed_fixes_a_training(galaxies, models):
    coupling = COUPLINGS["inpainting", "dependent"]
    first = models["inpainting", "dependent"].velocity.state_dict()
    for seed, equal in ((np.int64(0), True), (1, False)):
        options = {"steps": 3, "batch_size": 8, "seed": seed}
        again = interpolants.train_velocity(galaxies, coupling, **options).velocity.state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first) == equal


def test_an_image_is_shown_in_all_its_views(galaxies, monkeypatch):
    few, shown = galaxies[torch.arange(8)], []

    def look(loss, velocity, batch, steps, **_):
        shown.extend(x.flatten() for step in range(steps) for x in batch(step)[0])

    monkeypatch.setattr(image_models, "fit", look)
    coupling = COUPLINGS["inpainting", "dependent"]
    interpolants.train_velocity(few, coupling, seed=0, steps=100, batch_size=8)
    pixels = few.images[0].flatten().sort().values
    assert len({tuple(x.tolist()) for x in shown if torch.equal(x.sort().values, pixels)}) == 8


def test_readme_example_whatever_the_type_of_images(test_set, double_by_default):
    patches = test_set.images[:4]
    mask = interpolants.tile_mask(np.int64(4), np.int64(32))
    model = shipped.shipped_models()["inpainting", "dependent"]
    found = [
        model.generate(x, {"mask": m}, seed=np.int64(1), steps=np.int64(3)).samples
        for x in (patches, patches.double(), patches.numpy().astype(">f8"))
        for m in (mask, mask.double(), mask.bool(), mask.numpy())
    ]
    half = model.generate(patches.half(), {"mask": mask}, seed=1, steps=3).samples
    known = mask.expand_as(patches) == 1
    assert torch.equal(found[0][known], patches[known])
    assert all(torch.equal(x, found[0]) and x.dtype == torch.float32 for x in found)
    assert torch.allclose(half, found[0], atol=0.02)


def test_a_damaged_file_or_other_images_are_refused(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="state_dict"):
        shipped.shipped_models(parametric_galaxies(10, 32, split="test"))
    (tmp_path / "results").mkdir()
    for name in ("SHA256SUMS", shipped.FILE):
        shutil.copy(share("data") / name, tmp_path / name)
    path = tmp_path / shipped.FILE
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is not the file that data/SHA256SUMS names"):
        shipped.shipped_models()
