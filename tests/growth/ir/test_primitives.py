"""The table of traits is true: each trait of each primitive, held against what it computes."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.growth.ir.samples import ELSEWHERE, SAMPLES
from trainkit._core.compat import opened
from trainkit._core.jaxprs import equations, held
from trainkit.growth.ir import primitives
from trainkit.growth.ir.primitives import FIRST, NONE, TABLE, UNKNOWN, traits

CALLS = [name for name in SAMPLES if TABLE.get(name, UNKNOWN).call]
CASES = [
    (name, i) for name, every in SAMPLES.items() if name not in CALLS for i in range(len(every))
]


class Sample:
    """An equation of a primitive, and operands for it."""

    def __init__(self, name, i):
        fn, self.operands = SAMPLES[name][i]
        every = equations(jax.make_jaxpr(fn)(*self.operands))
        self.raw = next(e for e in every if e.primitive.name == name)
        self.name, self.params, self.ins = name, self.raw.params, self.raw.invars
        self.avals = [v.aval for v in self.ins]
        self.rng = np.random.default_rng(0)
        self.traits = traits(self)

    def draw(self, i, low=-3.0, high=3.0):
        """Values of an operand; indices and sizes of groups stay what they are."""
        aval = self.avals[i]
        if aval.dtype.kind in "biu":
            if self.name in ("gather", "scatter-add", "scatter-sub", "ragged_dot_general"):
                return np.asarray(self.operands[i], aval.dtype).reshape(aval.shape)
            if not aval.shape:  # where a slice begins
                return np.zeros((), aval.dtype)
            low, high = (0, 2) if aval.dtype.kind == "b" else (1, 6)
            return self.rng.integers(low, high, aval.shape).astype(aval.dtype)
        x = self.rng.uniform(low, high, aval.shape)
        if self.name == "triangular_solve" and i == 0:
            x = np.tril(x, -1) + 2 * np.eye(3)
        if aval.dtype.kind == "c":
            x = x + 1j * self.rng.uniform(-3, 3, aval.shape)
        return x.astype(aval.dtype)

    def draws(self, **bounds):
        return [self.draw(i, **bounds) for i in range(len(self.avals))]

    def run(self, ins):
        """The results for some operands, as arrays."""
        outs = self.raw.primitive.bind(*map(jax.numpy.asarray, ins), **self.params)
        return [np.asarray(y) for y in (outs if self.raw.primitive.multiple_results else [outs])]

    def numbers(self, operands):
        """The numbers of the operands that a trait is about."""
        return operands.of(range(len(self.avals)))


def close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)  # float32 is one of the dtypes


def check_linear(sample):
    known = sample.traits
    together = [sample.numbers(known.linear)] + [[i] for i in sample.numbers(known.multilinear)]
    for moving in filter(None, together):
        if any(sample.avals[i].dtype.kind not in "fc" for i in moving):
            continue
        x = sample.draws()
        y = [sample.draw(i) if i in moving else v for i, v in enumerate(x)]
        pairs = zip(x, y, strict=True)
        mixed = [2 * a - 3 * b if i in moving else a for i, (a, b) in enumerate(pairs)]
        one, other = sample.run(x), sample.run(y)
        close(sample.run(mixed), [2 * a - 3 * b for a, b in zip(one, other, strict=True)])


def check_zero(sample):
    alone, together = primitives.makes_zero(sample)
    sets = [sample.numbers(s) for s in together] + [[i] for s in alone for i in sample.numbers(s)]
    for zeros in filter(None, sets):
        x = sample.draws(low=0.5)
        x = [np.zeros_like(v) if i in zeros else v for i, v in enumerate(x)]
        assert primitives.zero_result(sample, [not np.any(v) for v in x])
        assert not any(np.any(y) for y in sample.run(x))


def check_values(sample):
    known = sample.traits
    if known.at_zero is not None:
        zeros = [np.zeros_like(v) for v in sample.draws()]
        close(sample.run(zeros), [np.full(sample.avals[0].shape, known.at_zero)])
    if known.increasing:
        values = np.sort(sample.draw(0, low=0.0).ravel()).reshape(sample.avals[0].shape)
        assert (np.diff(sample.run([values])[0].ravel()) > 0).all()
    for y in sample.run(sample.draws()) if known.sign else ():
        assert y.dtype.kind == "c" or (y > 0 if known.sign == "positive" else y >= 0).all()


def check_finite(sample):
    known = sample.traits
    low, high = {"not negative": (0.0, 9.0), "zero": (0.0, 1e-9)}.get(known.finite, (-9.0, 9.0))
    if known.finite is not None:
        for x in (sample.draws(low=low, high=high), [np.zeros_like(v) for v in sample.draws()]):
            assert all(np.isfinite(y).all() for y in sample.run(x))


def check_elementwise(sample):
    if not sample.traits.elementwise:
        return
    x = sample.draws()
    changed = [np.concatenate([sample.draw(i)[:1], v[1:]]) for i, v in enumerate(x)]
    (before,), (after,) = sample.run(x), sample.run(changed)
    assert before.shape == sample.avals[0].shape
    np.testing.assert_array_equal(before[1], after[1])


def check_elements(sample):
    known = sample.traits
    x = sample.draws()
    results = {y for out in sample.run(x) for y in out.ravel().tolist()}
    there = {v for v_ in (x if known.move == "join" else x[:1]) for v in v_.ravel().tolist()}
    if known.same:
        close(sample.run(x), x)
    elif known.chooses or known.move == "join":
        assert results <= there
    if known.move == "whole":
        assert results == there


def check_sums(sample):
    """The order along dimensions that are summed over does not matter."""
    dims = [list(primitives.summed(sample, i)) for i in range(len(sample.avals))]
    x = sample.draws()
    before = sample.run(x)
    for k in range(max(map(len, dims))):
        (size,) = {v.shape[d[k]] for v, d in zip(x, dims, strict=True) if k < len(d)}
        order = np.roll(np.arange(size), 1)
        mixed = [np.take(v, order, d[k]) if k < len(d) else v for v, d in zip(x, dims, strict=True)]
        close(sample.run(mixed), before)


def check_identity(sample):
    x = sample.draws()
    if sample.traits.identity:
        close(sample.run(x), x)


CHECKS = [fn for name, fn in sorted(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize(("name", "i"), CASES)
def test_traits_are_true(name, i, x64):
    sample = Sample(name, i)
    for check in CHECKS:
        check(sample)


@pytest.mark.parametrize("name", CALLS)
def test_calls_run_their_body(name, x64):
    sample = Sample(name, 0)
    jaxpr, consts = opened(held(sample.raw))
    x = sample.draws()
    close(jax.core.eval_jaxpr(jaxpr, consts, *x), [SAMPLES[name][0][0](*x)])


def test_every_primitive_of_the_table_is_held_against_what_it_computes():
    assert not TABLE.keys() - SAMPLES.keys() - ELSEWHERE.keys()
    assert not SAMPLES.keys() - TABLE.keys() - primitives._REFINED.keys()


def test_what_depends_on_dtypes_and_parameters(x64):
    of = lambda name, i: Sample(name, i).traits
    count = len(SAMPLES["convert_element_type"])
    same = [of("convert_element_type", i).same for i in range(count)]
    # Floats as float32, int32, bool and complex numbers; bits as floats and int32; int32 as int64.
    assert same == [True, False, False, True, True, True, True]
    assert (of("div", 0).linear, of("div", 1).linear) == (FIRST, NONE)
    assert [of("integer_pow", i).sign for i in range(3)] == [None, "not negative", None]
    assert [of("gather", i).chooses for i in range(3)] == [False, True, True]
    assert [of("reduce_window_max", i).chooses for i in range(2)] == [True, False]
    assert [of("sort", i).chooses for i in range(2)] == [True, False]


def test_nothing_is_known_of_what_is_not_in_the_table():
    strange = SimpleNamespace(name="not a primitive", params={}, ins=[None, None])
    assert traits(strange) == UNKNOWN
    assert not primitives.zero_result(strange, [True, True])
    assert primitives.summed(strange, 0) == ()
