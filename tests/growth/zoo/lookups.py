"""Rows of tables that grow, however they are looked up."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo import registry
from tests.growth.zoo.building import functions

IDS = np.array([0, 4, 2, 3, 1, 4], np.int32)
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
    "clipped": lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"),
}


def shapes(vocabulary, width):
    return {"table": (vocabulary, width), "out": (width, 3)}


for _name, _look in LOOKUPS.items():

    def _net(p, s, ids, look=_look):
        return jnp.tanh(look(p["table"], ids)) @ p["out"]

    _sizes = {
        "(9, 4)": {"vocabulary": 9},
        "(5, 8)": {"width": 8},
        "(7, 6)": {"vocabulary": 7, "width": 6},
    }
    _refused = dict.fromkeys(("(9, 4)", "(7, 6)"), "clipped to the last row")
    registry.add(
        "parts", "operation", f"lookup, {_name}", functions(_net, shapes),
        {"vocabulary": 5, "width": 4}, _sizes, (IDS,), dtype=None,
        refused=_refused if _name == "clipped" else None,
    )  # fmt: skip
