"""Sparse linear expressions, and a system of linear equations."""

from __future__ import annotations

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
    """A linear system, solved incrementally, so that the first conflicting equation is known."""

    def __init__(self, tolerance: float = 1e-9):
        self.tolerance = tolerance
        self.count = 0
        self.pivots: dict[int, Expr] = {}

    def variable(self) -> Expr:
        self.count += 1
        return {self.count: 1.0}

    def reduce(self, expr: Expr) -> Expr:
        """The expression in terms of free variables."""
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
        """Adds the equation expr = 0. Returns 0, or the residual if the equation cannot hold."""
        row = self.reduce(expr)
        free = [v for v in row if v]
        if not free:
            residual = row.get(0, 0.0)
            return residual if abs(residual) > self.tolerance else 0.0
        pivot = max(free)  # the newest variable, so that those of parameters stay free
        coef = row.pop(pivot)
        self.pivots[pivot] = {v: -c / coef for v, c in row.items()}
        return 0.0
