"""Laws of precision: float64 stays float64, and low precision agrees with float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.reproducers.programs import whole_run
from trainkit.laws.subject import Subject, mini


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
        if not gap <= 1e-3 and gap <= 8 * _shaken(subject, row, "float64", np.float32)[-1]:
            subject.notes.append(
                f"float64: float32 is off by {gap:.2g} ({row}), which is what the last digit of "
                "parameters, gradients and state does in float64 as well: it grows inside the rule"
            )
            continue
        if not gap <= 1e-3:
            # Use as few steps as possible.
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


def _shaken(subject: Subject, row: str, dtype: str, digit: Any) -> np.ndarray:
    """The relative change of a trajectory, up to each step, by rounding errors of another dtype.

    Relative to the length of the trajectory up to there. In float64 the state is rounded, too: a
    sum of G Gᵀ that is kept in float32 has lost its small eigenvalues, whatever is done with it.
    """
    stored = digit if dtype == "float64" else None
    runs, half = subject.runs(dtype), float(jnp.finfo(digit).eps) / 2
    plain, worst = runs[row].flat, np.zeros(len(runs[row].flat))
    length = lambda x: np.sqrt(np.cumsum(np.sum(np.square(x), axis=1)))
    for seed in range(3):
        draw = np.random.default_rng(seed)
        off = lambda x, draw=draw: x * (1 + half * draw.choice([-1, 1], x.shape))
        b = runs.batch._replace(params=off(runs.batch.params), grads=off(runs.batch.grads))
        moved = length(subject.rerun(b, dtype, stored)[row].flat - plain)
        worst = np.maximum(worst, moved / np.maximum(length(plain), 1e-300))
    return worst


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
            if np.isfinite(y).all() and _as_rounded(subject, row, dtype, a[: t + 1], b[: t + 1]):
                break
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


def _as_rounded(subject: Subject, row: str, dtype: str, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the runs differ no more than rounding errors change the float32 run.

    So it is with a rule whose update is the way to a point that it keeps, or that divides by what
    is 0 but for rounding.
    """
    gap = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-300)
    if gap > 8 * _shaken(subject, row, "float32", dtype)[len(a) - 1]:
        return False
    subject.notes.append(
        f"{dtype}: off by {gap:.2g} of float32's updates ({row}), which is what the last digit of "
        f"{dtype} parameters and gradients does in float32 as well: it grows inside the rule"
    )
    return True


def _short_count(subject: Subject, dtype: str) -> Violation | None:
    """A violation if the state counts updates in a float that soon has no next whole number."""
    params, grads = mini(dtype)
    with ordinary():
        state = subject.tx.init(params)
        small = lambda x: jnp.size(x) == 1 and jnp.result_type(x) == jnp.dtype(dtype)
        at = [i for i, x in enumerate(jax.tree.leaves(state)) if small(x)]
        step = subject.compiled()
        for g in grads[:3] if at else ():
            old, (_, state) = jax.tree.leaves(state), step(g, state, params)
            at = [i for i in at if jax.tree.leaves(state)[i] == old[i] + 1]
        if not at:
            return None
        last = 2 / float(jnp.finfo(dtype).eps)  # the next whole number is two away
        leaves = jax.tree.leaves(state)
        full = [jnp.full_like(x, last) if i in at else x for i, x in enumerate(leaves)]
        full = jax.tree.unflatten(jax.tree.structure(state), full)
        after = jax.tree.leaves(step(grads[3], full, params)[1])
    stuck = [i for i in at if after[i] == last]
    if not stuck:
        return None
    names = [list(named_leaves(state))[i] or "state" for i in stuck]
    return Violation(
        f"with {dtype} parameters it counts updates in {dtype} (the state's {', '.join(names)}), "
        f"which stops at {last:g}: keep counts in int32",
        {"params": params, "gradients": grads[:1]},
        setup(params, grads[:1]) + "leaves, tree = jax.tree.flatten(tx.init(params))\n"
        f"for i in {stuck}:  # they count updates\n"
        f"    leaves[i] = jnp.full_like(leaves[i], {last!r})\n"
        "_, state = tx.update(grads[0], tree.unflatten(leaves), params)\n"
        f"for i in {stuck}:\n"
        f"    assert jax.tree.leaves(state)[i] > {last!r}, jax.tree.leaves(state)[i]",
    )


def bfloat16(subject: Subject) -> Violation | None:
    return low_precision(subject, "bfloat16", 0.5) or _short_count(subject, "bfloat16")


def float16(subject: Subject) -> Violation | None:
    return low_precision(subject, "float16", 0.5)


LAWS = (
    Law("bfloat16", "In bfloat16 updates are finite, not zero, and point where float32's do, and "
        "steps can be counted.",
        bfloat16, reference="the same run in float32",
        tolerance="0.5 rad, and a length within a factor of 4, or 8 times what the last digit "
        "of parameters and gradients does in float32",
        why="bfloat16 has three digits, and β₂ = .999 rounds to 1 in it"),
    Law("float64", "float64 in gives float64 out, float32 stays float32 under x64, and the "
        "float32 trajectory stays near the float64 one.", float64, level="strict",
        tolerance="1e-3 of the trajectory's length, or 8 times what the last "
        "digit of parameters, gradients and state does in float64",
        why="30 steps of 6e-8, amplified"),
    Law("float16", "In float16 updates are finite, not zero, and point where float32's do.",
        float16, level="strict", tolerance="0.5 rad, and a length within a factor of 4, or 8 times "
        "what the last digit does in float32",
        why="ε = 1e-8 is zero in float16"),
)  # fmt: skip
