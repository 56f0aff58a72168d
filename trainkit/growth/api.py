"""What users call: `plan` and `grow`, and the two objects that they give back.

A `Plan` is data that say how one model's parameters become another's. `plan.realise(key)` draws
what is random and gives a `GrowthMap`, by which parameters, optimizer states, exact continuation
and the certificate all go.
"""
# Over 300 lines: most of them say what the arguments are of what users call.

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

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
from trainkit.growth.views.prune import prune
from trainkit.step.state import TrainState

PyTree = Any


class Plan(PlanData):
    """How one model's parameters become those of a wider or deeper one.

    `print(plan)` shows the table. Two plans are equal when they grow alike; a plan is hashable, and
    `Plan.from_json(plan.to_json()) == plan`. Its fields are those of
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
        """E experts become m·E, each m times side by side, without looking at the model: for those
        that `plan` refuses (dispatch by sorting, kernels without a rule).

        Exact where the big model chooses m·k experts for k, and gates are a softmax over all
        experts or over the chosen ones: the copies of an expert tie, are chosen together, and share
        its gate. Each copy's gradient is 1/m of the old one's, so that optimizer state and exact
        continuation follow as for any plan.

        Args:
          small_params, big_params: arrays or shapes; where they differ, they differ in the axis of
            the experts alone, which is E in one and m·E in the other.
          last: a regular expression for the parameters by which an expert ends (its output matrix
            and bias). Copies of these may differ in what `how` gives them without changing the
            function; without it copies stay equal, and no training separates them.

        Raises:
          GrowthError: other leaves, an axis that is no multiple, or two different ratios.

        >>> import jax.numpy as jnp
        >>> small = {"router": jnp.array([[1.0, 2.0]]), "down": jnp.ones((2, 3, 1))}
        >>> big = {"router": jnp.zeros((1, 4)), "down": jnp.zeros((4, 3, 1))}
        >>> Plan.of_experts(small, big).grow(small, how="even")["router"]
        Array([[1., 1., 2., 2.]], dtype=float32)
        """
        return cls.of(repeats(small_params, big_params, last=last))

    @classmethod
    def of_groups(cls, small_params: PyTree, big_params: PyTree) -> Self:
        """Key and value heads become m times as many for the same query heads.

        Exact where query head i of H reads key head i // (H / G), as grouped queries do: each key
        head is repeated, and each copy serves a part of the queries that the old one served. The
        copies' gradients therefore differ and only sum to the old one; moments are a best guess,
        the even one. To grow queries and groups together use `trainkit.growth.plan`.

        Args:
          small_params, big_params: arrays or shapes; where they differ, they differ in the axis of
            the key and value heads alone.

        Raises:
          GrowthError: other leaves, an axis that is no multiple, or two different ratios.

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
        """Every expert of a mixture becomes the dense layer: exact where gates sum to 1.

        Args:
          dense: the dense model's parameters, arrays or shapes.
          mixture: the mixture's. A leaf of shape (E, …) takes the dense leaf of shape (…) E times;
            one of the dense leaf's own shape takes it once; one that the dense model lacks (the
            router) is random, or what `like=` holds.
          names: path in the mixture -> path in the dense model. What is not named is the leaf of
            the same path, or else the one leaf that fits by shape and shares most of its path.

        Raises:
          GrowthError: a shape that fits neither way, or a dense leaf that goes nowhere.

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
        """Draws what is random: the maps and factors of every leaf.

        Args:
          key: a random key (`jax.random.key`); only "even" and "rms" do without.
          how: how copies of a unit are told apart, always without changing the function:
            "uneven" reads them with unequal shares; "noise" adds noise to the shares that sums to
            zero over the copies; "zero_out" reads the new copies with 0 and draws their own inputs
            at random; "even" leaves them equal, and they stay equal in training; "rms" changes the
            function: W[π]·√(d_in/d_in′), which keeps the scale of activations. Axes where a
            variant is impossible fall back to even copies: `table()` says which.

        Raises:
          ValueError: an unknown `how`, or one that draws without a key.
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
        """The big model's parameters, at once: `plan.realise(key, how).params(params, …)`."""
        options = {"donate": donate, "out_shardings": out_shardings, "like": like}
        return self.realise(key, how).params(params, **options)

    def mup(self) -> MuP:
        """The multipliers of the maximal-update parametrisation; see `growth.views.mup`."""
        return mup(self)

    def shrink(self, params: PyTree, **options: Any) -> PyTree:
        """The small model's parameters, of units chosen from those of the big one.

        Args:
          params: the big model's parameters.
          **options: `score`, `how`, `grads`, …: see `trainkit.growth.prune`, whose result also says
            what was kept and what was lost.

        Raises:
          GrowthError: `params` are not the big model's, or a score lacks what it needs.
        """
        return prune(self, params, **options).apply(params)

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

    Both functions are traced, not run; the two programs are joined into one, the axes that are
    coupled are found, and the scales are solved for, such that

        big_fn(plan.grow(small_params), *inputs) = small_fn(small_params, *inputs)

    holds for every value of parameters and inputs, in exact arithmetic. New layers are cut out of
    the big program first, once it is proved that they do nothing.

    Args:
      small_fn, big_fn: pure functions `fn(params, *inputs)` of one model at two sizes.
      small_params, big_params: pytrees of arrays or `jax.ShapeDtypeStruct`s. Where the big one has
        more layers (numbered keys, items of a list or tuple, siblings of one kind, or arrays
        stacked over the layers of a loop), these are added as `how` says.
      *inputs: what both functions are called with after the parameters: pytrees of arrays or
        `jax.ShapeDtypeStruct`s. Sizes of 1 may be traced differently: use 2 or more.
      append: (regular expression, axis) of parameters whose units are to stay where they are, with
        new ones behind them that copy none and are read with 0 (or make 0) at first. By itself
        this is done where copies are impossible: vocabularies, tables of positions, results, and
        what is summed over inside a non-linear function.
      how: what new layers are, if there are any; see `trainkit.growth.operators`. "identity": they
        do nothing at first: the last linear parameters of a residual branch are 0, a plain layer
        between ReLUs is an identity matrix or a Dirac kernel; which, is found in the program, and
        that they do nothing is proved on it. "stack", "interpose", "middle" and "last" copy old
        layers and change the function; the plan then is exact for all but the copies. "experts":
        the big model has a mixture where the small one has a dense layer, which every expert
        becomes; found by names and shapes, not proved (see `Plan.of_mixture`). "groups": key and
        value heads grow alone; not proved (see `Plan.of_groups`).
      trainable: which leaves of new layers may be set to 0 (not running statistics).

    Results may grow along an axis that nothing sums over (the logits of a larger vocabulary): their
    old entries lead and are exact. Indices into a table that grows count from its start.

    Returns:
      A `Plan`.

    Raises:
      GrowthError: the functions differ in more than sizes and layers, an axis would shrink, an
        axis cannot grow, or new layers cannot be identities; the error says where, and what to
        grow instead.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit import growth
    >>> def mlp(params, x):
    ...     return jax.nn.gelu(x @ params["in"]) @ params["out"]
    >>> def shapes(width):
    ...     return {"in": jax.ShapeDtypeStruct((3, width), jnp.float32),
    ...             "out": jax.ShapeDtypeStruct((width, 2), jnp.float32)}
    >>> p = growth.plan(mlp, mlp, shapes(4), shapes(8), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    >>> p.leaves[1].path, p.leaves[1].weight  # what reads a doubled axis is halved
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
    """The training state of a bigger model that goes on where the small one stands.

    Width and depth grow together: parameters, the model's own state (batch statistics), the
    optimizer's moments and averages of the parameters; step and random key are carried. All of it
    is one compiled program.

    Args:
      state: the small model's state; packed parameters and moments are grown by their tree, and
        packed again.
      small, big: Linen modules; NNX modules, classes or functions that make one; results of
        `trainkit.from_linen` or `from_nnx`; or plain functions `fn(params, *inputs)`, with
        `model_state` second if there is any.
      example: what the models are called with: an array, a tuple of arguments, or a batch. Arrays
        or `jax.ShapeDtypeStruct`s.
      tx: the transformation that `state.opt_state` belongs to.
      how: operators for width and depth by name; see `trainkit.growth.operators`. "preserve" keeps
        the function. A mixture of experts in the place of a dense layer is told by itself where
        the function is kept (the chosen gates sum to 1), and asked for by "experts".
      key: a random key or a seed; the same key, the same growth.
      big_params, big_model_state: arrays or shapes, for plain functions.
      slots, reset: see `trainkit.growth.opt_state.grow.grow_opt_state`.
      donate: whether the buffers of `state` are given up.
      out_shardings: where the grown state lives: a sharding or a `TrainState` of them.
      with_map: whether to give back (state, `GrowthMap`). The map is that of the tree
        `{"params": …, "model_state": …}`: its `certificate` takes the small state and the example,
        and `.under("params").exact(tx)` is the exact continuation of the grown state.

    Returns:
      The grown state, or (state, map).

    Raises:
      GrowthError: the big model cannot be grown from the small one; `state` is not the small
        model's; or an optimizer state is unknown.

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
    sizes = {"big_params": big_params, "big_model_state": big_model_state}
    options = {"slots": slots, "reset": reset, "donate": donate, "out_shardings": out_shardings}
    found, grown = train_state.grown(
        state, small, big, example, tx=tx, how=operator(how), key=key, **sizes, **options
    )
    return (grown, GrowthMap.of(found)) if with_map else grown
