"""The law of donation: all leaves of state and parameters have distinct buffers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import path_name
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def donation(subject: Subject) -> Violation | None:
    """Donates copies, so that the rule can be used afterwards."""
    params, grads = mini()
    code = setup(params, grads[:2]) + _DONATING
    example = {"params": params, "gradients": grads[:2]}
    with ordinary():
        tx = subject.fresh()
        state = tx.init(params)
        shared = _shared(params=params, state=state)
        if shared:
            return Violation(f"init: {shared}, which cannot be donated twice", example, code)
        again = _shared(state=state, **{"the state of a second call": tx.init(params)})
        if again:
            return Violation(
                f"init hands out a buffer of the rule's own ({again}): donating the state destroys "
                "the rule",
                example, code + _AGAIN)  # fmt: skip

        def step(g: Any, state: Any, params: Any) -> Any:
            updates, state = subject.update(g, state, params, tx=tx)
            return optax.apply_updates(params, updates), state

        jax.eval_shape(step, grads[0], state, params)  # what fails here is not said of donation
        donating = jax.jit(step, donate_argnums=(1, 2))
        params, state = jax.tree.map(_copy, (params, state))
        try:
            for g in grads[:3]:
                params, state = donating(g, state, params)
                jax.block_until_ready((params, state))
        except Exception as error:
            message = f"{type(error).__name__}: {first_line(error)}"
            return Violation(message, example, code, cause=error)
        shared = _shared(params=params, state=state)
        if shared:
            message = f"after a donating step: {shared}, which cannot be donated twice"
            return Violation(message, example, code)
    return None


_DONATING = (
    "def step(g, state, params):\n    updates, state = tx.update(g, state, params)\n"
    "    return optax.apply_updates(params, updates), state\n"
    "step = jax.jit(step, donate_argnums=(1, 2))\nstate = tx.init(params)\n"
    "for g in grads:\n    params, state = step(g, state, params)\n"
    "jax.block_until_ready(params)"
)
_AGAIN = "\nparams, state = step(grads[0], tx.init(params), params)\njax.block_until_ready(params)"


def _copy(x: Any) -> Any:
    return jnp.copy(x) if isinstance(x, jax.Array) else x


def _shared(**trees: Any) -> str | None:
    """Two leaves that share one buffer, in words, or `None`."""
    seen: dict[int, str] = {}
    for what, tree in trees.items():
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not isinstance(x, jax.Array) or x.size == 0 or not x.is_fully_addressable:
                continue
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x = jax.random.key_data(x)
            at = x.addressable_data(0).unsafe_buffer_pointer()
            name = f"{what}/{path_name(path)}" if path else what
            if at in seen:
                return f"{name} and {seen[at]} are one buffer"
            seen[at] = name
    return None


LAWS = (
    Law("donation", "State and parameters own distinct buffers, so that donating both works.",
             donation),
)  # fmt: skip
