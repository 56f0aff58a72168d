"""Accumulation, guards, masks, averages and lookahead, as their users write them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def micro(bug=None):
    def factory(k=4):
        inner = optax.adamw(3e-3, weight_decay=0.0)

        def init(params):
            return {"in": inner.init(params), "sum": zeros(params, f32), "n": jnp.int32(0)}

        def update(grads, state, params=None):
            total = tmap(lambda s, g: s + g.astype(f32), state["sum"], grads)
            full = state["n"] + 1 >= k
            mean = tmap(lambda s, g: (s / k).astype(g.dtype), total, grads)
            step, advanced = inner.update(mean, state["in"], params)
            pick = lambda a, b: tmap(lambda x, y: jnp.where(full, x, y), a, b)
            rest = tmap(lambda g: g.astype(f32), grads) if bug == "leftover" else zeros(grads, f32)
            return pick(step, zeros(grads)), {
                "in": advanced if bug == "inner_each" else pick(advanced, state["in"]),
                "sum": pick(rest, total),
                "n": jnp.where(full, 0, state["n"] + 1),
            }

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "micro",
    micro,
    {
        "leftover": "a window begins with the last gradient of the one before",
        "inner_each": "the inner rule's state moves at every micro-step",
    },
    claims={"accumulation": {"k": 4, "inner": optax.adamw(3e-3, weight_decay=0.0)}},
)


def slow_weights(bug=None):
    class Look(NamedTuple):
        inside: Any
        anchor: Any
        t: Any

    def factory(period=4, alpha=0.3):
        inner = optax.sgd(0.1, momentum=0.5)

        def init(params):
            return Look(inner.init(params), tmap(jnp.copy, params), jnp.zeros([], jnp.int32))

        def update(grads, state, params):
            u, inside = inner.update(grads, state.inside, params)
            t = optax.safe_increment(state.t)

            def home(_):
                a = 1 - alpha if bug == "swapped" else alpha
                new = tmap(lambda s, p, u: s + a * (p + u - s), state.anchor, params, u)
                return tmap(lambda n, p: n - p, new, params), new

            u, anchor = jax.lax.cond(t % period == 0, home, lambda _: (u, state.anchor), None)
            return u, Look(inside, anchor, t)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "slow_weights",
    slow_weights,
    {"swapped": "alpha and 1 - alpha exchanged"},
    like="lookahead",
    h={"inner": optax.sgd(0.1, momentum=0.5), "sync_period": 4, "slow_step_size": 0.3},
)


def finite_only(bug=None):
    def factory(patience=3):
        inner = optax.adam(1e-2)

        def init(params):
            return inner.init(params), jnp.zeros([], jnp.int32)

        def update(grads, state, params=None):
            inside, bad = state
            leaves = jax.tree.leaves(grads)
            leaves = leaves[:1] if bug == "first_leaf" else leaves
            fine = jnp.bool_(True)
            for x in leaves:
                test = ~jnp.isnan(x) if bug == "infinity_passes" else jnp.isfinite(x)
                fine = fine & jnp.all(test)
            bad = jnp.where(fine, 0, optax.safe_increment(bad))
            go = fine | (bad > patience)
            return jax.lax.cond(
                go,
                lambda: _with(inner.update(grads, inside, params), bad),
                lambda: (zeros(grads), (inside, bad)),
            )

        def _with(pair, bad):
            return pair[0], (pair[1], bad)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "finite_only",
    finite_only,
    {"first_leaf": "looks at the first leaf only"},
    like="apply_if_finite",
    h={"inner": optax.adam(1e-2), "max_consecutive_errors": 3},
)
CASES.add(
    "finite_only by claim",
    finite_only,
    {"infinity_passes": "lets infinities by"},
    claims={"guard": 3},
)


def frozen(bug=None):
    matrix = lambda params: tmap(lambda p: p.ndim > 1, params)

    def factory(rate=0.1, momentum=0.9):
        def init(params):
            return [jnp.zeros_like(p) if p.ndim > 1 else () for p in jax.tree.leaves(params)]

        def update(grads, state, params=None):
            gs, tree = jax.tree.flatten(grads)
            out, new = [], []
            for g, s in zip(gs, state, strict=True):
                if g.ndim > 1:
                    s = g + momentum * s
                    out.append(-rate * s)
                else:
                    out.append(jnp.zeros_like(g) if bug == "zeroed" else g)
                new.append(s)
            return tree.unflatten(out), new

        return optax.GradientTransformation(init, update)

    return factory, matrix


CASES.add(
    "frozen",
    lambda bug=None: frozen(bug)[0],
    {"zeroed": "what is masked out becomes zero and does not pass"},
    like="masked",
    h={"inner": optax.sgd(0.1, momentum=0.9), "mask": frozen()[1]},
)


def schedule_free(bug=None):
    class Free(NamedTuple):
        z: Any
        weight: Any

    def factory(rate=0.1, beta=0.9):
        def init(params):
            return Free(tmap(jnp.copy, params), jnp.zeros([], f32))

        def update(grads, state, params):
            b = 1 - beta if bug == "swapped" else beta
            w = rate**2
            total = state.weight + w
            c = w / total

            def leaf(y, z, g):
                dt = y.dtype
                x = (y - (1 - b) * z) / b
                z1 = z - rate * g
                x1 = x + c.astype(dt) * (z1 - x)
                return (1 - b) * z1 + b * x1 - y, z1

            ys, tree = jax.tree.flatten(params)
            both = [
                leaf(y, z, g)
                for y, z, g in zip(
                    ys, jax.tree.leaves(state.z), jax.tree.leaves(grads), strict=True
                )
            ]
            return tree.unflatten([u for u, _ in both]), Free(
                tree.unflatten([z for _, z in both]), total
            )

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "schedule_free",
    schedule_free,
    {"swapped": "gradients are taken near the sequence, not near its average"},
    like="schedule_free_sgd",
    h={"learning_rate": 0.1, "b1": 0.9},
)


def averaged_gradient(bug=None):
    def factory(decay=0.9):
        def init(params):
            return zeros(params), jnp.zeros([], jnp.int32)

        def update(grads, state, params=None):
            mean, n = state
            mean = tmap(lambda m, g: decay * m + (1 - decay) * g, mean, grads)
            n = optax.safe_increment(n)
            t = n + 1 if bug == "one_late" else n
            out = tmap(lambda m: m / (1 - decay**t).astype(m.dtype), mean)
            return out, (mean, n)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "averaged_gradient",
    averaged_gradient,
    {"one_late": "the correction is one step ahead"},
    like="ema",
    h={"decay": 0.9, "debias": True},
)


def careful(bug=None):
    def factory():
        inner = optax.lion(1e-3, weight_decay=0.0)

        def init(params):
            return {"inner": inner.init(params), "g": zeros(params)}

        def update(grads, state, params=None):
            u, inside = inner.update(grads, state["inner"], params)
            against = state["g"] if bug == "last_gradient" else grads
            masks = tmap(lambda u, g: (u * g < 0).astype(u.dtype), u, against)
            u = tmap(lambda u, m: u * m * (u.size / (m.sum() + 1)), u, masks)
            return u, {"inner": inside, "g": grads}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "careful",
    careful,
    {"last_gradient": "asks the gradient of the step before"},
    like="cautious",
    h={"inner": optax.lion(1e-3, weight_decay=0.0)},
)


def running_mean(bug=None):
    def factory(every=3):
        inner = optax.rmsprop(1e-2)

        def init(params):
            return (jnp.zeros([], jnp.int32), zeros(params), inner.init(params))

        def update(grads, state, params=None):
            i, acc, inside = state
            n = i + 2 if bug == "denominator" else i + 1
            acc = tmap(lambda a, g: a + (g - a) / n.astype(g.dtype), acc, grads)
            emit = i == every - 1
            u, moved = inner.update(acc, inside, params)
            either = lambda a, b: tmap(lambda x, y: jax.lax.select(emit, x, y), a, b)
            i = (i + 1) % every
            return either(u, zeros(u)), (i, either(zeros(acc), acc), either(moved, inside))

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "running_mean",
    running_mean,
    {"denominator": "the running mean divides by one too many"},
    like="MultiSteps",
    h={"opt": optax.rmsprop(1e-2), "every_k_schedule": 3},
)
