"""Laws of placement and of life: devices, saving and restoring, injecting, growing."""

from __future__ import annotations

import contextlib
import functools
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trainkit.laws.form import _bits, same_bits, setup
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.source import rule as rule_code
from trainkit.laws.subject import Subject, first_line, mini, ordinary

EIGHT = "XLA_FLAGS=--xla_force_host_platform_device_count=8"
# What axes are called in practice; a rule that asks for one of them finds it.
AXES = ("batch", "data", "devices", "device", "i", "x", "dp", "replica", "replicas", "model",
        "fsdp", "axis", "num_devices", "shard", "p", "axis_name", "workers")  # fmt: skip
COLLECTIVE = ("axis_index", "psum", "pmean", "pmax", "pmin", "all_gather", "all_to_all",
              "ppermute", "reduce_scatter", "psum_scatter", "pgather")  # fmt: skip


def _primitives(jaxpr: Any) -> Iterator[tuple[str, str]]:
    """Every primitive of a jaxpr, inner ones too, with its parameters as text."""
    for eqn in jaxpr.eqns:
        axis = eqn.params.get("axis_name") or eqn.params.get("axes") or ""
        yield eqn.primitive.name, str(axis)
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _primitives(inner)


@contextlib.contextmanager
def _asked() -> Iterator[set[str]]:
    """The axes that collectives are asked for meanwhile, also where a `try` hides the question."""
    names: set[str] = set()

    def noted(original: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            for x in (*args, *more.values()):
                names.update(n for n in (x if isinstance(x, tuple) else (x,)) if type(n) is str)
            return original(*args, **more)

        return call

    with contextlib.ExitStack() as stack:
        for name in (*COLLECTIVE, "axis_size"):
            if hasattr(jax.lax, name):
                found = getattr(jax.lax, name)
                stack.enter_context(mock.patch.object(jax.lax, name, noted(found)))
        yield names


def no_collective(subject: Subject) -> Violation | None:
    params, grads = mini()
    with ordinary():
        state = subject.tx.init(params)
        with _asked() as names, contextlib.suppress(Exception):  # what it raises, others report
            jax.eval_shape(lambda g, s, p: subject.update(g, s, p), grads[0], state, params)
        axes = (*AXES, *sorted(names - set(AXES)))
        mesh = AbstractMesh((2,) * len(axes), axes)
        inside = jax.shard_map(
            lambda g, s, p: subject.update(g, s, p),
            mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False,
        )  # fmt: skip
        found = jax.make_jaxpr(inside)(grads[0], state, params)
    for name, axis in _primitives(found.jaxpr):
        if any(name.startswith(c) for c in COLLECTIVE):
            return Violation(
                f"it uses {name} over {axis or 'an axis'} where there are devices, so that "
                "replicas may part or the rule depends on where it runs",
                {"primitive": name, "axis": axis},
                f"axis = {axis.strip('(),').strip(chr(39))!r}\n"
                "p, g = jnp.array([[1.0, 2.0]] * 2), jnp.array([[0.5, -1.0], [0.25, 3.0]])\n"
                "def run(p, g):\n    p, g = {'w': p}, {'w': g}\n"
                "    return tx.update(g, tx.init(p), p)[0]['w']\n"
                "both = jax.vmap(run, axis_name=axis)(p, g)\n"
                "alone = jnp.stack([run(p[i], g[i]) for i in range(2)])\n"
                "assert jnp.allclose(both, alone, rtol=1e-5), (both, alone)",
            )
    return None


def _problem(devices: int) -> tuple[Any, Any]:
    """Parameters, and gradients [device, step, …] that differ from device to device.

    By a formula, so that a reproducer has the same.
    """
    n = devices
    params = {"b": jnp.linspace(-1, 2.5, 8), "w": jnp.linspace(-2, 1.5, 16).reshape(8, 2)}
    wave = lambda p: 2 * jnp.sin(1.7 * jnp.arange(n * 4 * p.size)).reshape(n, 4, *p.shape)
    return params, jax.tree.map(wave, params)


_PLACED = """n = len(jax.devices())
params = {'b': jnp.linspace(-1, 2.5, 8), 'w': jnp.linspace(-2, 1.5, 16).reshape(8, 2)}
wave = lambda p: 2 * jnp.sin(1.7 * jnp.arange(n * 4 * p.size)).reshape(n, 4, *p.shape)
grads = jax.tree.map(wave, params)
mean = jax.tree.map(lambda g: g.mean(0), grads)
def train(params, grads, mean=lambda g: g):
    def step(carry, g):
        state, p = carry
        u, state = tx.update(mean(g), state, p)
        return (state, optax.apply_updates(p, u)), u
    return jax.lax.scan(step, (tx.init(params), params), grads)[1]
alone = jax.jit(train)(params, mean)
mesh = jax.sharding.Mesh(jax.devices(), ('batch',))
copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), params)
average = lambda g: jax.tree.map(lambda x: jax.lax.pmean(x, 'batch'), g)
"""
_SPREAD = {
    "pmap": "found = jax.pmap(lambda p, g: train(p, g, average), 'batch')(copies, grads)\n",
    "shard_map": (
        "def one(p, g):\n    p, g = jax.tree.map(lambda x: x[0], (p, g))\n"
        "    return jax.tree.map(lambda x: x[None], train(p, g, average))\n"
        "split = jax.sharding.PartitionSpec('batch')\n"
        "found = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=split, out_specs=split, "
        "check_vma=False))(copies, grads)\n"
    ),
    "sharded": (
        "cut = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))\n"
        "found = jax.jit(train)(jax.device_put(params, cut('batch')), "
        "jax.device_put(mean, cut(None, 'batch')))\n"
    ),
}
_COMPARED = """for name in params:
    print(name, {found}, alone[name])
    assert jnp.allclose({found}, alone[name], rtol=1e-4, atol=1e-5), name
"""
_REPLICAS = """for name in params:
    for copy in found[name]:
        assert (copy == found[name][0]).all(), (name, copy, found[name][0])
"""


def placements(subject: Subject) -> Iterator[Violation]:
    devices = jax.local_devices()[:8]
    n = len(devices)
    if n < 8:
        subject.notes.append(
            f"placements were checked on {n} device{'s' * (n > 1)}; to simulate eight, start "
            f"Python with {EIGHT}"
        )
    with ordinary():
        params, grads = _problem(n)
    tx = subject.tx

    def train(params: Any, grads: Any, mean: Any) -> Any:
        """Four steps; `mean` is applied to the gradients of one step."""

        def step(carry: Any, g: Any) -> Any:
            s, p = carry
            u, s = subject.update(mean(g), s, p)
            return (s, optax.apply_updates(p, u)), u

        (state, params), updates = jax.lax.scan(step, (tx.init(params), params), grads)
        return updates, params, state

    with ordinary():
        mean = jax.tree.map(lambda g: g.mean(0), grads)
        alone = jax.jit(lambda p, g: train(p, g, lambda g: g))(params, mean)
        n_axis = "batch"
        average = functools.partial(jax.tree.map, lambda g: jax.lax.pmean(g, n_axis))
        copies = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), tree)
        inside = lambda p, g: train(p, g, average)

        # pmap, and shard_map: every device holds its own copy, and all must be the same.
        mesh = Mesh(np.array(devices), (n_axis,))

        def sharded(p: Any, g: Any) -> Any:
            one = lambda t: jax.tree.map(lambda x: x[0], t)
            return jax.tree.map(lambda x: x[None], inside(one(p), one(g)))

        spread = {
            "pmap": jax.pmap(inside, axis_name=n_axis, devices=devices),
            "shard_map": jax.jit(jax.shard_map(
                sharded, mesh=mesh, in_specs=P(n_axis), out_specs=P(n_axis), check_vma=False)),
        }  # fmt: skip
        for name, run in spread.items():
            try:
                out = jax.device_get(run(copies(params), grads))
            except Exception as error:
                yield Violation(
                    f"under {name}: {type(error).__name__}: {first_line(error)}",
                    {"devices": n}, _PLACED + _SPREAD[name], devices=n)  # fmt: skip
                return
            for x in _bits(out):
                if any(x[i].tobytes() != x[0].tobytes() for i in range(n)):
                    yield Violation(
                        f"under {name} the replicas differ after four steps of averaged gradients",
                        {"devices": n}, _PLACED + _SPREAD[name] + _REPLICAS, devices=n)  # fmt: skip
                    return
            wrong = _apart(jax.tree.map(lambda x: x[0], out), alone)
            if wrong:
                yield Violation(
                    f"under {name} on {n} devices it is not what it is alone: {wrong}",
                    {"devices": n},
                    _PLACED + _SPREAD[name] + _COMPARED.format(found="found[name][0]"),
                    devices=n,
                )
                return

        # Sharded jit: parameters and state cut along their first axis.
        cut = NamedSharding(mesh, P(n_axis))
        p = jax.device_put(params, cut)
        g = jax.device_put(mean, NamedSharding(mesh, P(None, n_axis)))
        out = jax.device_get(jax.jit(lambda p, g: train(p, g, lambda g: g))(p, g))
    wrong = _apart(out, alone)
    if wrong:
        yield Violation(
            f"with parameters sharded over {n} devices it is not what it is alone: {wrong}",
            {"devices": n},
            _PLACED + _SPREAD["sharded"] + _COMPARED.format(found="found[name]"),
            devices=n,
        )


