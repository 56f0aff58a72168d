"""Laws of numbers: agreement with float64 references, low precision, zeros and extremes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws import cases
from trainkit.laws.cases import Case
from trainkit.laws.form import setup
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.shrink import mismatch, violation
from trainkit.laws.subject import Run, Subject, mini, ordinary

RELATIVE = {"float32": 1e-5, "float64": 1e-12}
# Their update is new parameters minus old ones, and so is rounded as these are.
DIFFERENCES = frozenset({
    "cocob", "fromage", "madgrad", "mechanize", "sam", "scale_by_cocob", "scale_by_madgrad",
    "schedule_free", "schedule_free_adamw", "schedule_free_sgd",
})  # fmt: skip


def reference(
    subject: Subject, case: Case, params: np.ndarray, dtype: Any, **override: Any
) -> np.ndarray:
    """What the oracle says of a trajectory, in `dtype` throughout."""
    assert subject.oracle is not None
    kind = np.dtype(dtype)
    shaped = cases.tree(params[0].astype(kind), case.shapes)
    with np.errstate(all="ignore"):
        step = subject.oracle.start(shaped, **override)(
            cases.leaves(params[0].astype(kind), case.shapes)
        )
        out = np.full(case.grads.shape, np.nan)
        for t, (p, g) in enumerate(zip(params, case.grads, strict=True)):
            ps = cases.leaves(p.astype(kind), case.shapes)
            gs = cases.leaves(g.astype(kind), case.shapes)
            try:
                us = step(gs, ps, t + 1, **_extra(subject, case, ps, gs))
            except (ArithmeticError, np.linalg.LinAlgError):
                break  # the formula itself has no value here
            out[t] = np.concatenate([np.ravel(np.asarray(u, np.float64)) for u in us])
    return out


def _extra(subject: Subject, case: Case, ps: list[Any], gs: list[Any]) -> dict[str, float]:
    """The loss, where the rule is told it."""
    if "value" not in subject.needs and subject.extra_args is None:
        return {}
    if subject.extra_args is None:
        return {"value": sum(float(np.sum(np.square(x.astype(np.float64)))) for x in ps) / 2}
    as_tree = lambda xs: cases.tree(np.concatenate([np.ravel(x) for x in xs]), case.shapes)
    value = subject.extra(as_tree(ps), as_tree(gs)).get("value")
    return {} if value is None else {"value": float(value)}


def tolerance(
    subject: Subject, case: Case, params: np.ndarray, expected: np.ndarray, dtype: str,
    **override: Any,
) -> np.ndarray:  # fmt: skip
    """What rounding may do: relative, plus eight times what it does to the reference itself."""
    rel = RELATIVE[dtype]
    with np.errstate(all="ignore"):
        so_far = np.maximum.accumulate(np.abs(expected), axis=0)
        near = rel * np.abs(expected) + 0.2 * rel * so_far
        if dtype == "float32":
            rough = np.abs(reference(subject, case, params, np.float32, **override) - expected)
            near = near + 8 * np.maximum.accumulate(np.nan_to_num(rough, nan=np.inf), axis=0)
        if subject.oracle is not None and subject.oracle.name in DIFFERENCES:
            near = near + 8 * np.finfo(dtype).eps * np.maximum.accumulate(np.abs(params), axis=0)
    return near


def infer_rate(subject: Subject) -> dict[str, Any]:
    """The learning rate where `hyperparams` do not say it, read off the first step that moves.

    Most rules are linear in it; for the others the ratio is taken again at the rate it gave.
    """
    assert subject.oracle is not None
    if "learning_rate" not in subject.oracle.unknown:
        return {}
    if "rate" not in subject.memo:
        rate, ratio = 1.0, _ratio(subject, 1.0)
        for _ in range(30):
            rate *= ratio
            if not (np.isfinite(rate) and rate > 0 and abs(ratio - 1) > 1e-7):
                break
            ratio = _ratio(subject, rate)
        # The first step's own rounding (1 − β₂ alone costs 7e-6) is not the learning rate's.
        neat = float(f"{rate:.3g}")
        subject.memo["rate"] = neat if abs(neat - rate) <= 3e-5 * abs(rate) else rate
        if not np.isfinite(subject.memo["rate"]):
            subject.memo["rate"] = 1.0
        subject.notes.append(
            f"learning_rate was not in hyperparams: {subject.memo['rate']:.6g} was read off the "
            "first update, and taken for constant"
        )
    return {"learning_rate": subject.memo["rate"]}


def _ratio(subject: Subject, rate: float) -> float:
    """The first updates that move, over the reference's at this learning rate."""
    runs, ratios = subject.runs(), []
    for row in ("plain", "constant", "bursts"):
        case = runs.batch.case(row)
        some = case._replace(params=case.params[:2], grads=case.grads[:2])
        units = reference(subject, some, runs[row].params[:2], np.float64, learning_rate=rate)
        unit, found = next(
            ((u, f) for u, f in zip(units, runs[row].flat, strict=False) if np.any(u)),
            (units[0], runs[row].flat[0]),
        )
        heavy = np.abs(unit) > 0.3 * np.abs(unit).max()
        with np.errstate(all="ignore"):
            ratios.append(np.median(found[heavy] / unit[heavy]) if heavy.any() else np.nan)
    return float(np.median(ratios))


