"""Make the weights that ship, next to this file: ``python data/make_weights.py``.

Both files take minutes on a CPU. Made anew with other versions or on another processor the weights
come out a little different, and so do all numbers under them: `SHA256SUMS` says which ones ship.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from galflow_lite.files import write_state
from galflow_lite.images import PARAMETERS, ImageSet, hubble_patches, parametric_galaxies
from galflow_lite.interpolants import shipped, train_velocity
from galflow_lite.networks import FEATURE_FILE, FEATURE_KIND, MLP, FeatureNetwork
from galflow_lite.training import fit, threads

_CLASSES = 4  # elliptical, spiral, edge-on, Hubble patch
_DAMAGES = ("blur", "noise", "background", "holes")
_MOMENTS = ("ellipticity +", "ellipticity x", "size", "concentration", "flux")
_DRAWN = ("axis ratio", "effective radius", "bulge fraction", "Sersic index", "arm amplitude")


@threads(1)
def train_feature_network(
    *, steps: int = 2500, batch_size: int = 128, galaxies: int = 8000, seed: int = 0
) -> tuple[FeatureNetwork, dict[str, float]]:
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
        seed: Of the weights, the batches and the damage.

    Returns:
        The trained network, in evaluation mode; and what is found on test images: under "accuracy"
        the share of undamaged ones whose class is found, and for each number that was learned the
        share of its variance that is explained (R squared).
    """
    # A seed that nothing else uses: galaxies of other seeds have not been seen by the network.
    drawn, patches = parametric_galaxies(galaxies, seed=4096), hubble_patches()
    clean, labels, numbers = _examples(drawn, patches.augmented(copies=4, seed=seed))
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
        first = torch.randint(galaxies, (half,), generator=generator)
        second = torch.randint(len(clean) - galaxies, (half,), generator=generator)
        rows = torch.cat([first, galaxies + second])
        images, damage = _damaged(clean[rows], generator)
        return images, labels[rows], torch.cat([numbers[rows], damage], dim=1)

    def loss(batch: tuple[Tensor, ...]) -> Tensor:
        images, labels, numbers = batch
        found = model(images)
        known = torch.isfinite(numbers)
        errors = found[:, _CLASSES:][known] - numbers[known]
        return F.cross_entropy(found[:, :_CLASSES], labels) + 4 * errors.square().mean()

    fit(loss, model, batch, steps, learning_rate=2e-3, schedule="cosine", clip_norm=1.0)
    found = _held_out(model, centre, spread, seed)
    _whiten(network, [drawn.images, patches.images])
    return network.eval(), found


def _examples(drawn: ImageSet, patches: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    """Undamaged images, their classes, and the numbers to learn, NaN where there is none."""
    images = torch.cat([drawn.images, patches.images])
    labels = torch.cat([drawn.labels, torch.full_like(patches.labels, _CLASSES - 1)])
    parameters = dict(zip(PARAMETERS, drawn.targets.T, strict=True))
    # Arms have a sense only where there are arms.
    hand = parameters["pitch angle"].sign() * (parameters["arm amplitude"] > 0)
    known = torch.stack([*(parameters[name] for name in _DRAWN), hand], dim=1)
    unknown = torch.full((len(patches), known.shape[1]), torch.nan)
    moments = torch.cat([_moments(drawn.flux), _moments(patches.flux)])
    return images, labels, torch.cat([moments, torch.cat([known, unknown])], dim=1)


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
def _held_out(model: nn.Module, centre: Tensor, spread: Tensor, seed: int) -> dict[str, float]:
    """Accuracy on undamaged test images, and explained variances, those of damage on damaged."""
    generator = torch.Generator().manual_seed(seed)
    test = parametric_galaxies(900, split="test"), hubble_patches(split="test")
    images, labels, numbers = _examples(*test)
    found, (spoilt, damage) = model(images), _damaged(images, generator)
    accuracy = (found[:, :_CLASSES].argmax(1) == labels).float().mean()
    learned = found[:, _CLASSES : -len(_DAMAGES)] * spread + centre
    guess = torch.cat([learned, model(spoilt)[:, -len(_DAMAGES) :]], dim=1)
    truth = torch.cat([numbers, damage], dim=1)
    known = truth.isfinite()
    errors = torch.where(known, guess - truth, torch.nan).square().nanmean(0)
    variances = (truth - truth.nanmean(0)).square().nanmean(0)
    names = (*_MOMENTS, *_DRAWN, "handedness", *_DAMAGES)
    return {"accuracy": float(accuracy)} | dict(
        zip(names, (1 - errors / variances).tolist(), strict=True)
    )


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


def train_velocities(steps: int = 2000) -> dict[str, dict[str, Tensor]]:
    """Velocities for the couplings of `interpolants.shipped`, on the Hubble patches: weights."""
    return {
        "/".join(job): train_velocity(
            hubble_patches(32), coupling, seed=0, steps=steps
        ).velocity.state_dict()
        for job, coupling in shipped.shipped_couplings().items()
    }


def main() -> None:
    """Write both files, and print what the features know of test images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, help="updates of each training, for a quick look")
    chosen = parser.parse_args()
    steps = {} if chosen.steps is None else {"steps": chosen.steps}
    network, found = train_feature_network(**steps)
    print({name: round(value, 3) for name, value in found.items()})
    weights = {"weights": network.state_dict()}
    write_state(chosen.folder / FEATURE_FILE, weights, kind=FEATURE_KIND)
    write_state(chosen.folder / shipped.FILE, train_velocities(**steps), kind=shipped.KIND)


if __name__ == "__main__":
    main()
