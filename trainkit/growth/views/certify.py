"""Certifying a growth: everything is measured on the grown model itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves
from trainkit.adapters.functions import Functions
from trainkit.cost import count_flops
from trainkit.growth.deepen import leading, relative_change
from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.trace import traced_program
from trainkit.growth.maps.algebra import expand
from trainkit.growth.models import concrete, functions
from trainkit.growth.plan.data import Plan, Symmetry
from trainkit.growth.plan.leaf_map import LeafGrowth, Origin
from trainkit.growth.plan.upcycling import lifted
from trainkit.growth.plan.validation import check_params, check_tx
from trainkit.growth.train_state import Grown
from trainkit.growth.views.certificate import Certificate
from trainkit.growth.views.vocabulary import leaked_mass
from trainkit.step.state import TrainState

PyTree = Any


def certify(
    grown: Grown, tx: optax.GradientTransformation, *, steps: int = 3, seed: int = 0
) -> Certificate:
    """Measures a growth on its own example, with a random linear functional of the outputs as loss.

    Args:
      grown: what `grow_with_details` returned.
      tx: the transformation of the run.
      steps: probe steps of `tx` after which copies are compared.
      seed: for the functional, and for inputs of which only shapes are known.

    Raises:
      GrowthError: `grown` is no growth, or `tx` not the transformation that it was made with.

    >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
    >>> from trainkit import TrainState
    >>> from trainkit.growth import grow_with_details
    >>> x, tx = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), optax.sgd(1e-2)
    >>> net = lambda n: nn.Sequential([nn.Dense(n), nn.relu, nn.Dense(2)])
    >>> state = TrainState.create(net(4).init(jax.random.key(0), x)["params"], tx)
    >>> certificate = certify(grow_with_details(state, net(4), net(8), x, tx=tx), tx)
    >>> certificate.forward_error["float32"] < 1e-6, certificate.parameters
    (True, (22, 42))
    """
    check_tx(tx)
    if not isinstance(grown, Grown):
        raise GrowthError(
            f"{type(grown).__name__} is not what a growth leaves behind",
            hint="pass the result of grow_with_details, or take plan.certificate(…)",
        )
    for state in (grown.before, grown.state):
        _check_state(tx, state)
    rng = np.random.default_rng(seed)
    inputs = jax.tree.map(lambda x: concrete(x, rng), grown.inputs)
    before, after = grown.before, grown.state
    tree = lambda s: {"params": s.params, "model_state": s.model_state}
    outputs = jax.eval_shape(grown.small.fn, tree(before), *inputs)
    weights = jax.tree.map(lambda o: rng.normal(size=o.shape), outputs)

    grows = jax.tree.map(jnp.shape, weights) != jax.tree.map(
        jnp.shape, jax.eval_shape(grown.big.fn, tree(after), *inputs)
    )

    def loss(
        fn: Callable[..., PyTree], model_state: PyTree, whole: bool = False
    ) -> Callable[[PyTree], jax.Array]:
        def value(params: PyTree) -> jax.Array:
            out = fn({"params": params, "model_state": model_state}, *inputs)
            parts = jax.tree.map(
                # Bent, so that the gradient depends on where the outputs are.
                lambda o, w: jnp.mean(jnp.sin(leading(o, w)) * jnp.asarray(w, o.dtype)),
                out,
                weights,
            )
            total = sum(jax.tree.leaves(parts), jnp.zeros(()))
            if whole:  # new entries of outputs too: what they alone depend on is not dead
                total += sum(jnp.mean(jnp.sin(o)) for o in jax.tree.leaves(out))
            return total

        return value

    # Few programs, each of many operations: a growth is often certified while its model trains on
    # the same processor, and there every operation by itself would be a compilation by itself.
    @jax.jit
    def small_side(state: Any) -> tuple[PyTree, PyTree]:
        g = jax.grad(loss(grown.small.fn, state.model_state))(state.params)
        return g, tx.update(g, state.opt_state, state.params)[0]

    @jax.jit
    def expected(g: PyTree, update: PyTree) -> tuple[dict[str, jax.Array], jax.Array]:
        g, update = (lifted(tree, grown.growth, grown.origin) for tree in (g, update))
        return _expected(g, grown), _predicted(update, grown)

    @jax.jit
    def probe_step(params: PyTree, opt_state: PyTree, grads: PyTree) -> tuple[Any, ...]:
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, optax.tree.norm(updates)

    with jax.numpy_dtype_promotion("standard"):
        big_grad = jax.jit(jax.grad(loss(grown.big.fn, after.model_state)))
        probe = (
            jax.jit(jax.grad(loss(grown.big.fn, after.model_state, True))) if grows else big_grad
        )
        g, small_update = small_side(before)
        copied, predicted = expected(g, small_update)
        params, opt_state, grads = after.params, after.opt_state, big_grad(after.params)
        residual = _residual(g, grads, copied, grown)
        gradients, norms = [], []
        for _ in range(max(steps, 2)):
            gradients.append(grads)
            params, opt_state, norm = probe_step(params, opt_state, grads)
            norms.append(norm)
            grads = probe(params)
        forward = _forward(grown, inputs, tree)
        apart = _apart(params, grown.growth)
        warnings = (*_leaks(grown, inputs, tree), *_warnings(grown, tx, forward, apart))
    return Certificate(
        forward_error=forward,
        gradient_residual=residual,
        calibrated=tuple(n for n, how in grown.growth.items() if not how.exact_gradient),
        fresh=_fresh(grown),
        new_layers=tuple(n for n, come in grown.origin.items() if come.new),
        zeroed=grown.zeroed,
        dead=_dead(gradients[1], grown.growth),
        replica_distance=apart,
        update_norm=(float(predicted), float(norms[0])),
        flops=(_flops(grown.small, inputs), _flops(grown.big, inputs)),
        parameters=(_size(before.params), _size(after.params)),
        bytes=(_bytes(before), _bytes(after)),
        warnings=warnings,
    )


def of_plan(
    plan: Plan,
    small_fn: Callable[..., PyTree],
    big_fn: Callable[..., PyTree],
    params: PyTree,
    inputs: tuple[Any, ...],
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    key: jax.Array | None,
    symmetry: Symmetry,
) -> Certificate:
    """See `Plan.certificate`."""
    check_tx(tx)
    check_params(plan, params)
    traced_program(small_fn, params, inputs, "small")
    if opt_state is None:
        opt_state = tx.init(params)
    options: dict[str, Any] = {"key": key, "symmetry": symmetry}
    grown = plan.grow(params, **options)
    state = plan.grow_opt_state(tx, opt_state, params, grown, **options)
    small = functions(small_fn, inputs, params, {})
    big = functions(big_fn, inputs, grown, {})
    before, after = (
        TrainState.create(tree, tx).replace(opt_state=moments)
        for tree, moments in ((params, opt_state), (grown, state))
    )
    maps = plan.realise(key, symmetry)
    details = Grown(after, before, maps, plan.origin, plan.zeroed, small, big, inputs, plan)
    return certify(details, tx)


def _check_state(tx: optax.GradientTransformation, state: TrainState) -> None:
    try:
        with jax.numpy_dtype_promotion("standard"):
            jax.eval_shape(tx.update, state.params, state.opt_state, state.params)
    except Exception as error:
        raise GrowthError(
            f"tx does not take the state that was grown: {type(error).__name__}: {error}",
            hint="pass the transformation that the growth was made with",
        ) from error


def _forward(grown: Grown, inputs: tuple[Any, ...], tree: Callable[[Any], PyTree]):
    own = {str(x.dtype) for x in jax.tree.leaves(grown.before.params)}
    errors = {}
    for dtype in dict.fromkeys([*sorted(own), "bfloat16"]):
        cast = lambda t, d=dtype: jax.tree.map(
            lambda x: x.astype(d) if jnp.issubdtype(x.dtype, jnp.floating) else x, t
        )
        a = jax.jit(grown.small.fn)(cast(tree(grown.before)), *cast(inputs))
        b = jax.jit(grown.big.fn)(cast(tree(grown.state)), *cast(inputs))
        errors[dtype] = relative_change(a, b)
    return errors


def _leaks(grown: Grown, inputs: tuple[Any, ...], tree: Callable[[Any], PyTree]) -> list[str]:
    """The probability that goes to new entries, where outputs have them at their end."""
    sides = (grown.small.fn, tree(grown.before)), (grown.big.fn, tree(grown.state))
    old, new = (jax.tree.leaves(jax.eval_shape(fn, t, *inputs)) for fn, t in sides)
    wider = [
        i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a.shape[-1:] != b.shape[-1:]
    ]
    if not wider:
        return []
    outputs = jax.tree.leaves(jax.jit(grown.big.fn)(tree(grown.state), *inputs))
    found = []
    for a, b in ((old[i], outputs[i]) for i in wider):
        share = float(leaked_mass(b, a.shape[-1]))
        found.append(
            f"an output has {a.shape[-1]} → {b.shape[-1]} entries: the old ones are kept, and "
            f"if they are logits {100 * share:.2g} % of the probability goes to the new ones"
        )
    return found


def _old(name: str, origin: dict[str, Origin]) -> str | None:
    come = origin.get(name, Origin(name))
    return None if come.new else come.leaf


def _expected(g: PyTree, grown: Grown) -> dict[str, jax.Array]:
    """f · g[π] of the leaves whose factor is exact, as the calculus has it."""
    small, found = named_leaves(g), {}
    for name in named_leaves(grown.state.params):
        old, how = _old(name, grown.origin), grown.growth.get(name)
        if old is not None and how is not None and how.exact_gradient:
            found[name] = expand(small[old], how, gradient=1)
    return found


def _residual(g: PyTree, big_g: PyTree, expected: dict[str, jax.Array], grown: Grown) -> float:
    wide = lambda x: np.asarray(x, np.float64)
    total = math.sqrt(sum(float(np.sum(wide(x) ** 2)) for x in jax.tree.leaves(g)))
    leaves, worst = named_leaves(big_g), 0.0
    for name, copied in expected.items():
        known = np.ones(copied.shape, bool)
        for a, along in enumerate(grown.growth[name].axes):
            if along is not None:
                keep = (np.asarray(along.source) >= 0) & (along.gradient != 0)
                known &= keep.reshape([-1 if i == a else 1 for i in range(known.ndim)])
        difference = np.where(known, wide(leaves[name]) - wide(copied), 0.0)
        # A leaf without gradient (a bias before a norm) has rounding only: compare with the whole.
        size = max(float(np.linalg.norm(wide(copied))), 1e-3 * total)
        worst = max(worst, float(np.linalg.norm(difference)) / (size or 1.0))
    return worst


def _predicted(update: PyTree, grown: Grown) -> jax.Array:
    small, squares = named_leaves(update), jnp.zeros(())
    for name in named_leaves(grown.state.params):
        old, how = _old(name, grown.origin), grown.growth.get(name)
        if old is not None:
            u = small[old] if how is None else expand(small[old], how, weight=1, new="fill")
            squares += jnp.sum(u.astype(squares.dtype) ** 2)
    return jnp.sqrt(squares)


def _flops(side: Functions, inputs: tuple[Any, ...]) -> float:
    return float(count_flops(side.fn, side.variables, *inputs))


def _fresh(grown: Grown) -> dict[str, int]:
    shapes, found = named_leaves(grown.state.params), {}
    for name, how in grown.growth.items():
        old = 1
        for n, along in zip(shapes[name].shape, how.axes, strict=True):
            old *= n if along is None else int(np.sum(np.asarray(along.source) >= 0))
        if shapes[name].size > old:
            found[name] = int(shapes[name].size) - old
    return found


def _dead(grads: PyTree, growth: dict[str, LeafGrowth]) -> tuple[str, ...]:
    dead = []
    leaves = named_leaves(grads)
    for name, how in growth.items():
        g = np.asarray(leaves[name], np.float64)
        for a, along in enumerate(how.axes):
            if along is not None and np.any(g):
                others = tuple(i for i in range(g.ndim) if i != a)
                silent = np.flatnonzero(~np.any(g, axis=others))
                # An old unit may be silent on this batch; its copy, or a new one, would stay so.
                dead += [
                    f"{name}, axis {a}: unit {j}" for j in silent if _is_new(along.source, int(j))
                ]
    return tuple(dead)


def _is_new(source: np.ndarray, j: int) -> bool:
    return source[j] < 0 or j != int(np.flatnonzero(source == source[j])[0])


def _apart(params: PyTree, growth: dict[str, LeafGrowth]) -> tuple[float, float] | None:
    distances = []
    leaves = named_leaves(params)
    for name, how in growth.items():
        w = np.asarray(leaves[name], np.float64)
        for a, along in enumerate(how.axes):
            if along is None:
                continue
            rows, source = np.moveaxis(w, a, 0).reshape(w.shape[a], -1), np.asarray(along.source)
            for j in range(len(source)):
                first = int(np.flatnonzero(source == source[j])[0])
                if source[j] >= 0 and first != j and along.weight[j] and along.weight[first]:
                    x, y = rows[j] / along.weight[j], rows[first] / along.weight[first]
                    size = max(float(np.linalg.norm(x)), float(np.linalg.norm(y)))
                    distances.append(float(np.linalg.norm(x - y)) / size if size else 0.0)
    if not distances:
        return None
    return float(np.min(distances)), float(np.median(distances))


def _size(tree: PyTree) -> int:
    return sum(int(x.size) for x in jax.tree.leaves(tree))


def _bytes(state: Any) -> int:
    trees = (state.params, state.model_state, state.opt_state)
    return sum(int(x.nbytes) for x in jax.tree.leaves(trees) if hasattr(x, "nbytes"))


def _warnings(
    grown: Grown,
    tx: optax.GradientTransformation,
    forward: dict[str, float],
    apart: tuple[float, float] | None,
) -> tuple[str, ...]:
    texts = []
    if _couples(tx, grown.before.params):
        texts.append(
            "the update of one leaf depends on the gradients of others, as clip_by_global_norm "
            "makes it: growth changes each leaf's norm by √copies · f, so the plain rule does not "
            "go on as before (exact continuation does)"
        )
    own = next(d for d in forward if d != "bfloat16" or len(forward) == 1)
    limit = 1e-10 if own == "float64" else 1e-4 if own == "float32" else 1e-1
    if forward[own] > limit:
        texts.append(f"the function changed: outputs moved by {forward[own]:.1e} of their scale")
    if apart is not None and apart[1] < 1e-6:
        texts.append(
            "copies are still equal after the probe steps and will stay so: choose an operator "
            "that tells them apart (uneven, noise, zero_out)"
        )
    return tuple(texts)


def _couples(tx: optax.GradientTransformation, params: PyTree) -> bool:
    """Whether a much larger gradient in one leaf changes the update of another."""
    tiny = jax.tree.map(lambda x: np.full((2,) * x.ndim, 0.1, np.float32), params)
    leaves, treedef = jax.tree.flatten(tiny)
    if len(leaves) < 2:
        return False

    @jax.jit
    def last_update(scale: jax.Array) -> list[jax.Array]:
        grads = [jnp.ones_like(leaf) for leaf in leaves]
        grads[0] = grads[0] * scale
        state = tx.init(tiny)
        updates, _ = tx.update(jax.tree.unflatten(treedef, grads), state, tiny)
        return [jnp.ravel(u) for u in jax.tree.leaves(updates)[1:]]

    try:
        plain, scaled = (np.concatenate(last_update(np.float32(s))) for s in (1.0, 1e3))
        return not np.allclose(plain, scaled, rtol=1e-3, atol=0)
    except Exception:
        # The rule asks for more than gradients: nothing is said of it.
        return False
