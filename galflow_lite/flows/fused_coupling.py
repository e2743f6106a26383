"""A whole spline coupling as one operation of autograd: compiled loops for one CPU core.

On small networks torch spends most of its time between its operations, of which a coupling with
its conditioner has some two hundred. Here the matrix products stay torch's. Between them, numba
loops add biases, apply LeakyReLU, form the conditioner's product, find the bins, bend the inputs
and differentiate: in closed form, in single precision, and in blocks of rows that fit into the
nearest caches. The gradient computes the knots again, which takes less memory than to keep them
and no more time. The loops take some ten seconds to compile at the first use; numba keeps them on
disk.

The readable version is :func:`galflow_lite.flows.rational_quadratic_spline`; the tests hold this
one to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from .spline import LEAK, MIN_BIN_SIZE, MIN_DERIVATIVE

_BLOCK = 256
_ONE, _TWO, _HALF, _ZERO = (np.float32(v) for v in (1, 2, 0.5, 0))
_LEAST, _FLOOR, _SLOPE = (np.float32(v) for v in (MIN_BIN_SIZE, MIN_DERIVATIVE, LEAK))
# All that keeps NaN a NaN: only the order of sums and products is free.
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
_OPTIONS = dict(fastmath=_FAST, error_model="numpy", nogil=True)


def _compiled(function):
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder that can be written to keeps what was compiled
        return njit(**_OPTIONS)(function)


@_compiled
def _exp(x):
    """Single precision exp, in a form that LLVM turns into vector instructions (as in Cephes)."""
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    n = np.floor(x * np.float32(1.44269504) + _HALF)
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
    return (y * r * r + r + _ONE) * power.view(np.float32)


@_compiled
def _log(x):
    """Single precision log of a positive number (as in Cephes)."""
    bits = np.float32(x).view(np.int32)
    n = np.float32((bits >> np.int32(23)) - np.int32(127))
    m = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    large = m > np.float32(1.41421356)
    n = n + _ONE if large else n
    r = (m * _HALF if large else m) - _ONE
    y = np.float32(7.0376836292e-2)
    y = y * r - np.float32(1.1514610310e-1)
    y = y * r + np.float32(1.1676998740e-1)
    y = y * r - np.float32(1.2420140846e-1)
    y = y * r + np.float32(1.4249322787e-1)
    y = y * r - np.float32(1.6668057665e-1)
    y = y * r + np.float32(2.0000714765e-1)
    y = y * r - np.float32(2.4999993993e-1)
    y = y * r + np.float32(3.3333331174e-1)
    log = y * r * r * r - _HALF * r * r + r + n * np.float32(0.693147181)
    return log if x == x else x


@_compiled
def _leaky(z, bias):
    """LeakyReLU(z + bias), in place; z (units, rows)."""
    for k in range(z.shape[0]):
        row, b = z[k], bias[k]
        for i in range(len(row)):
            v = row[i] + b
            row[i] = v if v > _ZERO else _SLOPE * v


@_compiled
def _through_leaky(gradient, outputs, of_bias):
    """From the gradient of `_leaky`'s outputs to those of z, in place, and of the bias."""
    for k in range(gradient.shape[0]):
        row, out, total = gradient[k], outputs[k], _ZERO
        for i in range(len(row)):
            v = row[i] if out[i] > _ZERO else _SLOPE * row[i]
            row[i] = v
            total += v
        of_bias[k] = total


@_compiled
def _softplus(d, of_d, small, at, end):
    """Derivative at a knot and its own, in place; 1 at an outer knot, which joins the tails."""
    for i in range(len(d)):
        small[i] = _exp(-abs(d[i]))
    for i in range(len(d)):
        of_d[i] = (_ONE if d[i] > _ZERO else small[i]) / (_ONE + small[i])
    for i in range(len(d)):
        d[i] = (d[i] if d[i] > _ZERO else _ZERO) + _log(_ONE + small[i]) + _FLOOR
    for i in range(len(d)):
        d[i] = _ONE if at[i] == end else d[i]
    for i in range(len(d)):
        of_d[i] = _ZERO if at[i] == end else of_d[i]


