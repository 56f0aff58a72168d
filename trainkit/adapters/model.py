"""`Model`: a model and its loss as pure functions of a batch, with weights applied.

This module does not use Flax. An adapter for another library only needs `init` and `apply`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import named_leaves
from trainkit._core.validation.trees import differences
from trainkit.adapters.batches import LABELS, labels_of, weight_of
from trainkit.adapters.layers import layers_of
from trainkit.step.loss import Loss
from trainkit.step.precision import at_least_float32
from trainkit.step.state import TrainState

PyTree = Any


class Apply(Protocol):
    """`apply(params, model_state, inputs, rng, train) -> (outputs, model_state)`.

    The returned state may also contain the collections in `Model.sown`.
    """

    def __call__(
        self, params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]: ...


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and its loss. It is callable as the `loss_fn` of `make_train_step`.

    Attributes:
      init: `(rng, inputs) -> (params, model_state)`.
      apply: `(params, model_state, inputs, rng, train) -> (outputs, model_state)`.
      loss: `(outputs, batch) -> losses` or `(losses, metrics)`; a third parameter gets the sown
        values.
      inputs: batch -> arguments of the module.
      sown: names of the collections of sown values.
    """

    init: Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]
    apply: Apply
    loss: Callable[..., Any]
    inputs: Callable[[PyTree], PyTree]
    sown: tuple[str, ...] = ()

    def __call__(self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Loss:
        """The loss in training mode: dropout on, batch statistics updated."""
        loss, model_state = self._loss(params, model_state, batch, rng, train=True)
        return loss._replace(model_state=model_state)

    def evaluation(
        self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array
    ) -> Loss:
        """The loss in evaluation mode: no dropout, stored batch statistics, nothing updated."""
        return self._loss(params, model_state, batch, rng, train=False)[0]

    def _loss(
        self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array, train: bool
    ) -> tuple[Loss, PyTree]:
        outputs, new = self.apply(params, model_state, self.inputs(batch), rng, train=train)
        sown = {name: new[name] for name in self.sown if name in new}
        state = {name: leaf for name, leaf in new.items() if name not in sown} if sown else new
        return weighted(self.loss, outputs, batch, sown), state

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
        return layers_of(self.init, jax.random.key(0), self.inputs(batch))

    def state(
        self,
        tx: optax.GradientTransformation,
        batch: PyTree,
        rng: jax.Array | int = 0,
        *,
        params: PyTree | None = None,
        model_state: PyTree | None = None,
    ) -> TrainState:
        """The state before the first step.

        Args:
          tx: the gradient transformation.
          batch: an example; only shapes and dtypes matter.
          rng: a random key or a seed.
          params, model_state: pretrained values, with the structure, shapes and dtypes of the
            model; `None`: initialised by `init`.

        Raises:
          ValueError: the values are not those of the model; the message names the leaf.
        """
        key = jax.random.key(rng) if isinstance(rng, int) else rng
        for_params, for_steps = jax.random.split(key)
        inputs = self.inputs(batch)
        made = jax.eval_shape(self.init, for_params, inputs)
        given = (params, model_state)
        for name, own, other in zip(("params", "model_state"), given, made, strict=True):
            if own is not None:
                _fits(own, other, name)
        if params is None or (model_state is None and jax.tree.leaves(made[1])):
            fresh = jax.jit(self.init)(for_params, inputs)
        else:
            fresh = made
        params, model_state = (f if g is None else g for f, g in zip(fresh, given, strict=True))
        return TrainState.create(params, tx, model_state=model_state, rng=for_steps)


def weighted(
    loss: Callable[..., Any], outputs: PyTree, batch: PyTree, sown: PyTree | None = None
) -> Loss:
    """Σ wᵢ·ℓᵢ and Σ wᵢ over examples or tokens, with the weights of the batch."""
    about = labels_of(batch) if takes_labels(loss) else batch
    value = loss(outputs, about, sown) if takes_sown(loss) else loss(outputs, about)
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
            f"{name} has shape {jnp.shape(values)}; it must have one value per example, "
            f"[{examples}], or per example and position, [{examples}, …]: leave out the mean() or "
            "sum(), so that masked and uneven batches are weighted exactly."
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
    # An example of weight 0 is padding and is ignored, even if its loss is NaN.
    return jnp.where(weight == 0, 0, values * weight).sum(), weight.sum()


def _accuracy(outputs: Any, batch: PyTree) -> jax.Array | None:
    """1 where the largest output is the label's, for outputs [..., classes] and labels [...]."""
    labels = labels_of(batch, required=False)
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")):
        return None
    if not jnp.issubdtype(labels.dtype, jnp.integer) or outputs.shape[:-1] != labels.shape:
        return None
    return (outputs.argmax(-1) == labels).astype(jnp.float32)


def _fits(given: PyTree, made: PyTree, name: str) -> None:
    """Refuses values that do not have the structure, shapes and dtypes of the model."""
    for leaf, (a, b) in differences(named_leaves(given), named_leaves(made), dtypes=True).items():
        hint = "."
        if isinstance(given, Mapping) and set(given) == {"params"} and name == "params":
            hint = ': pass variables["params"], not all variables.'
        raise ValueError(f"{name}: {leaf!r} is {a}, but the model has {b}{hint}")
    own: Any = jax.tree.structure(given)
    if own != jax.tree.structure(made):
        raise ValueError(
            f"{name} has the model's leaves in another tree structure: {own}, not "
            f"{jax.tree.structure(made)}. Convert it by jax.tree.unflatten(jax.tree.structure("
            f"model.state(tx, batch).{name}), jax.tree.leaves({name}))."
        )


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    """The positional parameters of a function, in order."""
    try:
        found = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes_labels(loss: Callable[..., Any]) -> bool:
    """Whether the second parameter of the loss is named labels or targets, as in Optax."""
    found = _parameters(loss)
    return len(found) > 1 and found[1].name in LABELS


def takes_sown(loss: Callable[..., Any]) -> bool:
    """Whether the loss has a third parameter without a default."""
    found = _parameters(loss)
    return len(found) > 2 and found[2].default is inspect.Parameter.empty