def oracle(subject: Subject, dtype: str = "float32") -> Violation | None:
    if subject.oracle is None:
        raise NotApplicable("no like= was given")
    for argument in ("mu_dtype", "accumulator_dtype", "param_dtype", "state_dtype"):
        low = subject.oracle.hyperparams.get(argument)
        if low is not None and jnp.finfo(low).bits < jnp.finfo(dtype).bits:
            raise NotApplicable(f"{argument} keeps its state in {jnp.dtype(low).name}")
    rate = infer_rate(subject)
    if rate and rate["learning_rate"] <= 0:
        params, grads = mini()
        return Violation(
            f"its first update is the reference's times {rate['learning_rate']:.6g}: it does not "
            "go downhill",
            {"params": params, "gradients": grads[0]},
            setup(params, grads[0]) + "u, _ = tx.update(grads, tx.init(params), params)\n"
            "slope = sum((x * y).sum() for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(grads)))"
            "\nprint('update . gradient =', slope)\nassert slope < 0, slope",
        )
    runs = subject.runs(dtype)

    def judge_run(case: Case, run: Run) -> Any:
        expected = reference(subject, case, run.params, np.float64, **rate)
        if not np.isfinite(expected).all():
            return None  # the reference itself overflows: a law of extremes, not of agreement
        near = tolerance(subject, case, run.params, expected, dtype, **rate)
        return mismatch(run.flat, expected, near)

    def judge(case: Case) -> Any:
        kind = jnp.dtype(dtype)
        as_seen = lambda x: np.asarray(x).astype(kind).astype(np.float64)
        case = case._replace(params=as_seen(case.params), grads=as_seen(case.grads))
        return judge_run(case, subject.replay(case, dtype))

    name = subject.like
    tried = [(runs.batch.case(i), runs[row]) for row, i in runs.batch.rows.items()]
    if dtype == "float32":
        single = lambda x: np.asarray(x, np.float32).astype(np.float64)
        more = [cases.odd_shapes(subject.seed), cases.long(subject.seed)]
        odd, far = [c._replace(params=single(c.params), grads=single(c.grads)) for c in more]
        # A rule that cannot take such leaves at all breaks the law of structure, not this one.
        with contextlib.suppress(Exception):
            tried.append((odd, subject.replay(odd)))
        tried.append((far, subject.long(far)))
    for case, run in tried:
        wrong = judge_run(case, run)
        if wrong and dtype == "float32":
            gap = abs(wrong.found - wrong.expected) / max(abs(wrong.expected), 1e-300)
            if subject.only_rounding(gap, lambda: _same_in_float64(subject, rate), "oracle"):
                return None
        if wrong:
            hint = ""
            if rate:
                hint = (
                    f" (with the learning rate {rate['learning_rate']:.6g} that its first step "
                    "shows; pass hyperparams where it is a schedule)"
                )
            return violation(
                subject, case, judge, wrong,
                f"at {{step}}, leaf {{leaf}}: the update is {{found}}, {name} gives {{expected}}"
                + hint, dtype=dtype,
            )  # fmt: skip
    return None


