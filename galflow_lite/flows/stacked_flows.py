"""Many small flows as one batched model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .base_distributions import ResampledBase
from .flow import Flow


class StackedFlows(nn.Module):
    """Flows of one architecture with their parameters stacked on a leading axis.

    A small network keeps a processor waiting for Python: one call for k flows costs little more
    than one call for one of them. The parameters are copies; :meth:`copy_to` writes them back.

    Args:
        flows: k flows of the same architecture, without context.

    Raises:
        ValueError: No flow, flows of several architectures, with a context, or with a resampled
            base, whose running mean is no function of its inputs.

    Example:
        >>> flows = [masked_autoregressive_flow(2) for _ in range(8)]
        >>> StackedFlows(flows).log_prob(torch.zeros(8, 100, 2)).shape
        torch.Size([8, 100])
    """

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        shapes = {tuple((n, v.shape) for n, v in flow.state_dict().items()) for flow in flows}
        if (
            len(shapes) != 1
            or flows[0].context_features
            or isinstance(flows[0].base, ResampledBase)
        ):
            raise ValueError(
                f"found {len(flows)} flows of {len(shapes)} architectures, with a context or with "
                "a resampled base, expected one architecture without: train these one by one"
            )
        parameters, buffers = stack_module_state(list(flows))
        # A name of nn.Module has no dots.
        for name, values in parameters.items():
            self.register_parameter(
                name.replace(".", "/"), nn.Parameter(values.detach(), values.requires_grad)
            )
        for name, values in buffers.items():
            self.register_buffer(name.replace(".", "/"), values, persistent=False)
        template = _LogProb(copy.deepcopy(flows[0]).to("meta"))
        # Kept out of the submodules: it has no values of its own.
        self._template = (template,)

    def __len__(self) -> int:
        return len(next(self.parameters()))

    def log_prob(self, inputs: Tensor) -> Tensor:
        """Log-densities, shape (k, n).

        Args:
            inputs: Shape (k, n, features), for each flow its own; or (n, features), for all.
        """
        (template,) = self._template

        def one(parameters: dict, buffers: dict, rows: Tensor) -> Tensor:
            return functional_call(template, (parameters, buffers), (rows,))

        # nflows adds to a tensor made like the inputs in place, so these need the axis as well.
        rows = inputs.expand(len(self), -1, -1) if inputs.dim() == 2 else inputs
        return vmap(one)(_dotted(self.named_parameters()), _dotted(self.named_buffers()), rows)

    @torch.no_grad()
    def copy_to(self, flows: Sequence[Flow]) -> None:
        """Write the parameters into flows of the same architecture and number."""
        values = {name.replace("/", "."): value for name, value in self.named_parameters()}
        for index, flow in enumerate(flows):
            for name, parameter in flow.named_parameters():
                parameter.copy_(values[name][index])


class _LogProb(nn.Module):
    """functional_call asks for a module whose forward is the function."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, rows: Tensor) -> Tensor:
        return self.flow._log_prob(rows, None)


def _dotted(named) -> dict[str, Tensor]:
    return {f"flow.{name.replace('/', '.')}": value for name, value in named}
