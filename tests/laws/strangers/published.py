"""Prodigy, DoG, MARS, Adan and AdEMAMix."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def prodigy(bug=None):
    def factory(learning_rate=1.0, betas=(0.9, 0.999), eps=1e-8, estim_lr0=1e-6):
        b1, b2 = betas

        def init(params):
            return {
                "d": jnp.asarray(estim_lr0, f32),
                "r": jnp.zeros((), f32),
                "s": zeros(params, f32),
                "m": zeros(params, f32),
                "v": zeros(params, f32),
                "x0": tmap(jnp.array, params),
            }

        def update(grads, st, params):
            g32 = tmap(lambda g: g.astype(f32), grads)
            d, b3 = st["d"], b2**0.5
            if bug == "beta3":
                b3 = b2
            m = tmap(lambda m, g: b1 * m + (1 - b1) * d * g, st["m"], g32)
            v = tmap(lambda v, g: b2 * v + (1 - b2) * d * d * g * g, st["v"], g32)
            if bug == "v_power":
                v = tmap(lambda v, g: b2 * v + (1 - b2) * d * g * g, st["v"], g32)
            gap = tmap(lambda a, p: a.astype(f32) - p.astype(f32), st["x0"], params)
            if bug == "x0_sign":
                gap = tmap(jnp.negative, gap)
            dot = sum(
                jnp.sum(a * b)
                for a, b in zip(jax.tree.leaves(g32), jax.tree.leaves(gap), strict=True)
            )
            r = b3 * st["r"] + (1 - b3) * learning_rate * d * d * dot
            s = tmap(lambda s, g: b3 * s + (1 - b3) * learning_rate * d * d * g, st["s"], g32)
            norm = sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(s))
            hat = jnp.where(norm > 0, r / jnp.where(norm > 0, norm, 1.0), 0.0)
            new_d = hat if bug == "no_max" else jnp.maximum(d, hat)
            u = tmap(
                lambda m, v, g: jnp.where(
                    m == 0, 0.0, -learning_rate * d * m / (jnp.sqrt(v) + d * eps)
                ).astype(g.dtype),
                m,
                v,
                grads,
            )
            return u, {"d": new_d, "r": r, "s": s, "m": m, "v": v, "x0": st["x0"]}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "prodigy",
    prodigy,
    {
        "beta3": "the estimate decays by b2 instead of its root",
        "x0_sign": "distance from x0 with the wrong sign",
        "v_power": "d once instead of twice in the second moment",
    },
    like="prodigy",
    h={"learning_rate": 1.0},
)


def dog(bug=None):
    """Distance over gradients, the authors' first step."""

    class S(NamedTuple):
        start: Any
        far: Any
        total: Any

    def factory(learning_rate=1.0, reps_rel=1e-4, eps=1e-8):
        def norm(t):
            return jnp.sqrt(sum(jnp.sum(x.astype(f32) ** 2) for x in jax.tree.leaves(t)))

        def init(params):
            return S(tmap(jnp.array, params), reps_rel * (1 + norm(params)), jnp.zeros((), f32))

        def update(grads, state, params):
            gap = tmap(lambda p, a: p.astype(f32) - a.astype(f32), params, state.start)
            far = jnp.maximum(state.far, norm(gap))
            if bug == "last":
                far = jnp.maximum(reps_rel, norm(gap))
            total = state.total + norm(grads) ** 2
            if bug == "mean":
                total = norm(grads) ** 2
            if bug == "per_leaf":
                u = tmap(
                    lambda g: (
                        -learning_rate
                        * far
                        / jnp.sqrt(total + eps)
                        * g
                        / (1e-8 + jnp.sqrt(jnp.mean(g.astype(f32) ** 2)))
                        * 0.1
                    ).astype(g.dtype),
                    grads,
                )
                return u, S(state.start, far, total)
            u = tmap(
                lambda g: (-learning_rate * far / jnp.sqrt(total + eps) * g).astype(g.dtype), grads
            )
            return u, S(state.start, far, total)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "dog",
    dog,
    {
        "last": "the last distance instead of the largest",
        "mean": "only the last gradient in the sum",
        "per_leaf": "each leaf normalised by itself",
    },
    like="dog",
    h={"learning_rate": 1.0, "init_step": ("heuristic", 1e-4), "eps": 1e-8},
)


