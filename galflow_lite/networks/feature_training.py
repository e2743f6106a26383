"""How the feature network is trained: galaxies without a download, labels without a person."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..images import PARAMETERS, ImageSet, hubble_patches, parametric_galaxies
from ..training import fit
from .features import FeatureNetwork
from .mlp import MLP

__all__ = ["FeatureTraining", "train_feature_network"]

_CLASSES = 4  # elliptical, spiral, edge-on, Hubble patch
_DAMAGES = ("blur", "noise", "background", "holes")
_MOMENTS = ("ellipticity +", "ellipticity x", "size", "concentration", "flux")
_DRAWN = (
    "axis ratio",
    "effective radius",
    "bulge fraction",
    "Sersic index",
    "arm amplitude",
    "handedness",
)
_TEST_IMAGES = 900


@dataclass(frozen=True)
class FeatureTraining:
    """What `train_feature_network` returns.

    Attributes:
        network: The trained network, in evaluation mode.
        accuracy: Share of undamaged test images, both sets together, whose class (elliptical,
            spiral, edge-on, Hubble patch) is found.
        explained: For each number that was learned, the share of its variance over test images
            that is explained (R squared); 1 is perfect, 0 is no better than the mean.
        seconds: Time that the training took.
    """

    network: FeatureNetwork
    accuracy: float
    explained: dict[str, float]
    seconds: float


def train_feature_network(
    *,
    steps: int = 2500,
    batch_size: int = 128,
    galaxies: int = 8000,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> FeatureTraining:
    """Train the feature network on parametric galaxies and Hubble patches, on one thread.

    Half of a batch comes from each set, training parts only; patches are turned and flipped. Each
    image is damaged at random (blur, noise, a constant background, square holes), and a small head
    on the 64 features is asked for four things, of which no label is a person's:

    1. the class: elliptical, spiral, edge-on, or Hubble patch (cross-entropy);
    2. the parameters that a parametric galaxy was drawn with;
    3. the ellipticity, size, concentration and flux of the undamaged image, from its moments;
    4. how strong each damage is.

    2 to 4 are squared errors in units of the standard deviation. So features answer to the shape of
    galaxies and to the texture and the noise of images. The defaults made the weights that ship;
    trained anew with other versions or on another processor the weights come out a little
    different, and distances under them do not compare with those under the shipped ones.

    Args:
        steps: Number of updates.
        batch_size: Images in a batch, half from each set.
        galaxies: Number of parametric galaxies.
        learning_rate: Of Adam, falling to zero as a cosine.
        seed: Of the weights, the batches and the damage.
        progress: Show a bar.

    Raises:
        ValueError: If a number is out of range.
    """
    if batch_size < 2 or galaxies < batch_size:
        raise ValueError(
            f"found batches of {batch_size} images from {galaxies} galaxies, expected at least 2 "
            "and no more than there are: change them."
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(steps, batch_size, galaxies, learning_rate, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _train(
    steps: int, batch_size: int, galaxies: int, learning_rate: float, seed: int, progress: bool
) -> FeatureTraining:
    # A seed that nothing else uses: galaxies of other seeds have not been seen by the network.
    drawn = _Examples.of(parametric_galaxies(galaxies, seed=4096))
    patches = _Examples.of(hubble_patches().augmented(copies=4, seed=seed))
    clean = torch.cat([drawn.images, patches.images])
    labels = torch.cat([drawn.labels, patches.labels])
    numbers = torch.cat([drawn.numbers, patches.numbers])
    # Nothing was drawn for the patches: their NaN count neither here nor in the loss.
    centre = numbers.nanmean(0)
    spread = (numbers - centre).square().nanmean(0).sqrt()
    numbers = (numbers - centre) / spread

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = FeatureNetwork()
        outputs = _CLASSES + numbers.shape[1] + len(_DAMAGES)
        head = MLP(network.features, outputs, hidden=(64,), activation=nn.SiLU)
    model = nn.Sequential(network, head)

    def batch(step: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed * steps + step)
        half = batch_size // 2
        first = torch.randint(len(drawn.images), (half,), generator=generator)
        second = torch.randint(len(patches.images), (half,), generator=generator)
        rows = torch.cat([first, len(drawn.images) + second])
        images, damage = _damaged(clean[rows], generator)
        return images, labels[rows], torch.cat([numbers[rows], damage], dim=1)

    def loss(batch: tuple[Tensor, ...]) -> Tensor:
        images, labels, numbers = batch
        found = model(images)
        known = torch.isfinite(numbers)
        errors = found[:, _CLASSES:][known] - numbers[known]
        return F.cross_entropy(found[:, :_CLASSES], labels) + 4 * errors.square().mean()

    history = fit(
        loss,
        model,
        batch,
        steps,
        learning_rate=learning_rate,
        schedule="cosine",
        clip_norm=1.0,
        progress=progress,
        description="feature network",
    )
    accuracy, explained = _held_out(model, centre, spread, seed)
    _whiten(network, [drawn.images, hubble_patches().images])
    return FeatureTraining(network.eval(), accuracy, explained, history.seconds)


@dataclass(frozen=True)
class _Examples:
    """Undamaged images, their classes, and the numbers to learn, NaN where there is none."""

    images: Tensor
    labels: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, images: ImageSet) -> _Examples:
        drawn = torch.full((len(images), len(_DRAWN)), torch.nan)
        labels = images.labels
        if images.target_names == PARAMETERS:
            parameters = dict(zip(PARAMETERS, images.targets.T, strict=True))
            spiral = labels == images.class_names.index("spiral")
            # Arms have a sense only where there are arms.
            hand = parameters["pitch angle"].sign().where(spiral, torch.zeros(()))
            parameters["handedness"] = hand
            drawn = torch.stack([parameters[name] for name in _DRAWN], dim=1)
        else:
            labels = torch.full_like(labels, _CLASSES - 1)
        return cls(images.images, labels, torch.cat([_moments(images.flux), drawn], dim=1))


def _moments(flux: Tensor) -> Tensor:
    """Ellipticity, size, concentration and flux, shape (n, 5), from moments about the centroid."""
    size = flux.shape[-1]
    sky = flux.flatten(1).median(dim=1).values[:, None, None]
    light = (flux[:, 0] - sky).clamp(min=0) + 1e-6
    total = light.sum((1, 2))
    axis = (torch.arange(size) + 0.5) / (size / 2) - 1

    def mean(values: Tensor) -> Tensor:
        return (light * values).sum((1, 2)) / total

    x, y = axis[None, None, :], axis[None, :, None]
    dx = x - mean(x.expand_as(light))[:, None, None]
    dy = y - mean(y.expand_as(light))[:, None, None]
    xx, yy, xy = mean(dx.square()), mean(dy.square()), mean(dx * dy)
    inside = mean(((dx.square() + dy.square()) < 0.25**2).float())
    trace = xx + yy
    return torch.stack([(xx - yy) / trace, 2 * xy / trace, trace.sqrt(), inside, total.log()], 1)


def _damaged(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images with each damage on three tenths of them, and its strengths, each 0 to 1."""
    n, size = len(images), images.shape[-1]
    strength = torch.rand(n, len(_DAMAGES), generator=generator)
    strength *= torch.rand(strength.shape, generator=generator) < 0.3
    blur, noise, background, holes = strength.T[..., None, None, None]
    # Mixed with an image under one wide blur: any strength costs the same two convolutions.
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / 1.5) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    wide = F.conv2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), kernel)
    wide = F.conv2d(wide, kernel.mT)
    images = images.lerp(wide, blur) + 0.3 * background
    images = images + 0.2 * noise * torch.randn(images.shape, generator=generator)
    tiles = torch.rand(n, 1, size // 4, size // 4, generator=generator) < 0.4 * holes
    fill = torch.rand(n, 1, 1, 1, generator=generator) * 1.5 - 1
    hole = tiles.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return torch.where(hole, fill, images), strength / strength.new_tensor(0.27)


@torch.no_grad()
def _held_out(
    model: nn.Module, centre: Tensor, spread: Tensor, seed: int
) -> tuple[float, dict[str, float]]:
    """Accuracy on undamaged test images, and explained variances, those of damage on damaged."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        _Examples.of(parametric_galaxies(_TEST_IMAGES, split="test")),
        _Examples.of(hubble_patches(split="test")),
    ]
    images, labels, numbers = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("images", "labels", "numbers")
    )
    found = model(images)
    accuracy = float((found[:, :_CLASSES].argmax(1) == labels).float().mean())
    spoilt, damage = _damaged(images, generator)
    learned = found[:, _CLASSES : -len(_DAMAGES)] * spread + centre
    pairs = [
        *zip((*_MOMENTS, *_DRAWN), learned.T, numbers.T, strict=True),
        *zip(_DAMAGES, model(spoilt)[:, -len(_DAMAGES) :].T, damage.T, strict=True),
    ]
    explained = {}
    for name, guess, truth in pairs:
        known = torch.isfinite(truth)
        error = (guess - truth)[known].square().mean()
        explained[name] = float(1 - error / truth[known].var(correction=0))
    return accuracy, explained


@torch.no_grad()
def _whiten(network: FeatureNetwork, sets: list[Tensor]) -> None:
    """Turn and scale the last layer: mean 0 and covariance 1 over sets that count the same."""
    values = [torch.cat([network(part) for part in images.split(500)]).double() for images in sets]
    mean = torch.stack([v.mean(0) for v in values]).mean(0)
    covariance = sum((v - mean).T @ (v - mean) / len(v) for v in values) / len(values)
    variance, directions = torch.linalg.eigh(covariance)
    # The limit is not reached by a trained network; features of an untrained one may be as one.
    scale = variance.clamp(min=1e-9 * float(variance[-1])).rsqrt()
    root = directions * scale @ directions.T
    network.out.bias.copy_(root @ (network.out.bias - mean))
    network.out.weight.copy_(root @ network.out.weight.double())
