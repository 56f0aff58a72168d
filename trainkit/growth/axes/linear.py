"""Sparse linear expressions, a system of equations on them, and its L1 and 0/1 solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Expr = dict[int, float]  # variable -> coefficient; variable 0 stands for the constant 1

ZERO: Expr = {}


def plus(a: Expr, b: Expr, scale: float = 1.0) -> Expr:
    """a + scale · b."""
    if not b:
        return a
    out = dict(a)
    for var, coef in b.items():
        value = out.get(var, 0.0) + scale * coef
        if abs(value) < 1e-13:
            out.pop(var, None)
        else:
            out[var] = value
    return out


def times(a: Expr, scale: float) -> Expr:
    return {var: coef * scale for var, coef in a.items()} if scale else {}


def constant(value: float) -> Expr:
    return {0: value} if value else {}


class System:
    """Equations solved as they arrive, so that the first one that cannot hold is known by name."""

    def __init__(self, tolerance: float = 1e-9):
        self.tolerance = tolerance
        self.count = 0
        self.pivots: dict[int, Expr] = {}

    def variable(self) -> Expr:
        self.count += 1
        return {self.count: 1.0}

    def reduce(self, expr: Expr) -> Expr:
        """The expression in terms of the variables that are still free."""
        out = dict(expr)
        todo = [v for v in out if v in self.pivots]
        while todo:
            for var in todo:
                coef = out.pop(var, 0.0)
                for v, c in self.pivots[var].items():
                    value = out.get(v, 0.0) + coef * c
                    if abs(value) < 1e-13:
                        out.pop(v, None)
                    else:
                        out[v] = value
            todo = [v for v in out if v in self.pivots]
        return out

    def require_zero(self, expr: Expr) -> float:
        """Adds expr = 0; returns the residual, which is not 0 where the equation cannot hold."""
        row = self.reduce(expr)
        free = [v for v in row if v]
        if not free:
            residual = row.get(0, 0.0)
            return residual if abs(residual) > self.tolerance else 0.0
        pivot = max(free)  # the youngest: parameters, which come first, stay free
        coef = row.pop(pivot)
        self.pivots[pivot] = {v: -c / coef for v, c in row.items()}
        return 0.0


def nearest(system: System, wanted: Sequence[tuple[Expr, float, float]]) -> Callable[[Expr], float]:
    """Solves the system by weighted L1 towards `wanted`: (expression, target, weight).

    Returns the function that evaluates any expression at the solution.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix, hstack, identity

    rows = [(system.reduce(e), t, w) for e, t, w in wanted]
    free = sorted({v for row, _, _ in rows for v in row if v})
    index = {v: i for i, v in enumerate(free)}
    values = np.zeros(len(free))
    active = [(row, t, w) for row, t, w in rows if any(v for v in row)]
    if free:
        data, ri, ci = [], [], []
        rhs = np.empty(len(active))
        for r, (row, target, _) in enumerate(active):
            rhs[r] = target - row.get(0, 0.0)
            for v, c in row.items():
                if v:
                    data.append(c)
                    ri.append(r)
                    ci.append(index[v])
        a = csr_matrix((data, (ri, ci)), shape=(len(active), len(free)))
        weights = np.array([w for _, _, w in active])
        slack = identity(len(active))
        found = linprog(
            np.concatenate([np.zeros(len(free)), weights, weights]),
            A_eq=hstack([a, -slack, slack]).tocsr(),
            b_eq=rhs,
            bounds=[(None, None)] * len(free) + [(0, None)] * (2 * len(active)),
            method="highs",
        )
        if found.status != 0:
            raise RuntimeError(f"the scales' linear programme failed: {found.message}")
        values = found.x[: len(free)]
        # The solver stops at 1e-7; the rows it meets exactly determine the vertex to rounding.
        tight = np.abs(a @ values - rhs) < 1e-6
        if tight.any():
            sub = a[tight].toarray()
            values = values + np.linalg.lstsq(sub, rhs[tight] - sub @ values, rcond=1e-9)[0]

    def evaluate(expr: Expr) -> float:
        return sum(
            c * (1.0 if v == 0 else values[index[v]] if v in index else 0.0)
            for v, c in system.reduce(expr).items()
        )

    return evaluate


def choose(
    system: System,
    bits: Sequence[tuple[Expr, float]],
    between: Sequence[tuple[Expr, bool, float]],
) -> tuple[Callable[[Expr], int] | None, list[int]]:
    """Solves for 0/1 variables: maximises Σ gain over `bits` and `between`.

    Args:
      bits: (expression that must be 0 or 1, gain).
      between: (expression that must be 0 or 1, whether it must be 1, gain).

    Returns:
      The function that evaluates an expression, or `None` with the indices into `between` that
      cannot hold, each by itself; where they cannot hold together only, the first that must.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    reduced = [(system.reduce(e), g) for e, g in bits]
    ranges = [(system.reduce(e), must, g) for e, must, g in between]
    every = [e for e, _ in reduced] + [e for e, _, _ in ranges]
    free = sorted({v for e in every for v in e if v})
    index = {v: i for i, v in enumerate(free)}

    def solve(keep: Sequence[int] | None):
        rows: dict[tuple, tuple[float, float]] = {}
        gains = np.zeros(len(free))
        chosen = ranges if keep is None else [ranges[i] for i in keep]
        plain: list[tuple[Expr, bool, float]] = [(e, False, g) for e, g in reduced]
        for expr, must, gain in [*plain, *chosen]:
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
        if not free:
            return np.zeros(0)
        if not rows:
            return np.zeros(len(free))
        data, ri, ci = [], [], []
        for r, terms in enumerate(rows):  # the terms are (column, coefficient) pairs
            for i, c in terms:
                data.append(c)
                ri.append(r)
                ci.append(i)
        a = csr_matrix((data, (ri, ci)), shape=(len(rows), len(free)))
        low, high = np.array(list(rows.values())).T
        found = milp(
            -gains,
            constraints=LinearConstraint(a, low, high),
            integrality=np.ones(len(free)),
            bounds=Bounds(-2, 2),
        )
        return None if found.x is None else np.round(found.x)

    values = solve(None)
    if values is None:
        culprits = [i for i, (_, must, _) in enumerate(ranges) if must and solve([i]) is None]
        return None, culprits or [i for i, (_, must, _) in enumerate(ranges) if must][:1]
    # What no row mentions is free to be anything; 0 is the plain choice.
    return (
        lambda expr: round(
            sum(
                c * (1.0 if v == 0 else values[index[v]] if v in index else 0.0)
                for v, c in system.reduce(expr).items()
            )
        ),
        [],
    )
