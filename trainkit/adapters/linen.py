"""`from_linen`: a `flax.linen` module as the loss function of a train step."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError

from trainkit._core import validation
from trainkit.adapters.batches import Inputs, Outputs, call_of, inputs_of, outputs_of
from trainkit.adapters.model import Apply, Model
from trainkit.adapters.modes import Modes, check_call, check_modes, drops, in_mode, modes_of
from trainkit.adapters.targets import Part
from trainkit.adapters.validation import check_options, takes_sown

PyTree = Any
Init = Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]
SOWN = ("intermediates", "losses")


@validation.named_options
def from_linen(
    module: nn.Module,
    loss: Callable[..., Any],
    *,
    inputs: Inputs = None,
    outputs: Outputs = None,
    labels: Part = None,
    weights: Part = None,
    mode: Modes = None,
    rngs: Sequence[str] = ("dropout",),
    sown: Sequence[str] = SOWN,
) -> Model:
    """A Linen module and its loss, as the `loss_fn` of `make_train_step`.

    Args:
      module: a module with `__call__`.
      loss: `loss(outputs, batch)` -> floating array, one value per example [B] or token [B, T], not
        their mean; or a pair of that and a dict of metrics with such shapes. Optax's losses can be
        used directly: if the second parameter is named labels or targets, it gets the labels. A
        third parameter gets the sown values, {collection: tree}.
      inputs: the arguments of the module: a key of the batch (of a tuple a position); several keys,
        for arguments in order; {argument: key}; or a function of the batch, which returns the
        argument (or a tuple of arguments, or a `trainkit.Call(args, kwargs)`). `None`: the first of
        the keys x, inputs, input, image, images, tokens, features, or the first element of a tuple.
      outputs: selects the outputs for the loss and `predict`: a key, or a function.
      labels: a key of the batch, several keys (a tuple of labels; () for none), or a function of
        the batch. `None`: the one of the keys y, labels, label, targets, target, or element 1 of a
        tuple, that is no input of the module.
      weights: a key, several keys (their product; () for none), or a function of the batch; each is
        [B], or the first axes of the loss. `None`: the product of those of the keys weight,
        weights, mask that are no inputs; of a tuple (x, y, w), w if it is floating or boolean and
        the loss is given the labels. What could be several things is refused.
      mode: {name of an argument or field: its value in training}, as in `{"use_dropout": True}`; in
        evaluation it has the opposite value. `None`: the usual names (train, training, is_training,
        is_train, enable_dropout; deterministic, inference, eval_mode, use_running_average). `{}`:
        the module has only one mode.
      rngs: names of the random streams in training. Each step, micro-batch and device has its own
        random numbers.
      sown: collections that are outputs of each call, not model state.

    For integer labels and outputs (logits) [..., K], K > 1, "accuracy" is reported; outputs of NaN
    are wrong. A label of −100 has weight 0. Any other label that is no class makes the loss NaN, if
    the loss is given the labels or `labels` says where they are; a loss that is given the batch may
    read numbers. A negative weight makes the loss NaN.

    All other collections except "params" are model state. Batch statistics are updated by one
    micro-batch after another. Under "pmap", "shard_map" and "periodic", and with micro-batches over
    several devices, each device normalises its own examples, and the statistics are averaged over
    devices at the end of the step (of the call, under "periodic"). Under "jit" and "fsdp" the whole
    batch is normalised together, as on a single device.

    Raises:
      ValueError: the module has no argument or field of a name in `mode`. From `model.state`:
        dropout or batch statistics behave the same in training and evaluation. From the first
        step: the loss is already a mean, or has an axis that neither outputs nor labels have;
        inputs or labels are not found in the batch, or could be several of its keys.

    >>> import flax.linen as nn, numpy as np, optax, trainkit
    >>> model = trainkit.from_linen(
    ...     nn.Dense(3), optax.softmax_cross_entropy_with_integer_labels)
    >>> batch = {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int32)}
    >>> tx = optax.sgd(0.1)
    >>> step = trainkit.make_train_step(model, tx)
    >>> state, metrics = step(step.place(model.state(tx, batch)), batch)
    >>> sorted(metrics)
    ['accuracy', 'learning_rate', 'loss', 'skipped_steps']

    A tuple (image, number, digit, count), in which positions say what is what:

    >>> model = trainkit.from_linen(
    ...     nn.Dense(3), optax.softmax_cross_entropy_with_integer_labels,
    ...     inputs=0, labels=2, weights=lambda batch: batch[3] > 0)
    >>> batch = (np.ones((8, 4), np.float32), np.arange(8), np.zeros(8, np.int32), np.arange(8))
    >>> step = trainkit.make_train_step(model, tx)
    >>> state, metrics = step(step.place(model.state(tx, batch)), batch)
    """
    _check_module(module)
    check_options(loss, mode, labels, weights, rngs, sown)
    seen = tuple(sown) if takes_sown(loss) else ()
    init, apply = functions(module, mode, rngs, sown, seen, outputs_of(outputs))

    def checked(rng: jax.Array, inputs: PyTree) -> tuple[PyTree, PyTree]:
        inside: list[nn.Module] = []
        with nn.intercept_methods(_recorder(inside)):
            params, state = init(rng, inputs)
        if mode is None and any(isinstance(m, nn.BatchNorm) or drops(m) for m in inside):
            how = lambda train: lambda p, s, x: apply(p, s, x, rng, train=train)[0]
            check_modes(type(module).__name__, how(True), how(False), params, state, inputs)
        return params, state

    return Model(checked, apply, loss, inputs_of(inputs), seen, labels, weights)


def _check_module(module: Any) -> None:
    if isinstance(module, nn.Module):
        return
    hint = "for another library, pass a function to make_train_step"
    if inspect.isclass(module):
        hint = f"pass an instance, {module.__name__}(…)"
    elif any(base.__module__.startswith("flax.nnx") for base in type(module).__mro__):
        hint = "use trainkit.from_nnx for an NNX module"
    raise TypeError(f"module must be a flax.linen module, not {module!r:.60}; {hint}.")


def functions(
    module: nn.Module,
    mode: Modes = None,
    rngs: Sequence[str] = ("dropout",),
    sown: Sequence[str] = SOWN,
    seen: Sequence[str] = (),
    choose: Callable[[PyTree], PyTree] = lambda outputs: outputs,
) -> tuple[Init, Apply]:
    """`Model.init` and `Model.apply` of a module. Of the sown collections, only `seen` is kept."""
    called, fields = modes_of(module, mode, [field.name for field in dataclasses.fields(module)])
    modules = {train: module.clone(**in_mode(fields, train)) for train in (True, False)}

    def init(rng: jax.Array, inputs: PyTree) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(rng, 1 + len(rngs))
        named = dict(zip(("params", *rngs), keys, strict=True))
        args, kwargs = call_of(inputs)
        check_call(module, args, {**kwargs, **in_mode(called, train=False)})
        with jax.numpy_dtype_promotion("standard"):
            variables = dict(
                modules[False].init(named, *args, **kwargs, **in_mode(called, train=False))
            )
        params = variables.pop("params", {})
        return params, {name: leaf for name, leaf in variables.items() if name not in sown}

    def apply(
        params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]:
        args, kwargs = call_of(inputs)
        keys = {name: jax.random.fold_in(rng, i) for i, name in enumerate(rngs)}
        # Flax's norms mix half precision with float32 statistics: an error under strict promotion.
        with jax.numpy_dtype_promotion("standard"), _named_streams(module, train):
            outputs, new = modules[train].apply(
                {"params": params, **model_state},
                *args,
                **kwargs,
                **in_mode(called, train),
                rngs=keys if train else {},
                mutable=[*(model_state if train else ()), *seen],
            )
        return choose(outputs), {**model_state, **new}

    return init, apply


@contextlib.contextmanager
def _named_streams(module: nn.Module, train: bool) -> Iterator[None]:
    """Says which option gives the random stream that a module lacks."""
    try:
        yield
    except InvalidRngError as error:
        hint = "name it in rngs=, such as rngs=('dropout', 'noise')"
        if not train:
            hint = "in evaluation there are none: let the module do without, by its mode"
        raise ValueError(
            f"{type(module).__name__} uses a random stream that it is not given; {hint}. ({error})"
        ) from error


def _recorder(inside: list[nn.Module]) -> Callable[..., Any]:
    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        inside.append(context.module)
        return call(*args, **kwargs)

    return record
