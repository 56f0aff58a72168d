"""Solvers of linear systems: nearest to targets in L1, and best with 0/1 values.

The first is a linear programme, the second a mixed-integer linear programme (HiGHS, by SciPy).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainkit.growth.axes.linear import Expr, System

# An expression, its target value, and the weight of its deviation.
Wish = tuple[Expr, float, float]
# An expression that is 0 or 1, whether it must be 1, and the gain if it is 1.
Choice = tuple[Expr, bool, float]
Terms = tuple[tuple[int, float], ...]  # (column, coefficient)


def nearest(system: System, wanted: Sequence[Wish]) -> Callable[[Expr], float]:
    """The solution of a system with the least weighted L1 distance to `wanted`.

    Returns:
      A function that evaluates any expression at the solution.

    Raises:
      RuntimeError: the solver fails. (A system built by `require_zero` always has a solution.)
    """
    rows = [(system.reduce(e), t, w) for e, t, w in wanted]
    index = _columns(row for row, _, _ in rows)
    active = [(row, t, w) for row, t, w in rows if any(v for v in row)]
    values = np.zeros(len(index))
    if index:
        terms = [[(index[v], c) for v, c in row.items() if v] for row, _, _ in active]
        rhs = np.array([target - row.get(0, 0.0) for row, target, _ in active])
        values = _least_absolute(_matrix(terms, len(index)), rhs, [w for _, _, w in active])
    return lambda expr: _evaluate(system.reduce(expr), index, values)


def _columns(rows: Any) -> dict[int, int]:
    """Variable -> its column, for all variables in the rows."""
    return {v: i for i, v in enumerate(sorted({v for row in rows for v in row if v}))}


def _matrix(rows: Sequence[Sequence[tuple[int, float]]], columns: int) -> Any:
    from scipy.sparse import csr_matrix

    data = [c for row in rows for _, c in row]
    at = [r for r, row in enumerate(rows) for _ in row]
    return csr_matrix((data, (at, [i for row in rows for i, _ in row])), shape=(len(rows), columns))


def _evaluate(expr: Expr, index: Mapping[int, int], values: np.ndarray) -> float:
    """The value of a reduced expression; variables without a column are 0."""
    return sum(
        c * (1.0 if v == 0 else values[index[v]] if v in index else 0.0) for v, c in expr.items()
    )


def _least_absolute(a: Any, rhs: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """x that minimises Σ weight · |a x − rhs|."""
    from scipy.optimize import linprog
    from scipy.sparse import hstack, identity

    (m, n), slack = a.shape, identity(len(rhs))
    solution = linprog(
        np.concatenate([np.zeros(n), weights, weights]),
        A_eq=hstack([a, -slack, slack]).tocsr(),
        b_eq=rhs,
        bounds=[(None, None)] * n + [(0, None)] * (2 * m),
        method="highs",
    )
    if solution.status != 0:
        raise RuntimeError(f"the scales' linear programme failed: {solution.message}")
    values = solution.x[:n]
    # The solver stops at 1e-7. The rows that are met exactly determine the vertex to rounding.
    tight = np.abs(a @ values - rhs) < 1e-6
    if tight.any():
        sub = a[tight].toarray()
        values = values + np.linalg.lstsq(sub, rhs[tight] - sub @ values, rcond=1e-9)[0]
    return values


def choose(
    system: System, bits: Sequence[tuple[Expr, float]], between: Sequence[Choice]
) -> tuple[Callable[[Expr], int] | None, list[int]]:
    """Solves a system with 0/1 expressions, maximising the sum of their gains.

    Args:
      system: the linear system.
      bits: (expression that must be 0 or 1, gain).
      between: (expression that must be 0 or 1, whether it must be 1, gain).

    Returns:
      A function that evaluates an expression, and []. Or `None`, and the indices of entries of
      `between` that have no solution even alone; if each has one, the first that must be 1.
    """
    free: list[Choice] = [(system.reduce(e), False, g) for e, g in bits]
    ranges: list[Choice] = [(system.reduce(e), must, g) for e, must, g in between]
    index = _columns(e for e, _, _ in [*free, *ranges])
    values = _best([*free, *ranges], index)
    if values is None:
        must = [i for i, (_, must, _) in enumerate(ranges) if must]
        culprits = [i for i in must if _best([*free, ranges[i]], index) is None]
        return None, culprits or must[:1]
    # Variables without a row are free; they become 0.
    return lambda expr: round(_evaluate(system.reduce(expr), index, values)), []


def _best(choices: Sequence[Choice], index: Mapping[int, int]) -> np.ndarray | None:
    """Values of the variables with the greatest gain; `None` if there is no solution."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows: dict[Terms, tuple[float, float]] = {}
    gains = np.zeros(len(index))
    for expr, must, gain in choices:
        base = expr.get(0, 0.0)
        terms = tuple(sorted((index[v], round(c, 9)) for v, c in expr.items() if v))
        for i, c in terms:
            gains[i] += gain * c
        low, high = (1.0 if must else 0.0) - base, 1.0 - base
        if not terms:
            if low > 1e-9 or high < -1e-9:
                return None
            continue
        old = rows.get(terms, (-np.inf, np.inf))
        rows[terms] = (max(low, old[0]), min(high, old[1]))
    if any(low > high for low, high in rows.values()):
        return None
    if not rows:
        return np.zeros(len(index))
    low, high = np.array(list(rows.values())).T
    solution = milp(
        -gains,
        constraints=LinearConstraint(_matrix(list(rows), len(index)), low, high),
        integrality=np.ones(len(index)),
        bounds=Bounds(-2, 2),
    )
    return None if solution.x is None else np.round(solution.x)
