"""Laws of compilation: jitted and eager results agree, and a step compiles once."""

from __future__ import annotations

from typing import Any

import jax

from trainkit._core.paths import path_name
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.update_pairs import first_difference, jitted


def jit_is_eager(subject: Subject) -> Violation | None:
    params, grads = mini()
    code = setup(params, grads) + (
        "def run(update):\n    state, out, p = tx.init(params), [], params\n"
        "    for g in grads:\n        u, state = update(g, state, p)\n"
        "        p = optax.apply_updates(p, u)\n        out.append(u)\n    return out\n"
    )
    plain = lambda p, gs: subject.trajectory(subject.tx, p, gs, eager=True)
    plain(params, grads[:1])  # what fails eagerly fails here, and is not said of jit
    try:
        apart = first_difference(subject, plain, lambda p, gs: jitted(subject, p, gs), "jit")
    except Exception as error:
        return Violation(
            f"it runs eagerly but not under jit: {type(error).__name__}: {first_line(error)}",
            {"params": params, "gradients": grads[0]},
            code + "run(tx.update)\nrun(jax.jit(tx.update))",
            cause=error,
        )
    if apart is None:
        return None
    t, expected, found = apart
    return Violation(
        f"at step {t + 1} the jitted update differs from the eager one",
        {"params": params, "gradients": grads[: t + 1], "found": found, "expected": expected},
        code + "for a, b in zip(run(tx.update), run(jax.jit(tx.update))):\n"
        "    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
        "        assert jnp.allclose(x, y, rtol=1e-5, atol=1e-6 * abs(x).max()), (x, y)",
    )


def one_compile(subject: Subject) -> Violation | None:
    params, grads = mini()
    with ordinary():
        count = 0

        def counted(g: Any, s: Any, p: Any) -> Any:
            nonlocal count
            count += 1
            return subject.update(g, s, p)

        step = jax.jit(counted)
        state = subject.tx.init(params)
        for g in grads[:3]:
            _, state = step(g, state, params)
        traced = count
        device = jax.local_devices()[0]
        back = jax.tree.map(lambda x: jax.device_put(jax.device_get(x), device), state)
        step(grads[3], back, params)
    if count == 1:
        return None
    when = "on the state that the first returned" if traced > 1 else "on a restored state"
    named = jax.tree_util.tree_leaves_with_path(state)
    weak = [repr(path_name(path)) for path, x in named if getattr(x, "weak_type", False)]
    why = ""
    if weak and traced == 1:
        why = (
            f": the state's {', '.join(weak)} has a weak type, which a saved state has not; "
            "make it with a dtype, such as jnp.zeros((), jnp.int32)"
        )
    return Violation(
        f"a call {when} was traced and compiled again ({count} times in all){why}",
        {"params": params, "gradients": grads[:3]},
        setup(params, grads[:3]) + "count = 0\ndef update(g, s, p):\n    global count\n"
        "    count += 1\n    return tx.update(g, s, p)\nstep = jax.jit(update)\n"
        "state = tx.init(params)\nfor g in grads:\n    _, state = step(g, state, params)\n"
        "state = jax.tree.map(lambda x: jax.device_put(jax.device_get(x)), state)\n"
        "step(grads[0], state, params)\nassert count == 1, count",
    )


LAWS = (
    Law("jit is eager", "Jitted and eager updates agree.", jit_is_eager,
             tolerance="1e-5 relative and 1e-6 of the largest entry",
             why="XLA may fuse and reassociate; float32 has 6e-8"),
    Law("one compile", "The second call, and a call on a restored state, compile nothing.",
             one_compile),
)  # fmt: skip
