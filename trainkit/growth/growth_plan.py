"""The public class `Plan`: how one model becomes another, and what can be done with that.

A `Plan` is data. `plan.realise(key)` draws the random values and returns a `GrowthMap`, which grows
parameters and optimizer states, and makes the exact continuation and the certificate.
"""
# Over 300 lines: the methods of one class, and most of them are documentation.

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import jax

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit.growth.growth_map import GrowthMap
from trainkit.growth.maps.inputs import new_inputs
from trainkit.growth.maps.realise import realise
from trainkit.growth.plan.data import How, PlanData
from trainkit.growth.plan.experts import upcycled
from trainkit.growth.plan.groups import repeats
from trainkit.growth.plan.json import from_json, to_json
from trainkit.growth.plan.table import table
from trainkit.growth.views.explanation import explain
from trainkit.growth.views.mup import MuP, mup
from trainkit.growth.views.picture import draw
from trainkit.growth.views.prune import Score, prune

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
        cls,
        small_params: PyTree,
        big_params: PyTree,
        *,
        last: str | None = None,
        use: Any = None,
    ) -> Self:
        """A plan that makes m neighbouring copies of each of E experts, without tracing the model.

        It is for models that `plan` refuses (dispatch by sorting, kernels without a rule). It is
        exact if the big model chooses m·k experts instead of k, and gates are a softmax over all
        experts or over the chosen ones. Then the copies of an expert have equal scores, are chosen
        together, and share its gate. Each copy's gradient is 1/m of the old one, so the optimizer
        state and exact continuation work as for any plan.

        Args:
          small_params, big_params: arrays or shapes. They may differ in the axis of the experts
            alone, which has size E in one and m·E in the other. With `use`, E grows to any size.
          last: a regular expression for the last parameters of an expert (its output matrix and
            bias). `how` may make copies of these unequal without changing the function. Without
            `last`, copies stay equal in training.
          use: how much each expert is used: the number of tokens that it was chosen for
            (float[E]), or the gradients of a loss, a tree like `small_params`, for the utility
            Σ g² of each expert. Experts that are used more get more copies, such that the largest
            use of a copy is as small as possible. The plan holds the numbers of copies. Every copy
            is exact, and the router has equal columns for the copies of an expert. The model is
            exact if it chooses one expert (k = 1) and its gate does not depend on the scores of
            the others, or is divided by the sum of the chosen gates: the first copy is chosen,
            until noise on the router or a balancing bias tells copies apart. Otherwise a chosen
            expert takes two of k places, or counts twice in a softmax over all experts; the
            certificate measures the change. Gradients of the copies are a best guess.

        Raises:
          GrowthError: the leaves differ, the size is not a multiple, the ratios differ, or `use` is
            not of this model.
          ValueError: both `last` and `use` are given.

        >>> import jax.numpy as jnp
        >>> small = {"router": jnp.array([[1.0, 2.0]]), "down": jnp.ones((2, 3, 1))}
        >>> big = {"router": jnp.zeros((1, 4)), "down": jnp.zeros((4, 3, 1))}
        >>> Plan.of_experts(small, big).grow(small, how="even")["router"]
        Array([[1., 1., 2., 2.]], dtype=float32)
        >>> Plan.of_experts(small, big, use=[0.8, 0.2]).grow(small, how="even")["router"]
        Array([[1., 1., 1., 2.]], dtype=float32)
        """
        if last is not None and use is not None:
            raise ValueError(
                "give last= or use=: unequal copies are exact only if all copies of a chosen "
                "expert are used together, and with use= they are not"
            )
        return cls.of(repeats(small_params, big_params, last=last, use=use))

    @classmethod
    def of_groups(cls, small_params: PyTree, big_params: PyTree) -> Self:
        """A plan that makes m copies of each key and value head, with the same query heads.

        It is exact if query head i of H uses key head i // (H / G), as in grouped-query attention.
        Each key head is repeated, and each copy serves a part of the old one's queries. The
        gradients of the copies differ, and only their sum is the old gradient. So moments are a
        best guess (even shares). To grow queries too, use `trainkit.growth.plan`. Where one axis
        holds heads and their size, use it too, with `how="groups"`: it reads the size of a head
        from the model. `trainkit.growth.grow` also compares outputs.

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

    def realise(self, key: jax.Array | int | None = None, how: How = "uneven") -> GrowthMap:
        """Draws the random values: the maps and factors of every leaf.

        Args:
          key: a random key or a seed; not needed for "even" and "rms".
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
          TypeError: `key` is neither.
          ValueError: an unknown `how`, or no key for an operator that is random.
        """
        return GrowthMap.of(realise(self, key, how))

    def grow(
        self,
        params: PyTree,
        *,
        key: jax.Array | int | None = None,
        how: How = "uneven",
        donate: bool = False,
        out_shardings: Any = None,
        like: PyTree = None,
    ) -> PyTree:
        """The big model's parameters: short for `plan.realise(key, how).params(params, …)`."""
        options = {"donate": donate, "out_shardings": out_shardings, "like": like}
        return self.realise(key, how).params(params, **options)

    def new_inputs(self, *inputs: PyTree, key: jax.Array | int = 0) -> tuple[PyTree, ...]:
        """Inputs of the big model that stand for inputs of the small one.

        Old entries are at their new places, and symbols have their new numbers. On these inputs,
        the grown model computes what the small one computes. To a data set, add the true values of
        the new entries instead.

        Args:
          *inputs: the arguments of the small model after its parameters, arrays.
          key: for the new entries, which are standard normal (0 for whole numbers, and for
            `NewInputs(new="zero")`).

        Raises:
          GrowthError: these are not the inputs of the plan.

        >>> import jax, jax.numpy as jnp
        >>> from trainkit import growth
        >>> net = lambda p, x: jnp.tanh(x @ p["in"])
        >>> draw = lambda n: {"in": jnp.ones((n, 2))}
        >>> wide = growth.NewInputs(jnp.ones((5, 4)), places={("0", 1): (0, 1, 3)})
        >>> plan = growth.plan(net, net, draw(3), draw(4), jnp.ones((5, 3)), inputs=wide)
        >>> x = jnp.arange(3.0)[None].repeat(5, 0)
        >>> plan.new_inputs(x)[0][0, jnp.array([0, 1, 3])].tolist()
        [0.0, 1.0, 2.0]
        """
        return new_inputs(self, inputs, validation.key_of("key", key))

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

    def explain(self, leaf: str) -> str:
        """Says in words why leaves grow as they do.

        It names the lines of the model that use the leaf, the parameters that write and read each
        axis, what new units hold, and what the factor comes from.

        Args:
          leaf: the path of a leaf, or a regular expression for some.

        Raises:
          ValueError: no leaf has such a path; the nearest one is named.

        >>> import jax, jax.numpy as jnp
        >>> from trainkit import growth
        >>> net = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
        >>> draw = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
        >>> plan = growth.plan(net, net, draw(4), draw(8), jnp.ones((5, 3)))
        >>> print(plan.explain("out"))  # doctest: +ELLIPSIS
        out: 4×2 → 8×2, float32
          used at ...
          axis 0, 4 → 8 (repeat): the copies of a unit are neighbours
            this leaf reads these units
            written by in[1]; read by out[0]
            its weights are split over the copies of a unit: their shares add up to 1
          axis 1 (2) does not grow
          factor 0.5 = 1/2 on its weights (split over 2 copies)
        """
        return explain(self, leaf)

    def draw(
        self,
        *,
        leaves: Sequence[str] | None = None,
        names: Mapping[tuple[int, int], str] | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Draws the parameters: each edge has the colour of the axis that grows along it.

        Args:
          leaves: paths in the order to draw; `None`: all. Layers that grow alike are drawn once.
          names: (size before, size after) of an axis -> its name in the legend.
          path: the file for the picture, whose suffix is the format; `None`: not saved.

        Returns:
          The Matplotlib figure. No window is opened.

        Raises:
          ValueError: the plan has no such leaf.
        """
        return draw(self, leaves=leaves, names=names, path=path)

    def __str__(self) -> str:
        return self.table()
