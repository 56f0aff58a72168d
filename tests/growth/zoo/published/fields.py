"""Functions of coordinates, densities, physics, labels of sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.growth.zoo.building import FLAT, draw, layer_norm
from tests.growth.zoo.published.making import (
    gelu,
    model,
    relu,
    sigmoid,
    silu,
    softplus,
)


@model(
    "field", "siren",
    lambda d, e: {"in": (7, d), "b": (d,), "w": (d, e), "b2": (e,), "out": (e, 3)},
    {"d": 4, "e": 5}, "d e", inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    return jnp.sin(30 * jnp.sin(30 * (x @ p["in"] + p["b"])) @ p["w"] + p["b2"]) @ p["out"]


@model(
    "field", "nerf",
    lambda d, c: {"w0": (21, d), "w1": (d, d), "w2": (d + 21, d), "sigma": (d, 1), "f": (d, c),
                  "rgb": (c + 3, c), "out": (c, 3)},
    {"d": 4, "c": 3}, "d c",
)  # fmt: skip
def _(p, s, x):
    """Fourier features of places, a skip, density and colour, alpha compositing along the ray."""
    f = 2.0 ** jnp.arange(3)
    angles = (x[..., None, :] * f[:, None]).reshape(*x.shape[:-1], -1)
    enc = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], -1)
    h = relu(relu(enc @ p["w0"]) @ p["w1"])
    h = relu(jnp.concatenate([enc, h], -1) @ p["w2"])
    alpha = 1 - jnp.exp(-relu(h @ p["sigma"])[..., 0] * 0.3)
    rgb = sigmoid(relu(jnp.concatenate([h @ p["f"], x], -1) @ p["rgb"]) @ p["out"])
    through = jnp.cumprod(jnp.concatenate([jnp.ones((2, 1)), 1 - alpha[:, :-1] + 1e-10], 1), 1)
    return ((alpha * through)[..., None] * rgb).sum(1)


@model(
    "field", "film and hypernetwork",
    lambda d, c, r: {"c": (3, c), "gb": (c, 2 * d), "in": (3, d), "h1": (c, d * r),
                     "h2": (c, r * d), "hb": (c, d), "out": (d, 2)},
    {"d": 4, "c": 3, "r": 2}, "d c r",
)  # fmt: skip
def _(p, s, x):
    c = jnp.tanh(x[:, 0] @ p["c"])
    gamma, beta = jnp.split((c @ p["gb"])[:, None], 2, -1)
    y = relu((1 + gamma) * (x @ p["in"]) + beta)
    down = (c @ p["h1"]).reshape(-1, s["d"], s["r"])
    up = (c @ p["h2"]).reshape(-1, s["r"], s["d"])
    return gelu(jnp.matmul(jnp.matmul(y, down), up) + (c @ p["hb"])[:, None]) @ p["out"]


@model(
    "field", "mixture density",
    lambda d, k: {"in": (7, d), "pi": (d, k), "mu": (d, k * 2), "s": (d, k)},
    {"d": 4, "k": 3}, "d k", inputs=FLAT,
    refused=("k x2", "all x2", "k x3", "all x3", "k x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    h = jnp.tanh(x @ p["in"])
    log_pi = jax.nn.log_softmax(h @ p["pi"])
    mu = (h @ p["mu"]).reshape(-1, s["k"], 2)
    sigma = softplus(h @ p["s"]) + 1e-3
    z = (x[:, None, :2] - mu) / sigma[..., None]
    log_n = -0.5 * (z**2).sum(-1) - 2 * jnp.log(sigma)
    return -jax.nn.logsumexp(log_pi + log_n, -1)


@model(
    "field", "splines",
    lambda d, e: {"c0": (7, d, 6), "b0": (7, d), "c1": (d, e, 6), "b1": (d, e), "out": (e, 2)},
    {"d": 4, "e": 3}, "d e", inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    """KAN: every edge a cubic spline on a fixed grid, and a silu."""
    grid = np.linspace(-4, 4, 10)

    def layer(x, c, b):
        t = x[..., None]
        basis = jnp.where((t >= grid[:-1]) & (t < grid[1:]), 1.0, 0.0)
        for k in range(1, 4):
            left = (t - grid[: -k - 1]) / (grid[k:-1] - grid[: -k - 1]) * basis[..., :-1]
            right = (grid[k + 1 :] - t) / (grid[k + 1 :] - grid[1:-k]) * basis[..., 1:]
            basis = left + right
        return jnp.einsum("big,ijg->bj", basis, c) + silu(x) @ b

    return layer(layer(x, p["c0"], p["b0"]), p["c1"], p["b1"]) @ p["out"]


@model(
    "implicit", "neural ode",
    lambda d, h: {"in": (7, d), "w1": (d + 1, h), "b1": (h,), "w2": (h, d), "out": (d, 2)},
    {"d": 4, "h": 5}, "d h", inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    """Runge-Kutta by a scan over times, the time appended to the state."""

    def f(y, t):
        y = jnp.concatenate([y, jnp.full((*y.shape[:-1], 1), t)], -1)
        return jnp.tanh(y @ p["w1"] + p["b1"]) @ p["w2"]

    def step(y, t):
        k1 = f(y, t)
        k2 = f(y + 0.05 * k1, t + 0.05)
        k3 = f(y + 0.05 * k2, t + 0.05)
        k4 = f(y + 0.1 * k3, t + 0.1)
        return y + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    y, _ = jax.lax.scan(step, x @ p["in"], jnp.linspace(0, 1, 4))
    return y @ p["out"]


@model(
    "implicit", "energy gradient",
    lambda d, e: {"in": (7, d), "b": (d,), "w": (d, e), "g": (e,), "bg": (e,), "out": (e,)},
    {"d": 4, "e": 5}, "d e", inputs=FLAT, refused=("e x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Forces: the gradient of a network's scalar by its input, and a divergence."""

    def energy(v):
        h = softplus(v @ p["in"] + p["b"])
        return jnp.tanh(layer_norm(h @ p["w"], p["g"], p["bg"])) @ p["out"]

    force = jax.vmap(jax.grad(energy))(x)
    trace = jax.vmap(lambda v: jnp.trace(jax.hessian(energy)(v)))(x)
    return jnp.concatenate([force, trace[:, None]], -1)


