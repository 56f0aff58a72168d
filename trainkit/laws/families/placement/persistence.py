"""The law of persistence: a run resumed from a saved state continues bitwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax

from trainkit.laws.law import Law, Violation
from trainkit.laws.optional import by_leaves, by_msgpack, by_orbax
from trainkit.laws.problems.comparison import same_bits
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def resume(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    with ordinary():
        step, states = subject.compiled(), [subject.tx.init(params)]
        for g in grads:
            states.append(step(g, states[-1], params)[1])
        # Continue with another instance, as another process would.
        another = subject.fresh() if subject.is_factory else subject.tx
        other = lambda g, s, p: subject.update(g, s, p, tx=another)
        if subject.slow:
            other = subject.compiled(another)
        trips: dict[str, Callable[[Any], Any]] = {
            "device_get": lambda s: jax.device_put(jax.device_get(s)),
            "msgpack": by_msgpack,
        }
        if any(getattr(x, "size", 0) for x in jax.tree.leaves(states[0])):
            trips["Orbax"] = by_orbax
        for name, trip in trips.items():
            for t in range(1, len(grads)) if name != "Orbax" else (3,):
                code = setup(params, grads[: t + 1]) + _trip_code(name, states[t])
                try:
                    state = trip(states[t])
                except Exception as error:
                    yield Violation(
                        f"its state does not go through {name}: {type(error).__name__}: "
                        f"{first_line(error)}", {"step": t}, code)  # fmt: skip
                    break
                if not _same_structure(state, states[t]):
                    yield Violation(f"{name} gave back another tree", {"step": t}, code)
                    break
                u, _ = other(grads[t], state, params)
                v, _ = other(grads[t], states[t], params)
                if not same_bits(u, v):
                    yield Violation(
                        f"resumed from {name} after step {t} the next update differs",
                        {"step": t, "found": u, "expected": v}, code)  # fmt: skip
                    break


def _same_structure(a: Any, b: Any) -> bool:
    one: Any = jax.tree.structure(a)
    return bool(one == jax.tree.structure(b))


_TRIP_CODE = {
    "Orbax": (
        "import tempfile\nimport orbax.checkpoint as ocp  # needs orbax beside jax and optax\n"
        "state = tx.init(params)\nfor g in grads[:-1]:\n"
        "    _, state = tx.update(g, state, params)\n"
        "with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as saver:\n"
        "    saver.save(folder + '/state', state)\n    saver.wait_until_finished()\n"
        "    back = saver.restore(folder + '/state', state)\n"
        "a, _ = tx.update(grads[-1], state, params)\nb, _ = tx.update(grads[-1], back, params)\n"
        "assert all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))), (a, b)"
    ),
    "msgpack": (
        "from flax import serialization  # needs flax beside jax and optax\n"
        "state = tx.init(params)\nfor g in grads:\n    _, state = tx.update(g, state, params)\n"
        "back = serialization.from_bytes(state, serialization.to_bytes(state))\n"
        "assert jax.tree.structure(back) == jax.tree.structure(state), back\n"
        "a, _ = tx.update(grads[-1], state, params)\nb, _ = tx.update(grads[-1], back, params)\n"
        "assert all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))), (a, b)"
    ),
    "device_get": (
        "state = tx.init(params)\nfor g in grads[:-1]:\n"
        "    _, state = tx.update(g, state, params)\n"
        "back = jax.device_put(jax.device_get(state))\n"
        "a, _ = tx.update(grads[-1], state, params)\nb, _ = tx.update(grads[-1], back, params)\n"
        "assert all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))), (a, b)"
    ),
}


def _trip_code(name: str, state: Any) -> str:
    code = _TRIP_CODE[name]
    if name != "msgpack" or not by_leaves(state):
        return code
    return code.replace(
        "back = serialization.from_bytes(state, serialization.to_bytes(state))\n",
        "leaves, tree = jax.tree.flatten(state)  # it has nodes that Flax does not know\n"
        "back = tree.unflatten(serialization.from_bytes(leaves, serialization.to_bytes(leaves)))\n",
    )


LAWS = (
    Law("resume", "Its state goes through device_get, msgpack and Orbax, and going on is never "
        "having stopped.", resume, tolerance="bitwise",
        why="nothing is computed"),
)  # fmt: skip
