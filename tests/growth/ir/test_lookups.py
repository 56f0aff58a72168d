"""Rows of tables that grow, however they are looked up."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from trainkit import growth

LOOKUPS = {
    "rows": lambda table, ids: table[ids],
    "take": lambda table, ids: jnp.take(table, ids, axis=0),
    "one by one under vmap": lambda table, ids: jax.vmap(lambda i: table[i])(ids),
    "under two": lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(ids[None])[0],
    "columns": lambda table, ids: jax.vmap(lambda i: table.T[:, i])(ids),
    "in a scan": lambda table, ids: jax.lax.scan(lambda c, i: (c + 1, table[i]), 0, ids)[1],
    "one": lambda table, ids: table[ids[2]],
    "a slice of one": lambda table, ids: jax.lax.dynamic_index_in_dim(table, ids[1]),
    "equinox": lambda table, ids: jax.vmap(eqx.nn.Embedding(weight=table))(ids),
}


def sizes(vocabulary, width):
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"table": struct(vocabulary, width), "out": struct(width, 3)}


def model(look):
    return lambda params, ids: jnp.tanh(look(params["table"], ids)) @ params["out"]


@pytest.mark.parametrize("size", [(9, 4), (5, 8), (7, 6)], ids=["rows", "width", "both"])
@pytest.mark.parametrize("look", LOOKUPS)
def test_a_vocabulary_and_its_width_grow(look, size):
    net, ids = model(LOOKUPS[look]), jnp.array([0, 4, 2, 3, 1, 4])
    keys = dict(zip(("table", "out"), jax.random.split(jax.random.key(0)), strict=True))
    params = {n: jax.random.normal(keys[n], s.shape) for n, s in sizes(5, 4).items()}
    big = growth.plan(net, net, params, sizes(*size), ids).grow(params, key=jax.random.key(1))
    assert jnp.abs(net(params, ids)).max() > 0.1
    assert jnp.allclose(net(big, ids), net(params, ids), atol=1e-5)  # float32


def test_an_index_that_is_clipped_on_purpose_is_refused():
    net = model(lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"))
    with pytest.raises(growth.GrowthError, match="clipped to the last row"):
        growth.plan(net, net, sizes(5, 4), sizes(9, 4), jnp.array([0, 4]))
