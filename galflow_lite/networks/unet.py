"""U-Net for images, with time, class and image-shaped conditions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Attention, ResidualBlock, TimeFeatures

__all__ = ["UNet"]


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
        width: Channels of the finest level.
        multipliers: Channels of the levels after the stem, as multiples of ``width``; one level
            each, every one but the last half as fine as the one before.
        blocks: Residual blocks of a level, on the way down and on the way up.
        patch: Side of the squares of pixels that the stem packs into channels; 1 packs none. With 2
            everything but the packing happens at half the resolution, four times faster.
        groups: Groups of the normalisations; divides all channel numbers.
        time_features: Sines and cosines of the time, with learned frequencies; even.
        heads: Heads of the attention at the lowest resolution, 0 for no attention.
        head_width: Width of each head.

    Raises:
        ValueError: If these numbers do not fit together.

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
        groups: int = 8,
        time_features: int = 32,
        heads: int = 4,
        head_width: int = 16,
    ) -> None:
        super().__init__()
        if not isinstance(condition_channels, Mapping):
            condition_channels = {"channels": condition_channels} if condition_channels else {}
        self.channels = channels
        self.condition_channels = dict(condition_channels)
        self.classes = classes
        self.patch = patch
        widths = (width, *(width * multiplier for multiplier in multipliers))
        _check(self, widths, blocks=blocks, groups=groups, time_features=time_features)

        embedding = 4 * width
        self.time = nn.Sequential(
            TimeFeatures(time_features),
            nn.Linear(time_features + 1, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
        )
        # The last row stands for "no class".
        self.label = nn.Embedding(classes + 1, embedding) if classes else None

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding=embedding, groups=groups)

        inputs = channels + sum(self.condition_channels.values())
        self.stem = nn.Conv2d(inputs * patch**2, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in enumerate(pairwise(widths)):
            # The coarsest level keeps the resolution on the way down, the finest on the way up.
            stride = 1 if level == len(multipliers) - 1 else 2
            down = nn.Conv2d(fine, coarse, 3, stride=stride, padding=1)
            self.down.append(nn.ModuleList([*(block(fine, fine) for _ in range(blocks)), down]))
            up = nn.Sequential(
                nn.Upsample(scale_factor=2 if level else 1),
                nn.Conv2d(coarse, fine, 3, padding=1),
            )
            joined = (block(coarse + fine, coarse) for _ in range(blocks))
            self.up.insert(0, nn.ModuleList([*joined, up]))
        lowest = widths[-1]
        self.before = block(lowest, lowest)
        self.attention = (
            Attention(lowest, heads=heads, head_width=head_width, groups=groups)
            if heads
            else nn.Identity()
        )
        self.after = block(lowest, lowest)
        self.last = block(2 * width, width)
        self.head = nn.Conv2d(width, channels * patch**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def lite(
        cls,
        channels: int,
        *,
        condition_channels: int | Mapping[str, int] = 0,
        classes: int = 0,
        patch: int = 2,
    ) -> UNet:
        """A network for one CPU core: 212,468 parameters for grey images and a grey condition.

        213,756 for colour with a mask; 212,724 for grey images, a grey condition and three
        classes; 211,553 for grey images and a grey condition with ``patch=1``, which takes over
        three times as long for a step. Sides that are multiples of 8 (of 4 with ``patch=1``).
        """
        return cls(channels, condition_channels=condition_channels, classes=classes, patch=patch)

    @classmethod
    def paper(
        cls,
        channels: int = 3,
        *,
        condition_channels: int | Mapping[str, int] = 3,
        classes: int = 1000,
    ) -> UNet:
        """The network of arXiv:2310.03725, Appendix B, as far as it is stated there.

        Width 256, multipliers (1, 1, 2, 3, 4), 8 groups, 32 learned sinusoidal features, 4 heads of
        width 64, class embedding; two blocks at each level, as in the implementation that the
        paper names. The sides of the images must be multiples of 16.

        It has 237.3 million parameters with the defaults; that implementation has 269.65 million.
        The difference, from the shapes of its layers: it feeds the embeddings of time and class
        side by side to every block and not as their sum (24.6 million), has 4x4 kernels on the way
        down (4.6 million), linear attention at every level beside the attention at the lowest
        (2.5 million), its own layers for the class (0.5 million) and a 7x7 kernel in the stem
        (0.06 million).
        """
        return cls(
            channels,
            condition_channels=condition_channels,
            classes=classes,
            width=256,
            multipliers=(1, 1, 2, 3, 4),
            blocks=2,
            groups=8,
            time_features=32,
            heads=4,
            head_width=64,
        )

    @property
    def divisor(self) -> int:
        """The sides of the images must be multiples of this."""
        return self.patch * 2 ** (len(self.down) - 1)

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
                under "label". The class -1 stands for none. Other entries are left alone.

        Returns:
            Shape of x.

        Raises:
            ValueError: If a shape does not fit, a condition is missing, or a class is unknown.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"the images have the shape {tuple(x.shape)}, expected (batch, {self.channels}, "
                "height, width): reshape them, or build the network for their channels."
            )
        if t.shape != x.shape[:1]:
            raise ValueError(
                f"the times have the shape {tuple(t.shape)}, expected ({len(x)},), one for each "
                "image: expand them."
            )
        self._check_size(*x.shape[2:])
        parts, label = self._split(x, condition)
        embedding = self.time(t)
        if self.label is not None:
            embedding = embedding + self.label(label % (self.classes + 1))
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

    def _check_size(self, height: int, width: int) -> None:
        n = self.divisor
        if height and width and height % n == 0 and width % n == 0:
            return
        near = sorted({n * max(1, side // n + up) for side in (height, width) for up in (0, 1)})
        raise ValueError(
            f"the images have {height} x {width} pixels, expected sides that are multiples of {n} "
            f"(near these: {', '.join(map(str, near))}): crop or pad them."
        )

    def _split(
        self, x: Tensor, condition: Tensor | Mapping[str, Tensor] | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """The parts of a condition that are appended, and the classes; both checked."""
        names = self.condition_channels
        if condition is None:
            condition = {}
        elif not isinstance(condition, Mapping):
            if len(names) != 1:
                wanted = ", ".join(names) or "none, since it has no condition channels"
                raise ValueError(
                    f"the condition is one tensor, but the network expects {wanted}: give a "
                    "mapping with these names."
                )
            condition = {next(iter(names)): condition}
        wanted = [*names, *(["label"] if self.classes else [])]
        missing = [name for name in wanted if name not in condition]
        if missing:
            raise ValueError(
                f"the condition has {', '.join(condition) or 'nothing'}, expected "
                f"{', '.join(wanted)}: add {', '.join(missing)}."
            )
        parts = []
        for name, channels in names.items():
            part = condition[name]
            if part.shape != (len(x), channels, *x.shape[2:]):
                raise ValueError(
                    f"the condition {name!r} has the shape {tuple(part.shape)}, expected "
                    f"{(len(x), channels, *x.shape[2:])}: make it fit the images."
                )
            parts.append(part.to(x.dtype))
        return parts, self._checked_label(condition["label"], len(x)) if self.classes else None

    def _checked_label(self, label: Tensor, n: int) -> Tensor:
        if label.shape != (n,) or label.is_floating_point() or label.dtype == torch.bool:
            raise ValueError(
                f"the classes have the shape {tuple(label.shape)} and the type {label.dtype}, "
                f"expected whole numbers of the shape ({n},): convert them with .long()."
            )
        # Elsewhere the comparison would make the processor wait for the accelerator at every step.
        if label.device.type == "cpu" and n and not -1 <= label.min() <= label.max() < self.classes:
            raise ValueError(
                f"the classes go from {label.min()} to {label.max()}, expected 0 to "
                f"{self.classes - 1}, or -1 for none: correct them."
            )
        return label.long()


def _check(
    net: UNet, widths: tuple[int, ...], *, blocks: int, groups: int, time_features: int
) -> None:
    """Refuse numbers that make no network, before torch does in its own words."""
    positive = {"channels": net.channels, "blocks": blocks, "patch": net.patch, "groups": groups}
    positive |= {f"the channels of {name!r}": n for name, n in net.condition_channels.items()}
    for name, n in positive.items():
        if n < 1:
            raise ValueError(f"{name} is {n}, expected at least 1: give a positive number.")
    if "label" in net.condition_channels:
        raise ValueError(
            "a condition is called 'label', expected another name, since this one is for the "
            "classes: rename it."
        )
    if net.classes < 0:
        raise ValueError(f"classes is {net.classes}, expected 0 for none, or more: correct it.")
    if time_features < 2 or time_features % 2:
        raise ValueError(
            f"time_features is {time_features}, expected an even number of 2 or more, for pairs of "
            "sine and cosine: correct it."
        )
    if len(widths) < 2 or any(n < 1 or n % groups for n in widths):
        raise ValueError(
            f"the levels have {', '.join(map(str, widths))} channels, expected at least one "
            f"multiplier and positive multiples of the {groups} groups: change width, multipliers "
            "or groups."
        )
