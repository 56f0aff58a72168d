"""The law of placements: updates are equal on one device, on many devices and sharded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from trainkit._core.paths import path_name
from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import bits
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.subject import Subject
from trainkit.laws.subject.operations import FINE, rounded_by

EIGHT = "XLA_FLAGS=--xla_force_host_platform_device_count=8"


def _problem(devices: int, dtype: str = "float32") -> tuple[Any, Any]:
    """Parameters, and gradients [device, step, …] that differ from device to device.

    By a formula, so that a reproducer has the same.
    """
    n, line = devices, functools.partial(jnp.linspace, dtype=dtype)
    params = {"b": line(-1, 2.5, 8), "w": line(-2, 1.5, 16).reshape(8, 2)}
    at = lambda p: jnp.arange(n * 4 * p.size).astype(dtype)
    wave = lambda p: 2 * jnp.sin(1.7 * at(p)).reshape(n, 4, *p.shape)
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


def placements(subject: Subject) -> Violation | None:
    devices = jax.local_devices()[:8]
    n = len(devices)
    if n < 8:
        subject.notes.append(
            f"placements were checked on {n} device{'s' * (n > 1)}; to simulate eight, start "
            f"Python with {EIGHT}"
        )
    with ordinary():
        mesh = Mesh(np.array(devices), ("batch",))
        return _replicated(subject, mesh) or _sharded(subject, mesh)


def _mean(grads: Any) -> Any:
    return jax.tree.map(lambda g: g.mean(0), grads)


def _alone(subject: Subject, devices: int, dtype: str = "float32", digit: float = 0.0) -> Any:
    """The trajectory on one device, with relative errors of ± `digit` in the mean gradients."""
    params, grads = _problem(devices, dtype)
    off = functools.partial(rounded_by, digit, np.random.default_rng(0))
    g = jax.tree.map(off, _mean(grads)) if digit else _mean(grads)
    program = subject.memo.setdefault("alone", jax.jit(functools.partial(_trained, subject)))
    return program(params, g)


def _differs(subject: Subject, devices: int, found: Callable[[str], Any], where: str) -> str | None:
    """The first leaf of `found("float32")` that differs by more than rounding, in words."""
    alone = _alone(subject, devices)
    apart = _apart(found("float32"), alone)
    if apart is None:
        return None
    words, gap = apart

    def exact() -> bool:
        apart = _apart(found("float64"), _alone(subject, devices, "float64"))
        return apart is None or apart[1] <= 1e-8

    def moved(digit: float = FINE) -> float:
        apart = _apart(_alone(subject, devices, digit=digit), alone)
        return 0.0 if apart is None else apart[1]

    if subject.only_rounding(gap, exact, where, moved):
        return None
    return None if subject.coarse_rounding(gap, moved, where) else words


def _trained(
    subject: Subject, params: Any, grads: Any, mean: Callable[[Any], Any] = lambda g: g
) -> Any:
    """(updates, parameters, state) of four steps; `mean` is applied to the gradients of each."""

    def step(carry: Any, g: Any) -> Any:
        s, p = carry
        u, s = subject.update(mean(g), s, p)
        return (s, optax.apply_updates(p, u)), u

    (state, params), updates = jax.lax.scan(step, (subject.tx.init(params), params), grads)
    return updates, params, state


def _replicated(subject: Subject, mesh: Mesh) -> Violation | None:
    """Under pmap and shard_map, the copies on all devices must be equal."""
    n = mesh.size
    average = functools.partial(jax.tree.map, lambda g: jax.lax.pmean(g, "batch"))
    inside = lambda p, g: _trained(subject, p, g, average)

    def copies(dtype: str) -> tuple[Any, Any]:
        params, grads = _problem(n, dtype)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), params), grads

    def split(p: Any, g: Any) -> Any:
        out = inside(*jax.tree.map(lambda x: x[0], (p, g)))
        return jax.tree.map(lambda x: x[None], out)

    spread = {
        "pmap": jax.pmap(inside, axis_name="batch", devices=list(mesh.devices)),
        "shard_map": jax.jit(jax.shard_map(
            split, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"), check_vma=False)),
    }  # fmt: skip
    for name, run in spread.items():
        code = _PLACED + _SPREAD[name]
        wrong = lambda message, code, cause=None: Violation(
            message, {"devices": n}, code, devices=n, cause=cause
        )
        try:
            out = jax.device_get(run(*copies("float32")))
        except Exception as error:
            return wrong(f"under {name}: {type(error).__name__}: {first_line(error)}", code, error)
        if any(x[i].tobytes() != x[0].tobytes() for x in bits(out) for i in range(n)):
            return wrong(
                f"under {name} the replicas differ after four steps of averaged gradients",
                code + _REPLICAS,
            )
        found = functools.partial(_first_replica, run, copies)
        differs = _differs(subject, n, found, name)
        if differs:
            return wrong(
                f"under {name} on {n} devices it is not what it is alone: {differs}",
                code + _COMPARED.format(found="found[name][0]"),
            )
    return None


def _first_replica(run: Any, copies: Callable[[str], tuple[Any, Any]], dtype: str) -> Any:
    return jax.tree.map(lambda x: x[0], run(*copies(dtype)))


def _sharded(subject: Subject, mesh: Mesh) -> Violation | None:
    """Under jit, with parameters and state sharded along their first axis."""
    train = jax.jit(functools.partial(_trained, subject))

    def found(dtype: str) -> Any:
        params, grads = _problem(mesh.size, dtype)
        p = jax.device_put(params, NamedSharding(mesh, P("batch")))
        g = jax.device_put(_mean(grads), NamedSharding(mesh, P(None, "batch")))
        return jax.device_get(train(p, g))

    differs = _differs(subject, mesh.size, found, "sharded")
    if differs is None:
        return None
    return Violation(
        f"with parameters sharded over {mesh.size} devices it is not what it is alone: {differs}",
        {"devices": mesh.size},
        _PLACED + _SPREAD["sharded"] + _COMPARED.format(found="found[name]"),
        devices=mesh.size,
    )


def _apart(found: Any, alone: Any) -> tuple[str, float] | None:
    """The first leaf that differs by more than reordered sums explain: in words, and relatively.

    An update that is a difference of parameters is rounded as they are, hence the second term.
    """
    size = max(float(np.abs(p).max(initial=0)) for p in jax.tree.leaves(alone[1]))
    named = jax.tree_util.tree_flatten_with_path(found[0])[0]
    for (path, x), y in zip(named, jax.tree.leaves(alone[0]), strict=True):
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        near = 1e-4 * np.abs(b) + 1e-5 * np.abs(b).max(initial=0) + 5e-7 * size
        if not np.all(np.abs(a - b) <= near):
            off, longest = float(np.abs(a - b).max()), float(np.abs(b).max(initial=0.0))
            off = off if np.isfinite(off) else np.inf
            words = f"the update of {path_name(path)} is off by {off:.3g}"
            return words, off / max(longest, 1e-300)
    return None


LAWS = (
    Law("placements", "Alone, under pmap, shard_map and sharded jit the trajectory is the same "
        "after a gradient mean, and replicas stay bitwise equal.", placements,
        tolerance="1e-4 relative and 5e-7 of the parameters between placements, or what rounding "
        "makes of it, which float64 tells; replicas bitwise",
        why="sums over devices change their order, four steps amplify"),
)  # fmt: skip
