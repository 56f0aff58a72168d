"""Whether a plan keeps the function and the gradients: references that share no code with it."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo import REGISTRY, Model
from tests.growth.zoo.building import as_dtype, randomised
from trainkit import growth
from trainkit.growth.maps.leaf_map import LeafMap

# Their softmax is computed in float32 whatever its inputs are.
SINGLE = {"dot_product_attention", "nnx attention"}
OPERATORS = ("uneven", "noise", "zero_out")


def names(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def exact(
    fn: Any, small: Any, big: Any, *inputs: Any, tolerance: float = 1e-12
) -> tuple[growth.Plan, Any]:
    """The plan from one size of a function to another, and grown parameters that keep its outputs.

    They have the shapes of `big`. The tolerance is that of a few operations in float64.
    """
    plan = growth.plan(fn, fn, small, big, *inputs)
    grown = plan.grow(small, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    want = fn(small, *inputs)
    np.testing.assert_allclose(fn(grown, *inputs), want, rtol=tolerance, atol=tolerance)
    return plan, grown


class Small:
    """The small model at random parameters: outputs, and gradients of a random projection."""

    def __init__(self, model: Model, dtype: Any):
        self.model, self.dtype, self.single = model, dtype, model.name in SINGLE
        self.inputs = tuple(
            jnp.asarray(x, dtype if np.issubdtype(np.asarray(x).dtype, np.floating) else None)
            for x in model.inputs
        )
        self.fn, shapes = model.at()
        self.params = randomised(as_dtype(shapes, dtype))

    @functools.cached_property
    def run(self) -> tuple[np.ndarray, Any]:
        """Outputs, and the gradients of what `check_case` differentiates."""

        def loss(p):
            out = self.fn(p, *self.inputs)
            weights = np.random.default_rng(9).normal(size=out.shape)
            return jnp.sum(out * jnp.asarray(weights, out.dtype)), out

        slope = jax.jit(jax.value_and_grad(loss, has_aux=True, allow_int=True))
        (_, out), gradients = slope(self.params)
        return np.asarray(out), gradients

    def big(self, case: str):
        fn, shapes = self.model.big(case)
        return fn, as_dtype(shapes, self.dtype)

    def plan(self, case: str) -> growth.Plan:
        """From parameters to shapes."""
        big_fn, shapes = self.big(case)
        return self.model.plan(case, self.fn, big_fn, self.params, shapes, *self.inputs)


@functools.cache
def small(name: str, dtype: str) -> Small:
    return Small(REGISTRY[name], jnp.dtype(dtype))


def predicted(gradient: np.ndarray, how: LeafMap) -> tuple[np.ndarray, np.ndarray]:
    """f · g[π] in numpy, and where it speaks (units that copy nothing have no prediction)."""
    out = np.asarray(gradient, np.float64) * how.gradient
    known = np.ones(out.shape, bool)
    for d, axis in enumerate(how.axes):
        if axis is None:
            continue
        shape = [-1 if e == d else 1 for e in range(out.ndim)]
        out = np.take(out, np.maximum(axis.source, 0), d) * axis.gradient.reshape(shape)
        known = np.take(known, np.maximum(axis.source, 0), d)
        known = known & (axis.source >= 0).reshape(shape)
    return out, known


def check_case(small: Small, case: str, *, tolerance: float, guesses: bool = False) -> None:
    """Plans, grows evenly and in one other way, and compares outputs and gradients.

    Which other way goes round with the case: every model meets them all, and fewer programs are
    compiled. `guesses`: gradient factors may be said to be a best guess (behind a LayerNorm whose
    stream grows to no multiple).
    """
    big_fn, big_shapes = small.big(case)
    plan = small.plan(case)
    assert growth.Plan.from_json(plan.to_json()) == plan
    key = jax.random.key(3)
    run = jax.jit(
        lambda p: jax.value_and_grad(
            lambda q: (lambda o: (jnp.sum(o * _weights(o)), o))(big_fn(q, *small.inputs)),
            has_aux=True,
            allow_int=True,
        )(p)
    )
    wanted_out, old_gradients = small.run
    scale = np.abs(wanted_out).max()
    other = OPERATORS[zlib.crc32(f"{small.model.name} {case}".encode()) % len(OPERATORS)]
    for how in ("even", other):
        params = plan.grow(small.params, key=key, how=how, like=big_shapes)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
            lambda s: (s.shape, s.dtype), big_shapes
        )
        (_, out), gradients = run(params)
        error = np.abs(np.asarray(out) - wanted_out).max() / scale
        assert error <= tolerance, f"{how}: outputs differ by {error:.1e}"
        if jnp.dtype(small.dtype) != jnp.float64:
            continue
        growth_map, grown = plan.realise(key, how), names(params)
        new_layers = [grown[path] for path in growth_map.new]
        assert not new_layers or any(map(np.any, new_layers)), "a new layer is dead"
        old, new = names(old_gradients), names(gradients)
        # Some gradients are 0 but for rounding (key biases): measure against the largest.
        size = max(float(np.abs(g).max()) for g in new.values() if g.dtype.kind == "f")
        for path, leaf in growth_map.leaves.items():
            origin = growth_map.origin_of(path)
            if origin.new or new[path].dtype.kind != "f":
                continue
            assert how != "even" or guesses or leaf.exact_gradient, path
            if not leaf.exact_gradient:
                continue
            wanted, known = predicted(old[origin.leaf], leaf)
            error = np.abs(np.where(known, new[path] - wanted, 0.0)).max() / size
            # Gradients too are exact but for rounding; JAX's own attention rounds to float32.
            allowed = 1e-6 if small.single else 1e-12
            assert error <= allowed, f"{how}: the gradient of {path} is off by {error:.1e}"


def _weights(out):
    return jnp.asarray(np.random.default_rng(9).normal(size=out.shape), out.dtype)
