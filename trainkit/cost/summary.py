"""A table of a model's leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from trainkit._core import units
from trainkit._core.paths import compiled as expressions
from trainkit._core.paths import named_leaves
from trainkit.cost.step import step_flops

PyTree = Any


def summary(
    state: PyTree, step: Any = None, batch: PyTree = None, *, groups: Sequence[Any] = ()
) -> str:
    """A table of a model's leaves: shape, dtype, how many numbers, and the group of each.

    Args:
      state: a `TrainState`, or parameters; arrays or their shapes.
      step, batch: where both are given, the FLOPs of a step are said too.
      groups: the rules of `trainkit.transforms.groups`, or their expressions alone.

    Raises:
      ValueError: a step without a batch; an invalid expression.

    >>> import jax.numpy as jnp
    >>> print(summary({"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}, groups=["bias", ".*"]))
    leaf    shape   dtype    numbers  group
    bias    [2]     float32        2  bias
    kernel  [4, 2]  float32        8  .*
    10 parameters in 2 leaves, 40 B: 2 in bias, 8 in .*
    """
    if step is not None and batch is None:
        raise ValueError("summary: batch must be given with a step, for its FLOPs.")
    names = [rule if isinstance(rule, str) else rule[0] for rule in groups]
    found = list(zip(names, expressions(names, "groups"), strict=True))
    leaves = named_leaves(getattr(state, "params", state))
    of = {leaf: next((n for n, e in found if e.search(leaf)), "–") for leaf in leaves}
    rows = [["leaf", "shape", "dtype", "numbers", "group"]]
    for name, x in leaves.items():
        rows.append([name, str(list(x.shape)), str(x.dtype), f"{x.size:,}", of[name]])
    a, b, c, d, e = (max(map(len, column)) for column in zip(*rows, strict=True))
    table = []
    for name, shape, dtype, count, group in rows:
        line = f"{name:{a}}  {shape:{b}}  {dtype:{c}}  {count:>{d}}"
        table.append(f"{line}  {group:{e}}".rstrip() if groups else line)
    total = sum(x.size for x in leaves.values())
    parts = [
        f"{sum(x.size for name, x in leaves.items() if of[name] == group):,} in {group}"
        for group in dict.fromkeys(of.values())
    ]
    words = f"{total:,} parameters in {len(leaves)} leaves, {_bytes(list(leaves.values()))}"
    table.append(f"{words}: {', '.join(parts)}" if groups else words)
    for name, part in (("optimizer", "opt_state"), ("model", "model_state")):
        if arrays := [x for x in jax.tree.leaves(getattr(state, part, None)) if hasattr(x, "size")]:
            table.append(f"{_bytes(arrays)} of {name} state")
    if step is not None:
        table.append(f"{units.flops(step_flops(step, state, batch))} a call of the step")
    return "\n".join(table)


def _bytes(arrays: Sequence[Any]) -> str:
    return units.nbytes(sum(x.size * x.dtype.itemsize for x in arrays))
