"""Products whose order depends on the sizes."""

import jax
import jax.numpy as jnp
import numpy as np

from trainkit import growth
from trainkit.growth.ir.products import alike, in_one_order
from trainkit.growth.ir.program import Folder


def product(params, x):
    w = jnp.einsum("bqi,bki->bqk", x[:, :3], x)
    v = jnp.tanh(x @ params["in"])
    return jnp.einsum("bqk,bke,ed->bqd", w, v, params["out"])


def shapes(e):
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"in": struct(3, e), "out": struct(e, 2)}


def test_two_orders_of_one_product_become_one():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 3)), jnp.float32)
    folder = Folder()
    programs = [folder.flatten(jax.make_jaxpr(product)(shapes(e), x)) for e in (2, 40)]
    assert not alike(*programs)
    ordered = [in_one_order(p, folder) for p in programs]
    assert alike(*ordered)
    for before, after in zip(programs, ordered, strict=True):
        assert [v.aval.shape for v in after.outs] == [v.aval.shape for v in before.outs]
    draw = lambda s: jnp.asarray(np.random.default_rng(0).normal(size=s.shape), s.dtype)
    small = jax.tree.map(draw, shapes(2))
    big = growth.plan(product, product, small, shapes(40), x).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(product(big, x), product(small, x), rtol=1e-4, atol=1e-5)
