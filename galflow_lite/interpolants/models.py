"""Velocities for the paper's two tasks, trained with one coupling or another on the same terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import read_state, write_state
from ..images import ImageSet
from ..metrics import frechet_distance
from ..networks import UNet
from ..training import History, fit
from .couplings import Coupling, Pair
from .image_couplings import Inpainting, SuperResolution, inpainting, super_resolution
from .laws import GaussianBase
from .losses import velocity_loss
from .masks import Condition, MaskedVelocity, hole_of
from .sampling import Samples, sample_ode
from .schedules import Schedule

__all__ = [
    "ABLATIONS",
    "COUPLINGS",
    "FACTOR",
    "SIGMA",
    "TASKS",
    "Model",
    "fit_model",
    "known",
    "problem",
    "read_models",
    "write_models",
]

TASKS = ("inpainting", "super_resolution")
COUPLINGS = ("dependent", "uncoupled")
ABLATIONS = {"inpainting": "masked", "super_resolution": "narrow"}
"""A kind between the two couplings of a task, which shares a part of their difference.

"masked" is the dependent in-painter with noise in the place of the known pixels of x_t and the
known pixels as a channel instead. "narrow" starts super-resolution from σζ, without the image.
"""

FACTOR = 4
"""Of the resolution, as in the paper's 64 to 256 pixels."""

SIGMA = 0.25
"""Noise of the super-resolution coupling, about the scatter of the pixels. The paper gives none."""

LOOK_STEPS = 20
"""Euler steps of the samples by which a training is watched."""

TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "clip_norm": 1.0, "ema_decay": 0.995}
"""Adam at a constant rate with averaged weights: our choice, for a small network."""

SCHEDULE = Schedule.linear()
_KIND = "velocities of stochastic interpolants"


