"""A variance by moments is analysed as one by distances."""

import jax
import jax.numpy as jnp
import pytest

from trainkit.growth.ir.program import Folder

X = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32)

VARIANCES = {
    "square": lambda x: jnp.mean(jnp.square(x), -1) - jnp.square(jnp.mean(x, -1)),
    "product": lambda x: jnp.mean(x * x, (0, 1)) - (m := x.mean((0, 1))) * m,
    "power": lambda x: (x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2,
    "factor": lambda x: jnp.sum(x * x, -1) * (1 / 6) - (jnp.sum(x, -1) * (1 / 6)) ** 2,
}
OTHERS = {
    "other values": lambda x: jnp.mean(x * x, -1) - jnp.mean(x + 1, -1) ** 2,
    "other axes": lambda x: jnp.mean(x * x, -1)[:, 0] - jnp.mean(x, (1, 2)) ** 2,
    "unbiased": lambda x: jnp.sum(x * x, -1) / 5 - (jnp.sum(x, -1) / 5) ** 2,
    "no square": lambda x: jnp.mean(x * x, -1) - jnp.mean(x, -1),
}


def flat(fn):
    return Folder().flatten(jax.make_jaxpr(fn)(X)).equations


def run(fn, x):
    """The flat program, evaluated."""
    program = Folder().flatten(jax.make_jaxpr(fn)(x))
    env = {id(program.ins[0]): x}
    for e in program.equations:
        ins = [jnp.asarray(v.value) if hasattr(v, "value") else env[id(v)] for v in e.ins]
        env[id(e.outs[0])] = e.raw.primitive.bind(*ins, **e.params)
    return env[id(program.outs[0])]


@pytest.mark.parametrize("name", VARIANCES)
def test_one_form_of_the_same_value(name):
    fn = VARIANCES[name]
    names = [e.name for e in flat(fn)]
    assert names.count("reduce_sum") == 2
    assert names.index("sub") < names.index("square")
    x = jax.random.normal(jax.random.key(0), X.shape)
    assert jnp.abs(run(fn, x) - fn(x)).max() < 1e-6  # float32 rounding of moments near 1


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_alone(name):
    raw = [e.primitive.name for e in jax.make_jaxpr(OTHERS[name])(X).eqns]
    assert [e.name for e in flat(OTHERS[name])].count("sub") == raw.count("sub")
    assert "square" not in [e.name for e in flat(OTHERS[name])][-2:]
