"""The law of line searches: an accepted step satisfies the claimed conditions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import Law, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject

STEPS = 10


WEIGHTS = {"b": [0.05, 0.3, 1.0], "w": [[0.1, 0.7, 0.5], [0.2, 0.9, 0.02]]}


START = {"b": [1.4, -1.1, 0.8], "w": [[-1.5, 0.6, 1.2], [0.9, -0.7, 1.3]]}


# The factor of each coordinate of a direction: a descent direction, but not the steepest.
SHARE = {"b": [1.0, 0.5, 0.25], "w": [[2.0, 1.0, 0.5], [1.5, 0.3, 4.0]]}


# Names, in reproducers, of the extra arguments of a rule.
WORDS = {"value": "value", "loss": "value", "grad": "g", "value_fn": "f", "obj_fn": "f"}


def search(subject: Subject) -> Violation | None:
    """claims={"line search": {"decrease": c₁, "curvature": c₂ or None, "takes": "gradients"}}

    In float64, on Σ w (x²/2 + x⁴/4), which is convex and no parabola. A decrease that rounding
    hides (1e-13 of the value) is not asked for.
    """
    claim = subject.claims["line search"]
    claim = {} if claim is True else claim
    c1, c2 = claim.get("decrease", 1e-4), claim.get("curvature", 0.9 if not claim else None)
    directions = subject.slope < 0
    with ordinary(), jax.enable_x64(True):
        tree = lambda t: {k: jnp.asarray(v, jnp.float64) for k, v in t.items()}
        weights, share, p = tree(WEIGHTS), tree(SHARE), tree(START)
        dot = lambda a, b: sum(jnp.vdot(a[k], b[k]) for k in a)
        f = lambda x: sum(jnp.sum(weights[k] * (x[k] ** 2 / 2 + x[k] ** 4 / 4)) for k in x)
        df = jax.value_and_grad(f)
        state, seen = subject.tx.init(p), []
        made = lambda value, g: {"value": value, "loss": value, "grad": g,
                                 "value_fn": f, "obj_fn": f}  # fmt: skip

        @jax.jit
        def step(state: Any, p: Any) -> Any:
            value, g = df(p)
            given = jax.tree.map(lambda s, x: -s * x, share, g) if directions else g
            extra = {k: v for k, v in made(value, g).items() if k in subject.needs}
            u, state = subject.tx.update(given, state, p, **extra)
            following = jax.tree.map(jnp.add, p, u)
            new, after = df(following)
            return state, following, given, u, (value, new, dot(g, u), dot(after, u))

        for t in range(STEPS):
            state, following, given, u, scalars = step(state, p)
            value, new, slope, after = (float(x) for x in scalars)
            seen.append((p, given, u))
            rounding = 1e-13 * abs(value)
            what = None
            if not np.isfinite(new):
                what = f"takes it to {new}"
            elif slope > rounding:
                what = f"goes uphill: ⟨u, ∇f⟩ = {slope:.6g}"
            elif new > value + c1 * slope + rounding:
                what = (f"takes the loss from {value:.9g} to {new:.9g}: not by {-c1:g} times the "
                        f"slope, {slope:.6g}")  # fmt: skip
            elif c2 is not None and abs(after) > c2 * abs(slope) + rounding:
                what = (f"is where the slope is {after:.6g}, more than {c2:g} times what it was at "
                        f"the start, {slope:.6g}")  # fmt: skip
            if what:
                return Violation(
                    f"step {t + 1} {what}", {"params": p, "direction": given, "update": u},
                    _code(subject, t + 1, c1, c2),
                )  # fmt: skip
            p = following
    return _astray(subject, seen)


def _astray(subject: Subject, seen: list[Any]) -> Violation | None:
    """A violation if a reference gives the direction and the update is not a multiple of it."""
    claim = subject.claims["line search"]
    if subject.oracle is None or claim is True or not claim.get("length"):
        return None
    leaves = lambda t: [np.asarray(x) for x in jax.tree.leaves(t)]
    flat = lambda xs: np.concatenate([np.ravel(x) for x in xs])
    step = subject.oracle.start(seen[0][0])(leaves(seen[0][0]))
    for t, (p, given, u) in enumerate(seen):
        d = flat(step(leaves(given), leaves(p), t + 1))
        found = flat(leaves(u))
        along = d * (d @ found) / (d @ d)
        # At the minimum, a step is a ratio of rounding errors.
        if np.linalg.norm(d) < 1e-5 * np.linalg.norm(flat(leaves(seen[0][1]))):
            return None
        if np.linalg.norm(found - along) > 1e-6 * np.linalg.norm(found) or d @ found < 0:
            angle = np.degrees(np.arccos(np.clip(d @ found / np.linalg.norm(d)
                                                 / np.linalg.norm(found), -1, 1)))  # fmt: skip
            ratio = (found / d)[np.abs(d) > 1e-3 * np.abs(d).max()]
            return Violation(
                f"step {t + 1} is turned by {angle:.3g} degrees from {subject.like}'s direction: "
                f"it is between {ratio.min():.6g} and {ratio.max():.6g} times it",
                {"params": p, "gradients": given, "found": found, "direction": d},
                _code(subject, t + 1, None, None) + f"d = jnp.array({d.tolist()})\n"
                "u = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(u)])\n"
                "print(u / d)\n"
                "assert d @ u >= (1 - 1e-9) * jnp.linalg.norm(u) * jnp.linalg.norm(d), u / d",
            )
    return None


def _code(subject: Subject, steps: int, c1: Any, c2: Any) -> str:
    directions = subject.slope < 0
    extra = "".join(f", {name}={WORDS[name]}" for name in subject.needs)
    given = "jax.tree.map(lambda s, x: -s * x, share, g)" if directions else "g"
    tree = lambda t: "{" + ", ".join(f"{k!r}: jnp.array({v})" for k, v in t.items()) + "}"
    tests = ""
    if c1 is not None:
        tests = (
            "dot = lambda a, b: sum(jnp.vdot(a[k], b[k]) for k in a)\n"
            "slope, slack = dot(g, u), 1e-13 * abs(f(p))\nafter = jax.grad(f)(q)\n"
            "print('from', f(p), 'to', f(q), 'slopes', slope, dot(after, u))\n"
            f"assert f(q) <= f(p) + {c1!r} * slope + slack, (f(p), f(q), slope)\n"
            "assert slope <= slack, slope\n"
        )
    if c2 is not None:
        tests += (
            f"assert abs(dot(after, u)) <= {c2!r} * abs(slope) + slack, (dot(after, u), slope)\n"
        )
    return (
        "jax.config.update('jax_enable_x64', True)\n"
        f"weights = {tree(WEIGHTS)}\nshare = {tree(SHARE)}\nq = {tree(START)}\n"
        "f = lambda x: sum((weights[k] * (x[k] ** 2 / 2 + x[k] ** 4 / 4)).sum() for k in x)\n"
        "rule = globals().get('bare', tx)\nstate = rule.init(q)\n"
        f"for _ in range({steps}):\n    p, (value, g) = q, jax.value_and_grad(f)(q)\n"
        f"    u, state = rule.update({given}, state, p{extra})\n"
        "    q = jax.tree.map(jnp.add, p, u)\n" + tests
    )


LAWS = (
    Law("line search", "A step lowers the loss that the rule is given by a share of its slope "
        "(Armijo), and is where the slope is less steep (Wolfe).", search, claim="line search",
        reference="Armijo 1966; Wolfe 1969; Nocedal & Wright 2006, section 3.1",
        tolerance="1e-13 of the loss; 1e-6 of the direction, where a reference knows it",
        why="it runs in float64; a search that has arrived divides rounding by rounding"),
)  # fmt: skip