def _same_in_float64(subject: Subject, rate: dict[str, Any]) -> bool:
    """Whether in float64 every trajectory is the reference's, to 1e-9 of itself."""
    runs = subject.runs("float64")
    for row, i in runs.batch.rows.items():
        if row != "nan":
            case = runs.batch.case(i)
            want = reference(subject, case, runs[row].params, np.float64, **rate)
            near = 1e-9 * np.maximum.accumulate(np.abs(want), axis=0)
            if np.isfinite(want).all() and mismatch(runs[row].flat, want, near):
                return False
    return True


def oracle_f64(subject: Subject) -> Violation | None:
    return oracle(subject, "float64")


def float64(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    with ordinary(), jax.enable_x64(True):
        p, g = (jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), t) for t in (params, grads[0]))
        _, updates = jax.eval_shape(
            lambda g, p: subject.update(g, subject.tx.init(p), p)[::-1], g, p
        )
        narrow = {str(x.dtype) for x in jax.tree.leaves(updates)} - {"float64"}
        keep = jax.eval_shape(
            lambda g, p: subject.update(g, subject.tx.init(p), p)[0], grads[0], params
        )
        wide = {str(x.dtype) for x in jax.tree.leaves(keep)} - {"float32"}
    x64 = "jax.config.update('jax_enable_x64', True)\n"
    if narrow:
        yield Violation(
            f"float64 in gives {', '.join(narrow)} out", {"params": params, "gradients": grads[0]},
            x64 + "params = {'w': jnp.ones(2, 'float64')}\n"
            "u, _ = tx.update(params, tx.init(params), params)\n"
            "assert u['w'].dtype == 'float64', u",
        )  # fmt: skip
    if wide:
        yield Violation(
            f"in x64 mode float32 in gives {', '.join(wide)} out",
            {"params": params, "gradients": grads[0]},
            x64 + "params = {'w': jnp.ones(2, 'float32')}\n"
            "u, _ = tx.update(params, tx.init(params), params)\n"
            "assert u['w'].dtype == 'float32', u",
        )
    if narrow or wide:
        return
    single, double = subject.runs("float32"), subject.runs("float64")
    for row in ("plain", "bursts", "gaps", "scaled"):
        a, b = single[row].flat, double[row].flat
        if not np.isfinite(b).all():
            continue
        gap = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-300)
        if not gap <= 1e-3:
            # As few steps as show it.
            steps = len(a)
            for t in range(1, len(a)):
                if np.linalg.norm(a[:t] - b[:t]) > 2e-3 * np.linalg.norm(b[:t]) > 0:
                    steps = t
                    break
            yield Violation(
                f"the float32 trajectory {row!r} is off the float64 one by {gap:.3g} of its length",
                {"row": row, "found": a, "expected": b},
                x64 + whole_run(single.batch.case(row), steps) + "narrow, wide = run('float32'), "
                "run('float64')\ngap = jnp.linalg.norm(narrow - wide) / jnp.linalg.norm(wide)\n"
                "print(narrow[-1], wide[-1], gap)\nassert gap <= 1e-3, gap",
            )
            return


