"""The contract that every flow keeps, the spline against nflows' own, and many flows as one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from planar_densities import Grid

from galflow_lite import flows


def autoregressive(d, c, base=None):
    return flows.masked_autoregressive_flow(d, c, layers=3, hidden=16, base=base)


FLOWS = {
    "spline": lambda d, c: flows.neural_spline_flow(d, c, layers=2, hidden=16),
    "autoregressive": autoregressive,
    "real_nvp": lambda d, c: flows.real_nvp(d, c, layers=4, hidden=16),
    "real_nvp, resampled base": lambda d, c: flows.real_nvp(
        d, c, layers=4, hidden=16, resampled=16
    ),
    "autoregressive, mixture base": lambda d, c: autoregressive(
        # Broad components: a test below compares with a normal that must not lie in a gap.
        *(d, c),
        base=flows.GaussianMixtureBase(torch.randn(5, d), scale=1.0),
    ),
}


def perturbed(name: str, features: int, context_features: int = 0, seed: int = 3) -> flows.Flow:
    """A flow whose weights have left their start, where much is close to zero."""
    torch.manual_seed(seed)
    flow = FLOWS[name](features, context_features).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    if isinstance(flow.base, flows.ResampledBase):
        flow.base.refine(400_000)  # its normaliser is no parameter, and belongs to the others
    return flow.eval()


@pytest.fixture(params=FLOWS)
def build(request):
    return lambda *sizes: perturbed(request.param, *sizes)


def test_log_determinant_is_that_of_the_jacobian_and_the_inverse_is_one(build):
    flow = build(5, 2)
    x, context = 2 * torch.randn(300, 5).double(), torch.randn(300, 2).double()
    for direction in (flow._transform, flow._transform.inverse):
        _, log_det = direction(x[:4], context[:4])
        for i in range(4):
            jacobian = torch.autograd.functional.jacobian(
                lambda row, i=i, f=direction: f(row[None], context[i : i + 1])[0][0], x[i]
            )
            expected = torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(log_det[i], expected, rtol=1e-8, atol=1e-8)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        flow, x, context = flow.to(dtype), x.to(dtype), context.to(dtype)
        with torch.no_grad():
            noise, forward = flow._transform(x, context)
            back, backward = flow._transform.inverse(noise, context)
        scale = 1 + noise.abs().amax(dim=1, keepdim=True)  # rounding grows with what is inverted
        assert ((back - x) / scale).abs().max() < tolerance
        assert (forward + backward).abs().median() < tolerance


def test_density_integrates_to_one_and_has_the_samples(build):
    flow, row = build(2, 1), torch.ones(1, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        samples = flow.sample(100_000, row)[0]
        # E_q[p / q] = 1 for a normal p within q's reach, from q's own samples.
        mean, std = samples.mean(0), 0.5 * samples.std(0)
        reference = torch.distributions.Normal(mean, std).log_prob(samples).sum(1)
        weights = (reference - flow.log_prob(samples, row)).exp()
    error = weights.std() / len(weights) ** 0.5
    assert abs(weights.mean() - 1) < 4 * error
    assert error < 0.07
    # The flow spreads as it was perturbed: the box is set by its own samples, with a wide margin.
    edge = float(samples.abs().max()) + 2
    grid = Grid(lambda x: flow.log_prob(x, row), -edge, edge, n=700)
    assert grid.total == pytest.approx(1.0, abs=5e-3)


def test_gradient_reaches_every_parameter(build):
    flow = build(4, 2)
    flow.log_prob(torch.randn(256, 4), torch.randn(256, 2)).mean().backward()
    without = [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in flow.parameters())


def test_shared_and_indexed_context_equal_their_copies(build):
    flow = build(3, 2)
    x, rows = torch.randn(40, 3).double(), torch.randn(5, 2).double()
    index = torch.randint(5, (40,))
    found = []
    for context in ((rows, index), (rows[index], None)):
        log_prob = flow.log_prob(x, *context)
        found.append([log_prob, *torch.autograd.grad(log_prob.sum(), flow.parameters())])
    for indexed, copied in zip(*found, strict=True):
        torch.testing.assert_close(indexed, copied, rtol=1e-9, atol=1e-9)
    shared, copied = flow.log_prob(x, rows[:1]), flow.log_prob(x, rows[:1].repeat(40, 1))
    torch.testing.assert_close(shared, copied, rtol=1e-12, atol=1e-12)
    assert (shared - flow.log_prob(x, rows[1:2])).abs().max() > 1e-2
    # Neither is left to broadcasting.
    for wrong in (None, rows[:4], torch.zeros(40, 1)):
        with pytest.raises(ValueError, match="context"):
            flow.log_prob(x, wrong)


def test_sample_shapes_and_number_types(build):
    plain, conditional = build(3), build(3, 2)
    assert plain.sample(np.int64(7)).shape == (7, 3)
    assert conditional.sample(7, np.zeros((4, 2)), batch_size=3).shape == (4, 7, 3)
    assert plain.log_prob(np.zeros((4, 3), dtype=np.float32)).dtype == torch.float64
    whole, parts = (
        plain.sample(100, batch_size=size, generator=torch.Generator().manual_seed(1))
        for size in (None, 7)
    )
    torch.testing.assert_close(whole, parts)


def test_copies_files_and_devices(build):
    flow, other = build(3, 1), build(3, 1)
    x, context = torch.randn(9, 3), torch.randn(9, 1)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(flow.state_dict())
    for twin in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(twin.log_prob(x, context), flow.log_prob(x, context))
    # On the meta device nothing is computed, but a tensor left behind on the CPU is found.
    other = other.to("meta")
    assert other.log_prob(torch.empty(4, 3), torch.empty(4, 1)).device.type == "meta"
    assert {t.device.type for t in (*other.parameters(), *other.buffers())} == {"meta"}
    if torch.cuda.is_available():
        found = copy.deepcopy(flow).to("cuda")
        torch.testing.assert_close(found.log_prob(x, context).cpu(), flow.log_prob(x, context))
        assert found.sample(4, context).device.type == "cuda"


@pytest.mark.filterwarnings("error")
def test_no_warning_reaches_the_user_and_any_default_type_will_do(double_by_default, build):
    flow = build(4, 1).float()
    flow.sample(3, torch.zeros(1, 1))
    flow.log_prob(torch.zeros(3, 4), torch.zeros(3, 1)).sum().backward()


def test_parameter_counts_of_the_papers():
    def count(flow):
        return sum(p.numel() for p in flow.parameters())

    # 14 x (2 x (52,497 + 52,369) + 110): the public code's double couplings with an LU layer that
    # stores triangles, a diagonal and a bias (110) and not two full matrices and a diagonal (210).
    assert count(flows.neural_spline_flow(10, 4)) == 2_939_188 - 14 * 100
    # arXiv:2305.02930: MADEs of 2,904, six of them; RealNVP with a resampled base (public code).
    assert count(flows.masked_autoregressive_flow(2, layers=1)) == 2_904
    assert count(flows.masked_autoregressive_flow(2)) == 6 * 2_904 == 17_424
    resampled = flows.real_nvp(2, hidden=17, resampled=128)
    assert count(resampled._transform) == 3_040
    assert count(resampled.base) == 17_025
    assert count(resampled) == 20_065


# ---- splines


def _parameters(bins: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(4, 3 * bins - 1, 600, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [2, 3, 10])
def test_spline_equals_that_of_nflows(bins, inverse):
    parameters = _parameters(bins, bins).requires_grad_()
    inputs = 2.5 * torch.randn(4, 600, dtype=torch.float64)
    inputs[:, :4] = torch.tensor([-3.0, 3.0, 3.0 + 1e-12, -1e9], dtype=torch.float64)
    inputs.requires_grad_()
    settings = {"tail_bound": 3.0, "inverse": inverse}
    ours = flows.rational_quadratic_spline(inputs, parameters, bins=bins, **settings)
    split = parameters.permute(2, 0, 1).split([bins, bins, bins - 1], dim=-1)
    theirs = unconstrained_rational_quadratic_spline(inputs.t(), *split, tails="linear", **settings)
    for mine, other in zip(ours, (value.t() for value in theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
        weights = torch.randn(mine.shape, dtype=mine.dtype)
        gradients = [
            torch.autograd.grad((out * weights).sum(), (inputs, parameters), retain_graph=True)
            for out in (mine, other)
        ]
        for a, b in zip(*gradients, strict=True):
            # At the very ends of the interval nflows has one-sided derivatives in other bins.
            torch.testing.assert_close(a[..., 4:], b[..., 4:], rtol=1e-6, atol=1e-7)


# ---- many flows as one batched model


@pytest.fixture(params=[name for name in FLOWS if "resampled" not in name])
def three(request) -> list[flows.Flow]:
    """Flows whose weights, permutations and bases differ."""
    return [perturbed(request.param, 3, 0, seed) for seed in range(3)]


@pytest.mark.parametrize("shape", [(50, 3), (3, 50, 3)])
def test_a_stack_has_the_values_and_gradients_of_its_flows(three, shape):
    x = 2 * torch.randn(shape, dtype=torch.float64)
    stack = flows.StackedFlows(three)
    expected = torch.stack(
        [flow.log_prob(part) for flow, part in zip(three, x.expand(3, 50, 3), strict=True)]
    )
    # Rows and flows count differently.
    slope = torch.linspace(0.5, 2, 150, dtype=torch.float64).reshape(3, 50)
    (expected * slope).sum().backward()
    log_prob = stack.log_prob(x)
    (log_prob * slope).sum().backward()
    torch.testing.assert_close(log_prob, expected, rtol=1e-10, atol=1e-10)
    found = {name.replace("/", "."): p.grad for name, p in stack.named_parameters()}
    assert found.keys() == dict(three[0].named_parameters()).keys()
    for name, gradient in found.items():
        own = torch.stack([flow.get_parameter(name).grad for flow in three])
        torch.testing.assert_close(gradient, own, rtol=1e-8, atol=1e-9)


def test_copy_to_writes_every_flow_back(three):
    stack = flows.StackedFlows(three)
    x = torch.randn(20, 3, dtype=torch.float64)
    before = torch.stack([flow.log_prob(x) for flow in three])
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    # The stack holds copies.
    assert torch.equal(torch.stack([flow.log_prob(x) for flow in three]), before)
    stack.copy_to(three)
    expected = torch.stack([flow.log_prob(x) for flow in three])
    torch.testing.assert_close(stack.log_prob(x), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(expected, before)
