"""Comparison of two functions that should compute the same updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from trainkit.laws.problems.comparison import RELATIVE, gap_of
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject, mini

Updates = Callable[[Any, list[Any]], list[Any]]  # (params, gradients of each step) -> updates


def first_difference(
    subject: Subject, one: Updates, two: Updates, where: str, steps: int = 6
) -> tuple[int, Any, Any] | None:
    """(step, update of one, update of two) at the first difference of two functions, or `None`.

    A difference is forgiven if it is amplified rounding (see `Subject.only_rounding`), or rounding
    to a coarser dtype inside the rule. So is one in the last digits of the parameters, in float32
    and in float64: an update may be the way to a point that the rule keeps, and be 0 but for the
    rounding of that.
    """

    def run(dtype: str, tight: float) -> tuple[int, float, bool, list[Any], list[Any]]:
        params, grads = mini(dtype)
        a, b = one(params, grads[:steps]), two(params, grads[:steps])
        return *gap_of(a, b, tight), _in_last_digits(a, b, params), a, b

    t, gap, last, a, b = run("float32", 1.0)
    agree = lambda: (found := run("float64", 1e-5))[1] <= 1 or found[2]
    off = RELATIVE * gap
    if gap <= 1 or subject.only_rounding(off, agree, where, sure=last):
        return None
    if subject.coarse_rounding(RELATIVE * gap, subject.sensitivity, where):
        return None
    return t, a[t], b[t]


def _in_last_digits(one: list[Any], two: list[Any], params: Any) -> bool:
    """Whether two runs differ by no more than a few last digits of the parameters."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(params)]
    digit = max(np.finfo(x.dtype).eps * np.abs(x).max(initial=0) for x in leaves)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(np.all(np.abs(np.asarray(x) - np.asarray(y)) <= 4 * digit) for x, y in pairs)


def jitted(subject: Subject, params: Any, grads: list[Any]) -> list[Any]:
    """The updates of some compiled steps."""
    step = subject.compiled()
    with ordinary():
        state, out = subject.tx.init(params), []
        for g in grads:
            u, state = step(g, state, params)
            params = optax.apply_updates(params, u)
            out.append(u)
    return out
