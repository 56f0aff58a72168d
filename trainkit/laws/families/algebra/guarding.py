"""The law of guarding: a gradient that is not finite changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import same_bits
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini

LONGEST = 40  # of a row that is tried
BAD = {"a NaN": jnp.nan, "an infinity": jnp.inf, "a negative infinity": -jnp.inf}


@ordinary()
def guards(subject: Subject) -> Violation | None:
    """claims={"guard": True}, or the number of such gradients in a row after which one is let by"""
    limit = subject.claims["guard"]
    limit = None if limit is True or int(limit) > LONGEST else int(limit)
    for words, pattern, value in _patterns(limit):
        found = _followed(subject, words, pattern, value)
        if found:
            return found
    return _let_by(subject, limit) or _of_others(subject)


def _patterns(limit: int | None) -> Iterator[tuple[str, str, float]]:
    """Words, the steps ("." finite, "b" and "w": that leaf is not), and what is in them."""
    for words, value in BAD.items():
        yield f"a gradient with {words}", ".w..", value
        yield f"a gradient with {words} in the first leaf", ".b..", value
    row = 4 if limit is None else limit
    yield f"{row} such gradients in a row", "." + "w" * row + "..", jnp.nan
    yield f"three times {row} such gradients", ("." + "b" * row) * 3 + "..", jnp.nan
    yield "such gradients again and again", ".w.b" * 4 + "..", jnp.inf


def _gradients(pattern: str, value: float) -> list[Any]:
    _, grads = mini()
    out = []
    for i, leaf in enumerate(pattern):
        g = dict(grads[i % len(grads)])
        if leaf != ".":
            g[leaf] = g[leaf].ravel().at[-1].set(value).reshape(g[leaf].shape)
        out.append(g)
    return out


def _followed(subject: Subject, words: str, pattern: str, value: float) -> Violation | None:
    """A violation if finite steps are not as if the others had not been.

    Every step goes on from a state that was on the host, with another instance where there is one.
    """
    params, _ = mini()
    grads, step = _gradients(pattern, value), subject.compiled()
    finite = [i for i, leaf in enumerate(pattern) if leaf == "."]
    example = {"params": params, "gradients": grads, "finite": finite}
    script = setup(params, grads) + f"finite = {finite}\n{_PROGRAM}"
    resumed = [step]
    if subject.is_factory:
        resumed.append(subject.compiled(subject.fresh()))
    state, expected = subject.tx.init(params), []
    for i in finite:
        u, state = step(grads[i], state, params)
        expected.append(u)
    state = subject.tx.init(params)
    for i, g in enumerate(grads):
        u, state = resumed[i % len(resumed)](g, state, params)
        state = jax.device_put(jax.device_get(state))
        if i not in finite and not all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(u)):
            return Violation(
                f"{words}: at step {i + 1} a gradient that is not finite moves the parameters",
                example, script)  # fmt: skip
        if i in finite and not same_bits(u, expected[finite.index(i)]):
            return Violation(
                f"{words}: the finite step {i + 1} is not as if the others had not been",
                example, script)  # fmt: skip
    return None


def _let_by(subject: Subject, limit: int | None) -> Violation | None:
    """A violation if it still ignores such a gradient after the claimed number of them."""
    if limit is None:
        return None
    params, _ = mini()
    grads = _gradients("w" * (limit + 1), jnp.nan)
    step, state = subject.compiled(), subject.tx.init(params)
    for g in grads:
        u, state = step(g, state, params)
    if any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(u)):
        return None
    return Violation(
        f"after {limit} gradients in a row that are not finite the next one is ignored, too",
        {"params": params, "gradients": grads},
        setup(params, grads) + "state = tx.init(params)\nfor g in grads:\n"
        "    u, state = jax.jit(tx.update)(g, state, params)\n"
        "assert any((x != 0).any() for x in jax.tree.leaves(u)), u",
    )


def _of_others(subject: Subject) -> Violation | None:
    """A violation if, inside a mask, a leaf outside of the mask is guarded against."""
    params, grads = mini()
    tx = optax.masked(subject.tx, {"b": False, "w": True})
    step = subject.compiled(tx)
    runs = []
    for gs in (grads, [g | {"b": g["b"] * jnp.nan} for g in grads]):
        state, out = tx.init(params), []
        for g in gs:
            u, state = step(g, state, params)
            out.append(u["w"])
        runs.append(out)
    if same_bits(*runs):
        return None
    broken = grads[0] | {"b": grads[0]["b"] * jnp.nan}
    return Violation(
        "inside optax.masked it looks at a leaf that the mask leaves out",
        {"params": params, "gradients": [broken]},
        setup(params, [grads[0], broken]) + "tx = optax.masked(tx, {'b': False, 'w': True})\n"
        "u, v = (tx.update(g, tx.init(params), params)[0]['w'] for g in grads)\n"
        "assert (u == v).all(), (u, v)",
    )


_PROGRAM = """def run(grads):
    state, out = tx.init(params), []
    for g in grads:
        u, state = jax.jit(tx.update)(g, state, params)
        out.append(u)
    return out
all_steps = run(grads)
for u, v in zip([all_steps[i] for i in finite], run([grads[i] for i in finite])):
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v))), (u, v)
for i in set(range(len(grads))) - set(finite):
    u = all_steps[i]
    assert all((x == 0).all() for x in jax.tree.leaves(u)), u"""

LAWS = (
    Law("guard", "Gradients that are not finite, one, several or many, leave parameters and state "
        "as they were, up to the claimed number in a row.", guards, claim="guard",
        tolerance="bitwise", why="the same operations on the same numbers"),
)  # fmt: skip