@dataclass(frozen=True)
class Model:
    """A velocity, how it was trained, and how far.

    Attributes:
        task: "inpainting" or "super_resolution".
        kind: "dependent", "uncoupled", or that of `ABLATIONS`.
        coupling: gives conditions and bases.
        velocity: callable (x, t, condition) -> velocity.
        schedule: of the interpolant.
        factor: of the resolution, in super-resolution.
        history: of the training.
        curve: Fréchet distance during the training, by number of steps.
    """

    task: str
    kind: str
    coupling: Coupling
    velocity: nn.Module
    schedule: Schedule = SCHEDULE
    factor: int = FACTOR
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

        The known pixels of "masked", which are noise on the way, are those of `x1`.

        Args:
            x1: true images, of which the coupling reads what is known.
            condition: what is given, see `problem`.
            seed: of the base.
            options: of `sample_ode`.
        """
        generator = torch.Generator(x1.device).manual_seed(seed)
        x0, full = self.start(x1, condition, generator=generator)
        found = sample_ode(self.velocity, x0, full, **options)
        if self.kind == "masked":
            samples = torch.where(hole_of(full["mask"], x1), found.samples, x1)
            found = replace(found, samples=samples)
        return found


class _Masked(Inpainting):
    """x0 ~ N(0, I) on all pixels; those outside the hole stay what they are and tell nothing."""

    def condition(
        self, x1: Tensor, condition: Condition = None, *, generator: torch.Generator | None = None
    ) -> Condition:
        plain = Inpainting(self.tiles, self.hole_probability).uncoupled()
        return plain.condition(x1, condition, generator=generator)

    def pair(
        self, x1: Tensor, condition: Condition = None, *, generator: torch.Generator | None = None
    ) -> Pair:
        pair = super().pair(x1, condition, generator=generator)
        # Pixels that are fixed are those of x1: here the noise.
        return replace(pair, x1=torch.where(pair.hole, x1, pair.x0))

    def _draw(
        self, x1: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> tuple[Tensor, GaussianBase]:
        noise = torch.randn(x1.shape, dtype=x1.dtype, device=x1.device, generator=generator)
        return noise, replace(self.base(x1, condition), mean=torch.zeros_like(x1))


class _Narrow(SuperResolution):
    """x0 = σζ without the image, which the condition holds."""

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        return replace(super().base(x1, condition), mean=torch.zeros_like(x1))


def new_model(
    task: str,
    kind: str,
    images: ImageSet,
    *,
    seed: int,
    schedule: Schedule = SCHEDULE,
    factor: int = FACTOR,
    sigma: float = SIGMA,
) -> Model:
    """An untrained model; all kinds of a task get the same network.

    Those models of in-painting that have noise in the place of the known pixels of x_t see them as
    one more channel, or they would be no in-painters; the dependent one has them in x_t. In
    super-resolution all see the image of low resolution.
    """
    known(dict.fromkeys(TASKS), task, "task")
    kinds = (*COUPLINGS, ABLATIONS[task])
    known(dict.fromkeys(kinds), kind, "coupling")
    if task == "inpainting":
        coupling = inpainting()
        channels = {"mask": 1} if kind == "dependent" else {"mask": 1, "known": 1}
        if kind == "masked":
            coupling = _Masked(coupling.tiles, coupling.hole_probability)
    else:
        channels = {"low_resolution": 1}
        made = _Narrow if kind == "narrow" else super_resolution
        coupling = made(factor=factor, sigma=sigma)
    if kind == "uncoupled":
        coupling = coupling.uncoupled()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        classes = len(images.class_names) if len(images.class_names) > 1 else 0
        network = UNet.lite(images.shape[0], condition_channels=channels, classes=classes)
    masked = task == "inpainting" and kind != "uncoupled"
    velocity = MaskedVelocity(network) if masked else network
    return Model(task, kind, coupling, velocity, schedule, factor)


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
    schedule: Schedule = SCHEDULE,
    factor: int = FACTOR,
    sigma: float = SIGMA,
    progress: bool = False,
) -> Model:
    """Train a velocity by Algorithm 1 of arXiv:2310.03725, with flips and quarter turns.

    Args:
        images: training set.
        task: "inpainting" or "super_resolution".
        kind: "dependent", "uncoupled" (x0 ~ N(0, I) with the same things given), or that of
            `ABLATIONS`.
        seed: of the weights, the batches, masks, noise and times.
        steps: of Adam.
        batch_size: images of a step.
        test: images of which 500 are generated, with 20 Euler steps, to watch the training.
        looks: how often, at equal distances.
        schedule: of the interpolant.
        factor: of the resolution, in super-resolution.
        sigma: of the noise in the dependent base of super-resolution.
        progress: show a bar.

    Raises:
        ValueError: an unknown task or coupling, or a factor that does not divide the images.
    """
    model = new_model(task, kind, images, seed=seed, schedule=schedule, factor=factor, sigma=sigma)
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
            schedule=schedule,
            coupling=model.coupling,
            reduction="mean",
        )

    curve: list[float] = []
    watched = None if test is None else test[:500]
    given = None if test is None else problem(task, watched, seed=seed, factor=factor)

    def look() -> float:
        samples = model.generate(watched.images, given, seed=seed, steps=LOOK_STEPS).samples
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


def problem(task: str, images: ImageSet, *, seed: int, factor: int = FACTOR) -> dict[str, Tensor]:
    """What is given for each image: a mask or a low-resolution image, and the class if there are
    several.

    The same for every model, so that they are compared on the same holes.

    Args:
        task: "inpainting" or "super_resolution".
        images: of which a part is given.
        seed: of the masks.
        factor: of the resolution, in super-resolution.

    Returns:
        "mask", shape (n, 1, height, width), 1 known and 0 hole, or "low_resolution", of the shape
        of the images; and "label", shape (n,), where there are several classes.

    Raises:
        ValueError: an unknown task, or a factor or tiles that do not divide the images.
    """
    generator = torch.Generator(images.images.device).manual_seed(seed)
    givers = {
        "inpainting": (inpainting(), "mask"),
        "super_resolution": (super_resolution(factor=factor), "low_resolution"),
    }
    coupling, name = known(givers, task, "task")
    given = {name: coupling.condition(images.images, generator=generator)}
    return {**given, "label": images.labels} if len(images.class_names) > 1 else given


def write_models(path: str | Path, models: Iterable[Model]) -> None:
    """Write the weights of models of grey images without classes to one safetensors file.

    Raises:
        OSError: the file cannot be written; the file before it is intact.
    """
    state = {f"{m.task}/{m.kind}": dict(m.velocity.state_dict()) for m in models}
    write_state(path, state, kind=_KIND)


def read_models(path: str | Path, images: ImageSet) -> dict[tuple[str, str], Model]:
    """Read what `write_models` wrote, for such images: models by task and coupling.

    Schedule and factor are the default ones: a file holds weights only.

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


def known(choices: dict, name: str, what: str) -> Any:
    """The choice of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in choices:
        raise ValueError(f"found the {what} {name!r}, expected one of {', '.join(choices)}")
    return choices[name]


def _classes(model: Model) -> bool:
    network = getattr(model.velocity, "network", model.velocity)
    return bool(network.classes)