def low_precision(subject: Subject, dtype: str, angle: float) -> Violation | None:
    wide, low = subject.runs("float32"), subject.runs(dtype)
    for row in ("plain", "constant", "scaled", "gaps"):
        a, b = wide[row].flat, low[row].flat
        if not np.isfinite(a).all():
            continue
        for t, (x, y) in enumerate(zip(a, b, strict=True)):
            size, got = np.linalg.norm(x), np.linalg.norm(y)
            if np.isfinite(y).all() and (size == 0 or (t == 0 and row == "gaps")):
                continue
            ratio, turned, what = 0.0, 0.0, ""
            if np.isfinite(got) and got > 0 and size > 0:
                ratio = float(got / size)
                turned = float(np.arccos(np.clip(x @ y / (size * got), -1, 1)))
            if not np.isfinite(y).all():
                what, test = "not finite", "jnp.isfinite(low).all(), low"
            elif got == 0:
                what, test = "zero", "(low != 0).any(), low"
            elif turned > angle or not 1 / 4 < ratio < 4:
                what = f"turned by {turned:.2f} rad and {ratio:.2f} times as long"
                test = f"cosine >= {float(np.cos(angle))!r} and 0.25 < ratio < 4, (cosine, ratio)"
            else:
                continue
            return Violation(
                f"in {dtype} the update of step {t + 1} is {what} ({row})",
                {"row": row, "step": t, "found": y, "expected": x},
                whole_run(low.batch.case(row), t + 1)
                + f"wide, low = run('float32')[-1], run('{dtype}')[-1].astype('float32')\n"
                "ratio = jnp.linalg.norm(low) / jnp.linalg.norm(wide)\n"
                "cosine = low @ wide / (jnp.linalg.norm(low) * jnp.linalg.norm(wide))\n"
                f"print('float32', wide)\nprint('{dtype}', low)\nassert {test}",
            )
    return None


def whole_run(case: Case, steps: int) -> str:
    """Lines that define `run(dtype)`, the updates of the first steps, [T, N], scanned."""
    digits = lambda x: repr([[float(f"{v:.6g}") for v in row] for row in x])
    short = lambda x: f"jnp.array({digits(x).replace('nan', 'jnp.nan')})"
    moves = bool(np.any(case.params[:steps] != case.params[:1]))
    follows = "moved + flat.astype(dtype)" if case.follow else "moved"
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
        "def run(dtype):\n    ps, gs = all_params.astype(dtype), all_grads.astype(dtype)\n"
        "    def step(carry, x):\n        state, moved = carry\n"
        "        u, state = tx.update(tree(x[1]), state, tree(x[0] + moved))\n"
        "        flat = jnp.concatenate([v.ravel() for v in jax.tree.leaves(u)])\n"
        f"        return (state, {follows}), flat\n"
        "    start = tx.init(tree(ps[0])), jnp.zeros_like(ps[0])\n"
        "    return jax.jit(lambda: jax.lax.scan(step, start, (ps, gs))[1])()\n"
    )


def bfloat16(subject: Subject) -> Violation | None:
    return low_precision(subject, "bfloat16", 0.5)


def float16(subject: Subject) -> Violation | None:
    return low_precision(subject, "float16", 0.5)


def zeros(subject: Subject) -> Iterator[Violation]:
    runs = subject.runs()
    for row, why in (("zeros", "with zero gradients"), ("gaps", "after steps without a gradient"),
                     ("zero parameters", "at parameters of zero")):  # fmt: skip
        run = runs[row]
        ok = np.isfinite(run.flat).all(axis=1) & run.state_finite
        if ok.all():
            continue
        t = int(np.argmin(ok))
        what = "state" if np.isfinite(run.flat[t]).all() else "update"
        case = runs.batch.case(row)
        if what == "state":
            yield Violation(
                f"{why} the state is not finite after step {t + 1}", {"row": row, "step": t},
                "p = {'w': jnp.array([1.0, 2.0])}\nz = {'w': jnp.zeros(2)}\nstate = tx.init(p)\n"
                "for _ in range(3):\n    u, state = tx.update(z, state, p)\n"
                "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state)), state",
            )  # fmt: skip
            return

        def judge(c: Case) -> Any:
            out = subject.replay(c).flat
            return mismatch(out, np.where(np.isfinite(out), out, 0.0), np.zeros_like(out))

        wrong = mismatch(run.flat, np.zeros_like(run.flat), np.inf * np.ones_like(run.flat))
        yield violation(
            subject, case, judge, wrong or _first_bad(run.flat),
            why + ", at {step}, leaf {leaf}, the update is {found}",
        )  # fmt: skip
        return
    if subject.claims.get("zero first") and not subject.claims.get("decoupled decay"):
        first = runs["zeros"].flat[0]
        if np.any(first != 0):
            yield Violation(
                f"the first update for a zero gradient is not zero but up to "
                f"{np.abs(first).max():.3g}",
                {"found": first},
                "p = {'w': jnp.array([1.0, 2.0])}\nu, _ = tx.update({'w': jnp.zeros(2)}, "
                "tx.init(p), p)\nassert (u['w'] == 0).all(), u",
            )


