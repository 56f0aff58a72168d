"""Small odd constructions, one trap each: growth keeps the function or refuses, and never errs."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo import registry
from tests.growth.zoo.building import FLAT, IMAGE, SEQUENCE, draw, functions, heads, rms, rotate


def model(family, name, shapes, base, grown, inputs=FLAT):
    """Adds `fn(params, sizes, *inputs)`; a variant called "refused" must be refused."""

    def keep(fn):
        refused = {variant: "" for variant in grown if variant == "refused"}
        build = functions(fn, shapes)
        registry.add("odd", family, name, build, base, grown, inputs, refused=refused)
        return fn

    return keep


@model(
    "convolution",
    "padshort",
    lambda a, b: {"in": (3, a), "c": (3, 3, a, b), "out": (b, 2)},
    {"a": 4, "b": 6},
    {"both": {"a": 8, "b": 12}, "a3": {"a": 12, "b": 18}},
    IMAGE,
)
def _(p, s, x):
    x = jax.nn.relu(x @ p["in"])
    k = (s["b"] - s["a"]) // 2
    y = jax.lax.conv_general_dilated(
        x, p["c"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return (jnp.pad(x, ((0, 0),) * 3 + ((k, k),)) + jax.nn.relu(y)).mean((1, 2)) @ p["out"]


@model(
    "convolution",
    "later places",
    lambda d: {"k": (3, 3, 3, d), "w": (d, 5), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 7}},
    IMAGE,
)
def _(p, s, x):
    """What is read of a convolution is not its first row."""
    y = jax.lax.conv_general_dilated(
        x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first, rest = y[:, :1], y[:, 1:]
    return jnp.tanh(rest @ p["w"]).sum((1, 2, 3))[:, None] + rms(first, 1.0).sum((1, 2)) @ p["out"]


@model(
    "perceptron",
    "maxout",
    lambda d, k: {"in": (7, d * k), "out": (d, 2)},
    {"d": 4, "k": 3},
    {"d": {"d": 6}},
)
def _(p, s, x):
    return (x @ p["in"]).reshape(-1, s["d"], s["k"]).max(-1) @ p["out"]


@model(
    "perceptron",
    "hyper",
    lambda d, h: {"in": (7, d), "h": (7, h), "w": (h, d * d), "out": (d, 2)},
    {"d": 4, "h": 3},
    {"d": {"d": 8}, "h": {"h": 5}, "odd": {"d": 6}},
)
def _(p, s, x):
    z = jnp.tanh(x @ p["in"])
    w = (jnp.tanh(x @ p["h"]) @ p["w"]).reshape(-1, s["d"], s["d"])
    return (z + jnp.tanh(jnp.einsum("bi,bij->bj", z, w))) @ p["out"]


@model(
    "operation",
    "ddof",
    lambda d: {"in": (7, d), "g": (d,), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}},
)
def _(p, s, x):
    x = x @ p["in"]
    return (
        (x - x.mean(-1, keepdims=True))
        / (x.std(-1, ddof=1, keepdims=True) + 0.001)
        * p["g"]
        @ p["out"]
    )


@model(
    "perceptron",
    "sqrelu",
    lambda d: {"in": (7, d), "b": (d,), "out": (d, 2), "s": ()},
    {"d": 4},
    {"d": {"d": 7}},
)
def _(p, s, x):
    return x[:, :2] + p["s"] * jax.nn.relu(x @ p["in"] + p["b"]) ** 2 @ p["out"]


@model(
    "perceptron",
    "outer",
    lambda a, b, c: {"a": (7, a), "b": (7, b), "w": (a * b, c), "out": (c, 2)},
    {"a": 4, "b": 3, "c": 5},
    {"a": {"a": 8}, "b": {"b": 5}, "ab": {"a": 6, "b": 6}, "c": {"c": 6}},
)
def _(p, s, x):
    o = (x @ p["a"])[:, :, None] * (x @ p["b"])[:, None, :]
    return jax.nn.gelu(o.reshape(x.shape[0], -1) @ p["w"]) @ p["out"]


@model(
    "recurrent",
    "s4d complex",
    lambda d, n: {
        "in": (3, d),
        "lr": (d, n),
        "li": (d, n),
        "cr": (d, n),
        "ci": (d, n),
        "out": (d, 2),
    },
    {"d": 4, "n": 3},
    {"d": {"d": 7}, "n": {"n": 6}},
    SEQUENCE,
)
def _(p, s, x):
    u = x @ p["in"]
    lam = jax.lax.complex(-jnp.exp(p["lr"]), p["li"])
    c = jax.lax.complex(p["cr"], p["ci"])
    k = jnp.einsum("dn,dnt->dt", c, jnp.exp(lam[..., None] * jnp.arange(5).astype(lam.dtype))).real
    uf = jnp.fft.rfft(u, n=10, axis=1)
    kf = jnp.fft.rfft(k, n=10, axis=1)
    y = jnp.fft.irfft(uf * kf.T[None], n=10, axis=1)[:, :5]
    return jax.nn.gelu(y) @ p["out"]


@model(
    "attention",
    "fnet time",
    lambda d: {"in": (3, d), "g": (d,), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}},
    SEQUENCE,
)
def _(p, s, x):
    x = x @ p["in"]
    return rms(x + jnp.fft.fft(x, axis=1).real, p["g"]) @ p["out"]


@model(
    "implicit",
    "deq while",
    lambda d: {"in": (7, d), "w": (d, d), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 7}},
)
def _(p, s, x):
    """A fixed point found without gradients, and one step with them."""
    u = x @ p["in"]
    w, v = jax.lax.stop_gradient((p["w"], u))

    def step(carry):
        return carry[0] + 1, jnp.tanh(carry[1] @ w + v)

    z = jax.lax.while_loop(lambda carry: carry[0] < 3, step, (0, jnp.zeros_like(u)))[1]
    return jnp.tanh(z @ p["w"] + u) @ p["out"]


@model(
    "implicit",
    "fori cond switch",
    lambda d: {"in": (7, d), "w": (3, d, d), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 6}},
)
def _(p, s, x):
    u = x @ p["in"]
    z = jax.lax.fori_loop(0, 3, lambda i, z: jnp.tanh(z @ p["w"][i] + u), u)
    z = jax.lax.cond(x[0, 0] > 0, lambda z: z @ p["w"][0], lambda z: jnp.tanh(z), z)
    z = jax.lax.map(lambda a: jnp.tanh(a), z)
    return z @ p["out"]


@model(
    "perceptron",
    "ensemble",
    lambda e, d: {"in": (e, 7, d), "out": (e, d, 2)},
    {"e": 3, "d": 4},
    {"e": {"e": 6}, "d": {"d": 7}, "e5": {"e": 5}},
)
def _(p, s, x):
    return jax.vmap(lambda a, b: jnp.tanh(x @ a) @ b)(p["in"], p["out"]).mean(0)


@model(
    "relation",
    "edgeconv",
    lambda d, f: {"in": (7, d), "w": (2 * d, f), "out": (f, 2)},
    {"d": 4, "f": 5},
    {"d": {"d": 8}, "f": {"f": 8}},
)
def _(p, s, x):
    h = x @ p["in"]
    D = ((h[:, None] - h[None]) ** 2).sum(-1)
    _, i = jax.lax.top_k(-D, 2)
    n = h[i]
    e = jnp.concatenate([jnp.broadcast_to(h[:, None], n.shape), n - h[:, None]], -1)
    return jax.nn.relu(e @ p["w"]).max(1) @ p["out"]


@model(
    "attention",
    "cosine attn",
    lambda d, h, hd: {
        "in": (3, d),
        "q": (d, h * hd),
        "k": (d, h * hd),
        "v": (d, h * hd),
        "t": (h,),
        "o": (h * hd, 2),
    },
    {"d": 4, "h": 2, "hd": 3},
    {"d": {"d": 8}, "h": {"h": 4}, "hd": {"hd": 6}, "odd hd": {"hd": 4}},
    SEQUENCE,
)
def _(p, s, x):
    x = x @ p["in"]
    q, k, v = (heads(x @ p[n], s["h"]) for n in "qkv")
    q, k = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (q, k))
    w = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * jnp.exp(p["t"])[:, None, None])
    return jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(*x.shape[:2], -1) @ p["o"]


@model(
    "attention",
    "retnet",
    lambda h, hd: {"q": (3, h * hd), "k": (3, h * hd), "v": (3, h * hd), "o": (h * hd, 2)},
    {"h": 2, "hd": 3},
    {"refused": {"h": 4}, "hd": {"hd": 6}},
    SEQUENCE,
)
def _(p, s, x):
    g = 1 - 2.0 ** (-5 - np.arange(s["h"]))
    D = np.tril(np.ones((5, 5))) * g[:, None, None] ** np.abs(
        np.arange(5)[:, None] - np.arange(5)[None]
    )
    q, k, v = (heads(x @ p[n], s["h"]) for n in "qkv")
    y = jnp.einsum("bqhd,bkhd,hqk->bhqk", q, k, jnp.asarray(D, x.dtype))
    y = jnp.einsum("bhqk,bkhd->bqhd", y, v)
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-05)
    return y.reshape(2, 5, -1) @ p["o"]


@model(
    "attention",
    "partial rotary",
    lambda h, hd: {"q": (3, h * hd), "k": (3, h * hd), "v": (3, h * hd), "o": (h * hd, 2)},
    {"h": 2, "hd": 8},
    {"h": {"h": 4}, "hd": {"hd": 16}, "both": {"h": 4, "hd": 16}},
    SEQUENCE,
)
def _(p, s, x):
    q, k, v = (heads(x @ p[n], s["h"]) for n in "qkv")
    r = s["hd"] // 2
    q, k = (jnp.concatenate([rotate(z[..., :r]), z[..., r:]], -1) for z in (q, k))
    w = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / s["hd"] ** 0.5)
    return jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(2, 5, -1) @ p["o"]


@model(
    "operation", "roll channels", lambda d: {"in": (7, d), "out": (d, 2)}, {"d": 4}, {"d": {"d": 8}}
)
def _(p, s, x):
    return jnp.tanh(jnp.roll(x @ p["in"], 1, -1)) @ p["out"]


@model(
    "operation",
    "flip channels",
    lambda d: {"in": (7, d), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "refused": {"d": 6}},
)
def _(p, s, x):
    h = jnp.tanh(x @ p["in"])
    return (h * h[:, ::-1] + jnp.sin(h)[:, ::-1]) @ p["out"]


@model(
    "operation",
    "flip parts",
    lambda d: {"in": (7, 2, d), "gate": (2 * d,), "out": (d * 2, 2)},
    {"d": 2},
    {"d": {"d": 4}, "three": {"d": 6}, "refused": {"d": 3}},
)
def _(p, s, x):
    h = jnp.tanh(jnp.einsum("bf,fpd->bpd", x, p["in"]))
    turned = jnp.concatenate([h[:, 1], h[:, 0]], -1)[:, ::-1]
    return (turned * p["gate"][::-1] * h[:, :, ::-1].reshape(len(x), -1)) @ p["out"]


@model(
    "perceptron",
    "glu interleaved",
    lambda d: {"in": (7, 2 * d), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 7}},
)
def _(p, s, x):
    y = x @ p["in"]
    return jax.nn.sigmoid(y[:, ::2]) * y[:, 1::2] @ p["out"]


@model(
    "perceptron",
    "glu stacked",
    lambda d: {"in": (7, 2, d), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 7}},
)
def _(p, s, x):
    y = jnp.einsum("bi,ijd->bjd", x, p["in"])
    return jax.nn.silu(y[:, 0]) * y[:, 1] @ p["out"]


@model(
    "attention",
    "qkv 3hd",
    lambda d, h, hd: {"in": (3, d), "qkv": (d, 3, h, hd), "o": (h, hd, 2)},
    {"d": 4, "h": 2, "hd": 3},
    {"d": {"d": 8}, "h": {"h": 4}, "hd": {"hd": 6}, "all": {"d": 8, "h": 4, "hd": 6}},
    SEQUENCE,
)
def _(p, s, x):
    q, k, v = jnp.moveaxis(jnp.einsum("btd,dnhe->btnhe", x @ p["in"], p["qkv"]), 2, 0)
    w = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / s["hd"] ** 0.5)
    return jnp.einsum("bhqk,bkhd,hdo->bqo", w, v, p["o"])


@model(
    "attention",
    "qkv h3d",
    lambda d, h, hd: {"in": (3, d), "qkv": (d, h * 3 * hd), "o": (h * hd, 2)},
    {"d": 4, "h": 2, "hd": 3},
    {"d": {"d": 8}, "h": {"h": 4}, "hd": {"hd": 6}, "all": {"d": 8, "h": 4, "hd": 6}},
    SEQUENCE,
)
def _(p, s, x):
    y = (x @ p["in"] @ p["qkv"]).reshape(2, 5, s["h"], 3 * s["hd"])
    q, k, v = jnp.split(y, 3, -1)
    w = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / s["hd"] ** 0.5)
    return jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(2, 5, -1) @ p["o"]


@model(
    "operation",
    "dropout",
    lambda d: {"in": (7, d), "out": (d, 2)},
    {"d": 4},
    {"refused": {"d": 8}},
    FLAT,
)
def _(p, s, x):
    y = jnp.tanh(x @ p["in"])
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, y.shape), y, 0) @ p["out"]


@model(
    "convolution",
    "patches",
    lambda c: {"in": (3, c), "w": (4 * c, 2)},
    {"c": 3},
    {"c": {"c": 6}},
    IMAGE,
)
def _(p, s, x):
    x = jnp.tanh(x @ p["in"])
    y = jax.lax.conv_general_dilated_patches(
        x, (2, 2), (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y @ p["w"]


@model(
    "mixture",
    "scatter moe",
    lambda d, f: {"in": (7, d), "r": (d, 3), "u": (3, d, f), "w": (3, f, d), "out": (d, 2)},
    {"d": 4, "f": 5},
    {"d": {"d": 8}, "f": {"f": 8}},
)
def _(p, s, x):
    h = x @ p["in"]
    g = jax.nn.softmax(h @ p["r"])
    e = jnp.argmax(g, -1)
    o = jnp.argsort(e)
    hs = h[o]
    n = jnp.bincount(e, length=3)
    y = jax.lax.ragged_dot(jax.nn.gelu(jax.lax.ragged_dot(hs, p["u"], n)), p["w"], n)
    z = jnp.zeros_like(h).at[o].add(y)
    return (h + z * jnp.take_along_axis(g, e[:, None], 1)) @ p["out"]


@model(
    "recurrent",
    "gated rnn unrolled",
    lambda d: {"w": (3, 4 * d), "u": (d, 4 * d), "b": (4 * d,), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 7}},
    SEQUENCE,
)
def _(p, s, x):
    h = c = jnp.zeros((x.shape[0], s["d"]), x.dtype)
    for t in range(5):
        i, g, f_, o = jnp.split(x[:, t] @ p["w"] + h @ p["u"] + p["b"], 4, -1)
        c = jax.nn.sigmoid(f_ + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h @ p["out"]


@model(
    "relation",
    "tri mult",
    lambda c, d: {"a": (3, c), "b": (3, c), "o": (c, d), "out": (d, 2)},
    {"c": 4, "d": 5},
    {"c": {"c": 6}, "d": {"d": 8}},
    (draw(8, 4, 4, 3),),
)
def _(p, s, x):
    y = jnp.einsum("ikc,jkc->ijc", x @ p["a"], jax.nn.sigmoid(x @ p["b"]))
    return jax.nn.relu(y @ p["o"]) @ p["out"]


@model(
    "operation",
    "softmax over width",
    lambda d: {"in": (7, d), "v": (d, 4)},
    {"d": 4},
    {"d": {"d": 8}, "refused": {"d": 6}},
)
def _(p, s, x):
    return jax.nn.softmax(x @ p["in"], -1) @ p["v"]


@model(
    "operation",
    "max over width",
    lambda d: {"in": (7, d), "w": (1, 3)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 6}},
)
def _(p, s, x):
    return (x @ p["in"]).max(-1, keepdims=True) @ p["w"]


@model(
    "operation",
    "mean over width",
    lambda d: {"in": (7, d), "w": (1, 3)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 6}},
)
def _(p, s, x):
    return jnp.tanh(x @ p["in"]).mean(-1, keepdims=True) @ p["w"]


@model(
    "operation",
    "logsumexp experts",
    lambda d: {"in": (7, d), "w": (1, 3)},
    {"d": 4},
    {"refused": {"d": 8}},
)
def _(p, s, x):
    return jax.nn.logsumexp(x @ p["in"], -1, keepdims=True) @ p["w"]


@model(
    "operation",
    "layer weights by width",
    lambda d: {"in": (7, d), "s": (d,), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "refused": {"d": 6}},
)
def _(p, s, x):
    return jnp.tanh(x @ p["in"]) * jax.nn.softmax(p["s"]) @ p["out"]


@model(
    "convolution",
    "ws conv",
    lambda c: {"k": (3, 3, 3, c), "k2": (3, 3, c, 5), "g": (5,), "o": (5, 2)},
    {"c": 4},
    {"c": {"c": 8}},
    IMAGE,
)
def _(p, s, x):

    def ws(k):
        mu = k.mean((0, 1, 2))
        v = k.var((0, 1, 2))
        return (k - mu) * jax.lax.rsqrt(jnp.maximum(v * float(np.prod(k.shape[:3])), 0.0001))

    c = lambda x, k: jax.lax.conv_general_dilated(
        x, ws(k), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return (jax.nn.relu(c(jax.nn.relu(c(x, p["k"])), p["k2"])) * p["g"]).mean((1, 2)) @ p["o"]


@model(
    "perceptron",
    "sigma reparam",
    lambda d: {"in": (7, d), "w": (d, 5), "u": (d,), "g": (), "out": (5, 2)},
    {"d": 4},
    {"d": {"d": 8}},
)
def _(p, s, x):
    u = p["u"] / jnp.linalg.norm(p["u"])
    v = u @ p["w"]
    sg = jnp.linalg.norm(v)
    return jnp.tanh(jnp.tanh(x @ p["in"]) @ (p["w"] / sg * p["g"])) @ p["out"]


@model(
    "perceptron",
    "rezero norm free",
    lambda d: {"in": (7, d), "w": (d, d), "a": (), "out": (d, 2)},
    {"d": 4},
    {"d": {"d": 8}, "odd": {"d": 6}},
)
def _(p, s, x):
    x = x @ p["in"]
    for _ in range(2):
        x = x + p["a"] * jax.nn.relu(x @ p["w"])
    return x @ p["out"]


@model(
    "field",
    "fourier features const",
    lambda d: {"in": (7, d), "out": (2 * d, 2)},
    {"d": 4},
    {"d": {"d": 8}},
)
def _(p, s, x):
    z = x @ p["in"]
    return jnp.concatenate([jnp.sin(z), jnp.cos(z)], -1) @ p["out"]


@model(
    "convolution",
    "groups across a seam",
    lambda a, b: {
        "a": (3, a), "b": (3, b), "scale": (a + b,), "bias": (a + b,), "out": (a + b, 2),
        "skip": (a, 2),
    },
    {"a": 5, "b": 3},
    {"x2": {"a": 10, "b": 6}, "x3": {"a": 15, "b": 9}, "refused": {"a": 9, "b": 7}},
    IMAGE,
)  # fmt: skip
def _(p, s, x):
    """The up path of a U-Net: GroupNorm over a concatenation whose parts are no whole groups."""
    a, b = jnp.tanh(x @ p["a"]), jnp.tanh(x @ p["b"])
    y = jnp.concatenate([a, b], -1)
    groups = y.reshape(*y.shape[:-1], 4, -1)
    axes = (1, 2, 4)
    centred = groups - groups.mean(axes, keepdims=True)
    y = (centred * jax.lax.rsqrt((centred**2).mean(axes, keepdims=True) + 1e-5)).reshape(y.shape)
    y = jax.nn.silu(y * p["scale"] + p["bias"])
    return (y @ p["out"] + a @ p["skip"]).mean((1, 2))
