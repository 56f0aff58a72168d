"""Models as functions of their variables, with the shapes of the variables; used by growth."""

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
      variables: the shapes of that tree.
      init: `init(key, *inputs)` -> initial values of that tree; `None` if unknown.
    """

    fn: Callable[..., PyTree]
    variables: PyTree
    init: Callable[..., PyTree] | None = None


def functions_of(model: Any, inputs: tuple[Any, ...], factory: bool = True) -> Functions | None:
    """The functions of a Linen module, an NNX module or class, or an adapter's `Model`.

    Args:
      model: a model.
      inputs: its inputs, arrays or shapes.
      factory: whether to treat a callable that needs at most `rngs` as a factory of an NNX module.

    Raises:
      TypeError: a Linen class instead of a module, or a factory that returns no NNX module.
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


def bare(model: Functions) -> Functions:
    """A Linen model that takes its variables without the boxes of `with_partitioning`."""
    from flax.core import meta

    start = model.init
    init = None if start is None else lambda key, *xs: meta.unbox(start(key, *xs))
    return Functions(model.fn, meta.unbox(model.variables), init)


def _required(fn: Callable[..., Any]) -> set[str]:
    return {
        name
        for name, p in inspect.signature(fn).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def _linen(module: Any, inputs: tuple[Any, ...]) -> Functions:
    from trainkit.adapters.linen import functions

    return _pure(*functions(module), inputs)


def _model(model: Any, inputs: tuple[Any, ...]) -> Functions:
    return _pure(model.init, model.apply, inputs)


def _pure(
    init: Callable[..., Any], apply: Callable[..., Any], inputs: tuple[Any, ...]
) -> Functions:
    key = jax.random.key(0)

    def start(key: jax.Array, *xs: Any) -> PyTree:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), _arguments(xs))
        return dict(zip(("params", "model_state"), init(key, zeros), strict=True))

    def fn(v: PyTree, *xs: Any) -> PyTree:
        return apply(v["params"], v["model_state"], _arguments(xs), key, train=False)[0]

    return Functions(fn, jax.eval_shape(start, key, *inputs), start)


def _arguments(xs: tuple[Any, ...]) -> Any:
    """The inputs of a function of (variables, *inputs), which may be one `Call`."""
    return xs[0] if len(xs) == 1 else xs


def _nnx(model: Any) -> Functions:
    from trainkit.adapters.nnx import parts_of, pure_apply

    nnx = sys.modules["flax.nnx"]
    if not isinstance(model, nnx.Module):
        maker = model
        known = inspect.signature(maker).parameters
        model = nnx.eval_shape(lambda: maker(rngs=nnx.Rngs(0)) if "rngs" in known else maker())
        if not isinstance(model, nnx.Module):
            raise TypeError(f"{maker} returns a {type(model).__name__}, not an NNX module")
    graph, params, streams, rest = parts_of(model)
    apply = pure_apply(model, graph, streams)
    spec = lambda part: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part)
    key = jax.random.key(0)

    def fn(v: PyTree, *xs: Any) -> PyTree:
        return apply(v["params"], v["model_state"], _arguments(xs), key, train=False)[0]

    return Functions(fn, {"params": spec(params), "model_state": spec(rest)})
