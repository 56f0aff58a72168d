"""`Model`: a model and its loss as pure functions of a batch, with weights applied.

This module does not use Flax. An adapter for another library only needs `init` and `apply`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.validation import steps
from trainkit.adapters.batches import Key, elements, read_by
from trainkit.adapters.labels import no_classes, refuse_values
from trainkit.adapters.layers import layers_of
from trainkit.adapters.targets import Part, Targets, targets_of
from trainkit.adapters.validation import check_fits, takes_labels
from trainkit.adapters.weighing import weighted
from trainkit.step.loss import Loss
from trainkit.step.state import TrainState

PyTree = Any


class Apply(Protocol):
    """`apply(params, model_state, inputs, rng, train) -> (outputs, model_state)`.

    The returned state may also contain the collections in `Model.sown`.
    """

    def __call__(
        self, params: PyTree, model_state: PyTree, inputs: PyTree, rng: jax.Array, train: bool
    ) -> tuple[PyTree, PyTree]: ...


def _nothing(batch: PyTree) -> None:
    """Labels or weights of a batch that has none."""


def _fails(
    loss: Callable[..., Any], outputs: PyTree, batch: PyTree, sown: PyTree, labels: PyTree
) -> bool:
    """Whether a loss cannot be computed with labels of this shape and dtype."""
    run = lambda outputs, batch, sown, labels: weighted(loss, outputs, batch, Targets(labels), sown)
    try:
        jax.eval_shape(run, outputs, batch, sown, labels)
    except Exception:
        return True
    return False


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
      labels, weights: where they are in a batch, as in `trainkit.from_linen`.
    """

    init: Callable[[jax.Array, PyTree], tuple[PyTree, PyTree]]
    apply: Apply
    loss: Callable[..., Any]
    inputs: Callable[[PyTree], PyTree]
    sown: tuple[str, ...] = ()
    labels: Part = None
    weights: Part = None

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
        sown = self._sown(new)
        state = {name: leaf for name, leaf in new.items() if name not in sown} if sown else new
        return self._weighted(outputs, batch, sown), state

    def targets(self, batch: PyTree, outputs: PyTree) -> Targets:
        """The labels and the weights of a batch, given its outputs or their shapes."""
        return self._targets(batch, outputs, read_by(self.inputs, batch))

    def _targets(self, batch: PyTree, outputs: PyTree, claimed: frozenset[Key]) -> Targets:
        return targets_of(
            batch,
            outputs,
            claimed,
            labels=self.labels,
            weights=self.weights,
            takes_labels=takes_labels(self.loss),
        )

    def predict(self, state: TrainState, batch: PyTree) -> PyTree:
        """The outputs in evaluation mode."""
        steps.state(state)
        return self.apply(
            state.params, state.model_state, self.inputs(batch), state.rng, train=False
        )[0]

    def refuse(self, params: PyTree, model_state: PyTree, batch: PyTree) -> None:
        """Raises an error if it is parameters or labels that the loss could not be computed with.

        It runs nothing. Where the module has outputs, the parameters are not the cause; and labels
        are, where the loss can be computed with classes in their place.
        """
        try:
            outputs, sown = self._outputs(params, model_state, batch)
        except Exception:
            self._refuse_variables(params, model_state, batch)
            return
        if not takes_labels(self.loss):
            return
        targets = self.targets(batch, outputs)
        error = no_classes(outputs, targets)
        if error is None:
            return
        classes = jax.ShapeDtypeStruct(outputs.shape[:-1], np.int32)
        fails = functools.partial(_fails, self.loss, outputs, batch, sown)
        if fails(targets.labels) and not fails(classes):
            raise error

    def _refuse_variables(self, params: PyTree, model_state: PyTree, batch: PyTree) -> None:
        made = jax.eval_shape(self.init, jax.random.key(0), jax.eval_shape(self.inputs, batch))
        for name, own, other in zip(
            ("params", "model_state"), (params, model_state), made, strict=True
        ):
            check_fits(own, other, name, dtypes=False)

    def refuse_values(
        self, params: PyTree, model_state: PyTree, batch: PyTree, data: PyTree = None
    ) -> None:
        """Raises ValueError or TypeError for invalid labels or weights of a batch or data set.

        It checks only arrays whose values this process can read, and of a whole data set only
        those that `labels` and `weights` do not compute.
        """
        outputs, _ = self._outputs(params, model_state, batch)
        if data is None:
            refuse_values(self.targets(batch, outputs), outputs)
            return
        if elements(data).keys() != elements(batch).keys():
            return  # batches are made of these data, and not parts of them
        size = validation.leading_size(data, "data")
        whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), outputs)
        computed = callable(self.weights)  # which labels weigh 0 is not known
        labels = _nothing if computed or callable(self.labels) else self.labels
        weights = _nothing if computed else self.weights
        model = dataclasses.replace(self, labels=labels, weights=weights)
        claimed = read_by(self.inputs, batch)  # of a batch: a function may be made for its size
        refuse_values(model._targets(data, whole, claimed), whole, "data")

    def programs(
        self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array
    ) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
        """The functions of the model and the loss, with arguments; they identify the model."""

        def run(params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Any:
            return self.apply(params, model_state, self.inputs(batch), rng, train=True)

        outputs, new = jax.eval_shape(run, params, model_state, batch, rng)
        sown = self._sown(new)
        return {
            "model": (run, (params, model_state, batch, rng)),
            "loss": (self._weighted, (outputs, batch, sown)),
        }

    def _weighted(self, outputs: PyTree, batch: PyTree, sown: PyTree) -> Loss:
        return weighted(self.loss, outputs, batch, self.targets(batch, outputs), sown)

    def _outputs(self, params: PyTree, model_state: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        """The shapes of the outputs and of the sown values."""

        def run(params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> PyTree:
            out, new = self.apply(params, model_state, self.inputs(batch), rng, train=False)
            return out, self._sown(new)

        return jax.eval_shape(run, params, model_state, batch, jax.random.key(0))

    def _sown(self, new: PyTree) -> PyTree:
        """The sown values in the state that `apply` returns."""
        return {name: new[name] for name in self.sown if name in new}

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
