"""Conditions on padding against their meaning: what holds of places, whatever the order."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit import growth
from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.scales import padding
from trainkit.growth.analysis.scales.padding import MEAN, ZERO
from trainkit.growth.errors import Conflict
from trainkit.growth.rules import RULES, UNKNOWN

PARAMETERS = 3
# What every parameter holds in its new units: anything (`None`), 0 or the mean of the old ones.
WORLDS = list(itertools.product((None, ZERO, MEAN), repeat=PARAMETERS))


def of(parameter, holds):
    return padding.of(parameter, 0, 9, holds)


def holds(condition, world) -> bool:
    if condition is None:
        return False
    return any(all(world[p] == what for p, _, _, what in clause) for clause in condition)


basic = st.builds(of, st.integers(0, PARAMETERS - 1), st.sampled_from([ZERO, MEAN]))
# Few enough clauses that none is dropped.
conditions = st.one_of(
    basic,
    st.just(padding.ALWAYS),
    st.lists(basic, min_size=1, max_size=2).map(padding.either),
    st.lists(basic, min_size=1, max_size=2).map(padding.both),
)


def run(*strategies):
    return lambda test: settings(max_examples=100, derandomize=True, deadline=None, database=None)(
        given(*strategies)(test)
    )


@run(st.lists(conditions, max_size=2), st.randoms(use_true_random=False))
def test_both_and_either_mean_what_they_say(some, random):
    turned = some[:]
    random.shuffle(turned)
    every = padding.both(some)
    assert every == padding.both(turned)
    known = [c for c in some if c is not None]
    one = padding.either(known)
    assert one == padding.either([c for c in turned if c is not None])
    for world in WORLDS:
        assert holds(every, world) == all(holds(c, world) for c in some)
        assert holds(one, world) == any(holds(c, world) for c in known)


def test_clauses_are_dropped_and_never_made_up():
    """Of many clauses some go: what is left holds only where the whole does."""
    many = [padding.both([of(i, ZERO), padding.of(j, 1, 9)]) for i in range(3) for j in range(3)]
    one = padding.either(many)
    assert len(one) == padding.LIMIT
    assert one < frozenset().union(*many)


def need(condition):
    class Pair:
        analysis = Analysis(RULES, UNKNOWN)
        small = big = None
        name = "dot_general"

    return padding.Need(condition, (), Pair(), ())


@pytest.fixture(autouse=True)
def _conflicts_as_they_are(monkeypatch):
    monkeypatch.setattr(Analysis, "conflict", lambda self, why, *_, **__: Conflict(why, "padding"))


CONFLICTS = [
    ([of(0, ZERO)], [of(0, MEAN)]),
    ([of(0, ZERO), of(1, MEAN)], [of(0, MEAN)]),
    ([of(0, ZERO)], [of(0, MEAN), of(1, ZERO)]),
    ([of(0, MEAN), of(1, ZERO)], [of(1, MEAN), of(2, ZERO)]),
]


@pytest.mark.parametrize(("one", "other"), [*CONFLICTS, *(pair[::-1] for pair in CONFLICTS)])
def test_what_contradicts_is_refused_in_either_order(one, other):
    one, other = padding.both(one), padding.both(other)
    assert padding.both([one, other]) is None
    assert isinstance(padding.choose([need(one), need(other)]), Conflict)


@run(st.lists(conditions.filter(lambda c: c is not None), max_size=4))
def test_what_is_chosen_meets_every_need(some):
    for order in itertools.islice(itertools.permutations(some), 6):
        chosen = padding.choose([need(c) for c in order])
        possible = [w for w in WORLDS if all(holds(c, w) for c in some)]
        if isinstance(chosen, Conflict):
            # One way is tried; where every need has one way only, none is missed.
            assert not possible or any(len(c) > 1 for c in some)
            continue
        places = {p: what for p, _, _, what in chosen}
        assert len(places) == len(chosen), "0 and a mean in one place"
        assert holds_all(some, tuple(places.get(p) for p in range(PARAMETERS)))


def holds_all(some, world) -> bool:
    return all(holds(c, world) for c in some)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6))


def norms(first):
    """A stream that a LayerNorm and a root mean square both read, one before the other."""

    def centred(h):
        rest = h - h.mean(-1, keepdims=True)
        return rest * jax.lax.rsqrt((rest * rest).mean(-1, keepdims=True) + 1e-3)

    def root(h):
        return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-3)

    def fn(p, x):
        h = x @ p["in"]
        one, other = (centred, root) if first == "mean" else (root, centred)
        return one(h) @ p["out0"] + other(h) @ p["out1"]

    return fn


@pytest.mark.parametrize("first", ["mean", "zero"])
@pytest.mark.parametrize("n", [7, 8])
def test_a_stream_read_by_both_norms(first, n, x64, monkeypatch):
    """New units would have to be 0 for one and the mean for the other: a multiple is exact, the
    rest is refused, whichever norm comes first."""
    monkeypatch.undo()
    fn, sizes = norms(first), lambda d: {"in": (6, d), "out0": (d, 2), "out1": (d, 2)}
    draw = lambda d: {k: jnp.asarray(np.random.default_rng(3).normal(size=s))
                      for k, s in sizes(d).items()}  # fmt: skip
    small, big = draw(4), draw(n)
    if n == 7:
        with pytest.raises(growth.GrowthError):
            growth.plan(fn, fn, small, big, X)
        return
    grown = growth.plan(fn, fn, small, big, X).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=0, atol=1e-12)
