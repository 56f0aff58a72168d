"""The public functions `plan` and `grow`, and the class `Plan`.

A `Plan` is data that say how one model's parameters become another's. `plan.realise(key)` draws the
random values and returns a `GrowthMap`, which grows parameters and optimizer states, and makes the
exact continuation and the certificate.
"""
# Over 300 lines: most of them document the arguments of public functions.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import jax
import optax

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit.growth import planning, train_state
from trainkit.growth.growth_map import GrowthMap
from trainkit.growth.maps.realise import realise
from trainkit.growth.operators import Operator, operator
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.data import How, PlanData
from trainkit.growth.plan.experts import upcycled
from trainkit.growth.plan.groups import repeats
from trainkit.growth.plan.json import from_json, to_json
from trainkit.growth.plan.table import table
from trainkit.growth.plan.validation import check_append
from trainkit.growth.views.mup import MuP, mup
from trainkit.growth.views.prune import Score, prune
from trainkit.step.state import TrainState

PyTree = Any


class Plan(PlanData):
    """How one model's parameters become those of a wider or deeper one.

    `print(plan)` shows a table. Two plans are equal if all leaves grow in the same way. A plan is
    hashable, and `Plan.from_json(plan.to_json()) == plan`. Its fields are those of
    `trainkit.growth.plan.data.PlanData`.
    """

    @classmethod
    def of(cls, data: PlanData) -> Self:
        """A plan from its data."""
        return cls(**{f.name: getattr(data, f.name) for f in dataclasses.fields(PlanData)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote, in this version or an earlier one.

        Raises:
          ValueError: the text is not such a plan.
        """
        return cls.of(from_json(text))

    @classmethod
    def of_experts(
        cls, small_params: PyTree, big_params: PyTree, *, last: str | None = None
    ) -> Self:
        """A plan that makes m neighbouring copies of each of E experts, without tracing the model.

        It is for models that `plan` refuses (dispatch by sorting, kernels without a rule). It is
        exact if the big model chooses m·k experts instead of k, and gates are a softmax over all
        experts or over the chosen ones. Then the copies of an expert have equal scores, are chosen
        together, and share its gate. Each copy's gradient is 1/m of the old one, so the optimizer
        state and exact continuation work as for any plan.

        Args:
          small_params, big_params: arrays or shapes. They may differ in the axis of the experts
            alone, which has size E in one and m·E in the other.
          last: a regular expression for the last parameters of an expert (its output matrix and
            bias). `how` may make copies of these unequal without changing the function. Without
            `last`, copies stay equal in training.

        Raises:
          GrowthError: the leaves differ, the size is not a multiple, or the ratios differ.

        >>> import jax.numpy as jnp
        >>> small = {"router": jnp.array([[1.0, 2.0]]), "down": jnp.ones((2, 3, 1))}
        >>> big = {"router": jnp.zeros((1, 4)), "down": jnp.zeros((4, 3, 1))}
        >>> Plan.of_experts(small, big).grow(small, how="even")["router"]
        Array([[1., 1., 2., 2.]], dtype=float32)
        """
        return cls.of(repeats(small_params, big_params, last=last))

    @classmethod
    def of_groups(cls, small_params: PyTree, big_params: PyTree) -> Self:
        """A plan that makes m copies of each key and value head, with the same query heads.

        It is exact if query head i of H uses key head i // (H / G), as in grouped-query attention.
        Each key head is repeated, and each copy serves a part of the old one's queries. The
        gradients of the copies differ, and only their sum is the old gradient. So moments are a
        best guess (even shares). To grow queries too, use `trainkit.growth.plan`.

        Args:
          small_params, big_params: arrays or shapes. They may differ in the axis of the key and
            value heads alone.

        Raises:
          GrowthError: the leaves differ, the size is not a multiple, or the ratios differ.

        >>> import jax.numpy as jnp
        >>> small, big = {"k": jnp.array([[1.0], [2.0]])}, {"k": jnp.zeros((4, 1))}
        >>> Plan.of_groups(small, big).grow(small, how="even")["k"].ravel()
        Array([1., 1., 2., 2.], dtype=float32)
        """
        return cls.of(repeats(small_params, big_params, calibrated=True))

    @classmethod
    def of_mixture(
        cls, dense: PyTree, mixture: PyTree, *, names: Mapping[str, str] | None = None
    ) -> Self:
        """A plan that copies a dense layer into every expert of a mixture.

        It is exact if the gates of the chosen experts sum to 1.

        Args:
          dense: the dense model's parameters, arrays or shapes.
          mixture: the mixture's parameters, arrays or shapes. A leaf of shape (E, …) holds E copies
            of the dense leaf of shape (…). A leaf of the same shape as the dense leaf is a copy of
            it. A leaf without a dense leaf (the router) is random, or the value in `like=`.
          names: path in the mixture -> path in the dense model. Other leaves are matched by equal
            paths, or else by shape and by the largest common part of the path.

        Raises:
          GrowthError: a shape fits in neither way, or a dense leaf is not used.

        Reference: Komatsuzaki et al., Sparse Upcycling, 2023.

        >>> import jax.numpy as jnp
        >>> dense = {"w": jnp.ones((2, 3))}
        >>> mixture = {"router": jnp.zeros((2, 4)), "w": jnp.zeros((4, 2, 3))}
        >>> Plan.of_mixture(dense, mixture).grow(dense, how="even", like=mixture)["w"].shape
        (4, 2, 3)
        """
        if names is not None:
            validation.mapping("names", names, "{'experts/up': 'up'}")
        trees = jax.tree.structure(dense), jax.tree.structure(mixture)
        old, new = (list(named_leaves(tree).items()) for tree in (dense, mixture))
        return cls.of(upcycled(old, new, trees, names or {}))

    def to_json(self) -> str:
        """The plan as JSON text."""
        return to_json(self)

    def realise(self, key: jax.Array | None = None, how: How = "uneven") -> GrowthMap:
        """Draws the random values: the maps and factors of every leaf.

        Args:
          key: a random key (`jax.random.key`); not needed for "even" and "rms".
          how: the symmetry-breaking operator. The first four keep the function.
            "uneven": outgoing weights are split over the copies of a unit in unequal shares.
            "noise": even shares, plus noise that sums to 0 over the copies.
            "zero_out": new copies get random incoming weights, and outgoing weights 0.
            "even": even shares; copies stay equal in training.
            "rms": W[π]·√(d_in/d_in′), with π the index map. It keeps the scale of activations, but
            changes the function.
            An axis for which an operator is impossible gets even copies; `table()` says which.

        Returns:
          A `GrowthMap`. Index maps and factors are host arrays; nothing is computed on a device.

        Raises:
          ValueError: an unknown `how`, or no key for an operator that is random.
        """
        return GrowthMap.of(realise(self, key, how))

    def grow(
        self,
        params: PyTree,
        *,
        key: jax.Array | None = None,
        how: How = "uneven",
        donate: bool = False,
        out_shardings: Any = None,
        like: PyTree = None,
    ) -> PyTree:
        """The big model's parameters: short for `plan.realise(key, how).params(params, …)`."""
        options = {"donate": donate, "out_shardings": out_shardings, "like": like}
        return self.realise(key, how).params(params, **options)

    def mup(self) -> MuP:
        """The multipliers of the maximal-update parametrisation; see `growth.views.mup`."""
        return mup(self)

    def shrink(
        self,
        params: PyTree,
        *,
        score: Score | Mapping[int, Any] = "magnitude",
        how: Literal["prune", "merge"] = "prune",
        grads: PyTree | None = None,
        activations: Mapping[int, Any] | None = None,
    ) -> PyTree:
        """The small model's parameters, made of the highest-scoring units of the big model.

        Args:
          params: the big model's parameters (arrays).
          score, how, grads, activations: as for `trainkit.growth.prune`, whose result also says
            which units were kept.

        Raises:
          GrowthError: `params` are not the big model's.
          ValueError: an unknown score, or a score without the gradients or activations it needs.
        """
        return prune(
            self, params, score=score, how=how, grads=grads, activations=activations
        ).apply(params)

    def table(self) -> str:
        """Plain text: leaf, shapes, axis groups, map, weight and gradient factor, bytes."""
        return table(self)

    def __str__(self) -> str:
        return self.table()


def plan(
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    small_params: PyTree,
    big_params: PyTree,
    *inputs: PyTree,
    append: Sequence[tuple[str, int]] = (),
    how: str | Operator = "identity",
    trainable: Callable[[str], bool] = lambda path: True,
) -> Plan:
    """Finds how the parameters of one model become those of a wider or deeper one.

    Both functions are traced, not run. Their programs are paired equation by equation, which finds
    the coupled axes. The scales of the parameters are solved for, such that

        big_fn(plan.grow(small_params), *inputs) = small_fn(small_params, *inputs)

    holds for every value of parameters and inputs, in exact arithmetic. New layers are removed from
    the big program first, after it is proved that they are identities.

    Args:
      small_fn, big_fn: pure functions `fn(params, *inputs)` of one model at two sizes.
      small_params, big_params: pytrees of arrays or `jax.ShapeDtypeStruct`s. If the big model has
        more layers, `how` says what they hold. Layers are numbered keys, items of a list or tuple,
        siblings with the same leaves, or arrays stacked over the layers of a loop.
      *inputs: the other arguments of both functions: pytrees of arrays or `jax.ShapeDtypeStruct`s.
        Use sizes of 2 or more, because JAX may trace sizes of 1 differently.
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
    more: dict[str, Any] = {"append": append, "how": how, "trainable": trainable}
    return Plan.of(planning.plan(small_fn, big_fn, small_params, big_params, *inputs, **more))


def grow(
    state: TrainState,
    small: Any,
    big: Any,
    example: Any,
    *,
    tx: optax.GradientTransformation,
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
      state: the small model's state. Packed parameters and moments are packed again afterwards.
      small, big: Linen modules; NNX modules, classes or factories; results of
        `trainkit.from_linen` or `from_nnx`; or plain functions `fn(params, *inputs)`, or
        `fn(params, model_state, *inputs)` if there is a model state.
      example: arguments of the models: an array, a tuple of arguments, or a batch. Arrays or
        `jax.ShapeDtypeStruct`s.
      tx: the transformation of `state.opt_state`.
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
    found, grown = train_state.grown(
        state,
        small,
        big,
        example,
        tx=tx,
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
