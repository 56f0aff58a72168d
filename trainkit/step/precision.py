"""Precision: the dtypes of parameters, computation and accumulation; loss scaling."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core import validation

PyTree = Any


@dataclasses.dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling: the loss is multiplied by S, and its gradient is divided by S.

    If the gradient is not finite, the step is skipped and S ← max(S / factor, 1). After `interval`
    finite steps in a row, S ← S · factor.

    Reference: Micikevicius et al., Mixed Precision Training, 2018.
    """

    initial: float = 2.0**15
    factor: float = 2.0
    interval: int = 2000

    def __post_init__(self) -> None:
        validation.number("initial", self.initial, "LossScale", above=0)
        validation.number("factor", self.factor, "LossScale", above=1)
        validation.integer("interval", self.interval, "LossScale")


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of a train step; `None` means no cast.

    Attributes:
      compute: the dtype to which parameters and floating batch leaves are cast for the loss.
        Gradients have the dtype of the parameters.
      param: the dtype in which `step.place` stores parameters, and the optimizer state that follows
        them. `compute` bfloat16 and `param` float32 is "bf16 with float32 master weights".
      accum: the dtype in which losses, weights and gradients are summed over micro-batches and
        devices. `None`: the dtype of the parameter, or float32 if that is narrower.
      loss_scale: `None`, a constant, or a `LossScale` for dynamic scaling.

    >>> Precision.of("bf16").compute.name, Precision.of("bf16").param.name
    ('bfloat16', 'float32')
    """

    compute: Any = None
    param: Any = None
    accum: Any = None
    loss_scale: LossScale | float | None = None

    def __post_init__(self) -> None:
        for field in ("compute", "param", "accum"):
            dtype = getattr(self, field)
            if dtype is None:
                continue
            try:
                dtype = jnp.dtype(dtype)
            except TypeError:
                raise TypeError(
                    f"Precision.{field} must be a dtype, such as jnp.bfloat16, not {dtype!r}."
                ) from None
            if not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(f"Precision.{field} must be a floating dtype, not {dtype.name}.")
            object.__setattr__(self, field, dtype)
        if self.loss_scale is not None and self.dynamic is None:
            hint = "give None, a number, or a trainkit.LossScale()"
            validation.number("loss_scale", self.loss_scale, "Precision", above=0, hint=hint)

    @classmethod
    def of(cls, precision: Precision | str | None) -> Precision:
        """A `Precision` from a `Precision`, a name in `PRESETS`, or `None` (no casts)."""
        if precision is None:
            return cls()
        if isinstance(precision, Precision):
            return precision
        validation.choice("precision", precision, PRESETS, other="a trainkit.Precision(...)")
        return PRESETS[precision]

    @property
    def dynamic(self) -> LossScale | None:
        return self.loss_scale if isinstance(self.loss_scale, LossScale) else None

    def to_compute(self, tree: PyTree) -> PyTree:
        return cast_floating(tree, self.compute)

    def to_param(self, tree: PyTree) -> PyTree:
        return cast_floating(tree, self.param)

    def accum_dtype(self, dtype: Any) -> Any:
        wide = self.accum or at_least_float32(dtype)
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            return wide
        return jnp.dtype(jnp.complex128 if jnp.finfo(wide).bits == 64 else jnp.complex64)

    def to_accum(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(self.accum_dtype(x.dtype)), tree)


def at_least_float32(dtype: Any) -> Any:
    """float32 for 16-bit dtypes; otherwise the dtype itself."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def cast_floating(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating leaves cast to `dtype` (`None`: no cast)."""
    if dtype is None:
        return tree

    def cast(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


_BF16 = Precision(compute=jnp.bfloat16, param=jnp.float32, accum=jnp.float32)
_FP16 = Precision(compute=jnp.float16, param=jnp.float32, accum=jnp.float32, loss_scale=LossScale())
_FP32 = Precision(compute=jnp.float32, param=jnp.float32, accum=jnp.float32)
PRESETS = {
    "float32": _FP32,
    "fp32": _FP32,
    "bfloat16": _BF16,
    "bf16": _BF16,
    "float16": _FP16,
    "fp16": _FP16,
}
