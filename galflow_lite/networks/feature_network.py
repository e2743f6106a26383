"""A small network whose features tell galaxy images apart, and whose weights ship."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import read_state, shipped_file
from ..inputs import as_tensor

KIND = "a feature network"
FILE = "feature_network.safetensors"


class FeatureNetwork(nn.Module):
    """Six convolutions, averaged over the image at three depths; 64 features, 113,888 weights.

    The first depth sees noise and texture, the last one shapes; averages make the size of the image
    free. It is the space in which `metrics.frechet_distance` compares images. `shipped` has the
    weights that `data/make_weights.py` made from parametric galaxies and patches of the Hubble
    deep field (`galflow_lite.images`), whitened: over their training images, features have mean 0,
    variance 1 and no correlation, so that what varies little among galaxies, such as the noise,
    counts as much as what varies a lot. It is not meant for other images, digits in particular, nor
    for images under another stretch: the features are defined there, but nothing was trained to
    tell such images apart.

    Example:
        >>> FeatureNetwork()(torch.zeros(5, 1, 32, 32)).shape
        torch.Size([5, 64])
    """

    features = 64

    def __init__(self) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            # Repeated edges: a border of zeros would be brighter than the sky, which is at -1.
            options = {"padding": kernel // 2, "padding_mode": "replicate"}
            return nn.Conv2d(inputs, outputs, kernel, stride, **options)

        first = convolution(1, 16, kernel=5)
        second = convolution(16, 32, stride=2), nn.SiLU(), convolution(32, 32)
        third = convolution(32, 64, stride=2), nn.SiLU(), convolution(64, 64), nn.SiLU()
        last = convolution(64, 64, stride=2)
        stages = (first,), second, (*third, last)
        self.stages = nn.ModuleList([nn.Sequential(*stage, nn.SiLU()) for stage in stages])
        self.out = nn.Linear(16 + 32 + 64, self.features)

    @classmethod
    def shipped(cls) -> FeatureNetwork:
        """The network that ships, in evaluation mode, on the CPU.

        Raises:
            ValueError: Its file holds other weights, under which distances do not compare.
        """
        network = cls().float()
        network.load_state_dict(read_state(shipped_file(FILE), kind=KIND)["weights"])
        return network.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Features of grey images.

        Args:
            x: Images, shape (batch, 1, height, width), values in about [-1, 1], sides of at least
                16 pixels. It was trained on 32 x 32; features of different sizes do not compare.

        Returns:
            Shape (batch, 64).

        Raises:
            ValueError: The images are no grey ones, or too small.
        """
        x = as_tensor(x, "image array", ("batch", 1, "height", "width"), like=self, finite=False)
        if min(x.shape[2:]) < 16:
            raise ValueError(
                f"the images have the shape {tuple(x.shape)}, expected sides of at least 16: "
                "average colours, or give features of your own for smaller images"
            )
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return self.out(torch.cat(pooled, dim=1))