def _first_bad(flat: np.ndarray) -> Any:
    out = mismatch(flat, np.where(np.isfinite(flat), flat, 0.0), np.zeros_like(flat))
    assert out is not None
    return out


def extremes(subject: Subject) -> Iterator[Violation]:
    """Huge and tiny gradients, then ordinary ones: finite throughout, and moving again after."""
    sizes = {"1e30": 1e30, "1e19": 1e19, "1e-30": 1e-30, "1e-19": 1e-19, "1e-40 (denormal)": 1e-40}
    params, grads = mini()
    for name, size in sizes.items():
        gs = [jax.tree.map(lambda x, k=size: x * jnp.float32(k), grads[0]), *grads[1:5]]
        with ordinary():
            step = subject.memo.setdefault(
                "extreme step", jax.jit(lambda g, s, p: subject.update(g, s, p))
            )
            state, out = subject.tx.init(params), []
            for g in gs:
                u, state = step(g, state, params)
                out.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(u)]))
        code = setup(params, gs) + (
            "state = tx.init(params)\nfor g in grads:\n"
            "    updates, state = jax.jit(tx.update)(g, state, params)\n"
            "    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates)), updates\n"
            "assert any((x != 0).any() for x in jax.tree.leaves(updates)), updates"
        )
        bad = [t for t, u in enumerate(out) if not np.isfinite(u).all()]
        if bad:
            yield Violation(
                f"a first gradient of {name} makes the update of step {bad[0] + 1} not finite",
                {"params": params, "gradients": gs[: bad[0] + 1]}, code)  # fmt: skip
            return
        if not np.any(out[-1] != 0):
            plain = subject.trajectory(subject.tx, params, grads[:5], apply=False)[-1]
            if any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(plain)):
                yield Violation(
                    f"after one gradient of {name} the updates stay zero: it is stuck",
                    {"params": params, "gradients": gs}, code)  # fmt: skip
                return


def constant(subject: Subject) -> Violation | None:
    run = subject.run("constant")
    sizes = np.linalg.norm(run.flat, axis=1)
    if sizes[0] == 0 or not np.isfinite(sizes).all():
        return Violation(
            "constant gradients give no finite update", {"sizes": sizes},
            _CONSTANT + "assert 0 < sizes[0] and all(map(jnp.isfinite, sizes)), sizes")  # fmt: skip
    ratio = sizes / sizes[0]
    if ratio.min() < 1 / 30 or ratio.max() > 30:
        return Violation(
            f"under constant gradients the update's length goes from 1 to {ratio[-1]:.3g} of its "
            f"first in {len(sizes)} steps",
            {"sizes": sizes},
            _CONSTANT + "assert sizes[0] / 30 <= min(sizes) <= max(sizes) <= 30 * sizes[0], sizes",
        )
    return None


_CONSTANT = (
    "p = {'w': jnp.ones(3)}\ng = {'w': jnp.array([1.0, -2.0, 0.5])}\nstate = tx.init(p)\n"
    "sizes = []\nfor _ in range(30):\n    u, state = tx.update(g, state, p)\n"
    "    sizes.append(float(optax.global_norm(u)))\nprint(sizes)\n"
)


