"""Reductions that are not sums, windows, and what runs or orders along an axis."""

from __future__ import annotations

from trainkit.growth.analysis.index_maps import ANY, Group, move
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import Axis, find


def reduce_axes(joint: Joint) -> None:
    joint.same_told("index_dtype")
    gone = joint.params["axes"]
    joint.new_out(0, [a for d, a in enumerate(joint.ins[0].axes) if d not in gone])


def extreme_flow(flow: Flow, joint: Joint) -> None:
    """Copies do not change a maximum; all that is reduced must have one scale."""
    x, gone = joint.ins[0], joint.params["axes"]
    flow.carries_nothing(x)
    for d in gone:
        flow.uniform(joint, x, d)
    flow.watch(x, gone)
    flow.refuse_hollow(joint, x, gone)
    _drop(flow, x, joint.outs[0], gone)


def _drop(flow: Flow, x: Value, out: Value, gone) -> None:
    out.scale = x.scale[tuple(0 if d in gone else slice(None) for d in range(len(x.axes)))]
    if not out.axes:
        scalar = x.scale[(0,) * len(x.axes)]
        out.scale = flow.scalar(scalar)
    kept = [d for d in range(len(x.axes)) if d not in gone]
    out.carries = {
        (kept.index(d), label, leaf): e for (d, label, leaf), e in x.carries.items() if d in kept
    }
    out.zeros = {(kept.index(d), leaf): c for (d, leaf), c in x.zeros.items() if d in kept}


def arg_axes(joint: Joint) -> None:
    joint.refuse_growth(
        joint.ins[0], joint.params["axes"],
        f"`{joint.name}` gives positions along an axis that grows, which change",
        "keep this axis as it is",
    )  # fmt: skip
    reduce_axes(joint)


def arg_flow(flow: Flow, joint: Joint) -> None:
    flow.carries_nothing(joint.ins[0])
    for d in joint.params["axes"]:
        flow.uniform(joint, flow.read(joint.ins[0]), d)
    flow.plain(joint.outs[0])


def product_axes(joint: Joint) -> None:
    joint.refuse_growth(
        joint.ins[0], joint.params["axes"],
        f"`{joint.name}` over an axis that grows takes every factor several times",
        "keep this axis as it is",
    )  # fmt: skip
    reduce_axes(joint)


def logical_flow(flow: Flow, joint: Joint) -> None:
    flow.read(joint.ins[0])
    flow.watch(joint.ins[0], joint.params["axes"])
    flow.refuse_hollow(joint, joint.ins[0], joint.params["axes"])
    flow.pin(joint, joint.ins[0])
    flow.plain(joint.outs[0])


def _along(joint: Joint) -> list[int]:
    for key in ("axis", "dimension"):
        if key in joint.params:
            return [joint.params[key]]
    return list(joint.params.get("dimensions", ()))


def along_axes(joint: Joint) -> None:
    """cumsum and its like, sort, rev: refused along an axis that grows."""
    joint.same_told()
    dims = _along(joint)
    for v in joint.ins:
        joint.refuse_growth(
            v, dims, f"`{joint.name}` runs along an axis that grows, whose copies it would mix",
            "keep this axis as it is, or grow another axis of the model",
        )  # fmt: skip
    first = joint.ins[0]
    for v in joint.ins[1:]:
        for a, b in zip(first.axes, v.axes, strict=True):
            joint.unify(a, b)
    for i, v in enumerate(joint.ins):
        joint.new_out(i, [Axis(find(a).small, find(a).big) if d in dims else a
                          for d, a in enumerate(v.axes)])  # fmt: skip


def cumulative_linear_flow(flow: Flow, joint: Joint) -> None:
    dims = _along(joint)
    for v, out in zip(joint.ins, joint.outs, strict=True):
        groups = [Group((d,), (d,), ANY if d in dims else None) for d in range(len(v.axes))]
        move(flow, joint, out, [(v, groups)])


def cumulative_flow(flow: Flow, joint: Joint) -> None:
    """Homogeneous, not linear."""
    for v in joint.ins:
        flow.carries_nothing(v)
    cumulative_linear_flow(flow, joint)


