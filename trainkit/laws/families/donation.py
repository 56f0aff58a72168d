"""The law of donation: every leaf of state and parameters has a buffer of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.laws.law import Violation
from trainkit.laws.problems.trees import setup
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.subject import Subject, mini


def donation(subject: Subject) -> Violation | None:
    params, grads = mini()
    code = setup(params, grads[:2]) + (
        "def step(g, state, params):\n    updates, state = tx.update(g, state, params)\n"
        "    return optax.apply_updates(params, updates), state\n"
        "step = jax.jit(step, donate_argnums=(1, 2))\nstate = tx.init(params)\n"
        "for g in grads:\n    params, state = step(g, state, params)\n"
        "jax.block_until_ready(params)"
    )
    example = {"params": params, "gradients": grads[:2]}
    with ordinary():
        tx = subject.fresh()
        state = tx.init(params)
        shared = _shared(params, state)
        if shared:
            return Violation(f"init: {shared}", example, code)

        def step(g: Any, state: Any, params: Any) -> Any:
            updates, state = subject.update(g, state, params, tx=tx)
            return optax.apply_updates(params, updates), state

        donating = jax.jit(step, donate_argnums=(1, 2))
        try:
            for g in grads[:3]:
                params, state = donating(g, state, params)
                jax.block_until_ready((params, state))
        except Exception as error:
            return Violation(f"{type(error).__name__}: {first_line(error)}", example, code)
        shared = _shared(params, state)
        if shared:
            return Violation(f"after a donating step: {shared}", example, code)
    return None


def _shared(params: Any, state: Any) -> str | None:
    """Which two leaves of parameters and state share one buffer, if any."""
    seen: dict[int, str] = {}
    named = [("parameters", params), ("state", state)]
    for what, tree in named:
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not isinstance(x, jax.Array) or x.size == 0 or not x.is_fully_addressable:
                continue
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x = jax.random.key_data(x)
            at = x.addressable_data(0).unsafe_buffer_pointer()
            name = f"{what}{jax.tree_util.keystr(path)}"
            if at in seen:
                return f"{name} and {seen[at]} are one buffer, which cannot be donated twice"
            seen[at] = name
    return None
