"""Normalizing flows: the one package that imports nflows.

nflows 0.14 is not maintained, so only transforms that pass the contract tests of this package
(inverse, log-determinant, context, device, float64) are used, and its traps are closed here:

* :class:`Flow` accepts arrays, tables and NumPy integers, and returns the same shape and the same
  draws with and without ``batch_size``;
* :class:`LULinear` solves its triangular systems without deprecated functions;
* :class:`SplineCoupling` is a faster rational-quadratic coupling (see :mod:`.fused_coupling`);
* :class:`StackedFlows` runs many flows of one architecture as one batched model.
"""

from .architectures import StackedFlows, masked_autoregressive_flow, neural_spline_flow, real_nvp
from .coupling_layers import SplineCoupling
from .flow import Flow, GaussianMixtureBase, ResampledBase
from .spline import rational_quadratic_spline

__all__ = [
    "Flow",
    "GaussianMixtureBase",
    "ResampledBase",
    "SplineCoupling",
    "StackedFlows",
    "masked_autoregressive_flow",
    "neural_spline_flow",
    "rational_quadratic_spline",
    "real_nvp",
]
