"""Mini-batch optimal transport: noise dealt to the data at least total squared distance."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .couplings import Independent
from .laws import GaussianBase, standard_normal
from .masks import Condition

__all__ = ["OptimalTransport", "assignment", "optimal_transport"]


def assignment(x0: Tensor, x1: Tensor) -> Tensor:
    """Rows of `x0` in the order that minimises Σ |x0[π(i)] - x1[i]|² exactly.

    Args:
        x0: shape (batch, *dim).
        x1: of the same shape.

    Returns:
        The permutation π, shape (batch,): every row is used once.

    Raises:
        ValueError: unequal shapes.
    """
    if x0.shape != x1.shape:
        raise ValueError(
            f"found x0 of shape {tuple(x0.shape)} and x1 of shape {tuple(x1.shape)}, expected "
            "equal shapes: pass batches of one size"
        )
    if not len(x1):
        return torch.zeros(0, dtype=torch.long, device=x0.device)
    # The squared norms are the same for every permutation.
    cost = -(x1.flatten(1).double() @ x0.flatten(1).double().T)
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=x0.device)


class OptimalTransport(Independent):
    """x0 ~ N(0, I), permuted within the batch; see `optimal_transport`."""

    def base(self, x1: Tensor, condition: Condition = None) -> GaussianBase:
        """N(0, I): the marginal law of x0. It is not independent of x1."""
        return standard_normal(x1, independent=False)

    def uncoupled(self) -> Independent:
        return Independent()

    def _draw(
        self, x1: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> tuple[Tensor, GaussianBase]:
        base = self.base(x1, condition)
        x0 = base.sample(generator=generator)
        return x0[assignment(x0, x1)], base


def optimal_transport() -> OptimalTransport:
    """Exact optimal transport within each mini-batch (Tong et al., arXiv:2302.00482).

    The plan is a permutation, so that each row is used once; sampling from the plan with
    replacement repeats some rows and drops others. With conditions this coupling skews the base
    that a condition sees (arXiv:2503.10636): use it for unconditional models. For sampling, draw x0
    from N(0, I).
    """
    return OptimalTransport()
