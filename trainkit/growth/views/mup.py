"""The maximal-update parametrisation, from the axes that a plan found.

An axis over which a parameter is contracted is its fan-in. Any other axis that grows is its
fan-out. They grow by the factors m_in and m_out, and the multipliers are

    leaf                         init std   Adam lr   SGD lr
    input, bias, norm (m_in = 1)     1         1       m_out
    hidden                       m_in^-1/2   1/m_in   m_out/m_in
    output (m_out = 1)            1/m_in     1/m_in    1/m_in

relative to the small model. A learning rate that is tuned on the small model then fits the big one.

Yang, Hu et al., Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter
Transfer, 2022, table 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.kernel import arithmetic
from trainkit.growth.plan.data import LeafPlan, PlanData
from trainkit.growth.plan.trees import big_tree
from trainkit.growth.plan.validation import check_params

PyTree = Any
Kind = Literal["input", "hidden", "output", "tied", "fixed"]
Rule = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True)
class LeafMuP:
    """The multipliers of one leaf, relative to the small model.

    Attributes:
      kind: "input" (also biases and norms), "hidden", "output", "tied" (an input weight that is
        also the output weight) or "fixed" (no axis grows).
      fan_in, fan_out: m_in and m_out.
      init: factor on the standard deviation of the initial values.
      adam: factor on the learning rate under Adam, AdamW, Lion, RMSProp and their like.
      sgd: factor on the learning rate under SGD and momentum.
    """

    kind: Kind
    fan_in: float
    fan_out: float
    init: float
    adam: float
    sgd: float


@dataclasses.dataclass(frozen=True)
class MuP:
    """The multipliers of every leaf; `print` shows a table.

    Attributes:
      leaves: path -> `LeafMuP`.
      attention: for each axis over which two activations are contracted (queries with keys): its
        sizes "8→16" -> the factor √(d/d′) on their product. It turns the usual 1/√d of attention
        into 1/d.
      outputs: path of a tied leaf -> the factor 1/m on the logits, which its weight cannot contain.
    """

    leaves: Mapping[str, LeafMuP]
    attention: Mapping[str, float]
    outputs: Mapping[str, float]
    plan: PlanData = dataclasses.field(repr=False)

    def scale(self, rule: Rule = "adam") -> optax.GradientTransformation:
        """A transformation that multiplies each leaf's update by its factor; the last in a chain.

        It also multiplies decoupled weight decay that comes before it.

        Args:
          rule: "adam" or "sgd", the kind of the rule before it.

        Raises:
          ValueError: another `rule`.
          GrowthError: (in `update`) a leaf is not in the plan.
        """
        if rule not in ("adam", "sgd"):
            raise ValueError(
                f"rule={rule!r} must be 'adam' (also AdamW, Lion, RMSProp) or 'sgd' (also momentum)"
            )
        factor = {path: getattr(leaf, rule) for path, leaf in self.leaves.items()}

        def update(updates, state, params=None):
            del params

            def one(path, u):
                name = path_name(path)
                if name not in factor:
                    raise GrowthError(
                        f"{name} is not a leaf of the plan", params=[name],
                        hint="make a plan for the parameters that are trained",
                    )  # fmt: skip
                return u if factor[name] == 1.0 else u * jnp.asarray(factor[name], u.dtype)

            return jax.tree_util.tree_map_with_path(one, updates), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    def init(self, params: PyTree, key: jax.Array | int) -> PyTree:
        """New initial parameters of the big model.

        Args:
          params: initial parameters of the small model. The root mean square of each leaf is
            multiplied by `init`. For vectors (biases, norm scales) the mean is kept.
          key: a random key or a seed.

        Returns:
          A tree with the big model's shapes, normally distributed, with the dtypes of `params`.

        Raises:
          GrowthError: `params` are not those of the plan.
        """
        check_params(self.plan, params)
        shapes = {leaf.path: leaf.big for leaf in self.plan.leaves}
        keys = iter(jax.random.split(validation.key_of("key", key), len(shapes)))

        def one(name, w):
            own = next(keys)
            if not jnp.issubdtype(w.dtype, jnp.inexact):
                return jnp.broadcast_to(w.reshape(-1)[0], shapes[name])
            wide = arithmetic(w.dtype)
            values = w.astype(wide)
            # A sample mean other than 0 would be summed coherently over a wider axis.
            mean = jnp.mean(values) if w.ndim < 2 else jnp.zeros((), wide)
            std = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(values - mean))))
            drawn = jax.random.normal(own, shapes[name], wide)
            std = std.astype(wide) * jnp.asarray(self.leaves[name].init, wide)
            return (mean + std * drawn).astype(w.dtype)

        tree = big_tree(self.plan)
        if tree is None:
            return jax.tree_util.tree_map_with_path(lambda at, w: one(path_name(at), w), params)
        old = named_leaves(params)
        leaves = [one(x.path, _source(x, old)) for x in self.plan.leaves]
        return jax.tree.unflatten(tree, leaves)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("leaf", "kind", "fan-in", "fan-out", "init std", "Adam lr", "SGD lr")
        ]
        for path, leaf in self.leaves.items():
            numbers = (leaf.fan_in, leaf.fan_out, leaf.init, leaf.adam, leaf.sgd)
            rows.append((path, leaf.kind, *(f"× {x:.4g}" for x in numbers)))
        widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
        lines = [
            "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        for axis, factor in self.attention.items():
            lines.append(f"multiply the products of queries and keys ({axis}) by {factor:.4g}")
        for path, factor in self.outputs.items():
            lines.append(f"multiply the outputs that {path} makes by {factor:.4g}")
        return "\n".join(lines)


def _source(leaf: LeafPlan, old: Mapping[str, jax.Array]) -> jax.Array:
    """An array with the scale of a leaf's initial values; for new layers, that of the old layer."""
    if leaf.source is not None and old[leaf.source].ndim == len(leaf.big):
        return old[leaf.source]
    return jnp.full((1,) * len(leaf.big), max(1, math.prod(leaf.big[:-1])) ** -0.5, leaf.dtype)


