"""Every rule against its float64 NumPy reference, over 100 random steps.

Tolerances: 1e-12 in float64 and 1e-5 in float32, relative to the larger of 1 and the parameters.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.transforms import references as r
from tests.transforms.cases import RULES, noisy

STEPS = 100
NAMES = [*RULES, *noisy("float32")]
SHAPES = {"w": (4, 3), "v": (5,), "s": (), "z": (0,)}


def problem(seed=0, shapes=SHAPES, steps=STEPS):
    rng = np.random.default_rng(seed)
    params = {k: rng.normal(size=s) for k, s in shapes.items()}
    return params, [{k: rng.normal(size=s) for k, s in shapes.items()} for _ in range(steps)]


def trajectory(tx, params, gradients, dtype, jit=True):
    """The parameters after each step, scanned under jit or one eager step after the other."""
    params = {k: jnp.asarray(v, dtype) for k, v in params.items()}
    stacked = {k: jnp.asarray(np.stack([g[k] for g in gradients]), dtype) for k in params}

    def step(carry, g):
        p, s = carry
        u, s = tx.update(g, s, p)
        p = jax.tree.map(jnp.add, p, u)
        return (p, s), p

    carry = (params, tx.init(params))
    if jit:
        out = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(carry, stacked)[1]
        return [
            {k: np.asarray(v[i], np.float64) for k, v in out.items()} for i in range(len(gradients))
        ]
    out = []
    for i in range(len(gradients)):
        carry, p = step(carry, {k: v[i] for k, v in stacked.items()})
        out.append({k: np.asarray(v, np.float64) for k, v in p.items()})
    return out


def error(found, expected):
    """The largest error of any step, relative to the larger of 1 and the largest parameter."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        scale = max([1.0] + [np.abs(x).max(initial=0) for x in b.values()])
        assert all(a[k].shape == b[k].shape for k in b)
        assert all(np.isfinite(x).all() for x in a.values())
        worst = max([worst] + [np.abs(a[k] - b[k]).max(initial=0) / scale for k in b])
    return worst


TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def agrees(name, dtype, jit):
    with jax.enable_x64(dtype == "float64"):
        make, oracle = {**RULES, **noisy(dtype)}[name]
        params, gradients = problem()
        # The oracle starts from what float32 can hold.
        params = r.tree(np.float32, params)
        gradients = [r.tree(np.float32, g) for g in gradients]
        found = trajectory(make(), params, gradients, dtype, jit)
        assert error(found, r.run(oracle, params, gradients)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_under_jit(name, dtype):
    agrees(name, dtype, jit=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_eager(name, dtype):
    agrees(name, dtype, jit=False)
