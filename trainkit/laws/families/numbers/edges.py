"""Laws of extreme values: zero, huge, tiny and constant gradients, and the largest count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import mismatch
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.shrink import violation


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
    """Huge or tiny gradients, then ordinary ones, give finite updates that do not stay zero."""
    sizes = {"1e30": 1e30, "1e19": 1e19, "1e-30": 1e-30, "1e-19": 1e-19, "1e-40 (denormal)": 1e-40}
    params, grads = mini()
    for name, size in sizes.items():
        gs = [jax.tree.map(lambda x, k=size: x * jnp.float32(k), grads[0]), *grads[1:5]]
        with ordinary():
            step, state, out = subject.compiled(), subject.tx.init(params), []
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
    if not np.isfinite(sizes).all():
        return Violation(
            f"under constant gradients the update of step {np.argmin(np.isfinite(sizes)) + 1} is "
            "not finite", {"sizes": sizes},
            _CONSTANT + "assert all(map(jnp.isfinite, sizes)), sizes")  # fmt: skip
    if not sizes.any():
        return Violation(
            f"{len(sizes)} constant gradients never move the parameters", {"sizes": sizes},
            _CONSTANT + "assert any(sizes), sizes")  # fmt: skip
    # Some rules use their first gradients for initialisation (SOAP, ADOPT): measure after that.
    ratio = sizes[np.argmax(sizes > 0) :] / sizes[np.argmax(sizes > 0)]
    if ratio.min() < 1 / 30 or ratio.max() > 30:
        return Violation(
            f"under constant gradients the update's length goes from 1 to {ratio[-1]:.3g} of its "
            f"first in {len(ratio)} steps",
            {"sizes": sizes},
            _CONSTANT + "sizes = sizes[next(i for i, size in enumerate(sizes) if size) :]\n"
            "assert sizes[0] / 30 <= min(sizes) <= max(sizes) <= 30 * sizes[0], sizes",
        )
    return None


_CONSTANT = (
    "p = {'w': jnp.ones(3)}\ng = {'w': jnp.array([1.0, -2.0, 0.5])}\nstate = tx.init(p)\n"
    "sizes = []\nfor _ in range(30):\n    u, state = tx.update(g, state, p)\n"
    "    sizes.append(float(optax.global_norm(u)))\nprint(sizes)\n"
)


def counts(subject: Subject) -> Violation | None:
    params, grads = mini()
    with ordinary():
        update = subject.compiled()
        state = subject.tx.init(params)
        at = _counts(update, state, params, grads)
        if not at:
            raise NotApplicable("its state holds no integer that counts updates")
        full = _with(state, dict.fromkeys(at))
        u, after = update(grads[1], full, params)
        names = list(named_leaves(state))
        full, now = jax.tree.leaves(full), jax.tree.leaves(after)
        wrapped = [names[i] or "state" for i in at if int(np.min(now[i])) < int(np.min(full[i]))]
        finite = all(np.isfinite(x).all() for x in jax.tree.leaves(u))
    code = setup(params, grads[:1]) + (
        "leaves, tree = jax.tree.flatten(tx.init(params))\n"
        f"for i in {at}:  # they count updates\n"
        "    leaves[i] = jnp.full_like(leaves[i], jnp.iinfo(leaves[i].dtype).max)\n"
        "u, state = tx.update(grads[0], tree.unflatten(leaves), params)\n"
        f"for i in {at}:\n"
        "    assert (jax.tree.leaves(state)[i] >= leaves[i]).all(), jax.tree.leaves(state)[i]\n"
        "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(u)), u"
    )
    if wrapped:
        return Violation(
            f"the count {', '.join(wrapped)} wraps around at the largest integer of its dtype",
            {"state": full}, code)  # fmt: skip
    if not finite:
        return Violation("at the largest count the update is not finite", {"state": full}, code)
    return None


def _counts(update: Any, state: Any, params: Any, grads: list[Any]) -> list[int]:
    """Indices of integer leaves that increase by one with every update.

    From wherever they stand: what begins anew after a window, or is capped, is no such count.
    """
    leaves = jax.tree.leaves(state)
    whole = lambda x: not _is_key(x) and np.issubdtype(np.asarray(x).dtype, np.integer)
    at = [i for i, x in enumerate(leaves) if whole(x) and np.size(x)]
    for start in (None, 1000, 10**6, 2**29 + 1):
        now = state if start is None else _with(state, dict.fromkeys(at, start))
        for g in grads[:3]:
            before, now = now, update(g, now, params)[1]
            old, new = jax.tree.leaves(before), jax.tree.leaves(now)
            at = [i for i in at if (np.asarray(new[i]) == np.asarray(old[i]) + 1).all()]
    return at


def _with(state: Any, values: dict[int, int | None]) -> Any:
    """The state with other values for some integer leaves; `None` is the largest value."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(state)
    for i, value in values.items():
        top = jnp.iinfo(leaves[i].dtype).max
        new = top if value is None else value % top
        leaves[i] = jnp.full_like(leaves[i], new)
    return treedef.unflatten(leaves)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


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


LAWS = (
    Law("zero gradients", "Zero gradients give finite updates and states, then and after.",
        zeros, tolerance="exact", why="0/0 is the only way to fail"),
    Law("constant gradients", "A rule that adapts neither stalls nor blows up under constant "
        "gradients.", constant, claim="adapts", tolerance="a factor of 30 in 30 steps",
        why="Adagrad slows like 1/√t, momentum of .9 grows tenfold"),
    Law("differentiable", "The derivative of the update by the gradient is finite, also at 0.",
        differentiable, claim="differentiable", tolerance="finite",
        why="it is used in meta-learning"),
    Law("extremes", "Gradients of 1e±30, 1e±19 and denormals, then ordinary ones, give finite "
        "updates, and the rule is not stuck.", extremes, level="strict",
        tolerance="finite", why="squares overflow at 1e19"),
    Law("counts", "At the largest int32 a step count saturates.", counts, level="strict",
        tolerance="exact", why="it is an integer"),
)  # fmt: skip
