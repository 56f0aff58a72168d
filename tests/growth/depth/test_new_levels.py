"""A level more of a U-Net: the block behind the concatenation takes the skip connection alone."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.zoo.building import randomised
from trainkit import growth

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 8, 8, 3))
HOWS = ("even", "uneven", "noise", "zero_out")
DIMS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def draw(sizes):
    one = lambda s: jnp.asarray(RNG.normal(0.2, 0.4, size=s))
    return jax.tree.map(one, sizes, is_leaf=lambda s: isinstance(s, tuple))


def convolution(x, w, stride=1):
    return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=DIMS)


def halved(x):
    n, rows, columns, channels = x.shape
    return x.reshape(n, rows // 2, 2, columns // 2, 2, channels).mean((2, 4))


def doubled(x):
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def normed(q, x):
    mean, spread = (f(x, (1, 2, 3), keepdims=True) for f in (jnp.mean, jnp.var))
    return (x - mean) / jnp.sqrt(spread + 1e-5) * q["scale"] + q["offset"]


def plain(q, x):
    for kernel, bias in (("first", "b1"), ("second", "b2")):
        x = jax.nn.relu(convolution(x, q[kernel]) + q[bias])
    return x


def residual(q, x):
    y = convolution(jax.nn.silu(normed(q, x)), q["first"]) + q["b1"]
    y = convolution(jax.nn.silu(y), q["second"]) + q["b2"]
    return y + (convolution(x, q["shortcut"]) if "shortcut" in q else x)


def with_norm(q, x):
    """A norm behind each convolution, without a residual sum: no identity exists."""
    return jax.nn.relu(normed(q, plain(q, x)))


def u_net(block, skip_first=False, middle=False):
    """Blocks down and up; the lowest one has no twin on the way up."""

    def fn(p, x):
        h, skips = block(p["top"], x), []
        for q in p["below"]:
            skips.append(h)
            h = convolution(h, q["stride"], 2) if "stride" in q else halved(h)
            h = block(q, h)
        h = block(p["middle"], h) if middle else h
        for q in p["above"]:
            h = doubled(h)
            h = convolution(h, q["rise"]) if "rise" in q else h
            both = [skips.pop(), h]
            h = block(q, jnp.concatenate(both if skip_first else both[::-1], -1))
        return convolution(h, p["from"])

    return fn


def sizes(norm=False, shortcut=False, learned=False, middle=False, wider=1):
    """`wider`: how much wider the next lower level is."""

    def block(n, m):
        found = {"first": (3, 3, n, m), "b1": (m,), "second": (3, 3, m, m), "b2": (m,)}
        # In a residual block the norm is in front.
        norms = n if shortcut else m
        found |= {"scale": (norms,), "offset": (norms,)} if norm else {}
        return found | ({"shortcut": (1, 1, n, m)} if shortcut and n != m else {})

    def of(depth, width):
        widths = [width * wider**i for i in range(depth + 1)]
        steps = list(itertools.pairwise(widths))
        below = [block(n, m) | ({"stride": (2, 2, n, n)} if learned else {}) for n, m in steps]
        rises = [{"rise": (1, 1, m, m)} if learned else {} for _, m in steps]
        above = [block(n + m, n) | q for (n, m), q in zip(steps, rises, strict=True)][::-1]
        ends = {"top": block(3, width), "from": (1, 1, width, 2)}
        ends |= {"middle": block(widths[-1], widths[-1])} if middle else {}
        return ends | {"below": below, "above": above}

    return of


NORMS = {"norm": True, "shortcut": True}
CASES = {
    "pooled": (u_net(plain), sizes()),
    "the skip connection first": (u_net(plain, skip_first=True), sizes()),
    "strided": (u_net(plain), sizes(learned=True)),
    "wider below": (u_net(plain), sizes(learned=True, wider=2)),
    "residual": (u_net(residual), sizes(**NORMS)),
    "residual, wider below": (u_net(residual, skip_first=True),
                              sizes(**NORMS, learned=True, wider=2)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"), [((1, 4), (2, 4)), ((1, 4), (3, 4)), ((2, 4), (3, 6))]
)
@pytest.mark.parametrize("case", CASES)
def test_exact(case, before, after):
    fn, of = CASES[case]
    if "residual" in case and after[1] % before[1]:
        after = (after[0], 8)  # the norm needs a multiple
    small, big = draw(of(*before)), draw(of(*after))
    plan = growth.plan(fn, fn, small, big, IMAGES)
    assert plan.proof == "reduced"
    assert growth.Plan.from_json(plan.to_json()) == plan
    wanted = fn(small, IMAGES)
    for how in HOWS:
        grown = plan.grow(small, key=jax.random.key(0), how=how, like=big)
        assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
        error = jnp.abs(fn(grown, IMAGES) - wanted).max()
        assert error <= 1e-11 * jnp.abs(wanted).max()


@pytest.mark.parametrize(
    ("fn", "of"),
    [
        (u_net(with_norm), sizes(norm=True)),
        (u_net(plain, middle=True), sizes(middle=True)),
        (u_net(residual, middle=True), sizes(**NORMS, middle=True)),
    ],
    ids=["norms", "a block in the middle", "a residual block in the middle"],
)
def test_refused(fn, of):
    """The old block in the middle would have to be applied to values of another resolution."""
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, draw(of(1, 4)), draw(of(2, 4)), IMAGES)


class Convolved(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Conv(self.width, (3, 3), param_dtype=jnp.float64)(x))
        return x


class Levels(nn.Module):
    """A U-Net of modules, with names of their own or numbered by Flax."""

    widths: tuple[int, ...]
    named: bool

    @nn.compact
    def __call__(self, x):
        name = lambda text: text if self.named else None
        skips = []
        for i, width in enumerate(self.widths):
            x = Convolved(width, name=name(f"down_{i}"))(x)
            if i < len(self.widths) - 1:
                skips.append(x)
                x = nn.max_pool(x, (2, 2), (2, 2))
        for i, width in reversed(list(enumerate(self.widths[:-1]))):
            own = {"name": name(f"rise_{i}"), "param_dtype": jnp.float64}
            rise = nn.ConvTranspose(width, (2, 2), (2, 2), **own)
            x = jnp.concatenate([rise(x), skips.pop()], -1)
            x = Convolved(width, name=name(f"up_{i}"))(x)
        return nn.Conv(2, (1, 1), param_dtype=jnp.float64)(x)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("widths", [(4, 8, 16), (8, 16, 32)])
def test_modules(widths, named):
    nets = [Levels((4, 8), named), Levels(widths, named)]
    fns = [lambda p, x, net=net: net.apply({"params": p}, x) for net in nets]
    shapes = [jax.eval_shape(net.init, jax.random.key(0), IMAGES)["params"] for net in nets]
    small = randomised(shapes[0])
    plan = growth.plan(*fns, small, shapes[1], IMAGES)
    old, new = fns[0](small, IMAGES), fns[1](plan.grow(small, key=0), IMAGES)
    assert jnp.abs(new - old).max() < 1e-12 * jnp.abs(old).max() > 0
