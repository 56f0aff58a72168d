"""Laws of the singular values of an update, and of the factor that its shape gives it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.laws.families.matrices import measures as M
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.shape_factors import FACTORS, swapped
from trainkit.laws.subject import Subject

Shape = tuple[int, int]
# dtype: (of ratios, of bounds)
NEAR = {"float32": (0.02, 0.01), "bfloat16": (0.1, 0.15)}


def size(subject: Subject) -> int:
    """The smaller side of test matrices: above the size from which the rule factors."""
    return max(4, int(subject.claims.get("factored", 0)))


def shim(subject: Subject) -> Any:
    """The rule with the extra arguments that it needs, as one object, so that it compiles once."""
    update = lambda g, s, p: subject.update(g, s, p)
    return subject.memo.setdefault(
        "shim", types.SimpleNamespace(init=subject.tx.init, update=update)
    )


def shown(shape: Shape) -> str:
    return "×".join(map(str, shape))


def factor_of(subject: Subject) -> Callable[[float, float], float]:
    claim = subject.claims.get("shape factor", "1")
    return claim if callable(claim) else FACTORS["1" if claim is True else claim]


def only_rounding(subject: Subject, gap: float, agrees: Callable[[], bool], law: str) -> bool:
    """Whether a gap is small, and only float32's."""
    return gap <= 0.03 and subject.only_rounding(gap, agrees, law)


def dtypes(tx: Any) -> list[str]:
    """float32, and bfloat16 where it runs at all, which is the law of bfloat16's matter."""
    try:
        runs = np.isfinite(M.stretch(tx, (4, 4), "bfloat16"))
    except Exception:
        runs = False
    return list(NEAR) if runs else ["float32"]


@ordinary()
def factor(subject: Subject) -> Violation | None:
    n, want, tx = size(subject), factor_of(subject), shim(subject)
    claim = subject.claims["shape factor"]
    wide, tall = (n, 4 * n), (4 * n, n)
    for dtype in dtypes(tx):
        near = NEAR[dtype][0]
        square = M.stretch(tx, (n, n), dtype)
        ratios = [M.stretch(tx, shape, dtype) / (square or 1.0) for shape in (wide, tall)]
        expected = [want(*shape) / want(n, n) for shape in (wide, tall)]
        same = lambda xs, near=near, r=ratios: np.allclose(r, xs, rtol=near, atol=1e-3)
        if same(expected):
            continue
        name = claim if isinstance(claim, str) else "what is claimed"
        fits = [k for k, f in FACTORS.items() if same([f(*s) / f(n, n) for s in (wide, tall)])]
        words = f". That is {' or '.join(fits)}" if fits else ", which no known factor gives"
        if isinstance(claim, str) and swapped(claim) in fits:
            words = f". That is {swapped(claim)}: the factor is transposed"
        lines = [f"ratios = [stretch(tx, s, '{dtype}') / stretch(tx, {(n, n)}, '{dtype}')"
                 f" for s in ({wide}, {tall})]",
                 f"expected = {expected!r}  # of a wide and a tall kernel [in, out]",
                 f"assert np.allclose(ratios, expected, rtol={near}, atol=1e-3), "
                 "f'{ratios}, expected {expected}'"]  # fmt: skip
        return Violation(
            f"beside a square kernel the update of one of {shown(wide)} ([in, out]) is "
            f"{ratios[0]:.3g} times as large, of {shown(tall)} {ratios[1]:.3g} times; {name} gives "
            f"{expected[0]:.3g} and {expected[1]:.3g}{words}",
            {"dtype": dtype, "wide, tall": ratios, "expected": expected},
            M.program(M.stretch, *lines),
        )
    return None


@ordinary()
def values(subject: Subject) -> Violation | None:
    """claims={"singular values": (lowest, highest)}, for a square matrix."""
    bounds, n, tx = subject.claims["singular values"], size(subject), shim(subject)
    low, high = (0.0, np.inf) if bounds is True else bounds
    want = factor_of(subject)
    full, half = np.linspace(1.0, 0.5, n), np.linspace(1.0, 0.5, n // 2)
    tried: dict[str, tuple[Shape, np.ndarray]] = {
        "square": ((n, n), full), "wide": ((n, 2 * n), full), "tall": ((2 * n, n), full),
        "rank-deficient": ((n, n), half), "one-row": ((1, 2 * n), full[:1]),
    }  # fmt: skip
    for dtype in dtypes(tx):
        near = NEAR[dtype][1]
        for words, (shape, given) in tried.items():
            scale = want(*shape) / want(n, n)
            found = M.spectrum(tx, shape, given, dtype)
            top, rest = found[: len(given)], found[len(given) :]
            a, b = low * scale * (1 - near), high * scale * (1 + near)
            if top.min() >= a and top.max() <= b and rest.max(initial=0.0) <= b:
                continue
            k = len(given)
            code = [f"s = spectrum(tx, {shape}, {given.tolist()}, '{dtype}')", "print(s)",
                    f"assert {a!r} <= s[:{k}].min() <= s[:{k}].max() <= {b!r}, str(s)",
                    f"assert s[{k}:].max(initial=0.0) <= {b!r}, str(s)"]  # fmt: skip
            null = f", and to {rest.max():.3g} where the gradient has none" if len(rest) else ""
            return Violation(
                f"the singular values of the update of a {words} matrix ({shown(shape)}, {dtype}) "
                f"go from {top.min():.4g} to {top.max():.4g}{null}; claimed are {low * scale:.4g} "
                f"to {high * scale:.4g}",
                {"shape": shape, "gradient's": given, "found": found}, M.program(M.spectrum, *code),
            )  # fmt: skip
    return None


LAWS = (
    Law("shape factor", "The size of an update depends on the kernel's shape [in, out] as claimed.",
        factor, claim="shape factor", tolerance="2 %; 10 % in bfloat16",
        why="gradients have equal singular values, on which every iteration acts alike; bfloat16 "
        "has .4 %, and five iterations of three products"),
    Law("singular values", "The singular values of an update are within the claimed bounds, for a "
        "gradient whose own are within a factor of 2.", values, claim="singular values",
        tolerance="1 %; 15 % in bfloat16", why="as for the shape factor"),
)  # fmt: skip
