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
from tests.growth import (
    mixtures,
    test_choice,
    test_continuing,
    test_deepening,
    test_depth,
    test_experts,
    test_given,
    test_grown,
    test_modules,
    test_published_depth,
    test_repeating,
    test_sequences,
    test_train_state,
)
from tests.growth.golden.cases import Case, Table
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
    names = test_deepening.NAMES[kind]
    fns = [functools.partial(test_deepening.plain, names=n) for n in names]
    sizes = [3, 8, 8, 2], [3, *[width] * 3, 2]
    return lambda: (*fns, *map(test_deepening.dense, names, sizes), test_deepening.X)


def another_width() -> Sides:
    names = ["in", "out"], ["in", "more", "out"]
    fns = [functools.partial(test_deepening.plain, names=n) for n in names]
    sizes = [3, 4, 2], [3, 8, 12, 2]
    return lambda: (*fns, *map(test_deepening.dense, names, sizes), test_deepening.X)


def perceptron(act: Callable, hidden: int) -> Sides:
    def params(n):
        pairs = enumerate(itertools.pairwise([3, *[8] * n, 2]))
        return {f"Dense_{i}": test_depth.dense(i, *pair) for i, pair in pairs}

    return same(test_depth.mlp(act), lambda: params(hidden), lambda: params(4), test_depth.X)


def post_norm(gated: bool) -> Sides:
    def params(n):
        return {f"block{i}": test_depth.postnorm_block(i, gated) for i in range(n)}

    return same(test_depth.postnorm(gated), lambda: params(1), lambda: params(2), test_depth.X)


def transformer(depth: int, *sizes: int) -> Sides:
    def params():
        found = test_continuing.weights(*sizes)
        return {**found, "layers": [found["layers"][0]] * depth}

    small = functools.partial(test_continuing.weights, 8, 4, 12)
    return same(test_continuing.transformer, small, params, test_continuing.TOKENS)


def residual(depth: int) -> dict[str, Any]:
    return {"blocks": [test_depth.residual_block(i) for i in range(depth)]}


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
        before, after = (test_choice.layers(k, depth_of) for k in (2, 4))
        big = params(3, experts=6, width=8, hidden=7)
        return before, after, params(2), big, mixtures.TOKENS[0]

    return sides


def of_dense(over_all: bool) -> Sides:
    """A dense layer becomes a mixture."""
    x = jax.ShapeDtypeStruct(mixtures.TOKENS[0].shape, np.float64)
    mixture = mixtures.Mixture(dtype=x.dtype, over_all=over_all)
    return linen(test_experts.Dense(), mixture, x)


def groups(small: int, big: int) -> Sides:
    of = lambda n: functools.partial(test_repeating.draw, n)
    return same(test_repeating.attention, of(small), of(big), test_repeating.X)


BATCH = np.zeros((2, 8, 8, 1), np.float32)
TEXT = np.zeros((2, 6), np.int32)
FRAMES = np.zeros((2, 6, 6, 2))
given = lambda *size: functools.partial(test_given.layers, *size)
stacked = lambda depth: functools.partial(test_depth.stacked, depth)
blocks = lambda depth: functools.partial(residual, depth)
convolutions = lambda depth: functools.partial(test_depth.convolution_weights, depth)
net, lm = test_deepening.Net, test_grown.lm
pre_norm, post_norms = test_sequences.PreNorm, test_sequences.PostNorm
stages, tower = test_sequences.Stages, test_train_state.Transformer

DEEPER: Table = {
    **{f"published {name}": every(published(name)) for name in test_published_depth.CASES},
    **{
        f"layers named by {kind}, {width} wide": every(any_names(kind, width))
        for kind in test_deepening.NAMES
        for width in (8, 16)
    },
    "a new layer of another width": one(another_width()),
    **{
        f"perceptron, {act.__name__}, {hidden} hidden": every(perceptron(act, hidden))
        for act in (jax.nn.relu, jnp.tanh)
        for hidden in (1, 2)
    },
    "convolutions": every(
        same(test_depth.convolutions, convolutions(2), convolutions(3), np.zeros((2, 6, 6, 2)))
    ),
    "residual, batch norm": one(
        same(test_depth.residual, blocks(2), blocks(3), np.zeros((2, 5, 5, 4))),
        trainable=test_depth.no_statistics,
    ),
    "post-norm": every(post_norm(gated=False)),
    "post-norm with a gate": every(post_norm(gated=True)),
    "under a scan": every(same(test_depth.scanned, stacked(2), stacked(4), test_depth.X)),
    "transformer, 5 layers": every(transformer(5, 8, 4, 12)),
    "transformer, wider too": every(transformer(4, 16, 8, 24)),
    "transformer, wider alone": one(transformer(2, 16, 4, 24)),
    "residual layers": every(same(test_given.net, given(4, 2), given(4, 3), test_given.X)),
    "residual layers, wider too": every(
        same(test_given.net, given(4, 2), given(6, 5), test_given.X)
    ),
    **{
        f"module{', gated' if gated else ''}, {small} → {big} blocks": every(
            linen(net(4, small, gated), net(8, big, gated), test_deepening.X)
        )
        for gated in (False, True)
        for small, big in ((1, 3), (0, 1))
    },
    "in one module": every(linen(pre_norm(2), pre_norm(4, 16), test_sequences.X)),
    "in one module, 1 → 3": every(linen(pre_norm(1), pre_norm(3), test_sequences.X), FEW),
    "in one module, post-norm": every(linen(post_norms(2), post_norms(4), test_sequences.X)),
    "in one module, a norm first": every(
        linen(post_norms(2, first=True), post_norms(4, first=True), test_sequences.X)
    ),
    "in one module, stages": every(
        linen(stages((1, 2)), stages((3, 3), 16), test_sequences.IMAGES), FEW
    ),
    "language model": every(linen(lm(8, 2), lm(16, 4), TEXT)),
    "language model, from no block": every(linen(lm(8, 0), lm(8, 2), TEXT)),
    "images, perceptron": one(linen(test_grown.MLP((4,)), test_grown.MLP((8, 12)), BATCH)),
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
