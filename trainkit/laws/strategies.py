"""Hypothesis strategies for parameter trees, gradients, sequences of updates and extra arguments.

    from hypothesis import given
    from trainkit.laws import strategies as st

    @given(st.problems(dtypes=("float32", "bfloat16")))
    def test_my_rule(problem):
        params, grads = problem
        ...

Hypothesis is imported when a strategy is made, so that the rest of the kit works without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = ("float32", "bfloat16", "float16")
SHAPES: tuple[tuple[int, ...], ...] = (
    (), (1,), (3,), (0,), (2, 3), (1, 1), (0, 2), (2, 1, 2), (1, 2, 1, 2),
)  # fmt: skip
# What breaks rules: zeros, ends of the range, and numbers whose squares leave it.
EXTREMES = (0.0, -0.0, 1e-40, -1e-40, 1e-30, -1e30, 1e30, 1e19, 1e-19)
NON_FINITE = (float("inf"), float("-inf"), float("nan"))


class Layer(NamedTuple):
    """A NamedTuple, as parameter trees may contain them."""

    weight: Any
    bias: Any


def _hypothesis() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError(
            "trainkit.laws.strategies needs hypothesis: install trainkit with its testing extra, "
            "pip install 'trainkit[testing]'"
        ) from error
    return strategies


def values(*, extreme: bool = False, finite: bool = True) -> Any:
    """Floats of order one; with `extreme` also 0, denormals and 1e±30, if not `finite` NaN and ±∞.

    >>> from trainkit.laws import strategies
    >>> abs(strategies.values().example()) <= 8  # doctest: +SKIP
    True
    """
    st = _hypothesis()
    ordinary = st.floats(-8.0, 8.0, allow_nan=False, width=32)
    picked: tuple[float, ...] = EXTREMES if extreme else ()
    if not finite:
        picked += NON_FINITE
    return st.one_of(ordinary, st.sampled_from(picked)) if picked else ordinary


def shapes(*, empty: bool = True, scalars: bool = True) -> Any:
    """Shapes of leaves: scalars, size 0, size 1, and up to four axes."""
    st = _hypothesis()
    kept = [s for s in SHAPES if (empty or 0 not in s) and (scalars or s != ())]
    return st.sampled_from(kept)


def arrays(shape: tuple[int, ...], dtype: str = "float32", **kinds: bool) -> Any:
    """Arrays of one shape and dtype (float64 needs x64 mode); values as in `values`."""
    st = _hypothesis()
    size = int(np.prod(shape))
    made = st.lists(values(**kinds), min_size=size, max_size=size)

    def build(xs: list[float]) -> Any:
        with np.errstate(over="ignore", under="ignore"):
            return jnp.asarray(np.array(xs, np.float64).reshape(shape).astype(jnp.dtype(dtype)))

    return made.map(build)


def structures(*, max_leaves: int = 5, empty: bool = True, scalars: bool = True) -> Any:
    """Trees of shapes: nested dicts, lists, tuples, NamedTuples, bare leaves and empty subtrees.

    A leaf is a `jax.ShapeDtypeStruct` of float32.
    """
    st = _hypothesis()
    leaf = shapes(empty=empty, scalars=scalars).map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.dtype("float32"))
    )
    ends = st.one_of(leaf, st.sampled_from([{}, ()])) if empty else leaf
    names = st.sampled_from(["kernel", "bias", "scale", "a", "b", "block_0", "embedding"])
    return st.recursive(
        ends,
        lambda inner: st.one_of(
            st.dictionaries(names, inner, min_size=1, max_size=3),
            st.lists(inner, min_size=1, max_size=3),
            st.tuples(inner, inner),
            st.builds(Layer, inner, inner),
        ),
        max_leaves=max_leaves,
    )


def _is_shape(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def like(structure: Any, dtypes: Sequence[str] = ("float32",), **kinds: bool) -> Any:
    """Trees of arrays with the tree and shapes of `structure`; one dtype of `dtypes` a leaf."""
    st = _hypothesis()
    found, treedef = jax.tree.flatten(structure, is_leaf=_is_shape)
    filled = [
        st.sampled_from(list(dtypes)).flatmap(
            lambda dtype, shape=x.shape: arrays(shape, dtype, **kinds)
        )
        for x in found
    ]
    return st.tuples(*filled).map(lambda xs: jax.tree.unflatten(treedef, list(xs)))


def trees(
    *, dtypes: Sequence[str] = ("float32",), max_leaves: int = 5, empty: bool = True,
    scalars: bool = True, **kinds: bool,
) -> Any:  # fmt: skip
    """Parameter trees of any structure; give several `dtypes` for mixed ones."""
    made = structures(max_leaves=max_leaves, empty=empty, scalars=scalars)
    return made.flatmap(lambda s: like(s, dtypes, **kinds))


def problems(
    *,
    steps: int = 4,
    dtypes: Sequence[str] = ("float32",),
    mixed: bool = False,
    max_leaves: int = 4,
    empty: bool = True,
    scalars: bool = True,
    extreme: bool = False,
    finite: bool = True,
) -> Any:
    """(params, [gradients of every step]) that share structure and shapes.

    With `mixed`, parameters and gradients choose their dtypes independently; otherwise one dtype
    is drawn for all of a problem.
    """
    st = _hypothesis()

    def build(structure: Any) -> Any:
        def of(dtype: Any) -> Any:
            own = list(dtypes) if mixed else [dtype]
            params = like(structure, own)
            grads = like(structure, own, extreme=extreme, finite=finite)
            return st.tuples(params, st.lists(grads, min_size=1, max_size=steps))

        return st.sampled_from(list(dtypes)).flatmap(of)

    return structures(max_leaves=max_leaves, empty=empty, scalars=scalars).flatmap(build)


def twins(*, steps: int = 3, size: int = 3) -> Any:
    """Problems of two leaves of one shape, whose places can be exchanged."""
    shape = jax.ShapeDtypeStruct((size,), jnp.dtype("float32"))
    st = _hypothesis()
    pair = {"a": shape, "b": shape}
    return st.tuples(like(pair), st.lists(like(pair), min_size=1, max_size=steps))


def extra_args(params: Any, grads: Any) -> Any:
    """Extra arguments that match a problem: value, grad and value_fn of a quadratic loss."""
    st = _hypothesis()
    loss = lambda p: sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(p)) / 2
    return st.just({"value": jnp.asarray(loss(params)), "grad": grads, "value_fn": loss})


def counts() -> Any:
    """Step counts: small ones, powers of two and their neighbours, the largest int32."""
    st = _hypothesis()
    top = 2**31 - 1
    edges = [0, 1, 2, top, top - 1] + [2**k + d for k in range(2, 31) for d in (-1, 0, 1)]
    return st.one_of(st.integers(0, 2000), st.sampled_from(edges), st.integers(0, top))
