"""The contract that every flow keeps, and the spline against nflows' own."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch
from nflows.transforms import PiecewiseRationalQuadraticCouplingTransform
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

from galflow_lite import flows

FLOWS = {
    "spline, product": lambda d, c: flows.neural_spline_flow(d, c, layers=3, hidden=16),
    "spline, residual": lambda d, c: flows.neural_spline_flow(
        d, c, layers=3, hidden=16, conditioner="residual"
    ),
    "autoregressive": lambda d, c: flows.masked_autoregressive_flow(d, c, layers=3, hidden=16),
    "real_nvp": lambda d, c: flows.real_nvp(d, c, layers=4, hidden=16),
    "real_nvp, resampled base": lambda d, c: flows.real_nvp(
        d, c, layers=4, hidden=16, resampled=16, truncation=20
    ),
    "autoregressive, mixture base": lambda d, c: flows.masked_autoregressive_flow(
        # Broad components: a test below compares with a normal that must not lie in a gap.
        d,
        c,
        layers=3,
        hidden=16,
        base=flows.GaussianMixtureBase(torch.randn(5, d), scale=1.0),
    ),
}


@pytest.fixture(params=FLOWS)
def build(request):
    """Builder of a flow whose weights have left their start, where much is close to zero."""

    def make(features: int, context_features: int = 0) -> flows.Flow:
        torch.manual_seed(3)
        flow = FLOWS[request.param](features, context_features)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        if isinstance(flow.base, flows.ResampledBase):
            flow.base.refine(400_000)  # its normaliser is no parameter, and belongs to the others
        return flow.eval()

    return make


def test_log_determinant_is_that_of_the_jacobian(build):
    flow = build(5, 2).double()
    x = 2 * torch.randn(6, 5, dtype=torch.float64)
    context = torch.randn(6, 2, dtype=torch.float64)
    for direction in (flow._transform, flow._transform.inverse):
        _, log_det = direction(x, context)
        for i in range(len(x)):
            jacobian = torch.autograd.functional.jacobian(
                lambda row, i=i, f=direction: f(row[None], context[i : i + 1])[0][0], x[i]
            )
            torch.testing.assert_close(
                log_det[i], torch.linalg.slogdet(jacobian)[1], rtol=1e-8, atol=1e-8
            )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_inverse_of_forward_is_the_identity(build, dtype, tolerance):
    flow = build(4, 3).to(dtype)
    x = 1.5 * torch.randn(2000, 4, dtype=dtype)
    context = torch.randn(2000, 3, dtype=dtype)
    with torch.no_grad():
        noise, forward = flow._transform(x, context)
        back, backward = flow._transform.inverse(noise, context)
    scale = 1 + noise.abs().amax(dim=1, keepdim=True)  # rounding grows with what is inverted
    assert ((back - x) / scale).abs().max() < tolerance
    assert (forward + backward).abs().median() < tolerance


@pytest.mark.parametrize("context", [None, 1.0])
def test_density_integrates_to_one(build, context):
    flow = build(2, 0 if context is None else 1).double()
    # The flow spreads as it was perturbed: the box is set by its own samples, with a wide margin.
    row = None if context is None else torch.full((1, 1), context, dtype=torch.float64)
    with torch.no_grad():
        sample = flow.sample(20_000, row).reshape(-1, 2)
        low, high = sample.amin(0) - 2, sample.amax(0) + 2
        n = 1200
        axes = [torch.linspace(low[i], high[i], n, dtype=torch.float64) for i in range(2)]
        grid = torch.cartesian_prod(*axes)
        density = torch.cat([flow.log_prob(part, row) for part in grid.split(200_000)]).exp()
    total = density.sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert total.item() == pytest.approx(1.0, abs=5e-3)


def test_gradient_reaches_every_parameter(build):
    flow = build(4, 2)
    flow.log_prob(torch.randn(256, 4), torch.randn(256, 2)).mean().backward()
    without = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in flow.parameters())


def test_context_changes_the_density(build):
    flow = build(3, 2)
    x = torch.randn(50, 3)
    one, other = flow.log_prob(x, torch.zeros(50, 2)), flow.log_prob(x, torch.ones(50, 2))
    assert (one - other).abs().max() > 1e-2


def test_one_shared_row_of_context_equals_its_copies(build):
    flow = build(3, 2).double()
    x, row = torch.randn(40, 3, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    shared, copied = flow.log_prob(x, row), flow.log_prob(x, row.repeat(40, 1))
    torch.testing.assert_close(shared, copied, rtol=1e-12, atol=1e-12)


def test_indexed_context_equals_its_copies(build):
    flow = build(3, 2).double()
    x, rows = torch.randn(40, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    index = torch.randint(5, (40,))
    gradients = []
    for context in ((rows, index), (rows[index], None)):
        log_prob = flow.log_prob(x, *context)
        gradients.append([log_prob, *torch.autograd.grad(log_prob.sum(), flow.parameters())])
    for indexed, copied in zip(*gradients, strict=True):
        torch.testing.assert_close(indexed, copied, rtol=1e-9, atol=1e-9)


def test_sample_shapes_and_number_types(build):
    plain, conditional = build(3), build(3, 2)
    assert plain.sample(np.int64(7)).shape == (7, 3)
    assert plain.sample(7, batch_size=3).shape == (7, 3)
    assert conditional.sample(7, torch.zeros(4, 2)).shape == (4, 7, 3)
    assert conditional.sample(7, np.zeros((4, 2)), batch_size=3).shape == (4, 7, 3)
    samples, log_prob = conditional.sample_and_log_prob(5, torch.zeros(2, 2))
    assert samples.shape == (2, 5, 3)
    assert log_prob.shape == (2, 5)
    assert plain.double().sample(4).dtype == torch.float64
    assert plain.log_prob(np.zeros((4, 3), dtype=np.float32)).dtype == torch.float64


def test_samples_follow_the_density(build):
    """The mean of any function over samples equals its integral under exp(log_prob)."""
    flow = build(2).double()
    torch.manual_seed(0)
    with torch.no_grad():
        samples, log_prob = flow.sample_and_log_prob(200_000)
        # E_q[p / q] = 1 for a normal p within q's reach, from q's own samples.
        mean, std = samples.mean(0), 0.5 * samples.std(0)
        reference = torch.distributions.Normal(mean, std).log_prob(samples).sum(1)
        weights = (reference - log_prob).exp()
    error = weights.std() / len(weights) ** 0.5
    assert abs(weights.mean() - 1) < 4 * error
    assert error < 0.05


def test_sampling_is_reproducible_with_a_generator(build):
    flow = build(2)
    draws = [flow.sample(5, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)


def test_state_dict_round_trip(build):
    flow, other = build(3, 1), build(3, 1)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(flow.state_dict())
    x, context = torch.randn(9, 3), torch.randn(9, 1)
    torch.testing.assert_close(other.log_prob(x, context), flow.log_prob(x, context))


def test_device_move(build):
    """On the meta device nothing is computed, but a tensor left behind on the CPU is found."""
    flow = build(3, 1).to("meta")
    assert flow.log_prob(torch.empty(4, 3), torch.empty(4, 1)).device.type == "meta"
    assert {t.device.type for t in (*flow.parameters(), *flow.buffers())} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(build):
    flow = build(3, 1).double()
    x, context = torch.randn(9, 3).double(), torch.randn(9, 1).double()
    on_cpu = flow.log_prob(x, context)
    torch.testing.assert_close(flow.to("cuda").log_prob(x, context).cpu(), on_cpu)
    assert flow.sample(4, context).device.type == "cuda"


def test_no_warning_reaches_the_user(build):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow = build(4, 1)
        flow.sample(3, torch.zeros(1, 1))
        flow.log_prob(torch.zeros(3, 4), torch.zeros(3, 1)).sum().backward()


def test_a_gradient_can_be_differentiated_again():
    flow = FLOWS["spline, product"](2, 0).double()
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: flow.log_prob(x).sum(), (x,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.log_prob(torch.zeros(5, 4), torch.zeros(5, 2)), r"inputs of shape \(5, 4\)"),
        (lambda f: f.log_prob(torch.zeros(3), torch.zeros(5, 2)), r"inputs of shape \(3,\)"),
        (lambda f: f.log_prob(torch.zeros(5, 3)), "found no context, expected one with 2"),
        (lambda f: f.log_prob(torch.zeros(5, 3), torch.zeros(5, 1)), r"context of shape \(5, 1\)"),
        (lambda f: f.log_prob(torch.zeros(5, 3), torch.zeros(4, 2)), "4 rows of context for 5"),
        (
            lambda f: f.log_prob(torch.zeros(5, 3), torch.zeros(2, 2), torch.zeros(4).long()),
            r"context_index of shape \(4,\) and type torch.int64, expected 5 integers",
        ),
        (lambda f: f.sample(0, torch.zeros(1, 2)), "num_samples=0, expected a positive"),
        (lambda f: f.sample(-3, torch.zeros(1, 2)), "num_samples=-3, expected a positive"),
        (lambda f: f.sample(2.5, torch.zeros(1, 2)), "num_samples=2.5, expected a positive"),
        (lambda f: f.sample(5, torch.zeros(1, 2), 0), "batch_size=0, expected a positive"),
    ],
)
def test_bad_input_says_what_is_wrong(build, call, message):
    with pytest.raises(ValueError, match=message):
        call(build(3, 2))


def test_context_for_a_flow_without_one(build):
    with pytest.raises(ValueError, match="found a context for a flow without one"):
        build(3).log_prob(torch.zeros(5, 3), torch.zeros(5, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flows.neural_spline_flow(1), "found 1 features, expected at least 2"),
        (lambda: flows.real_nvp(1), "found 1 features, expected at least 2"),
        (lambda: flows.masked_autoregressive_flow(0), "found 0 features, expected at least 1"),
        (lambda: flows.neural_spline_flow(2, -1), "context_features=-1"),
        (lambda: flows.neural_spline_flow(2, bins=1), "bins=1, expected at least 2"),
        (lambda: flows.neural_spline_flow(2, layers=0), "layers=0, expected a positive"),
        (lambda: flows.neural_spline_flow(2, tail_bound=0.0), "tail_bound=0.0"),
        (lambda: flows.neural_spline_flow(2, conditioner="mlp"), "conditioner 'mlp'"),
        (lambda: flows.real_nvp(2, resampled=0), "resampled=0, expected a positive"),
        (lambda: flows.real_nvp(2, resampled=8, truncation=0), "truncation=0, expected a positive"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parameter_counts_of_the_papers():
    def count(flow):
        return sum(p.numel() for p in flow.parameters())

    # 14 x (2 x (52,497 + 52,369) + 110): the public code's double couplings with an LU layer that
    # stores triangles, a diagonal and a bias (110) and not two full matrices and a diagonal (210).
    assert count(flows.neural_spline_flow(10, 4)) == 2_939_188 - 14 * 100
    assert count(flows.neural_spline_flow(10, 4, conditioner="residual")) == 2_446_304
    # arXiv:2305.02930: MADEs of 2,904, six of them; RealNVP with a resampled base (public code).
    assert count(flows.masked_autoregressive_flow(2, layers=1)) == 2_904
    assert count(flows.masked_autoregressive_flow(2)) == 6 * 2_904 == 17_424
    resampled = flows.real_nvp(2, hidden=17, resampled=128)
    assert count(resampled._transform) == 3_040
    assert count(resampled.base) == 17_025
    assert count(resampled) == 20_065


def _knots_and_tails(bins: int, generator: torch.Generator):
    parameters = 2 * torch.randn(4, 3 * bins - 1, 600, dtype=torch.float64, generator=generator)
    inputs = 2.5 * torch.randn(4, 600, dtype=torch.float64, generator=generator)
    inputs[:, :4] = torch.tensor([-3.0, 3.0, 3.0 + 1e-12, -1e9], dtype=torch.float64)
    return inputs, parameters


def _nflows_spline(inputs, parameters, bins, inverse):
    last = parameters.permute(2, 0, 1)
    outputs, log_derivative = unconstrained_rational_quadratic_spline(
        inputs.t(),
        last[..., :bins],
        last[..., bins : 2 * bins],
        last[..., 2 * bins :],
        inverse=inverse,
        tails="linear",
        tail_bound=3.0,
    )
    return outputs.t(), log_derivative.t()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [2, 3, 10])
def test_spline_equals_that_of_nflows(bins, inverse):
    inputs, parameters = _knots_and_tails(bins, torch.Generator().manual_seed(bins))
    inputs.requires_grad_()
    parameters.requires_grad_()
    ours = flows.rational_quadratic_spline(
        inputs, parameters, bins=bins, tail_bound=3.0, inverse=inverse
    )
    theirs = _nflows_spline(inputs, parameters, bins, inverse)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
        weights = torch.randn(mine.shape, dtype=mine.dtype)
        gradients = [
            torch.autograd.grad((out * weights).sum(), (inputs, parameters), retain_graph=True)
            for out in (mine, other)
        ]
        for a, b in zip(*gradients, strict=True):
            # At the very ends of the interval nflows has one-sided derivatives in other bins.
            torch.testing.assert_close(a[..., 4:], b[..., 4:], rtol=1e-6, atol=1e-7)


def test_spline_at_its_knots_and_tails():
    bins = 8
    _, parameters = _knots_and_tails(bins, torch.Generator().manual_seed(0))
    widths = parameters[:, :bins].softmax(1) * (1 - bins * 1e-3) + 1e-3
    heights = parameters[:, bins : 2 * bins].softmax(1) * (1 - bins * 1e-3) + 1e-3
    slopes = torch.nn.functional.softplus(parameters[:, 2 * bins :]) + 1e-3
    for knot in range(1, bins):
        at = widths[:, :knot].sum(1) * 6 - 3
        expected = heights[:, :knot].sum(1) * 6 - 3
        for side in (-1e-12, 1e-12):
            value, log_derivative = flows.rational_quadratic_spline(
                at + side, parameters, bins=bins, tail_bound=3.0
            )
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
            # The derivative changes fast next to a narrow bin: 1e-12 away it is the knot's own.
            torch.testing.assert_close(
                log_derivative.exp(), slopes[:, knot - 1], rtol=1e-4, atol=1e-6
            )
    outside = torch.full((4, 600), 3.5, dtype=torch.float64)
    for inverse in (False, True):
        value, log_derivative = flows.rational_quadratic_spline(
            outside, parameters, bins=bins, tail_bound=3.0, inverse=inverse
        )
        assert torch.equal(value, outside)
        assert not log_derivative.any()


def test_spline_survives_extreme_parameters():
    parameters = torch.tensor([80.0, -80.0, 0.0, 1e4, -1e4]).repeat(29)[: 3 * 10 - 1]
    parameters = parameters[None, :, None].expand(1, -1, 101)
    x = torch.linspace(-3, 3, 101)[None]
    y, log_derivative = flows.rational_quadratic_spline(x, parameters, bins=10, tail_bound=3.0)
    assert y.isfinite().all()
    assert log_derivative.isfinite().all()
    assert (y.diff() >= 0).all()


def test_coupling_equals_that_of_nflows():
    """The same weights in nflows' own coupling give the same outputs, both ways."""
    torch.manual_seed(0)
    ours = flows.SplineCoupling(
        [True, False, True, False, False],
        context_features=2,
        hidden=16,
        conditioner="residual",
    ).double()
    from nflows.nn.nets import ResidualNet

    theirs = PiecewiseRationalQuadraticCouplingTransform(
        [1, 0, 1, 0, 0],
        lambda i, o: ResidualNet(i, o, 16, context_features=2, num_blocks=2),
        num_bins=10,
        tails="linear",
        tail_bound=3.0,
    ).double()
    theirs.transform_net.load_state_dict(ours.conditioner.state_dict())
    x, context = 2 * torch.randn(300, 5).double(), torch.randn(300, 2).double()
    for mine, other in ((ours, theirs), (ours.inverse, theirs.inverse)):
        for a, b in zip(mine(x, context), other(x, context), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# torch.compile loads torch.jit, which warns of itself.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_splines_agree():
    torch.manual_seed(0)
    flow = FLOWS["spline, product"](4, 2).double()
    x, context = 2 * torch.randn(300, 4).double(), torch.randn(300, 2).double()

    def values():
        log_prob = flow.log_prob(x, context)
        gradients = torch.autograd.grad(log_prob.sum(), flow.parameters())
        with torch.no_grad():
            inverse, _ = flow._transform.inverse(x, context)
        return [log_prob, inverse, *gradients]

    plain = values()
    flows.compile_splines()
    try:
        compiled = values()
    finally:
        flows.compile_splines(False)
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
