"""Products with identity matrices, and with identity matrices above or below rows of zeros.

`x @ I` is x. If x is a concatenation, `concatenate([a, b]) @ [[I], [0]]` is a, and with
`[[0], [I]]` it is b. The same holds for kernels of convolutions that are such a matrix in the
middle.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from trainkit.growth.ir.program import Equation

Shape = tuple[int, ...]
ZERO, UNIT, MINUS_ONE, EYE, EYES = "zero", "unit", "minus_one", "eye", "eyes"


class EyeBlock(NamedTuple):
    """A matrix with more rows: an identity in rows `start` to `start + size`, and 0 elsewhere."""

    start: int
    size: int


# What an input is supposed to be: ZERO, UNIT (every element is 1), MINUS_ONE (every element is −1),
# EYE (an identity matrix), EYES (one for each leading index), or an `EyeBlock`.
Supposition = str | EyeBlock


def is_eye(what: Supposition) -> bool:
    """Whether something is supposed to be an identity matrix, or one of several, or a block."""
    return what not in (ZERO, UNIT, MINUS_ONE)


def product_with(eqn: Equation, what: Supposition) -> bool:
    """Whether an equation is a product with its second operand that keeps the axes of the first.

    If that operand is an identity matrix (`what`), the result is the first one, or a part of it.
    """
    if eqn.name == "dot_general":
        (contracted, rows), batch = eqn.params["dimension_numbers"]
        last = (len(shape_of(eqn.raw.invars[0])) - 1,)
        rank = len(shape_of(eqn.raw.invars[1]))
        first = tuple(range(rank - 2))
        in_place = tuple(map(tuple, batch)) == (first, first)
        upright = tuple(rows) == (rank - 2,) or not isinstance(what, EyeBlock)
        return in_place and contracted == last and bool(first) == (what == EYES) and upright
    return eqn.name == "conv_general_dilated" and what != EYES and _is_centred(eqn)


def blocks(eqn: Equation, concatenation: Equation) -> list[EyeBlock]:
    """The blocks of the second operand of `product_with`, one for each part of the first.

    Args:
      eqn: the product.
      concatenation: the equation that its first operand comes from.

    Returns:
      The blocks in order; an empty list if the parts are not along the axis that is summed over.
    """
    summed = len(shape_of(eqn.raw.invars[0])) - 1
    if eqn.name == "conv_general_dilated":
        summed = eqn.params["dimension_numbers"].lhs_spec[1]
    if concatenation.params["dimension"] != summed:
        return []
    sizes = [shape_of(v)[summed] for v in concatenation.raw.invars]
    starts = itertools.accumulate(sizes, initial=0)
    return [EyeBlock(start, size) for start, size in zip(starts, sizes, strict=False)]


def shape_of(v: Any) -> Shape:
    """The shape of a variable."""
    return tuple(v.aval.shape)


def _is_centred(eqn: Equation) -> bool:
    """Whether a convolution with an identity kernel (1 in the middle) is the identity.

    The kernel's channels are its last two dimensions, where `depth.identity` puts the identity.
    """
    params, kernel = eqn.params, shape_of(eqn.raw.invars[1])
    lhs, rhs, out = params["dimension_numbers"]
    middle = [(kernel[d] // 2, kernel[d] // 2) for d in rhs[2:]]
    undilated = {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
    ungrouped = params["feature_group_count"] == 1 == params["batch_group_count"]
    return (
        tuple(rhs[:2]) == (len(kernel) - 1, len(kernel) - 2)
        and tuple(lhs) == tuple(out)
        and all(kernel[d] % 2 for d in rhs[2:])
        and [tuple(pair) for pair in params["padding"]] == middle
        and set(params["window_strides"]) <= {1}
        and undilated
        and ungrouped
    )
