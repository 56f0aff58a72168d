"""The law of noise: it has the claimed standard deviation, and no pattern."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws import per_example
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject

STEPS = 8


SHAPES = {"b": (600,), "twin": (600,), "w": (30, 40)}


SIGMAS = 5.0  # of the estimate itself: a correct rule exceeds it once in two million


def noise(subject: Subject) -> Violation | None:
    """claims={"noise": σ}, or a function from the step (1, 2, …) to σ.

    The noise is what is left of the update without the reference's, or without the gradient.
    """
    claimed = subject.claims["noise"]
    if claimed is True:
        raise NotApplicable('say how much: claims={"noise": 0.1}, or a function of the step')
    sigma = claimed if callable(claimed) else lambda t: float(claimed)
    first, again = (_drawn(subject) for _ in range(2))
    if any(
        not np.array_equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in SHAPES
    ):
        return _wrong(
            "from one state it draws different noise each time: its key is not in the state",
            "same = lambda a, b: all((a[k] == b[k]).all() for k in a)\n"
            "assert all(map(same, found, run()))",
        )
    z = {k: np.stack([x[k].ravel() / sigma(t + 1) for t, x in enumerate(first)]) for k in SHAPES}
    return _moments(z, sigma) or _correlations(z)


def _wrong(message: str, test: str, steps: int = STEPS) -> Violation:
    example = {"shapes": SHAPES, "steps": STEPS}
    return Violation(message, example, _CODE.format(steps=steps) + test)


def _moments(z: dict[str, np.ndarray], sigma: Callable[[int], float]) -> Violation | None:
    """Checks the standard deviation and mean of each step, and the total fourth moment."""
    for t in range(STEPS):
        one = np.concatenate([z[k][t] for k in SHAPES])
        near = SIGMAS / float(2 * one.size) ** 0.5
        if not abs(one.std() - 1) <= near:
            return _wrong(
                f"the noise of step {t + 1} has the deviation {one.std() * sigma(t + 1):.4g}, "
                f"{sigma(t + 1):.4g} was claimed",
                f"found = jnp.concatenate([x.ravel() for x in found[-1].values()])\n"
                f"ratio = found.std() / {sigma(t + 1)!r}\nprint(ratio)\n"
                f"assert abs(ratio - 1) <= {near!r}, ratio",
                t + 1,
            )
        if not abs(one.mean()) <= SIGMAS / np.sqrt(one.size):
            return _wrong(
                f"the noise of step {t + 1} has the mean {one.mean() * sigma(t + 1):.4g}, "
                f"{abs(one.mean()) * np.sqrt(one.size):.3g} standard errors from 0",
                "found = jnp.concatenate([x.ravel() for x in found[-1].values()])\n"
                "assert abs(found.mean()) <= 5 * found.std() / found.size ** 0.5, found.mean()",
                t + 1,
            )
    every = np.concatenate([x.ravel() for x in z.values()])
    fourth, near = float(np.mean(every**4)), SIGMAS * (96 / every.size) ** 0.5
    if abs(fourth - 3) <= near:
        return None
    return _wrong(
        f"the noise is not Gaussian: the mean of its fourth power is {fourth:.3g} σ⁴, not 3 σ⁴",
        "z = jnp.stack([jnp.concatenate([x.ravel() for x in u.values()]) for u in found])\n"
        "z = z / z.std(axis=1, keepdims=True)\nfourth = (z ** 4).mean()\nprint(fourth)\n"
        f"assert abs(fourth - 3) <= {near!r}, fourth",
    )


def _correlations(z: dict[str, np.ndarray]) -> Violation | None:
    pairs = {
        "two leaves": (z["b"], z["twin"], "a[-1]['b'], a[-1]['twin']"),
        "a leaf and the beginning of another": (
            z["b"], z["w"][:, :600], "a[-1]['b'], a[-1]['w'].ravel()[:600]"),
        "two steps": (z["w"][1:], z["w"][:-1], "a[-1]['w'], a[-2]['w']"),
        "neighbours": (z["b"][:, 1:], z["b"][:, :-1], "a[-1]['b'][1:], a[-1]['b'][:-1]"),
    }  # fmt: skip
    for words, (x, y, code) in pairs.items():
        correlation = float(np.mean(x * y))
        if not abs(correlation) <= SIGMAS / np.sqrt(x.size):
            return _wrong(
                f"the noise of {words} is correlated: {correlation:.3g}",
                f"pair = lambda a: ({code})\nx, y = (v.ravel() for v in pair(found))\n"
                "c = jnp.corrcoef(x, y)[0, 1]\nprint(c)\nassert abs(c) <= 5 / x.size ** 0.5, c",
            )
    return None


def _drawn(subject: Subject) -> list[dict[str, np.ndarray]]:
    """The noise of each step."""
    p = {k: jnp.cos(jnp.arange(float(np.prod(s)))).reshape(s) for k, s in SHAPES.items()}
    g = jax.tree.map(lambda x: 0.01 * x[::-1], p)
    leaves = lambda t: [np.asarray(t[k], np.float64) for k in SHAPES]
    expected = None
    if subject.oracle is not None:
        given, held = per_example.as_taken(subject.claims, leaves(g), leaves(p))
        reference = subject.oracle.start(p)(held)
        expected = [reference(given, held, t + 1) for t in range(STEPS)]
    with ordinary():
        update, state, out = subject.compiled(), subject.tx.init(p), []
        for t in range(STEPS):
            u, state = update(g, state, p)
            means = leaves(g) if expected is None else expected[t]
            rest = [a - b for a, b in zip(leaves(u), means, strict=True)]
            out.append(dict(zip(SHAPES, rest, strict=True)))
    return out


_CODE = (
    "zeros = {{'b': jnp.zeros(600), 'twin': jnp.zeros(600), 'w': jnp.zeros((30, 40))}}\n"
    "def run():\n    state, out = tx.init(zeros), []\n    for _ in range({steps}):\n"
    "        u, state = tx.update(zeros, state, zeros)\n        out.append(u)\n    return out\n"
    "found = run()\n"
)


LAWS = (
    Law("noise", "What is added at random has mean 0 and the claimed deviation, is the same "
        "from the same state, and has no pattern over coordinates, leaves and steps.", noise,
        claim="noise", tolerance="five standard deviations of the estimate from 2400 numbers",
        why="a correct rule exceeds that once in two million"),
)  # fmt: skip
