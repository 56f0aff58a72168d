"""8-bit moments: an int8 code for each entry, and a float32 scale for each block."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import is_float
from trainkit.transforms.noise import key_data, key_of_update
from trainkit.transforms.state.named import injected

PyTree = Any

# Names of quantised slots -> whether they can be negative.
SIGNED = {"mu": True, "trace": True, "ema": True, "nu": False, "sum_of_squares": False}


class Quantised(NamedTuple):
    """A quantised leaf.

    Attributes:
      codes: int8 array with the shape of the leaf.
      scales: float32[blocks], the largest magnitude in each block of the flattened leaf.
    """

    codes: jax.Array
    scales: jax.Array


class QuantiseState(NamedTuple):
    """State of `quantise_moments`.

    Attributes:
      count: int32 scalar, the number of updates; each folds its number into the key.
      key: uint32[2], the data of a random key, which never changes.
      inner_state: the inner state, with `Quantised` instead of large moments.
    """

    count: Any  # an array; tuples have a method of this name
    key: jax.Array
    inner_state: PyTree


def quantise(
    x: jax.Array, block: int = 256, *, signed: bool = True, key: jax.Array | None = None
) -> Quantised:
    """8-bit codes by blocks: x ≈ s · (c/127)³ (signed), or s · (c/255)⁴ (x ≥ 0).

    The powers distribute the codes over magnitudes, because moments span many: steps of 2 % at the
    largest value of a block, and magnitudes down to 5·10⁻⁷ (2·10⁻¹⁰) of it. With a `key`, rounding
    is stochastic, with E[dequantise(quantise(x))] = x. For x ≥ 0, a positive x never becomes 0.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, -0.5, 1e-4])
    >>> print(dequantise(quantise(x), 256).round(3))
    [ 1.    -0.503  0.   ]

    Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.
    """
    flat = _blocks(x.astype(jnp.float32), block)
    scales = jnp.max(jnp.abs(flat), axis=1, initial=0)
    unit = jnp.abs(flat) / jnp.where(scales > 0, scales, 1)[:, None]
    top = 127 if signed else 255
    position = top * (jnp.cbrt(unit) if signed else jnp.sqrt(jnp.sqrt(unit)))
    if key is None:
        level = jnp.round(position)
    else:
        low = jnp.floor(position)
        below, above = _value(low, top), _value(low + 1, top)
        up = jax.random.uniform(key, unit.shape) < (unit - below) / (above - below)
        level = jnp.minimum(low + up.astype(low.dtype), top)
    if signed:
        codes = (jnp.sign(flat) * level).astype(jnp.int8)
    else:
        # A second moment that is rounded to 0 would cause a division by 0.
        level = jnp.where(unit > 0, jnp.maximum(level, 1), 0)
        codes = (level - 128).astype(jnp.int8)
    return Quantised(codes.reshape(-1)[: x.size].reshape(x.shape), scales)


def dequantise(q: Quantised, block: int = 256, *, signed: bool = True) -> jax.Array:
    """The float32 values of a `Quantised`, with the same `block` and `signed` as in `quantise`."""
    codes = q.codes.astype(jnp.float32)
    size = codes.size
    if signed:
        values = jnp.sign(codes) * _value(jnp.abs(codes), 127)
    else:
        values = _value(codes + 128, 255)
    flat = _blocks(values, block) * q.scales[:, None]
    return flat.reshape(-1)[:size].reshape(codes.shape)


def _value(level: jax.Array, top: int) -> jax.Array:
    return (level / top) ** (3 if top == 127 else 4)


def _blocks(x: jax.Array, block: int) -> jax.Array:
    flat = x.reshape(-1)
    return jnp.pad(flat, (0, -flat.size % block)).reshape(-1, block)


def quantise_moments(
    tx: optax.GradientTransformation,
    *,
    block: int = 256,
    min_size: int = 4096,
    key: jax.Array | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """`tx` with moments stored in 8 bits: a quarter of the float32 memory, plus 1.6 % for scales.

    First moments (slots mu, trace, ema) are signed and rounded to nearest. Second moments (nu,
    sum_of_squares) are rounded stochastically: with β₂ = .999 they change by 0.1 % per step, which
    rounding to nearest would lose. Leaves with fewer than `min_size` entries are not quantised. Not
    in Optax.

    Raises:
      ValueError: a block or size below 1.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.quantise_moments(tt.adam(1e-3))
    >>> state = tx.init({"w": jnp.ones((64, 128)), "b": jnp.ones(128)})
    >>> mu = tt.get(state, "mu")
    >>> mu["w"].codes.dtype, mu["w"].scales.shape, mu["b"].dtype
    (dtype('int8'), (32,), dtype('float32'))

    Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.
    """
    validation.integer("block", block, "quantise_moments")
    validation.integer("min_size", min_size, "quantise_moments")
    inner = injected(tx)

    def pack(state: PyTree, key: jax.Array) -> PyTree:
        numbers = iter(range(10**9))

        def one(x: Any, signed: bool) -> Any:
            if not is_float(x) or x.size < min_size:
                return x
            own = None if signed else jax.random.fold_in(key, next(numbers))
            return quantise(x, block, signed=signed, key=own)

        return _slots(state, lambda tree, s: jax.tree.map(lambda x: one(x, s), tree))

    def unpack(state: PyTree) -> PyTree:
        is_one = lambda x: isinstance(x, Quantised)

        def one(x: Any, signed: bool) -> Any:
            return dequantise(x, block, signed=signed) if is_one(x) else x

        return _slots(
            state, lambda tree, s: jax.tree.map(lambda x: one(x, s), tree, is_leaf=is_one)
        )

    def init(params: PyTree) -> QuantiseState:
        data = key_data(key)
        packed = pack(inner.init(params), jax.random.wrap_key_data(data))
        return QuantiseState(jnp.zeros((), jnp.int32), data, packed)

    def update(
        updates: PyTree, state: QuantiseState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, QuantiseState]:
        out, inner_state = inner.update(updates, unpack(state.inner_state), params, **extra)
        packed = pack(inner_state, key_of_update(state))
        return out, QuantiseState(optax.safe_increment(state.count), state.key, packed)

    return optax.GradientTransformationExtraArgs(init, update)


def _slots(state: Any, change: Any) -> Any:
    """The state with `change(tree, signed)` applied to every slot of the table."""
    if isinstance(state, Quantised):
        return state
    if hasattr(state, "_fields"):
        return type(state)(
            *(
                change(value, SIGNED[field]) if field in SIGNED else _slots(value, change)
                for field, value in zip(state._fields, state, strict=True)
            )
        )
    if isinstance(state, tuple | list):
        return type(state)(_slots(child, change) for child in state)
    if isinstance(state, dict):
        return {key: _slots(child, change) for key, child in state.items()}
    return state
