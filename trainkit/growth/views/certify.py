"""Certifies a growth by measurements on the small and the grown model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.cost import count_flops
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.expert_axis import lifted
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.inputs import new_inputs, old_first
from trainkit.growth.plan.data import PlanData
from trainkit.growth.plan.validation import check_tx
from trainkit.growth.views import measures
from trainkit.growth.views.certificate import Certificate
from trainkit.growth.views.outputs import concrete, leading, relative_change
from trainkit.growth.views.vocabulary import leaked_mass
from trainkit.growth.views.warnings import warnings
from trainkit.step.state import TrainState

PyTree = Any
Fn = Callable[..., PyTree]


class TrainedModel(NamedTuple):
    """A model with its training state.

    Attributes:
      fn: `fn({"params": …, "model_state": …}, *inputs)`.
      state: its training state, unpacked.
    """

    fn: Fn
    state: TrainState

    @property
    def variables(self) -> PyTree:
        """The first argument of `fn`."""
        return {"params": self.state.params, "model_state": self.state.model_state}


def certify(
    growth: MapData,
    before: TrainedModel,
    after: TrainedModel,
    inputs: tuple[Any, ...],
    tx: optax.GradientTransformation,
    *,
    steps: int = 3,
    seed: int = 0,
) -> Certificate:
    """Measures a growth, with a random linear functional of the outputs as loss.

    Args:
      growth: the map of the parameters.
      before, after: the small model, and the grown one.
      inputs: arguments of both, arrays or shapes.
      tx: the transformation of the run.
      steps: probe steps of `tx` after which copies are compared (at least 2).
      seed: for the functional, and for inputs that are shapes.

    Raises:
      GrowthError: `tx` is not the transformation of the states.
    """
    check_tx(tx)
    for side in (before, after):
        _check_state(tx, side.state)
    rng = np.random.default_rng(seed)
    inputs = jax.tree.map(lambda x: concrete(x, rng), inputs)
    after = _called(growth.plan, after, seed)
    probe = _Probe(growth, before, after, inputs, tx, rng)
    with jax.numpy_dtype_promotion("standard"):
        found = probe.run(max(steps, 2))
        forward = _forward(before, after, inputs)
        apart = measures.apart(found.params, growth)
        texts = (
            *_leaks(before, after, inputs),
            *warnings(tx, before.state.params, forward, apart, found.steep),
        )
    size = lambda tree: sum(int(x.size) for x in jax.tree.leaves(tree))
    return Certificate(
        forward_error=forward,
        gradient_residual=found.residual,
        calibrated=tuple(n for n, how in growth.leaves.items() if not how.exact_gradient),
        fresh=measures.fresh(after.state.params, growth),
        new_layers=growth.new,
        zeroed=growth.zeroed,
        dead=measures.dead(found.second, growth),
        replica_distance=apart,
        update_norm=(found.predicted, found.actual),
        flops=(_flops(before, inputs), _flops(after, inputs)),
        parameters=(size(before.state.params), size(after.state.params)),
        bytes=(_bytes(before.state), _bytes(after.state)),
        warnings=texts,
    )


def _called(plan: PlanData | None, after: TrainedModel, seed: int) -> TrainedModel:
    """The big model as a function of the small one's inputs, with old entries of results first."""
    if plan is None or not (plan.inputs or plan.symbols or plan.results):
        return after

    def fn(variables: PyTree, *inputs: PyTree) -> PyTree:
        wide = new_inputs(plan, inputs, jax.random.key(seed))
        return old_first(plan, after.fn(variables, *wide))

    return after._replace(fn=fn)


class _Found(NamedTuple):
    """Results of the probe steps: the last parameters, the gradients of the second step, the
    predicted and the actual norm of the first update, the error of the gradient factors, and the
    leaves with steep gradients at the first step."""

    params: PyTree
    second: PyTree
    predicted: float
    actual: float
    residual: float
    steep: dict[str, float]


