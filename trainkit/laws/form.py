"""Laws of form: what the protocol promises about trees, types, purity and compilation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.source import literal
from trainkit.laws.subject import Subject, first_line, mini, ordinary

DOC = "the protocol of optax.GradientTransformation"


class Pair(NamedTuple):
    """A user's own container, as parameter trees have them."""

    first: Any
    second: Any


def structures(dtype: str = "float32") -> dict[str, Any]:
    """Parameter trees of every form, small; values differ from leaf to leaf."""
    rng = np.random.default_rng(3)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.dtype(dtype))
    return {
        "nested dicts": {"a": {"b": {"c": draw(2)}, "d": draw(3)}},
        "a tuple": (draw(2), draw(2, 2)),
        "a list": [draw(2), [draw(3)]],
        "a NamedTuple": Pair(draw(2), {"x": draw(3)}),
        "a bare array": draw(3),
        "an empty tree": {},
        "an empty subtree": {"a": draw(2), "none": {}, "nothing": (), "no": None},
        "a scalar leaf": {"s": draw(), "v": draw(2)},
        "a leaf of size 0": {"z": draw(0), "v": draw(2), "m": draw(0, 3)},
        "a 1×1 leaf": {"m": draw(1, 1), "v": draw(1)},
        "a leaf of rank 4": {"k": draw(2, 1, 3, 2)},
    }


def _same_tree(found: Any, wanted: Any, types: bool = True) -> str | None:
    """What differs in structure, shape or dtype, or None."""
    a: Any
    b: Any
    a, b = jax.tree.structure(found), jax.tree.structure(wanted)
    if a != b:
        return f"the tree {a} where {b} was expected"
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(wanted), strict=True
    ):
        where = f"leaf {jax.tree_util.keystr(path) or '(the whole)'}"
        if jnp.shape(x) != jnp.shape(y):
            return f"{where} has shape {jnp.shape(x)} where {jnp.shape(y)} was expected"
        if types and _dtype(x) != _dtype(y):
            return f"{where} is {_dtype(x)} where {_dtype(y)} was expected"
    return None


def _dtype(x: Any) -> str:
    return str(getattr(x, "dtype", None) or jnp.result_type(x))


