"""The float64 references of `trainkit.laws.oracles`, run on dicts of arrays as the tests have them.

Here stand those that only a test needs: noise that is given as data, penalties, and wrappers of
references by the name of a leaf.
"""

import numpy as np

from trainkit.laws.oracles import accumulators, adaptive, curvature, matrices, norms, wrappers
from trainkit.laws.oracles.pieces import (
    chain,
    decay,
    ema,
    groups,
    learning_rate,
    scale,
    stateless,
    trace,
)

__all__ = [
    "accumulators", "adaptive", "chain", "curvature", "decay", "ema", "learning_rate", "matrices",
    "norms", "parted", "run", "scale", "stateless", "trace", "tree", "with_draws", "wrappers",
]  # fmt: skip


def tree(f, *trees):
    return {k: np.asarray(f(*(t[k] for t in trees)), np.float64) for k in trees[0]}


def run(start, params, gradients):
    """The parameters after each of the gradients."""
    return list(trajectory(start, params, gradients))


def trajectory(start, params, gradients):
    """The parameters after each gradient; a gradient may be a function of the parameters."""
    names = sorted(params)  # as JAX orders the leaves of a dict
    step = start([np.asarray(params[k], np.float64) for k in names])
    for t, g in enumerate(gradients, 1):
        g = g(params) if callable(g) else g
        lists = [[np.asarray(x[k], np.float64) for k in names] for x in (g, params)]
        updates = dict(zip(names, step(*lists, t), strict=True))
        params = tree(np.add, params, updates)
        yield params


def newton(damping, diagonal, like):
    """By the dense matrix with this diagonal, a function of parameters shaped as `like`."""
    names = sorted(like)
    ends = np.cumsum([np.size(like[k]) for k in names])[:-1]

    def matrix(x):
        parts = zip(names, np.split(x, ends), strict=True)
        d = diagonal({k: part.reshape(np.shape(like[k])) for k, part in parts})
        return np.diag(np.concatenate([np.ravel(d[k]) for k in names]))

    return curvature.newton(damping, matrix)


def sophia(gamma, every, diagonal, like):
    """With the βs and the bound that `tt.sophia` has by default, for a known diagonal."""
    names = sorted(like)

    def known(ps):
        d = diagonal(dict(zip(names, ps, strict=True)))
        return [d[k] for k in names]

    return adaptive.sophia(0.965, 0.99, 1e-8, gamma, 1.0, every, known, paper=True)


def parted(rules):
    """Each leaf by a rule of its own."""
    return groups([rules[k] for k in sorted(rules)], range(len(rules)))


def with_draws(combine, draw):
    """combine(gradient, parameter, draw, count) of every leaf; `draw(count, shapes)` is data:
    one array a leaf, in the order of the leaves."""

    def step(gs, ps, t, **_):
        drawn = draw(t - 1, [np.shape(g) for g in gs])
        return [combine(g, p, n, t - 1) for g, p, n in zip(gs, ps, drawn, strict=True)]

    return lambda params: step
