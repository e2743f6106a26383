"""The paper's experiments, as functions of a seed: a velocity for each coupling, trained and judged
on the same terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import read_state, write_state
from ..images import ImageSet, galaxy_zoo, hubble_patches, parametric_galaxies
from ..metrics import frechet_distance, low_resolution_error, masked_error
from ..networks import UNet
from ..reproduction import Case
from ..training import History, fit
from .costs import flow_costs, transport_bound
from .couplings import Coupling
from .image_couplings import downsample, inpainting, super_resolution
from .losses import velocity_loss
from .masks import Condition, MaskedVelocity
from .sampling import Samples, sample_ode
from .schedules import Schedule

__all__ = [
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

TASKS = ("inpainting", "super_resolution")
COUPLINGS = ("dependent", "uncoupled")
EULER_STEPS = (1, 2, 4, 8, 20)
"""Numbers of Euler steps at which the samples are judged."""

FACTOR = 4
"""Of the resolution, as in the paper's 64 to 256 pixels."""

SIGMA = 0.25
"""Noise of the super-resolution coupling, about the scatter of the pixels. The paper gives none."""

TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "clip_norm": 1.0, "ema_decay": 0.995}
"""Adam at a constant rate with averaged weights: our choice, for a small network."""

SCHEDULE = Schedule.linear()
_KIND = "velocities of stochastic interpolants"


@dataclass(frozen=True)
class Model:
    """A velocity, the coupling it was trained with, and how far the training went.

    Attributes:
        task: "inpainting" or "super_resolution".
        kind: "dependent" or "uncoupled".
        coupling: gives conditions and bases.
        velocity: callable (x, t, condition) -> velocity.
        history: of the training.
        curve: Fréchet distance during the training, by number of steps.
    """

    task: str
    kind: str
    coupling: Coupling
    velocity: nn.Module
    history: History = field(default_factory=History)
    curve: dict[int, float] = field(default_factory=dict)

    def start(
        self, x1: Tensor, condition: Condition, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Condition]:
        """A base and the whole condition of a problem, see `problem`."""
        full = self.coupling.condition(x1, condition, generator=generator)
        return self.coupling(x1, full, generator=generator), full

    def generate(
        self, x1: Tensor, condition: Condition, *, seed: int = 0, **options: Any
    ) -> Samples:
        """Solve the problem: in-painted or sharpened images.

        Args:
            x1: true images, of which the coupling reads what is known.
            condition: what is given, see `problem`.
            seed: of the base.
            options: of `sample_ode`.
        """
        generator = torch.Generator(x1.device).manual_seed(seed)
        x0, full = self.start(x1, condition, generator=generator)
        return sample_ode(self.velocity, x0, full, **options)


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
    make = _known(makers, name, "image set")
    return {part: make(part) for part in ("train", "test")}


def new_model(task: str, kind: str, images: ImageSet, *, seed: int) -> Model:
    """An untrained model; both couplings of a task get the same network.

    The uncoupled model of in-painting sees the known pixels as one more channel, or it would not be
    an in-painter; the dependent one has them in x_t. In super-resolution both see the image of low
    resolution.
    """
    _known(dict.fromkeys(COUPLINGS), kind, "coupling")
    made = {
        "inpainting": lambda: (inpainting(), {"mask": 1}),
        "super_resolution": lambda: (
            super_resolution(factor=FACTOR, sigma=SIGMA),
            {"low_resolution": 1},
        ),
    }
    coupling, channels = _known(made, task, "task")()
    if kind == "uncoupled":
        coupling = coupling.uncoupled()
        if task == "inpainting":
            channels["known"] = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = len(images.class_names) if len(images.class_names) > 1 else 0
        network = UNet.lite(images.shape[0], condition_channels=channels, classes=classes)
    masked = task == "inpainting" and kind == "dependent"
    return Model(task, kind, coupling, MaskedVelocity(network) if masked else network)


