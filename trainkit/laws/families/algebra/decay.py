"""The law of decoupled decay: −η λ p is added to the update, and no moment sees it."""

from __future__ import annotations

import numpy as np

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import mismatch
from trainkit.laws.subject import Subject


def decoupled(subject: Subject) -> Violation | None:
    """update(g, p₁) − update(g, p₂) = −η λ (p₁ − p₂), for all previous gradients.

    A rate that has to be found may be another one at each step: η may follow a schedule.
    """
    runs = subject.runs()
    a, b = runs["moved"], runs["plain"]
    dp, du = a.params - b.params, a.flat - b.flat
    claimed = subject.claims["decoupled decay"]
    if claimed is True:
        rates = _rates(dp, du)
        rate = float(rates.min())
        if rate < 0:
            return Violation(
                f"the decay pushes away from zero: update changes by {-rate:.3g} times the "
                "parameter", {"rate": rate},
                _DECAY + "assert (ratio <= 0).all(), ratio")  # fmt: skip
        expected = -rates[:, None] * dp
    else:
        expected = -np.asarray(claimed, np.float64) * dp
    rounding = 1e-6 * (np.abs(a.flat) + np.abs(b.flat)) + 3e-6 * np.abs(expected)
    # A masked leaf does not decay, which is also right.
    wrong = mismatch(du, expected, rounding)
    if wrong and claimed is True:
        undecayed = np.all(np.abs(du) <= rounding, axis=0)
        wrong = mismatch(np.where(undecayed, expected, du), expected, rounding)
    if wrong is None:
        return None
    used = "ratio[ratio != 0]" if claimed is True else "ratio"
    wanted = f"{used}[:1]" if claimed is True else repr(-float(np.ravel(claimed)[0]))
    return Violation(
        f"with the same gradients, parameters that differ by {dp[wrong.step, wrong.at]:.6g} "
        f"get updates that differ by {wrong.found:.6g}; decoupled decay would make it "
        f"{wrong.expected:.6g} (step {wrong.step + 1})",
        {"step": wrong.step, "found": wrong.found, "expected": wrong.expected},
        _DECAY + f"assert jnp.allclose({used}, {wanted}, rtol=1e-4), ratio",
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


def _rates(dp: np.ndarray, du: np.ndarray) -> np.ndarray:
    """η λ of each step, from the leaves that decay: where a parameter changes the update."""
    used = (np.abs(dp) > 1) & np.any(du != 0, axis=0)
    ratios = np.where(used, -du / np.where(used, dp, 1.0), np.nan)
    return np.array([np.nanmedian(r) if np.isfinite(r).any() else 0.0 for r in ratios])


LAWS = (
    Law("decoupled decay", "The decay adds −η λ p to the update and touches no moment.",
        decoupled, claim="decoupled decay", reference="Loshchilov & Hutter 2019",
        tolerance="3e-6 of the decay plus 1e-6 of the updates",
        why="a difference of two float32 numbers"),
)  # fmt: skip