@_compiled
def _locate(x, z, rows, bias, factor, index, axis, bound, p, s, a, c):
    """Parameters and bins of a block of rows of one feature.

    z (3 bins - 1, rows) are the conditioner's last products, factor (3 bins - 1, conditions). Fills
    p with the exponentials of the sizes and the raw slopes, and s with width, height, left knot on
    both axes, totals, both derivatives with their own derivatives, scaled input, bin, and slope.
    """
    # LLVM makes vectors of a loop that writes one row and reads eight at most, hence their number.
    bins, n = (p.shape[0] + 1) // 3, len(x)
    for k in range(p.shape[0]):
        zk, ck, pk, b = z[k, rows], factor[k], p[k], bias[k]
        ak, ck_of = a[k % len(a)], c[k % len(c)]
        for i in range(n):
            v = zk[i] + b
            ak[i] = v if v > _ZERO else _SLOPE * v
        if len(ck) == 1:
            one = ck[0]
            for i in range(n):
                pk[i] = ak[i] * one
            if len(c) > 1:
                ck_of[:] = one
        else:
            for i in range(n):
                ck_of[i] = ck[index[i]]
            for i in range(n):
                pk[i] = ak[i] * ck_of[i]
    w, h, left, low, tw, th = s[0], s[1], s[2], s[3], s[4], s[5]
    d0, d1, top, edge, scaled, at = s[6], s[7], s[8], s[9], s[10], s[11]
    for half, total in ((0, tw), (bins, th)):
        top[:] = p[half]
        for k in range(half + 1, half + bins):
            for i in range(n):
                top[i] = p[k, i] if p[k, i] > top[i] else top[i]
        total[:] = _ZERO
        for k in range(half, half + bins):
            pk = p[k]
            for i in range(n):
                pk[i] = _exp(pk[i] - top[i])
                total[i] += pk[i]
    share, whole, start = _ONE - np.float32(bins) * _LEAST, tw, 0
    if axis == 1:
        whole, start = th, bins
    edge[:] = _ZERO
    at[:] = _ZERO
    for i in range(n):
        unit = x[i] / (_TWO * bound) + _HALF
        unit = _ZERO if unit < _ZERO else unit
        unit = _ONE if unit > _ONE else unit
        scaled[i] = unit * whole[i]
    for k in range(start, start + bins - 1):
        pk = p[k]
        for i in range(n):
            edge[i] += share * pk[i] + _LEAST * whole[i]
            at[i] += _ONE if edge[i] <= scaled[i] else _ZERO
    left[:] = _ZERO
    low[:] = _ZERO
    for k in range(bins - 1):
        here, wide, high = np.float32(k), p[k], p[bins + k]
        for i in range(n):
            left[i] += wide[i] if here < at[i] else _ZERO
        for i in range(n):
            low[i] += high[i] if here < at[i] else _ZERO
    for i in range(n):
        b = np.int64(at[i])
        w[i], h[i] = p[b, i], p[bins + b, i]
        d0[i], d1[i] = p[2 * bins + max(b - 1, 0), i], p[2 * bins + min(b, bins - 2), i]
    for size, before, total in ((w, left, tw), (h, low, th)):
        for i in range(n):
            before[i] = share * before[i] + at[i] * _LEAST * total[i]
        for i in range(n):
            size[i] = share * size[i] + _LEAST * total[i]
    _softplus(d0, s[8], s[12], at, _ZERO)
    _softplus(d1, s[9], s[12], at, np.float32(bins - 1))
    for i in range(n):
        s[12, i] = (h[i] * tw[i]) / (w[i] * th[i])


