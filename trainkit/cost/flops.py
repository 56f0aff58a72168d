"""FLOPs, bytes and memory of a program, from XLA's analysis or from its jaxpr.

XLA's cost analysis counts the body of a loop only once: a scan over twelve layers counts as one
layer. The missing iterations are added here from the jaxpr, which contains the lengths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jax.sharding import PartitionSpec

from trainkit._core import units
from trainkit._core.compat import AnyJaxpr
from trainkit._core.jaxprs import bodies
from trainkit._core.paths import compiled as expressions
from trainkit._core.paths import named_leaves

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one call of a program on one device.

    Attributes:
      flops: floating-point operations; a multiply-add counts as two, a loop body once.
      bytes_accessed: bytes read and written, estimated by XLA.
      argument_bytes, output_bytes: bytes of arguments and results.
      alias_bytes: bytes of results that reuse donated arguments.
      temp_bytes: bytes of temporary buffers.
    """

    flops: float
    bytes_accessed: float
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int

    @property
    def peak_bytes(self) -> int:
        """An upper bound of the memory at one time: arguments, results and temporaries."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes


def cost(compiled: jax.stages.Compiled) -> Cost:
    """The cost of a compiled program, from XLA's analysis.

    >>> f = jax.jit(lambda a, b: a @ b)
    >>> cost(f.lower(jnp.ones((4, 8)), jnp.ones((8, 2))).compile()).flops
    128.0
    """
    analysis = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()

    def size(name: str) -> int:
        return int(getattr(memory, f"{name}_size_in_bytes", 0))

    return Cost(
        flops=float(analysis.get("flops", 0.0)),
        bytes_accessed=float(analysis.get("bytes accessed", 0.0)),
        argument_bytes=size("argument"),
        output_bytes=size("output"),
        alias_bytes=size("alias"),
        temp_bytes=size("temp"),
    )


def count_flops(function: Callable[..., Any], *args: Any, loops_once: bool = False) -> float:
    """FLOPs of `function(*args)`, counted from its jaxpr, without compiling or running it.

    A contraction of sizes m × k and k × n counts 2·m·k·n, a convolution likewise, a reduction one
    per input value, other arithmetic one per output value. A scan counts its body once per
    iteration, a `while` once (its length is unknown), a `cond` its most expensive branch, a
    `shard_map` or `pmap` its body once per device.

    Args:
      function: anything that JAX can trace.
      *args: arrays or `jax.ShapeDtypeStruct`s.
      loops_once: count a scan's body once, as XLA does.

    >>> def layers(w, x):
    ...     return jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)[0]
    >>> count_flops(layers, jnp.ones((8, 8)), jnp.ones((2, 8)))
    768.0
    """
    return _count(jax.make_jaxpr(function)(*args), loops_once)


def program_flops(
    function: Callable[..., Any], arguments: tuple[Any, ...], compiled: jax.stages.Compiled
) -> float:
    """FLOPs of a compiled program on one device, with all iterations of its loops."""
    return cost(compiled).flops + _uncounted(function, arguments)


def _uncounted(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """The FLOPs that XLA does not count: all but the first iteration of each loop."""
    return count_flops(function, *arguments) - count_flops(function, *arguments, loops_once=True)


def step_flops(step: Any, state: PyTree, batch: PyTree) -> float:
    """FLOPs of one call of a train step, over all its devices.

    For a step of `make_train_step`, from the compiled program, with all iterations of its loops;
    for another jitted function, from its jaxpr; otherwise 0.0. An attribute `flops_per_call` of the
    step is returned as it is, so that a step that was compiled ahead is not traced again.
    """
    known = getattr(step, "flops_per_call", None)
    if known is not None:
        return float(known)
    if not all(hasattr(step, name) for name in ("compile", "program", "placement")):
        return count_flops(step, state, batch) if hasattr(step, "lower") else 0.0
    uncounted = _uncounted(whole_program(step), (state, batch))
    return cost(step.compile(state, batch)).flops * step.placement.parts + uncounted


# FLOP/s of a device in dense bfloat16 (a T4 and a V100: float16), from the makers' data sheets. By
# parts of `device_kind`; the first that fits counts.
_PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "L40": 181e12, "L4": 121e12, "A10G": 70e12, "V100": 125e12, "T4": 65e12,
    "TPU v6": 918e12, "TPU v5p": 459e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12,
    "TPU v5": 459e12, "TPU v4": 275e12, "TPU v3": 61.5e12, "TPU v2": 22.5e12,
}  # fmt: skip


def peak_flops(devices: Iterable[jax.Device]) -> float | None:
    """What these devices can do at most, in FLOP/s of dense bfloat16; `None` if one is unknown.

    >>> peak_flops(jax.devices("cpu")) is None
    True
    """
    kinds = [device.device_kind for device in devices]
    found = [next((v for name, v in _PEAKS.items() if name in kind), None) for kind in kinds]
    return sum(v for v in found if v) if found and None not in found else None


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
    text = units.si(sum(x.size * x.dtype.itemsize for x in arrays))
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def whole_program(step: Any) -> Callable[..., Any]:
    """A step's program over all its devices, for `count_flops`."""
    place = step.placement
    if not hasattr(place, "batch_spec") or place.name not in ("pmap", "shard_map"):
        return step.program
    axis = 0 if step.steps_per_call == 1 else 1
    # pmap has the same program; here shard_map binds its axis.
    return jax.shard_map(
        step.program,
        mesh=place.mesh,
        in_specs=(PartitionSpec(), place.batch_spec(axis)),
        out_specs=(PartitionSpec(), PartitionSpec()),
        check_vma=False,
    )