class _Probe:
    """A few steps of the grown model, and the first step of the small one.

    It runs few, large programs, because a growth is often certified while the model trains on the
    same processor, and every separate operation would be a separate compilation.
    """

    def __init__(
        self,
        growth: MapData,
        before: TrainedModel,
        after: TrainedModel,
        inputs: tuple[Any, ...],
        tx: optax.GradientTransformation,
        rng: np.random.Generator,
    ):
        self.growth, self.before, self.after = growth, before, after
        self.inputs, self.tx = inputs, tx
        outputs = jax.eval_shape(before.fn, before.variables, *inputs)
        self.weights = jax.tree.map(lambda o: rng.normal(size=o.shape), outputs)
        grown = jax.eval_shape(after.fn, after.variables, *inputs)
        self.wider = jax.tree.map(jnp.shape, self.weights) != jax.tree.map(jnp.shape, grown)

    def loss(self, side: TrainedModel, whole: bool = False) -> Callable[[PyTree], jax.Array]:
        """A functional of the outputs; `whole` includes new entries of outputs."""

        def value(params: PyTree) -> jax.Array:
            variables = {"params": params, "model_state": side.state.model_state}
            out = side.fn(variables, *self.inputs)
            parts = jax.tree.map(
                # Non-linear, so that the gradient depends on the outputs.
                lambda o, w: jnp.mean(jnp.sin(leading(o, w)) * jnp.asarray(w, o.dtype)),
                out,
                self.weights,
            )
            total = sum(jax.tree.leaves(parts), jnp.zeros(()))
            if whole:  # units that only new entries depend on are not dead
                total += sum(jnp.mean(jnp.sin(o)) for o in jax.tree.leaves(out))
            return total

        return value

    def run(self, steps: int) -> _Found:
        """Runs the probe steps."""
        growth, tx, after = self.growth, self.tx, self.after

        @jax.jit
        def small_side(state: Any) -> tuple[PyTree, PyTree]:
            g = jax.grad(self.loss(self.before))(state.params)
            return g, tx.update(g, state.opt_state, state.params)[0]

        @jax.jit
        def expected(g: PyTree, update: PyTree) -> tuple[dict[str, jax.Array], jax.Array]:
            g, update = lifted(g, growth), lifted(update, growth)
            params = after.state.params
            return (
                measures.expected_gradients(g, params, growth),
                measures.predicted_norm(update, params, growth),
            )

        @jax.jit
        def step(params: PyTree, opt_state: PyTree, grads: PyTree) -> tuple[Any, ...]:
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, optax.tree.norm(updates)

        big_grad = jax.jit(jax.grad(self.loss(after)))
        probe = jax.jit(jax.grad(self.loss(after, True))) if self.wider else big_grad
        g, small_update = small_side(self.before.state)
        copied, predicted = expected(g, small_update)
        params, opt_state = after.state.params, after.state.opt_state
        grads = big_grad(params)
        residual = measures.residual(g, grads, copied, growth)
        steep = measures.steep(grads, growth)
        gradients, norms = [], []
        for _ in range(steps):
            gradients.append(grads)
            params, opt_state, norm = step(params, opt_state, grads)
            norms.append(norm)
            grads = probe(params)
        return _Found(params, gradients[1], float(predicted), float(norms[0]), residual, steep)


def _check_state(tx: optax.GradientTransformation, state: TrainState) -> None:
    try:
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(tx.update, state.params, state.opt_state, state.params)
    except Exception as error:
        raise GrowthError(
            f"tx does not accept the grown state: {type(error).__name__}: {error}",
            hint="pass the transformation of the state that was grown",
        ) from error


def _forward(
    before: TrainedModel, after: TrainedModel, inputs: tuple[Any, ...]
) -> dict[str, float]:
    own = {str(x.dtype) for x in jax.tree.leaves(before.state.params)}
    errors = {}
    for dtype in dict.fromkeys([*sorted(own), "bfloat16"]):
        cast = lambda t, d=dtype: jax.tree.map(
            lambda x: x.astype(d) if jnp.issubdtype(x.dtype, jnp.floating) else x, t
        )
        try:
            a, b = (jax.jit(s.fn)(cast(s.variables), *cast(inputs)) for s in (before, after))
        except TypeError:  # numbers of another precision, with which it runs in its own alone
            if dtype in own:
                raise
            continue
        errors[dtype] = relative_change(a, b)
    return errors


def _leaks(before: TrainedModel, after: TrainedModel, inputs: tuple[Any, ...]) -> list[str]:
    """Warnings on the probability of new entries, for outputs that have grown at their end."""
    old, new = (
        jax.tree.leaves(jax.eval_shape(s.fn, s.variables, *inputs)) for s in (before, after)
    )
    wider = [
        i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a.shape[-1:] != b.shape[-1:]
    ]
    if not wider:
        return []
    outputs = jax.tree.leaves(jax.jit(after.fn)(after.variables, *inputs))
    found = []
    for a, b in ((old[i], outputs[i]) for i in wider):
        share = float(leaked_mass(b, a.shape[-1]))
        found.append(
            f"an output has {a.shape[-1]} → {b.shape[-1]} entries. The old ones are kept, and if "
            f"they are logits, {100 * share:.2g} % of the probability goes to the new ones"
        )
    return found


def _flops(side: TrainedModel, inputs: tuple[Any, ...]) -> float:
    spec = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    return float(count_flops(side.fn, jax.tree.map(spec, side.variables), *inputs))


def _bytes(state: TrainState) -> int:
    trees = (state.params, state.model_state, state.opt_state)
    return sum(int(x.nbytes) for x in jax.tree.leaves(trees) if hasattr(x, "nbytes"))
