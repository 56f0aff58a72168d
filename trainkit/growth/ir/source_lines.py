"""Equations as text, with the source line of the model."""

from __future__ import annotations

import os

import jax
import numpy as np

from trainkit._core.compat import AnyJaxpr
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import flat_bodies
from trainkit.growth.ir.program import Equation, Program

_JAX = os.path.dirname(jax.__file__) + os.sep
_LIBRARIES = os.sep + "site-packages" + os.sep
# Equations that only convert or move what they get.
_MOVES = {
    "broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose"
}  # fmt: skip


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


def uses(program: Program) -> list[tuple[str, ...]]:
    """For each input of a program, the source lines that use it first, also inside loops."""
    found: list[dict[str, None]] = [{} for _ in program.ins]
    carried = {id(v): {i} for i, v in enumerate(program.ins)}
    for eqn in program.equations:
        own = [carried.get(id(v), set()) for v in eqn.ins]
        if not any(own):
            continue
        if eqn.name in _MOVES:
            carried[id(eqn.outs[0])] = own[0]
            continue
        inner = uses(flat_bodies(eqn)[0]) if eqn.name == "scan" else [(where(eqn),)] * len(own)
        for inputs, lines in zip(own, inner, strict=True):
            for i in inputs:
                found[i].update(dict.fromkeys(lines))
    return [tuple(lines) for lines in found]


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
