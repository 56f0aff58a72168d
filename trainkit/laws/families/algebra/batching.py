"""Laws of batching: vmap is a loop over problems, scan a loop over steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems import cases
from trainkit.laws.problems.comparison import RELATIVE, mismatch
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.update_pairs import first_difference


def vmap_is_loop(subject: Subject) -> Violation | None:
    names, steps = ["plain", "scaled", "gaps"], 8

    def one(base: Any, grads: Any) -> Any:
        tree = lambda flat: cases.tree(flat, cases.SHAPES)
        state = subject.tx.init(tree(base[0]))
        out = lambda s, x: _swap(subject.update(tree(x[1]), s, tree(x[0])))
        return jax.lax.scan(out, state, (base, grads))[1]

    def wrong(dtype: str, tolerance: float) -> Any:
        """(the first difference, what was found, what was expected) of the two, or None."""
        b = subject.runs(dtype).batch
        pick = np.array([b.rows[n] for n in names])
        ps, gs = (x[pick, :steps].astype(jnp.dtype(dtype)) for x in (b.params, b.grads))
        with ordinary():
            together = np.asarray(jax.jit(jax.vmap(one))(ps, gs), np.float64)
        for name, found in zip(names, together, strict=True):
            expected = subject.run(name, dtype).flat[:steps]
            near = tolerance * (np.abs(expected) + 0.1 * np.abs(expected).max())
            if not b.follow[b.rows[name]] and (first := mismatch(found, expected, near)):
                return first, found, expected, _vmap_script(ps, gs)
        return None

    if not (differs := wrong("float32", RELATIVE)):
        return None
    first, found, expected, script = differs
    gap = abs(first.found - first.expected) / max(float(np.abs(expected).max()), 1e-300)
    if subject.only_rounding(gap, lambda: wrong("float64", 1e-10) is None, "vmap"):
        return None
    if subject.coarse_rounding(gap, subject.sensitivity, "vmap"):
        return None
    return Violation(
        f"vmapped over problems the update at step {first.step + 1} is {first.found:.9g}, one at a "
        f"time it is {first.expected:.9g}",
        {"step": first.step, "found": found, "expected": expected}, script,
    )  # fmt: skip


def _swap(pair: Any) -> Any:
    updates, state = pair
    return state, cases.flatten(updates)


def _vmap_script(ps: Any, gs: Any) -> str:
    return (
        f"params = {{'w': jnp.array({ps[:, 0, :3].tolist()})}}\n"
        f"grads = {{'w': jnp.array({gs[:, :2, :3].tolist()})}}\n"
        "def run(p, gs):\n    state = tx.init(p)\n    for i in range(2):\n"
        "        u, state = tx.update({'w': gs['w'][i]}, state, p)\n    return u\n"
        "both = jax.vmap(run)(params, grads)['w']\n"
        "for i in range(len(both)):\n"
        "    one = run({'w': params['w'][i]}, {'w': grads['w'][i]})['w']\n"
        "    assert jnp.allclose(both[i], one, rtol=1e-5), (both[i], one)"
    )


def scan_is_loop(subject: Subject) -> Violation | None:
    params, grads = mini()

    def scanned(params: Any, grads: list[Any]) -> list[Any]:
        def scan(params: Any, stack: Any) -> Any:
            def step(carry: Any, g: Any) -> Any:
                state, p = carry
                u, state = subject.update(g, state, p)
                return (state, optax.apply_updates(p, u)), u

            return jax.lax.scan(step, (subject.tx.init(params), params), stack)[1]

        with ordinary():
            out = jax.jit(scan)(params, jax.tree.map(lambda *x: jnp.stack(x), *grads))
        return [jax.tree.map(lambda x, t=t: x[t], out) for t in range(len(grads))]

    code = setup(params, grads) + (
        "stack = jax.tree.map(lambda *x: jnp.stack(x), *grads)\n"
        "def step(carry, g):\n    u, state = tx.update(g, *carry)\n"
        "    return (state, optax.apply_updates(carry[1], u)), u\n"
        "start = tx.init(params), params\n"
        "scanned = jax.jit(lambda: jax.lax.scan(step, start, stack)[1])()\n"
        "(state, p), jitted = start, jax.jit(tx.update)\n"
        "for i, g in enumerate(grads):\n    u, state = jitted(g, state, p)\n"
        "    p = optax.apply_updates(p, u)\n"
        "    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(scanned)):\n"
        "        assert jnp.allclose(x, y[i], rtol=1e-5, atol=1e-6 * abs(x).max()), (x, y[i])"
    )
    loop = lambda p, gs: subject.trajectory(subject.tx, p, gs)
    loop(params, grads[:1])  # a rule that fails in a loop is not a failure of the scan
    try:
        apart = first_difference(subject, loop, scanned, "scan")
    except Exception as error:
        return Violation(
            f"it cannot be scanned: {type(error).__name__}: {first_line(error)}",
            {"params": params, "gradients": grads}, code, cause=error)  # fmt: skip
    if apart is None:
        return None
    t, expected, found = apart
    return Violation(
        f"step {t + 1} of a scan differs from the same step of a loop",
        {"params": params, "gradients": grads[: t + 1], "found": found, "expected": expected},
        code,
    )


LAWS = (
    Law("vmap is a loop", "Vmapped over independent problems is one problem at a time.",
            vmap_is_loop),
    Law("scan is a loop", "n scanned steps are n calls.", scan_is_loop),
)  # fmt: skip
