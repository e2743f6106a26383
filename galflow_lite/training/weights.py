"""The weights of a model as one thing: copied, restored, averaged, swapped for a validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .processes import process_rank


class Weights:
    """The parameters and buffers that a training changes."""

    def __init__(self, parameters: nn.Module | Iterable[Tensor]):
        self.module = parameters if isinstance(parameters, nn.Module) else None
        if self.module is None:
            named = {str(index): tensor for index, tensor in enumerate(parameters)}
            self._slots: list[tuple[nn.Module, str, str]] = []
        else:
            named = dict(self.module.named_parameters())
            # Modules may replace a buffer instead of filling it, so its place is kept.
            self._slots = [
                (owner, name, f"{prefix}.{name}" if prefix else name)
                for prefix, owner in self.module.named_modules()
                for name, buffer in owner.named_buffers(recurse=False)
            ]
        self._parameters = list(named.values())
        self.trainable = [p for p in self._parameters if p.requires_grad]
        self.names = [*named, *(full for _, _, full in self._slots)]

    def tensors(self) -> list[Tensor]:
        return self._parameters + [owner._buffers[name] for owner, name, _ in self._slots]

    def copy(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self.tensors()]

    @torch.no_grad()
    def copy_to(self, target: list[Tensor]) -> None:
        torch._foreach_copy_(target, self.tensors())

    @torch.no_grad()
    def put(self, values: Iterable[Tensor]) -> None:
        for tensor, value in zip(self.tensors(), values, strict=True):
            tensor.copy_(value)

    @torch.no_grad()
    def put_trainable(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.trainable, values)

    def finite(self) -> bool:
        with torch.no_grad():
            return all(bool(norm.isfinite()) for norm in torch._foreach_norm(self.trainable))

    def train(self, mode: bool) -> None:
        if self.module is not None:
            self.module.train(mode)

    @contextmanager
    def evaluation(self, average: list[Tensor] | None) -> Iterator[None]:
        """Evaluation mode, averaged weights if there are any, no gradients, fixed randomness."""
        device = self.trainable[0].device
        current = None if average is None else [p.detach().clone() for p in self.trainable]
        self.train(False)
        try:
            if average is not None:
                self.put_trainable(average)
            with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
                torch.manual_seed(process_rank()[0])
                yield
        finally:
            if current is not None:
                self.put_trainable(current)
            self.train(True)