def _apart(found: Any, alone: Any) -> str | None:
    """The first leaf that differs by more than the order of a sum explains."""
    named = jax.tree_util.tree_flatten_with_path(found[0])[0]
    for (path, x), y in zip(named, jax.tree.leaves(alone[0]), strict=True):
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if not np.all(np.abs(a - b) <= 1e-4 * np.abs(b) + 1e-5 * np.abs(b).max(initial=0)):
            return f"the update of {jax.tree_util.keystr(path)} is off by {np.abs(a - b).max():.3g}"
    return None


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
                        + _injected_code(call, static)
                        + f"assert all(map(jnp.all, map(near, a, b))), ({words!r}, a, b)",
                        level="standard" if dtype == "float32" else "strict",
                    )
                    return


def _injected_code(call: functools.partial[Any], static: tuple[str, ...]) -> str:
    with ordinary():
        held = [rule_code(v, k, None, None) for k, v in call.keywords.items()]
        make = rule_code(call.func, "make", None, None)
    words = ", ".join(f"{k}={k}" for k in call.keywords)
    return (
        "\n".join([*held, make])
        + f"\ninjected = optax.inject_hyperparams(make, static_args={static!r})({words})\n"
        "def run(tx):\n    state = tx.init(params)\n    for g in grads:\n"
        "        u, state = tx.update(g, state, params)\n"
        "    return [x.astype('float32') for x in jax.tree.leaves(u)]\n"
        "a, b = run(tx), run(injected)\nprint('direct', a)\nprint('injected', b)\n"
        "rough = 1e-4 if params['b'].dtype == 'float32' else 0.05\n"
        "near = lambda x, y: abs(x - y) <= rough * (abs(x) + abs(x).max() / 10)\n"
    )


def grows(subject: Subject) -> Violation | None:
    """State grown by the calculus, then stepped, gives the updates that the calculus foretells."""
    from trainkit.growth.errors import GrowthError
    from trainkit.growth.leaf import AxisGrowth, LeafGrowth
    from trainkit.growth.moments import grow_opt_state

    params, grads = mini()
    degree = subject.claims.get("degree")
    # Gradients shrink by f where units are copied; without a degree only f = 1 can be foretold.
    f = 1.0 if degree is None or degree is True else 0.5
    copies = np.array([0, 1, 2, 1, 0])
    axis = AxisGrowth(copies, np.ones(5), np.full(5, f))
    growth = {"b": LeafGrowth((axis,)), "w": LeafGrowth((None, axis))}
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
         tolerance="1e-4 relative between placements; replicas bitwise",
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
