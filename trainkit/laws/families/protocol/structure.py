"""Laws of structure: the trees, shapes and dtypes of updates and states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name
from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import same_tree
from trainkit.laws.problems.trees import cast, structures
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def shapes_of(subject: Subject, params: Any, grads: Any) -> tuple[Any, Any, Any]:
    """(state, updates, next state) as shapes and dtypes; nothing is compiled."""
    state = jax.eval_shape(subject.tx.init, params)
    updates, after = jax.eval_shape(lambda g, s, p: subject.update(g, s, p), grads, state, params)
    return state, updates, after


CHECK_TREE = (
    "updates, _ = tx.update(grads, tx.init(params), params)\n"
    "what = lambda t: jax.tree.map(lambda x: (jnp.shape(x), str(x.dtype)), t)\n"
    "assert what(updates) == what(grads), (what(updates), what(grads))"
)


def structure(subject: Subject) -> Iterator[Violation]:
    failed = False
    trees = structures()
    if subject.claims.get("per example"):
        del trees["an empty tree"]  # it has no number of examples
    for name, params in trees.items():
        code = setup(params, params) + CHECK_TREE
        with ordinary():
            try:
                _, updates, _ = shapes_of(subject, params, params)
            except Exception as error:
                if not failed and name == "nested dicts":
                    raise  # the rule fails on the plainest of trees, which is no matter of trees
                failed = True
                message = f"{name}: {type(error).__name__}: {first_line(error)}"
                yield Violation(message, {"params": params}, code, cause=error)
                continue
        wrong = same_tree(updates, params, types=False)
        if wrong:
            yield Violation(f"{name}: the updates have {wrong}", {"params": params}, code)
    # Empty leaves must not make others NaN (the mean of an empty array is NaN).
    params = {"z": jnp.zeros((0, 2)), "s": jnp.array(1.5), "v": jnp.array([1.0, -2.0])}
    with ordinary():
        try:
            updates = subject.trajectory(subject.tx, params, [params, params])[-1]
        except Exception:
            return  # the trees above have said so
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(updates)):
        yield Violation(
            "a leaf of size 0 among others makes the update not finite",
            {"params": params, "gradients": params, "found": updates},
            setup(params, params) + "updates, _ = tx.update(grads, tx.init(params), params)\n"
            "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates)), updates",
        )


STATE_CHECK = (
    "state = tx.init(params)\n_, after = tx.update(grads, state, params)\n"
    "what = lambda t: (jax.tree.structure(t), [(jnp.shape(x), str(x.dtype), getattr(x, "
    "'weak_type', False)) for x in jax.tree.leaves(t)])\n"
    "assert what(after) == what(state), (state, after)"
)


def state_fixpoint(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for dtype in ("float32", "bfloat16"):
        p, g = cast(params, dtype), cast(grads[0], dtype)
        with ordinary():
            before = subject.tx.init(p)
            state, _, after = shapes_of(subject, p, g)
            wrong = same_tree(after, before)
            weak = lambda t: [bool(getattr(x, "weak_type", False)) for x in jax.tree.leaves(t)]
            if not wrong and weak(before) != weak(after):
                i = next(i for i, (a, b) in enumerate(zip(weak(before), weak(after), strict=True))
                         if a != b)  # fmt: skip
                path = jax.tree_util.tree_flatten_with_path(state)[0][i][0]
                wrong = f"another weak type at {path_name(path)}"
        if wrong:
            yield Violation(
                f"in {dtype}, after one update the state has {wrong}",
                {"params": p, "gradients": g, "state before": state, "state after": after},
                setup(p, g) + STATE_CHECK,
            )
            return
    # Repeat with later states, because a structure may change at the second step.
    with ordinary():
        state = subject.tx.init(params)
        for t, g in enumerate(grads[:3]):
            _, after = subject.update(g, state, params)
            wrong = same_tree(after, state)
            if wrong:
                yield Violation(
                    f"after update {t + 1} the state has {wrong}",
                    {"params": params, "gradients": grads[: t + 1]},
                    setup(params, grads[0]) + STATE_CHECK,
                )
                return
            state = after


def abstract_init(subject: Subject) -> Violation | None:
    params, _ = mini()
    code = setup(params, params) + (
        "what = lambda t: jax.tree.map(lambda x: (x.shape, str(x.dtype)), t)\n"
        "a, b = what(jax.eval_shape(tx.init, params)), what(tx.init(params))\nassert a == b, (a, b)"
    )
    with ordinary():
        wrong = same_tree(jax.eval_shape(subject.tx.init, params), subject.tx.init(params))
    return (
        Violation(f"jax.eval_shape(init) has {wrong}", {"params": params}, code) if wrong else None
    )


def abstract_params(subject: Subject) -> Violation | None:
    params, _ = mini()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    with ordinary():
        wrong = same_tree(subject.tx.init(shapes), subject.tx.init(params))
    return (
        Violation(f"init on ShapeDtypeStructs has {wrong}", {"params": params}, ABSTRACT)
        if wrong
        else None
    )


ABSTRACT = (
    "params = {'b': jnp.array([1.0, 2.0, 3.0]), 'w': jnp.ones((2, 3))}\n"
    "shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)\n"
    "what = lambda t: jax.tree.map(lambda x: (jnp.shape(x), str(x.dtype)), t)\n"
    "assert what(tx.init(shapes)) == what(tx.init(params)), tx.init(shapes)"
)


LAWS = (
    Law("structure", "Updates have the gradients' tree and shapes, whatever containers and "
             "shapes they come in.", structure),
    Law("state fixpoint", "An update keeps the state's tree, shapes, dtypes and weak types.",
             state_fixpoint),
    Law("abstract init", "jax.eval_shape(init) agrees with init.", abstract_init),
    Law("abstract parameters", "init works on ShapeDtypeStructs.", abstract_params,
             level="strict"),
)  # fmt: skip
