"""The table of traits of all primitives, which every analysis uses.

`traits(equation)` returns the traits of one equation, which hold for all values of its operands. A
primitive that is not in the table has no traits: nothing is known about its results, and its bodies
are not entered. Traits hold in exact arithmetic, for finite operands that have elements.

A trait about some operands names them by `ALL`, `FIRST`, `REST` (all but the first), and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jax.lax import GatherScatterMode

T = TypeVar("T")
Params = Mapping[str, Any]
Finite = Literal["all", "not negative", "zero"]
Dims = Callable[[Params], Sequence[Sequence[int]]]


class Operands(NamedTuple):
    """Some operands of an equation, as a slice."""

    start: int = 0
    stop: int | None = None
    step: int = 1

    def of(self, values: Sequence[T]) -> list[T]:
        """The values that belong to these operands."""
        return list(values[slice(*self)])

    def others(self, values: Sequence[T]) -> list[T]:
        """The values that belong to all other operands."""
        rest = list(values)
        del rest[slice(*self)]
        return rest


NONE, ALL, FIRST, REST = Operands(0, 0), Operands(), Operands(0, 1), Operands(1)


@dataclasses.dataclass(frozen=True)
class Traits:
    """The traits of a primitive; the default is that nothing is known.

    Attributes:
      call: it runs its one body, and does nothing else.
      identity: its results are its operands; it only affects where or how they are stored.
      move: its results are elements of its operands at other positions: "whole" (all elements of
        the operand), "part" (some elements), "join" (elements of several operands).
      chooses: every element of its result is an element of the first operand, possibly at another
        precision. (Primitives that move elements do that, and so does a maximum.)
      same: its result is the first operand, possibly at another precision.
      elementwise: an element of the result depends only on operand elements at the same position.
      linear: operands in which it is jointly linear, with the others fixed.
      multilinear: operands in each of which it is linear, with all others fixed.
      zero: operands that make the result 0 if all of them are 0. (Operands in `linear`, and the
        first operand of a primitive that chooses, also do.)
      absorbing: operands each of which makes the result 0 if it is 0. (Operands in `multilinear`
        also do.)
      at_zero: the value at 0, if it has one operand and the value is not 0.
      increasing: it is strictly increasing in its only operand, for non-negative values.
      sign: "positive" or "not negative", if all real results are.
      finite: the operand values at which it is finite: "all", "not negative", or "zero".
      foreign: it runs code that is not JAX, which planning never does.
      sums: for each operand, the dimensions that are reduced or contracted.
    """

    call: bool = False
    identity: bool = False
    move: Literal["whole", "part", "join"] | None = None
    chooses: bool = False
    same: bool = False
    elementwise: bool = False
    linear: Operands = NONE
    multilinear: Operands = NONE
    zero: Operands = NONE
    absorbing: Operands = NONE
    at_zero: float | None = None
    increasing: bool = False
    sign: Literal["positive", "not negative"] | None = None
    finite: Finite | None = None
    foreign: bool = False
    sums: Dims = lambda params: ()


UNKNOWN = Traits()


def traits(equation: Any) -> Traits:
    """The traits of an equation: anything with a `name`, `params` and operands `ins`.

    >>> from types import SimpleNamespace
    >>> traits(SimpleNamespace(name="tanh", params={}, ins=[])).zero == FIRST
    True
    >>> traits(SimpleNamespace(name="not a primitive", params={}, ins=[])) == UNKNOWN
    True
    """
    found = TABLE.get(equation.name, UNKNOWN)
    refine = _REFINED.get(equation.name)
    return found if refine is None else refine(found, equation)


def foreign(name: str) -> bool:
    """Whether a primitive runs code that is not JAX."""
    return TABLE.get(name, UNKNOWN).foreign


def zero_result(equation: Any, zeros: Sequence[bool]) -> bool:
    """Whether every result is 0, given whether each operand is 0."""
    alone, together = makes_zero(equation)
    return any(any(s.of(zeros)) for s in alone) or any(
        (found := s.of(zeros)) and all(found) for s in together
    )


def makes_zero(equation: Any) -> tuple[tuple[Operands, ...], tuple[Operands, ...]]:
    """Operands that make every result 0: groups of which any one does, groups of which all do."""
    known = traits(equation)
    first = FIRST if known.chooses else NONE
    return (known.multilinear, known.absorbing), (known.zero, known.linear, first)


def summed(equation: Any, operand: int) -> Sequence[int]:
    """The dimensions of an operand that an equation reduces or contracts."""
    dims = traits(equation).sums(equation.params)
    return dims[operand] if operand < len(dims) else ()


def _named(names: str, **known: Any) -> dict[str, Traits]:
    return dict.fromkeys(names.split(), Traits(**known))


def _elementwise(names: str, finite: Finite | None = "all", **known: Any) -> dict[str, Traits]:
    return _named(names, elementwise=True, finite=finite, **known)


def _reduced(params: Params) -> list[Sequence[int]]:
    return [params["axes"]]


def _contracted(params: Params) -> Sequence[Sequence[int]]:
    return params["dimension_numbers"][0]


def _ragged(params: Params) -> Sequence[Sequence[int]]:
    return params["ragged_dot_dimension_numbers"].dot_dimension_numbers[0]


def _channels(params: Params) -> list[Sequence[int]]:
    dims = params["dimension_numbers"]
    return [dims.lhs_spec[1:2], dims.rhs_spec[1:2]]


TABLE: dict[str, Traits] = {
    # Calls, and primitives that only affect how a value is stored.
    **_named("jit remat2 closed_call eval_jaxpr custom_jvp_call custom_vjp_call custom_vmap_call "
             "composite xla_metadata_call", call=True),
    **_named("copy name optimization_barrier sharding_constraint reshard device_put pvary "
             "layout_constraint relayout xla_metadata_value", identity=True),
    **_named("pure_callback io_callback debug_callback debug_print buffer_callback ffi_call "
             "call_exported custom_partitioning inspect_sharding tpu_custom_call", foreign=True),
    # Moved elements.
    **_named("reshape transpose broadcast_in_dim squeeze rev tile",
             move="whole", chooses=True, linear=FIRST),
    **_named("slice split dynamic_slice", move="part", chooses=True, linear=FIRST),
    "gather": Traits(move="part", linear=FIRST),  # chooses, unless it fills
    **_named("concatenate stack pad", move="join", linear=ALL),
    "dynamic_update_slice": Traits(linear=Operands(0, 2)),
    **_named("scatter scatter-add scatter-sub", linear=Operands(0, 3, 2)),
    # Element by element, linear.
    **_elementwise("stop_gradient", linear=FIRST, same=True, chooses=True),
    **_elementwise("convert_element_type", zero=FIRST),
    **_elementwise("neg real imag conj reduce_precision", linear=FIRST),
    **_elementwise("add sub add_any complex", linear=ALL),
    **_elementwise("mul", multilinear=ALL),
    **_elementwise("div", linear=FIRST, finite=None),
    **_elementwise("select_n", linear=REST),
    # Element by element, not linear.
    **_elementwise("tanh sinh asinh atan erf expm1 cbrt", zero=FIRST, increasing=True),
    **_elementwise("sqrt log1p", zero=FIRST, increasing=True, finite="not negative"),
    **_elementwise("sin sign floor ceil round", zero=FIRST),
    **_elementwise("tan rem", zero=FIRST, finite=None),
    **_elementwise("asin", zero=FIRST, finite="zero"),
    **_elementwise("acos", finite="zero"),
    **_elementwise("square abs", zero=FIRST, sign="not negative"),
    **_elementwise("exp exp2 cosh", at_zero=1.0, sign="positive"),
    **_elementwise("cos", at_zero=1.0),
    **_elementwise("erfc", at_zero=1.0, sign="positive"),
    **_elementwise("logistic", at_zero=0.5, sign="positive"),
    **_elementwise("is_finite not integer_pow nextafter clamp bessel_i0e bessel_i1e"),
    **_elementwise("shift_left shift_right_logical shift_right_arithmetic population_count clz"),
    **_elementwise("log acosh atanh rsqrt lgamma digamma erf_inv pow polygamma zeta igamma igammac "
                   "regularized_incomplete_beta", finite=None),
    **_elementwise("max min atan2 or xor ne lt gt", zero=ALL),
    **_elementwise("eq le ge eq_to le_to lt_to"),
    **_elementwise("and", absorbing=ALL),
    # Reductions and contractions.
    "reduce_sum": Traits(linear=FIRST, sums=_reduced),
    **_named("reduce_max reduce_min", chooses=True, sums=_reduced),
    **_named("reduce_prod reduce_and reduce_or reduce_xor", zero=FIRST, sums=_reduced),
    "dot_general": Traits(multilinear=ALL, sums=_contracted),
    "conv_general_dilated": Traits(multilinear=ALL, sums=_channels),
    "ragged_dot_general": Traits(multilinear=Operands(0, 2), sums=_ragged),
    "triangular_solve": Traits(linear=Operands(1, 2)),
    "loop constant": Traits(same=True, chooses=True, linear=FIRST),  # `ir.simplification`'s
    "loop row": Traits(move="part", chooses=True, linear=FIRST),
    # Along an axis.
    **_named("cumsum reduce_window_sum fft", linear=FIRST),
    **_named("cummax cummin", chooses=True),
}  # fmt: skip


# -- what depends on parameters and dtypes ------------------------------------------------------


def _kind(v: Any) -> str:
    """The kind of an operand's elements: bool, integer, or float (complex numbers too)."""
    return _kind_of(_dtype(v))


