"""Laws of symmetry: a run of the transformed problem, transformed back, is the plain run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import mismatch, spread
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.shrink import violation


def _symmetry(
    row: str,
    to: Callable[[Case], Case],
    back: Callable[[np.ndarray], np.ndarray],
    tolerance: float,
    message: str,
    lines: str,
) -> Callable[[Subject], Violation | None]:
    """A law that the run `row`, transformed by `back`, is the plain run.

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

        def agree_in_float64() -> bool:
            runs = subject.runs("float64")
            want = back(runs["plain"].flat)
            return (
                mismatch(runs[row].flat, want, 1e-9 * np.abs(want).max(initial=0.0) + 0 * want)
                is None
            )

        gap = abs(wrong.found - wrong.expected) / max(float(np.abs(want).max()), 1e-300)
        if subject.only_rounding(gap, agree_in_float64, row):
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
    # The permutation depends on the seed; get it from the two gradient rows.
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
        return  # a mask may treat the joined leaf differently
    # One long leaf must be updated like its two halves.
    params, grads = mini()
    join = lambda t: {"all": jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(t)])}
    joined = subject.trajectory(subject.tx, join(params), [join(g) for g in grads[:3]])
    apart = subject.trajectory(subject.tx, params, grads[:3])
    for u, v in zip(joined, apart, strict=True):
        x, y = np.asarray(u["all"], np.float64), np.asarray(join(v)["all"], np.float64)
        if not np.all(np.abs(x - y) <= spread(y)):
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


LAWS = (
    Law("element-wise", "Concatenating leaves concatenates updates, and a NaN in one element "
            "reaches no other.", elementwise, claim="element-wise"),
    Law("odd", "update(−g) = −update(g) along a trajectory.", odd, claim="odd",
            tolerance="1e-6 relative", why="negation rounds nothing"),
    Law("degree", "Scaling all gradients by k scales the updates by k to the claimed power.",
            degree, claim="degree", tolerance="2e-5 relative",
            why="k is a power of two; what is left is ε = 1e-8 beside gradients of order 1"),
    Law("permutation", "Permuting coordinates inside leaves permutes the updates.", permutes,
            claim="permutation"),
    Law("rotation", "Rotating parameters and gradients rotates the updates.", rotates,
            claim="rotation", tolerance="1e-4 relative", why="a rotation rounds 21 terms"),
)  # fmt: skip
