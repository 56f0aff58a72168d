"""The law of stacked layers: each layer of a stack is updated like a separate leaf."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.reproducers.programs import inner_code
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.update_pairs import first_difference

STACKED = {"^layers": 1}


def stacked(subject: Subject) -> Violation | None:
    """claims={"stacked": a function from {expression: number of layer axes} to the rule}"""
    make: Any = subject.claims["stacked"]
    if make is True:
        raise NotApplicable(
            'say how: claims={"stacked": lambda stacked: my_rule(1e-3, stacked=stacked)}'
        )

    def whole(p: Any, gs: list[Any]) -> list[Any]:
        run = subject.trajectory(make(STACKED), _whole(p), list(map(_whole, gs)))
        return list(map(_apart, run))

    def apart(p: Any, gs: list[Any]) -> list[Any]:
        parts = lambda t: _apart(_whole(t))
        return subject.trajectory(make({}), parts(p), list(map(parts, gs)))

    parted = first_difference(subject, apart, whole, "stacked")
    if parted is None:
        return None
    t, expected, found = parted
    params, grads = mini()
    params, grads = _whole(params), list(map(_whole, grads[: t + 1]))
    return Violation(
        f"at step {t + 1} the layers of a stack do not move as they do one by one",
        {"params": params, "gradients": grads, "found": found, "expected": expected},
        setup(params, grads) + inner_code(make, "make") + f"\n{_PROGRAM.format(STACKED)}",
    )


def _whole(tree: Any) -> Any:
    """A tree of stacks of three layers, and one leaf that is not a stack."""
    stack = lambda x: jnp.stack([x, jnp.flip(x) * 30, x * x - 0.3])
    return {"alone": tree["w"], "layers": jax.tree.map(stack, tree)}


def _apart(tree: Any) -> Any:
    layer = lambda i: jax.tree.map(lambda x: x[i], tree["layers"])
    return {"alone": tree["alone"], **{f"layer {i}": layer(i) for i in range(3)}}


_PROGRAM = """def apart(tree):
    layer = lambda i: jax.tree.map(lambda x: x[i], tree['layers'])
    return {{'alone': tree['alone'], **{{f'layer {{i}}': layer(i) for i in range(3)}}}}
def run(tx, params, grads):
    state = tx.init(params)
    for g in grads:
        u, state = tx.update(g, state, params)
        params = optax.apply_updates(params, u)
    return u
a = run(make({{}}), apart(params), [apart(g) for g in grads])
b = apart(run(make({}), params, grads))
for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert jnp.allclose(x, y, rtol=1e-5, atol=1e-6 * abs(x).max()), (x, y)"""


LAWS = (
    Law("stacked", "Told of a stack of layers, the rule does to each of them what it does to it "
        "alone.", stacked, claim="stacked"),
)  # fmt: skip
