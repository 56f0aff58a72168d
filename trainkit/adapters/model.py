"""What the adapters make of a Flax model: pure functions of a batch, with its weights applied.

Nothing here knows Flax: an adapter for another library needs `init` and `apply` only.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from trainkit.adapters.layers import layers_of
from trainkit.step.loss import Loss
from trainkit.step.precision import at_least_float32
from trainkit.step.state import TrainState

PyTree = Any
INPUTS = ("x", "inputs", "input", "image", "images", "tokens", "features")
LABELS = ("y", "labels", "label", "targets", "target")
WEIGHTS = ("weight", "weights", "mask")


class Apply(Protocol):
    """`apply(params, model_state, inputs, rng, train) -> (outputs, model_state)`."""

    def __call__(
        self, params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]: ...


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and its loss. It is itself the `loss_fn` that `make_train_step` takes.

    Attributes:
      init: `(rng, batch) -> (params, model_state)`.
      apply: `(params, model_state, inputs, rng, train) -> (outputs, model_state)`.
      loss: `(outputs, batch) -> losses` or `(losses, metrics)`.
      inputs: batch -> what the module is called with.
    """

    init: Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]
    apply: Apply
    loss: Callable[..., Any]
    inputs: Callable[[PyTree], PyTree]

    def __call__(self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Loss:
        """The loss in training mode: dropout on, batch statistics updated."""
        outputs, model_state = self.apply(params, model_state, self.inputs(batch), rng, train=True)
        return weighted(self.loss, outputs, batch)._replace(model_state=model_state)

    def evaluation(
        self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array
    ) -> Loss:
        """The loss in evaluation mode: no dropout, stored batch statistics, nothing updated."""
        outputs, _ = self.apply(params, model_state, self.inputs(batch), rng, train=False)
        return weighted(self.loss, outputs, batch)

    def predict(self, state: TrainState, batch: PyTree) -> PyTree:
        """The outputs in evaluation mode."""
        return self.apply(
            state.params, state.model_state, self.inputs(batch), state.rng, train=False
        )[0]

    def stacked(self, batch: PyTree) -> dict[str, int]:
        """The `stacked` of this model for rules that work leaf by leaf: its layers in scans.

        That is {expression for a leaf: number of leading layer axes}, {} without scans. It is found
        in the program of `init`, as with `flax.linen.scan`; an NNX module is initialised already.

            tx = trainkit.transforms.muon(1e-3, stacked=model.stacked(batch))
        """
        return layers_of(self.init, jax.random.key(0), batch)

    def state(
        self, tx: optax.GradientTransformation, batch: PyTree, rng: jax.Array | int = 0
    ) -> TrainState:
        """The state before the first step. Of the batch only shapes and dtypes matter."""
        key = jax.random.key(rng) if isinstance(rng, int) else rng
        for_params, for_steps = jax.random.split(key)
        params, model_state = jax.jit(self.init)(for_params, batch)
        return TrainState.create(params, tx, model_state=model_state, rng=for_steps)


def weighted(loss: Callable[..., Any], outputs: PyTree, batch: PyTree) -> Loss:
    """Σ wᵢ·ℓᵢ and Σ wᵢ over examples, or tokens, with the weights that the batch carries."""
    arguments = (outputs, labels_of(batch)) if takes_labels(loss) else (outputs, batch)
    value = loss(*arguments)
    losses, metrics = value if isinstance(value, tuple) else (value, {})
    weight = weight_of(batch)
    total, count = _sum(losses, weight, "loss", batch)
    sums = {name: _sum(values, weight, name, batch) for name, values in metrics.items()}
    hits = _accuracy(outputs, batch)
    if hits is not None and "accuracy" not in sums:
        sums["accuracy"] = _sum(hits, weight, "accuracy", batch)
    return Loss(total, count, None, sums)


def _sum(values: Any, weight: Any, name: str, batch: PyTree) -> tuple[jax.Array, Any]:
    examples = jax.tree.leaves(batch)[0].shape[0]
    if jnp.ndim(values) == 0 or values.shape[0] != examples:
        raise ValueError(
            f"{name} has shape {jnp.shape(values)}; it must be one value an example, "
            f"[{examples}], or an example and position, [{examples}, …]: leave out the mean() or "
            "sum(), so that masked and uneven batches can be weighed exactly."
        )
    values = values.astype(at_least_float32(values.dtype))
    if weight is None:
        return values.sum(), values.size
    weight = jnp.asarray(weight).astype(values.dtype)
    if weight.shape != values.shape[: weight.ndim]:
        raise ValueError(
            f"the batch's weight has shape {weight.shape}, but {name} has shape {values.shape}; "
            "the weight must have the first axes of the loss."
        )
    weight = weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
    weight = jnp.broadcast_to(weight, values.shape)
    # An example of weight 0 is padding: whatever its loss is, NaN too, it counts for nothing.
    return jnp.where(weight == 0, 0, values * weight).sum(), weight.sum()


def _accuracy(outputs: Any, batch: PyTree) -> jax.Array | None:
    """1 where the largest output is the label's, for outputs [..., classes] and labels [...]."""
    labels = labels_of(batch, required=False)
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")):
        return None
    if not jnp.issubdtype(labels.dtype, jnp.integer) or outputs.shape[:-1] != labels.shape:
        return None
    return (outputs.argmax(-1) == labels).astype(jnp.float32)


def takes_labels(loss: Callable[..., Any]) -> bool:
    """Whether the loss's second argument is called labels or targets, as all of Optax's are."""
    try:
        parameters = list(inspect.signature(loss).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(parameters) > 1 and parameters[1].name in LABELS


def labels_of(batch: PyTree, required: bool = True) -> Any:
    return _find(batch, LABELS, 1, "the labels", "a loss(outputs, batch)", required)


def weight_of(batch: PyTree) -> Any:
    return _find(batch, WEIGHTS, 2, "the weights", "", required=False)


def inputs_of(inputs: str | Callable[[PyTree], PyTree] | None) -> Callable[[PyTree], PyTree]:
    """What the module is called with: a function of the batch, a key in it, or found by name."""
    if callable(inputs):
        return inputs
    if inputs is not None:
        return lambda batch: batch[inputs]
    return lambda batch: _find(batch, INPUTS, 0, "the module's inputs", "inputs=", required=True)


def _find(
    batch: PyTree, names: tuple[str, ...], position: int, what: str, hint: str, required: bool
) -> Any:
    if isinstance(batch, dict):
        for name in names:
            if name in batch:
                return batch[name]
        given = f"a dict with {', '.join(map(repr, batch))}"
    elif isinstance(batch, tuple | list):
        if position < len(batch):
            return batch[position]
        given = f"{len(batch)} arrays"
    elif position == 0:
        return batch
    else:
        given = type(batch).__name__
    if not required:
        return None
    raise ValueError(
        f"cannot tell {what} in the batch, which is {given}: looked for "
        f"{', '.join(map(repr, names))}, or element {position} of a tuple. Say it with {hint}."
    )
