"""Laws of numbers: zeros, extremes, counts and descent, and the list with those of agreement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.families.agreement import infer_rate, oracle, oracle_f64
from trainkit.laws.families.line_search import search
from trainkit.laws.families.noise import noise
from trainkit.laws.families.precision import bfloat16, float16, float64
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.shrink import mismatch, violation
from trainkit.laws.problems.trees import setup
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject, mini


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
    if not 1e-5 <= rate <= 0.3:
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
            tolerance="1e-5 relative, plus 8 times the reference's own rounding in float32 and 8 "
            "times what the last digit of its inputs does",
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
    numbers("line search", "A step lowers the loss that the rule is told of by a share of its "
            "slope (Armijo), and is where the slope is less steep (Wolfe).", search,
            claim="line search",
            reference="Armijo 1966; Wolfe 1969; Nocedal & Wright 2006, section 3.1",
            tolerance="1e-13 of the loss; 1e-6 of the direction, where a reference knows it",
            why="it runs in float64; a search that has arrived divides rounding by rounding"),
    numbers("noise", "What is added at random has mean 0 and the claimed deviation, is the same "
            "from the same state, and has no pattern over coordinates, leaves and steps.", noise,
            claim="noise", tolerance="five standard deviations of the estimate from 2400 numbers",
            why="a correct rule exceeds that once in two million"),
    numbers("oracle in float64", "In float64 the updates agree with the rule's definition.",
            oracle_f64, claim="oracle", level="strict", reference=PAPER, tolerance="1e-12 relative",
            why="float64 has 1.1e-16, and 30 steps lose little"),
    numbers("float64", "float64 in gives float64 out, float32 stays float32 under x64, and the "
            "float32 trajectory stays near the float64 one.", float64, level="strict",
            tolerance="1e-3 of the trajectory's length, or 8 times what the last digit "
            "of parameters and gradients does in float64", why="30 steps of 6e-8, amplified"),
    numbers("float16", "In float16 updates are finite, not zero, and point where float32's do.",
            float16, level="strict", tolerance="0.5 rad, and a length within a factor of 4",
            why="ε = 1e-8 is zero in float16"),
    numbers("extremes", "Gradients of 1e±30, 1e±19 and denormals, then ordinary ones, give finite "
            "updates, and the rule is not stuck.", extremes, level="strict", tolerance="finite",
            why="squares overflow at 1e19"),
    numbers("counts", "At the largest int32 a step count saturates.", counts, level="strict",
            tolerance="exact", why="it is an integer"),
)  # fmt: skip
