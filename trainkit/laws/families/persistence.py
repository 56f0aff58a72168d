"""Laws of life: saving and restoring, injecting, growing; and the list with placement."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.families.placement import no_collective, placements
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems.trees import same_bits, setup
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.source import rule as rule_code
from trainkit.laws.subject import Subject, mini


def resume(subject: Subject) -> Iterator[Violation]:
    from flax import serialization

    params, grads = mini()
    with ordinary():
        step = subject.memo.get("jitted step") or jax.jit(lambda g, s, p: subject.update(g, s, p))
        states, updates = [subject.tx.init(params)], []
        for g in grads:
            u, s = step(g, states[-1], params)
            states.append(s)
            updates.append(u)

        another = subject.fresh() if subject.is_factory else subject.tx
        other = lambda g, s, p: subject.update(g, s, p, tx=another)

        def by_msgpack(state: Any) -> Any:
            # Typed random keys travel as the numbers they hold: msgpack knows only arrays.
            key = lambda x: (
                isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            )
            held = jax.tree.map(lambda x: jax.random.key_data(x) if key(x) else x, state)
            back = serialization.from_bytes(held, serialization.to_bytes(held))
            restore = lambda x, old: (
                jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(old))
                if key(old)
                else jnp.asarray(x)  # it gives NumPy arrays, a step gets JAX's
            )
            return jax.tree.map(restore, back, state)

        trips = {"device_get": lambda s: jax.device_put(jax.device_get(s)), "msgpack": by_msgpack}
        if any(getattr(x, "size", 0) for x in jax.tree.leaves(states[0])):
            trips["Orbax"] = _by_orbax
        for name, trip in trips.items():
            for t in range(1, len(grads)) if name != "Orbax" else (3,):
                code = setup(params, grads[: t + 1]) + _TRIP_CODE.get(name, "")
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
                # Another instance goes on, as another process would.
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


def _by_orbax(state: Any) -> Any:
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as saver:
        saver.save(Path(folder) / "state", state)
        saver.wait_until_finished()
        return saver.restore(Path(folder) / "state", state)


def injected(subject: Subject) -> Iterator[Violation]:
    """Only where the call that made the rule is known: a functools.partial, or Optax's own rule."""
    call = subject.given
    if not isinstance(call, functools.partial):
        raise NotApplicable("give the rule as functools.partial(make, name=value, …) to check this")
    empty = inspect.Parameter.empty
    numeric = {k: v for k, v in call.keywords.items() if isinstance(v, float)}
    if not numeric or call.args:
        raise NotApplicable("the call that made it has no numeric keyword argument")
    # What is no real number (a count, a choice, a function) is not a hyper-parameter to inject.
    values = {k: p.default for k, p in inspect.signature(call.func).parameters.items()}
    values |= call.keywords
    static = tuple(k for k, v in values.items() if not isinstance(v, float) and v is not empty)
    for dtype in ("float32", "bfloat16"):
        params, grads = mini(dtype)
        with ordinary():
            made = optax.inject_hyperparams(call.func, static_args=static)(**call.keywords)
        plain = subject.trajectory(subject.tx, params, grads[:4], apply=False)
        other = subject.trajectory(made, params, grads[:4], apply=False)
        for t, (u, v) in enumerate(zip(plain, other, strict=True)):
            for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
                a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
                near = (1e-4 if dtype == "float32" else 0.05) * (np.abs(a) + np.abs(a).max() / 10)
                if not np.all(np.abs(a - b) <= near):
                    words = ", ".join(f"{k}={v!r}" for k, v in numeric.items())
                    yield Violation(
                        f"with hyper-parameters injected, in {dtype}, update {t + 1} is "
                        f"{b.ravel()[:3]} where {a.ravel()[:3]} was expected",
                        {"params": params, "gradients": grads[: t + 1]},
                        setup(params, grads[: t + 1])
                        + _injected_code(subject, call, static)
                        + f"assert all(map(jnp.all, map(near, a, b))), ({words!r}, a, b)",
                        level="standard" if dtype == "float32" else "strict",
                    )
                    return


