"""Laws of symmetry of matrix rules: orthogonal maps from both sides, and transposition."""

from __future__ import annotations

import functools

from trainkit.laws.families.matrices import measures as M
from trainkit.laws.families.matrices.spectrum import factor_of, only_rounding, shim, shown, size
from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject

Shape = tuple[int, int]
NEAR = 1e-3


def shapes(subject: Subject) -> list[Shape]:
    """Square, wide and tall, above the threshold.

    One more column than rows: the basis of a null space of two dimensions is of no one's choice.
    """
    n = size(subject)
    return [(n, n), (n, n + 1), (n + 1, n)]


@ordinary()
def orthogonal(subject: Subject) -> Violation | None:
    tx = shim(subject)
    for shape in shapes(subject):
        gap = M.turned(tx, shape, "UV")
        agree = lambda s=shape: M.turned(tx, s, "UV", "float64") <= 1e-6
        if gap <= NEAR or only_rounding(subject, gap, agree, "orthogonal maps"):
            continue
        if subject.coarse_rounding(gap, functools.partial(M.shaken, tx, shape), "orthogonal maps"):
            continue
        one = {side: M.turned(tx, shape, side) for side in "UV"}
        held = [f"from {where} it holds" for side, where in (("U", "the left"), ("V", "the right"))
                if one[side] <= NEAR]  # fmt: skip
        return Violation(
            f"for a {shown(shape)} matrix f(U G V) is {gap:.3g} of its length away from U f(G) V"
            + "".join(f" ({words})" for words in held),
            {"shape": shape, "gap": gap, "of U alone": one["U"], "of V alone": one["V"]},
            M.program(M.turned, f"gap = turned(tx, {shape}, 'UV')",
                      f"assert gap <= {NEAR}, f'f(U G V) is {{gap}} away from U f(G) V'"),
        )  # fmt: skip
    return None


@ordinary()
def transposes(subject: Subject) -> Violation | None:
    tx, factor = shim(subject), factor_of(subject)
    for shape in shapes(subject):
        ratio = factor(shape[1], shape[0]) / factor(*shape)
        gap = M.transposed(tx, shape, ratio)
        agree = lambda s=shape, r=ratio: M.transposed(tx, s, r, "float64") <= 1e-6
        if gap <= NEAR or only_rounding(subject, gap, agree, "transposition"):
            continue
        if subject.coarse_rounding(gap, functools.partial(M.shaken, tx, shape), "transposition"):
            continue
        return Violation(
            f"for a {shown(shape)} matrix f(Gᵀ) is {gap:.3g} of its length away from {ratio:.3g} "
            "f(G)ᵀ",
            {"shape": shape, "factor": ratio, "gap": gap},
            M.program(M.transposed, f"gap = transposed(tx, {shape}, {ratio!r})",
                      f"assert gap <= {NEAR}, f'f(G.T) is {{gap}} away from {ratio:.3g} f(G).T'"),
        )  # fmt: skip
    return None


WHY = "Newton and Schulz's iteration multiplies float32's rounding by some thousand"
LAWS = (
    Law("orthogonal maps", "f(U G V) = U f(G) V for orthogonal U and V.", orthogonal,
        claim="orthogonal", tolerance="1e-3 of the update's length", why=WHY),
    Law("transposition", "f(Gᵀ) = f(G)ᵀ, up to the factor that the shape has.", transposes,
        claim="transposes", tolerance="1e-3 of the update's length", why=WHY),
)  # fmt: skip
