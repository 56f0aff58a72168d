"""What a rule may promise: decoupled decay, a bound, a guard, an order that does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.law import NotApplicable, Violation
from trainkit.laws.problems import cases
from trainkit.laws.problems.shrink import mismatch
from trainkit.laws.problems.trees import same_bits, setup, spread
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.compare import COMPARE, NEAR, inner_code
from trainkit.laws.subject import Subject, mini


def decoupled(subject: Subject) -> Violation | None:
    """update(g, p₁) − update(g, p₂) = −η λ (p₁ − p₂), whatever the gradients were before."""
    runs = subject.runs()
    a, b = runs["moved"], runs["plain"]
    dp, du = a.params - b.params, a.flat - b.flat
    claimed = subject.claims["decoupled decay"]
    if claimed is True:
        heavy = np.abs(dp) > 1
        rate = float(np.median(-du[heavy] / dp[heavy]))
        if rate < 0:
            return Violation(
                f"the decay pushes away from zero: update changes by {-rate:.3g} times the "
                "parameter", {"rate": rate},
                _DECAY + "assert (ratio <= 0).all(), ratio")  # fmt: skip
        expected = -rate * dp
    else:
        expected = -np.asarray(claimed, np.float64) * dp
    rounding = 1e-6 * (np.abs(a.flat) + np.abs(b.flat)) + 3e-6 * np.abs(expected)
    # A masked leaf does not decay at all: both are right.
    wrong = mismatch(du, expected, rounding)
    if wrong and claimed is True:
        undecayed = np.all(np.abs(du) <= rounding, axis=0)
        wrong = mismatch(np.where(undecayed, expected, du), expected, rounding)
    if wrong is None:
        return None
    return Violation(
        f"with the same gradients, parameters that differ by {dp[wrong.step, wrong.at]:.6g} "
        f"get updates that differ by {wrong.found:.6g}; decoupled decay would make it "
        f"{wrong.expected:.6g} (step {wrong.step + 1})",
        {"step": wrong.step, "found": wrong.found, "expected": wrong.expected},
        _DECAY + f"assert jnp.allclose(ratio, {-_rate(claimed, dp, du)!r}, rtol=1e-4), ratio",
    )


_DECAY = (
    "p = {'b': jnp.array([100.0, -50.0]), 'w': jnp.array([[80.0, -30.0]])}\n"
    "q = jax.tree.map(jnp.ones_like, p)\n"
    "gs = [{'b': jnp.array([k, -2.0 * k]), 'w': jnp.array([[-k, 0.3]])} for k in (1.0, 0.1, 3.0)]\n"
    "def run(p):\n    s = tx.init(p)\n    for g in gs:\n        u, s = tx.update(g, s, p)\n"
    "    return u\n"
    "flat = lambda t: jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)])\n"
    "ratio = (flat(run(p)) - flat(run(q))) / (flat(p) - flat(q))\nprint(ratio)\n"
)


def _rate(claimed: Any, dp: Any, du: Any) -> float:
    if claimed is not True:
        return float(np.ravel(claimed)[0])
    heavy = np.abs(dp) > 1
    return float(np.median(-du[heavy] / dp[heavy]))


# How each kind of bound measures a gradient, here and in a reproducer.
MEASURES: dict[str, tuple[Callable[[np.ndarray], float], str]] = {
    "global": (lambda flat: float(np.linalg.norm(flat)), "optax.global_norm(t)"),
    "element": (
        lambda flat: float(np.abs(flat).max()),
        "max(jnp.abs(x).max() for x in jax.tree.leaves(t))",
    ),
    "leaf rms": (
        lambda flat: max(float(np.sqrt(np.mean(x**2))) for x in cases.leaves(flat, cases.SHAPES)),
        "max(jnp.sqrt((x ** 2).mean()) for x in jax.tree.leaves(t))",
    ),
}


def clipped(subject: Subject) -> Violation | None:
    """claims={"clip": {"norm": "global" | "element" | "leaf rms", "bound": b}}"""
    claim = subject.claims["clip"]
    if claim is True:
        raise NotApplicable('say what of: claims={"clip": {"norm": "global", "bound": 1.0}}')
    kind, bound = claim["norm"], float(claim["bound"])
    measure, code = MEASURES[kind]
    runs = subject.runs()

    def found(message: str, g: np.ndarray, u: np.ndarray, t: int, test: str) -> Violation:
        tree = cases.tree(g.astype(np.float32), cases.SHAPES)
        return Violation(
            message, {"gradients": tree, "found": u, "step": t},
            setup(tree, tree) + "u, _ = tx.update(grads, tx.init(params), params)\n"
            f"size = lambda t: {code}\nprint(size(grads), size(u))\nassert {test}, u",
        )  # fmt: skip

    for name, i in runs.batch.rows.items():
        if name == "nan":
            continue
        for t, (g, u) in enumerate(zip(runs.grads[i], runs.flat[i], strict=True)):
            size, got = measure(g), measure(u)
            if not got <= bound * (1 + 1e-5):
                message = f"an update of size {got:.6g}, over the bound {bound:g}"
                return found(message, g, u, t, f"size(u) <= {bound * (1 + 1e-5)!r}")
            if size < bound * (1 - 1e-5) and not np.allclose(u, g, rtol=1e-6, atol=0):
                message = f"a gradient of size {size:.6g}, within the bound {bound:g}, was changed"
                same = "jax.tree.all(jax.tree.map(jnp.allclose, u, grads))"
                return found(message, g, u, t, same)
            if size > bound * (1 + 1e-5) and got < bound * (1 - 1e-4) and kind != "leaf rms":
                message = f"a gradient of size {size:.6g} was cut to {got:.6g}, not to {bound:g}"
                return found(message, g, u, t, f"size(u) >= {bound * (1 - 1e-4)!r}")
            if kind == "global" and size > bound:
                turned = 1 - float(g @ u) / (size * np.linalg.norm(u))
                if not turned <= 1e-5:
                    dot = "sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (u, grads))))"
                    test = f"{dot} >= 0.99999 * size(u) * size(grads)"
                    return found("clipping turned the direction", g, u, t, test)
    return None


def guards(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    with ordinary():
        state = subject.tx.init(params)
        _, state = subject.update(grads[0], state, params)
        expected, _ = subject.update(grads[2], state, params)
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            broken = {"b": grads[1]["b"].at[0].set(bad), "w": grads[1]["w"]}
            u, after = subject.update(broken, state, params)
            script = setup(params, [grads[0], broken, grads[2]]) + (
                "_, state = tx.update(grads[0], tx.init(params), params)\n"
                "want, _ = tx.update(grads[2], state, params)\n"
                "u, state = tx.update(grads[1], state, params)\n"
                "assert all((x == 0).all() for x in jax.tree.leaves(u)), u\n"
                "got, _ = tx.update(grads[2], state, params)\n"
                "assert all((x == y).all() for x, y in zip(jax.tree.leaves(got), "
                "jax.tree.leaves(want))), (got, want)"
            )
            example = {"params": params, "gradients": [grads[0], broken, grads[2]]}
            if not all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(u)):
                yield Violation(f"a gradient with {bad} moves the parameters", example, script)
                return
            nxt, _ = subject.update(grads[2], after, params)
            if not same_bits(nxt, expected):
                yield Violation(
                    f"after a gradient with {bad} the next step is not as if it had not been",
                    example, script)  # fmt: skip
                return


def commutes(subject: Subject) -> Violation | None:
    """claims={"commutes with": another transformation}"""
    other = subject.claims["commutes with"]
    if other is True:
        raise NotApplicable('say with what: claims={"commutes with": tx}')
    params, grads = mini()
    one = subject.trajectory(optax.chain(subject.tx, other), params, grads[:4])
    two = subject.trajectory(optax.chain(other, subject.tx), params, grads[:4])
    for u, v in zip(one, two, strict=True):
        for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
            if not np.all(np.abs(np.asarray(x - y)) <= spread(np.asarray(y))):
                return Violation(
                    "the two orders of the chain give different updates",
                    {"params": params, "gradients": grads[:4], "found": u, "expected": v},
                    setup(params, grads[:4])
                    + inner_code(other, "other")
                    + "\nfirst, tx = optax.chain(tx, other), optax.chain(other, tx)\n"
                    + COMPARE.format(other="first", test=NEAR),
                )
    return None