@model(
    "field", "hamiltonian",
    lambda d, e: {"in": (6, d), "w": (d, e), "b": (e,), "out": (e, 1)},
    {"d": 4, "e": 3}, "d e", inputs=(draw(6, 4, 6),),
)  # fmt: skip
def _(p, s, x):
    """Leapfrog with gradients of a learned Hamiltonian, by a loop."""
    h = lambda z: (jnp.tanh(jnp.sin(z @ p["in"]) @ p["w"] + p["b"]) @ p["out"]).sum()

    def step(_, z):
        q, m = jnp.split(z, 2, -1)
        g = jax.grad(h)(z)
        m = m - 0.05 * g[:, :3]
        q = q + 0.1 * jax.grad(h)(jnp.concatenate([q, m], -1))[:, 3:]
        return jnp.concatenate([q, m], -1)

    for i in range(2):
        x = step(i, x)
    return x


@model(
    "implicit", "inner step",
    lambda d: {"in": (7, d), "b": (d,), "out": (d, 2)},
    {"d": 4}, "d", inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    """MAML: one step of gradient descent inside, on half of the batch."""

    def loss(p):
        y = jnp.tanh(x[:3] @ p["in"] + p["b"]) @ p["out"]
        return ((y - x[:3, :2]) ** 2).mean()

    p = jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss)(p))
    return jnp.tanh(x[3:] @ p["in"] + p["b"]) @ p["out"]


@model(
    "recurrent", "tagger with a field",
    lambda d: {"w": (3, 4 * d), "u": (d, 4 * d), "em": (2 * d, 4), "tr": (4, 4)},
    {"d": 4}, "d",
)  # fmt: skip
def _(p, s, x):
    """A two-way LSTM, and the log-likelihood of a conditional random field."""

    def lstm(x, reverse):
        def step(carry, t):
            c, h = carry
            i, f, g, o = jnp.split(t @ p["w"] + h @ p["u"], 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
            h = sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        zero = jnp.zeros((x.shape[1], s["d"]))
        return jax.lax.scan(step, (zero, zero), x, reverse=reverse)[1]

    t = jnp.swapaxes(x, 0, 1)
    e = jnp.concatenate([lstm(t, False), lstm(t, True)], -1) @ p["em"]

    def forward(alpha, e):
        return jax.nn.logsumexp(alpha[:, :, None] + p["tr"], 1) + e, None

    alpha, _ = jax.lax.scan(forward, e[0], e[1:])
    path = jnp.argmax(e, -1)
    score = jnp.take_along_axis(e, path[..., None], -1)[..., 0].sum(0)
    score = score + p["tr"][path[:-1], path[1:]].sum(0)
    return jax.nn.logsumexp(alpha, -1) - score


@model(
    "recurrent", "speech with ctc",
    lambda d: {"in": (3, d), "conv": (3, d, d), "g": (d,), "b": (d,), "out": (d, 5)},
    {"d": 4}, "d",
)  # fmt: skip
def _(p, s, x):
    x = gelu(layer_norm(x @ p["in"], p["g"], p["b"]))
    y = jax.lax.conv_general_dilated(
        x, p["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    logits = (x + jax.nn.glu(jnp.concatenate([y, y], -1))) @ p["out"]
    labels = jnp.array([[1, 2], [3, 0]])
    return optax.ctc_loss(logits, jnp.zeros((2, 5)), labels, (labels == 0).astype(logits.dtype))
