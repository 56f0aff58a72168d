"""`Model`: a model and its loss as pure functions of a batch, with weights applied.

This module does not use Flax. An adapter for another library only needs `init` and `apply`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.validation import steps
from trainkit.adapters.batches import labels_of, weight_of
from trainkit.adapters.labels import (
    class_labels,
    marks_of,
    refuse_labels,
    refuse_values,
    summed,
    wide,
    without_ignored,
)
from trainkit.adapters.layers import layers_of
from trainkit.adapters.validation import check_fits, takes_labels, takes_sown
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
    """A model and its loss as pure functions; callable as the `loss_fn` of `make_train_step`.

    Attributes:
      init: `(rng, inputs) -> (params, model_state)`.
      apply: `(params, model_state, inputs, rng, train) -> (outputs, model_state)`.
      loss: `(outputs, batch) -> losses` or `(losses, metrics)`; a third parameter gets the sown
        values.
      inputs: batch -> arguments of the module (a tree, a tuple, or a `Call`).
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
        steps.state(state)
        return self.apply(
            state.params, state.model_state, self.inputs(batch), state.rng, train=False
        )[0]

    def refuse(self, params: PyTree, model_state: PyTree, batch: PyTree) -> None:
        """Raises an error if parameters or labels do not fit this model; runs nothing.

        It explains why the loss could not be computed.
        """
        made = jax.eval_shape(self.init, jax.random.key(0), jax.eval_shape(self.inputs, batch))
        for name, own, other in zip(
            ("params", "model_state"), (params, model_state), made, strict=True
        ):
            check_fits(own, other, name, dtypes=False)
        refuse_labels(self._outputs(params, model_state, batch), batch)

    def refuse_values(
        self, params: PyTree, model_state: PyTree, batch: PyTree, data: PyTree = None
    ) -> None:
        """Raises ValueError or TypeError for invalid labels or weights of a batch or data set.

        It checks only arrays whose values this process can read.
        """
        outputs = self._outputs(params, model_state, batch)
        if data is None:
            refuse_values(batch, outputs)
        else:
            refuse_values(data, outputs, "data")

    def programs(
        self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array
    ) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The functions of the model and the loss, with arguments; they identify the model."""

        def run(params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Any:
            return self.apply(params, model_state, self.inputs(batch), rng, train=True)

        outputs, new = jax.eval_shape(run, params, model_state, batch, rng)
        sown = {name: new[name] for name in self.sown if name in new}
        loss = functools.partial(weighted, self.loss)
        return {
            "model": (run, (params, model_state, batch, rng)),
            "loss": (loss, (outputs, batch, sown)),
        }

    def _outputs(self, params: PyTree, model_state: PyTree, batch: PyTree) -> PyTree:
        """The shapes of the outputs."""

        def run(params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> PyTree:
            return self.apply(params, model_state, self.inputs(batch), rng, train=False)[0]

        return jax.eval_shape(run, params, model_state, batch, jax.random.key(0))

    def stacked(self, batch: PyTree) -> dict[str, int]:
        """The `stacked` of this model for rules that work leaf by leaf: its layers in scans.

        That is {regular expression for a leaf: number of leading layer axes}; {} without scans. It
        is found in the jaxpr of `init`, as for `flax.linen.scan`. It is {} for an NNX module, which
        is initialised already.

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
          batch: an example batch; only shapes and dtypes matter.
          rng: a random key or a seed.
          params, model_state: pretrained values, with the structure, shapes and dtypes of the
            model; `None`: initialised by `init`.

        Raises:
          ValueError: the given values do not fit the model; the message names the leaf.
        """
        validation.transformation(tx)
        for_params, for_steps = jax.random.split(validation.key_of("rng", rng))
        validation.leading_size(batch, "batch")
        steps.numeric(batch)
        inputs = self.inputs(batch)
        made = jax.eval_shape(self.init, for_params, inputs)
        given = (params, model_state)
        for name, own, other in zip(("params", "model_state"), given, made, strict=True):
            if own is not None:
                check_fits(own, other, name)
        if params is None or (model_state is None and jax.tree.leaves(made[1])):
            fresh = jax.jit(self.init)(for_params, inputs)
        else:
            fresh = made
        params, model_state = (f if g is None else g for f, g in zip(fresh, given, strict=True))
        return TrainState.create(params, tx, model_state=model_state, rng=for_steps)


def weighted(
    loss: Callable[..., Any], outputs: PyTree, batch: PyTree, sown: PyTree | None = None
) -> Loss:
    """The `Loss` Σ wᵢ·ℓᵢ, Σ wᵢ over examples or tokens, with the weights of the batch."""
    labels = class_labels(outputs, batch)
    losses, metrics = _values_and_metrics(loss, outputs, batch, labels, sown)
    marks = None if labels is None else marks_of(labels, outputs.shape[-1])
    total, count = _sum(losses, "loss", batch, marks)
    sums = {name: _sum(values, name, batch, marks) for name, values in metrics.items()}
    hits = _accuracy(outputs, batch)
    if hits is not None and "accuracy" not in sums:
        sums["accuracy"] = _sum(hits, "accuracy", batch, marks)
    return Loss(total, count, None, sums)


def _values_and_metrics(
    loss: Callable[..., Any], outputs: PyTree, batch: PyTree, labels: Any, sown: PyTree | None
) -> tuple[Any, Mapping[str, Any]]:
    """The values and the metrics of a loss."""

    def call(about: PyTree) -> tuple[Any, Mapping[str, Any]]:
        value = loss(outputs, about, sown) if takes_sown(loss) else loss(outputs, about)
        if isinstance(value, tuple) and len(value) != 2:
            raise TypeError(
                f"the loss must return its values, or a pair of these and a dict of metrics, not "
                f"{len(value)} values."
            )
        losses, metrics = value if isinstance(value, tuple) else (value, {})
        validation.mapping("the loss's metrics", metrics, "{'size': values}")
        return losses, metrics

    if not takes_labels(loss):
        return call(batch)
    if labels is None:
        return call(labels_of(batch))
    losses, metrics = call(without_ignored(labels))
    if jnp.shape(losses)[: labels.ndim] != labels.shape:
        return call(labels)  # the loss sums over positions, and skips labels, by itself
    return losses, metrics


def _sum(values: Any, name: str, batch: PyTree, marks: jax.Array | None) -> tuple[jax.Array, Any]:
    examples = jax.tree.leaves(batch)[0].shape[0]
    if not hasattr(values, "dtype") or jnp.ndim(values) == 0 or values.shape[0] != examples:
        found = f"shape {values.shape}" if hasattr(values, "shape") else f"the value {values!r}"
        raise ValueError(
            f"{name} has {found}; it must be one value per example, "
            f"[{examples}], or per example and position, [{examples}, …]: remove the mean() or "
            "sum(), so that masked and uneven batches can be weighted exactly."
        )
    if name == "loss" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"the loss must be floating, not {values.dtype}: it is differentiated.")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.float32)
    values = values.astype(at_least_float32(values.dtype))
    weight = weight_of(batch)
    if weight is not None and jnp.shape(weight) != values.shape[: jnp.ndim(weight)]:
        raise ValueError(
            f"the batch's weight has shape {jnp.shape(weight)}, but {name} has shape "
            f"{values.shape}; the weight must have the first axes of the loss."
        )
    return summed(values, batch, marks)


def _accuracy(outputs: Any, batch: PyTree) -> jax.Array | None:
    """float32 [...]: 1 where the largest of outputs [..., classes] is at the label, else 0."""
    labels = class_labels(outputs, batch)
    return None if labels is None else (outputs.argmax(-1) == wide(labels)).astype(jnp.float32)