def _bits(tree: Any) -> list[Any]:
    out = []
    for x in jax.tree.leaves(tree):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        out.append(np.asarray(x))
    return out


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees hold the same values to the last bit (NaN equals NaN)."""
    xs, ys = _bits(a), _bits(b)
    return len(xs) == len(ys) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(xs, ys, strict=True)
    )


def tree_code(tree: Any) -> str:
    """A tree as an expression; user containers become tuples, as a reproducer has no such class."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tree_code(tuple(tree))
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {tree_code(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + "".join(tree_code(v) + ", " for v in tree) + ")"
    if isinstance(tree, list):
        return "[" + ", ".join(tree_code(v) for v in tree) + "]"
    return literal(tree)


def setup(params: Any, grads: Any) -> str:
    return f"params = {tree_code(params)}\ngrads = {tree_code(grads)}\n"


def purity(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    kept_params, kept_grads = mini()  # what is shown is what was given, whatever becomes of it
    code = setup(params, grads[:3]) + "state = tx.init(params)\n"
    with ordinary():
        tx = subject.fresh()
        state = tx.init(params)
        once, after = subject.update(grads[0], state, params, tx=tx)
        # Nothing that was passed in has changed, containers included.
        mine = jax.tree.map(lambda x: x, (grads[1], after, params))
        held, before = copy.deepcopy(_containers(mine)), _bits(mine)
        subject.update(mine[0], mine[1], mine[2], tx=tx)
        if _containers(mine) != held or not all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(_bits(mine), before, strict=True)
        ):
            yield Violation(
                "update changed a container that it was given (gradients, state or parameters)",
                {"params": kept_params, "gradients": kept_grads[:2]},
                code + "import copy\nwords = lambda: str((grads[0], state, params))\n"
                "before = words()\ntx.update(grads[0], state, params)\n"
                "assert words() == before, (before, words())",
            )
            return
        # NumPy gradients, which an `*=` would overwrite; a rule need not accept them.
        arrays = jax.tree.map(lambda x: np.array(x), (grads[2], params))
        unchanged = copy.deepcopy(arrays)
        try:
            subject.update(arrays[0], state, arrays[1], tx=tx)
            touched = not same_bits(arrays, unchanged)
        except Exception:
            touched = False
        if touched:
            yield Violation(
                "update wrote into the NumPy arrays that it was given",
                {"params": kept_params, "gradients": kept_grads[:1]},
                setup(kept_params, kept_grads[0]) + "import numpy as np\n"
                "g = jax.tree.map(np.array, grads)\n"
                "tx.update(g, tx.init(params), jax.tree.map(np.array, params))\n"
                "assert all((a == b).all() for a, b in zip(jax.tree.leaves(g), "
                "jax.tree.leaves(grads))), (g, grads)",
            )
            return

        # The same call later, after other calls and other instances, gives the same bits.
        busy = subject.fresh()
        other = busy.init(jax.tree.map(lambda p: 2 * p, params))
        for g in grads[3:]:
            _, other = subject.update(jax.tree.map(lambda x: 3 * x, g), other, params, tx=busy)
        again, after_again = subject.update(grads[0], state, params, tx=tx)
        third = subject.fresh()
        anew, after_anew = subject.update(grads[0], third.init(params), params, tx=third)
        for what, u, s in (
            ("the same call made again", again, after_again),
            ("a new instance of the rule", anew, after_anew),
        ):
            if not (same_bits(u, once) and same_bits(s, after)):
                yield Violation(
                    f"{what} gave another result: something is remembered outside the state",
                    {"params": params, "gradients": grads[0], "found": u, "expected": once},
                    code + "once, _ = tx.update(grads[0], state, params)\n"
                    "for g in grads:\n    _, s = tx.update(g, tx.init(params), params)\n"
                    "again, _ = tx.update(grads[0], tx.init(params), params)\n"
                    "same = jax.tree.map(lambda a, b: bool((a == b).all()), once, again)\n"
                    "assert all(jax.tree.leaves(same)), (once, again)",
                )
                return


def _containers(tree: Any) -> Any:
    """The tree's containers and the identity of what they hold."""
    if isinstance(tree, dict):
        return {k: _containers(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_containers(v) for v in tree]
    return id(tree)


def _spread(expected: np.ndarray) -> np.ndarray:
    """What rounding may do in float32, relative to the largest number around."""
    return 1e-5 * np.abs(expected) + 1e-6 * np.abs(expected).max(initial=0.0)


def jit_is_eager(subject: Subject) -> Violation | None:
    params, grads = mini()
    code = setup(params, grads) + (
        "def run(update):\n    state, out = tx.init(params), []\n    for g in grads:\n"
        "        u, state = update(g, state, params)\n        out.append(u)\n    return out\n"
    )
    eager = subject.trajectory(subject.tx, params, grads, apply=False, eager=True)
    with ordinary():
        step = jax.jit(lambda g, s, p: subject.update(g, s, p))
        subject.memo["jitted step"] = step
        try:
            state, jitted = subject.tx.init(params), []
            for g in grads:
                u, state = step(g, state, params)
                jitted.append(u)
        except Exception as error:
            return Violation(
                f"it runs eagerly but not under jit: {type(error).__name__}: {first_line(error)}",
                {"params": params, "gradients": grads[0]},
                code + "run(tx.update)\nrun(jax.jit(tx.update))",
            )
    t, gap = _gap(eager, jitted)
    if gap <= 1 or subject.only_rounding(1e-5 * gap, lambda: _jit_in_float64(subject), "jit"):
        return None
    return Violation(
        f"at step {t + 1} the jitted update differs from the eager one",
        {"params": params, "gradients": grads[: t + 1], "found": jitted[t], "expected": eager[t]},
        code + "for a, b in zip(run(tx.update), run(jax.jit(tx.update))):\n"
        "    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
        "        assert jnp.allclose(x, y, rtol=1e-5, atol=1e-6), (x, y)",
    )


def _gap(one: list[Any], two: list[Any], tight: float = 1.0) -> tuple[int, float]:
    """(step, how many times the tolerance) of the largest difference of two runs."""
    worst, at = 0.0, 0
    for t, (a, b) in enumerate(zip(one, two, strict=True)):
        for x, y in zip(_bits(a), _bits(b), strict=True):
            x, y = x.astype(np.float64), y.astype(np.float64)
            with np.errstate(all="ignore"):
                ratio = np.abs(x - y) / (tight * _spread(x) + 1e-300)
            ratio = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, ratio)
            ratio = np.nan_to_num(ratio, nan=np.inf, posinf=np.inf)
            if ratio.max(initial=0.0) > worst:
                worst, at = float(ratio.max()), t
    return at, worst


def _jit_in_float64(subject: Subject) -> bool:
    params, grads = mini("float64")
    step = jax.jit(lambda g, s, p: subject.update(g, s, p))
    state, jitted = subject.tx.init(params), []
    for g in grads:
        u, state = step(g, state, params)
        jitted.append(u)
    eager = subject.trajectory(subject.tx, params, grads, apply=False, eager=True)
    return _gap(eager, jitted, tight=1e-5)[1] <= 1


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
        wrong = _same_tree(updates, params, types=False)
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


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), tree)


