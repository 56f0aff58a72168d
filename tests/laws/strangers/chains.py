"""Masks, noise, averages, a chain, and a plateau."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap

CASES = Cases()


def masked_decay(bug=None):
    """AdamW whose decay leaves out vectors, by a mask of Booleans."""

    def factory():
        adam = optax.scale_by_adam()
        mask = lambda tree: tmap(lambda p: p.ndim >= 2, tree)

        def update(grads, state, params):
            u, state = adam.update(grads, state, params)
            m = mask(params)
            if bug == "inverted":
                m = tmap(lambda x: not x, m)
            if bug == "scalars":
                m = tmap(lambda p: p.ndim >= 1, params)
            u = tmap(lambda u, p, on: -0.01 * (u + (0.1 * p if on else 0)), u, params, m)
            return u, state

        return optax.GradientTransformation(adam.init, update)

    return factory


CASES.add(
    "masked_decay",
    masked_decay,
    {
        "inverted": "the mask upside down",
        "scalars": "vectors are decayed",
    },
    like="adamw",
    h={
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "mask": lambda tree: jax.tree.map(lambda p: p.ndim >= 2, tree),
    },
)


def noisy(bug=None):
    class State(NamedTuple):
        key: Any
        t: Any

    def factory(eta=0.5, gamma=0.55, seed=3):
        def init(params):
            return State(jax.random.PRNGKey(seed), jnp.zeros((), jnp.int32))

        def update(grads, state, params=None):
            key, sub = jax.random.split(state.key)
            if bug == "key_kept":
                key = state.key
            t = state.t + 1
            var = eta / t.astype(f32) ** gamma
            std = var if bug == "variance" else jnp.sqrt(var)
            leaves, tree = jax.tree.flatten(grads)
            keys = (
                [sub] * len(leaves) if bug == "leaves_alike" else jax.random.split(sub, len(leaves))
            )
            out = [
                (g + std * jax.random.normal(k, g.shape, f32)).astype(g.dtype)
                for g, k in zip(leaves, keys, strict=True)
            ]
            if bug == "uniform":
                out = [
                    (g + std * (12**0.5) * (jax.random.uniform(k, g.shape, f32) - 0.5)).astype(
                        g.dtype
                    )
                    for g, k in zip(leaves, keys, strict=True)
                ]
            return jax.tree.unflatten(tree, out), State(key, t)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "noisy",
    noisy,
    {
        "key_kept": "the same noise at every step",
        "leaves_alike": "one key for all leaves",
        "variance": "the variance used as standard deviation",
        "uniform": "uniform instead of Gaussian noise",
    },
    claims={"noise": lambda step: (0.5 / step**0.55) ** 0.5},
)


def private(bug=None):
    """Clips each example and takes the mean, no noise."""

    def factory(l2_norm_clip=1.0):
        def update(grads, state, params=None):
            leaves = jax.tree.leaves(grads)
            n = leaves[0].shape[0]
            sq = sum(jnp.sum(g.astype(f32).reshape(n, -1) ** 2, axis=1) for g in leaves)
            scale = jnp.minimum(1.0, l2_norm_clip / jnp.maximum(jnp.sqrt(sq), 1e-12))

            def leaf(g):
                if bug == "mean_first":
                    return jnp.mean(g, axis=0)
                s = scale.reshape((n,) + (1,) * (g.ndim - 1))
                if bug == "per_leaf":
                    norm = jnp.sqrt(jnp.sum(g.astype(f32).reshape(n, -1) ** 2, axis=1))
                    s = jnp.minimum(1.0, l2_norm_clip / jnp.maximum(norm, 1e-12)).reshape(s.shape)
                return jnp.mean(g * s, axis=0).astype(g.dtype)

            u = tmap(leaf, grads)
            if bug == "mean_first":
                norm = jnp.sqrt(sum(jnp.sum(x.astype(f32) ** 2) for x in jax.tree.leaves(u)))
                u = tmap(lambda x: (x * jnp.minimum(1.0, l2_norm_clip / norm)).astype(x.dtype), u)
            return u, state

        return optax.GradientTransformation(lambda p: (), update)

    return factory


CASES.add(
    "private",
    private,
    {
        "mean_first": "the mean is clipped, not the examples",
        "per_leaf": "leaves are clipped by themselves",
    },
    like="differentially_private_aggregate",
    h={"l2_norm_clip": 1.0, "noise_multiplier": 0.0, "key": 0},
)


def averaged(bug=None):
    """Keeps an exponential average of the parameters in the state."""

    class State(NamedTuple):
        inner: Any
        ema: Any
        n: Any

    def factory(lr=0.1, decay=0.99):
        inner = optax.sgd(lr, momentum=0.9)
        seen = {"n": 0}

        def init(params):
            ema = params if bug == "aliased" else tmap(jnp.array, params)
            return State(inner.init(params), ema, jnp.zeros((), jnp.int32))

        def update(grads, state, params):
            u, inside = inner.update(grads, state.inner, params)
            new = optax.apply_updates(params, u)
            seen["n"] += 1
            n = seen["n"] if bug == "python_count" else state.n + 1
            d = (
                jnp.minimum(decay, (1 + n) / (10 + n))
                if bug != "python_count"
                else min(decay, (1 + n) / (10 + n))
            )
            ema = tmap(lambda e, p: (d * e + (1 - d) * p).astype(p.dtype), state.ema, new)
            return u, State(inside, ema, state.n + 1)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "averaged",
    averaged,
    {
        "aliased": "the average is the caller's own buffers",
        "python_count": "the warm-up of the average counts in a closure",
    },
)


def clipped_chain(bug=None):
    """A chain as people write it."""

    def factory(peak=1e-2):
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, 5, 50)
        parts = [
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(b2=0.95),
            optax.add_decayed_weights(0.1),
            optax.scale_by_learning_rate(schedule),
        ]
        if bug == "decay_first":
            parts = [parts[2], parts[0], parts[1], parts[3]]
        if bug == "clip_last":
            parts = [*parts[1:], parts[0]]
        if bug == "sign":
            parts[3] = optax.scale_by_schedule(schedule)
        return optax.chain(*parts)

    return factory


def chain_like(_):
    return {"decoupled decay": True, "descends": True}


CASES.add(
    "clipped_chain",
    clipped_chain,
    {
        "decay_first": "decay through the moments",
        "sign": "goes uphill",
    },
    claims=chain_like,
)


def plateau(bug=None):
    class State(NamedTuple):
        scale: Any
        best: Any
        bad: Any
        pause: Any

    def factory(factor=0.5, patience=3, cooldown=2, rtol=0.0, atol=0.01):
        def init(params):
            return State(
                jnp.ones((), f32),
                jnp.asarray(jnp.inf, f32),
                jnp.zeros((), jnp.int32),
                jnp.zeros((), jnp.int32),
            )

        def update(grads, state, params=None, *, value, **extra):
            value = jnp.asarray(value, f32)
            better = value < state.best - atol
            best = jnp.where(better, value, state.best)
            bad = jnp.where(better, 0, state.bad + 1)
            waiting = state.pause > 0
            bad = jnp.where(waiting & (bug != "no_cooldown"), 0, bad)
            pause = jnp.where(waiting, state.pause - 1, 0)
            cut = bad > patience if bug == "late" else bad >= patience
            scale = jnp.where(cut, state.scale * factor, state.scale)
            pause = jnp.where(cut, cooldown, pause)
            bad = bad if bug == "no_reset" else jnp.where(cut, 0, bad)
            return tmap(lambda g: (scale * g).astype(g.dtype), grads), State(
                scale, best, bad, pause
            )

        return optax.GradientTransformationExtraArgs(init, update)

    return factory


CASES.add(
    "plateau",
    plateau,
    {
        "late": "waits one step too long",
        "no_cooldown": "cooldown= has no effect",
        "no_reset": "cuts at every step after the first cut",
    },
    like="reduce_on_plateau",
    h={"factor": 0.5, "patience": 3, "cooldown": 2, "rtol": 0.0, "atol": 0.01},
)