def pinned_flow(flow: Flow, joint: Joint) -> None:
    for v in joint.ins:
        flow.pin(joint, v)
    for v in joint.outs:
        flow.plain(v)


def rev_flow(flow: Flow, joint: Joint) -> None:
    dims, x = _along(joint), joint.ins[0]
    groups = []
    for d, a in enumerate(x.axes):
        order = list(range(find(a).small))[::-1] if d in dims else None
        groups.append(Group((d,), (d,), order, order))
    move(flow, joint, joint.outs[0], [(x, groups)])


def window_axes(joint: Joint) -> None:
    joint.same_told("computation", "window_dimensions", "window_strides", "padding",
                    "base_dilation", "window_dilation")  # fmt: skip
    dims = [d for d in range(len(joint.ins[0].axes)) if _windowed(joint, d)]
    for v in joint.ins[: len(joint.outs) or 1]:
        joint.refuse_growth(
            v, [d for d in dims if d < len(v.axes)],
            f"the windows of `{joint.name}` run over an axis that grows",
            "pool over places, not over channels that grow",
        )  # fmt: skip
    joint.same_told("computation")
    small, big = joint.small.outs[0].aval.shape, joint.big.outs[0].aval.shape
    joint.notes["dims"] = dims
    for i in range(len(joint.small.outs)):
        joint.new_out(i, [Axis(small[d], big[d]) if d in dims else a
                          for d, a in enumerate(joint.ins[0].axes)])  # fmt: skip


def _windowed(joint: Joint, d: int) -> bool:
    for params in (joint.params, joint.big.params):
        plain = params["window_dimensions"][d] == 1
        for key in ("window_strides", "base_dilation", "window_dilation"):
            plain &= params.get(key, (1,) * (d + 1))[d] == 1
        if not plain or tuple(params["padding"][d]) != (0, 0):
            return True
    return False


def window_sum_flow(flow: Flow, joint: Joint) -> None:
    x = joint.ins[0]
    groups = [Group((d,), (d,), ANY if d in joint.notes["dims"] else None)
              for d in range(len(x.axes))]  # fmt: skip
    move(flow, joint, joint.outs[0], [(x, groups)])


def window_extreme_flow(flow: Flow, joint: Joint) -> None:
    flow.carries_nothing(joint.ins[0])
    window_sum_flow(flow, joint)


def fft_axes(joint: Joint) -> None:
    x = joint.ins[0]
    dims = list(range(len(x.axes)))[-len(joint.params["fft_lengths"]) :]
    joint.refuse_growth(
        x, dims, "a Fourier transform runs along an axis that grows",
        "transform along time or place, not along an axis that grows",
    )  # fmt: skip
    joint.same_told()
    joint.notes["dims"] = dims
    small = joint.small.outs[0].aval.shape
    joint.new_out(0, [Axis(small[d], small[d]) if d in dims else a for d, a in enumerate(x.axes)])


RULES = {
    "fft": Rule(fft_axes, window_sum_flow),
    **{n: Rule(reduce_axes, extreme_flow) for n in ("reduce_max", "reduce_min")},
    **{n: Rule(arg_axes, arg_flow) for n in ("argmax", "argmin")},
    "reduce_prod": Rule(product_axes, logical_flow),
    "reduce_xor": Rule(product_axes, logical_flow),
    **{n: Rule(reduce_axes, logical_flow) for n in ("reduce_and", "reduce_or")},
    "cumsum": Rule(along_axes, cumulative_linear_flow),
    **{n: Rule(along_axes, cumulative_flow) for n in ("cummax", "cummin")},
    **{n: Rule(along_axes, pinned_flow) for n in ("cumprod", "cumlogsumexp")},
    "sort": Rule(along_axes, cumulative_flow),
    "rev": Rule(along_axes, rev_flow),
    "reduce_window_sum": Rule(window_axes, window_sum_flow),
    **{
        n: Rule(window_axes, window_extreme_flow)
        for n in ("reduce_window_max", "reduce_window_min")
    },
}
