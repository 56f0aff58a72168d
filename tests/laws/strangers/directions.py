"""Rules of one moment: Lion, schedule-free, Sophia, NovoGrad, and a graft."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, pairs, tmap, zeros

CASES = Cases()


class Lion:
    """A class with a tuple as state."""

    def __init__(self, learning_rate=1e-3, b1=0.9, b2=0.99, weight_decay=0.1, bug=None):
        self.lr, self.b1, self.b2, self.wd, self.bug = learning_rate, b1, b2, weight_decay, bug

    def init(self, params):
        return (zeros(params),)

    def update(self, grads, state, params):
        (m,) = state
        b1, b2, bug = self.b1, self.b2, self.bug
        if bug == "swapped":
            b1, b2 = b2, b1
        new = tmap(lambda m, g: b2 * m + (1 - b2) * g, m, grads)
        source = new if bug == "late" else m
        c = tmap(lambda m, g: b1 * m + (1 - b1) * g, source, grads)
        if bug == "coupled":
            c = tmap(lambda c, p: c + self.wd * p, c, params)
            return tmap(lambda c: -self.lr * jnp.sign(c), c), (new,)
        u = tmap(lambda c, p: -self.lr * (jnp.sign(c) + self.wd * p), c, params)
        return u, (new,)


def lion(bug=None):
    def factory(learning_rate=1e-3, b1=0.9, b2=0.99, weight_decay=0.1):
        rule = Lion(learning_rate, b1, b2, weight_decay, bug)
        return optax.GradientTransformation(rule.init, rule.update)

    return factory


CASES.add(
    "lion",
    lion,
    {
        "swapped": "b1 and b2 exchanged",
        "late": "momentum updated before it is used",
        "coupled": "decay inside the sign",
    },
    like="lion",
    h={"learning_rate": 1e-3, "b1": 0.9, "b2": 0.99, "weight_decay": 0.1},
)


@flax.struct.dataclass
class FreeState:
    x: Any
    k: Any
    total: Any


def schedule_free(bug=None):
    """Schedule-free SGD that stores x and finds z from y."""

    def factory(learning_rate=0.1, b1=0.9):
        def init(params):
            return FreeState(
                tmap(lambda p: p.astype(f32) if bug == "bf16" else jnp.array(p), params),
                jnp.zeros((), jnp.int32),
                jnp.zeros((), f32),
            )

        def update(grads, state, params):
            k = state.k + 1
            w = jnp.asarray(learning_rate, f32) ** 2
            total = state.total + w
            c = w / total
            if bug == "off_by_one":
                c = w / (total + w)

            def leaf(g, x, y):
                dtype, shape_dtype = y.dtype, x.dtype
                g, x, y = g.astype(f32), x.astype(f32), y.astype(f32)
                z = (y - b1 * x) / (1 - b1)
                z = z - learning_rate * g
                x = (1 - c) * x + c * z
                new = b1 * z + (1 - b1) * x if bug == "mixed" else b1 * x + (1 - b1) * z
                if bug == "from_x":
                    return (new - x).astype(dtype), x.astype(shape_dtype)
                return (new - y).astype(dtype), x.astype(shape_dtype)

            u, x = pairs(tmap(leaf, grads, state.x, params), grads, 2)
            return u, FreeState(x, k, total)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "schedule_free",
    schedule_free,
    {
        "off_by_one": "weights of the average one step late",
        "mixed": "b1 on z and 1 - b1 on x",
        "from_x": "the update is from x, not from y",
    },
    like="schedule_free_sgd",
    h={"learning_rate": 0.1, "b1": 0.9},
)


def sophia_like(bug=None):
    """A Hessian diagonal is handed in."""

    def factory(lr=0.01, beta1=0.9, beta2=0.95, rho=0.5):
        def init(params):
            return {"m": zeros(params, f32), "h": zeros(params, f32)}

        def update(grads, state, params=None, *, hessian, **extra):
            del params, extra
            m = tmap(lambda m, g: beta1 * m + (1 - beta1) * g.astype(f32), state["m"], grads)
            h = tmap(lambda h, d: beta2 * h + (1 - beta2) * d.astype(f32), state["h"], hessian)

            def step(m, h, g):
                ratio = m / jnp.maximum(rho * h, 1e-12)
                if bug == "clip_first":
                    ratio = jnp.clip(m, -1, 1) / jnp.maximum(rho * h, 1e-12)
                elif bug == "clip_one_side":
                    ratio = jnp.minimum(ratio, 1)
                elif bug == "clip_rho":
                    ratio = jnp.clip(m / jnp.maximum(h, 1e-12), -1 / rho, 1 / rho)
                else:
                    ratio = jnp.clip(ratio, -1, 1)
                return (-lr * ratio).astype(g.dtype)

            return tmap(step, m, h, grads), {"m": m, "h": h}

        return optax.GradientTransformationExtraArgs(init, update)

    return factory


CASES.add(
    "sophia_like",
    sophia_like,
    {
        "clip_first": "clipped before the division",
        "clip_one_side": "only clipped from above",
        "clip_rho": "clipped at 1/rho",
    },
    claims={"element-wise": True, "bounded": {"norm": "element", "bound": 0.01}},
    extra=lambda params, grads: {"hessian": tmap(lambda g: g * g, grads)},
)


def grafted(bug=None):
    """The direction of SGD with momentum, each leaf as long as Adagrad's step."""

    def factory(lr=0.1, beta=0.9, eps=1e-10):
        def init(params):
            return {"buf": zeros(params, f32), "acc": zeros(params, f32)}

        def update(grads, st, params=None):
            buf = tmap(lambda b, g: beta * b + g.astype(f32), st["buf"], grads)
            acc = tmap(lambda a, g: a + g.astype(f32) ** 2, st["acc"], grads)

            def leaf(b, a, g):
                other = g.astype(f32) / (jnp.sqrt(a) + eps)
                own = jnp.linalg.norm(b.ravel())
                if bug == "no_norm":
                    own = 1.0
                if bug == "unguarded":
                    return (-lr * b * jnp.linalg.norm(other.ravel()) / own).astype(g.dtype)
                return (-lr * b * jnp.linalg.norm(other.ravel()) / (own + 1e-16)).astype(g.dtype)

            return tmap(leaf, buf, acc, grads), {"buf": buf, "acc": acc}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "grafted",
    grafted,
    {
        "no_norm": "the direction is not made unit",
        "unguarded": "0/0 for a zero gradient",
    },
    claims={"degree": 0, "odd": True},
)