def counts(subject: Subject) -> Violation | None:
    params, grads = mini()
    top = jnp.iinfo(jnp.int32).max
    with ordinary():
        _, state = subject.update(grads[0], subject.tx.init(params), params)
        treedef: Any
        flat, treedef = jax.tree_util.tree_flatten_with_path(state)
        is_count = lambda path, x: (
            jnp.shape(x) == () and _dtype_name(x) == "int32" and "count" in _path(path).lower()
        )
        at = [i for i, (path, x) in enumerate(flat) if is_count(path, x)]
        if not at:
            raise NotApplicable("its state holds no int32 count")
        full = [jnp.array(top) if i in at else x for i, (_, x) in enumerate(flat)]
        u, after = subject.update(grads[1], treedef.unflatten(full), params)
        now = jax.tree.leaves(after)
        wrapped = [_path(flat[i][0]) for i in at if int(now[i]) < 0]
        finite = all(np.isfinite(x).all() for x in jax.tree.leaves(u))
    code = setup(params, grads[:1]) + (
        f"state = tx.init(params)\ntop = {int(top)}\n"
        "state = jax.tree_util.tree_map_with_path(lambda k, x: jnp.array(top) if 'count' in "
        "jax.tree_util.keystr(k) and x.dtype == 'int32' and x.ndim == 0 else x, state)\n"
        "u, state = tx.update(grads[0], state, params)\n"
        "assert all((x >= 0).all() for x in jax.tree.leaves(state) if x.dtype == 'int32'), state\n"
        "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(u)), u"
    )
    if wrapped:
        return Violation(
            f"the count {', '.join(wrapped)} wraps around at 2³¹ − 1", {"count": int(top)}, code
        )
    if not finite:
        return Violation("at the largest count the update is not finite", {"count": int(top)}, code)
    return None


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path)


def _dtype_name(x: Any) -> str:
    return str(getattr(x, "dtype", ""))


def descent(subject: Subject) -> Violation | None:
    rate = subject.claims.get("rate")
    if rate is None and subject.oracle is not None:
        rate = subject.oracle.hyperparams.get("learning_rate")
        rate = infer_rate(subject).get("learning_rate") if rate is None else rate
    if callable(rate):
        rate = max(float(rate(t)) for t in range(0, 500, 20))
    rate = 1e-3 if rate is None else float(rate)
    if not 0 < rate <= 0.3:
        raise NotApplicable(f"with a learning rate of {rate:g} nothing is promised")
    steps = 500
    curvature = jnp.array([0.01, 0.03, 0.1, 0.3, 1.0, 0.5]) * min(1.0, 0.1 / rate)
    start = {"b": jnp.array([3.0, -2.0, 1.0]), "w": jnp.array([[-3.0, 2.0, -1.0]])}
    flat = lambda p: jnp.concatenate([p["b"], p["w"][0]])
    loss = lambda p: 0.5 * jnp.sum(curvature * flat(p) ** 2)

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            p, s = carry
            u, s = subject.update(jax.grad(loss)(p), s, p)
            return (optax.apply_updates(p, u), s), loss(p)

        (p, _), losses = jax.lax.scan(step, (params, subject.tx.init(params)), length=steps)
        return losses, loss(p)

    with ordinary():
        losses, last = train(start)
    if float(last) < float(losses[0]):
        return None
    return Violation(
        f"{steps} steps on a convex quadratic took the loss from {float(losses[0]):.6g} to "
        f"{float(last):.6g}",
        {"params": start, "curvature": curvature, "first": float(losses[0]), "last": float(last)},
        f"c = jnp.array({np.asarray(curvature, np.float64).tolist()})\n"
        "loss = lambda p: 0.5 * jnp.sum(c * p ** 2)\n"
        "p = jnp.array([3.0, -2.0, 1.0, -3.0, 2.0, -1.0])\nstate = tx.init(p)\nfirst = loss(p)\n"
        f"for _ in range({steps}):\n    u, state = tx.update(jax.grad(loss)(p), state, p)\n"
        "    p = optax.apply_updates(p, u)\nassert loss(p) < first, (first, loss(p))",
    )