def _dtype(v: Any) -> Any:
    return getattr(v, "aval", v).dtype


def _kind_of(dtype: Any) -> str:
    kinds = {"bool": np.bool_, "integer": np.integer, "float": np.inexact}
    return next((k for k, t in kinds.items() if jax.dtypes.issubdtype(dtype, t)), "other")


def _convert(known: Traits, equation: Any) -> Traits:
    """A conversion keeps values, unless it goes from float to integer, or to bool."""
    old, new = _kind(equation.ins[0]), _kind_of(equation.params["new_dtype"])
    if new == "float" or (new == old == "integer") or (old == "bool" and new == "integer"):
        return dataclasses.replace(known, linear=FIRST, same=True, chooses=True)
    return known


def _divide(known: Traits, equation: Any) -> Traits:
    """Integers are divided with a remainder."""
    if _kind(equation.ins[0]) == "float":
        return known
    return dataclasses.replace(known, linear=NONE, zero=FIRST)


def _power(known: Traits, equation: Any) -> Traits:
    y = equation.params["y"]
    return dataclasses.replace(
        known,
        zero=FIRST if y > 0 else NONE,
        sign="not negative" if y % 2 == 0 else None,
        finite="all" if y >= 0 else None,
    )


def _gather(known: Traits, equation: Any) -> Traits:
    fills = equation.params["mode"] == GatherScatterMode.FILL_OR_DROP
    return known if fills else dataclasses.replace(known, chooses=True)


