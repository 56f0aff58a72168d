"""Plans that add layers: models of the tests of depth, by every operator that they may take."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.progressive_mnist.models import CNN
from tests.growth import test_modules, test_train_state
from tests.growth.analysis import test_indices
from tests.growth.depth import test_assemble, test_deepen, test_program_order, test_published_depth
from tests.growth.golden.cases import Case, Table
from tests.growth.opt_state import test_continuation
from tests.growth.plan import test_experts, test_groups, test_validation
from tests.growth.zoo import mixtures
from tests.progressive.transition import test_grow
from trainkit import growth

HOWS = ("identity", "stack", "interpose", "middle", "last")
FEW = ("identity", "stack")  # where a plan takes seconds
Sides = Callable[[], tuple[Any, ...]]  # small_fn, big_fn, small_params, big_params, *inputs


def planned(sides: Sides, **options: Any) -> growth.Plan:
    return growth.plan(*sides(), **options)


def one(sides: Sides, **options: Any) -> dict[str, Case]:
    return {"identity": functools.partial(planned, sides, **options)}


def every(sides: Sides, hows: Sequence[str] = HOWS) -> dict[str, Case]:
    sides = functools.cache(sides)
    return {how: functools.partial(planned, sides, how=how) for how in hows}


def same(fn: Callable, small: Callable[[], Any], big: Callable[[], Any], *inputs: Any) -> Sides:
    """One function at two sizes."""
    return lambda: (fn, fn, small(), big(), *inputs)


def linen(small: Any, big: Any, *inputs: Any, **call: Any) -> Sides:
    """Two Linen modules; all their variables count as parameters."""

    def sides():
        inits = [functools.partial(m.init, jax.random.key(0), **call) for m in (small, big)]
        fns = [functools.partial(m.apply, **call) for m in (small, big)]
        return (*fns, *(jax.eval_shape(init, *inputs) for init in inits), *inputs)

    return sides


def published(name: str) -> Sides:
    fn, shapes, (before, after), x, _ = test_published_depth.CASES[name]
    return same(fn, lambda: shapes(*before), lambda: shapes(*after), x)


def any_names(kind: str, width: int) -> Sides:
    """Plain layers between ReLUs, called as people call them."""
    names = test_assemble.NAMES[kind]
    fns = [functools.partial(test_assemble.plain, names=n) for n in names]
    sizes = [3, 8, 8, 2], [3, *[width] * 3, 2]
    return lambda: (*fns, *map(test_assemble.dense, names, sizes), test_assemble.X)


def another_width() -> Sides:
    names = ["in", "out"], ["in", "more", "out"]
    fns = [functools.partial(test_assemble.plain, names=n) for n in names]
    sizes = [3, 4, 2], [3, 8, 12, 2]
    return lambda: (*fns, *map(test_assemble.dense, names, sizes), test_assemble.X)


def perceptron(act: Callable, hidden: int) -> Sides:
    def params(n):
        pairs = enumerate(itertools.pairwise([3, *[8] * n, 2]))
        return {f"Dense_{i}": test_deepen.dense(i, *pair) for i, pair in pairs}

    return same(test_deepen.mlp(act), lambda: params(hidden), lambda: params(4), test_deepen.X)


def post_norm(gated: bool) -> Sides:
    def params(n):
        return {f"block{i}": test_deepen.postnorm_block(i, gated) for i in range(n)}

    return same(test_deepen.postnorm(gated), lambda: params(1), lambda: params(2), test_deepen.X)


def transformer(depth: int, *sizes: int) -> Sides:
    def params():
        found = test_continuation.weights(*sizes)
        return {**found, "layers": [found["layers"][0]] * depth}

    small = functools.partial(test_continuation.weights, 8, 4, 12)
    return same(test_continuation.transformer, small, params, test_continuation.TOKENS)


def residual(depth: int) -> dict[str, Any]:
    return {"blocks": [test_deepen.residual_block(i) for i in range(depth)]}


def nnx_module(kind: str) -> Sides:
    def split(*sizes):
        module = nnx.eval_shape(lambda: test_modules.Net(*sizes, kind, rngs=nnx.Rngs(0)))
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        return (lambda p, x: nnx.merge(graph, p, rest)(x)), nnx.to_pure_dict(params)

    def sides():
        (small_fn, small), (big_fn, big) = split(6, 8, 2), split(12, 20, 4)
        return small_fn, big_fn, small, big, test_modules.X

    return sides


def equinox_module(depth: int) -> Sides:
    def split(*sizes):
        module = eqx.filter_eval_shape(test_modules.Module, *sizes)
        params, rest = eqx.partition(module, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        return (lambda p, x: jax.vmap(eqx.combine(p, rest))(x)), params

    def sides():
        (small_fn, small), (big_fn, big) = split(6, 8, 2), split(12, 20, depth)
        return small_fn, big_fn, small, big, test_modules.X

    return sides


def experts(depth_of: str) -> Sides:
    """Layers of experts, with more layers, wider ones, and more experts in each."""

    def params(depth, **sizes):
        of = {n: jax.ShapeDtypeStruct(s, np.float64) for n, s in mixtures.shapes(**sizes).items()}
        layer = {n: of[n] for n in ("router", "up", "up_b", "down", "down_b")}
        many = [layer] * depth
        if depth_of == "scan":
            many = jax.tree.map(lambda s: jax.ShapeDtypeStruct((depth, *s.shape), s.dtype), layer)
        return {"in": of["in"], "out": of["out"], "layers": many}

    def sides():
        before, after = (test_indices.layers(k, depth_of) for k in (2, 4))
        big = params(3, experts=6, width=8, hidden=7)
        return before, after, params(2), big, mixtures.TOKENS[0]

    return sides


def of_dense(over_all: bool) -> Sides:
    """A dense layer becomes a mixture."""
    x = jax.ShapeDtypeStruct(mixtures.TOKENS[0].shape, np.float64)
    mixture = mixtures.Mixture(dtype=x.dtype, over_all=over_all)
    return linen(test_experts.Dense(), mixture, x)


def groups(small: int, big: int) -> Sides:
    of = lambda n: functools.partial(test_groups.draw, n)
    return same(test_groups.attention, of(small), of(big), test_groups.X)


BATCH = np.zeros((2, 8, 8, 1), np.float32)
TEXT = np.zeros((2, 6), np.int32)
FRAMES = np.zeros((2, 6, 6, 2))
given = lambda *size: functools.partial(test_validation.layers, *size)
stacked = lambda depth: functools.partial(test_deepen.stacked, depth)
blocks = lambda depth: functools.partial(residual, depth)
convolutions = lambda depth: functools.partial(test_deepen.convolution_weights, depth)
net, lm = test_assemble.Net, test_grow.lm
pre_norm, post_norms = test_program_order.PreNorm, test_program_order.PostNorm
stages, tower = test_program_order.Stages, test_train_state.Transformer

DEEPER: Table = {
    **{f"published {name}": every(published(name)) for name in test_published_depth.CASES},
    **{
        f"layers named by {kind}, {width} wide": every(any_names(kind, width))
        for kind in test_assemble.NAMES
        for width in (8, 16)
    },
    "a new layer of another width": one(another_width()),
    **{
        f"perceptron, {act.__name__}, {hidden} hidden": every(perceptron(act, hidden))
        for act in (jax.nn.relu, jnp.tanh)
        for hidden in (1, 2)
    },
    "convolutions": every(
        same(test_deepen.convolutions, convolutions(2), convolutions(3), np.zeros((2, 6, 6, 2)))
    ),
    "residual, batch norm": one(
        same(test_deepen.residual, blocks(2), blocks(3), np.zeros((2, 5, 5, 4))),
        trainable=test_deepen.no_statistics,
    ),
    "post-norm": every(post_norm(gated=False)),
    "post-norm with a gate": every(post_norm(gated=True)),
    "under a scan": every(same(test_deepen.scanned, stacked(2), stacked(4), test_deepen.X)),
    "transformer, 5 layers": every(transformer(5, 8, 4, 12)),
    "transformer, wider too": every(transformer(4, 16, 8, 24)),
    "transformer, wider alone": one(transformer(2, 16, 4, 24)),
    "residual layers": every(
        same(test_validation.net, given(4, 2), given(4, 3), test_validation.X)
    ),
    "residual layers, wider too": every(
        same(test_validation.net, given(4, 2), given(6, 5), test_validation.X)
    ),
    **{
        f"module{', gated' if gated else ''}, {small} → {big} blocks": every(
            linen(net(4, small, gated), net(8, big, gated), test_assemble.X)
        )
        for gated in (False, True)
        for small, big in ((1, 3), (0, 1))
    },
    "in one module": every(linen(pre_norm(2), pre_norm(4, 16), test_program_order.X)),
    "in one module, 1 → 3": every(linen(pre_norm(1), pre_norm(3), test_program_order.X), FEW),
    "in one module, post-norm": every(linen(post_norms(2), post_norms(4), test_program_order.X)),
    "in one module, a norm first": every(
        linen(post_norms(2, first=True), post_norms(4, first=True), test_program_order.X)
    ),
    "in one module, stages": every(
        linen(stages((1, 2)), stages((3, 3), 16), test_program_order.IMAGES), FEW
    ),
    "language model": every(linen(lm(8, 2), lm(16, 4), TEXT)),
    "language model, from no block": every(linen(lm(8, 0), lm(8, 2), TEXT)),
    "images, perceptron": one(linen(test_grow.MLP((4,)), test_grow.MLP((8, 12)), BATCH)),
    "images, convolutions": one(linen(CNN((2, 3), 4), CNN((4, 6), 8), BATCH)),
    "residual, batch statistics": one(
        linen(
            test_train_state.ResNet(4, 1), test_train_state.ResNet(8, 3), FRAMES, train=False
        ),
        trainable=lambda path: not path.startswith("batch_stats"),
    ),
    "tied": every(linen(tower(8, 2, 2), tower(16, 4, 4), TEXT), FEW),
    "tied, under a scan": every(linen(tower(8, 2, 2, True), tower(16, 4, 4, True), TEXT), FEW),
    **{f"nnx, {kind}": every(nnx_module(kind)) for kind in ("list", "sequential", "stacked")},
    "equinox, wider alone": one(equinox_module(2)),
    "equinox": every(equinox_module(3)),
    **{f"experts in a {kind}": every(experts(kind)) for kind in ("list", "scan")},
    "dense to experts": {
        name: functools.partial(planned, of_dense(over_all), how="experts")
        for name, over_all in (("gates of the chosen", False), ("gates over all", True))
    },
    "groups": {
        f"{small} → {big}": functools.partial(planned, groups(small, big), how="groups")
        for small, big in ((1, 2), (2, 4), (1, 4))
    },
}  # fmt: skip
