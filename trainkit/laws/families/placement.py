"""Laws of placement: alone, on many devices and sharded, a rule does the same."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trainkit._core.jaxprs import equations
from trainkit.laws.law import Violation
from trainkit.laws.problems.trees import bits
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.subject import Subject, mini

EIGHT = "XLA_FLAGS=--xla_force_host_platform_device_count=8"


# What axes are called in practice; a rule that asks for one of them finds it.
AXES = ("batch", "data", "devices", "device", "i", "x", "dp", "replica", "replicas", "model",
        "fsdp", "axis", "num_devices", "shard", "p", "axis_name", "workers")  # fmt: skip


COLLECTIVE = ("axis_index", "psum", "pmean", "pmax", "pmin", "all_gather", "all_to_all",
              "ppermute", "reduce_scatter", "psum_scatter", "pgather")  # fmt: skip


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
    for eqn in equations(found):
        name = eqn.primitive.name
        axis = str(eqn.params.get("axis_name") or eqn.params.get("axes") or "")
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
            for x in bits(out):
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
    """The first leaf that differs by more than the order of a sum explains.

    An update that is a difference of parameters is rounded as they are, hence the second term.
    """
    size = max(float(np.abs(p).max(initial=0)) for p in jax.tree.leaves(alone[1]))
    named = jax.tree_util.tree_flatten_with_path(found[0])[0]
    for (path, x), y in zip(named, jax.tree.leaves(alone[0]), strict=True):
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        near = 1e-4 * np.abs(b) + 1e-5 * np.abs(b).max(initial=0) + 5e-7 * size
        if not np.all(np.abs(a - b) <= near):
            return f"the update of {jax.tree_util.keystr(path)} is off by {np.abs(a - b).max():.3g}"
    return None
