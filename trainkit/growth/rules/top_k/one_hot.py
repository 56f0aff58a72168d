"""Rules for one-hot encodings of indices into an axis that grows; see `analysis.values.Match`."""

from __future__ import annotations

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Match, Value, leaf_of
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.ir.primitives import zero_result
from trainkit.growth.rules import elementwise
from trainkit.growth.rules.top_k.operands import moved, refuse


def _plain(pair: EquationPair) -> Rule:
    return pair.analysis.rules[pair.name]


def _match(pair: EquationPair) -> Match:
    """The `Match` of the operands; refuses if there are two different ones."""
    found = [v.choice for v in pair.ins if isinstance(v.choice, Match)]
    if len({(m.dims, find(m.axes[0]), find(m.axes[1])) for m in found}) != 1:
        refuse(pair)
    return found[0]


def plain_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """The usual rule, which holds where copy numbers are equal."""
    _plain(pair).scales(scales, pair)


def move_axes(pair: EquationPair) -> None:
    match = _match(pair)
    _plain(pair).axes(pair)
    one, other = (moved(pair, d, a) for d, a in zip(match.dims, match.axes, strict=True))
    pair.outs[0].choice = match._replace(dims=(one, other))


def slice_axes(pair: EquationPair) -> None:
    match, x = _match(pair), pair.ins[0]
    _plain(pair).axes(pair)
    if any(find(pair.outs[0].axes[d]) is not find(x.axes[d]) for d in match.dims):
        refuse(pair)
    pair.outs[0].choice = match


def elementwise_axes(pair: EquationPair) -> None:
    match = _match(pair)
    _plain(pair).axes(pair)
    same = pair.name in ("convert_element_type", "stop_gradient", "copy", "and", "or")
    counts = same and all(isinstance(v.choice, Match) and v.choice.counts for v in pair.ins)
    pair.outs[0].choice = match._replace(tight=_stays_zero(pair), counts=counts)


def _stays_zero(pair: EquationPair) -> bool:
    """Whether a result is 0 where copy numbers differ."""
    zero = [v.choice.tight if isinstance(v.choice, Match) else _is_zero(v) for v in pair.ins]
    picks_zero = pair.name == "select_n" and zero[0] and zero[1]  # it selects the first case there
    return picks_zero or zero_result(pair, zero)


def _is_zero(v: Value) -> bool:
    return v.const is not None and all(c.is_zero for c in v.const)


def _keep(pair: EquationPair, match: Match, kept: dict[int, int]) -> None:
    """Sets the match of a result; if it lost one of the two dimensions, it has plain copies."""
    found = [kept[d] for d in match.dims if d in kept]
    if len(found) == 2:
        pair.outs[0].choice = match._replace(dims=(found[0], found[1]), counts=False)
    elif not match.tight:
        refuse(pair)


def reduce_axes(pair: EquationPair) -> None:
    """A sum over one of the two axes has as many non-zero terms as before; see `contract`."""
    match, gone = _match(pair), pair.params["axes"]
    lost = sum(d in gone for d in match.dims)
    if pair.name != "reduce_sum" and (lost != 1 or not match.counts):
        refuse(pair)
    _plain(pair).axes(pair)
    kept = [d for d in range(len(pair.ins[0].axes)) if d not in gone]
    _keep(pair, match, {d: o for o, d in enumerate(kept)})


def dot_axes(pair: EquationPair) -> None:
    match = _match(pair)
    (i, *more) = [i for i, v in enumerate(pair.ins) if v.choice is not None]
    if more:
        refuse(pair)
    _plain(pair).axes(pair)
    contract, batch = (both[i] for both in pair.params["dimension_numbers"])
    free = [d for d in range(len(pair.ins[i].axes)) if d not in (*contract, *batch)]
    first = len(pair.outs[0].axes) - len(free) if i else len(batch)
    places = {d: o for o, d in enumerate(batch)} | {d: first + o for o, d in enumerate(free)}
    _keep(pair, match, places)


def cumulative_axes(pair: EquationPair) -> None:
    """A cumsum along one of the axes: the old count where copy numbers are equal, else unknown."""
    match, d = _match(pair), pair.params["axis"]
    if d not in match.dims:
        _plain(pair).axes(pair)
        pair.outs[0].choice = match._replace(counts=False)
        return
    pair.check_same_params()
    axis = pair.ins[0].axes[d]
    if not match.tight or grown_leaves(axis) != [leaf_of(match.axes[match.dims.index(d)])]:
        refuse(pair)
    pair.new_out(0, pair.ins[0].axes)
    pair.outs[0].choice = match._replace(tight=False, counts=False)


def cumulative_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, d = pair.ins[0], pair.params["axis"]
    if d not in _match(pair).dims:
        return plain_scales(scales, pair)
    scales.uniform(pair, x, d)
    scales.pin_exponents(x)
    return scales.elementwise(pair, [x], pair.outs[0], [1.0])


RULES: dict[str, Rule] = {
    **{name: Rule(elementwise_axes, plain_scales) for name in elementwise.RULES},
    **{
        name: Rule(move_axes, plain_scales)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "reshape")
    },
    **{name: Rule(reduce_axes, plain_scales) for name in ("reduce_sum", "reduce_or", "reduce_max")},
    "slice": Rule(slice_axes, plain_scales),
    "dot_general": Rule(dot_axes, plain_scales),
    "cumsum": Rule(cumulative_axes, cumulative_scales),
}
