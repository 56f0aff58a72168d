"""What a Flax model is to growth: a function of its variables, and the shapes of these."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any


class Functions(NamedTuple):
    """A model in evaluation mode.

    Attributes:
      fn: `fn({"params": …, "model_state": …}, *inputs)`.
      variables: shapes of that tree.
      init: `init(key, *inputs)`, initial values of that tree, where the model knows them.
    """

    fn: Callable[..., PyTree]
    variables: PyTree
    init: Callable[..., PyTree] | None = None


def functions_of(model: Any, inputs: tuple[Any, ...], factory: bool = True) -> Functions | None:
    """The functions of a Linen module, an NNX module or class, or an adapter's `Model`.

    Args:
      model: anything; `None` is returned for what is none of these.
      inputs: arrays or shapes that the model is called with.
      factory: whether a callable that needs at most `rngs` is taken for one that makes an NNX
        module.

    Raises:
      TypeError: a class of Linen modules, or a factory of something else.
    """
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(model, linen.Module):
        return _linen(model, inputs)
    if linen is not None and inspect.isclass(model) and issubclass(model, linen.Module):
        raise TypeError(f"it is the class {model.__name__}; pass a module, {model.__name__}(…)")
    if hasattr(model, "init") and hasattr(model, "apply") and hasattr(model, "inputs"):
        return _model(model, inputs)
    if nnx is None:
        return None
    made = isinstance(model, nnx.Module) or (
        inspect.isclass(model) and issubclass(model, nnx.Module)
    )
    if made or (factory and callable(model) and _required(model) <= {"rngs"}):
        return _nnx(model)
    return None


def _required(fn: Callable[..., Any]) -> set[str]:
    return {
        name
        for name, p in inspect.signature(fn).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def _linen(module: Any, inputs: tuple[Any, ...]) -> Functions:
    from trainkit.adapters.linen import MODES

    known = inspect.signature(type(module).__call__).parameters
    mode = {name: not train for name, train in MODES.items() if name in known}

    def init(key: jax.Array, *xs: Any) -> PyTree:
        keys = {n: jax.random.fold_in(key, i) for i, n in enumerate(("params", "dropout"))}
        xs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), xs)
        with jax.numpy_dtype_promotion("standard"):
            variables = dict(module.init(keys, *xs, **mode))
        return {"params": variables.pop("params", {}), "model_state": variables}

    def fn(v: PyTree, *xs: Any) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):
            return module.apply({"params": v["params"], **v["model_state"]}, *xs, **mode)

    return Functions(fn, jax.eval_shape(init, jax.random.key(0), *inputs), init)


def _nnx(model: Any) -> Functions:
    nnx = sys.modules["flax.nnx"]
    if not isinstance(model, nnx.Module):
        maker = model
        known = inspect.signature(maker).parameters
        model = nnx.eval_shape(lambda: maker(rngs=nnx.Rngs(0)) if "rngs" in known else maker())
        if not isinstance(model, nnx.Module):
            raise TypeError(f"{maker} makes a {type(model).__name__}, not an NNX module")
    graph, params, streams, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
    spec = lambda part: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.to_pure_dict(part)
    )

    def fn(v: PyTree, *xs: Any) -> PyTree:
        merged = nnx.merge(graph, v["params"], _seeds(streams), v["model_state"])
        merged.eval()
        with jax.numpy_dtype_promotion("standard"):
            return merged(*xs)

    def _seeds(part: Any) -> PyTree:
        def one(x: Any) -> jax.Array:
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                key = jax.random.key(0)
                return jax.random.split(key, x.shape) if x.shape else key
            return jnp.zeros(x.shape, x.dtype)

        return jax.tree.map(one, nnx.to_pure_dict(part))

    return Functions(fn, {"params": spec(params), "model_state": spec(rest)})


def _model(model: Any, inputs: tuple[Any, ...]) -> Functions:
    """`trainkit.from_linen`'s and `from_nnx`'s results; their batch is here the inputs alone."""
    key = jax.random.key(0)

    def init(key: jax.Array, *xs: Any) -> PyTree:
        x = jnp.zeros(xs[0].shape, xs[0].dtype)
        return dict(zip(("params", "model_state"), model.init(key, {"x": x}), strict=True))

    def fn(v: PyTree, *xs: Any) -> PyTree:
        return model.apply(v["params"], v["model_state"], xs[0], key, train=False)[0]

    return Functions(fn, jax.eval_shape(init, key, *inputs), init)
