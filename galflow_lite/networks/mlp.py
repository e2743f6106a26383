"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


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
        widths = (in_features + context_features, *hidden, out_features)
        layers: list[nn.Module] = []
        for i in range(len(widths) - 1):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if final_activation or i < len(widths) - 2:
                layers.append(activation())
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Map inputs (batch, in_features) and context (batch, context_features) to (batch, out)."""
        if context is not None:
            inputs = torch.cat((inputs, context), dim=1)
        return self.layers(inputs)
