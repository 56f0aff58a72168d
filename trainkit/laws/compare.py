"""Lines of reproducers that compare two rules."""

from __future__ import annotations

from typing import Any

from trainkit.laws.intake import ordinary
from trainkit.laws.source import rule as rule_code

COMPARE = (
    "def run(tx):\n    state, out, p = tx.init(params), [], params\n    for g in grads:\n"
    "        u, state = tx.update(g, state, p)\n        p = optax.apply_updates(p, u)\n"
    "        out.append(u)\n    return out\n"
    "for a, b in zip(run(tx), run({other})):\n"
    "    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
    "        assert {test}, (x, y)"
)


BITWISE = "bool((x == y).all() | jnp.isnan(x).any())"


NEAR = "jnp.allclose(x, y, rtol=1e-5, atol=1e-6)"


def inner_code(inner: Any, name: str = "inner") -> str:
    with ordinary():
        return rule_code(inner, name, None, None)
