"""Rules by the size of a leaf: Adafactor's factors, LAMB, LARS, adaptive clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def factored(bug=None):
    """Adafactor's second moment."""

    def factory(decay_rate=0.8, min_dim_size_to_factor=8, epsilon=1e-30):
        def two(shape):
            if len(shape) < 2:
                return None
            order = np.argsort(shape)
            d1, d0 = int(order[-2]), int(order[-1])
            return (d1, d0) if shape[d1] >= min_dim_size_to_factor else None

        def init(params):
            def leaf(p):
                d = two(p.shape)
                if d is None:
                    return (jnp.zeros(p.shape, f32),)
                drop = lambda ax: tuple(s for i, s in enumerate(p.shape) if i != ax)
                return (jnp.zeros(drop(d[1]), f32), jnp.zeros(drop(d[0]), f32))

            return {
                "calls": jnp.zeros((), jnp.int32),
                "v": [leaf(p) for p in jax.tree.leaves(params)],
            }

        def update(grads, st, params=None):
            t = st["calls"].astype(f32) + (2 if bug == "late" else 1)
            b = 1 - t**-decay_rate
            gs, tree = jax.tree.flatten(grads)
            out, new = [], []
            for g, v in zip(gs, st["v"], strict=True):
                dtype, g = g.dtype, g.astype(f32)
                sq = g * g + epsilon
                d = two(g.shape)
                if d is None:
                    v = (b * v[0] + (1 - b) * sq,)
                    u = g / jnp.sqrt(v[0])
                else:
                    d1, d0 = d
                    row = b * v[0] + (1 - b) * jnp.mean(sq, axis=d0)
                    col = b * v[1] + (1 - b) * jnp.mean(sq, axis=d1)
                    red = d1 - 1 if d1 > d0 else d1
                    mean = jnp.mean(row, axis=red, keepdims=True)
                    if bug == "mean_all":
                        mean = jnp.mean(row) * jnp.ones_like(mean)
                    if bug == "sum":
                        mean = jnp.sum(row, axis=red, keepdims=True)
                    u = (
                        g
                        * jnp.expand_dims((row / mean) ** -0.5, d0)
                        * jnp.expand_dims(col**-0.5, d1)
                    )
                    v = (row, col)
                out.append(u.astype(dtype))
                new.append(v)
            return jax.tree.unflatten(tree, out), {"calls": st["calls"] + 1, "v": new}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "factored",
    factored,
    {
        "late": "the decay is one step ahead",
        "mean_all": "normalised by the mean over the stack",
        "sum": "normalised by a sum instead of a mean",
    },
    like="scale_by_factored_rms",
    h={"min_dim_size_to_factor": 8, "decay_rate": 0.8},
    claims={"factored": 8},
)


def lamb(bug=None):
    def factory(learning_rate=1e-2, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01):
        adam = optax.scale_by_adam(b1, b2, eps)

        def init(params):
            return adam.init(params)

        def update(grads, state, params):
            u, state = adam.update(grads, state, params)
            raw = u
            u = tmap(lambda u, p: u + weight_decay * p, u, params)
            norm = lambda x: jnp.linalg.norm(x.astype(f32).ravel())
            gp, gu = optax.global_norm(params).astype(f32), optax.global_norm(u).astype(f32)

            def leaf(u, p, r):
                a, b = norm(p), norm(r if bug == "no_decay_norm" else u)
                if bug == "global":
                    a, b = gp, gu
                ok = (a > 0) & (b > 0)
                ratio = jnp.where(ok, a / jnp.where(ok, b, 1.0), 0.0 if bug == "zero" else 1.0)
                if bug == "inverse":
                    ratio = jnp.where(ok, b / jnp.where(ok, a, 1.0), 1.0)
                return (-learning_rate * ratio * u).astype(u.dtype)

            return tmap(leaf, u, params, raw), state

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "lamb",
    lamb,
    {
        "no_decay_norm": "the norm is taken before the decay",
        "global": "one ratio for all leaves",
        "zero": "ratio 0 for a leaf of zeros: it never moves",
        "inverse": "ratio upside down",
    },
    like="lamb",
    h={"learning_rate": 1e-2, "weight_decay": 0.01},
)


def lars(bug=None):
    def factory(learning_rate=0.1, momentum=0.9, trust_coefficient=0.01, weight_decay=1e-4):
        def init(params):
            return [zeros(params)]

        def update(grads, state, params):
            (buf,) = state

            def local(g, p):
                a = jnp.linalg.norm(p.ravel())
                b = jnp.linalg.norm(g.ravel()) + weight_decay * a
                g = g + weight_decay * p
                ok = (a > 0) & (b > 0)
                ratio = jnp.where(ok, trust_coefficient * a / jnp.where(ok, b, 1), 1.0)
                return (learning_rate * ratio).astype(g.dtype) * g

            if bug == "ratio_after":
                buf = tmap(lambda m, g: momentum * m + g, buf, grads)
                return tmap(lambda m, p: -local(m, p), buf, params), [buf]
            step = tmap(local, grads, params)
            buf = tmap(lambda m, s: momentum * m + s, buf, step)
            if bug == "nesterov":
                return tmap(lambda m, s: -(momentum * m + s), buf, step), [buf]
            return tmap(jnp.negative, buf), [buf]

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "lars",
    lars,
    {
        "ratio_after": "momentum before the trust ratio",
        "nesterov": "Nesterov's momentum, not asked for",
    },
    like="lars",
    h={"learning_rate": 0.1, "weight_decay": 1e-4, "trust_coefficient": 0.01, "momentum": 0.9},
)


def agc(bug=None):
    def factory(clipping=0.05, eps=1e-3):
        def unit(x):
            x = x.astype(f32)
            if x.ndim <= 1 or sum(s != 1 for s in x.shape) <= 1:
                return jnp.linalg.norm(x.ravel()).reshape((1,) * x.ndim)
            axis = tuple(range(x.ndim - 1))
            if bug == "axis":
                axis = tuple(range(1, x.ndim))
            return jnp.sqrt(jnp.sum(x * x, axis=axis, keepdims=True))

        def update(grads, state, params):
            def leaf(g, p):
                most = clipping * (unit(p) if bug == "no_eps" else jnp.maximum(unit(p), eps))
                n = unit(g)
                if bug == "always":
                    return (g * most / jnp.maximum(n, 1e-6)).astype(g.dtype)
                return jnp.where(n < most, g, g * (most / jnp.maximum(n, 1e-6))).astype(g.dtype)

            return tmap(leaf, grads, params), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    return factory


CASES.add(
    "agc",
    agc,
    {
        "axis": "norms over the outputs",
        "no_eps": "a zero parameter never moves",
        "always": "short gradients are made longer",
    },
    like="adaptive_grad_clip",
    h={"clipping": 0.05},
)


def centralized(bug=None):
    """Gradient centralisation before SGD: the mean over all but the output axis."""

    def factory():
        def update(grads, state, params=None):
            def leaf(g):
                if g.ndim < 2:
                    return g
                axes = tuple(range(g.ndim - 1))
                if bug == "outputs":
                    axes = (g.ndim - 1,)
                if bug == "all":
                    axes = None
                return g - jnp.mean(g, axis=axes, keepdims=True)

            return tmap(leaf, grads), state

        return optax.GradientTransformation(lambda p: (), update)

    return factory


CASES.add(
    "centralized",
    centralized,
    {
        "outputs": "the mean over the output axis",
        "all": "the mean over the whole leaf",
    },
    like="centralize",
)