def _scatter(known: Traits, equation: Any) -> Traits:
    """`x.at[i].apply(f)` is a scatter with a function of the old elements."""
    return known if equation.params["update_jaxpr"] is None else UNKNOWN


def _extreme(known: Traits, equation: Any) -> Traits:
    """A window that is all padding has no element to choose."""
    params = equation.params
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    pairs = zip(params["padding"], params["window_dimensions"], strict=True)
    inside = all(low < n and high < n for (low, high), n in pairs)
    return known if dilated or not inside else dataclasses.replace(known, chooses=True)


def _limit(known: Traits, equation: Any) -> Traits:
    """A limit that 0 keeps to: max(0, −3) and clamp(−1, 0, 1) are 0."""
    uniform = [getattr(v, "uniform", None) for v in equation.ins]
    value = uniform.index(None) if None in uniform else 0
    limit = uniform[1 - value]
    low, high = {"max": (limit, 0), "min": (0, limit), "clamp": uniform[::2]}[equation.name]
    keeps = low is not None and high is not None and low <= 0 <= high
    return dataclasses.replace(known, zero=Operands(value, value + 1)) if keeps else known


_REFINED: dict[str, Callable[[Traits, Any], Traits]] = {
    "convert_element_type": _convert,
    "div": _divide,
    "integer_pow": _power,
    "gather": _gather,
    "scatter": _scatter,
    "reduce_window_max": _extreme,
    "reduce_window_min": _extreme,
    "sort": lambda known, equation: dataclasses.replace(known, chooses=len(equation.ins) == 1),
    **dict.fromkeys(("max", "min", "clamp"), _limit),
}
