"""Networks that several papers share: a perceptron for points, a U-Net and features for images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .files import read_state, shipped_file
from .inputs import as_index, as_tensor, as_whole

__all__ = ["MLP", "FeatureNetwork", "UNet"]

FEATURE_KIND = "a feature network"
FEATURE_FILE = "feature_network.safetensors"
_GROUPS = 8
_HEADS = 4
_TIME_FEATURES = 32


class MLP(nn.Module):
    """Multilayer perceptron, optionally with a condition appended to its input.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        hidden: Width of each hidden layer; ``(128, 128, 128)`` makes four linear layers.
        context_features: Width of the condition, 0 for none.
        activation: Makes the activation that follows each hidden layer.
        final_activation: Whether the activation follows the output as well.

    Example:
        >>> MLP(3, 2, hidden=(16, 16))(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: tuple[int, ...],
        context_features: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        final_activation: bool = False,
    ) -> None:
        super().__init__()
        inputs = in_features + as_whole(context_features, "context_features")
        widths = [as_whole(n, "a width", least=1) for n in (inputs, *hidden, out_features)]
        layers: list[nn.Module] = []
        for i in range(len(widths) - 1):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if final_activation or i < len(widths) - 2:
                layers.append(activation())
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Map inputs (batch, in_features) and context (batch, context_features) to (batch, out)."""
        if context is not None:
            inputs = torch.cat((inputs, context), dim=-1)
        return self.layers(inputs)


class UNet(nn.Module):
    """U-Net that maps an image and a time to an image: a velocity, or a denoiser.

    Down to coarser images and up again, with the finer ones handed across (Ho et al., the network
    that arXiv:2310.03725, Appendix B, uses). The last layer starts at zero, so a new network gives
    zeros. The condition is appended to the channels of the input and never part of the output.

    Args:
        channels: Channels of the images, in and out.
        condition_channels: Channels of the condition that are appended to the image: a number, or
            one for each entry of a condition that has names, such as ``{"mask": 1, "known": 3}``.
        classes: Number of classes, 0 for none.
        width: Channels of the finest level, a multiple of 8, the groups of the normalisations.
        multipliers: Channels of the levels after the stem, as multiples of ``width``; one level
            each, every one but the last half as fine as the one before.
        blocks: Residual blocks of a level, on the way down and on the way up.
        patch: Side of the squares of pixels that the stem packs into channels; 1 packs none. With 2
            everything but the packing happens at half the resolution, four times faster.
        head_width: Width of each of the four heads of the attention at the lowest resolution.

    Example:
        >>> net = UNet.lite(1, condition_channels=1, classes=3)
        >>> x, t = torch.zeros(4, 1, 32, 32), torch.rand(4)
        >>> net(x, t, {"channels": torch.ones_like(x), "label": torch.tensor([0, 1, 2, -1])}).shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        condition_channels: int | Mapping[str, int] = 0,
        classes: int = 0,
        width: int = 16,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        patch: int = 1,
        head_width: int = 16,
    ) -> None:
        super().__init__()
        if not isinstance(condition_channels, Mapping):
            condition_channels = {"channels": condition_channels} if condition_channels else {}
        self.channels = channels
        self.condition_channels = dict(condition_channels)
        self.classes = classes
        # The sides of the images must be multiples of the divisor.
        self.patch, self.divisor = patch, patch * 2 ** (len(multipliers) - 1)
        widths = (width, *(width * multiplier for multiplier in multipliers))

        embedding = 4 * width
        self.time = nn.Sequential(
            TimeFeatures(_TIME_FEATURES),
            nn.Linear(_TIME_FEATURES + 1, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        # The last row stands for "no class".
        self.label = nn.Embedding(classes + 1, embedding) if classes else None

        block = partial(ResidualBlock, embedding=embedding)
        inputs = channels + sum(self.condition_channels.values())
        self.stem = nn.Conv2d(inputs * patch**2, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in enumerate(pairwise(widths)):
            # The coarsest level keeps the resolution on the way down, the finest on the way up.
            stride = 1 if level == len(multipliers) - 1 else 2
            down = nn.Conv2d(fine, coarse, 3, stride=stride, padding=1)
            self.down.append(nn.ModuleList([*(block(fine, fine) for _ in range(blocks)), down]))
            up = nn.Sequential(
                nn.Upsample(scale_factor=2 if level else 1), nn.Conv2d(coarse, fine, 3, padding=1)
            )
            joined = (block(coarse + fine, coarse) for _ in range(blocks))
            self.up.insert(0, nn.ModuleList([*joined, up]))
        lowest = widths[-1]
        self.before = block(lowest, lowest)
        self.attention = Attention(lowest, head_width=head_width)
        self.after = block(lowest, lowest)
        self.last = block(2 * width, width)
        self.head = nn.Conv2d(width, channels * patch**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def lite(
        cls, channels: int, *, condition_channels: int | Mapping[str, int] = 0, classes: int = 0
    ) -> UNet:
        """A network for one CPU core: 212,468 parameters for grey images and a grey condition.

        213,756 for colour with a mask; 212,724 for grey images, a grey condition and three
        classes. Sides that are multiples of 8.
        """
        return cls(channels, condition_channels=condition_channels, classes=classes, patch=2)

    @classmethod
    def paper(cls) -> UNet:
        """The network of arXiv:2310.03725, Appendix B, as far as it is stated there.

        Width 256, multipliers (1, 1, 2, 3, 4), 8 groups, 32 learned sinusoidal features, 4 heads of
        width 64, class embedding; two blocks at each level, as in the implementation that the
        paper names. The sides of the images must be multiples of 16.

        It has 237.3 million parameters; that implementation has 269.65 million.
        The difference, from the shapes of its layers: it feeds the embeddings of time and class
        side by side to every block and not as their sum (24.6 million), has 4x4 kernels on the way
        down (4.6 million), linear attention at every level beside the attention at the lowest
        (2.5 million), its own layers for the class (0.5 million) and a 7x7 kernel in the stem
        (0.06 million).
        """
        sizes = {"width": 256, "multipliers": (1, 1, 2, 3, 4), "blocks": 2, "head_width": 64}
        return cls(3, condition_channels=3, classes=1000, **sizes)

    def forward(
        self, x: Tensor, t: Tensor, condition: Tensor | Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Evaluate the network.

        Args:
            x: Images, shape (batch, channels, height, width).
            t: Times in [0, 1], shape (batch,).
            condition: What is appended to the images, shape (batch, condition channels, height,
                width); or a mapping that has it, under "channels" where ``condition_channels`` is
                a number and else under its names, and the classes, shape (batch,), whole numbers,
                under "label". The class -1 stands for none.

        Returns:
            Shape of x.

        Raises:
            ValueError: The images have other channels, or sides of which ``divisor`` is no divisor;
                the condition has other names: of a misspelled one nothing would be seen.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or any(n % self.divisor for n in x.shape[2:]):
            raise ValueError(
                f"the images have the shape {tuple(x.shape)}, expected (batch, {self.channels}, "
                f"height, width) with sides that are multiples of {self.divisor}: crop or pad them"
            )
        x, t = x.to(self.head.weight), t.to(self.head.weight)
        names = [*self.condition_channels, *["label"] * (self.label is not None)]
        condition = {} if condition is None else condition
        if not isinstance(condition, Mapping):
            condition = {names[0] if names else "a tensor": condition}
        if set(condition) != set(names):
            raise ValueError(f"the condition holds {[*condition]}, expected {names}: correct it")
        parts = [condition[name].to(x) for name in self.condition_channels]
        embedding = self.time(t)
        if self.label is not None:
            options = {"least": -1, "like": x}
            label = as_index(condition["label"], "label", (len(x),), self.classes, **options)
            embedding = embedding + self.label(torch.where(label < 0, self.classes, label))
        embedding = F.silu(embedding)

        h = stem = self.stem(F.pixel_unshuffle(torch.cat((x, *parts), dim=1), self.patch))
        skips = []
        for *blocks, down in self.down:
            for block in blocks:
                h = block(h, embedding)
                skips.append(h)
            h = down(h)
        h = self.after(self.attention(self.before(h, embedding)), embedding)
        for *blocks, up in self.up:
            for block in blocks:
                h = block(torch.cat((h, skips.pop()), dim=1), embedding)
            h = up(h)
        h = self.head(self.last(torch.cat((h, stem), dim=1), embedding))
        return F.pixel_shuffle(h, self.patch)


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
        state = read_state(shipped_file(FEATURE_FILE), kind=FEATURE_KIND)
        network.load_state_dict(state["weights"])
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


class TimeFeatures(nn.Module):
    """The time, and sines and cosines of it whose frequencies are learned.

    Args:
        features: Number of sines and cosines together, even.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(features // 2))

    def forward(self, t: Tensor) -> Tensor:
        """Map t (batch,) to (batch, features + 1)."""
        angles = 2 * math.pi * t[:, None] * self.frequencies
        return torch.cat((t[:, None], angles.sin(), angles.cos()), dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions, the first scaled and shifted by the embedding, and a way around them.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        embedding: Width of the embedding of time and class.
    """

    def __init__(self, inputs: int, outputs: int, *, embedding: int) -> None:
        super().__init__()
        self.scale_and_shift = nn.Linear(embedding, 2 * outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first_norm = nn.GroupNorm(_GROUPS, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.second_norm = nn.GroupNorm(_GROUPS, outputs)
        self.around = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Map h (batch, inputs, height, width) and embedding (batch, embedding) to outputs."""
        scale, shift = self.scale_and_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        g = F.silu(torch.addcmul(shift, self.first_norm(self.first(h)), scale + 1))
        return F.silu(self.second_norm(self.second(g))) + self.around(h)


class Attention(nn.Module):
    """Every position attends to every other, added to the input.

    Args:
        channels: Channels in and out.
        head_width: Width of each head.
    """

    def __init__(self, channels: int, *, head_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.project = nn.Conv2d(channels, 3 * _HEADS * head_width, 1, bias=False)
        self.merge = nn.Conv2d(_HEADS * head_width, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map h (batch, channels, height, width) to the same shape."""
        projected = self.project(self.norm(h)).flatten(2).unflatten(1, (3, _HEADS, -1))
        query, key, value = projected.unbind(1)
        # Written out: torch's fused attention, which has no second derivative, would save nothing
        # at the lowest resolution.
        weights = (query.transpose(-1, -2) @ key / query.shape[2] ** 0.5).softmax(dim=-1)
        attended = value @ weights.transpose(-1, -2)
        return h + self.merge(attended.flatten(1, 2).unflatten(2, h.shape[2:]))
