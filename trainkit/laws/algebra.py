"""Laws of algebra: what composing, batching, scaling, permuting and masking may not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws import cases
from trainkit.laws.cases import Case
from trainkit.laws.form import _gap, _jit_in_float64, _spread, same_bits, setup, tree_code
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.shrink import mismatch, violation
from trainkit.laws.source import rule as rule_code
from trainkit.laws.subject import Subject, first_line, mini, ordinary

CHAINS: dict[str, Callable[[Any], Any]] = {
    "optax.chain(optax.identity(), tx)": lambda tx: optax.chain(optax.identity(), tx),
    "optax.chain(tx, optax.identity())": lambda tx: optax.chain(tx, optax.identity()),
    "optax.chain(optax.chain(tx), optax.identity())": lambda tx: optax.chain(
        optax.chain(tx), optax.identity()
    ),
}

COMPARE = (
    "def run(tx):\n    state, out, p = tx.init(params), [], params\n    for g in grads:\n"
    "        u, state = tx.update(g, state, p)\n        p = optax.apply_updates(p, u)\n"
    "        out.append(u)\n    return out\n"
    "for a, b in zip(run(tx), run({other})):\n"
    "    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):\n"
    "        assert {test}, (x, y)"
)
BITWISE = "bool((x == y).all() | jnp.isnan(x).any())"
NEAR = "jnp.allclose(x, y, rtol=1e-5, atol=1e-6)"


def _eager(subject: Subject) -> list[Any]:
    params, grads = mini()
    return subject.remember(
        ("eager", "plain"), lambda: subject.trajectory(subject.tx, params, grads[:4])
    )


def chains(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    plain = _eager(subject)
    for words, wrap in CHAINS.items():
        if not same_bits(subject.trajectory(wrap(subject.tx), params, grads[:4]), plain):
            yield Violation(
                f"{words} is not the rule itself",
                {"params": params, "gradients": grads[:4]},
                setup(params, grads[:4]) + COMPARE.format(other=words, test=BITWISE),
            )
            return


def masked(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    plain = _eager(subject)
    everything = {"b": True, "w": True}
    out = subject.trajectory(optax.masked(subject.tx, everything), params, grads[:4])
    if not same_bits(out, plain):
        yield Violation(
            "masked by all-true it is another rule", {"params": params, "gradients": grads[:4]},
            setup(params, grads[:4]) + COMPARE.format(
                other="optax.masked(tx, {'b': True, 'w': True})", test=BITWISE),
        )  # fmt: skip
        return
    # Two groups, each with an instance of the rule; every one must train as if it were alone.
    both = optax.partition({"one": subject.tx, "two": subject.fresh()}, {"b": "one", "w": "two"})
    together = subject.trajectory(both, params, grads[:4])
    for name in params:
        alone = subject.trajectory(
            subject.tx, {name: params[name]}, [{name: g[name]} for g in grads[:4]]
        )
        for u, v in zip(together, alone, strict=True):
            x, y = np.asarray(u[name], np.float64), np.asarray(v[name], np.float64)
            if not np.all(np.abs(x - y) <= _spread(y)) and "value" not in subject.needs:
                yield Violation(
                    f"in a partition the leaf {name!r} trains otherwise than alone",
                    {"params": params, "gradients": grads[:4], "found": x, "expected": y},
                    setup(params, grads[:4])
                    + "parts = optax.partition({'one': tx, 'two': tx}, {'b': 'one', 'w': 'two'})\n"
                    f"a, _ = parts.update(grads[0], parts.init(params), params)\n"
                    f"p, g = {{'{name}': params['{name}']}}, {{'{name}': grads[0]['{name}']}}\n"
                    f"b, _ = tx.update(g, tx.init(p), p)\n"
                    f"assert jnp.allclose(a['{name}'], b['{name}'], rtol=1e-5), (a, b)",
                )
                return


def vmap_is_loop(subject: Subject) -> Violation | None:
    b = subject.runs().batch
    names = ["plain", "scaled", "gaps"]
    steps = 8
    pick = np.array([b.rows[n] for n in names])
    ps, gs = (np.asarray(x[pick, :steps], np.float32) for x in (b.params, b.grads))

    def one(base: Any, grads: Any) -> Any:
        tree = lambda flat: cases.tree(flat, cases.SHAPES)
        state = subject.tx.init(tree(base[0]))
        out = lambda s, x: _swap(subject.update(tree(x[1]), s, tree(x[0])))
        return jax.lax.scan(out, state, (base, grads))[1]

    with ordinary():
        together = np.asarray(jax.jit(jax.vmap(one))(ps, gs), np.float64)
    follow = b.follow[pick]
    for name, found, f in zip(names, together, follow, strict=True):
        expected = subject.run(name).flat[:steps]
        near = 1e-5 * np.abs(expected) + 1e-6 * np.abs(expected).max()
        wrong = mismatch(found, expected, near)
        if wrong and not f:
            return Violation(
                f"vmapped over problems the update at step {wrong.step + 1} is {wrong.found:.9g}, "
                f"one at a time it is {wrong.expected:.9g}",
                {"problem": name, "step": wrong.step, "found": found, "expected": expected},
                _vmap_script(ps, gs),
            )
    return None


def _swap(pair: Any) -> Any:
    updates, state = pair
    return state, cases.flatten(updates)


def _vmap_script(ps: Any, gs: Any) -> str:
    return (
        f"params = {{'w': jnp.array({ps[:, 0, :3].tolist()})}}\n"
        f"grads = {{'w': jnp.array({gs[:, :2, :3].tolist()})}}\n"
        "def run(p, gs):\n    state = tx.init(p)\n    for i in range(2):\n"
        "        u, state = tx.update({'w': gs['w'][i]}, state, p)\n    return u\n"
        "both = jax.vmap(run)(params, grads)['w']\n"
        "for i in range(len(both)):\n"
        "    one = run({'w': params['w'][i]}, {'w': grads['w'][i]})['w']\n"
        "    assert jnp.allclose(both[i], one, rtol=1e-5), (both[i], one)"
    )


def scan_is_loop(subject: Subject) -> Violation | None:
    params, grads = mini()
    stack = jax.tree.map(lambda *x: jnp.stack(x), *grads)

    def scan(params: Any, grads: Any) -> Any:
        step = lambda s, g: subject.update(g, s, params)[::-1]
        return jax.lax.scan(step, subject.tx.init(params), grads)[1]

    code = setup(params, grads) + (
        "stack = jax.tree.map(lambda *x: jnp.stack(x), *grads)\n"
        "step = lambda s, g: tx.update(g, s, params)[::-1]\n"
        "scanned = jax.jit(lambda: jax.lax.scan(step, tx.init(params), stack)[1])()\n"
        "state, jitted = tx.init(params), jax.jit(tx.update)\n"
        "for i, g in enumerate(grads):\n    u, state = jitted(g, state, params)\n"
        "    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(scanned)):\n"
        "        assert jnp.allclose(x, y[i], rtol=1e-5, atol=1e-6), (x, y[i])"
    )
    loop = subject.trajectory(subject.tx, params, grads, apply=False)
    with ordinary():
        try:
            out = jax.jit(scan)(params, stack)
        except Exception as error:
            return Violation(
                f"it cannot be scanned: {type(error).__name__}: {first_line(error)}",
                {"params": params, "gradients": grads}, code)  # fmt: skip
    steps = [jax.tree.map(lambda x, t=t: x[t], out) for t in range(len(loop))]
    t, gap = _gap(loop, steps)
    if gap <= 1 or subject.only_rounding(1e-5 * gap, lambda: _jit_in_float64(subject), "scan"):
        return None
    return Violation(
        f"step {t + 1} of a scan differs from the same step of a loop",
        {"params": params, "gradients": grads[: t + 1], "found": steps[t], "expected": loop[t]},
        code,
    )


# -- symmetries: a second run of the transformed problem, transformed back ------------------------


def _symmetry(
    row: str,
    to: Callable[[Case], Case],
    back: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    message: str,
    lines: str,
) -> Callable[[Subject], Violation | None]:
    """A law that the run `row` is the plain run seen through `back`.

    `lines` computes the plain run's value in a reproducer, from `run`, `grads` and `all_params`.
    """

    def expected(subject: Subject, case: Case) -> np.ndarray:
        return back(subject.replay(to(case)).flat)

    def check(subject: Subject) -> Violation | None:
        runs = subject.runs()
        plain, other = runs["plain"].flat, runs[row].flat
        want = back(plain)
        near = lambda e: tolerance * np.abs(e) + tolerance / 10 * np.abs(e).max(initial=0.0)
        wrong = mismatch(other, want, near(want))
        if wrong is None:
            return None

        def judge(case: Case) -> Any:
            e = expected(subject, case)
            return mismatch(subject.replay(case).flat, e, near(e))

        case = runs.batch.case(row)
        return violation(
            subject, case, judge, wrong, message,
            other=(lambda _: lines) if "run(" in lines else None, shrunk="run(" in lines,
            code=None if "run(" in lines else lines,
        )  # fmt: skip

    return check


def _scaled(case: Case, k: float) -> Case:
    return case._replace(grads=k * case.grads)


odd = _symmetry(
    "negated", lambda c: _scaled(c, -1.0), lambda u: -u, 1e-6,
    "at {step}, {leaf}: update(-g) is {found}, -update(g) is {expected}",
    "updates = jax.tree.map(jnp.negative, run(all_params, jax.tree.map(jnp.negative, grads)))",
)  # fmt: skip


def degree(subject: Subject) -> Violation | None:
    claimed = subject.claims["degree"]
    n = 0 if claimed is True else int(claimed)
    k = cases.SCALE
    return _symmetry(
        "scaled",
        lambda c: _scaled(c, 1 / k),
        lambda u: k**n * u,
        2e-5,
        f"at {{step}}, {{leaf}}: with gradients {k:g} times as large the update is {{found}}; "
        f"of degree {n} it would be {{expected}}",
        f"updates = jax.tree.map(lambda u: {k**n!r} * u, run(all_params, "
        f"jax.tree.map(lambda g: g / {k!r}, grads)))",
    )(subject)


def permutes(subject: Subject) -> Violation | None:
    b = subject.runs().batch
    # The permutation is drawn from the seed: read it off the two gradient rows.
    plain, other = b.grads[b.rows["plain"]][0], b.grads[b.rows["permuted"]][0]
    order = np.array([int(np.flatnonzero(plain == x)[0]) for x in other])
    return _symmetry(
        "permuted", lambda c: c, lambda u: u[:, order], 1e-5,
        "at {step}, {leaf}: permuting the coordinates does not permute the update "
        "({found} where {expected} was expected)",
        _ONE_STEP + "a, b = jnp.array([3.0, -0.5, 0.1, 2.0]), jnp.array([1, 3, 0, 2])\n"
        "x, y = step({'w': a})['w'][b], step({'w': a[b]})['w']\n"
        + "assert jnp.allclose(x, y, rtol=1e-5), (x, y)",
    )(subject)  # fmt: skip


_ONE_STEP = (
    "def step(g):\n    p = jax.tree.map(jnp.ones_like, g)\n"
    "    return tx.update(g, tx.init(p), p)[0]\n"
)


def rotates(subject: Subject) -> Violation | None:
    b = subject.runs().batch
    plain = b.grads[b.rows["plain"]]
    turn = np.linalg.lstsq(plain, b.grads[b.rows["rotated"]], rcond=None)[0]
    return _symmetry(
        "rotated", lambda c: c, lambda u: u @ turn, 1e-4,
        "at {step}, {leaf}: rotating the problem does not rotate the update "
        "({found} where {expected} was expected)",
        _ONE_STEP + "x = step({'v': jnp.array([3.0]), 'w': jnp.array([4.0])})\n"
        "y = step({'v': jnp.array([-4.0]), 'w': jnp.array([3.0])})  # turned by 90 degrees\n"
        "assert jnp.allclose(x['v'], y['w'], rtol=1e-4), (x, y)\n"
        "z = step({'v': jnp.array([5.0]), 'w': jnp.array([0.0])})  # turned onto one axis\n"
        "assert jnp.allclose(optax.global_norm(x), optax.global_norm(z), rtol=1e-4), (x, z)",
    )(subject)  # fmt: skip


def elementwise(subject: Subject) -> Iterator[Violation]:
    runs = subject.runs()
    touched = runs["nan"].flat
    plain = runs["plain"].flat
    elsewhere = np.ones(plain.shape[1], bool)
    elsewhere[cases.NAN_AT] = False
    near = 1e-5 * np.abs(plain) + 1e-6 * np.abs(plain).max()
    near[:, ~elsewhere] = np.inf
    wrong = mismatch(np.where(elsewhere, touched, 0.0), np.where(elsewhere, plain, 0.0), near)
    if wrong:
        yield Violation(
            f"a NaN in one element changes the update of another (leaf "
            f"{cases.paths(cases.SHAPES)[wrong.at]}, step {wrong.step + 1}: {wrong.found:.6g} "
            f"where {wrong.expected:.6g} was expected)",
            {"step of the NaN": cases.NAN_STEP, "found": wrong.found},
            "p = {'w': jnp.array([1.0, 2.0, 3.0])}\ng = {'w': jnp.array([1.0, jnp.nan, 2.0])}\n"
            "u, _ = tx.update(g, tx.init(p), p)\n"
            "assert jnp.isfinite(u['w'][jnp.array([0, 2])]).all(), u",
        )
        return
    if subject.chooses_leaves:
        return  # the joined leaf may be chosen where its parts are not
    # One long leaf is the same as its two halves.
    params, grads = mini()
    join = lambda t: {"all": jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(t)])}
    joined = subject.trajectory(subject.tx, join(params), [join(g) for g in grads[:3]])
    apart = subject.trajectory(subject.tx, params, grads[:3])
    for u, v in zip(joined, apart, strict=True):
        x, y = np.asarray(u["all"], np.float64), np.asarray(join(v)["all"], np.float64)
        if not np.all(np.abs(x - y) <= _spread(y)):
            yield Violation(
                "concatenating the leaves does not concatenate the updates",
                {"params": params, "gradients": grads[:3], "found": x, "expected": y},
                setup(params, grads[:3])
                + "join = lambda t: jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)])\n"
                "a, _ = tx.update(grads[0], tx.init(params), params)\n"
                "b, _ = tx.update(join(grads[0]), tx.init(join(params)), join(params))\n"
                "assert jnp.allclose(join(a), b, rtol=1e-5), (a, b)",
            )
            return


def decoupled(subject: Subject) -> Violation | None:
    """update(g, p₁) − update(g, p₂) = −η λ (p₁ − p₂), whatever the gradients were before."""
    runs = subject.runs()
    a, b = runs["moved"], runs["plain"]
    dp, du = a.params - b.params, a.flat - b.flat
    claimed = subject.claims["decoupled decay"]
    if claimed is True:
        heavy = np.abs(dp) > 1
        rate = float(np.median(-du[heavy] / dp[heavy]))
        if rate < 0:
            return Violation(
                f"the decay pushes away from zero: update changes by {-rate:.3g} times the "
                "parameter", {"rate": rate},
                _DECAY + "assert (ratio <= 0).all(), ratio")  # fmt: skip
        expected = -rate * dp
    else:
        expected = -np.asarray(claimed, np.float64) * dp
    rounding = 1e-6 * (np.abs(a.flat) + np.abs(b.flat)) + 3e-6 * np.abs(expected)
    # A masked leaf does not decay at all: both are right.
    wrong = mismatch(du, expected, rounding)
    if wrong and claimed is True:
        undecayed = np.all(np.abs(du) <= rounding, axis=0)
        wrong = mismatch(np.where(undecayed, expected, du), expected, rounding)
    if wrong is None:
        return None
    return Violation(
        f"with the same gradients, parameters that differ by {dp[wrong.step, wrong.at]:.6g} "
        f"get updates that differ by {wrong.found:.6g}; decoupled decay would make it "
        f"{wrong.expected:.6g} (step {wrong.step + 1})",
        {"step": wrong.step, "found": wrong.found, "expected": wrong.expected},
        _DECAY + f"assert jnp.allclose(ratio, {-_rate(claimed, dp, du)!r}, rtol=1e-4), ratio",
    )


_DECAY = (
    "p = {'b': jnp.array([100.0, -50.0]), 'w': jnp.array([[80.0, -30.0]])}\n"
    "q = jax.tree.map(jnp.ones_like, p)\n"
    "gs = [{'b': jnp.array([k, -2.0 * k]), 'w': jnp.array([[-k, 0.3]])} for k in (1.0, 0.1, 3.0)]\n"
    "def run(p):\n    s = tx.init(p)\n    for g in gs:\n        u, s = tx.update(g, s, p)\n"
    "    return u\n"
    "flat = lambda t: jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)])\n"
    "ratio = (flat(run(p)) - flat(run(q))) / (flat(p) - flat(q))\nprint(ratio)\n"
)


def _rate(claimed: Any, dp: Any, du: Any) -> float:
    if claimed is not True:
        return float(np.ravel(claimed)[0])
    heavy = np.abs(dp) > 1
    return float(np.median(-du[heavy] / dp[heavy]))


# How each kind of bound measures a gradient, here and in a reproducer.
MEASURES: dict[str, tuple[Callable[[np.ndarray], float], str]] = {
    "global": (lambda flat: float(np.linalg.norm(flat)), "optax.global_norm(t)"),
    "element": (
        lambda flat: float(np.abs(flat).max()),
        "max(jnp.abs(x).max() for x in jax.tree.leaves(t))",
    ),
    "leaf rms": (
        lambda flat: max(float(np.sqrt(np.mean(x**2))) for x in cases.leaves(flat, cases.SHAPES)),
        "max(jnp.sqrt((x ** 2).mean()) for x in jax.tree.leaves(t))",
    ),
}


def clipped(subject: Subject) -> Violation | None:
    """claims={"clip": {"norm": "global" | "element" | "leaf rms", "bound": b}}"""
    claim = subject.claims["clip"]
    if claim is True:
        raise NotApplicable('say what of: claims={"clip": {"norm": "global", "bound": 1.0}}')
    kind, bound = claim["norm"], float(claim["bound"])
    measure, code = MEASURES[kind]
    runs = subject.runs()

    def found(message: str, g: np.ndarray, u: np.ndarray, t: int, test: str) -> Violation:
        tree = cases.tree(g.astype(np.float32), cases.SHAPES)
        return Violation(
            message, {"gradients": tree, "found": u, "step": t},
            setup(tree, tree) + "u, _ = tx.update(grads, tx.init(params), params)\n"
            f"size = lambda t: {code}\nprint(size(grads), size(u))\nassert {test}, u",
        )  # fmt: skip

    for name, i in runs.batch.rows.items():
        if name == "nan":
            continue
        for t, (g, u) in enumerate(zip(runs.batch.grads[i], runs.flat[i], strict=True)):
            size, got = measure(g), measure(u)
            if not got <= bound * (1 + 1e-5):
                message = f"an update of size {got:.6g}, over the bound {bound:g}"
                return found(message, g, u, t, f"size(u) <= {bound * (1 + 1e-5)!r}")
            if size < bound * (1 - 1e-5) and not np.allclose(u, g, rtol=1e-6, atol=0):
                message = f"a gradient of size {size:.6g}, within the bound {bound:g}, was changed"
                same = "jax.tree.all(jax.tree.map(jnp.allclose, u, grads))"
                return found(message, g, u, t, same)
            if size > bound * (1 + 1e-5) and got < bound * (1 - 1e-4) and kind != "leaf rms":
                message = f"a gradient of size {size:.6g} was cut to {got:.6g}, not to {bound:g}"
                return found(message, g, u, t, f"size(u) >= {bound * (1 - 1e-4)!r}")
            if kind == "global" and size > bound:
                turned = 1 - float(g @ u) / (size * np.linalg.norm(u))
                if not turned <= 1e-5:
                    dot = "sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (u, grads))))"
                    test = f"{dot} >= 0.99999 * size(u) * size(grads)"
                    return found("clipping turned the direction", g, u, t, test)
    return None


def accumulates(subject: Subject) -> Iterator[Violation]:
    """claims={"accumulation": {"k": k, "inner": the rule without accumulation}}

    Further entries: "weight", the name of the extra argument that holds a micro-gradient's weight;
    "mean": False for a rule that adds gradients up; "poison": False where a NaN may outlive its
    window (at the strict level it may not in any case).
    """
    claim = subject.claims["accumulation"]
    if claim is True:
        raise NotApplicable('say of what: claims={"accumulation": {"k": 4, "inner": tx}}')
    k, inner, weight = int(claim["k"]), claim["inner"], claim.get("weight")
    params, grads = mini()
    rng = np.random.default_rng(5)
    micro = [jax.tree.map(lambda g: g * float(rng.normal()) + 0.1, grads[t % 6])
             for t in range(3 * k)]  # fmt: skip
    equal: Any = np.ones(len(micro))
    tries = {"equal ones": ([g for g in grads[:3] for _ in range(k)], equal),
             "different ones": (micro, equal)}  # fmt: skip
    if weight is not None:
        uneven = np.arange(len(micro)) % (k + 1) + 1.0
        uneven[k - 1] = 0.0 if k > 1 else 1.0
        tries["ones of uneven weight"] = (micro, uneven)
    for words, (gs, ws) in tries.items():
        found = _accumulated(subject, gs, ws, weight)
        whole = _windows(gs, ws, k, claim.get("mean", True))
        alone = subject.trajectory(inner, params, whole, apply=False)
        code = _ACCUMULATION.format(
            setup=setup(params, gs), inner=_inner_code(inner), k=k, whole=tree_code(whole),
            extra=f"{weight}=ws[t]" if weight else "", ws=ws.tolist(),
        )  # fmt: skip
        for t, u in enumerate(found):
            last = (t + 1) % k == 0
            want = alone[t // k] if last else jax.tree.map(jnp.zeros_like, u)
            for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(want), strict=True):
                if not np.all(np.abs(np.asarray(x - y)) <= 2 * _spread(np.asarray(y)) + 1e-12):
                    what = "the full step" if last else "zero in between"
                    yield Violation(
                        f"micro-step {t + 1} of {k} {words} gives another update than {what}",
                        {"params": params, "gradients": gs[: t + 1], "weights": ws[: t + 1],
                         "found": u, "expected": want}, code)  # fmt: skip
                    return
    if not claim.get("poison", True) and subject.level != "strict":
        return
    poisoned = [jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), grads[0]), *micro[1:]]
    finite = lambda us: all(np.isfinite(x).all() for u in us for x in jax.tree.leaves(u))
    # Where the rule inside remembers a NaN for itself, there is nothing to ask for.
    windows = _windows(poisoned, equal, k, claim.get("mean", True))
    forgets = finite(subject.trajectory(inner, params, windows, apply=False)[2:])
    if forgets and not finite(_accumulated(subject, poisoned, equal, weight)[2 * k :]):
        yield Violation(
            "one NaN micro-gradient is still there after its window",
            {"params": params, "gradients": poisoned},
            setup(params, poisoned[: 3 * k]) + "state = tx.init(params)\n"
            "for g in grads:\n    u, state = tx.update(g, state, params)\n"
            "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(u)), u",
            level=None if claim.get("poison", True) else "strict",
        )


def _accumulated(subject: Subject, gs: list[Any], ws: np.ndarray, weight: str | None) -> list[Any]:
    params, _ = mini()
    if weight is None:
        return subject.trajectory(subject.tx, params, gs, apply=False)
    with ordinary():
        state, out = subject.tx.init(params), []
        for g, w in zip(gs, ws, strict=True):
            extra = subject.extra(params, g) | {weight: jnp.float32(w)}
            u, state = subject.tx.update(g, state, params, **extra)
            out.append(u)
        return out


def _windows(gs: list[Any], ws: np.ndarray, k: int, mean: bool) -> list[Any]:
    """The gradient of every window: Σ w g / Σ w, or Σ w g."""
    out = []
    for a in range(0, len(gs), k):
        w = ws[a : a + k] / (ws[a : a + k].sum() if mean else 1.0)
        sums = lambda *xs, w=w: jnp.asarray(
            sum(f * np.asarray(x, np.float64) for f, x in zip(w, xs, strict=True)), xs[0].dtype
        )
        out.append(jax.tree.map(sums, *gs[a : a + k]))
    return out


def _inner_code(inner: Any, name: str = "inner") -> str:
    with ordinary():
        return rule_code(inner, name, None, None)


_ACCUMULATION = (
    "{inner}\n{setup}ws = {ws}\nwhole = {whole}\nstate, alone = tx.init(params), []\n"
    "inner_state = inner.init(params)\nfor g in whole:\n"
    "    u, inner_state = inner.update(g, inner_state, params)\n    alone.append(u)\n"
    "for t, g in enumerate(grads):\n    u, state = tx.update(g, state, params, {extra})\n"
    "    want = alone[t // {k}] if (t + 1) % {k} == 0 else jax.tree.map(jnp.zeros_like, u)\n"
    "    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(want)):\n"
    "        assert jnp.allclose(x, y, rtol=1e-4, atol=1e-6), (t, x, y)"
)


def guards(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    with ordinary():
        state = subject.tx.init(params)
        _, state = subject.update(grads[0], state, params)
        expected, _ = subject.update(grads[2], state, params)
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            broken = {"b": grads[1]["b"].at[0].set(bad), "w": grads[1]["w"]}
            u, after = subject.update(broken, state, params)
            script = setup(params, [grads[0], broken, grads[2]]) + (
                "_, state = tx.update(grads[0], tx.init(params), params)\n"
                "want, _ = tx.update(grads[2], state, params)\n"
                "u, state = tx.update(grads[1], state, params)\n"
                "assert all((x == 0).all() for x in jax.tree.leaves(u)), u\n"
                "got, _ = tx.update(grads[2], state, params)\n"
                "assert all((x == y).all() for x, y in zip(jax.tree.leaves(got), "
                "jax.tree.leaves(want))), (got, want)"
            )
            example = {"params": params, "gradients": [grads[0], broken, grads[2]]}
            if not all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(u)):
                yield Violation(f"a gradient with {bad} moves the parameters", example, script)
                return
            nxt, _ = subject.update(grads[2], after, params)
            if not same_bits(nxt, expected):
                yield Violation(
                    f"after a gradient with {bad} the next step is not as if it had not been",
                    example, script)  # fmt: skip
                return


def commutes(subject: Subject) -> Violation | None:
    """claims={"commutes with": another transformation}"""
    other = subject.claims["commutes with"]
    if other is True:
        raise NotApplicable('say with what: claims={"commutes with": tx}')
    params, grads = mini()
    one = subject.trajectory(optax.chain(subject.tx, other), params, grads[:4])
    two = subject.trajectory(optax.chain(other, subject.tx), params, grads[:4])
    for u, v in zip(one, two, strict=True):
        for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
            if not np.all(np.abs(np.asarray(x - y)) <= _spread(np.asarray(y))):
                return Violation(
                    "the two orders of the chain give different updates",
                    {"params": params, "gradients": grads[:4], "found": u, "expected": v},
                    setup(params, grads[:4])
                    + _inner_code(other, "other")
                    + "\nfirst, tx = optax.chain(tx, other), optax.chain(other, tx)\n"
                    + COMPARE.format(other="first", test=NEAR),
                )
    return None


def algebra(name: str, statement: str, check: Any, **more: Any) -> Law:
    near = {
        "reference": "the algebra of gradient transformations",
        "tolerance": "1e-5 relative, 1e-6 of the largest entry",
        "why": "other programs round differently; float32 has 6e-8 a step",
        "group": "algebra",
    }
    return Law(name, statement, check, **(near | more))


EXACT = {"tolerance": "bitwise", "why": "the same operations on the same numbers"}

LAWS = (
    algebra("identity and associativity", "Chaining with the identity, and nesting chains, changes "
            "nothing.", chains, **EXACT),
    algebra("masked and partitioned", "Masked by all-true is unmasked; a partition trains each "
            "part as if it were alone.", masked),
    algebra("vmap is a loop", "Vmapped over independent problems is one problem at a time.",
            vmap_is_loop),
    algebra("scan is a loop", "n scanned steps are n calls.", scan_is_loop),
    algebra("element-wise", "Concatenating leaves concatenates updates, and a NaN in one element "
            "reaches no other.", elementwise, claim="element-wise"),
    algebra("odd", "update(−g) = −update(g) along a trajectory.", odd, claim="odd",
            tolerance="1e-6 relative", why="negation rounds nothing"),
    algebra("degree", "Scaling all gradients by k scales the updates by k to the claimed power.",
            degree, claim="degree", tolerance="2e-5 relative",
            why="k is a power of two; what is left is ε = 1e-8 beside gradients of order 1"),
    algebra("permutation", "Permuting coordinates inside leaves permutes the updates.", permutes,
            claim="permutation"),
    algebra("rotation", "Rotating parameters and gradients rotates the updates.", rotates,
            claim="rotation", tolerance="1e-4 relative", why="a rotation rounds 21 terms"),
    algebra("decoupled decay", "The decay adds −η λ p to the update and touches no moment.",
            decoupled, claim="decoupled decay", reference="Loshchilov & Hutter 2019",
            tolerance="3e-6 of the decay plus 1e-6 of the updates",
            why="a difference of two float32 numbers"),
    algebra("clip", "Never longer than the bound, unchanged within it, direction kept.", clipped,
            claim="clip", tolerance="1e-5 relative"),
    algebra("accumulation", "k micro-gradients are one step with their mean, by weight where they "
            "have one, and zeros in between; one NaN does not outlive its window.", accumulates,
            claim="accumulation"),
    algebra("guard", "A non-finite gradient leaves parameters and state as they were.", guards,
            claim="guard", **EXACT),
    algebra("wrapper order", "Two wrappers that are said to commute do.", commutes,
            claim="commutes with"),
)  # fmt: skip
