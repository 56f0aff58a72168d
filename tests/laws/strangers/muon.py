"""Muon in three styles: by path and stack, with AdamW for the rest, and in bfloat16."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, pairs, tmap, zeros

CASES = Cases()


def jordan(x, steps=5):
    """Quintic Newton-Schulz, on the short side."""
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if flip else x


class MuonState(NamedTuple):
    mu: Any


def muon(bug=None):
    def factory(learning_rate=0.02, momentum=0.95, nesterov=True, stacked=None):
        def one(x):
            if x.size == 0:
                return x
            rows, cols = x.shape
            size = max(1.0, (rows / cols if bug == "transposed" else cols / rows)) ** 0.5
            if bug == "mean_side":
                size = max(1.0, cols / rows)
            if bug == "row_norm":
                x = x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-7)
            return size * jordan(x)

        def leaf(path, x):
            path = jax.tree_util.keystr(path, simple=True, separator="/")
            axes = 0
            for pattern, n in (stacked or {}).items():
                if re.search(pattern, path):
                    axes = n
            dtype, x = x.dtype, x.astype(f32)
            if x.ndim - axes != 2:
                return (-learning_rate * x).astype(dtype)
            if bug == "stack_flat":
                flat = x.reshape((-1, x.shape[-1]))
                return (-learning_rate * one(flat).reshape(x.shape)).astype(dtype)
            if bug == "stack_norm" and axes and x.size:
                whole = jnp.linalg.norm(x)
                f = lambda y: max(1.0, y.shape[1] / y.shape[0]) ** 0.5 * raw(y / whole)
            else:
                f = one
            if path.split("/")[-1] == "qkv" and bug != "fused_one":
                g = f
                f = lambda y: jnp.concatenate([g(z) for z in jnp.split(y, 3, axis=1)], axis=1)
            for _ in range(axes):
                f = jax.vmap(f)
            return (-learning_rate * f(x)).astype(dtype)

        def raw(x):
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            return x

        def init(params):
            return MuonState(zeros(params))

        def update(grads, state, params=None):
            del params
            if bug == "after":
                steps = jax.tree_util.tree_map_with_path(leaf, grads)
                mu = tmap(lambda m, u: momentum * m + u, state.mu, steps)
                return mu, MuonState(mu)
            mu = tmap(lambda m, g: momentum * m + g, state.mu, grads)
            use = nesterov and bug != "nesterov"
            out = tmap(lambda m, g: momentum * m + g, mu, grads) if use else mu
            return jax.tree_util.tree_map_with_path(leaf, out), MuonState(mu)

        return optax.GradientTransformation(init, update)

    return factory


def muon_claims(factory):
    return {
        "orthogonal": True,
        "transposes": True,
        "shape factor": "sqrt(max(1, out/in))",
        "singular values": (0.02 * 0.5, 0.02 * 1.4),
        "fused": {"qkv": 3},
        "stacked": lambda stacks: factory(stacked=stacks),
        "hyperparameters": ["momentum", "nesterov"],
    }


CASES.add(
    "muon",
    muon,
    {
        "transposed": "shape factor in/out instead of out/in",
        "mean_side": "shape factor without its root",
        "row_norm": "rows normalised before the iteration: not orthogonally equivariant",
        "stack_flat": "a stack of kernels flattened to one matrix",
        "stack_norm": "the norm of the whole stack, not of a layer",
        "fused_one": "QKV orthogonalised as one matrix",
        "after": "momentum of the orthogonalised gradients",
        "nesterov": "nesterov= has no effect",
    },
    claims=muon_claims,
)


def muon_adamw(bug=None):
    """As the paper has it: matrices by Muon, the others by AdamW, decay on everything."""

    def factory(learning_rate=0.02, beta=0.9, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1):
        def init(params):
            return {
                "step": jnp.zeros((), jnp.int32),
                "m": zeros(params, f32),
                "v": zeros(params, f32),
            }

        def update(grads, state, params):
            t = state["step"] + 1
            is2 = lambda p: p.ndim == 2
            if bug == "vectors_too":
                is2 = lambda p: p.ndim in (1, 2)

            def leaf(g, m, v, p):
                dtype, g = g.dtype, g.astype(f32)
                if is2(p):
                    m = beta * m + (1 - beta) * g
                    x = beta * m + (1 - beta) * g
                    if x.ndim == 1:
                        x = x[None]
                    size = max(1.0, x.shape[1] / max(1, x.shape[0])) ** 0.5
                    u = (size * jordan(x)).reshape(p.shape) if x.size else jnp.zeros(p.shape, f32)
                else:
                    m = b1 * m + (1 - b1) * g
                    v = b2 * v + (1 - b2) * g * g
                    c = t - 1 if bug == "adam_count" else t
                    u = m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2 ** jnp.maximum(c, 1))) + eps)
                decay = weight_decay * (learning_rate if bug == "decay_twice" else 1.0)
                decay = -decay if bug == "decay_sign" else decay
                u = -learning_rate * (u + decay * p.astype(f32))
                return u.astype(dtype), m, v

            trees = tmap(leaf, grads, state["m"], state["v"], params)
            u, m, v = pairs(trees, grads, 3)
            return u, {"step": t, "m": m, "v": v}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "muon_adamw",
    muon_adamw,
    {
        "decay_twice": "decay times the learning rate twice",
        "decay_sign": "decay that grows the weights",
    },
    claims=lambda f: {"decoupled decay": 0.002, "shape factor": "sqrt(max(1, out/in))"},
)
CASES.add(
    "muon_paper",
    muon_adamw,
    {
        "vectors_too": "a bias is orthogonalised as a row",
        "adam_count": "the second moment of the Adam half is corrected with the last step's count",
    },
    claims=lambda f: {
        "scope": {
            "matrix|row": functools.partial(f, weight_decay=0.1),
            "": optax.adamw(0.02, b2=0.99, weight_decay=0.1),
        }
    },
)


def muon_bf16(bug=None):
    """Speed-run style: a class, Newton-Schulz in bfloat16, layers found by rank."""

    class Muon:
        def __init__(self, lr=0.02, mu=0.95):
            self.lr, self.mu = lr, mu
            self.calls = 0

        def init(self, params):
            return (zeros(params, jnp.bfloat16 if bug == "bf16_momentum_lost" else f32),)

        def update(self, grads, state, params=None):
            (buf,) = state
            if bug == "python_count":
                self.calls += 1
                mu = self.mu if self.calls > 2 else 0.5
            else:
                mu = self.mu
            buf = tmap(lambda b, g: (mu * b + (1 - mu) * g).astype(b.dtype), buf, grads)

            def leaf(b, g):
                if b.ndim < 2 or b.size == 0:
                    return (-self.lr * jnp.sign(b)).astype(g.dtype)
                f = lambda x: jordan(x.astype(jnp.bfloat16)).astype(f32)
                for _ in range(b.ndim - 2):
                    f = jax.vmap(f)
                rows, cols = b.shape[-2:]
                if bug == "stack_axes":
                    rows, cols = b.shape[:2]
                u = -self.lr * max(1.0, cols / rows) ** 0.5 * f(b)
                return u if bug == "out_dtype" else u.astype(g.dtype)

            return tmap(leaf, buf, grads), (buf,)

    def factory(lr=0.02, mu=0.95):
        rule = Muon(lr, mu)
        return optax.GradientTransformation(rule.init, rule.update)

    return factory


CASES.add(
    "muon_bf16",
    muon_bf16,
    {
        "python_count": "momentum warm-up counted in a Python attribute",
        "out_dtype": "float32 updates for bfloat16 gradients",
    },
    claims={
        "shape factor": "sqrt(max(1, out/in))",
        "singular values": (0.01, 0.028),
        "transposes": True,
    },
)