@_compiled
def _bend(x, z, bias, factor, index, moved, axis, bound, out, log_det):
    """Spline from inputs to outputs (axis 0) or back (1), x and out (features, rows)."""
    p, s = np.empty((z.shape[1], _BLOCK), np.float32), np.empty((15, _BLOCK), np.float32)
    units, factors = np.empty((1, _BLOCK), np.float32), np.empty((1, _BLOCK), np.float32)
    w, h, left, low, tw, th, d0, d1 = s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
    scaled, m, xi, ratio = s[10], s[12], s[13], s[14]
    for first in range(0, x.shape[1], _BLOCK):
        n = min(_BLOCK, x.shape[1] - first)
        rows = slice(first, first + n)
        total, here = log_det[rows], index[rows]
        total[:] = _ZERO
        for f in range(len(moved)):
            xf, of = x[moved[f], rows], out[moved[f], rows]
            _locate(xf, z[f], rows, bias[f], factor[f], here, axis, bound, p, s, units, factors)
            if axis == 0:
                for i in range(n):
                    xi[i] = (scaled[i] - left[i]) / w[i]
            else:
                # The root of the quadratic in the form that does not cancel.
                for i in range(n):
                    t = (scaled[i] - low[i]) / h[i]
                    b = d0[i] - t * (d0[i] + d1[i] - _TWO * m[i])
                    root = b * b + np.float32(4) * (m[i] - b) * m[i] * t
                    root = _ZERO if root < _ZERO else root
                    xi[i] = _TWO * m[i] * t / (b + np.sqrt(root))
            for i in range(n):
                rest = _ONE - xi[i]
                blend = xi[i] * rest
                below = m[i] + (d0[i] + d1[i] - _TWO * m[i]) * blend
                slope = d1[i] * xi[i] * xi[i] + _TWO * m[i] * blend + d0[i] * rest * rest
                ratio[i] = m[i] * m[i] * slope / (below * below)
            if axis == 0:
                for i in range(n):
                    blend = xi[i] * (_ONE - xi[i])
                    below = m[i] + (d0[i] + d1[i] - _TWO * m[i]) * blend
                    y = low[i] + (m[i] * xi[i] * xi[i] + d0[i] * blend) / below * h[i]
                    of[i] = (_TWO * y / th[i] - _ONE) * bound
            else:
                for i in range(n):
                    of[i] = (_TWO * (left[i] + xi[i] * w[i]) / tw[i] - _ONE) * bound
            for i in range(n):
                of[i] = of[i] if abs(xf[i]) <= bound else xf[i]
            sign = _ONE if axis == 0 else -_ONE
            for i in range(n):
                total[i] += sign * _log(ratio[i]) if abs(xf[i]) <= bound else _ZERO


@_compiled
def _spread(row, a, c, index, of_z, of_factor):
    """From the gradient of one row of parameters to those of z and factor; returns the bias's."""
    total = _ZERO
    for i in range(len(of_z)):
        of_z[i] = row[i] * c[i] * (_ONE if a[i] > _ZERO else _SLOPE)
    for i in range(len(of_z)):
        total += of_z[i]
    for i in range(len(of_z)):
        row[i] *= a[i]
    if len(of_factor) == 1:
        for i in range(len(of_z)):
            of_factor[0] += row[i]
    else:
        for i in range(len(of_z)):
            of_factor[index[i]] += row[i]
    return total


