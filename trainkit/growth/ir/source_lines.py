"""Equations as text, with the source line of the model."""

from __future__ import annotations

import os

import jax
import numpy as np

from trainkit._core.compat import AnyJaxpr
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation

_JAX = os.path.dirname(jax.__file__) + os.sep
_LIBRARIES = os.sep + "site-packages" + os.sep


def where(eqn: Equation) -> str:
    """The user's source line of an equation: "file:line (function)"."""
    fallback = ""
    # Functions such as `jnp.sort` are traced once and cached, so only the call has the user's line.
    for raw in (eqn.raw, *reversed(eqn.calls)):
        traceback = getattr(raw.source_info, "traceback", None)
        for frame in traceback.frames if traceback is not None else ():
            name = frame.file_name
            if name.startswith((_JAX, "<")):
                continue
            place = f"{name}:{frame.line_num} ({frame.function_name})"
            if _LIBRARIES not in name:
                return place
            fallback = fallback or place
    return fallback or "unknown"


def describe(eqn: Equation) -> str:
    """An equation as text: name, operand and result shapes, params, source line."""

    def shape(v) -> str:
        aval = v if isinstance(v, Const) else v.aval
        return (
            f"{np.dtype(aval.dtype).name if not _extended(aval) else aval.dtype}{list(aval.shape)}"
        )

    params = {
        k: v
        for k, v in eqn.params.items()
        if not isinstance(v, AnyJaxpr) and "jaxpr" not in k and v is not None
    }
    args = ", ".join(map(shape, eqn.ins))
    outs = ", ".join(map(shape, eqn.outs))
    text = ", ".join(f"{k}={v}" for k, v in params.items())
    return f"{outs} = {eqn.name}({args}) [{text[:160]}] at {where(eqn)}"


def _extended(aval) -> bool:
    return jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended)
