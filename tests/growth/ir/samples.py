"""Equations of every primitive in the table of traits, with operands of their shapes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

A, B, C = (np.ones(shape) for shape in ((2, 3), (2, 3), (3, 4)))
INTEGERS, BITS = np.ones((2, 3), np.int32), np.ones((2, 3), bool)
ROWS = np.array([[1], [0], [1]])
IMAGE, KERNEL = np.ones((2, 5, 4)), np.ones((3, 4, 2))
ONE_D = ("NWC", "WIO", "NWC")

# Primitive -> functions that have an equation of it, with operands.
SAMPLES: dict[str, list[tuple[Callable[..., Any], tuple[Any, ...]]]] = {}


def _sample(name: str, fn: Callable[..., Any], *operands: Any) -> None:
    SAMPLES.setdefault(name, []).append((fn, operands))


def _each(names: str, make: Callable[[str], Callable[..., Any]], *operands: Any) -> None:
    for name in names.split():
        _sample(name, make(name), *operands)


def _lax(name: str) -> Callable[..., Any]:
    return getattr(lax, name)


def _along(**params: Any) -> Callable[[str], Callable[..., Any]]:
    return lambda name: functools.partial(getattr(lax, name), **params)


_each("tanh sinh asinh atan erf expm1 cbrt sqrt log1p sin sign floor ceil round tan asin", _lax, A)
_each("acos square abs exp exp2 cosh cos erfc logistic is_finite bessel_i0e bessel_i1e", _lax, A)
_each("log acosh atanh rsqrt lgamma digamma erf_inv neg stop_gradient", _lax, A)
_each("real imag conj square abs", _lax, A.astype(complex))
_each("add sub mul div rem max min atan2 pow nextafter igamma igammac zeta", _lax, A, B)
_each("eq_to le_to lt_to", lambda name: getattr(lax, f"{name}_p").bind, A, B)
_each("polygamma complex eq le ge lt gt ne", _lax, A, B)
_each("clamp", _lax, A, B, A)
_sample("regularized_incomplete_beta", lax.betainc, A, B, A)
for _numbers in (INTEGERS, BITS):
    _each("and or xor", lambda name: getattr(lax, f"bitwise_{name}"), _numbers, _numbers)
_sample("not", lax.bitwise_not, INTEGERS)
_each("shift_left shift_right_logical shift_right_arithmetic", _lax, INTEGERS, INTEGERS)
_each("population_count clz", _lax, INTEGERS)
_sample("add_any", jax.grad(lambda x: jnp.sum(jnp.sin(x) * jnp.cos(x))), A)
_sample("reduce_precision", lambda x: lax.reduce_precision(x, 11, 52), A)
for _operand, _dtypes in ((A, (np.float32, np.int32, bool, complex)), (BITS, (float, np.int32))):
    for _dtype in _dtypes:
        _sample(
            "convert_element_type",
            functools.partial(lax.convert_element_type, new_dtype=_dtype),
            _operand,
        )
_sample("convert_element_type", lambda x: lax.convert_element_type(x, np.int64), INTEGERS)
_sample("div", lax.div, INTEGERS, INTEGERS)
for _y in (-1, 2, 3):
    _sample("integer_pow", lambda x, y=_y: lax.integer_pow(x, y), A)
_sample("select_n", lax.select_n, BITS, A, B)
# Elements in other places.
_sample("reshape", lambda x: lax.reshape(x, (3, 2)), A)
_sample("transpose", lambda x: lax.transpose(x, (1, 0)), A)
_sample("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (2, 4, 3), (0, 2)), A)
_sample("squeeze", lambda x: lax.squeeze(x, (1,)), A[:, None])
_sample("rev", lambda x: lax.rev(x, (1,)), A)
_sample("tile", lambda x: jnp.tile(x, (2, 1)), A)
_sample("slice", lambda x: lax.slice(x, (0, 1), (2, 3)), A)
_sample("split", lambda x: lax.split(x, (1, 2), 1), A)
_sample("dynamic_slice", lambda x, i: lax.dynamic_slice(x, (i, i), (1, 2)), A, np.int32(1))
for _mode in ("fill", "clip", "promise_in_bounds"):
    _sample("gather", lambda x, i, m=_mode: x.at[i[:, 0]].get(mode=m), A, ROWS)
_sample("concatenate", lambda x, y: lax.concatenate((x, y), 0), A, B)
_sample("stack", lambda x, y: jnp.stack((x, y)), A, B)
_sample("pad", lambda x, y: lax.pad(x, y, ((1, 0, 0), (0, 1, 1))), A, np.ones(()))
_sample(
    "dynamic_update_slice",
    lambda x, y, i: lax.dynamic_update_slice(x, y, (i, i)),
    A, A[:1], np.int32(0),
)  # fmt: skip
_sample("scatter", lambda x, i, y: x.at[i[:, 0]].set(y), A, ROWS, np.ones((3, 3)))
_sample("scatter-add", lambda x, i, y: x.at[i[:, 0]].add(y), A, ROWS, np.ones((3, 3)))
_sample("scatter-sub", lambda x, i, y: x.at[i[:, 0]].subtract(y), A, ROWS, np.ones((3, 3)))
# Reductions, contractions, and what goes along an axis.
_each("reduce_sum reduce_max reduce_min reduce_prod", _along(axes=(1,)), A)
_each("reduce_and reduce_or reduce_xor", _along(axes=(0,)), BITS)
_sample("dot_general", lambda x, y: x @ y, A, C)
_sample("dot_general", lambda x, y: jnp.einsum("bij,bj->bi", x, y), np.ones((2, 4, 3)), A)
_sample(
    "conv_general_dilated",
    lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", dimension_numbers=ONE_D),
    IMAGE, KERNEL,
)  # fmt: skip
_sample(
    "ragged_dot_general",
    lambda x, w, n: lax.ragged_dot(x, w, n),
    np.ones((5, 3)), np.ones((2, 3, 4)), np.array([3, 2], np.int32),
)  # fmt: skip
_sample(
    "triangular_solve",
    lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True, lower=True),
    np.eye(3), C,
)  # fmt: skip
_each("cumsum cummax cummin", _along(axis=1), A)
_sample("fft", jnp.fft.fft, A.astype(complex))
_sample("fft", jnp.fft.rfft, A)
_sample("sort", lambda x: lax.sort(x), A)
_sample("sort", lambda x, y: lax.sort((x, y), num_keys=1), A, B)
for _pads in ([(0, 0), (1, 1)], [(0, 0), (3, 3)]):
    _window = {"window_dimensions": (1, 3), "window_strides": (1, 1), "padding": _pads}
    _sample("reduce_window_sum", lambda x, w=_window: lax.reduce_window(x, 0.0, lax.add, **w), A)
    for _name, _init, _fn in (("max", -np.inf, lax.max), ("min", np.inf, lax.min)):
        _sample(
            f"reduce_window_{_name}",
            lambda x, w=_window, i=_init, fn=_fn: lax.reduce_window(x, i, fn, **w),
            A,
        )
# What only says where or how a value is kept.
_sample("copy", jnp.copy, A)
_sample("name", lambda x: checkpoint_name(x, "here"), A)
_sample("optimization_barrier", lax.optimization_barrier, A)
_sample("device_put", lambda x: jax.device_put(x, jax.devices()[0]), A)
_sample(
    "sharding_constraint",
    lambda x: lax.with_sharding_constraint(
        x, jax.sharding.NamedSharding(jax.make_mesh((1,), ("i",)), jax.sharding.PartitionSpec())
    ),
    A,
)
# Calls.
_sample("jit", jax.jit(jnp.tanh), A)
_sample("remat2", jax.checkpoint(jnp.tanh), A)
_sample("custom_jvp_call", jax.nn.relu, A)


@jax.custom_vjp
def _own(x):
    return jnp.tanh(x)


_own.defvjp(lambda x: (_own(x), x), lambda x, g: (g,))
_sample("custom_vjp_call", _own, A)

_sample("composite", lax.composite(jnp.tanh, "a.name"), A)
_vmapped = jax.custom_batching.custom_vmap(jnp.tanh)
_vmapped.def_vmap(lambda size, batched, x: (jnp.tanh(x), batched[0]))
_sample("custom_vmap_call", _vmapped, A)

_sample("pure_callback", lambda x: jax.pure_callback(np.sin, x, x), A)

FOREIGN = (
    "io_callback debug_callback debug_print buffer_callback ffi_call call_exported "
    "custom_partitioning inspect_sharding tpu_custom_call"
)
# Primitives without a sample: where they come from.
ELSEWHERE = {
    "pvary": "inside of shard_map alone",
    "reshard": "under a mesh with explicit axes",
    "layout_constraint": "on a device with layouts",
    "closed_call": "JAX's own transformations, up to 0.10",
    **dict.fromkeys(FOREIGN.split(), "runs what is not JAX: no trait but that"),
    "relayout": "for a device with layouts, since 0.12",
    "xla_metadata_value": "a remark to the compiler",
    "xla_metadata_call": "a remark to the compiler, since 0.12",
    "eval_jaxpr": "JAX's own transformations, since 0.11",
    **dict.fromkeys(("loop constant", "loop row"), "a marker, made while a program is simplified"),
}
