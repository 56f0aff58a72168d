"""Constants: values that depend on neither parameters nor inputs, evaluated lazily.

A constant is identified by its computation, so that two models can be compared without evaluating
it. Only elements that are not known to repeat are stored: a causal mask of shape (batch, heads, n,
n) is stored as (1, 1, n, n).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from trainkit._core.compat import AnyJaxpr, opened
from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.constant_parts import Part, Picks, part_of, taken
from trainkit.growth.ir.primitives import traits

Shape = tuple[int, ...]
WHOLE = 2**18  # elements of a constant that is evaluated as a whole
LIMIT = 2**31  # bytes of all constants that are evaluated for one plan


class Const:
    """An array that is broadcast from its core.

    Attributes:
      shape, dtype: those of the array.
      key: identifies the computation. Constants with equal keys have equal cores.
      core_shape: the shape of the core: 1 along axes on which elements are known to repeat.
      uniform: the scalar value, if all elements are known to be equal; otherwise `None`.
    """

    __slots__ = ("_core", "_part", "_thunk", "core_shape", "dtype", "key", "shape", "uniform")

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        key: Any,
        thunk: Callable[[], Any],
        uniform: Any = None,
        core_shape: Shape | None = None,
        part: Part | None = None,
    ):
        self.shape: Shape = tuple(shape)
        self.dtype, self.key, self.uniform = dtype, key, uniform
        if uniform is not None:
            thunk, core_shape = lambda: np.asarray(uniform), (1,) * len(self.shape)
        self.core_shape = self.shape if core_shape is None else core_shape
        self._thunk, self._core, self._part = thunk, None, None if uniform is not None else part

    @property
    def number(self) -> float | None:
        """The real number that all elements are, or `None`."""
        real = self.uniform is not None and not np.iscomplexobj(self.uniform)
        return float(self.uniform) if real else None

    @property
    def core(self) -> Any:
        """The elements that may differ: a NumPy array (for random keys, a JAX array)."""
        if self._core is None:
            self._core = self._thunk().reshape(self.core_shape)
        return self._core

    def part(self, picks: Picks) -> Any:
        """Some entries of the core along each axis; axes of size 1 stay. The rest is not evaluated,
        if the computation allows that."""
        small = math.prod(self.core_shape) <= WHOLE
        if small or self._core is not None or self._part is None or all(p is None for p in picks):
            return taken(self.core, picks)
        return self._part(
            [p if n > 1 else None for p, n in zip(picks, self.core_shape, strict=True)]
        )

    @property
    def value(self) -> Any:
        """The whole array; a NumPy array is a view of the core."""
        if isinstance(self.core, np.ndarray):
            return np.broadcast_to(self.core, self.shape)
        return jax.numpy.broadcast_to(self.core, self.shape)

    @property
    def is_zero(self) -> bool:
        """Whether every element is known to be 0 without evaluation."""
        return self.uniform is not None and not np.any(self.uniform)


class Constants:
    """Keys and values of constants, shared between all programs that are compared.

    Attributes:
      facts: what was found by comparing constants, by their keys.
    """

    def __init__(self) -> None:
        self.facts: dict[Any, Any] = {}
        self._keys: dict[Any, int] = {}
        self._values: dict[int, list[Any]] = {}
        self._literals: dict[int, tuple[Any, Const]] = {}  # id of an array -> it, and its constant
        self._spent = 0

    def literal(self, value: Any) -> Const:
        """A constant from an array or a scalar."""
        if getattr(value, "size", 1) < 1024:
            return self._literal(value)
        if id(value) not in self._literals:  # a large table is hashed only once
            self._literals[id(value)] = value, self._literal(value)
        return self._literals[id(value)][1]

    def fold(self, eqn: Any, ins: Sequence[Const]) -> list[Const]:
        """The results of an equation on constants. Only their cores are evaluated."""
        name, params = eqn.primitive.name, dict(eqn.params)
        avals: list[Any] = [v.aval for v in eqn.outvars]
        core_shape, operands = _repeats(eqn, ins, avals[0]) if len(avals) == 1 else (None, None)
        if core_shape is not None and "shape" in params:
            params["shape"] = core_shape
        said = tuple(sorted((k, self._text(v)) for k, v in params.items()))
        about = [c.key if operands else (c.key, c.shape) for c in ins]
        key = self._key((name, said, tuple(about), core_shape))

        def run(given: Sequence[Any]) -> list[Any]:
            with jax.ensure_compile_time_eval():
                values = eqn.primitive.bind(*map(_device, given, ins), **params)
            return [_host(v) for v in (values if eqn.primitive.multiple_results else [values])]

        @functools.cache
        def evaluate() -> list[Any]:
            if key not in self._values:
                given = operands() if operands else [c.value for c in ins]
                shapes = [core_shape] if operands else [v.shape for v in avals]
                self._spend(eqn, given, shapes, avals)
                self._values[key] = run(given)
            return self._values[key]

        part = None
        if len(avals) == 1 and not jax.dtypes.issubdtype(avals[0].dtype, jax.dtypes.extended):
            some = lambda *given: run(given)[0]
            core, alike = core_shape or avals[0].shape, traits(_Named(eqn, ins)).elementwise
            part = part_of(eqn, ins, core, some, alike and core_shape is not None)

        return [
            Const(
                aval.shape,
                aval.dtype,
                self._key((key, i)),
                functools.partial(lambda i, evaluate: evaluate()[i], i, evaluate),
                _uniform(eqn, ins),
                core_shape,
                part,
            )
            for i, aval in enumerate(avals)
        ]

    def _key(self, parts: Any) -> int:
        return self._keys.setdefault(parts, len(self._keys))

    def _literal(self, value: Any) -> Const:
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            data = np.asarray(jax.random.key_data(value))
            key = self._key(("random key", str(value.dtype), data.shape, data.tobytes()))
            return Const(value.shape, value.dtype, key, lambda: value)
        array = np.asarray(value)
        key = self._key((str(array.dtype), array.shape, array.tobytes()))
        uniform = None
        if array.size and array.ndim == 0:
            uniform = array
        elif array.size > 1 and array.dtype != object and (array == array.flat[0]).all():
            uniform = array.flat[0]
        return Const(array.shape, array.dtype, key, lambda: array, uniform)

    def _text(self, param: Any) -> Any:
        """A hashable form of a parameter of an equation."""
        inner = param if isinstance(param, tuple) else (param,)
        consts = [c for x in inner if isinstance(x, AnyJaxpr) for c in opened(x)[1]]
        return repr(param), *(self.literal(c).key for c in consts)

    def _spend(self, eqn: Any, given: Sequence[Any], shapes: Sequence[Any], avals: Any) -> None:
        """Counts the bytes of evaluated constants.

        Raises:
          GrowthError: they exceed `LIMIT`.
        """
        sizes = [math.prod(v.shape) * v.dtype.itemsize for v in given]
        sizes += [math.prod(s) * v.dtype.itemsize for s, v in zip(shapes, avals, strict=True)]
        self._spent += sum(sizes)
        if self._spent > LIMIT:
            shape = list(avals[0].shape)
            raise GrowthError(
                f"comparing the constants of the two programs needs more than {LIMIT >> 30} GB; "
                f"the last one has shape {shape}, by `{eqn.primitive.name}`",
                primitive=eqn.primitive.name,
                hint="pass large tables as inputs of both functions, or plan with smaller sizes of "
                "the axes that do not grow (the plan is the same)",
            )


def _repeats(
    eqn: Any, ins: Sequence[Const], aval: Any
) -> tuple[Shape, Callable[[], list[Any]]] | tuple[None, None]:
    """The shape of a result's core, and operands from which the equation computes that core.

    (`None`, `None`) if it is not known along which axes the result repeats.
    """
    name, params, rank = eqn.primitive.name, eqn.params, len(aval.shape)
    if name == "iota":
        return tuple(n if d == params["dimension"] else 1 for d, n in enumerate(aval.shape)), list
    if name == "broadcast_in_dim":
        dims = params["broadcast_dimensions"]
        core = [1] * rank
        for d, n in zip(dims, ins[0].core_shape, strict=True):
            core[d] = n
        return tuple(core), lambda: [ins[0].core]
    if name == "transpose":
        moved = tuple(ins[0].core_shape[d] for d in params["permutation"])
        return moved, lambda: [ins[0].core]
    if traits(_Named(eqn, ins)).elementwise:
        known = [c.core_shape for c in ins if len(c.shape) == rank]
        whole = np.broadcast_shapes(*known)
        if len(whole) == rank and all(len(c.shape) in (0, rank) for c in ins):
            spread = lambda c: np.broadcast_to(c.core, whole) if c.shape else c.core
            return whole, lambda: [spread(c) for c in ins]
    return None, None


class _Named:
    """An equation of constants, as an argument of `traits`."""

    def __init__(self, eqn: Any, ins: Sequence[Any]):
        self.name, self.params, self.ins = eqn.primitive.name, eqn.params, ins


def _uniform(eqn: Any, ins: Sequence[Const]) -> Any:
    if ins and ins[0].uniform is not None:
        if eqn.primitive.name == "convert_element_type":
            return np.asarray(ins[0].uniform).astype(eqn.params["new_dtype"])
        if traits(_Named(eqn, ins)).chooses:
            return ins[0].uniform
    return None


def _device(value: Any, const: Const) -> Any:
    return value if isinstance(value, jax.Array) else jax.numpy.asarray(value, dtype=const.dtype)


def _host(v: Any) -> Any:
    return v if jax.dtypes.issubdtype(v.dtype, jax.dtypes.extended) else np.asarray(v)
