"""Layers whose names do not tell which are new: what the programs compute does.

Flax numbers the modules of one class in the order of their calls, so that trunk, heads, streams and
the two arms of a U-Net share their numbers, and every later number shifts with a new layer.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from trainkit import growth

VECTORS = jax.random.normal(jax.random.key(0), (4, 6))
IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))


class ActorCritic(nn.Module):
    depth: int
    width: int = 8

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(3)(x), nn.Dense(1)(x)


class Trunk(nn.Module):
    depth: int
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        x = nn.LayerNorm()(x)
        head = lambda hidden, out: nn.Dense(out)(nn.gelu(nn.Dense(hidden)(x)))
        return head(10, 3), head(12, 1)


class TwoStreams(nn.Module):
    depth: int
    other: int = 2
    width: int = 8

    @nn.compact
    def __call__(self, x):
        a = b = x
        for _ in range(self.depth):
            a = nn.relu(nn.Dense(self.width)(a))
        for _ in range(self.other):
            b = nn.relu(nn.Dense(self.width)(b))
        return nn.Dense(3)(jnp.concatenate([a, b], -1))


class Stage(nn.Module):
    depth: int
    width: int = 8

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return x


class NumberedStages(nn.Module):
    depths: tuple
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        for depth in self.depths:
            x = Stage(depth, self.width)(x)
        return nn.Dense(3)(x)


class Residual(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x, time):
        h = nn.Conv(self.channels, (3, 3))(nn.silu(nn.GroupNorm(2)(x)))
        h = h + nn.Dense(self.channels)(nn.silu(time))[:, None, None, :]
        h = nn.Conv(self.channels, (3, 3))(nn.silu(nn.GroupNorm(2)(h)))
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels)(x)
        return x + h


class AttendedImage(nn.Module):
    @nn.compact
    def __call__(self, x):
        size = x.shape
        h = nn.GroupNorm(2)(x).reshape(size[0], -1, size[-1])
        q, k, v = (nn.Dense(size[-1])(h) for _ in range(3))
        weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k) * size[-1] ** -0.5)
        return x + nn.Dense(size[-1])(weights @ v).reshape(size)


class DiffusionUNet(nn.Module):
    """The U-Net of denoising diffusion (Ho et al. 2020): every block has a skip connection."""

    depth: int
    width: int = 4
    attended: tuple = (4,)

    @nn.compact
    def __call__(self, x):
        time = jnp.arange(x.shape[0], dtype=x.dtype)[:, None] * jnp.ones((1, self.width))
        time = nn.Dense(self.width * 4)(nn.silu(nn.Dense(self.width * 4)(time)))
        skips = [nn.Conv(self.width, (3, 3))(x)]
        for level in (1, 2):
            for _ in range(self.depth):
                h = Residual(self.width * level)(skips[-1], time)
                skips.append(AttendedImage()(h) if h.shape[1] in self.attended else h)
            if level == 1:
                skips.append(nn.Conv(self.width, (3, 3), (2, 2))(skips[-1]))
        h = Residual(self.width * 2)(skips[-1], time)
        h = Residual(self.width * 2)(AttendedImage()(h), time)
        for level in (2, 1):
            for _ in range(self.depth + 1):
                h = Residual(self.width * level)(jnp.concatenate([h, skips.pop()], -1), time)
            h = AttendedImage()(h) if h.shape[1] in self.attended else h
            if level == 2:
                h = h.repeat(2, 1).repeat(2, 2)
                h = nn.Conv(h.shape[-1], (3, 3))(h)
        return nn.Conv(3, (3, 3))(nn.silu(nn.GroupNorm(2)(h)))


PAIRS = {
    "trunk and heads": (ActorCritic(2), ActorCritic(3), VECTORS),
    "one layer to three, and wider": (ActorCritic(1), ActorCritic(3, 16), VECTORS),
    "residual trunk and heads": (Trunk(1), Trunk(3), VECTORS),
    "residual trunk and heads, wider": (Trunk(2), Trunk(3, 16), VECTORS),
    "two streams": (TwoStreams(2), TwoStreams(3), VECTORS),
    "two streams, wider": (TwoStreams(3), TwoStreams(5, width=16), VECTORS),
    "a stage becomes like another": (NumberedStages((1, 2)), NumberedStages((2, 2)), VECTORS),
    "stages": (NumberedStages((1, 2)), NumberedStages((3, 4), 16), VECTORS),
    "U-Net": (DiffusionUNet(1), DiffusionUNet(2), IMAGES),
    "U-Net, wider": (DiffusionUNet(1), DiffusionUNet(2, 8), IMAGES),
    "U-Net without attention": (
        DiffusionUNet(1, attended=()),
        DiffusionUNet(2, attended=()),
        IMAGES,
    ),
}


def drawn(model, x):
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = lambda key, leaf: 0.5 * jax.random.normal(key, leaf.shape, leaf.dtype)
    return jax.tree.unflatten(tree, list(map(draw, keys, leaves)))


@pytest.mark.parametrize("name", PAIRS)
def test_the_function_is_kept(name):
    small, big, x = PAIRS[name]
    params = drawn(small, x)
    shapes = jax.eval_shape(big.init, jax.random.key(0), x)
    plan = growth.plan(small.apply, big.apply, params, shapes, x)
    assert plan.proof == "reduced"
    grown = plan.grow(params, key=0)
    before, after = jax.jit(small.apply)(params, x), jax.jit(big.apply)(grown, x)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        # float32: a few roundings per layer, relative to the largest output
        assert jnp.abs(a - b).max() < 1e-5 * jnp.abs(a).max()


def test_new_layers_copy_old_ones_beside_them():
    small, big, x = PAIRS["residual trunk and heads"]
    shapes = [jax.eval_shape(model.init, jax.random.key(0), x) for model in (small, big)]
    plan = growth.plan(small.apply, big.apply, *shapes, x)
    sources = {leaf.path: leaf.layer.source for leaf in plan.leaves if leaf.layer.new}
    modules = {(path.split("/")[1], source.split("/")[1]) for path, source in sources.items()}
    # Each new block of a norm and two layers is a copy of the old block.
    assert {source for _, source in modules} == {"LayerNorm_0", "Dense_1", "Dense_2"}
    assert len(modules) == 6
