"""The law of collectives: a rule uses no device axis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from trainkit._core.jaxprs import equations
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject, mini

# Usual names of device axes, which are defined while the rule runs.
AXES = ("batch", "data", "devices", "device", "i", "x", "dp", "replica", "replicas", "model",
        "fsdp", "axis", "num_devices", "shard", "p", "axis_name", "workers")  # fmt: skip


COLLECTIVE = ("axis_index", "psum", "pmean", "pmax", "pmin", "all_gather", "all_to_all",
              "ppermute", "reduce_scatter", "psum_scatter", "pgather")  # fmt: skip


@contextlib.contextmanager
def _asked() -> Iterator[set[str]]:
    """The axes that collectives use in this context, even inside a `try`."""
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


LAWS = (
    Law("no collective", "The rule asks for no device axis, so that it is the same everywhere.",
        no_collective, tolerance="exact",
        why="it is read off the program"),
)  # fmt: skip
