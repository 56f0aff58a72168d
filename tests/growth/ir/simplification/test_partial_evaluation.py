"""What is left of a program when some of its inputs are 0, or identity matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.ir.unknown import called_back, strange
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.simplification.identities import EYE, ZERO
from trainkit.growth.ir.simplification.partial_evaluation import reduced
from trainkit.growth.maps.initial import identity_kernel

X, W = jnp.ones((2, 3)), jnp.ones((3, 3))
IMAGE = np.random.default_rng(0).normal(size=(1, 5, 3))


def flat(fn, *args):
    return Folder().flatten(jax.make_jaxpr(fn)(*args))


def rests(fn, supposed, *args):
    """Whether the result is the first argument, under a supposition on others."""
    program = flat(fn, *args)
    return reduced(program, supposed).outs[0] is program.ins[0]


RESTS = {
    "a branch": (lambda x, w: x + jnp.tanh(x @ w), ZERO),
    "taken from": (lambda x, w: x - jnp.sin(w)[:2], ZERO),
    "a factor of 1": (lambda x, w: x * jnp.exp(w)[:2], ZERO),
    "parts": (lambda x, w: x + jnp.split(w[:2], 3, 1)[0] * jnp.split(w[:2], 3, 1)[1], ZERO),
    "a choice": (lambda x, w: x + jnp.where(x > 1, x @ w, jnp.zeros_like(x)), ZERO),
    "transposed and back": (lambda x, w: ((x + x @ w).T + (w @ x.T)).T, ZERO),
    "transposed four times": (lambda x, w: x.T.T.T.T + x @ w, ZERO),
    "reshaped and back": (lambda x, w: (x.reshape(3, 2) + jnp.sum(w)).reshape(2, 3), ZERO),
    "by way of more axes": (
        lambda x, w: (x.reshape(1, 3, 2).reshape(6) + w.sum()).reshape(2, 3),
        ZERO,
    ),
    "a factor from numbers of its own": (
        lambda x, w: x * jnp.split(w[:2] + np.array([1.0, 2.0, 3.0]), 3, 1)[0],
        ZERO,
    ),
    "a factor from a computed number": (
        lambda x, w: x * (jax.nn.sigmoid(w[:2]) * jnp.exp(jnp.log(2.0))),
        ZERO,
    ),
    "an identity matrix": (lambda x, w: x @ w, EYE),
    "an identity matrix from the other side": (lambda x, w: (w @ x.T).T, EYE),
    "a transposed identity matrix": (lambda x, w: x @ w.T, EYE),
}
DOES = {
    "a cosine": (lambda x, w: x + jnp.cos(x @ w), ZERO),
    "what x is taken from": (lambda x, w: (x @ w) - x, ZERO),
    "an unknown function": (lambda x, w: x + called_back((x @ w)[0]), ZERO),
    "an unknown primitive": (lambda x, w: x + strange((x @ w)[0]), ZERO),
    "transposed in a square": (lambda x, w: x[:, :2].T + (x @ w)[:, :2], ZERO),
    "the other way about": (lambda x, w: (w @ x.T).T[::-1], EYE),
    "reshaped and turned": (lambda x, w: (x.reshape(3, 2) + jnp.sum(w)).T, ZERO),
    "another factor from numbers of its own": (
        lambda x, w: x * jnp.split(w[:2] + np.array([1.0, 2.0, 3.0]), 3, 1)[1],
        ZERO,
    ),
    "factors that differ": (lambda x, w: x * (w[:2] + np.array([1.0, 2.0, 3.0])), ZERO),
    "an exponential of it": (lambda x, w: x @ jnp.exp(w), EYE),
    "many at a time": (lambda x, w: jnp.einsum("bi,ij->bij", x, w)[..., 0], EYE),
}


@pytest.mark.parametrize("name", RESTS)
def test_does_nothing(name):
    fn, what = RESTS[name]
    assert rests(fn, {1: what}, X, W)
    value = jnp.eye(3) if what == EYE else 0 * W
    np.testing.assert_allclose(fn(X, value), X, rtol=1e-6)


@pytest.mark.parametrize("name", DOES)
def test_is_not_known_to_do_nothing(name):
    fn, what = DOES[name]
    assert not rests(fn, {1: what}, X, W)


def test_large_arrays_are_not_evaluated():
    """Unless their elements repeat."""
    table, column = np.arange(2**19, dtype=np.float32).reshape(2**9, -1), np.ones((2**9, 1))
    for numbers, left in ((table, 1), (np.broadcast_to(column, (2**9, 2**10)) * 2.0, 0)):
        program = flat(lambda w, of=numbers: jnp.maximum(w, jnp.asarray(of, w.dtype)), 0 * table)
        assert sum(eqn.name == "max" for eqn in reduced(program, {0: ZERO}).equations) == left


def relu(x):
    return jnp.maximum(x, 0.0)


def relu6(x):
    return jnp.minimum(relu(x), 6.0)


BOUNDS = {  # and how many of their bounds are left
    "relu": (lambda x, w: relu(relu(x) @ w), 1),
    "relu6": (lambda x, w: relu6(relu6(x) @ w), 2),
    "moved": (lambda x, w: relu(relu(x).reshape(6)[::-1].reshape(2, 3) @ w), 1),
    "the largest": (lambda x, w: relu(jnp.max(relu(x)[:, None], 1) @ w), 1),
    "another bound": (lambda x, w: jnp.maximum(relu(x) @ w, 0.5), 2),
    "shifted in between": (lambda x, w: relu((relu(x) - 1) @ w), 2),
    "rounded in between": (lambda x, w: relu(strange(relu(x)) @ w), 2),
    "lower than the bound": (lambda x, w: relu(jnp.minimum(relu(x), -1.0) @ w), 3),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_second_bound_does_nothing_where_the_first_still_holds(name):
    fn, count = BOUNDS[name]
    left = reduced(flat(fn, X, W), {1: EYE}).equations
    assert sum(eqn.name in ("max", "min") for eqn in left) == count


def convolution(padding="SAME", spec=("NWC", "WIO", "NWC")):
    return lambda x, k: lax.conv_general_dilated(x, k, (1,), padding, dimension_numbers=spec)


CONVOLUTIONS = {
    "same": (convolution(), (3, 3, 3), True),
    "padded alike": (convolution([(1, 1)]), (3, 3, 3), True),
    "causal": (convolution([(2, 0)]), (3, 3, 3), False),
    "a kernel with channels first": (convolution(spec=("NWC", "OIW", "NWC")), (3, 3, 3), False),
    "to channels first": (convolution(spec=("NWC", "WIO", "NCW")), (3, 3, 3), False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_dirac_kernel_does_nothing_where_its_middle_is_that_of_the_window(name, x64):
    fn, shape, wanted = CONVOLUTIONS[name]
    kernel = jnp.asarray(identity_kernel(shape, np.float64))
    assert rests(fn, {1: EYE}, IMAGE, kernel) == wanted
    out = fn(IMAGE, kernel)
    assert (out.shape == IMAGE.shape and np.abs(out - IMAGE).max() < 1e-12) == wanted


def test_loops_stay_as_they_are():
    program = flat(lambda x, w: lax.scan(lambda c, _: (c + c @ w, None), x, None, 2)[0], X, W)
    left = reduced(program, {1: ZERO})
    assert [eqn.name for eqn in left.equations] == ["scan"]
    assert program.ins[1] in left.equations[0].ins
