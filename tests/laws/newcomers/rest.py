"""Schedules, and rules for one coordinate, as their users write them."""

import math

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, tmap, zeros

CASES = Cases()


def warm_cosine(bug=None):
    def factory():
        low, high, up, total, end = 0.0, 0.4, 20, 120, 0.04

        def rate(step):
            step = jnp.asarray(step, f32)
            rising = low + (high - low) * step / up
            span = total if bug == "long_tail" else total - up
            x = jnp.clip((step - up) / span, 0, 1)
            falling = end + (high - end) * (1 + jnp.cos(jnp.pi * x)) / 2
            return jnp.where(step < up, rising, falling)

        return rate

    return factory


CASES.add(
    "warm_cosine",
    warm_cosine,
    {"long_tail": "the cosine runs over all steps, not those after the warm-up"},
    like="warmup_cosine_decay_schedule",
    h={"init_value": 0.0, "peak_value": 0.4, "warmup_steps": 20, "decay_steps": 120,
       "end_value": 0.04},
    schedule=True,
)  # fmt: skip


def stairs(bug=None):
    def factory():
        def rate(step):
            step = jnp.asarray(step, f32)
            x = step / 10 if bug == "no_begin" else jnp.maximum(step - 7, 0) / 10
            return 0.5 * 0.8 ** jnp.floor(x)

        return rate

    return factory


CASES.add(
    "stairs",
    stairs,
    {"no_begin": "begins at once"},
    like="exponential_decay",
    h={"init_value": 0.5, "transition_steps": 10, "decay_rate": 0.8, "transition_begin": 7,
       "staircase": True},
    schedule=True,
)  # fmt: skip


def drops(bug=None):
    def factory():
        at = jnp.array([30, 60, 80])

        def rate(step):
            passed = step > at if bug == "late" else step >= at
            return 0.1 * 0.5 ** jnp.sum(passed).astype(f32)

        return rate

    return factory


CASES.add(
    "drops",
    drops,
    {"late": "drops one step late"},
    like="piecewise_constant_schedule",
    h={"init_value": 0.1, "boundaries_and_scales": {30: 0.5, 60: 0.5, 80: 0.5}},
    schedule=True,
)


def plateau_then_down(bug=None):
    """Warm-up, stable, decay by 1 − √x."""

    def factory():
        up, stay, down, top = 10, 50, 25, 0.2

        def rate(step):
            t = jnp.asarray(step, f32)
            offset = 3 if bug == "jump" else 0
            x = jnp.clip((t - stay + offset * (t > stay)) / down, 0, 1)
            return jnp.where(t < up, top * t / up, top * (1 - x))

        return rate

    return factory


CASES.add(
    "plateau_then_down",
    plateau_then_down,
    {"jump": "the decay begins three steps in"},
    claims={"start": 0.0, "end": 0.0, "peak": (10, 0.2), "non-negative": True, "continuous": 0.021},
    schedule=True,
)


def inverse_root(bug=None):
    def factory():
        def rate(step):
            if bug == "python_branch":
                return 0.1 if step < 100 else 0.1 * math.sqrt(100 / step)
            return 0.1 * jnp.sqrt(100 / jnp.maximum(step, 100))

        return rate

    return factory


CASES.add(
    "inverse_root",
    inverse_root,
    {"python_branch": "branches on the count"},
    claims={"non-increasing": True, "non-negative": True, "start": 0.1},
    schedule=True,
)


def sign_of_mixture(bug=None):
    def factory(learning_rate=1e-3, b1=0.9, b2=0.95):
        def update(grads, m, params):
            u = tmap(lambda m, g: -learning_rate * jnp.sign(b1 * m + (1 - b1) * g), m, grads)
            b = b1 if bug == "same_beta" else b2
            return u, tmap(lambda m, g: b * m + (1 - b) * g, m, grads)

        return optax.GradientTransformation(zeros, update)

    return factory


CASES.add(
    "sign_of_mixture",
    sign_of_mixture,
    {"same_beta": "the momentum is kept with b1"},
    like="lion",
    h={"learning_rate": 1e-3, "b1": 0.9, "b2": 0.95, "weight_decay": 0.0},
)


def largest(bug=None):
    def factory(learning_rate=1e-2, b1=0.9, b2=0.99, eps=1e-8):
        def init(params):
            return {"m": zeros(params), "v": zeros(params), "top": zeros(params)}

        def update(grads, state, params=None):
            m = tmap(lambda m, g: b1 * m + (1 - b1) * g, state["m"], grads)
            v = tmap(lambda v, g: b2 * v + (1 - b2) * g**2, state["v"], grads)
            top = tmap(jnp.maximum, state["top"], v)
            u = tmap(lambda m, t: -learning_rate * m / (jnp.sqrt(t) + eps), m, top)
            return u, {"m": m, "v": v, "top": v if bug == "forgetful" else top}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "largest",
    largest,
    {"forgetful": "the largest of the last two, not of all"},
    claims={"element-wise": True, "odd": True},
)


def soft_sign(bug=None):
    def factory(lr=1e-2, beta=0.9):
        def update(grads, m, params=None):
            m = tmap(lambda m, g: beta * m + g, m, grads)
            if bug == "soft":
                return tmap(lambda m: -lr * m / (jnp.abs(m) + 1e-3), m), m
            return tmap(lambda m: -lr * jnp.sign(m), m), m

        return optax.GradientTransformation(zeros, update)

    return factory


CASES.add(
    "soft_sign",
    soft_sign,
    {"soft": "an epsilon that is not small"},
    claims={"element-wise": True, "odd": True, "degree": 0},
)


def adadelta(bug=None):
    def factory(rate=1.0, rho=0.9, eps=1e-6):
        def update(grads, state, params=None):
            gg, dd = state
            gg = tmap(lambda a, g: rho * a + (1 - rho) * g * g, gg, grads)
            step = lambda a, d, g: jnp.sqrt(d + eps) / jnp.sqrt(a + eps) * g
            delta = tmap(step, gg, dd, grads)
            new = tmap(lambda d, x: rho * d + (1 - rho) * x * x, dd, delta)
            if bug == "new_deltas":
                delta = tmap(step, gg, new, grads)
            return tmap(lambda x: -rate * x, delta), (gg, new)

        return optax.GradientTransformation(lambda p: (zeros(p), zeros(p)), update)

    return factory


CASES.add(
    "adadelta",
    adadelta,
    {"new_deltas": "divides by the average that has this step's already"},
    like="adadelta",
    h={"learning_rate": 1.0},
)


def adam_count(bug=None):
    def factory(learning_rate=1e-3):
        def init(params):
            kind = jnp.int32
            if bug == "float_count":  # the dtype of the parameters: bfloat16 counts to 256
                kind = next((p.dtype for p in jax.tree.leaves(params)), f32)
            return zeros(params, f32), zeros(params, f32), jnp.zeros([], kind)

        def update(grads, state, params=None):
            m, v, n = state
            n = n + 1
            t = n.astype(f32)
            m = tmap(lambda m, g: 0.9 * m + 0.1 * g.astype(f32), m, grads)
            v = tmap(lambda v, g: 0.999 * v + 0.001 * g.astype(f32) ** 2, v, grads)
            up, low = learning_rate / (1 - 0.9**t), 1 - 0.999**t
            u = tmap(
                lambda m, v, g: (-up * m / (jnp.sqrt(v / low) + 1e-8)).astype(g.dtype), m, v, grads
            )
            return u, (m, v, n)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "adam_count",
    adam_count,
    {"float_count": "counts in the parameters' dtype"},
    like="adam",
    h={"learning_rate": 1e-3},
)
