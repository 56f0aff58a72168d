"""`from_nnx`: a `flax.nnx` module as the loss function of a train step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from trainkit._core import validation
from trainkit.adapters.batches import Inputs, Outputs, call_of, inputs_of, outputs_of
from trainkit.adapters.model import Apply, Model
from trainkit.adapters.modes import Modes, check_call, check_modes, drops, in_mode, modes_of
from trainkit.adapters.targets import Part
from trainkit.adapters.validation import check_options, takes_sown

PyTree = Any


@validation.named_options
def from_nnx(
    module: nnx.Module,
    loss: Callable[..., Any],
    *,
    inputs: Inputs = None,
    outputs: Outputs = None,
    labels: Part = None,
    weights: Part = None,
    mode: Modes = None,
) -> Model:
    """An NNX module and its loss, as the `loss_fn` of `make_train_step`.

    The module is not changed. Its `nnx.Param`s become the parameters, as nested dicts of arrays.
    Other variables become model state, except random streams and `nnx.Intermediate`s. The mode is
    set by `module.train()` and `module.eval()`, and by the names in `mode`. Random streams are
    re-seeded for each step, micro-batch and device.

    Args:
      module: an initialised module with `__call__`.
      loss, inputs, outputs, labels, weights, mode: as for `trainkit.from_linen`. A third parameter
        of the loss gets {"intermediates": the sown values}.

    Batch statistics are treated as in `trainkit.from_linen`.

    Raises:
      ValueError: as in `trainkit.from_linen`.

    >>> from flax import nnx
    >>> import numpy as np, optax, trainkit
    >>> model = trainkit.from_nnx(
    ...     nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optax.softmax_cross_entropy_with_integer_labels)
    >>> batch = {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int32)}
    >>> tx = optax.sgd(0.1)
    >>> step = trainkit.make_train_step(model, tx)
    >>> state, metrics = step(step.place(model.state(tx, batch)), batch)
    >>> sorted(state.params)
    ['bias', 'kernel']
    """
    _check_module(module)
    check_options(loss, mode, labels, weights)
    seen = ("intermediates",) if takes_sown(loss) else ()
    graph, params, streams, rest = parts_of(module)
    apply = pure_apply(module, graph, streams, mode, seen, outputs_of(outputs))

    def init(rng: jax.Array, inputs: PyTree) -> tuple[PyTree, PyTree]:
        # The module is initialised already.
        if mode is None and any(isinstance(m, nnx.BatchNorm) or drops(m) for m in _modules(module)):
            how = lambda train: lambda p, s, x: apply(p, s, x, rng, train=train)[0]
            check_modes(type(module).__name__, how(True), how(False), params, rest, inputs)
        return params, rest

    return Model(init, apply, loss, inputs_of(inputs), seen, labels, weights)


def _check_module(module: Any) -> None:
    if isinstance(module, nnx.Module):
        return
    hint = "for another library, pass a function to make_train_step"
    if inspect.isclass(module):
        hint = f"pass an instance, {module.__name__}(…, rngs=nnx.Rngs(0))"
    elif any(base.__module__.startswith("flax.linen") for base in type(module).__mro__):
        hint = "use trainkit.from_linen for a Linen module"
    raise TypeError(f"module must be a flax.nnx module, not {module!r:.60}; {hint}.")


def parts_of(module: nnx.Module) -> tuple[Any, PyTree, PyTree, PyTree]:
    """A module's graph, and its parameters, random streams and other variables as pure dicts."""
    kinds = (nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    parts: Any = nnx.split(module, *kinds)
    graph, params, streams, sown, rest = parts
    if jax.tree.leaves(sown):
        module = nnx.clone(module)
        nnx.pop(module, nnx.Intermediate)
        return parts_of(module)
    params, streams, rest = map(nnx.to_pure_dict, (params, streams, rest))
    return graph, params, streams, rest


def pure_apply(
    module: nnx.Module,
    graph: Any,
    streams: PyTree,
    mode: Modes = None,
    seen: tuple[str, ...] = (),
    choose: Callable[[PyTree], PyTree] = lambda outputs: outputs,
) -> Apply:
    """`Model.apply` of a split module. With `seen`, the new state includes the sown values."""
    found = {name for inner in _modules(module) for name in vars(inner)}
    called, fields = modes_of(module, mode, found)
    fields = fields if mode is None else dict(mode)
    wants_rngs = "rngs" in inspect.signature(type(module).__call__).parameters

    def apply(
        params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]:
        merged = nnx.merge(graph, params, _seeded(streams, rng), model_state)
        _set(merged, in_mode(fields, train), train)
        args, kwargs = call_of(inputs)
        extra = {"rngs": nnx.Rngs(rng)} if wants_rngs else {}
        check_call(module, args, {**kwargs, **in_mode(called, train), **extra})
        # Flax's norms mix half precision with float32 statistics: an error under strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            run = nnx.capture(merged, nnx.Intermediate)
            outputs, sown = run(*args, **kwargs, **in_mode(called, train), **extra)
        parts: Any = nnx.split(merged, nnx.Param, nnx.RngState, ...)
        state = nnx.to_pure_dict(parts[-1])
        return choose(outputs), {**state, **{name: nnx.to_pure_dict(sown) for name in seen}}

    return apply


def _modules(module: nnx.Module) -> list[nnx.Module]:
    return [inner for _, inner in nnx.iter_modules(module)]


def _set(module: nnx.Module, fields: Mapping[str, bool], train: bool) -> None:
    """Sets the mode of a module and its submodules, in boolean fields of these names."""
    (module.train if train else module.eval)()
    for inner in _modules(module):
        for name, value in fields.items():
            if isinstance(vars(inner).get(name), bool):
                setattr(inner, name, value)


def _seeded(streams: PyTree, rng: jax.Array) -> PyTree:
    """New random streams from `rng`, each with its own key."""
    leaves, treedef = jax.tree.flatten(streams)

    def seed(number: int, leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros_like(leaf)
        key = jax.random.fold_in(rng, number)
        return jax.random.split(key, leaf.shape) if leaf.shape else key

    return jax.tree.unflatten(treedef, [seed(i, leaf) for i, leaf in enumerate(leaves)])
