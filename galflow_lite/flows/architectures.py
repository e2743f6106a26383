"""The architectures of the papers, and many flows of one architecture as one batched model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from nflows.transforms import (
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    RandomPermutation,
    ReversePermutation,
)
from nflows.transforms.base import Transform
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..inputs import as_whole
from .coupling_layers import ActNorm, AffineCoupling, SplineCoupling
from .flow import Flow, GaussianMixtureBase, LULinear, ResampledBase


def neural_spline_flow(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 14,
    hidden: int = 128,
    bins: int = 10,
    tail_bound: float = 3.0,
) -> Flow:
    """The flow of GalacticFlow (arXiv:2312.06017, settings of its public code).

    Each layer is a fixed random permutation with an LU-decomposed linear map, then two
    rational-quadratic couplings that together transform both halves. Parameters with the defaults
    and 10 features, 4 conditions: 2,937,788 (the paper's code has 2,939,188: it stores L and U as
    full matrices and has no bias). A minimum bin size of 0.001, which the paper's code lacks, keeps
    long runs from NaN.

    Args:
        features: Dimension of the data, at least 2.
        context_features: Dimension of the condition, 0 for none.
        layers: Blocks of linear map and double coupling.
        hidden: Width of the conditioners.
        bins: Bins of each spline.
        tail_bound: The splines act on [-tail_bound, tail_bound], in the units of the data:
            standardise first.

    Example:
        >>> flow = neural_spline_flow(10, 4, layers=2, hidden=32)
        >>> flow.sample(7, torch.zeros(3, 4)).shape
        torch.Size([3, 7, 10])
    """
    features = as_whole(features, "features", least=2)  # one to keep, one to transform
    first_half = [i < (features + 1) // 2 for i in range(features)]
    context_features = as_whole(context_features, "context_features")
    settings = dict(context_features=context_features, hidden=hidden)
    settings |= dict(bins=bins, tail_bound=tail_bound)
    transforms: list[Transform] = []
    for _ in range(as_whole(layers, "layers", least=1)):
        transforms += [
            RandomPermutation(features),
            LULinear(features),
            SplineCoupling(first_half, **settings),
            SplineCoupling([not is_first for is_first in first_half], **settings),
        ]
    return Flow(CompositeTransform(transforms), features, context_features, shares_context=True)


def masked_autoregressive_flow(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 6,
    hidden: int = 50,
    base: GaussianMixtureBase | ResampledBase | None = None,
) -> Flow:
    """Masked autoregressive flow with the sizes of piecewise flows (arXiv:2305.02930).

    Each layer is a MADE with two hidden layers of tanh (Papamakarios et al. 2017, arXiv:1705.07057)
    and a reversal of the features: 2,904 parameters a layer for two features. The paper draws a
    random order for each layer; in two dimensions that leaves the order unchanged half of the time,
    so the reversal is the safer reading. The scale is softplus(.) + 0.001, where the paper has exp.

    Args:
        features: Dimension of the data.
        context_features: Dimension of the condition, 0 for none.
        layers: Number of MADEs.
        hidden: Width of the two hidden layers of each.
        base: Distribution of the noise; None for a standard normal one.

    Example:
        >>> masked_autoregressive_flow(2).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    features, hidden = as_whole(features, "features", least=1), as_whole(hidden, "hidden", least=1)
    context_features = as_whole(context_features, "context_features")
    settings = dict(context_features=context_features or None, num_blocks=1)
    settings |= dict(use_residual_blocks=False, activation=torch.tanh)
    transforms: list[Transform] = []
    for _ in range(as_whole(layers, "layers", least=1)):
        transforms.append(MaskedAffineAutoregressiveTransform(features, hidden, **settings))
        transforms.append(ReversePermutation(features))
    return Flow(CompositeTransform(transforms), features, context_features, base=base)


def real_nvp(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 8,
    hidden: int = 32,
    act_norm: bool = True,
    resampled: int | None = None,
) -> Flow:
    """RealNVP: affine couplings in alternating halves (Dinh et al. 2017, arXiv:1605.08803).

    The defaults are those of the two-dimensional runs of Stimper et al. 2022 (arXiv:2110.15828),
    without their base. The comparison of arXiv:2305.02930 (public code of its second version) has
    ``hidden=17, resampled=128``: 3,040 parameters in the layers and 17,025 in the base.

    Args:
        features: Dimension of the data, at least 2.
        context_features: Dimension of the condition, 0 for none.
        layers: Number of affine couplings.
        hidden: Width of the two hidden layers of each conditioner.
        act_norm: Whether a scale and shift for each feature follows each coupling.
        resampled: Width of the two hidden layers of the acceptance network of a
            :class:`ResampledBase`; None for a standard normal base.

    Example:
        >>> real_nvp(2).sample(5).shape
        torch.Size([5, 2])
    """
    features = as_whole(features, "features", least=2)  # one to keep, one to transform
    transforms: list[Transform] = []
    for layer in range(as_whole(layers, "layers", least=1)):
        half = [i % 2 == layer % 2 for i in range(features)]
        transforms.append(AffineCoupling(half, context_features=context_features, hidden=hidden))
        if act_norm:
            transforms.append(ActNorm(features))
    base = None if resampled is None else ResampledBase(features, hidden=(resampled, resampled))
    return Flow(CompositeTransform(transforms), features, context_features, base=base)


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
        alike = len(shapes) == 1 and not flows[0].context_features
        if not alike or isinstance(flows[0].base, ResampledBase):
            raise ValueError(
                f"found {len(flows)} flows of {len(shapes)} architectures, with a context or with "
                "a resampled base, expected one architecture without: train these one by one"
            )
        parameters, buffers = stack_module_state(list(flows))
        # A name of nn.Module has no dots.
        for name, values in parameters.items():
            own = nn.Parameter(values.detach(), values.requires_grad)
            self.register_parameter(name.replace(".", "/"), own)
        for name, values in buffers.items():
            self.register_buffer(name.replace(".", "/"), values, persistent=False)
        # Kept out of the submodules: it has no values of its own.
        self._template = (copy.deepcopy(flows[0]).to("meta"),)

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
        values = _dotted(self.named_parameters())
        for index, flow in enumerate(flows):
            for name, parameter in flow.named_parameters():
                parameter.copy_(values[name][index])


def _dotted(named) -> dict[str, Tensor]:
    return {name.replace("/", "."): value for name, value in named}