def mars(bug=None):
    def factory(learning_rate=3e-3, b1=0.95, b2=0.99, eps=1e-8, gamma=0.025):
        def init(params):
            return {
                "k": jnp.zeros((), jnp.int32),
                "m": zeros(params, f32),
                "v": zeros(params, f32),
                "last": zeros(params, f32),
            }

        def update(grads, st, params=None):
            k = st["k"] + 1
            g32 = tmap(lambda g: g.astype(f32), grads)
            sign = -1 if bug == "sign" else 1

            def corrected(g, last):
                c = g + sign * gamma * b1 / (1 - b1) * jnp.where(k > 1, g - last, 0.0)
                if bug == "first":
                    c = g + gamma * b1 / (1 - b1) * (g - last)
                if bug == "no_clip":
                    return c
                return c / jnp.maximum(1.0, jnp.linalg.norm(c))

            c = tmap(corrected, g32, st["last"])
            m = tmap(lambda m, c: b1 * m + (1 - b1) * c, st["m"], c)
            v = tmap(lambda v, c: b2 * v + (1 - b2) * c * c, st["v"], c)
            u = tmap(
                lambda m, v, g: (
                    -learning_rate * m / (1 - b1**k) / (jnp.sqrt(v / (1 - b2**k)) + eps)
                ).astype(g.dtype),
                m,
                v,
                grads,
            )
            return u, {"k": k, "m": m, "v": v, "last": c if bug == "last_c" else g32}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "mars",
    mars,
    {
        "sign": "the correction with the wrong sign",
        "first": "at the first step the last gradient counts as 0",
        "no_clip": "not clipped",
        "last_c": "the corrected gradient is kept as the last one",
    },
    like="mars",
    h={"learning_rate": 3e-3},
)


def adan(bug=None):
    def factory(learning_rate=1e-3, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, weight_decay=0.02):
        def init(params):
            z = lambda: zeros(params, f32)
            return (jnp.int32(0), z(), z(), z(), z())

        def update(grads, state, params):
            k, m, v, n, last = state
            g32 = tmap(lambda g: g.astype(f32), grads)
            diff = tmap(lambda g, x: jnp.where(k > 0, g - x, 0.0), g32, last)
            k = k + 1
            m = tmap(lambda m, g: b1 * m + (1 - b1) * g, m, g32)
            v = tmap(lambda v, d: b2 * v + (1 - b2) * d, v, diff)
            look = 1.0 if bug == "look" else b2
            n = tmap(lambda n, g, d: b3 * n + (1 - b3) * (g + look * d) ** 2, n, g32, diff)

            def step(m, v, n, p, g):
                m, v, n = m / (1 - b1**k), v / (1 - b2**k), n / (1 - b3**k)
                mix = 1 - b2 if bug == "mix" else b2
                u = learning_rate * (m + mix * v) / (jnp.sqrt(n) + eps)
                p = p.astype(f32)
                if bug == "decay_outside":
                    return (-(u + weight_decay * p)).astype(g.dtype)
                decay = learning_rate * weight_decay
                return (-(u + decay * p) / (1 + decay)).astype(g.dtype)

            return tmap(step, m, v, n, params, grads), (k, m, v, n, g32)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "adan",
    adan,
    {
        "look": "no factor before the difference in the second moment",
        "mix": "1 - b2 where the paper's 1 - beta2 is b2",
        "decay_outside": "decay without the learning rate",
    },
    like="adan",
    h={"learning_rate": 1e-3, "weight_decay": 0.02, "eps_root": 0.0},
)


def ademamix(bug=None):
    class State(NamedTuple):
        n: Any
        fast: Any
        slow: Any
        second: Any

    def factory(learning_rate=1e-3, b1=0.9, b2=0.999, b3=0.9999, alpha=6.0, eps=1e-8):
        def init(params):
            return State(
                jnp.zeros((), jnp.int32), zeros(params, f32), zeros(params, f32), zeros(params, f32)
            )

        def update(grads, st, params=None):
            n = optax.safe_increment(st.n)
            ema = lambda b, t, x: tmap(lambda a, y: b * a + (1 - b) * y.astype(f32), t, x)
            fast, slow = ema(b1, st.fast, grads), ema(b3, st.slow, grads)
            second = ema(b2, st.second, tmap(lambda g: g.astype(f32) ** 2, grads))
            c3 = 1 - b3**n if bug == "slow_corrected" else 1.0
            a = 5.0 if bug == "alpha_fixed" else alpha

            def step(m1, m2, v, g):
                u = (m1 / (1 - b1**n) + a * m2 / c3) / (jnp.sqrt(v / (1 - b2**n)) + eps)
                return (-learning_rate * u).astype(g.dtype)

            return tmap(step, fast, slow, second, grads), State(n, fast, slow, second)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "ademamix",
    ademamix,
    {
        "slow_corrected": "the slow average is corrected too",
        "alpha_fixed": "alpha= has no effect",
    },
    like="ademamix",
    h={"learning_rate": 1e-3, "b3": 0.9999, "alpha": 6.0},
)
