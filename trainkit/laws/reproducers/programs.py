"""The bodies of reproducers: the run, and the final assertion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import Mismatch
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import literal
from trainkit.laws.reproducers.source import rule

COMPARE = (
    "def run(tx):\n    state, out, p = tx.init(params), [], params\n    for g in grads:\n"
    "        u, state = tx.update(g, state, p)\n        p = optax.apply_updates(p, u)\n"
    "        out.append(u)\n    return out\n"
    "for a, b in zip(run(tx), run({other})):\n"
    "    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
    "        assert {test}, (x, y)"
)
BITWISE = "bool((x == y).all() | jnp.isnan(x).any())"
NEAR = "jnp.allclose(x, y, rtol=1e-5, atol=1e-6 * jnp.abs(x).max(initial=0))"


def inner_code(inner: Any, name: str = "inner") -> str:
    with ordinary():
        return rule(inner, name, None, None)


def one_number(
    case: Case, at: Mismatch, dtype: str, other: Callable[[Case], str] | None = None
) -> str:
    """The body of a reproducer: run `tx` on the case and compare one number."""
    write = lambda flat: _tree_code(cases.tree(np.asarray(flat), case.shapes), dtype)
    lines = ["grads = [" + "\n         ".join(write(g) + "," for g in case.grads) + "]"]
    fixed = not np.any(case.params != case.params[:1])
    if fixed:
        lines.append(f"params = {write(case.params[0])}")
        lines.append("all_params = [params] * len(grads)")
    else:
        rows = "\n              ".join(write(p) + "," for p in case.params)
        lines.append(f"all_params = [{rows}]")
    moves = "\n        moved = jax.tree.map(jnp.add, moved, updates)" if case.follow else ""
    now = "jax.tree.map(jnp.add, p, moved)" if case.follow else "p"
    start = "\n    moved = jax.tree.map(jnp.zeros_like, all_params[0])" if case.follow else ""
    lines.append(
        "@jax.jit\ndef run(all_params, grads):\n"
        f"    state = tx.init(all_params[0]){start}\n"
        "    for g, p in zip(grads, all_params):\n"
        f"        updates, state = tx.update(g, state, {now}){moves}\n"
        "    return updates\n"
    )
    inside = cases.leaves(np.arange(len(case.grads[0])), case.shapes)
    leaf = next(i for i, x in enumerate(inside) if at.at in x)
    pick = f"jax.tree.leaves(updates)[{leaf}].ravel()[{int(at.at - inside[leaf].min())}]"
    lines.append("updates = run(all_params, grads)")
    lines.append(f"found = float({pick})")
    if other is None:
        lines.append(f"expected = {literal(at.expected)}")
    else:
        lines.append(other(case))
        lines.append(f"expected = float({pick})")
    tolerance = at.tolerance if np.isfinite(at.tolerance) else 0.0
    lines.append('print("found", found, "expected", expected)')
    lines.append(f"assert abs(found - expected) <= {tolerance!r}, (found, expected)")
    return "\n".join(lines)


def _tree_code(tree: Any, dtype: str) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {_tree_code(v, dtype)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + ", ".join(_tree_code(v, dtype) for v in tree) + ",)"
    text = repr(np.asarray(tree, np.float64).tolist())
    text = text.replace("nan", "jnp.nan").replace("inf", "jnp.inf")
    return f"jnp.array({text}, '{dtype}')"


def whole_run(case: Case, steps: int) -> str:
    """Lines that define `run(dtype)`, the updates of the first steps, [T, N], scanned."""
    # Print all digits of a float32, because chaotic updates would otherwise differ.
    digits = lambda x: repr([[float(str(np.float32(v))) for v in row] for row in x])
    short = lambda x: f"jnp.array({digits(x).replace('nan', 'jnp.nan')})"
    moves = bool(np.any(case.params[:steps] != case.params[:1]))
    follows = "moved + flat.astype(dtype)" if case.follow else "moved"  # as in subject.scanned
    names = {"bias": (3,), "kernel": (4, 3), "one": (3,), "two": (3,)}
    at, leaves = 0, []
    for name, shape in names.items():
        n = int(np.prod(shape))
        leaves.append(f"'{name}': x[{at}:{at + n}]" + f".reshape{shape}" * (len(shape) > 1))
        at += n
    return (
        f"all_params = {short(case.params[:steps] if moves else case.params[:1])}\n"
        f"all_grads = {short(case.grads[:steps])}\n"
        "all_params = jnp.broadcast_to(all_params, all_grads.shape)\n"
        f"tree = lambda x: {{{', '.join(leaves)}}}\n"
        "def run(dtype):\n    def step(carry, x):\n        state, moved = carry\n"
        "        u, state = tx.update(tree(x[1]), state, tree(x[0] + moved))\n"
        "        flat = jnp.concatenate([v.ravel() for v in jax.tree.leaves(u)])\n"
        f"        return (state, {follows}), flat\n"
        "    def one(x):\n        start = tx.init(tree(x[0][0])), jnp.zeros_like(x[0][0])\n"
        "        return jax.lax.scan(step, start, x)[1]\n"
        "    both = [x.astype(dtype)[None] for x in (all_params, all_grads)]\n"
        "    return jax.jit(lambda *x: jax.lax.map(one, x))(*both)[0]\n"
    )
