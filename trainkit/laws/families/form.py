"""Laws of form: what the protocol promises about trees and types, and the list with purity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.families.donation import donation
from trainkit.laws.families.precision import whole_run
from trainkit.laws.families.purity import jit_is_eager, one_compile, purity
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems.trees import cast, same_bits, same_tree, setup, structures
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.reproducers.compare import parting
from trainkit.laws.subject import Subject, mini

DOC = "the protocol of optax.GradientTransformation"


def _shapes(subject: Subject, params: Any, grads: Any) -> tuple[Any, Any, Any]:
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
    said = set()
    for name, params in structures().items():
        code = setup(params, params) + CHECK_TREE
        with ordinary():
            try:
                _, updates, _ = _shapes(subject, params, params)
            except Exception as error:
                if str(error) in said:
                    continue  # the same cause in another tree
                said.add(str(error))
                yield Violation(
                    f"{name}: {type(error).__name__}: {first_line(error)}",
                    {"params": params},
                    code,
                )
                continue
        wrong = same_tree(updates, params, types=False)
        if wrong:
            yield Violation(f"{name}: the updates have {wrong}", {"params": params}, code)
    # Empty leaves must not poison the others (a mean over nothing is NaN).
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


def no_promotion(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for dtype in ("float32", "bfloat16", *(("float16",) if subject.level == "strict" else ())):
        p, g = cast(params, dtype), cast(grads[0], dtype)
        code = setup(p, g) + CHECK_TREE
        with ordinary():
            _, updates, _ = _shapes(subject, p, g)
        wrong = same_tree(updates, g)
        if wrong:
            yield Violation(
                f"with parameters and gradients of {dtype}: {wrong}",
                {"params": p, "gradients": g, "found": updates},
                code,
                level="strict" if dtype == "float16" else None,
            )
            return


def no_promotion_mixed(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for pd, gd in (("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16")):
        p, g = cast(params, pd), cast(grads[0], gd)
        with ordinary():
            state, updates, after = _shapes(subject, p, g)
            wrong = same_tree(after, state)
        if wrong:
            yield Violation(
                f"parameters {pd}, gradients {gd}: after one update the state has {wrong}",
                {"params": p, "gradients": g},
                setup(p, g) + STATE_CHECK,
            )
            return
        wrong = same_tree(updates, g)
        if wrong and same_tree(updates, p):
            yield Violation(
                f"parameters {pd}, gradients {gd}: the updates have neither's dtype: {wrong}",
                {"params": p, "gradients": g},
                setup(p, g) + CHECK_TREE,
            )
            return


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
            state, _, after = _shapes(subject, p, g)
            wrong = same_tree(after, before)
            weak = lambda t: [bool(getattr(x, "weak_type", False)) for x in jax.tree.leaves(t)]
            if not wrong and weak(before) != weak(after):
                i = next(i for i, (a, b) in enumerate(zip(weak(before), weak(after), strict=True))
                         if a != b)  # fmt: skip
                path = jax.tree_util.tree_flatten_with_path(state)[0][i][0]
                wrong = f"another weak type at {jax.tree_util.keystr(path)}"
        if wrong:
            yield Violation(
                f"in {dtype}, after one update the state has {wrong}",
                {"params": p, "gradients": g, "state before": state, "state after": after},
                setup(p, g) + STATE_CHECK,
            )
            return
    # Again, with the state of later steps: a structure may change at the second.
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


def leaf_names(subject: Subject) -> Iterator[Violation]:
    # Two leaves of one shape exchange their places: their updates must do the same.
    from trainkit.laws.problems import cases
    from trainkit.laws.problems.shrink import mismatch

    if subject.chooses_leaves:
        raise NotApplicable("its mask may choose leaves by their names or places")
    order = cases.swap()
    plain, swapped = subject.run("plain").flat, subject.run("swapped").flat
    expected = plain[:, order]
    near = 1e-5 * np.abs(expected) + 1e-6 * np.abs(expected).max()
    wrong = mismatch(swapped, expected, near)
    params, grads = mini()

    def agree_in_float64() -> bool:
        runs = subject.runs("float64")
        want = runs["plain"].flat[:, order]
        return mismatch(runs["swapped"].flat, want, 1e-10 * np.abs(want).max() + 0 * want) is None

    gap = abs(wrong.found - wrong.expected) / np.abs(expected).max() if wrong else 0.0
    if wrong and not subject.only_rounding(float(gap), agree_in_float64, "leaf names"):
        case = subject.runs().batch.case("plain")
        script = whole_run(case, wrong.step + 1) + (
            f"swapped = jnp.array({order.tolist()})  # the last two leaves exchange their places\n"
            "one = run('float32')[-1][swapped]\n"
            "all_params, all_grads = all_params[:, swapped], all_grads[:, swapped]\n"
            "two = run('float32')[-1]\nprint(one)\nprint(two)\n"
            "assert jnp.allclose(one, two, rtol=1e-5, atol=1e-6 * abs(one).max()), (one, two)"
        )
        yield Violation(
            f"two leaves of one shape that exchange their places get other updates "
            f"(step {wrong.step + 1}: {wrong.found:.6g} where {wrong.expected:.6g} was expected)",
            {
                "params": case.params[0],
                "gradients": case.grads[: wrong.step + 1],
                "found": wrong.found,
                "expected": wrong.expected,
            },
            script,
        )
        return
    # Other names, in another order of sorting: the updates are the same, under the new names.
    named = lambda t, names: dict(zip(names, t.values(), strict=True))
    tries = (("zeta", "alpha"), ("bias", "kernel"), ("kernel", "bias"), ("scale", "embedding"))
    as_named = lambda p, gs: subject.trajectory(subject.tx, p, gs)
    for names in tries:
        renamed = lambda p, gs, names=names: [
            dict(zip(params, (u[n] for n in names), strict=True))
            for u in as_named(named(p, names), [named(g, names) for g in gs])
        ]
        apart = parting(subject, as_named, renamed, "leaf names", steps=3)
        if apart:
            t, expected, found = apart
            p, g = named(params, names), [named(g, names) for g in grads[: t + 1]]
            yield Violation(
                f"with leaves named {names[0]} and {names[1]} the updates are others",
                {"params": p, "gradients": g, "found": found, "expected": expected},
                setup([params, p], [grads[: t + 1], g])
                + "def run(params, grads):\n    state = tx.init(params)\n    for g in grads:\n"
                "        u, state = tx.update(g, state, params)\n"
                "        params = optax.apply_updates(params, u)\n    return u\n"
                "a, b = run(params[0], grads[0]), run(params[1], grads[1])\n"
                f"assert jnp.allclose(a['b'], b[{names[0]!r}], rtol=1e-5, atol=1e-6), (a, b)\n"
                f"assert jnp.allclose(a['w'], b[{names[1]!r}], rtol=1e-5, atol=1e-6), (a, b)",
            )
            return


def map_params(subject: Subject) -> Violation | None:
    params, _ = mini()
    params = {"b": params["b"], "w": params["w"]}
    with ordinary():
        state = subject.tx.init(params)
        seen = optax.tree_map_params(subject.tx, lambda x: "seen", state)
        missed = [
            jax.tree_util.keystr(path)
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


def form(name: str, statement: str, check: Any, **more: Any) -> Law:
    defaults = {
        "reference": DOC,
        "tolerance": "exact",
        "why": "nothing is computed",
        "group": "form",
    }
    return Law(name, statement, check, **(defaults | more))


LAWS = (
    form("purity", "The same inputs give the same bits, whatever was called before or beside, and "
         "inputs are left as they were.", purity,
         why="the same operations on the same numbers"),
    form("jit is eager", "Jitted and eager updates agree.", jit_is_eager,
         tolerance="1e-5 relative and 1e-6 of the largest entry",
         why="XLA may fuse and reassociate; float32 has 6e-8"),
    form("structure", "Updates have the gradients' tree and shapes, whatever containers and shapes "
         "they come in.", structure),
    form("no promotion", "Gradients and parameters of one dtype give updates of that dtype.",
         no_promotion),
    form("state fixpoint", "An update keeps the state's tree, shapes, dtypes and weak types.",
         state_fixpoint),
    form("abstract init", "jax.eval_shape(init) agrees with init.", abstract_init),
    form("one compile", "The second call, and a call on a restored state, compile nothing.",
         one_compile),
    form("donation", "State and parameters own distinct buffers, so that donating both works.",
         donation),
    form("extra arguments", "A rule that takes extra arguments ignores those that are not its own.",
         extra_arguments),
    form("leaf names", "Renaming or reordering leaves renames or reorders the updates.",
         leaf_names, tolerance="1e-5 relative and 1e-6 of the largest entry",
         why="sums over leaves change their order"),
    form("map params", "optax.tree_map_params sees every leaf of the state that is shaped like a "
         "parameter.", map_params, claim="map params"),
    form("mixed dtypes", "Parameters of one dtype and gradients of another keep the state's "
         "dtypes, and the updates have one of the two.", no_promotion_mixed, level="strict"),
    form("abstract parameters", "init works on ShapeDtypeStructs.", abstract_params,
         level="strict"),
)  # fmt: skip
