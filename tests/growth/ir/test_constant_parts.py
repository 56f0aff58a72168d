"""Parts of constants are those of the whole constants, and the whole is not evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth
from trainkit.growth.ir import constants
from trainkit.growth.ir.program import Folder

T, D = 12, 10


def angles(d=D, dtype=jnp.float32):
    return jnp.arange(T, dtype=dtype)[:, None] / 100.0 ** (jnp.arange(0, d, 2, dtype=dtype) / d)


def interleaved():
    table = jnp.zeros((T, D)).at[:, ::2].set(jnp.sin(angles()))
    return table.at[:, 1::2].set(jnp.cos(angles()))


TABLES = {
    "two halves": lambda: jnp.concatenate([jnp.sin(angles()), jnp.cos(angles())], -1),
    "stacked": lambda: jnp.stack([jnp.sin(angles()), jnp.cos(angles())], -1).reshape(T, D),
    "stacked first": lambda: jnp.stack([jnp.sin(angles()), jnp.cos(angles())], 0)[0],
    "written": interleaved,
    "outer": lambda: jnp.einsum("i,j->ij", jnp.arange(T) * 0.5, 1.0 + jnp.arange(D)),
    "transposed": lambda: jnp.tanh(angles().T)[:, :, None] + jnp.ones((1, 1, 3)),
    "repeats": lambda: jnp.broadcast_to(jnp.sin(jnp.arange(T) * 1.0)[:, None], (T, D)) * 2.0,
    "mask": lambda: jnp.tril(jnp.ones((T, T), bool))[None, :, :] & (jnp.arange(T) > 2),
    "squeezed": lambda: jnp.squeeze(angles()[None, :, None, :], (0, 2)).reshape(T, 1, -1),
    "integers": lambda: (jnp.arange(T)[:, None] - jnp.arange(D)[None]).astype(jnp.int32) % 7,
}


@pytest.fixture(autouse=True)
def _mode(x64, monkeypatch):
    monkeypatch.setattr(constants, "WHOLE", 0)  # no constant is small
    with jax.numpy_dtype_promotion("standard"):
        yield


def last(fn):
    (found,) = Folder().flatten(jax.make_jaxpr(fn)()).outs
    return found


@pytest.mark.parametrize("name", TABLES)
def test_parts(name):
    rng, wanted = np.random.default_rng(0), np.asarray(TABLES[name]())
    for _ in range(4):
        picks = [rng.permutation(n)[: rng.integers(1, n + 1)] for n in wanted.shape]
        some = [None if rng.random() < 0.3 else p for p in picks]
        found = last(TABLES[name]).part(some)
        want = wanted
        for d, pick in enumerate(some):
            want = want if pick is None else np.take(want, pick, d)
        assert found.dtype == want.dtype
        # Powers and sines of float32 depend on how XLA vectorises them: a few roundings.
        np.testing.assert_allclose(np.broadcast_to(found, want.shape), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["two halves", "stacked", "written", "outer", "transposed"])
def test_the_whole_is_not_evaluated(name, monkeypatch):
    table, sizes = last(TABLES[name]), []
    host = constants._host
    monkeypatch.setattr(constants, "_host", lambda v: sizes.append(v.size) or host(v))
    table.part([np.array([3, 5]), *[None] * (len(table.shape) - 1)])
    # Two rows, and vectors.
    assert max(sizes) <= max(2 * np.prod(table.shape[1:]), T, 2 * T * (name == "transposed") * 3)


def stream(table):
    return lambda p, x: jnp.tanh(x @ p["w"] + table(p["w"].shape[1])) @ p["out"]


@pytest.mark.parametrize("form", ["refused", "accepted"])
def test_a_large_table_is_evaluated_in_pieces(form, monkeypatch):
    """64 MB in one model, and 128 in the other: nowhere are more than a few pieces held."""
    rows, sizes = 4096, []
    host = constants._host
    monkeypatch.setattr(constants, "WHOLE", 2**14)
    monkeypatch.setattr(constants, "_host", lambda v: sizes.append(v.nbytes) or host(v))

    def table(d):
        places = jnp.arange(rows, dtype=jnp.float32)[:, None]
        if form == "refused":
            return jnp.sin(places / 100.0 ** ((0.5 + jnp.arange(d)) / d)).astype(jnp.float32)
        return jnp.sin(places * jnp.ones(d, jnp.float32)) + 0.0 * jnp.arange(d, dtype=jnp.float32)

    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    sizes_of = lambda d: {"w": s(3, d), "out": s(d, 2)}
    attempt = lambda: growth.plan(*[stream(table)] * 2, sizes_of(4096), sizes_of(8192), s(rows, 3))
    if form == "refused":
        with pytest.raises(growth.GrowthError, match="a table"):
            attempt()
        assert max(sizes) <= 64 * 8192 * 8
    else:
        attempt()
        assert max(sizes) <= 2**20 * 8  # a piece