def no_promotion(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for dtype in ("float32", "bfloat16", *(("float16",) if subject.level == "strict" else ())):
        p, g = _cast(params, dtype), _cast(grads[0], dtype)
        code = setup(p, g) + CHECK_TREE
        with ordinary():
            _, updates, _ = _shapes(subject, p, g)
        wrong = _same_tree(updates, g)
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
        p, g = _cast(params, pd), _cast(grads[0], gd)
        with ordinary():
            state, updates, after = _shapes(subject, p, g)
            wrong = _same_tree(after, state)
        if wrong:
            yield Violation(
                f"parameters {pd}, gradients {gd}: after one update the state has {wrong}",
                {"params": p, "gradients": g},
                setup(p, g) + STATE_CHECK,
            )
            return
        wrong = _same_tree(updates, g)
        if wrong and _same_tree(updates, p):
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
        p, g = _cast(params, dtype), _cast(grads[0], dtype)
        with ordinary():
            before = subject.tx.init(p)
            state, _, after = _shapes(subject, p, g)
            wrong = _same_tree(after, before)
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
            wrong = _same_tree(after, state)
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
        wrong = _same_tree(jax.eval_shape(subject.tx.init, params), subject.tx.init(params))
    return (
        Violation(f"jax.eval_shape(init) has {wrong}", {"params": params}, code) if wrong else None
    )


def abstract_params(subject: Subject) -> Violation | None:
    params, _ = mini()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    with ordinary():
        wrong = _same_tree(subject.tx.init(shapes), subject.tx.init(params))
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


def one_compile(subject: Subject) -> Violation | None:
    params, grads = mini()
    with ordinary():
        count = 0

        def counted(g: Any, s: Any, p: Any) -> Any:
            nonlocal count
            count += 1
            return subject.update(g, s, p)

        step = jax.jit(counted)
        state = subject.tx.init(params)
        for g in grads[:3]:
            _, state = step(g, state, params)
        traced = count
        device = jax.local_devices()[0]
        back = jax.tree.map(lambda x: jax.device_put(jax.device_get(x), device), state)
        step(grads[3], back, params)
    if count == 1:
        return None
    when = "on the state that the first returned" if traced > 1 else "on a restored state"
    return Violation(
        f"a call {when} was traced and compiled again ({count} times in all)",
        {"params": params, "gradients": grads[:3]},
        setup(params, grads[:3]) + "count = 0\ndef update(g, s, p):\n    global count\n"
        "    count += 1\n    return tx.update(g, s, p)\nstep = jax.jit(update)\n"
        "state = tx.init(params)\nfor g in grads:\n    _, state = step(g, state, params)\n"
        "state = jax.tree.map(lambda x: jax.device_put(jax.device_get(x)), state)\n"
        "step(grads[0], state, params)\nassert count == 1, count",
    )


def donation(subject: Subject) -> Violation | None:
    params, grads = mini()
    code = setup(params, grads[:2]) + (
        "def step(g, state, params):\n    updates, state = tx.update(g, state, params)\n"
        "    return optax.apply_updates(params, updates), state\n"
        "step = jax.jit(step, donate_argnums=(1, 2))\nstate = tx.init(params)\n"
        "for g in grads:\n    params, state = step(g, state, params)\n"
        "jax.block_until_ready(params)"
    )
    example = {"params": params, "gradients": grads[:2]}
    with ordinary():
        tx = subject.fresh()
        state = tx.init(params)
        shared = _shared(params, state)
        if shared:
            return Violation(f"init: {shared}", example, code)

        def step(g: Any, state: Any, params: Any) -> Any:
            updates, state = subject.update(g, state, params, tx=tx)
            return optax.apply_updates(params, updates), state

        donating = jax.jit(step, donate_argnums=(1, 2))
        try:
            for g in grads[:3]:
                params, state = donating(g, state, params)
                jax.block_until_ready((params, state))
        except Exception as error:
            return Violation(f"{type(error).__name__}: {first_line(error)}", example, code)
        shared = _shared(params, state)
        if shared:
            return Violation(f"after a donating step: {shared}", example, code)
    return None


def _shared(params: Any, state: Any) -> str | None:
    """Which two leaves of parameters and state share one buffer, if any."""
    seen: dict[int, str] = {}
    named = [("parameters", params), ("state", state)]
    for what, tree in named:
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not isinstance(x, jax.Array) or x.size == 0 or not x.is_fully_addressable:
                continue
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x = jax.random.key_data(x)
            at = x.addressable_data(0).unsafe_buffer_pointer()
            name = f"{what}{jax.tree_util.keystr(path)}"
            if at in seen:
                return f"{name} and {seen[at]} are one buffer, which cannot be donated twice"
            seen[at] = name
    return None


def extra_arguments(subject: Subject) -> Violation | None:
    params, grads = mini()
    tx = subject.tx
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        raise NotApplicable("it does not say that it takes extra arguments")
    with ordinary():
        extra = subject.extra(params, grads[0])
        state = tx.init(params)
        plain = tx.update(grads[0], state, params, **extra)
        more = tx.update(grads[0], state, params, **extra, _of_no_concern=jnp.array(3.0))
        chained = optax.chain(optax.identity(), tx)
        inside, _ = chained.update(
            grads[0], chained.init(params), params, **extra, _of_no_concern=jnp.array(3.0)
        )
    ok = same_bits(plain, more) and same_bits(inside, plain[0])
    return None if ok else Violation(
        "an extra argument that is not its own changes the update",
        {"params": params, "gradients": grads[0]},
        setup(params, grads[0]) + "a, _ = tx.update(grads, tx.init(params), params)\n"
        "b, _ = tx.update(grads, tx.init(params), params, _of_no_concern=jnp.array(3.0))\n"
        "for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
        "    assert (x == y).all(), (x, y)",
    )  # fmt: skip


def leaf_names(subject: Subject) -> Iterator[Violation]:
    # Two leaves of one shape exchange their places: their updates must do the same.
    from trainkit.laws import cases
    from trainkit.laws.shrink import mismatch

    if subject.chooses_leaves:
        raise NotApplicable("its mask may choose leaves by their names or places")
    order = cases.swap()
    plain, swapped = subject.run("plain").flat, subject.run("swapped").flat
    expected = plain[:, order]
    near = 1e-5 * np.abs(expected) + 1e-6 * np.abs(expected).max()
    wrong = mismatch(swapped, expected, near)
    params, grads = mini()
    shape = {"a": grads[0]["b"], "b": grads[1]["b"]}
    other = {"a": shape["b"], "b": shape["a"]}
    script = setup({"a": params["b"], "b": params["b"]}, [shape, other]) + (
        "one, _ = tx.update(grads[0], tx.init(params), params)\n"
        "two, _ = tx.update(grads[1], tx.init(params), params)\n"
        "assert jnp.allclose(one['a'], two['b'], rtol=1e-5), (one, two)\n"
        "assert jnp.allclose(one['b'], two['a'], rtol=1e-5), (one, two)"
    )
    if wrong:
        yield Violation(
            f"two leaves of one shape that exchange their places get other updates "
            f"(step {wrong.step + 1}: {wrong.found:.6g} where {wrong.expected:.6g} was expected)",
            {"gradients": [shape, other]},
            script,
        )
        return
    # Other names, in another order of sorting: the updates are the same, under the new names.
    named = lambda t, names: dict(zip(names, t.values(), strict=True))
    tries = (("zeta", "alpha"), ("bias", "kernel"), ("kernel", "bias"), ("scale", "embedding"))
    plain_eager = subject.trajectory(subject.tx, params, grads[:3])
    for names in tries:
        out = subject.trajectory(
            subject.tx, named(params, names), [named(g, names) for g in grads[:3]]
        )
        for u, v in zip(out, plain_eager, strict=True):
            for name, y in zip(names, v.values(), strict=True):
                x = np.asarray(u[name], np.float64)
                if not np.all(np.abs(x - y) <= _spread(np.asarray(y, np.float64))):
                    p, g = named(params, names), named(grads[0], names)
                    yield Violation(
                        f"with leaves named {names[0]} and {names[1]} the updates are others",
                        {"params": p, "gradients": g, "found": u, "expected": v},
                        setup([params, p], [grads[0], g])
                        + "a, _ = tx.update(grads[0], tx.init(params[0]), params[0])\n"
                        "b, _ = tx.update(grads[1], tx.init(params[1]), params[1])\n"
                        f"assert jnp.allclose(a['b'], b[{names[0]!r}]), (a, b)\n"
                        f"assert jnp.allclose(a['w'], b[{names[1]!r}]), (a, b)",
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
