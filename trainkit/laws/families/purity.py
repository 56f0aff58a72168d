"""Laws of purity: the same inputs, the same outputs, eager or compiled, and compiled once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from trainkit.laws.law import Violation
from trainkit.laws.problems.trees import bits, same_bits, setup
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.compare import jitted, parting
from trainkit.laws.subject import Subject, mini


def purity(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    kept_params, kept_grads = mini()  # what is shown is what was given, whatever becomes of it
    code = setup(params, grads[:3]) + "state = tx.init(params)\n"
    with ordinary():
        tx = subject.fresh()
        state = tx.init(params)
        once, after = subject.update(grads[0], state, params, tx=tx)
        # Nothing that was passed in has changed, containers included.
        mine = jax.tree.map(lambda x: x, (grads[1], after, params))
        held, before = copy.deepcopy(_containers(mine)), bits(mine)
        subject.update(mine[0], mine[1], mine[2], tx=tx)
        if _containers(mine) != held or not all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(bits(mine), before, strict=True)
        ):
            yield Violation(
                "update changed a container that it was given (gradients, state or parameters)",
                {"params": kept_params, "gradients": kept_grads[:2]},
                code + "import copy\nwords = lambda: str((grads[0], state, params))\n"
                "before = words()\ntx.update(grads[0], state, params)\n"
                "assert words() == before, (before, words())",
            )
            return
        # NumPy gradients, which an `*=` would overwrite; a rule need not accept them.
        arrays = jax.tree.map(lambda x: np.array(x), (grads[2], params))
        unchanged = copy.deepcopy(arrays)
        try:
            subject.update(arrays[0], state, arrays[1], tx=tx)
            touched = not same_bits(arrays, unchanged)
        except Exception:
            touched = False
        if touched:
            yield Violation(
                "update wrote into the NumPy arrays that it was given",
                {"params": kept_params, "gradients": kept_grads[:1]},
                setup(kept_params, kept_grads[0]) + "import numpy as np\n"
                "g = jax.tree.map(np.array, grads)\n"
                "tx.update(g, tx.init(params), jax.tree.map(np.array, params))\n"
                "assert all((a == b).all() for a, b in zip(jax.tree.leaves(g), "
                "jax.tree.leaves(grads))), (g, grads)",
            )
            return

        # The same call later, after other calls and other instances, gives the same bits.
        busy = subject.fresh()
        other = busy.init(jax.tree.map(lambda p: 2 * p, params))
        for g in grads[3:]:
            _, other = subject.update(jax.tree.map(lambda x: 3 * x, g), other, params, tx=busy)
        again, after_again = subject.update(grads[0], state, params, tx=tx)
        third = subject.fresh()
        anew, after_anew = subject.update(grads[0], third.init(params), params, tx=third)
        for what, u, s in (
            ("the same call made again", again, after_again),
            ("a new instance of the rule", anew, after_anew),
        ):
            if not (same_bits(u, once) and same_bits(s, after)):
                yield Violation(
                    f"{what} gave another result: something is remembered outside the state",
                    {"params": params, "gradients": grads[0], "found": u, "expected": once},
                    code + "once, _ = tx.update(grads[0], state, params)\n"
                    "for g in grads:\n    _, s = tx.update(g, tx.init(params), params)\n"
                    "again, _ = tx.update(grads[0], tx.init(params), params)\n"
                    "same = jax.tree.map(lambda a, b: bool((a == b).all()), once, again)\n"
                    "assert all(jax.tree.leaves(same)), (once, again)",
                )
                return


def _containers(tree: Any) -> Any:
    """The tree's containers and the identity of what they hold."""
    if isinstance(tree, dict):
        return {k: _containers(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_containers(v) for v in tree]
    return id(tree)


def jit_is_eager(subject: Subject) -> Violation | None:
    params, grads = mini()
    code = setup(params, grads) + (
        "def run(update):\n    state, out = tx.init(params), []\n    for g in grads:\n"
        "        u, state = update(g, state, params)\n        out.append(u)\n    return out\n"
    )
    plain = lambda p, gs: subject.trajectory(subject.tx, p, gs, apply=False, eager=True)
    plain(params, grads[:1])  # what fails eagerly fails here, and is not said of jit
    try:
        apart = parting(subject, plain, lambda p, gs: jitted(subject, p, gs), "jit")
    except Exception as error:
        return Violation(
            f"it runs eagerly but not under jit: {type(error).__name__}: {first_line(error)}",
            {"params": params, "gradients": grads[0]},
            code + "run(tx.update)\nrun(jax.jit(tx.update))",
        )
    if apart is None:
        return None
    t, expected, found = apart
    return Violation(
        f"at step {t + 1} the jitted update differs from the eager one",
        {"params": params, "gradients": grads[: t + 1], "found": found, "expected": expected},
        code + "for a, b in zip(run(tx.update), run(jax.jit(tx.update))):\n"
        "    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
        "        assert jnp.allclose(x, y, rtol=1e-5, atol=1e-6), (x, y)",
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
    return Violation(
        f"a call {when} was traced and compiled again ({count} times in all)",
        {"params": params, "gradients": grads[:3]},
        setup(params, grads[:3]) + "count = 0\ndef update(g, s, p):\n    global count\n"
        "    count += 1\n    return tx.update(g, s, p)\nstep = jax.jit(update)\n"
        "state = tx.init(params)\nfor g in grads:\n    _, state = step(g, state, params)\n"
        "state = jax.tree.map(lambda x: jax.device_put(jax.device_get(x)), state)\n"
        "step(grads[0], state, params)\nassert count == 1, count",
    )
