"""The compiled coupling against the readable spline, in value, gradient and at the edges."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

from galflow_lite import flows
from galflow_lite.flows.coupling_layers import SharedContext, SplineCoupling


def coupling(features: int, context: int, bins: int, *, scale: float = 1.0) -> SplineCoupling:
    """A coupling of some hundred parameters, whose splines bend strongly for a large scale."""
    torch.manual_seed(features + 10 * bins)
    moved = [i % 3 != 1 for i in range(features)]
    made = SplineCoupling(moved, context_features=context, hidden=12, bins=bins, tail_bound=2.5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.0 * scale)
    return made


def contexts(kind: str, n: int) -> torch.Tensor | SharedContext | None:
    rows = torch.randn(7, 3)
    return {
        "none": None,
        "each its own": torch.randn(n, 3),
        "one for all": SharedContext(rows[:1]),
        "shared": SharedContext(rows, torch.randint(7, (n,))),
    }[kind]


def evaluate(layer, x, context, dtype, *, inverse: bool, plainly: bool) -> list[torch.Tensor]:
    """Outputs, log-determinant and, forwards, the gradients of all that has one."""
    layer, x = copy.deepcopy(layer).to(dtype), x.to(dtype)
    rows, index = context if isinstance(context, SharedContext) else (context, None)
    rows = rows if rows is None else rows.to(dtype).requires_grad_(not inverse)
    context = SharedContext(rows, index) if isinstance(context, SharedContext) else rows
    x.requires_grad_(not inverse)
    bend = layer.bend_plainly if plainly else layer._bend
    with torch.set_grad_enabled(not inverse):
        out, log_det = bend(x, context, inverse=inverse)
    found = [out, log_det]
    if not inverse:
        weights = torch.Generator().manual_seed(1)
        total = sum(
            (v * torch.randn(v.shape, generator=weights).to(dtype)).sum() for v in (out, log_det)
        )
        given = [x, *layer.parameters()] + ([] if rows is None else [rows])
        found += torch.autograd.grad(total, given)
    return [v.detach().double() for v in found]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("n", [1, 300])
@pytest.mark.parametrize("kind", ["none", "each its own", "one for all", "shared"])
@pytest.mark.parametrize(("features", "bins"), [(2, 2), (5, 10), (10, 8)])
def test_equals_the_readable_spline(features, bins, kind, n, inverse):
    layer = coupling(features, 0 if kind == "none" else 3, bins)
    x, context = 1.5 * torch.randn(n, features), contexts(kind, n)
    exact = evaluate(layer, x, context, torch.float64, inverse=inverse, plainly=True)
    single = evaluate(layer, x, context, torch.float32, inverse=inverse, plainly=True)
    fused = evaluate(layer, x, context, torch.float32, inverse=inverse, plainly=False)
    assert len(exact) == len(fused)
    for reference, plain, loops in zip(exact, single, fused, strict=True):
        rounding = 1e-5 * max(1.0, float(reference.abs().max()))
        # As near to double precision as the readable version in single precision, or nearly so.
        assert (loops - reference).abs().max() <= 4 * (plain - reference).abs().max() + rounding


def test_inverse_undoes_it_at_every_edge():
    layer, context = coupling(3, 3, 10), SharedContext(torch.randn(1, 3))
    edges = [-2.5, 2.5, -2.5000002, 2.5000002, 0.0, -1e30, 1e30, 2.4999998, torch.inf, -torch.inf]
    x = torch.tensor(edges)[:, None].repeat(1, 3)
    x[:, 1] = 0.3  # this one stays, and sets the others
    with torch.no_grad():
        # The knots themselves, on both axes.
        parameters = layer.conditioner(x[:1, 1:2], context).unflatten(0, (2, -1))[0, :10, 0]
        widths = (1 - 1e-2) * parameters.softmax(0) + 1e-3
        knots = 5 * widths.cumsum(0) - 2.5
        x = torch.cat((x, torch.stack((knots, torch.full_like(knots, 0.3), knots), dim=1)))
        for start, inverse in ((x, False), (layer.forward(x, context)[0], True)):
            fused, plain = (
                bend(start, context, inverse=inverse) for bend in (layer._bend, layer.bend_plainly)
            )
            for a, b in zip(fused, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
        back, minus = layer.inverse(*[layer.forward(x, context)[0], context])
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(minus, -layer.forward(x, context)[1], rtol=1e-3, atol=1e-3)
    outside = x[:, 0].abs() > 2.5
    assert torch.equal(layer.forward(x, context)[0][outside], x[outside])


def test_nan_stays_nan_and_spoils_no_other_row():
    layer, context = coupling(4, 3, 10), SharedContext(torch.randn(5, 3), torch.arange(5))
    x = torch.randn(5, 4)
    x[1, 1], x[3, 0] = torch.nan, torch.nan  # one that stays and sets, and one that moves
    for inverse in (False, True):
        with torch.no_grad():
            fused, plain = (
                bend(x, context, inverse=inverse) for bend in (layer._bend, layer.bend_plainly)
            )
        for a, b in zip(fused, plain, strict=True):
            assert torch.equal(a.isnan(), b.isnan())
        assert fused[0][[0, 2, 4]].isfinite().all()
    rows = context.rows.clone()
    rows[2] = torch.nan
    with torch.no_grad():
        out, _ = layer.forward(torch.zeros(5, 4), SharedContext(rows, context.index))
    assert out.isnan().any(1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("scale", [10.0, 1e4])
def test_extreme_parameters_give_finite_monotone_maps(scale):
    layer = coupling(2, 0, 10, scale=scale)
    x = torch.stack((torch.linspace(-3, 3, 501), torch.full((501,), 0.7)), dim=1)
    with torch.no_grad():
        out, log_det = layer.forward(x)
        plain, _ = layer.bend_plainly(x, None, inverse=False)
    assert out.isfinite().all()
    assert log_det.isfinite().all()
    assert (out[:, 0].diff() >= -1e-6).all()
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-4)


def test_transforms_of_functions_take_the_readable_spline_and_second_derivatives_are_refused():
    flow = flows.neural_spline_flow(3, 2, layers=2, hidden=8)
    x, context = torch.randn(6, 3), torch.randn(6, 2)

    def one(row, condition):
        return flow(row[None], condition[None])[0]

    together = torch.func.vmap(torch.func.grad(one))(x, context)
    each = torch.func.jacrev(lambda x: flow(x, context).sum())(x)
    torch.testing.assert_close(together, each, rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(flow(x, context).sum(), x, create_graph=True)
    torch.testing.assert_close(slope, each, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.sum().backward()


def test_the_setting_and_the_precision_choose(monkeypatch):
    layer, x = coupling(4, 0, 10), torch.randn(50, 4)
    plain = layer.bend_plainly(x, None, inverse=False)
    monkeypatch.setenv("GALFLOW_FUSED", "0")
    assert all(torch.equal(a, b) for a, b in zip(layer.forward(x), plain, strict=True))
    monkeypatch.delenv("GALFLOW_FUSED")
    assert not torch.equal(layer.forward(x)[1], plain[1])  # other rounding: the loops ran
    assert layer.double().forward(x.double())[0].dtype == torch.float64


def test_a_gradient_through_samples_exists():
    # The reverse Kullback-Leibler divergence needs it.
    flow = flows.neural_spline_flow(2, layers=2, hidden=8)
    bias = flow._transform._transforms[1].bias
    (gradient,) = torch.autograd.grad(flow.sample(20).square().sum(), [bias])
    assert gradient.abs().sum() > 0


def test_contexts_of_another_number_are_refused():
    with pytest.raises(RuntimeError, match="size of tensor"):
        coupling(3, 2, 4).forward(torch.zeros(5, 3), torch.zeros(4, 2))


def test_numba_comes_with_the_first_use_and_needs_no_folder_of_its_own(tmp_path):
    (tmp_path / "file").write_text("a file where numba wants a folder")
    code = (
        "import sys; from galflow_lite import flows; assert 'numba' not in sys.modules\n"
        "from numba.core import caching as c; impl = getattr(c, 'CacheImpl', 0) or c._CacheImpl\n"
        "impl._locator_classes[1:] = []\n"
        "from galflow_lite.flows.fused_coupling import _exp; import numpy as np\n"
        "assert abs(_exp(np.float32(1)) - np.e) < 1e-6 and not np.isfinite(_exp(np.float32('nan')))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)


def test_no_rows_are_no_error():
    flow = flows.neural_spline_flow(3, layers=1, hidden=8)
    assert flow.log_prob(torch.zeros(0, 3)).shape == (0,)