def differentiable(subject: Subject) -> Violation | None:
    params, grads = mini()
    total = lambda g: sum(
        jnp.sum(x) for x in jax.tree.leaves(subject.update(g, subject.tx.init(params), params)[0])
    )
    with ordinary():
        for name, g in (
            ("at random", grads[0]),
            ("at zero", jax.tree.map(jnp.zeros_like, grads[0])),
        ):
            d = jax.grad(total)(g)
            if not all(np.isfinite(x).all() for x in jax.tree.leaves(d)):
                return Violation(
                    f"the derivative of the update by the gradient is not finite {name}",
                    {"gradients": g, "found": d},
                    setup(params, g) + "f = lambda g: sum(x.sum() for x in jax.tree.leaves("
                    "tx.update(g, tx.init(params), params)[0]))\nd = jax.grad(f)(grads)\n"
                    "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(d)), d",
                )
    return None


def numbers(name: str, statement: str, check: Any, **more: Any) -> Law:
    return Law(name, statement, check, **({"group": "numbers"} | more))


PAPER = "a float64 NumPy reference written from the rule's paper (trainkit.laws.oracles)"
LAWS = (
    numbers("oracle", "The updates agree with the rule that it claims to be.", oracle,
            claim="oracle", reference=PAPER,
            tolerance="1e-5 relative, plus 8 times the reference's own rounding in float32",
            why="float32 has 6e-8; 1 − β₂ᵗ alone loses 1.3e-5 at the first step"),
    numbers("bfloat16", "In bfloat16 updates are finite, not zero, and point where float32's do.",
            bfloat16, reference="the same run in float32",
            tolerance="0.5 rad, and a length within a factor of 4",
            why="bfloat16 has three digits, and β₂ = .999 rounds to 1 in it"),
    numbers("zero gradients", "Zero gradients give finite updates and states, then and after.",
            zeros, tolerance="exact", why="0/0 is the only way to fail"),
    numbers("constant gradients", "A rule that adapts neither stalls nor blows up under constant "
            "gradients.", constant, claim="adapts", tolerance="a factor of 30 in 30 steps",
            why="Adagrad slows like 1/√t, momentum of .9 grows tenfold"),
    numbers("descent", "500 steps on a convex quadratic of mixed curvature lower the loss.",
            descent, claim="descends", tolerance="lower at all", why="the rate is the user's"),
    numbers("differentiable", "The derivative of the update by the gradient is finite, also at 0.",
            differentiable, claim="differentiable", tolerance="finite", why="it is used in meta-"
            "learning"),
    numbers("oracle in float64", "In float64 the updates agree with the rule's definition.",
            oracle_f64, claim="oracle", level="strict", reference=PAPER, tolerance="1e-12 relative",
            why="float64 has 1.1e-16, and 30 steps lose little"),
    numbers("float64", "float64 in gives float64 out, float32 stays float32 under x64, and the "
            "float32 trajectory stays near the float64 one.", float64, level="strict",
            tolerance="1e-3 of the trajectory's length", why="30 steps of 6e-8, amplified"),
    numbers("float16", "In float16 updates are finite, not zero, and point where float32's do.",
            float16, level="strict", tolerance="0.5 rad, and a length within a factor of 4",
            why="ε = 1e-8 is zero in float16"),
    numbers("extremes", "Gradients of 1e±30, 1e±19 and denormals, then ordinary ones, give finite "
            "updates, and the rule is not stuck.", extremes, level="strict", tolerance="finite",
            why="squares overflow at 1e19"),
    numbers("counts", "At the largest int32 a step count saturates.", counts, level="strict",
            tolerance="exact", why="it is an integer"),
)  # fmt: skip