def mup(plan: PlanData) -> MuP:
    """The multipliers under which the small model's learning rate fits the big one.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit import growth
    >>> def mlp(p, x):
    ...     return jax.nn.relu(jax.nn.relu(x @ p["in"]) @ p["mid"]) @ p["out"]
    >>> def shapes(n):
    ...     f = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    ...     return {"in": f(3, n), "mid": f(n, n), "out": f(n, 2)}
    >>> m = growth.plan(mlp, mlp, shapes(4), shapes(16), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    >>> {path: (leaf.kind, leaf.init, leaf.adam, leaf.sgd) for path, leaf in m.mup().leaves.items()}
    {'in': ('input', 1.0, 1.0, 4.0), 'mid': ('hidden', 0.5, 0.25, 1.0), \
'out': ('output', 0.25, 0.25, 0.25)}
    """
    leaves = {leaf.path: _leaf(plan, leaf) for leaf in plan.leaves}
    attention = {
        f"{axis.small}→{axis.big}": math.sqrt(axis.small / axis.big)
        for axis in plan.grown_axes
        if axis.paired
    }
    outputs = {path: 1.0 / leaf.fan_out for path, leaf in leaves.items() if leaf.kind == "tied"}
    return MuP(leaves, attention, outputs, plan)


def _leaf(plan: PlanData, leaf: LeafPlan) -> LeafMuP:
    into = out = Fraction(1)
    tied = any(axis and axis.tied for axis in leaf.axes)
    for n, m, axis in zip(leaf.small, leaf.big, leaf.axes, strict=True):
        reads = [k for k in axis.reads if k not in axis.tied] if axis else []
        sizes = [(plan.grown_axes[k].big, plan.grown_axes[k].small) for k in reads]
        own = math.prod((Fraction(*size) for size in sizes), start=Fraction(1))
        into *= own
        out *= Fraction(m, n) / own if n else 1
    fan_in, fan_out = float(into), float(out)
    if fan_in == fan_out == 1.0:
        return LeafMuP("fixed", 1.0, 1.0, 1.0, 1.0, 1.0)
    if fan_in == 1.0:
        return LeafMuP("tied" if tied else "input", 1.0, fan_out, 1.0, 1.0, fan_out)
    if fan_out == 1.0:
        return LeafMuP("output", fan_in, 1.0, 1 / fan_in, 1 / fan_in, 1 / fan_in)
    return LeafMuP("hidden", fan_in, fan_out, fan_in**-0.5, 1 / fan_in, fan_out / fan_in)
