"""Tracing of functions, and named shapes of their parameters."""

from __future__ import annotations

from typing import Any

import jax

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError

PyTree = Any


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    array = jax.numpy.asarray(x)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def structs(tree: PyTree) -> PyTree:
    return jax.tree.map(shape_of, tree)


def named_shapes(tree: PyTree, name: str) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise GrowthError(f"{name} has no leaves")
    result: list[tuple[str, jax.ShapeDtypeStruct]] = []
    seen: set[str] = set()
    for path, leaf in leaves:
        if path_name(path) in seen:
            raise GrowthError(
                f"two leaves of {name} have the path {path_name(path)}",
                params=[path_name(path)],
                hint="rename keys that contain '/', so that every path is one leaf's",
            )
        seen.add(path_name(path))
        try:
            result.append((path_name(path), shape_of(leaf)))
        except TypeError as error:
            raise GrowthError(
                f"{path_name(path)} of {name} is a {type(leaf).__name__}, not an array",
                params=[path_name(path)],
                hint="remove leaves that are not arrays from the parameters, for example by "
                "eqx.partition(model, eqx.is_array), and close over them",
            ) from error
    return result


def traced_program(fn, params, args, which: str):
    try:
        return jax.make_jaxpr(fn, return_shape=True)(params, *args)
    except GrowthError:
        raise
    except Exception as error:
        if hasattr(fn, "apply"):
            raise GrowthError(
                f"{which}_fn is a {type(fn).__name__}, a module and not a function of parameters",
                hint="pass lambda params, x: module.apply({'params': params}, x), or use "
                "trainkit.growth.grow, which takes modules",
            ) from error
        numbered = any("/0" in f"/{name}" for name in named_leaves(params))
        dicts = numbered and isinstance(error, KeyError | TypeError)
        raise GrowthError(
            f"the {which} function cannot be traced with its parameters and these inputs: "
            f"{type(error).__name__}: {error}",
            hint="if these parameters come from a checkpoint, which holds lists as dicts with the "
            "keys '0', '1', …: pass flax.serialization.from_state_dict(initial, params), with "
            "parameters as the model makes them"
            if dicts
            else f"check that {which}_params are the parameters of {which}_fn, that both functions "
            "are called as fn(params, *inputs), and that the inputs have the shapes of the model",
        ) from error
