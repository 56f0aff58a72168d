"""Laws of names: of leaves, of arguments, and of parameter-shaped leaves in a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import path_name
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems import cases
from trainkit.laws.problems.comparison import RELATIVE, Mismatch, mismatch, same_bits
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.reproducers.programs import whole_run
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.operations import draws
from trainkit.laws.subject.update_pairs import first_difference


def extra_arguments(subject: Subject) -> Violation | None:
    params, grads = mini()
    tx = subject.tx
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        raise NotApplicable("it does not say that it takes extra arguments")
    found = "an extra argument that is not its own changes the update"
    with ordinary():
        extra = subject.extra(params, grads[0])
        state = tx.init(params)
        plain = tx.update(grads[0], state, params, **extra)
        extra["_of_no_concern"] = jnp.array(3.0)
        chained = optax.chain(optax.identity(), tx)
        try:
            more = tx.update(grads[0], state, params, **extra)
            inside, _ = chained.update(grads[0], chained.init(params), params, **extra)
            if same_bits(plain, more) and same_bits(inside, plain[0]):
                return None
        except Exception as error:
            found = (
                "it says that it takes extra arguments, and refuses one that is not its own: "
                f"{type(error).__name__}: {first_line(error)}"
            )
    return Violation(
        found,
        {"params": params, "gradients": grads[0]},
        setup(params, grads[0]) + "a, _ = tx.update(grads, tx.init(params), params)\n"
        "b, _ = tx.update(grads, tx.init(params), params, _of_no_concern=jnp.array(3.0))\n"
        "for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
        "    assert (x == y).all(), (x, y)",
    )


def leaf_names(subject: Subject) -> Violation | None:
    if subject.chooses_leaves:
        raise NotApplicable("its mask may choose leaves by their names or places")
    if draws(subject):  # a key for each leaf, in their order: only names that keep the order
        return _renamed(subject, [names for names in NAMES if names == tuple(sorted(names))])
    return _exchanged(subject) or _renamed(subject, NAMES)


def _exchanged(subject: Subject) -> Violation | None:
    """Exchanging two leaves of one shape must exchange their updates."""
    order = cases.swap()

    def wrong(dtype: str, near: Callable[[Any], Any]) -> tuple[Mismatch | None, Any]:
        runs = subject.runs(dtype)
        expected = runs["plain"].flat[:, order]
        return mismatch(runs["swapped"].flat, expected, near(expected)), expected

    first, expected = wrong(
        "float32", lambda e: RELATIVE * np.abs(e) + RELATIVE / 10 * np.abs(e).max()
    )
    if first is None:
        return None
    agree = lambda: wrong("float64", lambda e: 1e-10 * np.abs(e).max() + 0 * e)[0] is None
    gap = abs(first.found - first.expected) / np.abs(expected).max()
    if subject.only_rounding(float(gap), agree, "leaf names"):
        return None
    case = subject.runs().batch.case("plain")
    return Violation(
        f"two leaves of one shape that exchange their places get other updates "
        f"(step {first.step + 1}: {first.found:.6g} where {first.expected:.6g} was expected)",
        {"params": case.params[0], "gradients": case.grads[: first.step + 1],
         "found": first.found, "expected": first.expected},
        whole_run(case, first.step + 1)
        + f"swapped = jnp.array({order.tolist()})  # the last two leaves exchange their places\n"
        "one = run('float32')[-1][swapped]\n"
        "all_params, all_grads = all_params[:, swapped], all_grads[:, swapped]\n"
        "two = run('float32')[-1]\nprint(one)\nprint(two)\n"
        "assert jnp.allclose(one, two, rtol=1e-5, atol=1e-6 * abs(one).max()), (one, two)",
    )  # fmt: skip


# Names that sort in another order, and names of layers.
NAMES = (("zeta", "alpha"), ("bias", "kernel"), ("kernel", "bias"), ("scale", "embedding"))


def _renamed(subject: Subject, tried: Sequence[tuple[str, str]]) -> Violation | None:
    """Renaming leaves must not change their updates."""
    params, grads = mini()
    named = lambda t, names: dict(zip(names, t.values(), strict=True))
    as_named = lambda p, gs: subject.trajectory(subject.tx, p, gs)
    for names in tried:
        renamed = lambda p, gs, names=names: [
            dict(zip(params, (u[n] for n in names), strict=True))
            for u in as_named(named(p, names), [named(g, names) for g in gs])
        ]
        apart = first_difference(subject, as_named, renamed, "leaf names", steps=3)
        if apart:
            t, expected, found = apart
            p, g = named(params, names), [named(g, names) for g in grads[: t + 1]]
            return Violation(
                f"with leaves named {names[0]} and {names[1]} the updates are others",
                {"params": p, "gradients": g, "found": found, "expected": expected},
                setup([params, p], [grads[: t + 1], g])
                + "def run(params, grads):\n    state = tx.init(params)\n    for g in grads:\n"
                "        u, state = tx.update(g, state, params)\n"
                "        params = optax.apply_updates(params, u)\n    return u\n"
                "a, b = run(params[0], grads[0]), run(params[1], grads[1])\n"
                f"for x, y in ((a['b'], b[{names[0]!r}]), (a['w'], b[{names[1]!r}])):\n"
                "    assert jnp.allclose(x, y, rtol=1e-5, atol=1e-6 * abs(x).max()), (a, b)",
            )
    return None


def map_params(subject: Subject) -> Violation | None:
    params, _ = mini()
    params = {"b": params["b"], "w": params["w"]}
    with ordinary():
        state = subject.tx.init(params)
        seen = optax.tree_map_params(subject.tx, lambda x: "seen", state)
        missed = [
            path_name(path)
            for (path, x), y in zip(
                jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(seen), strict=True
            )
            if jnp.shape(x) in {(3,), (2, 3)} and not isinstance(y, str)
        ]
    return Violation(
        f"optax.tree_map_params does not see {', '.join(missed)}", {"params": params},
        setup(params, params) + "state = tx.init(params)\n"
        "seen = optax.tree_map_params(tx, lambda x: 'seen', state)\n"
        "pairs = zip(jax.tree.leaves(state), jax.tree.leaves(seen))\n"
        "shaped = lambda x: jnp.shape(x) in {(3,), (2, 3)}\n"
        "missed = [x for x, y in pairs if shaped(x) and not isinstance(y, str)]\n"
        "assert not missed, missed",
    ) if missed else None  # fmt: skip


LAWS = (
    Law("extra arguments", "A rule that takes extra arguments ignores those that are not its "
             "own.", extra_arguments),
    Law("leaf names", "Renaming or reordering leaves renames or reorders the updates.",
             leaf_names, tolerance="1e-5 relative and 1e-6 of the largest entry",
             why="sums over leaves change their order"),
    Law("map params", "optax.tree_map_params sees every leaf of the state that is shaped like "
             "a parameter.", map_params, claim="map params"),
)  # fmt: skip