def novograd(bug=None):
    def factory(learning_rate=1e-2, b1=0.9, b2=0.25, eps=1e-6):
        def init(params):
            return {
                "number": jnp.zeros((), jnp.int32),
                "m": zeros(params, f32),
                "v": tmap(lambda p: jnp.zeros((), f32), params),
            }

        def update(grads, st, params=None):
            first = st["number"] == 0
            g32 = tmap(lambda g: g.astype(f32), grads)
            sq = tmap(lambda g: jnp.sum(g * g), g32)
            v = tmap(lambda v, s: jnp.where(first, s, b2 * v + (1 - b2) * s), st["v"], sq)
            if bug == "first_zero":
                v = tmap(lambda v, s: b2 * v + (1 - b2) * s, st["v"], sq)
            unit = tmap(lambda g, v: g / (jnp.sqrt(v) + eps), g32, v)
            if bug == "ema":
                m = tmap(lambda m, x: b1 * m + (1 - b1) * x, st["m"], unit)
            else:
                m = tmap(lambda m, x: jnp.where(first, x, b1 * m + x), st["m"], unit)
            u = tmap(lambda m, g: (-learning_rate * m).astype(g.dtype), m, grads)
            return u, {"number": st["number"] + 1, "m": m, "v": v}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "novograd",
    novograd,
    {
        "first_zero": "the second moment begins at 0",
        "ema": "an average instead of a sum in the first moment",
    },
    like="novograd",
    h={"learning_rate": 1e-2},
)
