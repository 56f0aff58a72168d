"""Parameter groups by path: the first regular expression that matches a path counts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.dtypes import own, scalar_like
from trainkit._core.paths import compiled, path_name, some
from trainkit.transforms.masked_trees import filled, left_out
from trainkit.transforms.stacks import Stacked, layer_axes
from trainkit.transforms.state.named import injected

PyTree = Any


def freeze() -> optax.GradientTransformationExtraArgs:
    """The transformation of a frozen group: updates of 0, no state. Optax: `optax.set_to_zero`.

    >>> import jax.numpy as jnp
    >>> freeze().update(jnp.ones(2), freeze().init(jnp.ones(2)))[0].tolist()
    [0.0, 0.0]
    """
    return optax.with_extra_args_support(optax.set_to_zero())


def assign(rules: Sequence[tuple[str, Any]], params: PyTree) -> PyTree:
    """For every leaf, the index of the first rule whose expression matches its path.

    A path is `block_0/dense/kernel`. Expressions are matched by `re.search`; use `^` and `$` as
    anchors.

    Raises:
      ValueError: a leaf matches no rule, a rule matches no leaf or only leaves of earlier rules, or
        an expression is invalid. The message names it.

    >>> import jax.numpy as jnp
    >>> assign([("bias", "a"), (".*", "b")], {"bias": jnp.ones(1), "kernel": jnp.ones(1)})
    {'bias': 0, 'kernel': 1}
    """
    patterns = _compiled(rules)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    numbers, missing = [], []
    for name in names:
        hits = [i for i, pattern in enumerate(patterns) if pattern.search(name)]
        if not hits:
            missing.append(name)
        numbers.append(hits[0] if hits else -1)
    if missing:
        raise ValueError(
            f"no rule matches {some(missing)}; end the rules with ('.*', …), or with "
            "('.*', None) to freeze the rest."
        )
    for i, pattern in enumerate(patterns):
        if i not in numbers:
            late = any(pattern.search(name) for name in names)
            why = (
                "matches only parameters that an earlier rule takes: put it first"
                if late
                else f"matches none of the parameters {some(names)}"
            )
            hint = "." if late else validation.near(pattern.pattern, names) or "; leave it out."
            raise ValueError(f"the rule {pattern.pattern!r} {why}{hint}")
    return jax.tree.unflatten(jax.tree.structure(params), numbers)


def groups(
    rules: Sequence[tuple[str, optax.GradientTransformation | None]],
) -> optax.GradientTransformationExtraArgs:
    """Trains each parameter by the first rule whose expression matches its path.

    `rules` is a list of (regular expression, transformation); `None` freezes a group. Each group
    has its own learning rate, which has the expression as its name: `get(state, ("head",
    "learning_rate"))`. Frozen groups have no state, and with `stop_frozen` in the loss no gradient.
    Groups are independent: put a clip by global norm before them, not in them. For a line search in
    a group, `value_fn` is the loss of the group's parameters, with the others fixed. Optax:
    `optax.partition`, by labels, and without a check that every leaf is covered.

    Raises:
      ValueError: there are no rules, or an expression is invalid; at `init`, the errors of
        `assign`.
      TypeError: a value is neither a transformation nor `None`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.groups([("head", tt.adam(1e-2)), ("bias$", tt.sgd(1e-1)), (".*", None)])
    >>> params = {"body": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "head": jnp.ones(2)}
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates["body"]["bias"].round(3).tolist(), updates["body"]["kernel"].tolist()
    ([-0.10000000149011612, -0.10000000149011612], [0.0, 0.0])
    """
    _compiled(rules)
    transforms = []
    for pattern, tx in rules:
        # Frozen groups are given as `None`.
        transforms.append(freeze() if tx is None else injected(tx, f"the rule of {pattern!r}"))
    return _partition(rules, transforms)


def stop_frozen(rules: Sequence[tuple[str, Any]], params: PyTree) -> PyTree:
    """The parameters with `stop_gradient` on frozen groups, for the loss of a fine-tuned model.

    Gradients of frozen groups are not computed if they are not used. But a step's `grad_norm` uses
    them, and so do clipping and a guard before `groups`. With `stop_frozen(rules, params)` in the
    loss they are zeros without cost, and norms are over trained parameters alone. The first match
    counts, as in `groups`.

    >>> import jax, jax.numpy as jnp
    >>> rules = [("head", "trained"), (".*", None)]
    >>> loss = lambda p: jnp.sum(stop_frozen(rules, p)["body"] * stop_frozen(rules, p)["head"])
    >>> grads = jax.grad(loss)({"body": jnp.full(2, 3.0), "head": jnp.ones(2)})
    >>> grads["body"].tolist(), grads["head"].tolist()
    ([0.0, 0.0], [3.0, 3.0])
    """
    return jax.tree.map(
        lambda i, p: jax.lax.stop_gradient(p) if rules[i][1] is None else p,
        assign(rules, params),
        params,
    )


def _partition(
    rules: Sequence[tuple[str, Any]], transforms: Sequence[optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    named = {pattern: _of_a_part(tx) for (pattern, _), tx in zip(rules, transforms, strict=True)}
    if len(named) < len(rules):
        raise ValueError("two rules have the same expression; the second would never match.")

    def labels(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda i: rules[i][0], assign(rules, tree))

    inner = optax.partition(named, labels)

    def init(params: PyTree) -> PyTree:
        return own(inner.init(params), params)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> Any:
        if params is not None:
            validation.same_tree(updates, params, "parameters", "groups")
            if (loss := extra.get("value_fn")) is not None:
                extra["value_fn"] = lambda part, *args, **kw: loss(
                    filled(part, params), *args, **kw
                )
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _of_a_part(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The rule of one group, with the extra argument `grad` masked to the group."""
    tx = optax.with_extra_args_support(tx)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> Any:
        if extra.get("grad") is not None:
            part = lambda u, g: u if left_out(u) else g
            extra["grad"] = jax.tree.map(part, updates, extra["grad"], is_leaf=left_out)
        return tx.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def scale_by_path(
    factors: Sequence[tuple[str, float]],
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by the factor of the first rule that matches; last in a chain.

    It sets the learning rate of each group relative to that of the chain. It has no state, and
    every leaf must be covered, as in `groups`. Not in Optax.

    >>> import jax.numpy as jnp
    >>> tx = scale_by_path([("bias", 2.0), (".*", 0.5)])
    >>> tree = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
    >>> print(tx.update(tree, tx.init(tree))[0]["bias"])
    [2.]
    """
    for pattern, factor in factors:
        validation.number(f"the factor of {pattern!r}", factor, "scale_by_path", least=0)
    _compiled(factors)

    def init(params: PyTree) -> optax.EmptyState:
        assign(factors, params)
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        if params is not None:
            validation.same_tree(updates, params, "parameters", "scale_by_path")
        numbers = assign(factors, updates)
        scaled = jax.tree.map(lambda i, u: scalar_like(factors[i][1], u) * u, numbers, updates)
        return scaled, state

    return optax.GradientTransformationExtraArgs(init, update)


def layerwise_decay(
    layers: Sequence[str], decay: float = 0.75, *, stacked: Stacked = None
) -> optax.GradientTransformationExtraArgs:
    """Layer-wise learning-rate decay: layer i of n, from the input, has the factor decay^(n−1−i).

    `layers` are regular expressions from the input to the output, whose factor is 1. An expression
    for `stacked` leaves stands for as many layers as they contain, in their order. Last in a chain.
    Not in Optax.

    Raises:
      ValueError: a decay outside (0, 1], or no layers. At `init`: a parameter in no layer, a layer
        without parameters, or leaves of one expression with different numbers of layers.

    >>> import jax.numpy as jnp
    >>> tx = layerwise_decay(["embed", "blocks", "head"], 0.5, stacked={"blocks": 1})
    >>> tree = {"embed": jnp.ones(()), "blocks": jnp.ones(2), "head": jnp.ones(())}
    >>> {k: v.tolist() for k, v in tx.update(tree, tx.init(tree))[0].items()}
    {'blocks': [0.25, 0.5], 'embed': 0.125, 'head': 1.0}

    Clark et al., ELECTRA, 2020.
    """
    validation.listed("layers", layers, "['embed', 'block', 'head']", "layerwise_decay")
    validation.number("decay", decay, "layerwise_decay", above=0, most=1)
    rules = [(layer, None) for layer in layers]
    _compiled(rules)

    def factors(tree: PyTree) -> PyTree:
        treedef: Any
        numbers, treedef = jax.tree.flatten(assign(rules, tree))
        shapes = [
            jnp.shape(x)[:n]
            for x, n in zip(
                jax.tree.leaves(tree), layer_axes(stacked, tree, "layerwise_decay"), strict=True
            )
        ]
        held = dict(zip(numbers, shapes, strict=True))
        for number, shape in zip(numbers, shapes, strict=True):
            if shape != held[number]:
                raise ValueError(
                    f"layerwise_decay: the leaves of layer {layers[number]!r} hold layers of shape "
                    f"{shape} and {held[number]}; give each its own expression."
                )
        sizes = [math.prod(held[i]) for i in range(len(layers))]
        made = []
        for number, shape in zip(numbers, shapes, strict=True):
            above = sum(sizes[number:]) - 1 - np.arange(sizes[number])
            made.append((decay ** above.astype(float)).reshape(shape))
        return jax.tree.unflatten(treedef, made)

    def init(params: PyTree) -> optax.EmptyState:
        factors(params)
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        def one(u: jax.Array, factor: np.ndarray) -> jax.Array:
            wide = factor.reshape(factor.shape + (1,) * (u.ndim - factor.ndim))
            return jnp.asarray(wide, u.dtype) * u

        return jax.tree.map(one, updates, factors(updates)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _compiled(rules: Sequence[tuple[str, Any]]) -> list[re.Pattern[str]]:
    if rules is None or isinstance(rules, str | Mapping):
        hint = ": list(rules.items())" if isinstance(rules, Mapping) else ""
        raise TypeError(
            f"rules must be a list of (regular expression, …) pairs, whose first match decides"
            f"{hint}, not {rules!r:.60}."
        )
    if not rules:
        raise ValueError("the list of rules is empty; pass (regular expression, …) pairs.")
    for rule in rules:
        if not isinstance(rule, tuple | list) or len(rule) != 2:
            raise ValueError(f"a rule must be a pair of an expression and a value, not {rule!r}.")
    return compiled(pattern for pattern, _ in rules)