def _count(jaxpr: AnyJaxpr, loops_once: bool) -> float:
    return sum(_equation(eqn, loops_once) for eqn in jaxpr.eqns)


def _equation(eqn: JaxprEqn, loops_once: bool) -> float:
    name = eqn.primitive.name
    inner = [_count(jaxpr, loops_once) for jaxpr in bodies(eqn)]
    if name == "cond":
        return max(inner, default=0.0)
    if name == "scan" and not loops_once:
        return inner[0] * eqn.params["length"]
    if name == "shard_map":
        return sum(inner) * eqn.params["mesh"].size
    if name == "xla_pmap":
        return sum(inner) * eqn.params["global_axis_size"]
    if inner:
        # The jaxpr inside a reduction or a scatter is a function of scalars, not a loop body.
        return sum(inner) if name not in _WITH_SCALAR_FUNCTION else float(_aval(eqn.invars[0]).size)
    out = _aval(eqn.outvars[0])
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = _aval(eqn.invars[0]).shape
        return 2.0 * out.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = _aval(eqn.invars[1])
        # All axes of the kernel but that of output channels are summed over; the input channels of
        # a grouped kernel are already divided.
        channels = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * out.size * kernel.size / channels
    if not jnp.issubdtype(getattr(out, "dtype", jnp.int32), jnp.inexact) or name in _FREE:
        return 0.0
    if name.startswith(("reduce_", "cum", "arg")):
        return float(_aval(eqn.invars[0]).size)
    return float(out.size)


_WITH_SCALAR_FUNCTION = ("scatter", "scatter-add", "reduce", "reduce_window")
# Primitives that only move values.
# fmt: off
_FREE = frozenset((
    "broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice",
    "dynamic_update_slice", "gather", "concatenate", "pad", "squeeze", "expand_dims",
    "rev", "copy", "copy_p", "convert_element_type", "bitcast_convert_type", "iota",
    "select_n", "stop_gradient", "device_put", "split", "tile", "stack", "psum",
    "all_gather", "all_to_all", "ppermute", "pvary", "sharding_constraint",
    "optimization_barrier",
))
# fmt: on


def _aval(v: Any) -> Any:
    """The abstract value of a variable: its shape, dtype and size."""
    return v.aval
