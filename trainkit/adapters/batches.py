"""What a batch has, by name or position, and the inputs of a module in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from trainkit._core import validation
from trainkit._core.paths import path_name
from trainkit._core.validation.trees import shape_of

PyTree = Any
Key = str | int  # of a dict, a field of a named tuple, or a position in a tuple
INPUTS = ("x", "inputs", "input", "image", "images", "tokens", "features")
# The option `inputs`: a key, several keys, argument name -> key, or a function of the batch.
Inputs = Key | Sequence[Key] | Mapping[str, Key] | Callable[[PyTree], PyTree] | None
Outputs = str | Callable[[PyTree], PyTree] | None


class Call(NamedTuple):
    """The arguments of a module: `module(*args, **kwargs)`.

    >>> Call((1, 2), {"mask": 3}).kwargs
    {'mask': 3}
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


def call_of(inputs: PyTree) -> Call:
    """Inputs as a `Call`: a tuple is several arguments; anything else is one argument.

    >>> call_of((1, 2)), call_of([1, 2]).args
    (Call(args=(1, 2), kwargs={}), ([1, 2],))
    """
    if isinstance(inputs, Call):
        return inputs
    return Call(inputs if type(inputs) is tuple else (inputs,))


def inputs_of(inputs: Inputs) -> Callable[[PyTree], PyTree]:
    """The function from a batch to the inputs of a module; see `trainkit.from_linen`."""
    if inputs is None:
        return _found
    if callable(inputs):
        return inputs
    under = lambda batch, key: elements(batch)[key_in(batch, key, "inputs")]
    if isinstance(inputs, str | int):
        return lambda batch: under(batch, inputs)
    if isinstance(inputs, Mapping):
        return lambda batch: Call((), {name: under(batch, key) for name, key in inputs.items()})
    validation.listed("inputs", inputs, "('image', 'mask')")
    return lambda batch: tuple(under(batch, key) for key in inputs)


def outputs_of(outputs: Outputs) -> Callable[[PyTree], PyTree]:
    """The function that selects outputs: all of them, those under a key, or the given function."""
    if callable(outputs):
        return outputs
    if outputs is not None:
        validation.text("outputs", outputs, hint="a key, or a function of the module's outputs")
    return lambda found: found if outputs is None else _chosen(found, outputs)


def _chosen(found: PyTree, key: str) -> Any:
    if isinstance(found, Mapping) and key in found:
        return found[key]
    has = f"have {', '.join(map(repr, found))}" if isinstance(found, Mapping) else "are no dict"
    raise ValueError(
        f"outputs={key!r} must be a key of the module's outputs, which {has}; pass another key, a "
        "function of the outputs, or leave outputs= out."
    )


def elements(batch: PyTree) -> dict[Key, PyTree]:
    """What a batch has, by key, by the field of a named tuple, or by position; {} of an array.

    >>> elements((3, 4)), elements({"x": 3}), elements(Call((1,)))
    ({0: 3, 1: 4}, {'x': 3}, {'args': (1,), 'kwargs': {}})
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        return batch._asdict()
    return dict(enumerate(batch)) if isinstance(batch, tuple | list) else {}


def has_names(batch: PyTree) -> bool:
    """Whether what a batch has is found by name, not by position."""
    return any(isinstance(key, str) for key in elements(batch))


def key_in(batch: PyTree, key: Key, option: str) -> Key:
    """The key of `elements` that is meant by a key, or by a position from either end.

    Raises:
      ValueError: the batch has no such element.
    """
    found = elements(batch)
    positions = isinstance(key, int) and isinstance(batch, tuple | list)
    if positions and -len(found) <= int(key) < len(found):
        return list(found)[int(key)]
    if key in found:
        return key
    raise ValueError(
        f"{option} must be keys of the batch, which {_has(batch)}, not {key!r}; pass {option}= "
        "other keys, or a function of the batch."
    )


def described(batch: PyTree) -> str:
    """What a batch is, in words."""
    found = elements(batch)
    if has_names(batch):
        return f"a {type(batch).__name__} with {', '.join(map(repr, found))}"
    return f"{len(found)} arrays" if found else f"a {type(batch).__name__}"


def _has(batch: PyTree) -> str:
    if has_names(batch):
        return f"has {', '.join(map(repr, elements(batch)))}"
    return f"is {described(batch)}"


def read_by(fn: Callable[[PyTree], PyTree], batch: PyTree) -> frozenset[Key]:
    """The keys of the elements of a batch that the arrays in `fn(batch)` are computed from.

    >>> import jax.numpy as jnp
    >>> batch = {"x": jnp.ones(3), "y": jnp.ones(3), "label": jnp.ones(3)}
    >>> sorted(read_by(lambda batch: (2 * batch["x"], batch["y"].shape), batch))
    ['x']
    """

    def arrays(batch: PyTree) -> list[Any]:
        return [x for x in jax.tree.leaves(fn(batch)) if isinstance(x, jax.Array)]

    shapes = jax.tree.map(lambda x: shape_of(x) if hasattr(x, "dtype") else x, batch)
    jaxpr = jax.make_jaxpr(arrays)(shapes).jaxpr
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(batch)]
    values = zip(paths, jaxpr.invars, strict=True)
    needed = {id(value) for value in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if any(id(value) in needed for value in eqn.outvars):
            needed |= {id(value) for value in eqn.invars}
    keys = {path_name(path[:1]) for path, value in values if id(value) in needed}
    return frozenset(key for key in elements(batch) if str(key) in keys)


def _found(batch: PyTree) -> PyTree:
    """The inputs of a batch for which no `inputs=` is given."""
    found = elements(batch)
    if not has_names(batch):
        return found[0] if found else batch
    for name in INPUTS:
        if name in found:
            return found[name]
    raise ValueError(
        f"cannot find the module's inputs in the batch, which is {described(batch)}: looked for "
        f"{', '.join(map(repr, INPUTS))}, or element 0 of a tuple. Pass inputs=, a key or a "
        "function of the batch."
    )
