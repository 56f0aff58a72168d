"""Parameters that are stacks of layers: those that a model initialises in a scan."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax

from trainkit._core.compat import AnyJaxpr, opened, scan_counts
from trainkit._core.jaxprs import bodies
from trainkit._core.paths import named_leaves

PyTree = Any


def layers_of(init: Callable[..., tuple[PyTree, PyTree]], *args: Any) -> dict[str, int]:
    """{regular expression for one leaf: number of leading layer axes}, for parameters of `init`.

    A parameter that every iteration of a loop creates, as under `flax.linen.scan`, is a result of
    the loop with an axis for the iterations. A parameter that iterations share is created outside.

    Raises:
      ValueError: a layer axis is not the first.
    """
    program, (params, _) = jax.make_jaxpr(init, return_shape=True)(*args)
    names = named_leaves(params)
    jaxpr = opened(program)[0]
    axes = {name: _scans(jaxpr, out, name) for name, out in zip(names, jaxpr.outvars, strict=False)}
    return {f"^{re.escape(name)}$": count for name, count in axes.items() if count}


def _scans(jaxpr: AnyJaxpr, out: Any, name: str) -> int:
    """The number of nested scans in which a value of a program is computed."""
    made = next((eqn for eqn in jaxpr.eqns if any(v is out for v in eqn.outvars)), None)
    if made is None:
        return 0
    if made.primitive.name == "transpose":
        if _scans(jaxpr, made.invars[0], name):
            raise ValueError(
                f"the layers of {name!r} are not along its first axis; give the scan "
                'variable_axes={"params": 0}.'
            )
        return 0
    inner = [opened(body)[0] for body in bodies(made)]
    at = [v is out for v in made.outvars].index(True)
    if len(inner) != 1 or len(inner[0].outvars) != len(made.outvars):
        return 0
    if made.primitive.name != "scan":
        return _scans(inner[0], inner[0].outvars[at], name)
    stacked = at >= scan_counts(made.params)[1]
    return 1 + _scans(inner[0], inner[0].outvars[at], name) if stacked else 0
