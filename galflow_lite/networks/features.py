"""A small network whose features tell galaxy images apart; its weights ship with the package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..environment_check import checksums
from ..files import read_state, sha256, share, write_state

__all__ = ["FeatureNetwork"]

_KIND = "a feature network"
_FILE = "feature_network.safetensors"


class FeatureNetwork(nn.Module):
    """Six convolutions, averaged over the image at three depths; 64 features, 113,888 weights.

    The first depth sees noise and texture, the last one shapes; averages make the size of the image
    free. It is the space in which `metrics.frechet_distance` compares images. `shipped` has the
    weights that `train_feature_network` made from parametric galaxies and patches of the Hubble
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
    least_size = 16

    def __init__(self) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            # Repeated edges: a border of zeros would be brighter than the sky, which is at -1.
            return nn.Conv2d(
                inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="replicate"
            )

        self.stages = nn.ModuleList(
            [
                nn.Sequential(convolution(1, 16, kernel=5), nn.SiLU()),
                nn.Sequential(
                    convolution(16, 32, stride=2), nn.SiLU(), convolution(32, 32), nn.SiLU()
                ),
                nn.Sequential(
                    *(convolution(32, 64, stride=2), nn.SiLU()),
                    *(convolution(64, 64), nn.SiLU()),
                    *(convolution(64, 64, stride=2), nn.SiLU()),
                ),
            ]
        )
        self.out = nn.Linear(16 + 32 + 64, self.features)

    @classmethod
    def shipped(cls) -> FeatureNetwork:
        """The network that ships, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: If its file is not there.
            ValueError: If its file is damaged or is not the one that data/SHA256SUMS names.
        """
        path = share("data") / _FILE
        expected = checksums(path.parent).get(path)
        if expected is None:
            raise ValueError(
                f"SHA256SUMS beside {path} has no line for it, expected one: restore both files."
            )
        return cls.load(path, checksum=expected)

    @classmethod
    def load(cls, path: str | Path, *, checksum: str | None = None) -> FeatureNetwork:
        """A network that `save` wrote, in evaluation mode, on the CPU; no pickle is read.

        Args:
            path: The safetensors file.
            checksum: Its SHA-256 in hexadecimal; None does not compare.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the checksum differs, or the file is damaged or of another kind.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {path}, expected the weights of a feature network: install the "
                "package anew, or train one with networks.feature_training."
            )
        if checksum is not None and (found := sha256(path)) != checksum:
            raise ValueError(
                f"{path} has the SHA-256 {found[:12]}..., expected {checksum[:12]}...: distances "
                "under other weights do not compare, restore the file."
            )
        weights = read_state(path, kind=_KIND)["weights"]
        network = cls()
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds weights of another feature network, expected those of this version: "
                "train it anew with networks.feature_training."
            ) from error
        return network.eval()

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors; a failed write leaves an older file as it was.

        Raises:
            OSError: If the disk is full or the folder is not writable.
        """
        write_state(path, {"weights": self.state_dict()}, kind=_KIND)

    def forward(self, x: Tensor) -> Tensor:
        """Features of grey images.

        Args:
            x: Images, shape (batch, 1, height, width), values in about [-1, 1], sides of at least
                16 pixels. It was trained on 32 x 32; features of different sizes do not compare.

        Returns:
            Shape (batch, 64).

        Raises:
            ValueError: If the images have another shape.
        """
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < self.least_size:
            raise ValueError(
                f"the images have the shape {tuple(x.shape)}, expected (batch, 1, height, width) "
                f"with sides of at least {self.least_size}: average colours, or give features of "
                "your own for smaller images."
            )
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return self.out(torch.cat(pooled, dim=1))
