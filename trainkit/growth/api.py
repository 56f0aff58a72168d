"""The public functions `plan` and `grow`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from trainkit._core import validation
from trainkit.growth import planning, train_state
from trainkit.growth.growth_map import GrowthMap
from trainkit.growth.growth_plan import Plan
from trainkit.growth.operators import Operator, operator
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.inputs import NewInputs
from trainkit.growth.plan.validation import check_append, check_inputs

PyTree = Any


@validation.named_options
def plan(
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    small_params: PyTree,
    big_params: PyTree,
    *example: PyTree,
    inputs: NewInputs | None = None,
    append: Sequence[tuple[str, int]] = (),
    how: str | Operator = "identity",
    trainable: Callable[[str], bool] = lambda path: True,
) -> Plan:
    """Finds how the parameters of one model become those of a wider or deeper one.

    Both functions are traced, not run. Their programs are paired equation by equation, which finds
    the coupled axes. The scales of the parameters are solved for, such that

        big_fn(plan.grow(small_params), *example) = small_fn(small_params, *example)

    holds for every value of parameters and inputs, in exact arithmetic. New layers are removed from
    the big program first, after it is proved that they are identities.

    Args:
      small_fn, big_fn: pure functions `fn(params, *example)` of one model at two sizes.
      small_params, big_params: pytrees of arrays or `jax.ShapeDtypeStruct`s. If the big model has
        more layers, `how` says what they hold. Layers are numbered keys, items of a list or tuple,
        siblings with the same leaves, or arrays stacked over the layers of a loop.
      *example: the other arguments of both functions: pytrees of arrays or
        `jax.ShapeDtypeStruct`s. Use sizes of 2 or more, because JAX may trace sizes of 1
        differently.
      inputs: what the big model is called with, if it has more inputs than the small one: more
        channels, features or symbols. See `trainkit.growth.NewInputs`. Then the formula holds for
        `plan.new_inputs(*example)` in place of the example on the left.
      append: pairs (regular expression for paths, axis) of parameters whose old units keep their
        index. New units follow them that copy no old unit (padding units). Their incoming or
        outgoing weights are 0. Without `append` this happens where copies are impossible:
        vocabularies, position tables, results, and axes that are summed over inside a non-linear
        function.
      how: the operator for new layers; see `trainkit.growth.operators`. "identity": they start as
        identities. The last linear parameters of a residual branch are 0, or a plain layer between
        ReLUs is an identity matrix or a Dirac kernel. These parameters are found in the program,
        and the identity is proved. "stack", "interpose", "middle" and "last" copy old layers and
        change the function; the plan is exact except for the copies. "experts": the small model's
        dense layer becomes every expert of a mixture; found by names and shapes, not proved (see
        `Plan.of_mixture`). "groups": key and value heads grow alone; not proved (see
        `Plan.of_groups`).
      trainable: path -> whether a leaf of a new layer may be set to 0 (not running statistics).

    Results may grow along an axis that is never summed over (the logits of a larger vocabulary).
    Their old entries come first and are exact. Indices into a growing table count from its start.

    Returns:
      A `Plan`.

    Raises:
      GrowthError: the functions differ in more than sizes and layers, an axis would shrink, an
        axis cannot grow, or new layers cannot be identities. The error names the place, and what
        to grow instead.
      ValueError: a map of `inputs` is not injective, is out of range, or has the wrong size.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit import growth
    >>> def mlp(params, x):
    ...     return jax.nn.gelu(x @ params["in"]) @ params["out"]
    >>> def shapes(width):
    ...     return {"in": jax.ShapeDtypeStruct((3, width), jnp.float32),
    ...             "out": jax.ShapeDtypeStruct((width, 2), jnp.float32)}
    >>> p = growth.plan(mlp, mlp, shapes(4), shapes(8), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    >>> p.leaves[1].path, p.leaves[1].weight  # halved, because its input axis is doubled
    ('out', 0.5)
    """
    validation.function("trainable", trainable, "of a leaf's name, whether it may be 0", takes=1)
    check_append(append)
    check_inputs(inputs)
    more: dict[str, Any] = {"append": append, "how": how, "trainable": trainable, "new": inputs}
    return Plan.of(planning.plan(small_fn, big_fn, small_params, big_params, *example, **more))


@validation.named_options
def grow(
    state: Any,
    small: Any,
    big: Any,
    example: Any,
    *,
    tx: optax.GradientTransformation,
    inputs: NewInputs | None = None,
    how: str | Operator = "preserve",
    key: jax.Array | int = 0,
    big_params: PyTree | None = None,
    big_model_state: PyTree | None = None,
    slots: Slots | None = None,
    reset: bool | str | Sequence[str] = False,
    donate: bool = False,
    out_shardings: Any = None,
    with_map: bool = False,
) -> Any:
    """Grows a training state: the big model continues where the small one stopped.

    Width and depth grow together. One compiled program grows the parameters, the model state (batch
    statistics), the optimizer's moments and averages of the parameters. Step and random key stay.

    Args:
      state: the small model's state; also Flax's `TrainState` or a subclass of it, whose class the
        result has. Packed parameters and moments are packed again afterwards.
      small, big: Linen modules; NNX modules, classes or factories; results of
        `trainkit.from_linen` or `from_nnx`; or plain functions `fn(params, *inputs)`, or
        `fn(params, model_state, *inputs)` if there is a model state.
      example: arguments of the models: an array, a tuple of arguments, or a batch. Arrays or
        `jax.ShapeDtypeStruct`s.
      tx: the transformation of `state.opt_state`.
      inputs: what `big` is called with, if it has more inputs; see `trainkit.growth.NewInputs`.
      how: operators for width and depth by name; see `trainkit.growth.operators`. "preserve" keeps
        the function. A mixture of experts in place of a dense layer is accepted if the outputs stay
        the same (the chosen gates sum to 1), and in any case with "experts".
      key: a random key or a seed. The same key gives the same growth.
      big_params, big_model_state: arrays or shapes, for plain functions.
      slots, reset: see `trainkit.growth.opt_state.grow.grow_opt_state`.
      donate: whether to delete the buffers of `state`.
      out_shardings: a sharding, or a `TrainState` of shardings, for the grown state.
      with_map: whether to return (state, `GrowthMap`). The map is that of the tree
        `{"params": …, "model_state": …}`. Its `certificate` takes the small state and the example,
        and `.under("params").exact(tx)` is the exact continuation of the grown state.

    Returns:
      The grown state, or (state, map). Dtypes are those of the small model.

    Raises:
      GrowthError: the big model cannot be grown from the small one, `state` is not the small
        model's, or the class of an optimizer state is unknown.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
    >>> from trainkit import TrainState
    >>> class Net(nn.Module):
    ...     width: int
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = nn.relu(nn.Dense(self.width)(x))
    ...         return nn.Dense(2)(x)
    >>> x, tx = jnp.ones((4, 3)), optax.adam(1e-3)
    >>> state = TrainState.create(Net(4).init(jax.random.key(0), x)["params"], tx)
    >>> grown = grow(state, Net(4), Net(6), x, tx=tx)
    >>> grown.params["Dense_0"]["kernel"].shape, grown.opt_state[0].mu["Dense_1"]["kernel"].shape
    ((3, 6), (6, 2))
    """
    validation.flag("with_map", with_map, "grow")
    check_inputs(inputs)
    found, grown = train_state.grown_state(
        state,
        small,
        big,
        example,
        tx=tx,
        new=inputs,
        how=operator(how),
        key=key,
        big_params=big_params,
        big_model_state=big_model_state,
        donate=donate,
        out_shardings=out_shardings,
        slots=slots,
        reset=reset,
    )
    return (grown, GrowthMap.of(found)) if with_map else grown