def fit_model(
    images: ImageSet,
    *,
    task: str,
    kind: str,
    seed: int,
    steps: int,
    batch_size: int = 64,
    test: ImageSet | None = None,
    looks: int = 4,
    progress: bool = False,
) -> Model:
    """Train a velocity by Algorithm 1 of arXiv:2310.03725, with flips and quarter turns.

    Args:
        images: training set.
        task: "inpainting" or "super_resolution".
        kind: "dependent", or "uncoupled": x0 ~ N(0, I) with the same things given.
        seed: of the weights, the batches, masks, noise and times.
        steps: of Adam.
        batch_size: images of a step.
        test: images of which 500 are generated, with 20 Euler steps, to watch the training.
        looks: how often, at equal distances.
        progress: show a bar.

    Raises:
        ValueError: an unknown task or coupling.
    """
    model = new_model(task, kind, images, seed=seed)
    device = images.images.device
    model.velocity.to(device)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(images), (batch_size,), generator=generator).to(device)
        chosen = images[rows]
        if images.mirror is not None:
            chosen = chosen.augmented(seed=seed * 1_000_003 + step)
        return chosen.images, chosen.labels

    def loss(drawn: tuple[Tensor, Tensor]) -> Tensor:
        x1, labels = drawn
        condition = {"label": labels} if _classes(model) else None
        return velocity_loss(
            model.velocity,
            x1,
            condition,
            schedule=SCHEDULE,
            coupling=model.coupling,
            reduction="mean",
        )

    curve: list[float] = []
    watched = None if test is None else test[:500]
    given = None if test is None else problem(task, watched, seed=seed)

    def look() -> float:
        samples = model.generate(watched.images, given, seed=seed, steps=EULER_STEPS[-1]).samples
        found = frechet_distance(
            samples, watched.images, paired=True, n_bootstrap=2, n_permutations=2
        )
        curve.append(found.value)
        # The last weights are wanted, whatever they are worth: each look counts as better.
        return -len(curve)

    each = max(1, steps // looks)
    watching = {} if test is None else {"validation": look, "validate_every": each}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        history = fit(
            loss,
            model.velocity,
            batch,
            steps,
            progress=progress,
            description=f"{task}, {kind}",
            **TRAINING,
            **watching,
        )
    return replace(
        model, history=history, curve=dict(zip(history.validation_steps, curve, strict=True))
    )


def problem(task: str, images: ImageSet, *, seed: int) -> dict[str, Tensor]:
    """What is given for each image: a mask or a low-resolution image, and the class if there are
    several.

    The same for every model, so that they are compared on the same holes.
    """
    generator = torch.Generator(images.images.device).manual_seed(seed)
    coupling, name = {
        "inpainting": (inpainting(), "mask"),
        "super_resolution": (super_resolution(factor=FACTOR, sigma=SIGMA), "low_resolution"),
    }[task]
    given = {name: coupling.condition(images.images, generator=generator)}
    return {**given, "label": images.labels} if len(images.class_names) > 1 else given


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
        in-painting also ``frechet_pasted_N``, with the known pixels put back, and, at the last N,
        ``masked_rmse``; ``frechet_train``, against the training images, which share no pixel with
        the test images; ``low_resolution_rmse`` of super-resolution; ``transport_cost``,
        ``kinetic_energy``, ``path_length``, ``straightness`` and ``bound`` (sums over pixels), and
        ``evaluations_1e-2`` and ``evaluations_1e-3`` of dopri5 on 100 images.
    """
    x1 = images.images
    given = problem(model.task, images, seed=seed)
    found: dict[str, Any] = {}
    for n in euler_steps:
        samples = model.generate(x1, given, seed=seed + 1, method="euler", steps=n).samples
        _put(found, f"frechet_{n}", frechet_distance(samples, x1, paired=True))
        if model.task == "inpainting":
            samples = torch.where(given["mask"] == 1, x1, samples)
            _put(found, f"frechet_pasted_{n}", frechet_distance(samples, x1, paired=True))
    _put(found, "frechet_train", frechet_distance(samples, train.images))
    if model.task == "inpainting":
        _put(found, "masked_rmse", masked_error(samples, x1, given["mask"]))
    else:
        low = downsample(x1, FACTOR)
        _put(found, "low_resolution_rmse", low_resolution_error(samples, low))

    few = slice(0, 500)
    some = {name: part[few] for name, part in given.items()}
    generator = torch.Generator(x1.device).manual_seed(seed + 2)
    x0, full = model.start(x1[few], some, generator=generator)
    costs = flow_costs(model.velocity, x0, full, method="heun", steps=10)
    for name in ("transport_cost", "kinetic_energy", "path_length", "straightness"):
        _put(found, name, getattr(costs, name))
    pair = model.coupling.pair(x1[few], some, generator=generator)
    _put(found, "bound", transport_bound(SCHEDULE, pair))
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


def write_models(path: str | Path, models: Iterable[Model]) -> None:
    """Write the weights of models of grey images without classes to one safetensors file.

    Raises:
        OSError: the file cannot be written; the file before it is intact.
    """
    state = {f"{m.task}/{m.kind}": dict(m.velocity.state_dict()) for m in models}
    write_state(path, state, kind=_KIND)


def read_models(path: str | Path, images: ImageSet) -> dict[tuple[str, str], Model]:
    """Read what `write_models` wrote, for such images: models by task and coupling.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is another one or truncated, or the weights are of other networks.
    """
    found = {}
    for name, weights in read_state(path, kind=_KIND).items():
        task, kind = name.split("/")
        model = new_model(task, kind, images, seed=0)
        try:
            model.velocity.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds the weights of another network, expected those for images of the "
                f"shape {images.shape}: use the images it was trained on"
            ) from error
        model.velocity.eval()
        found[task, kind] = model
    return found


def paper_cases(
    *,
    seeds: int = 5,
    steps: int = 2000,
    galaxy_zoo: str | Path | None = None,
    weights: str | Path | None = None,
) -> list[Case]:
    """Both tasks with both couplings, over seeds, on every image set that is there.

    Args:
        seeds: repetitions; three for Galaxy Zoo.
        steps: of training.
        galaxy_zoo: file of the images, which are taken at 64 x 64 pixels; None leaves them out.
        weights: folder for the models of the first seed on Hubble patches.
    """
    sets = [("hubble", seeds, {}), ("parametric", seeds, {})]
    if galaxy_zoo is not None:
        options = {"size": 64, "batch_size": 32, "source": str(galaxy_zoo)}
        sets.append(("galaxy_zoo", min(seeds, 3), options))
    cases = []
    for data, count, options in sets:
        for seed, task, kind in product(range(count), TASKS, COUPLINGS):
            settings = {"data": data, "task": task, "kind": kind, "seed": seed, "steps": steps}
            if weights is not None and data == "hubble" and seed == 0:
                settings["weights"] = str(Path(weights) / f"{task}-{kind}.safetensors")
            cases.append(Case(f"{data}-{task}-{kind}-{seed}", {**settings, **options}))
    return cases


def _classes(model: Model) -> bool:
    network = getattr(model.velocity, "network", model.velocity)
    return bool(network.classes)


def _put(found: dict[str, Any], name: str, estimate: Any) -> None:
    found[name], found[f"{name}_error"] = estimate.value, estimate.standard_error


def _known(choices: dict, name: str, what: str) -> Any:
    if name not in choices:
        raise ValueError(f"found the {what} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]