@_compiled
def _differentiate(
    x, z, bias, factor, index, moved, bound, of_out, of_log_det, of_x, of_z, of_bias, of_factor
):
    """Gradients of `_bend` on axis 0, in closed form; `of_` names the gradient of what follows."""
    bins = (z.shape[1] + 1) // 3
    p, s = np.empty((z.shape[1], _BLOCK), np.float32), np.empty((28, _BLOCK), np.float32)
    units, factors = np.empty_like(p), np.empty_like(p)
    w, h, left, low, tw, th, d0, d1 = s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
    of_d0, of_d1, scaled, at, m, xi, q, over = s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15]
    gy, gd, gq, gn, gb, gm = s[16], s[17], s[18], s[19], s[20], s[21]
    before, size, rest = s[22:24], s[24:26], s[26:28]
    row = np.empty(_BLOCK, np.float32)
    share = _ONE - np.float32(bins) * _LEAST
    of_bias[:] = _ZERO
    of_factor[:] = _ZERO
    for first in range(0, x.shape[1], _BLOCK):
        n = min(_BLOCK, x.shape[1] - first)
        rows = slice(first, first + n)
        of_log, here = of_log_det[rows], index[rows]
        for f in range(len(moved)):
            xf, of_xf, of_of = x[moved[f], rows], of_x[moved[f], rows], of_out[moved[f], rows]
            _locate(xf, z[f], rows, bias[f], factor[f], here, 0, bound, p, s, units, factors)
            for i in range(n):
                xi[i] = (scaled[i] - left[i]) / w[i]
            for i in range(n):
                a, b = xi[i], _ONE - xi[i]
                q[i] = d1[i] * a * a + _TWO * m[i] * a * b + d0[i] * b * b
            for i in range(n):
                blend = xi[i] * (_ONE - xi[i])
                over[i] = _ONE / (m[i] + (d0[i] + d1[i] - _TWO * m[i]) * blend)
            # Of y, then of q and the numerator n of y, as log(m^2 q over^2) and y have them.
            for i in range(n):
                gy[i] = of_of[i] * _TWO * bound / th[i] if abs(xf[i]) <= bound else _ZERO
            for i in range(n):
                gd[i] = of_log[i] if abs(xf[i]) <= bound else _ZERO
            for i in range(n):
                gq[i] = gd[i] / q[i]
            for i in range(n):
                gn[i] = gy[i] * h[i] * over[i]
            for i in range(n):
                a, b = xi[i], _ONE - xi[i]
                rise = (m[i] * a * a + d0[i] * a * b) * over[i]
                gb[i] = -(_TWO * gd[i] + gy[i] * h[i] * rise) * over[i]
            for i in range(n):
                a, blend = xi[i], xi[i] * (_ONE - xi[i])
                v = gn[i] * a * a + gb[i] * (_ONE - _TWO * blend) + _TWO * gq[i] * blend
                gm[i] = v * m[i] + _TWO * gd[i]
            for i in range(n):
                a, b = xi[i], _ONE - xi[i]
                v = gq[i] * _TWO * (d1[i] * a + m[i] * (b - a) - d0[i] * b)
                v += gn[i] * (_TWO * m[i] * a + d0[i] * (b - a))
                v += gb[i] * (d0[i] + d1[i] - _TWO * m[i]) * (b - a)
                before[0, i] = -v / w[i]
            # Of the bins before that of the input, of its own, and of all, by the total.
            for i in range(n):
                size[0, i] = before[0, i] * xi[i] - gm[i] / w[i]
            for i in range(n):
                v = at[i] * before[0, i] + size[0, i]
                rest[0, i] = (gm[i] - before[0, i] * scaled[i]) / tw[i] + _LEAST * v
            for i in range(n):
                before[1, i] = gy[i]
            for i in range(n):
                a, b = xi[i], _ONE - xi[i]
                rise = (m[i] * a * a + d0[i] * a * b) * over[i]
                size[1, i] = gy[i] * rise + gm[i] / h[i]
            for i in range(n):
                v = at[i] * gy[i] + size[1, i]
                rest[1, i] = _LEAST * v - (gy[i] * low[i] + size[1, i] * h[i]) / th[i]
            for i in range(n):
                b = _ONE - xi[i]
                of_d0[i] *= gq[i] * b * b + (gn[i] + gb[i]) * xi[i] * b
            for i in range(n):
                a = xi[i]
                of_d1[i] *= gq[i] * a * a + gb[i] * a * (_ONE - a)
            for i in range(n):
                v = -before[0, i] * tw[i] / (_TWO * bound)
                of_xf[i] = v if abs(xf[i]) <= bound else of_of[i]
            for k in range(3 * bins - 1):
                half, pk = k // bins, p[k]
                if half < 2:
                    b = np.float32(k - half * bins)
                    earlier, own, all_bins = before[half], size[half], rest[half]
                    for i in range(n):
                        v = earlier[i] if b < at[i] else _ZERO
                        v = own[i] if b == at[i] else v
                        row[i] = (share * v + all_bins[i]) * pk[i]
                else:
                    b = np.float32(k - 2 * bins)
                    for i in range(n):
                        v = of_d1[i] if at[i] == b else _ZERO
                        row[i] = of_d0[i] if at[i] == b + _ONE else v
                of_bias[f, k] += _spread(
                    row, units[k], factors[k], here, of_z[f, k, rows], of_factor[f, k]
                )  # fmt: skip


def _forward(weights: Sequence[Tensor], biases: Sequence[Tensor], inputs: Tensor) -> list[Tensor]:
    """Inputs and outputs of layers of a product and LeakyReLU, all (units, rows)."""
    values = [inputs]
    for weight, bias in zip(weights, biases, strict=False):
        values.append(torch.mm(weight, values[-1]))
        _leaky(values[-1].numpy(), bias.numpy())
    return values


