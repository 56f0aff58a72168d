"""Lookahead, a cautious mask, accumulation and a guard."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def lookahead(bug=None):
    class State(NamedTuple):
        inner: Any
        slow: Any
        ticks: Any

    def factory(inner=None, sync_period=5, slow_step_size=0.5):
        inner = inner or optax.adam(0.01)

        def init(params):
            return State(inner.init(params), tmap(jnp.array, params), jnp.zeros((), jnp.int32))

        def update(grads, state, params):
            u, inside = inner.update(grads, state.inner, params)
            ticks = state.ticks + 1
            sync = ticks == sync_period
            fast = tmap(lambda p, u: p + u, params, u)
            slow = tmap(lambda s, f: s + slow_step_size * (f - s), state.slow, fast)
            u = tmap(lambda u, s, p: jnp.where(sync, s - p, u), u, slow, params)
            kept = (
                state.slow
                if bug == "slow_kept"
                else tmap(lambda a, b: jnp.where(sync, a, b), slow, state.slow)
            )
            if bug == "second_period":
                ticks = jnp.where(sync, 1, ticks)
            elif bug == "once":
                pass
            else:
                ticks = jnp.where(sync, 0, ticks)
            return u, State(inside, kept, ticks)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "lookahead",
    lookahead,
    {
        "slow_kept": "slow weights never move",
        "second_period": "later periods are one step short",
        "once": "synchronises once only",
    },
    like="lookahead",
    h={"inner": optax.adam(0.01), "sync_period": 5, "slow_step_size": 0.5},
)


def cautious(bug=None):
    def factory():
        inner = optax.adam(1e-3)

        def update(grads, state, params=None):
            u, state = inner.update(grads, state, params)

            def leaf(u, g):
                mask = (u * g > 0) if bug == "inverted" else (u * g < 0)
                if bug == "no_scale":
                    return u * mask
                scale = (u.size / (jnp.sum(mask) + 1)).astype(u.dtype)
                return u * mask * scale

            if bug == "global":
                masks = tmap(lambda u, g: u * g < 0, u, grads)
                n = sum(x.size for x in jax.tree.leaves(u))
                k = sum(jnp.sum(x) for x in jax.tree.leaves(masks)) + 1
                return tmap(lambda u, m: u * m * (n / k).astype(u.dtype), u, masks), state
            return tmap(leaf, u, grads), state

        return optax.GradientTransformation(inner.init, update)

    return factory


CASES.add(
    "cautious",
    cautious,
    {
        "inverted": "the entries that agree are left out",
        "no_scale": "not scaled up again",
        "global": "one scale for all leaves",
    },
    like="cautious",
    h={"inner": optax.adam(1e-3)},
)


def accumulate(bug=None):
    """Means with weights: `weight` is the number of examples of a micro-batch."""

    class State(NamedTuple):
        inner: Any
        total: Any
        weight: Any
        i: Any

    def factory(k=4):
        inner = optax.adam(1e-2)

        def init(params):
            return State(
                inner.init(params), zeros(params, f32), jnp.zeros((), f32), jnp.zeros((), jnp.int32)
            )

        def update(grads, state, params=None, *, weight=1.0, **extra):
            del extra
            w = jnp.asarray(1.0 if bug == "unweighted" else weight, f32)
            total = tmap(lambda t, g: t + w * g.astype(f32), state.total, grads)
            weights = state.weight + w
            i = state.i + 1
            last = i == k
            over = jnp.asarray(k, f32) if bug == "over_k" else weights
            mean = tmap(
                lambda t, g: (t / jnp.where(over > 0, over, 1)).astype(g.dtype), total, grads
            )
            u, inside = inner.update(mean, state.inner, params)
            u = tmap(lambda u: jnp.where(last, u, 0), u)
            pick = lambda a, b: tmap(lambda x, y: jnp.where(last, x, y), a, b)
            inside = inside if bug == "inner_moves" else pick(inside, state.inner)
            total = total if bug == "not_reset" else pick(zeros(total), total)
            weights = jnp.where(last, 0.0, weights)
            if bug == "second_window":
                i = jnp.where(last, 1, i)
            else:
                i = jnp.where(last, 0, i)
            return u, State(inside, total, weights, i)

        return optax.GradientTransformationExtraArgs(init, update)

    return factory


CASES.add(
    "accumulate",
    accumulate,
    {
        "unweighted": "weight= is accepted and ignored",
        "over_k": "divided by the number of micro-batches",
        "inner_moves": "the inner state moves in every micro-step",
        "not_reset": "the last window stays in the sum",
        "second_window": "later windows are one micro-batch short",
    },
    claims={"accumulation": {"k": 4, "inner": optax.adam(1e-2), "weight": "weight"}},
)


def guard(bug=None):
    """Skips non-finite gradients, lets the sixth in a row by."""

    class State(NamedTuple):
        inner: Any
        bad: Any

    def factory(limit=5):
        inner = optax.adam(1e-2)

        def init(params):
            return State(inner.init(params), jnp.zeros((), jnp.int32))

        def update(grads, state, params=None):
            leaves = jax.tree.leaves(grads)
            if bug == "first_leaf":
                leaves = leaves[:1]
            ok = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in leaves]))
            if bug == "nan_only":
                ok = ~jnp.any(jnp.array([jnp.any(jnp.isnan(g)) for g in leaves]))
            bad = jnp.where(ok, 0, state.bad + 1)
            if bug == "total":
                bad = state.bad + jnp.where(ok, 0, 1)
            go = ok | (bad > limit)
            if bug == "limit":
                go = ok | (bad >= limit)
            u, inside = inner.update(grads, state.inner, params)
            u = tmap(lambda u: jnp.where(go, u, 0), u)
            if bug != "inner_poisoned":
                inside = tmap(lambda a, b: jnp.where(go, a, b), inside, state.inner)
            if bug == "times_zero":
                u = tmap(lambda x: x * go, inner.update(grads, state.inner, params)[0])
            return u, State(inside, bad)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "guard",
    guard,
    {
        "first_leaf": "only the first leaf is looked at",
        "nan_only": "infinity is let by",
        "total": "counts all bad gradients, not those in a row",
        "limit": "lets the fifth by",
        "inner_poisoned": "the inner state takes the bad gradient",
        "times_zero": "NaN times 0",
    },
    claims={"guard": 5},
)
