"""The paper's experiments as functions of a seed: couplings judged on the same terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..images import ImageSet, galaxy_zoo, hubble_patches, parametric_galaxies
from ..metrics import frechet_distance, low_resolution_error, masked_error
from ..reproduction import Case
from .costs import flow_costs, transport_bound
from .image_couplings import downsample
from .models import (
    ABLATIONS,
    COUPLINGS,
    FACTOR,
    SIGMA,
    TASKS,
    Model,
    fit_model,
    known,
    problem,
    read_models,
    write_models,
)

__all__ = [
    "ABLATIONS",
    "COUPLINGS",
    "EULER_STEPS",
    "FACTOR",
    "SIGMA",
    "TASKS",
    "Model",
    "compare_couplings",
    "fit_model",
    "image_sets",
    "judge",
    "paper_cases",
    "problem",
    "read_models",
    "write_models",
]

EULER_STEPS = (1, 2, 4, 8, 20, 50)
"""Numbers of Euler steps at which the samples are judged."""

HEADLINE_STEPS = 20
"""Of the samples whose errors are taken."""


def image_sets(
    name: str, *, size: int = 32, source: str | Path | None = None
) -> dict[str, ImageSet]:
    """Training and test images, grey.

    Args:
        name: "hubble" (real), "parametric" (drawn) or "galaxy_zoo" (real, to be fetched).
        size: side in pixels.
        source: file of "galaxy_zoo", see `galflow_lite.images.galaxy_zoo`.

    Returns:
        The sets "train" and "test".

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: the set has not been fetched.
    """
    makers: dict[str, Callable[[str], ImageSet]] = {
        "hubble": lambda part: hubble_patches(size, split=part),
        "parametric": lambda part: parametric_galaxies(
            5000 if part == "train" else 1000, size, split=part
        ),
        "galaxy_zoo": lambda part: galaxy_zoo(
            source or "galaxy_zoo", size=size, channels=1, split=part
        ),
    }
    make = known(makers, name, "image set")
    return {part: make(part) for part in ("train", "test")}


def judge(
    model: Model,
    images: ImageSet,
    train: ImageSet,
    *,
    seed: int,
    euler_steps: Sequence[int] = EULER_STEPS,
) -> dict[str, Any]:
    """Samples of a model for the test images: quality, errors and costs.

    Args:
        model: a trained model.
        images: test set; what is known of these images is given.
        train: training set, the second reference of the Fréchet distance.
        seed: of masks and bases, shared by the models that are compared.
        euler_steps: of the samples that are judged.

    Returns:
        For each number N of Euler steps ``frechet_N``, against the test images, and ``_error``; for
        in-painting also ``frechet_pasted_N``, with the known pixels put back. At 20 steps (or the
        last N), with the known pixels put back: ``masked_rmse`` of in-painting and
        ``low_resolution_rmse`` of super-resolution, and ``frechet_train``, against the training
        images, which share no pixel with the test images. ``transport_cost``, ``kinetic_energy``,
        ``path_length``, ``straightness`` and ``bound`` (sums over pixels), and ``evaluations_1e-2``
        and ``evaluations_1e-3`` of dopri5 on 100 images.
    """
    x1 = images.images
    given = problem(model.task, images, seed=seed, factor=model.factor)
    headline = HEADLINE_STEPS if HEADLINE_STEPS in euler_steps else euler_steps[-1]
    found: dict[str, Any] = {}
    for n in euler_steps:
        samples = model.generate(x1, given, seed=seed + 1, method="euler", steps=n).samples
        distance = frechet_distance(samples, x1, paired=True)
        _put(found, f"frechet_{n}", distance)
        if model.task == "inpainting":
            if model.kind == "uncoupled":
                samples = torch.where(given["mask"] == 1, x1, samples)
                distance = frechet_distance(samples, x1, paired=True)
            _put(found, f"frechet_pasted_{n}", distance)
        if n == headline:
            answers = samples
    _put(found, "frechet_train", frechet_distance(answers, train.images))
    if model.task == "inpainting":
        _put(found, "masked_rmse", masked_error(answers, x1, given["mask"]))
    else:
        low = downsample(x1, model.factor)
        _put(found, "low_resolution_rmse", low_resolution_error(answers, low))

    few = slice(0, 500)
    some = {name: part[few] for name, part in given.items()}
    generator = torch.Generator(x1.device).manual_seed(seed + 2)
    x0, full = model.start(x1[few], some, generator=generator)
    costs = flow_costs(model.velocity, x0, full, method="heun", steps=10)
    for name in ("transport_cost", "kinetic_energy", "path_length", "straightness"):
        _put(found, name, getattr(costs, name))
    pair = model.coupling.pair(x1[few], some, generator=generator)
    _put(found, "bound", transport_bound(model.schedule, pair))
    hundred = {name: part[:100] for name, part in given.items()}
    for tolerance in (1e-2, 1e-3):
        result = model.generate(
            x1[:100], hundred, seed=seed + 1, method="dopri5", rtol=tolerance, atol=tolerance
        )
        found[f"evaluations_{tolerance:.0e}".replace("e-0", "e-")] = result.evaluations
    return found


def compare_couplings(
    *,
    data: str,
    task: str,
    kind: str,
    seed: int,
    steps: int,
    size: int = 32,
    batch_size: int = 64,
    looks: int = 4,
    source: str | None = None,
    device: str = "cpu",
    weights: str | None = None,
) -> dict[str, Any]:
    """Train a model and judge it: Tables 2 and 3 of arXiv:2310.03725 at our scale.

    Args:
        data, size, source: as for `image_sets`.
        task, kind, seed, steps, batch_size: as for `fit_model`.
        looks: how often the Fréchet distance of 500 images is taken during the training.
        device: where everything runs.
        weights: file for the trained model, see `write_models`.

    Returns:
        What `judge` returns, ``curve_steps`` and ``curve`` (Fréchet distance during the training),
        ``parameters`` and ``seconds``.
    """
    sets = {
        part: replace(found, images=found.images.to(device), labels=found.labels.to(device))
        for part, found in image_sets(data, size=size, source=source).items()
    }
    model = fit_model(
        sets["train"],
        task=task,
        kind=kind,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        test=sets["test"],
        looks=looks,
    )
    if weights is not None:
        write_models(weights, [model])
    return {
        **judge(model, sets["test"], sets["train"], seed=seed),
        "curve_steps": list(model.curve),
        "curve": list(model.curve.values()),
        "parameters": sum(p.numel() for p in model.velocity.parameters()),
        "seconds": model.history.seconds,
    }


def paper_cases(
    *,
    seeds: int = 4,
    steps: int = 2000,
    galaxy_zoo: str | Path | None = None,
    weights: str | Path | None = None,
) -> list[Case]:
    """Both tasks with both couplings, over seeds; the kinds of `ABLATIONS` on Hubble patches.

    Args:
        seeds: repetitions on Hubble patches; at most three on drawn galaxies, and two on the
            Galaxy Zoo, where only in-painting is run: at 64 x 64 pixels a case takes three times
            as long.
        steps: of training.
        galaxy_zoo: file of the images, which are taken at 64 x 64 pixels; None leaves them out.
        weights: folder for the models of both couplings, first seed on Hubble patches.
    """
    sets = [("hubble", seeds, TASKS, {}), ("parametric", min(seeds, 3), TASKS, {})]
    if galaxy_zoo is not None:
        options = {"size": 64, "batch_size": 32, "source": str(galaxy_zoo)}
        sets.append(("galaxy_zoo", min(seeds, 2), ("inpainting",), options))
    cases = []
    for data, count, tasks, options in sets:
        for seed, task in product(range(count), tasks):
            kinds = (*COUPLINGS, ABLATIONS[task]) if data == "hubble" else COUPLINGS
            for kind in kinds:
                settings = {"data": data, "task": task, "kind": kind, "seed": seed, "steps": steps}
                if weights is not None and data == "hubble" and seed == 0 and kind in COUPLINGS:
                    settings["weights"] = str(Path(weights) / f"{task}-{kind}.safetensors")
                cases.append(Case(f"{data}-{task}-{kind}-{seed}", {**settings, **options}))
    return cases


def _put(found: dict[str, Any], name: str, estimate: Any) -> None:
    found[name], found[f"{name}_error"] = estimate.value, estimate.standard_error
