"""The law of descent: the rule lowers a convex loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.families.numbers.agreement import infer_rate
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject


def descent(subject: Subject) -> Violation | None:
    rate = subject.claims.get("rate")
    if rate is None and subject.oracle is not None:
        rate = subject.oracle.hyperparams.get("learning_rate")
        rate = infer_rate(subject).get("learning_rate") if rate is None else rate
    if callable(rate):
        rate = max(float(rate(t)) for t in range(0, 500, 20))
    rate = 1e-3 if rate is None else float(rate)
    if not 1e-5 <= rate <= 0.3:
        raise NotApplicable(f"with a learning rate of {rate:g} nothing is promised")
    steps = 500
    curvature = jnp.array([0.01, 0.03, 0.1, 0.3, 1.0, 0.5]) * min(1.0, 0.1 / rate)
    start = {"b": jnp.array([3.0, -2.0, 1.0]), "w": jnp.array([[-3.0, 2.0, -1.0]])}
    flat = lambda p: jnp.concatenate([p["b"], p["w"][0]])
    loss = lambda p: 0.5 * jnp.sum(curvature * flat(p) ** 2)

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            p, s = carry
            u, s = subject.update(jax.grad(loss)(p), s, p)
            return (optax.apply_updates(p, u), s), loss(p)

        (p, _), losses = jax.lax.scan(step, (params, subject.tx.init(params)), length=steps)
        return losses, loss(p)

    with ordinary():
        losses, last = train(start)
    if float(last) < float(losses[0]):
        return None
    return Violation(
        f"{steps} steps on a convex quadratic took the loss from {float(losses[0]):.6g} to "
        f"{float(last):.6g}",
        {"params": start, "curvature": curvature, "first": float(losses[0]), "last": float(last)},
        f"c = jnp.array({np.asarray(curvature, np.float64).tolist()})\n"
        "loss = lambda p: 0.5 * jnp.sum(c * p ** 2)\n"
        "p = jnp.array([3.0, -2.0, 1.0, -3.0, 2.0, -1.0])\nstate = tx.init(p)\nfirst = loss(p)\n"
        f"for _ in range({steps}):\n    u, state = tx.update(jax.grad(loss)(p), state, p)\n"
        "    p = optax.apply_updates(p, u)\nassert loss(p) < first, (first, loss(p))",
    )


LAWS = (
    Law("descent", "500 steps on a convex quadratic of mixed curvature lower the loss.", descent,
        claim="descends", tolerance="lower at all", why="the rate is the user's"),
)  # fmt: skip
