"""Unification against a model that enumerates every map of every leaf.

An axis stands for the set of index maps [big] → [small] ∪ {∅} that its leaves can make. Two axes
that have become one make only maps that each of them could make; not always all of these (1→2·2→4
and 2→4·1→2 become 1→2·2·1→2, which leaves some out).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.growth.rules.axis_specs import Leaf, Prod, Spec, Sum, grows, made, sizes
from trainkit.growth.axes.axis import Axis, concatenation, find, product
from trainkit.growth.axes.queries import grown_leaves, source_map
from trainkit.growth.axes.unification import Mismatch, cut, split_product, unify

MANY = 7000  # assignments that are enumerated

Maps = set[tuple[int, ...]]


def leaf_maps(n: int, m: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(-1, n), repeat=m))


def leaves_of(spec: Spec) -> dict[str, Leaf]:
    if isinstance(spec, Leaf):
        return {spec.name: spec} if grows(spec) else {}
    return (
        {} if isinstance(spec, int) else {k: v for p in spec.parts for k, v in leaves_of(p).items()}
    )


def map_of(spec: Spec, leaf: dict[str, tuple[int, ...]]) -> list[int]:
    """The map of an axis, told by its parts alone."""
    if isinstance(spec, int):
        return list(range(spec))
    if isinstance(spec, Leaf):
        return list(leaf[spec.name]) if grows(spec) else list(range(spec.small))
    parts = [(sizes(p)[0], map_of(p, leaf)) for p in spec.parts]
    if isinstance(spec, Sum):
        out, offset = [], 0
        for small, inner in parts:
            out += [-1 if i < 0 else i + offset for i in inner]
            offset += small
        return out
    out = [0]
    for small, inner in parts:
        out = [-1 if min(i, j) < 0 else i * small + j for i in out for j in inner]
    return out


def model(spec: Spec) -> Maps:
    names = leaves_of(spec)
    every = [leaf_maps(x.small, x.big) for x in names.values()]
    assume(math.prod(map(len, every)) <= MANY)
    return {
        tuple(map_of(spec, dict(zip(names, choice, strict=True))))
        for choice in itertools.product(*every)
    }


def maps(axis: Axis) -> Maps:
    nodes = grown_leaves(axis)
    every = [leaf_maps(x.small, x.big) for x in nodes]
    assume(math.prod(map(len, every)) <= MANY)
    found = set()
    for choice in itertools.product(*every):
        told = {x.uid: np.array(m) for x, m in zip(nodes, choice, strict=True)}
        source = source_map(axis, lambda x, told=told: told[find(x).uid])
        found.add(tuple(int(i) for i in source))
    return found


SMALL = [
    1,
    2,
    3,
    Leaf("a", 1, 2),
    Leaf("b", 2, 3),
    Leaf("c", 2, 4),
    Leaf("d", 1, 3),
    Leaf("e", 3, 4),
]
part = st.sampled_from(SMALL)
parts = st.lists(part, min_size=1, max_size=3).map(tuple)
specs = st.one_of(
    part, parts.map(Prod), parts.map(Sum),
    st.tuples(st.tuples(part, part).map(Sum), part).map(Prod),
    st.tuples(st.tuples(part, part).map(Prod), part).map(Sum),
).filter(lambda spec: sizes(spec)[1] <= 12)  # fmt: skip
BY_SIZES: dict[tuple[int, int], list[Spec]] = {}
for n in (1, 2, 3):
    for chosen in itertools.product(SMALL, repeat=n):
        for kind in (Prod, Sum) if n > 1 else (Prod,):
            spec = kind(chosen)
            if sizes(spec)[1] <= 12 and sizes(spec)[0] < sizes(spec)[1]:
                BY_SIZES.setdefault(sizes(spec), []).append(spec)
of_one_size = st.sampled_from(sorted(BY_SIZES)).flatmap(
    lambda s: st.tuples(st.sampled_from(BY_SIZES[s]), st.sampled_from(BY_SIZES[s]))
)


def run(strategy, examples=150):
    def decorate(test):
        return settings(max_examples=examples, derandomize=True, deadline=None, database=None)(
            given(strategy)(test)
        )

    return decorate


@run(specs)
def test_an_axis_makes_the_maps_of_its_parts(spec):
    axis = made(spec, {})
    assert (find(axis).small, find(axis).big) == sizes(spec)
    assert maps(axis) == model(spec)


@run(of_one_size)
def test_unified_axes_make_only_maps_that_both_made(pair):
    one, other = pair
    a, b = made(one, {}), made(other, {})
    both = model(one) & model(other)
    if isinstance(unify(a, b), Mismatch):
        return
    assert find(a) is find(b)
    after = maps(a)
    assert after
    assert after <= both


@run(st.sampled_from(sorted(BY_SIZES)).flatmap(lambda s: st.sampled_from(BY_SIZES[s])))
def test_what_has_no_structure_takes_any(spec):
    leaf, axis = Axis(*sizes(spec)), made(spec, {})
    wanted = model(spec)
    assert unify(leaf, axis) is None
    assert maps(leaf) == wanted


WHOLE = st.sampled_from([spec for size in ((4, 8), (2, 4), (4, 12)) for spec in BY_SIZES[size]])
FIRST = st.sampled_from([(1, 2), (2, 2), (2, 3), (2, 4), (1, 1), (1, 3), (2, 6)])


@run(st.tuples(WHOLE, FIRST))
def test_a_factor_is_split_off(drawn):
    spec, (small, big) = drawn
    axis, before = made(spec, {}), model(spec)
    parts = split_product(axis, small, big)
    if isinstance(parts, Mismatch):
        return
    assert (find(parts[0]).small, find(parts[0]).big) == (small, big)
    after = maps(axis)
    assert after <= before
    assert after == maps(product(list(parts)))


ROW = st.sampled_from([spec for size in ((4, 8), (4, 6), (3, 5)) for spec in BY_SIZES[size]])
HEAD = st.sampled_from([(1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (3, 4), (3, 3)])


@run(st.tuples(ROW, HEAD))
def test_a_segment_is_cut_off(drawn):
    spec, (small, big) = drawn
    axis, before = made(spec, {}), model(spec)
    parts = cut(axis, small, big)
    if isinstance(parts, Mismatch):
        return
    assert (find(parts[0]).small, find(parts[0]).big) == (small, big)
    after = maps(axis)
    assert after <= before
    assert after == maps(concatenation(list(parts)))


def test_something_is_unified_and_something_is_not():
    """The properties above say something: of pairs of one size many are unified, many are not."""
    found = {True: 0, False: 0}
    for several in BY_SIZES.values():
        for one, other in itertools.combinations(several[:12], 2):
            found[unify(made(one, {}), made(other, {})) is None] += 1
    assert min(found.values()) > 50
