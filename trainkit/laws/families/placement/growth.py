"""The law of growth: a grown state continues as the algebra of growth predicts."""

from __future__ import annotations

import jax
import numpy as np

from trainkit._core.paths import path_name
from trainkit.laws.law import Law, Violation
from trainkit.laws.optional import grown
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def grows(subject: Subject) -> Violation | None:
    """The next update with a grown state must be the predicted one."""
    params, grads = mini()
    degree = subject.claims.get("degree")
    # Gradients of copied units are multiplied by f. Without a degree, only f = 1 is predictable.
    f = 1.0 if degree is None or degree is True else 0.5
    power = degree if isinstance(degree, int) else 0
    copies = np.array([0, 1, 2, 1, 0])
    wide = lambda tree, k=1.0: jax.tree.map(lambda x: k * x[..., copies], tree)
    with ordinary():
        step = subject.compiled()
        state = subject.tx.init(params)
        for g in grads[:3]:
            _, state = step(g, state, params)
        big = grown(subject.tx, state, copies, f, params, wide(params))
        for t, g in enumerate(grads[3:], start=4):
            u, state = step(g, state, params)
            v, big = step(wide(g, f), big, wide(params))
            want = wide(u, f**power if f != 1 else 1.0)
            for (path, x), y in zip(
                jax.tree_util.tree_flatten_with_path(v)[0], jax.tree.leaves(want), strict=True
            ):
                a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
                if not np.all(np.abs(a - b) <= 2e-5 * np.abs(b) + 2e-6 * np.abs(b).max()):
                    return Violation(
                        f"grown after three steps, with gradients {f:g} times as large, the update "
                        f"of step {t} at {path_name(path)} is off by "
                        f"{np.abs(a - b).max():.3g}",
                        {"params": params, "gradients": grads[:t], "found": v, "expected": want},
                        setup(params, grads[:t]) + _GROWTH_CODE.format(f=f, degree=degree or 0),
                    )
    return None


_GROWTH_CODE = (
    "# trainkit.growth's rule for copied units, for a rule without state of its own kind\n"
    "copies = jnp.array([0, 1, 2, 1, 0])\n"
    "wide = lambda tree, k=1.0: jax.tree.map(lambda x: k * x[..., copies], tree)\n"
    "small, big = tx.init(params), tx.init(wide(params))\n"
    "for g in grads:\n    u, small = tx.update(g, small, params)\n"
    "    v, big = tx.update(wide(g, {f}), big, wide(params))\n"
    "    want = wide(u, {f} ** {degree})\n"
    "    for x, y in zip(jax.tree.leaves(v), jax.tree.leaves(want)):\n"
    "        assert jnp.allclose(x, y, rtol=2e-5, atol=1e-6 * abs(x).max()), (x, y)"
)


LAWS = (
    Law("growth", "Growing parameters and state, then stepping, gives the updates that the "
        "calculus of growth predicts.", grows, claim="growth", reference="trainkit.growth",
        tolerance="2e-5 relative",
        why="ε = 1e-8 does not scale with the gradients"),
)  # fmt: skip