def _injected_code(subject: Subject, call: functools.partial[Any], static: tuple[str, ...]) -> str:
    told = subject.needs or subject.extra_args is not None
    with ordinary():
        held = [rule_code(v, k, None, None) for k, v in call.keywords.items()]
        make = rule_code(call.func, "make", None, None)
    words = ", ".join(f"{k}={k}" for k in call.keywords)
    return (
        "\n".join([*held, make])
        + f"\ninjected = optax.inject_hyperparams(make, static_args={static!r})({words})\n"
        + "injected = told(injected)\n" * bool(told)
        + "def run(tx):\n    state = tx.init(params)\n    for g in grads:\n"
        "        u, state = tx.update(g, state, params)\n"
        "    return [x.astype('float32') for x in jax.tree.leaves(u)]\n"
        "a, b = run(tx), run(injected)\nprint('direct', a)\nprint('injected', b)\n"
        "rough = 1e-4 if params['b'].dtype == 'float32' else 0.05\n"
        "near = lambda x, y: abs(x - y) <= rough * (abs(x) + abs(x).max() / 10)\n"
    )


def grows(subject: Subject) -> Violation | None:
    """State grown by the calculus, then stepped, gives the updates that the calculus foretells."""
    from trainkit.growth.errors import GrowthError
    from trainkit.growth.maps.growth_map import MapData
    from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
    from trainkit.growth.opt_state.grow import grow_opt_state

    params, grads = mini()
    degree = subject.claims.get("degree")
    # Gradients shrink by f where units are copied; without a degree only f = 1 can be foretold.
    f = 1.0 if degree is None or degree is True else 0.5
    copies = np.array([0, 1, 2, 1, 0])
    axis = AxisMap(copies, np.ones(5), np.full(5, f))
    growth = MapData({"b": LeafMap((axis,)), "w": LeafMap((None, axis))})
    wide = lambda tree, k=1.0: jax.tree.map(lambda x: k * x[..., copies], tree)
    with ordinary():
        step = subject.memo.get("jitted step") or jax.jit(lambda g, s, p: subject.update(g, s, p))
        state = subject.tx.init(params)
        for g in grads[:3]:
            _, state = step(g, state, params)
        try:
            grown = grow_opt_state(subject.tx, state, growth, params, wide(params))
        except GrowthError as error:
            raise NotApplicable(f"its state does not grow: {first_line(error)}") from error
        for t, g in enumerate(grads[3:], start=4):
            u, state = step(g, state, params)
            v, grown = step(wide(g, f), grown, wide(params))
            want = wide(u, f ** (degree if isinstance(degree, int) else 0) if f != 1 else 1.0)
            for (path, x), y in zip(
                jax.tree_util.tree_flatten_with_path(v)[0], jax.tree.leaves(want), strict=True
            ):
                a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
                if not np.all(np.abs(a - b) <= 2e-5 * np.abs(b) + 2e-6 * np.abs(b).max()):
                    return Violation(
                        f"grown after three steps, with gradients {f:g} times as large, the update "
                        f"of step {t} at {jax.tree_util.keystr(path)} is off by "
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
    "        assert jnp.allclose(x, y, rtol=2e-5, atol=1e-6), (x, y)"
)


def life(name: str, statement: str, check: Any, **more: Any) -> Law:
    return Law(name, statement, check, **({"group": "placement and life"} | more))


LAWS = (
    life("no collective", "The rule asks for no device axis, so that it is the same everywhere.",
         no_collective, tolerance="exact", why="it is read off the program"),
    life("placements", "Alone, under pmap, shard_map and sharded jit the trajectory is the same "
         "after a gradient mean, and replicas stay bitwise equal.", placements,
         tolerance="1e-4 relative and 5e-7 of the parameters between placements; replicas bitwise",
         why="sums over devices change their order, four steps amplify"),
    life("resume", "Its state goes through device_get, msgpack and Orbax, and going on is never "
         "having stopped.", resume, tolerance="bitwise", why="nothing is computed"),
    life("growth", "Growing parameters and state, then stepping, gives the updates that the "
         "calculus of growth foretells.", grows, claim="growth", reference="trainkit.growth",
         tolerance="2e-5 relative", why="ε = 1e-8 does not scale with the gradients"),
    life("injected is direct", "Injecting hyper-parameters changes no update.", injected,
         level="strict", tolerance="1e-4 relative in float32, 5 % in bfloat16",
         why="an injected constant is rounded to the state's dtype"),
)  # fmt: skip
