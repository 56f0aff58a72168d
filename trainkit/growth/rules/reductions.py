"""Reductions other than sums, window reductions, cumulative operations, sort, FFT."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import ANY, Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, concatenation, find, product


def reduce_axes(pair: EquationPair) -> None:
    pair.check_same_params("index_dtype")
    gone = pair.params["axes"]
    pair.new_out(0, [a for d, a in enumerate(pair.ins[0].axes) if d not in gone])


def extreme_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """A maximum does not change with copies. All reduced elements must have one scale."""
    x, gone = pair.ins[0], pair.params["axes"]
    scales.pin_exponents(x)
    for d in gone:
        scales.uniform(pair, x, d)
    scales.mark_order_sensitive(x, gone)
    scales.refuse_padding(pair, x, gone)
    _drop(scales, x, pair.outs[0], gone)


def _drop(scales: ScalePropagation, x: Value, out: Value, gone) -> None:
    out.scale = x.scale[tuple(0 if d in gone else slice(None) for d in range(len(x.axes)))]
    if not out.axes:
        scalar = x.scale[(0,) * len(x.axes)]
        out.scale = scales.scalar(scalar)
    kept = [d for d in range(len(x.axes)) if d not in gone]
    out.exponents = {
        (kept.index(d), label, leaf): e for (d, label, leaf), e in x.exponents.items() if d in kept
    }
    out.zeros = {(kept.index(d), leaf): c for (d, leaf), c in x.zeros.items() if d in kept}


def arg_axes(pair: EquationPair) -> None:
    x, (d,) = pair.ins[0], pair.params["axes"]
    pair.refuse_growth(
        x, [d],
        f"`{pair.name}` returns indices into an axis that grows, which change",
        f"append copies behind the old entries yourself: table[jnp.arange({x.big[d]}) % "
        f"{x.small[d]}]. Of equal entries the first is chosen, so the function is the same",
    )  # fmt: skip
    reduce_axes(pair)


def arg_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.pin_exponents(pair.ins[0])
    for d in pair.params["axes"]:
        scales.uniform(pair, scales.read(pair.ins[0]), d)
    scales.plain(pair.outs[0])


def product_axes(pair: EquationPair) -> None:
    pair.refuse_growth(
        pair.ins[0], pair.params["axes"],
        f"`{pair.name}` over an axis that grows uses every element several times",
        "do not grow this axis",
    )  # fmt: skip
    reduce_axes(pair)


def logical_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.read(pair.ins[0])
    scales.mark_order_sensitive(pair.ins[0], pair.params["axes"])
    scales.refuse_padding(pair, pair.ins[0], pair.params["axes"])
    scales.pin(pair, pair.ins[0])
    scales.plain(pair.outs[0])


def _along(pair: EquationPair) -> list[int]:
    for key in ("axis", "dimension"):
        if key in pair.params:
            return [pair.params[key]]
    return list(pair.params.get("dimensions", ()))


def along_axes(pair: EquationPair) -> None:
    """Cumulative operations and sort: refused along an axis that grows."""
    pair.check_same_params()
    dims = _along(pair)
    for v in pair.ins:
        pair.refuse_growth(
            v, dims, f"`{pair.name}` runs along an axis that grows, and would mix its copies",
            "do not grow this axis",
        )  # fmt: skip
    first = pair.ins[0]
    for v in pair.ins[1:]:
        for a, b in zip(first.axes, v.axes, strict=True):
            pair.unify(a, b)
    for i, v in enumerate(pair.ins):
        pair.new_out(i, [Axis(find(a).small, find(a).big) if d in dims else a
                          for d, a in enumerate(v.axes)])  # fmt: skip


def cumulative_linear_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    dims = _along(pair)
    for v, out in zip(pair.ins, pair.outs, strict=True):
        groups = [Group((d,), (d,), ANY if d in dims else None) for d in range(len(v.axes))]
        move(scales, pair, out, [(v, groups)])


def cumulative_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """Homogeneous, but not linear."""
    for v in pair.ins:
        scales.pin_exponents(v)
    cumulative_linear_scales(scales, pair)


def pinned_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        scales.pin(pair, v)
    for v in pair.outs:
        scales.plain(v)


def rev_axes(pair: EquationPair) -> None:
    """An axis whose units all have equally many copies is turned about as the old one is."""
    pair.check_same_params()
    dims = _along(pair)
    pair.new_out(0, [_turned(pair, a) if d in dims else a for d, a in enumerate(pair.ins[0].axes)])


def _turned(pair: EquationPair, axis: Axis) -> Axis:
    axis = find(axis)
    if axis.fixed:
        return Axis(axis.small, axis.big)
    if axis.kind == "sum":
        return concatenation([_turned(pair, part) for part in reversed(axis.parts)])
    if axis.kind == "prod":
        return product([_turned(pair, part) for part in axis.parts])
    if axis.big % axis.small:
        pair.fail(
            f"`{pair.name}` turns about an axis that grows to a size that is no multiple, and its "
            "copies would meet other units",
            axes=(axis,), hint=f"grow it to {2 * axis.small}, or another multiple",
        )  # fmt: skip
    return axis


def rev_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    dims, x = _along(pair), pair.ins[0]
    groups = []
    for d in range(len(x.axes)):
        orders = [np.arange(n)[::-1] if d in dims else None for n in (x.small[d], x.big[d])]
        groups.append(Group((d,), (d,), *orders))
    # The first copy of a unit becomes its last: they must be alike, with even shares.
    scales.mark_order_sensitive(x, dims)
    for (d, _, _), expr in scales.read(x).exponents.items():
        if d in dims:
            scales.splits.require_zero(expr)
    move(scales, pair, pair.outs[0], [(x, groups)])


def window_axes(pair: EquationPair) -> None:
    dims = [d for d in range(len(pair.ins[0].axes)) if _windowed(pair, d)]
    for v in pair.ins[: len(pair.outs) or 1]:
        pair.refuse_growth(
            v, [d for d in dims if d < len(v.axes)],
            f"the windows of `{pair.name}` run over an axis that grows",
            "pool over spatial axes, not over channels that grow",
        )  # fmt: skip
    pair.check_same_params("computation")
    small, big = pair.small.outs[0].aval.shape, pair.big.outs[0].aval.shape
    pair.notes["dims"] = dims
    for i in range(len(pair.small.outs)):
        pair.new_out(i, [Axis(small[d], big[d]) if d in dims else a
                          for d, a in enumerate(pair.ins[0].axes)])  # fmt: skip


def _windowed(pair: EquationPair, d: int) -> bool:
    for params in (pair.params, pair.big.params):
        plain = params["window_dimensions"][d] == 1
        for key in ("window_strides", "base_dilation", "window_dilation"):
            plain &= params[key][d] == 1
        if not plain or tuple(params["padding"][d]) != (0, 0):
            return True
    return False


def window_sum_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x = pair.ins[0]
    groups = [Group((d,), (d,), ANY if d in pair.notes["dims"] else None)
              for d in range(len(x.axes))]  # fmt: skip
    move(scales, pair, pair.outs[0], [(x, groups)])


def window_extreme_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.pin_exponents(pair.ins[0])
    window_sum_scales(scales, pair)


def fft_axes(pair: EquationPair) -> None:
    x = pair.ins[0]
    dims = list(range(len(x.axes)))[-len(pair.params["fft_lengths"]) :]
    pair.refuse_growth(
        x, dims, "a Fourier transform runs along an axis that grows",
        "transform along time or space, not along an axis that grows",
    )  # fmt: skip
    pair.check_same_params()
    pair.notes["dims"] = dims
    small = pair.small.outs[0].aval.shape
    pair.new_out(0, [Axis(small[d], small[d]) if d in dims else a for d, a in enumerate(x.axes)])


RULES = {
    "fft": Rule(fft_axes, window_sum_scales),
    **{n: Rule(reduce_axes, extreme_scales) for n in ("reduce_max", "reduce_min")},
    **{n: Rule(arg_axes, arg_scales) for n in ("argmax", "argmin")},
    "reduce_prod": Rule(product_axes, logical_scales),
    "reduce_xor": Rule(product_axes, logical_scales),
    **{n: Rule(reduce_axes, logical_scales) for n in ("reduce_and", "reduce_or")},
    "cumsum": Rule(along_axes, cumulative_linear_scales),
    **{n: Rule(along_axes, cumulative_scales) for n in ("cummax", "cummin")},
    **{n: Rule(along_axes, pinned_scales) for n in ("cumprod", "cumlogsumexp")},
    "sort": Rule(along_axes, cumulative_scales),
    "rev": Rule(rev_axes, rev_scales),
    "reduce_window_sum": Rule(window_axes, window_sum_scales),
    **{
        n: Rule(window_axes, window_extreme_scales)
        for n in ("reduce_window_max", "reduce_window_min")
    },
}
