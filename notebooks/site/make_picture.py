"""The picture at the top of README.md: `python notebooks/site/make_picture.py`, two minutes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from galflow_lite import data, galaxies, images, interpolants, plotting
from galflow_lite.interpolants.shipped import shipped_models

torch.set_num_threads(1)
plotting.use_style()
catalogue = galaxies.Catalogue.open(data.data_folder() / "galaxies_lite.h5")
by_mass = np.argsort(catalogue.conditions["M_stars"])
spread = by_mass[len(catalogue) // 10 :: len(catalogue) // 5]
train, held_out = catalogue.split(held_out=[catalogue.ids[i] for i in spread])
giant = held_out[int(np.argmax(held_out.conditions["M_stars"]))]
flow = galaxies.GalaxyFlow(layers=4, hidden=32, tail_bound=5.0, seed=0)
flow.fit(train, steps=2000, learning_rate=2e-3, optimizer="adam", schedule="cosine", clip_norm=5.0)
same = flow.sample(giant.conditions, 300_000, seed=0)
log_mass = np.log10(catalogue.conditions["M_stars"])
others = np.log(catalogue.condition_table(("tau50", "tau10", "Z_av")))
trend = np.polynomial.polynomial.polyfit(log_mass, others, 2)
between = np.exp(np.polynomial.polynomial.polyval(9.7, trend))
never = flow.sample([10**9.7, *between], 300_000, seed=0)

patches = images.hubble_patches(32, split="test").images[:64]
patch = patches[[int(patches.flatten(1).std(1).argmax())]]
torch.manual_seed(3)
mask = interpolants.tile_mask(1, 32)
model = shipped_models()["inpainting", "dependent"]
filled = model.generate(patch, {"mask": mask}, steps=40, seed=1).samples

figure, axes = plt.subplots(1, 6, figsize=(12, 2.2), layout="constrained")
half = 1.1 * giant["x"].max()
for axis, stars, title, pixels in (
    (axes[0], giant.stars, f"held out: {len(giant):,} stars", 60),
    (axes[1], same.stars, "300,000 drawn for it", 220),
    (axes[2], never.stars, "never simulated, 10$^{9.7}$ M$_\\odot$", 220),
):
    plotting.sky(axis, stars, half_width=half, pixels=pixels)
    axis.set_title(title, fontsize=10)
hole = torch.where(mask == 1, patch, torch.nan)
for axis, image, title in (
    (axes[3], patch, "a Hubble galaxy"),
    (axes[4], hole, "with holes"),
    (axes[5], filled, "filled in"),
):
    shown = axis.imshow(image[0, 0], cmap="magma", vmin=-1, vmax=1, origin="lower")
    shown.cmap.set_bad("#bbbbbb")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10)
figure.savefig(Path(__file__).with_name("picture.png"), dpi=150)
