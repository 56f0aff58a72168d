"""Wrong rules that were written in one go after the laws, to see what these find unprepared.

By the authors of the laws, before any of them was run. Each has one fault; a third are matrix rules
and wrappers. `CORRECT` has the same code without it. The laws were mended afterwards where a fault
survived, and these rules were not changed. `python -m tests.laws.late_mutants` prints the score.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.laws.late_matrix_mutants import matrices
from tests.laws.late_rules import accumulated, cautious, guarded, lookahead, per_leaf
from tests.laws.mutants import Mutant, score

tmap = jax.tree.map
root = jnp.sqrt


def power(b: float, t: Any, like: Any) -> Any:
    return 1 - b ** t.astype(like.dtype)


def adamax(f=""):
    def step(t, g, p, m, u):
        m = 0.9 * m + 0.1 * g
        u = jnp.maximum((1.0 if f == "the largest never fades" else 0.999) * u, jnp.abs(g) + 1e-8)
        top = m / power(0.9, t, m)
        if f == "both corrected":
            return -2e-3 * top / (u / power(0.999, t, u)), m, u
        return -2e-3 * top / u, m, u

    return per_leaf(2, step)


def adabelief(f=""):
    def step(t, g, p, m, v):
        new = 0.9 * m + 0.1 * g
        mean = m if f == "distance from the old mean" else new
        v = 0.999 * v + 0.001 * (g - mean) ** 2 + (0 if f == "no epsilon within" else 1e-16)
        up = power(0.9, t, m) if f != "numerator uncorrected" else 1.0
        return -1e-3 * (new / up) / (root(v / power(0.999, t, v)) + 1e-16), new, v

    return per_leaf(2, step)


def adadelta(f=""):
    rho, eps = 0.9, 1e-6

    def step(t, g, p, e, x):
        e = rho * e + (1 - rho) * g * g
        under = root(e + eps)
        over = root(x) if f == "epsilon below only" else root(x + eps)
        u = over / under * g
        x = rho * x + (1 - rho) * (g if f == "averages gradients twice" else u) ** 2
        return -(u / (1 if f != "rate inside" else 2)), e, x

    return per_leaf(2, step)


def rmsprop(f=""):
    def step(t, g, p, v, m, trace):
        v, m = 0.9 * v + 0.1 * g * g, 0.9 * m + 0.1 * g
        spread = v if f == "not centred" else v - m * m
        if f == "centred on the root":
            spread = v - m
        u = g / root(spread + 1e-8)
        trace = 0.9 * trace + u
        return -1e-2 * (u if f == "momentum forgotten" else trace), v, m, trace

    return per_leaf(3, step)


def lion(f=""):
    def step(t, g, p, m):
        b1, b2 = (0.99, 0.9) if f == "decays swapped" else (0.9, 0.99)
        u = jnp.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * (u if f == "remembers signs" else g)
        pull = jnp.sign(p) if f == "decay of the sign" else p
        return -1e-3 * (u + 0.1 * pull), m

    return per_leaf(1, step)


def signum(f=""):
    def step(t, g, p, m):
        seen = jnp.sign(g) if f == "signs before momentum" else g
        m = 0.9 * m + 0.1 * seen
        return -1e-3 * (m if f == "no sign after" else jnp.sign(m)), m

    return per_leaf(1, step)


def lamb(f=""):
    def step(t, g, p, m, v):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = m / power(0.9, t, m) / (root(v / power(0.999, t, v)) + 1e-6)
        full = u + 0.1 * p
        below = {"ratio of the gradient": g, "ratio before the decay": u}.get(f, full)
        wide, narrow = root(jnp.sum(p * p)), root(jnp.sum(below * below))
        ratio = jnp.where((wide > 0) & (narrow > 0), wide / narrow, 1.0)
        if f == "ratio capped":
            ratio = jnp.minimum(ratio, 1.0)
        return -1e-3 * ratio * full, m, v

    return per_leaf(2, step)


def novograd(f=""):
    def step(t, g, p, m, v):
        power = jnp.sum(g * g) if f != "mean in place of a sum" else jnp.mean(g * g)
        v = jnp.where(t == 1, power, 0.25 * v + 0.75 * power)
        if f == "starts from nothing":
            v = 0.25 * v + 0.75 * power * (t > 1)
        scaled = g / (root(v) + 1e-6) + 0.1 * p
        if f == "decay outside of momentum":
            scaled = g / (root(v) + 1e-6)
        m = 0.9 * m + scaled
        return -1e-3 * (m + (0.1 * p if f == "decay outside of momentum" else 0)), m, v

    return per_leaf(2, step)


def optimistic(f=""):
    def step(t, g, p, old):
        last = jnp.where(t == 1, 0 * g if f == "starts from nothing" else g, old)
        u = g + last - g if f == "the last alone" else 2 * g - last
        return -0.1 * u, g

    return per_leaf(1, step)


def fromage(f=""):
    rate = 1e-2

    def step(t, g, p):
        wide, narrow = root(jnp.sum(p * p)), root(jnp.sum(g * g))
        ratio = jnp.maximum(wide, 1e-6) / jnp.maximum(narrow, 1e-6)
        shrink = 1.0 if f == "not shrunk" else 1 / (1 + rate**2) ** 0.5
        return shrink * (p - rate * ratio * g) - p

    return per_leaf(0, step)


def nadam(f=""):
    def step(t, g, p, m, v):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        ahead = t if f == "correction of this step" else t + 1
        top = 0.9 * m / power(0.9, ahead, m) + 0.1 * g / power(0.9, t, g)
        if f == "gradient uncorrected":
            top = 0.9 * m / power(0.9, t + 1, m) + 0.1 * g
        return -1e-3 * top / (root(v / power(0.999, t, v)) + 1e-8), m, v

    return per_leaf(2, step)


def clip_by_global_norm(f=""):
    def update(g, s, p=None):
        norms = [jnp.sum(x * x) for x in jax.tree.leaves(g)]
        if f == "largest leaf":
            length = root(jnp.max(jnp.stack(norms)))
        else:
            length = root(sum(norms))
        if f == "sum of lengths":
            length = sum(map(root, norms))
        keep = 1 / (length + 1) if f == "soft" else jnp.minimum(1, 1 / jnp.maximum(length, 1e-30))
        return tmap(lambda x: x * jnp.asarray(keep, x.dtype), g), s

    return lambda: optax.GradientTransformation(lambda p: (), update)


def average(f=""):
    def step(t, g, p, m):
        m = 0.9 * m + (1.0 if f == "not weighed" else 0.1) * g
        ago = jnp.maximum(t - 1, 1) if f == "corrected for the step before" else t
        return m / power(0.9, ago, m), m

    return per_leaf(1, step)


def adamw(f=""):
    def make(lr=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2):
        if f == "decay without effect":
            weight_decay = 0.0
        if f == "rate at its default":
            lr = 1e-3
        inner = optax.adamw(lr, b1, b2, eps, weight_decay=weight_decay)
        if f == "begins with what was there":
            empty = lambda p: tmap(lambda x: jnp.empty_like(x), p)
            old = inner.init
            return inner._replace(init=lambda p: (old(p)[0]._replace(mu=empty(p)), *old(p)[1:]))
        if f == "b2 for both":
            inner = optax.adamw(lr, b2, b2, eps, weight_decay=weight_decay)
        if f == "decay of vectors too":
            return inner
        if f == "decay by leaf size":
            inner = optax.chain(
                optax.scale_by_adam(b1, b2, eps),
                optax.stateless(lambda g, p: tmap(
                    lambda x, w: x + weight_decay * w / w.size, g, p)),
                optax.scale(-lr),
            )  # fmt: skip
        return inner

    return make


def cosine(f=""):
    def schedule(count):
        x = count / 100
        if f != "goes up again":
            x = jnp.clip(x, 0, 1)
        half = 0.5 * (1 + jnp.cos((2 if f == "two halves" else 1) * jnp.pi * x))
        return 0.3 * (half if f == "ends at zero" else 0.9 * half + 0.1)

    return lambda: schedule


def one_warmup(f=""):
    def schedule(count):
        up = jnp.clip(count / (11 if f == "a step too long" else 10), 0, 1)
        rate = 0.1 * (up**2 if f == "bent" else up)
        return jnp.where(count > 50, 0.05, rate) if f == "falls later" else rate

    return lambda: schedule


RATE = {"learning_rate": 1e-3}
LEAFWISE: dict[str, tuple[Any, str, dict[str, Any], list[str]]] = {
    "adamax": (adamax, "adamax", {"learning_rate": 2e-3},
               ["the largest never fades", "both corrected"]),
    "adabelief": (adabelief, "adabelief", RATE,
                  ["distance from the old mean", "no epsilon within", "numerator uncorrected"]),
    "adadelta": (adadelta, "adadelta", {"learning_rate": 1.0},
                 ["epsilon below only", "averages gradients twice", "rate inside"]),
    "rmsprop": (rmsprop, "rmsprop", {"learning_rate": 1e-2, "centered": True, "momentum": 0.9},
                ["not centred", "momentum forgotten", "centred on the root"]),
    "lion": (lion, "lion", {"learning_rate": 1e-3, "weight_decay": 0.1},
             ["decays swapped", "remembers signs", "decay of the sign"]),
    "signum": (signum, "signum", RATE | {"beta": 0.9}, ["signs before momentum", "no sign after"]),
    "lamb": (lamb, "lamb", RATE | {"weight_decay": 0.1},
             ["ratio of the gradient", "ratio before the decay", "ratio capped"]),
    "novograd": (novograd, "novograd", RATE | {"weight_decay": 0.1},
                 ["mean in place of a sum", "starts from nothing", "decay outside of momentum"]),
    "optimistic": (optimistic, "optimistic_gradient_descent", {"learning_rate": 0.1},
                   ["starts from nothing", "the last alone"]),
    "fromage": (fromage, "fromage", {"learning_rate": 1e-2}, ["not shrunk"]),
    "nadam": (nadam, "nadam", RATE, ["correction of this step", "gradient uncorrected"]),
    "clip by norm": (clip_by_global_norm, "clip_by_global_norm", {"max_norm": 1.0},
                     ["largest leaf", "sum of lengths", "soft"]),
    "average": (average, "ema", {"decay": 0.9, "debias": True},
                ["not weighed", "corrected for the step before"]),
}  # fmt: skip

INSIDE = {"inner": optax.adam(1e-2)}
LOOKAHEAD = {"inner": optax.sgd(0.1, 0.9), "sync_period": 5, "slow_step_size": 0.5}
WRAPPERS: dict[str, tuple[Any, str | None, Any, Any, list[str]]] = {
    "lookahead": (lookahead, "lookahead", LOOKAHEAD, None,
                  ["a step late", "fast ones go on", "steps swapped", "once only",
                   "period grows"]),
    "cautious": (cautious, "cautious", INSIDE, None,
                 ["keeps the wrong half", "not made up for", "mean over all leaves"]),
    "guard": (guarded, None, None, {"guard": 5},
              ["never forgets", "zeros in place of NaN", "starts anew", "one too many",
               "looks at the sum"]),
    "accumulation": (accumulated, None, None,
                     {"accumulation": {"k": 4, "inner": optax.adam(1e-2), "weight": "weight"}},
                     ["divides by the number", "first one lost", "counts what weighs nothing",
                      "last one only", "inner at every step"]),
}  # fmt: skip

SCHEDULES = {
    "cosine": (cosine, "cosine_decay_schedule",
               {"init_value": 0.3, "decay_steps": 100, "alpha": 0.1},
               ["goes up again", "two halves", "ends at zero"]),
    "linear warm-up": (one_warmup, "warmup_constant_schedule",
                       {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10},
                       ["a step too long", "bent", "falls later"]),
}  # fmt: skip
DECLARED = ["decay without effect", "begins with what was there", "rate at its default"]
ADAMW = RATE | {"weight_decay": 1e-2}

MUTANTS: list[Mutant] = [
    *(Mutant(f"{n}: {f}", make(f), like, h)
      for n, (make, like, h, faults) in LEAFWISE.items() for f in faults),
    *(Mutant(f"{n}: {f}", make(f), like, h, claims)
      for n, (make, like, h, claims, faults) in WRAPPERS.items() for f in faults),
    *(Mutant(f"{n}: {f}", make(f), like, h, schedule=True)
      for n, (make, like, h, faults) in SCHEDULES.items() for f in faults),
    *(Mutant(f"adamw without like: {f}", adamw(f), None, None) for f in DECLARED),
    *(Mutant(f"adamw: {f}", adamw(f), "adamw", ADAMW)
      for f in ("b2 for both", "decay by leaf size")),
    *matrices()[0],
]  # fmt: skip

CORRECT: list[Mutant] = [
    *(Mutant(n, make(), like, h) for n, (make, like, h, _) in LEAFWISE.items()),
    *(Mutant(n, make(), like, h, claims) for n, (make, like, h, claims, _) in WRAPPERS.items()),
    *(Mutant(n, make(), like, h, schedule=True) for n, (make, like, h, _) in SCHEDULES.items()),
    Mutant("adamw", adamw(), "adamw", ADAMW),
    *matrices()[1],
]

SURVIVORS: dict[str, str] = {}

if __name__ == "__main__":
    chosen = CORRECT if "--correct" in sys.argv else MUTANTS
    sys.exit(score(chosen, SURVIVORS, sys.argv[1:]))
