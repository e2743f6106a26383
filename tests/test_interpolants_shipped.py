"""The models that ship: the right file, and models that do what the notebook says of them."""

from __future__ import annotations

import shutil

import pytest
import torch

from galflow_lite import metrics
from galflow_lite.files import share
from galflow_lite.images import hubble_patches, parametric_galaxies
from galflow_lite.interpolants import comparison, shipped

FILE = shipped.FILE


@pytest.fixture(scope="module")
def test_set():
    return hubble_patches(32, split="test")


@pytest.fixture(scope="module")
def models(test_set):
    return shipped.shipped_models(test_set)


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A copy of the shipped models and their checksum, in a folder that tests may damage."""
    (tmp_path / "results").mkdir()
    for name in (FILE, "SHA256SUMS"):
        shutil.copy(share("data") / name, tmp_path / name)
    monkeypatch.setenv("GALFLOW_DATA", str(tmp_path))
    return tmp_path


def test_there_is_one_for_each_task_and_coupling(models):
    assert set(models) == {(t, k) for t in comparison.TASKS for k in comparison.COUPLINGS}
    assert (share("data") / FILE).stat().st_size < 5_000_000


def test_known_pixels_come_back(models, test_set):
    some = test_set[torch.arange(20)]
    given = comparison.problem("inpainting", some, seed=3)
    model = models["inpainting", "dependent"]
    found = model.generate(some.images, given, seed=1, steps=3).samples
    known = given["mask"].expand_as(found) == 1
    assert torch.equal(found[known], some.images[known])
    assert not torch.equal(found, some.images)


@pytest.mark.parametrize("task", comparison.TASKS)
def test_dependent_answers_are_closer_to_the_data(models, test_set, task):
    """The notebook's claim, for the models that ship and 20 Euler steps, known pixels put back."""
    some = test_set[torch.randperm(len(test_set), generator=torch.Generator().manual_seed(0))[:300]]
    given = comparison.problem(task, some, seed=0)
    distance = {}
    for kind in comparison.COUPLINGS:
        found = models[task, kind].generate(some.images, given, seed=0, steps=20).samples
        if "mask" in given:
            found = torch.where(given["mask"] == 1, some.images, found)
        distance[kind] = metrics.frechet_distance(found, some.images, paired=True)
    less = distance["uncoupled"].value - distance["dependent"].value
    assert less > 2 * distance["uncoupled"].standard_error


def test_pictures_ship():
    for task in comparison.TASKS:
        picture = share("data") / "results" / shipped.PICTURES.format(task=task)
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_ship_puts_together_what_a_run_wrote(models, tmp_path, test_set):
    (tmp_path / "results").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        shipped.ship(tmp_path / "none", tmp_path)
    for (task, kind), model in models.items():
        comparison.write_models(tmp_path / "weights" / f"{task}-{kind}.safetensors", [model])
    shipped.ship(tmp_path / "weights", tmp_path)
    again = comparison.read_models(tmp_path / FILE, test_set)
    for key, model in models.items():
        for one, two in zip(
            model.velocity.parameters(), again[key].velocity.parameters(), strict=True
        ):
            assert torch.equal(one, two)
    assert len(list((tmp_path / "results").glob("*.png"))) == 2


def test_a_damaged_file_is_named(own_data):
    path = own_data / FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is not the file that data/SHA256SUMS names"):
        shipped.shipped_models()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="belongs to the package: restore it"):
        shipped.shipped_models()


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="weights of another network"):
        shipped.shipped_models(parametric_galaxies(10, 32, split="test"))
