"""Products with identity matrices, and with identity matrices above or below rows of zeros.

`x @ I` and `I @ x` are x, perhaps with its axes in another order. If x is a concatenation,
`concatenate([a, b]) @ [[I], [0]]` is a, and with `[[0], [I]]` it is b. The same holds for kernels
of convolutions that are such a matrix in the middle, also where their input was padded beforehand,
with anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.ir.constants import WHOLE, Const
from trainkit.growth.ir.program import Equation

Shape = tuple[int, ...]
ZERO, UNIT, MINUS_ONE, EYE, EYES = "zero", "unit", "minus_one", "eye", "eyes"
EYE_FIRST, EYES_FIRST = "eye_first", "eyes_first"
FREE = "free"


class EyeBlock(NamedTuple):
    """A matrix with more rows: an identity in rows `start` to `start + size`, and 0 elsewhere."""

    start: int
    size: int


class Parts(NamedTuple):
    """An input whose parts along an axis are different things.

    Attributes:
      axis: the axis.
      each: for each part its size and what it is: ZERO, UNIT, MINUS_ONE, or FREE (anything).
    """

    axis: int
    each: tuple[tuple[int, str], ...]


# What an input is supposed to be: ZERO, UNIT (every element is 1), MINUS_ONE (every element is −1),
# EYE (an identity matrix), EYES (one for each leading index), EYES_FIRST (one for each trailing
# index), EYE_FIRST (a kernel whose channels are its first two axes), or an `EyeBlock`.
Supposition = str | EyeBlock


class Eye(NamedTuple):
    """An input that is assumed to be an identity matrix: what `is_eye`.

    In the body of an opened loop, `inside` is the variable that it is there.
    """

    place: int
    kind: Supposition
    inside: Any = None


def is_eye(what: Supposition) -> bool:
    """Whether something is supposed to be an identity matrix, or one of several, or a block."""
    return what not in (ZERO, UNIT, MINUS_ONE)


def identity_operands(eqn: Equation) -> Iterator[tuple[int, Supposition]]:
    """Operands, and which identity each may be, so that the product is the other operand.

    Or the other operand with its axes in another order; see `order_of_product`.
    """
    in_place = [what for what in (EYE, EYES, EYE_FIRST) if product_with(eqn, what)]
    yield from ((1, what) for what in in_place[:1])
    for i in (1, 0):
        for what in (EYE, EYES, EYES_FIRST):
            if order_of_product(eqn, i, what) is not None and not (i and in_place):
                yield i, what


def order_of_product(eqn: Equation, matrix: int, what: Supposition) -> tuple[int, ...] | None:
    """The axes of x, in the order of the result, if the other operand is an identity matrix.

    `None` if the equation is no product with square matrices of this kind (EYE, EYES or
    EYES_FIRST), number `matrix` of its operands.
    """
    if eqn.name != "dot_general" or what not in (EYE, EYES, EYES_FIRST):
        return None
    contracted, batch = eqn.params["dimension_numbers"]
    shape, others = shape_of(eqn.raw.invars[matrix]), batch[1 - matrix]
    first = max(len(shape) - 2, 0) if what == EYES else 0
    sides = set(range(first, first + 2))
    if (len(shape) == 2) != (what == EYE) or len({shape[d : d + 1] for d in sides}) != 1:
        return None
    if len(contracted[0]) != 1 or {*batch[matrix]} != {*range(len(shape))} - sides:
        return None
    rank, (summed,) = len(shape_of(eqn.raw.invars[1 - matrix])), contracted[1 - matrix]
    left = tuple(d for d in range(rank) if d != summed and d not in others)
    return (*others, *left, summed) if matrix else (*others, summed, *left)


def is_kept_by(eqn: Equation, ins: Sequence[Any], matrix: int) -> bool:
    """Whether an identity matrix that constants are applied to, such as a mask, is still one.

    The same holds for one matrix for each leading index.

    Args:
      eqn: an equation.
      ins: what stands for its operands.
      matrix: the number of the operand that is an identity matrix.
    """
    others = [v for i, v in enumerate(ins) if i != matrix]
    shape = shape_of(eqn.outs[0])
    square = len(shape) > 1 and shape[-2] == shape[-1]
    if not all(isinstance(v, Const) for v in others) or not square:
        return False
    large = any(math.prod(v.core_shape) > WHOLE for v in others)
    if shape_of(eqn.raw.invars[matrix]) != shape or large:
        return False
    diagonal = lambda v: np.diagonal(_whole(v, shape), axis1=-2, axis2=-1)
    if eqn.name == "mul":
        return bool((diagonal(others[0]) == 1).all())
    if eqn.name != "select_n" or len(eqn.ins) != 3 or matrix == 0:
        return False
    chosen = diagonal(others[0]).astype(int)
    return bool((chosen == matrix - 1).all()) and others[1].is_zero


def _whole(constant: Const, shape: Shape) -> np.ndarray:
    return np.broadcast_to(np.asarray(constant.value), shape)


def product_with(eqn: Equation, what: Supposition) -> bool:
    """Whether an equation is a product with its second operand that keeps the axes of the first.

    If that operand is an identity matrix (`what`), the result is the first one, or a part of it.
    """
    if eqn.name == "dot_general":
        if what == EYE_FIRST:
            return False
        (contracted, rows), batch = eqn.params["dimension_numbers"]
        last = (len(shape_of(eqn.raw.invars[0])) - 1,)
        rank = len(shape_of(eqn.raw.invars[1]))
        first = tuple(range(rank - 2))
        in_place = tuple(map(tuple, batch)) == (first, first)
        upright = tuple(rows) == (rank - 2,) or not isinstance(what, EyeBlock)
        return in_place and contracted == last and bool(first) == (what == EYES) and upright
    if eqn.name != "conv_general_dilated" or what == EYES or _crop(eqn) is None:
        return False
    kernel = eqn.params["dimension_numbers"].rhs_spec
    return (set(kernel[:2]) == {0, 1}) == (what == EYE_FIRST)


# The concatenation or pad that a value comes from, and its operands, or `None`.
Source = Callable[[Any], tuple[Equation, Sequence[Any]] | None]


def passed(eqn: Equation, value: Any, source: Source) -> Any:
    """What a `product_with` an identity matrix gives, if it is a whole variable; or `None`.

    A convolution without padding gives the middle of its first operand, `value`. If that was padded
    beforehand, the middle is what it was before.
    """
    if eqn.name != "conv_general_dilated":
        return value
    if not hasattr(value, "aval"):
        return None
    channels, *space = eqn.params["dimension_numbers"].lhs_spec[1:]
    sizes = list(shape_of(eqn.outs[0]))
    at = [0] * len(sizes)
    for d, first in zip(space, _crop(eqn) or (), strict=True):
        at[d] = first
    sizes[channels] = shape_of(value)[channels]
    while shape_of(value) != tuple(sizes):
        found = source(value)
        inside = None if found is None else _inside(found[0], at, sizes)
        if found is None or inside is None:
            return None
        number, at = inside
        value = found[1][number]
        if not hasattr(value, "aval"):
            return None
    return value


def centred(eqn: Equation) -> Equation:
    """A `product_with` an identity matrix that is applied to what is `passed`."""
    if eqn.name != "conv_general_dilated":
        return eqn
    padding = tuple((middle, middle) for middle in _middle(eqn))
    raw = eqn.raw.replace(params={**eqn.params, "padding": padding})
    return Equation(raw, eqn.ins, eqn.outs, eqn.calls)


def _inside(eqn: Equation, at: list[int], sizes: list[int]) -> tuple[int, list[int]] | None:
    """The operand of a concatenation or pad that has all entries from `at` on, and where there."""
    if eqn.name == "pad":
        config = eqn.params["padding_config"]
        before = [a - low for a, (low, _, _) in zip(at, config, strict=True)]
        shape = shape_of(eqn.raw.invars[0])
        inside = all(
            a >= 0 and a + n <= m and not inner
            for a, n, m, (_, _, inner) in zip(before, sizes, shape, config, strict=True)
        )
        return (0, before) if inside else None
    axis, start = eqn.params["dimension"], 0
    for i, v in enumerate(eqn.raw.invars):
        size = shape_of(v)[axis]
        if start <= at[axis] and at[axis] + sizes[axis] <= start + size:
            return i, [a - start if d == axis else a for d, a in enumerate(at)]
        start += size
    return None


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


def _middle(eqn: Equation) -> list[int]:
    """The places that a kernel has on either side of its middle, along each axis of space."""
    kernel = shape_of(eqn.raw.invars[1])
    dims = eqn.params["dimension_numbers"].rhs_spec[2:]
    return [
        kernel[d] // 2 * apart for d, apart in zip(dims, eqn.params["rhs_dilation"], strict=True)
    ]


def _crop(eqn: Equation) -> tuple[int, ...] | None:
    """The first place of the operand, along each axis of space, that a convolution gives back.

    Of one with an identity kernel (1 in the middle) at stride 1: 0 with "SAME" padding. `None` if
    the result is not a part of the operand. The kernel's channels are its last two dimensions, or
    the first two, where `maps.initial` puts the identity.
    """
    params, kernel = eqn.params, shape_of(eqn.raw.invars[1])
    lhs, rhs, out = params["dimension_numbers"]
    middle = _middle(eqn)
    plain = (
        (tuple(rhs[:2]) == (len(kernel) - 1, len(kernel) - 2) or set(rhs[:2]) == {0, 1})
        and tuple(lhs) == tuple(out)
        and all(kernel[d] % 2 for d in rhs[2:])
        and set(params["window_strides"]) <= {1}
        and set(params["lhs_dilation"]) <= {1}
        and params["feature_group_count"] == 1 == params["batch_group_count"]
        and all(max(pair) <= half for pair, half in zip(params["padding"], middle, strict=True))
    )
    starts = tuple(half - low for (low, _), half in zip(params["padding"], middle, strict=True))
    return starts if plain else None