def _backward(
    weights: Sequence[Tensor],
    values: list[Tensor],
    gradient: Tensor,
    of_bias: Tensor,
    to_inputs: bool = True,
) -> tuple[list[Tensor], Tensor | None]:
    """Gradients of weights and biases in turn, and of what the first layer took.

    `gradient` and `of_bias` are those of the last layer, before its activation.
    """
    found: list[Tensor] = []
    for i in reversed(range(len(weights))):
        found = [torch.mm(gradient, values[i].t()), of_bias, *found]
        if i:
            gradient = torch.mm(weights[i].t(), gradient)
            of_bias = gradient.new_empty(len(gradient))
            _through_leaky(gradient.numpy(), values[i].numpy(), of_bias.numpy())
    return found, torch.mm(weights[0].t(), gradient) if to_inputs else None


class FusedCoupling(torch.autograd.Function):
    """Outputs (features, rows) and log-determinant (rows,) of a :class:`.SplineCoupling`.

    Takes the coupling, whether to invert (which has no gradient), x (features, rows), the
    conditions (conditions, width) or None, the index of each row's condition, and the parameters of
    the conditioner: weight and bias of each layer of the network of the inputs, then of that of the
    conditions.
    """

    @staticmethod
    def forward(ctx: Any, coupling: Any, inverse: bool, x, conditions, index, *parameters: Tensor):
        weights, biases = parameters[::2], [bias.detach() for bias in parameters[1::2]]
        depth = len(coupling.conditioner.of_inputs.layers) // 2
        kept, moved = coupling._kept, coupling._moved
        values = _forward(weights[: depth - 1], biases, x.index_select(0, kept))
        z = torch.mm(weights[depth - 1], values[-1]).view(len(moved), -1, x.shape[1])
        if conditions is None:
            of_context = [x.new_ones(z.shape[0] * z.shape[1], 1)]
        else:
            of_context = _forward(weights[depth:], biases[depth:], conditions.t())
        out, log_det = torch.empty_like(x), x.new_empty(x.shape[1])
        out.index_copy_(0, kept, values[0])
        arrays = _arrays(x, z, biases[depth - 1], of_context[-1], index, moved)
        bound = np.float32(coupling.tail_bound)
        _bend(*arrays, int(inverse), bound, out.numpy(), log_det.numpy())
        ctx.coupling, ctx.values = coupling, (values, z, of_context)
        ctx.save_for_backward(x, conditions, index, *parameters)
        return out, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_log_det: Tensor):
        x, conditions, index, *parameters = ctx.saved_tensors
        coupling = ctx.coupling
        weights, biases = parameters[::2], [bias.detach() for bias in parameters[1::2]]
        values, z, of_context = ctx.values
        depth, kept, moved = len(values), coupling._kept, coupling._moved
        of_out, of_log_det = of_out.contiguous(), of_log_det.contiguous()
        of_x, of_z, of_factor = (torch.empty_like(v) for v in (x, z, of_context[-1]))
        of_bias = torch.empty_like(biases[depth - 1])
        _differentiate(
            *_arrays(x, z, biases[depth - 1], of_context[-1], index, moved),
            np.float32(coupling.tail_bound),
            *(v.numpy() for v in (of_out, of_log_det, of_x, of_z)),
            *(v.view(*z.shape[:2], *v.shape[1:]).numpy() for v in (of_bias, of_factor)),
        )
        found, of_kept = _backward(weights[:depth], values, of_z.view(-1, x.shape[1]), of_bias)
        of_x.index_copy_(0, kept, of_kept.add_(of_out.index_select(0, kept)))
        of_conditions = None
        if conditions is not None:
            of_bias = torch.empty_like(biases[-1])
            _through_leaky(of_factor.numpy(), of_context[-1].numpy(), of_bias.numpy())
            more, of_conditions = _backward(
                weights[depth:], of_context, of_factor, of_bias, ctx.needs_input_grad[3]
            )
            found += more
            of_conditions = None if of_conditions is None else of_conditions.t()
        return None, None, of_x, of_conditions, None, *found


def _arrays(x: Tensor, z: Tensor, bias: Tensor, factor: Tensor, index: Tensor, moved: Tensor):
    bias, factor = bias.view(z.shape[:2]), factor.view(*z.shape[:2], -1)
    arrays = (v.numpy() for v in (x.detach(), z, bias, factor))
    # Unsigned: a negative index would have to be looked for.
    return *arrays, index.numpy().view(np.uint64), moved.numpy()
