"""Constants: of what is evaluated only the core is, and nothing that runs what is not JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from trainkit import growth
from trainkit.growth.ir import constants
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Folder

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(40, 30)))
CASES = {
    "causal mask": lambda n: jnp.tril(jnp.ones((2, n, n), bool)),
    "mask of heads": lambda n: jnp.broadcast_to(jnp.tril(jnp.ones((n, n), bool)), (2, 3, n, n)),
    "counted": lambda n: lax.broadcasted_iota(jnp.int32, (3, n), 1) * 2 + 1,
    "small whole numbers": lambda n: lax.broadcasted_iota(jnp.int8, (n, 300), 1),
    "frequencies": lambda n: jnp.cos(jnp.arange(float(n))[:, None] * jnp.exp(jnp.arange(4.0))),
    "moved": lambda n: jnp.transpose(jnp.broadcast_to(jnp.arange(n), (2, 3, n)), (2, 0, 1)),
    "chosen": lambda n: jnp.where(jnp.arange(n) > 2, 0.0, -jnp.inf)[None, :] * jnp.ones((2, 1)),
    "a table": lambda n: jnp.exp(TABLE[:3]) + jnp.arange(30, dtype=TABLE.dtype),
    "sorted": lambda n: jnp.sort(jnp.broadcast_to(jnp.sin(jnp.arange(float(n))), (2, n)), axis=0),
    "none": lambda n: jnp.zeros((0, n)) + jnp.arange(float(n)),
    "one number": lambda n: 1 / jnp.sqrt(jnp.float32(n)),
}


def constant(fn):
    (out,) = Folder().flatten(jax.make_jaxpr(fn)()).outs
    assert isinstance(out, Const)
    return out


@pytest.mark.parametrize("name", list(CASES))
def test_a_constant_is_what_jax_computes(name, x64):
    found = constant(lambda: CASES[name](7))
    wanted = np.asarray(jax.jit(lambda: CASES[name](7))())
    np.testing.assert_allclose(found.value, wanted, rtol=1e-12)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


@pytest.mark.parametrize(
    ("name", "core"),
    [("mask of heads", (1, 1, 7, 7)), ("counted", (1, 7)), ("moved", (7, 1, 1)),
     ("causal mask", (1, 7, 7)), ("small whole numbers", (1, 300))],
)  # fmt: skip
def test_what_repeats_is_kept_once(name, core):
    found = constant(lambda: CASES[name](7))
    assert found.core_shape == core == found.core.shape


def test_equal_cores_have_equal_keys_and_others_have_not():
    folder = Folder()
    key = lambda fn: folder.flatten(jax.make_jaxpr(fn)()).outs[0].key
    mask = lambda heads, n: (
        lambda: jnp.broadcast_to(jnp.tril(jnp.ones((n, n), bool)), (heads, n, n))
    )
    assert key(mask(2, 5)) == key(mask(7, 5)) != key(mask(2, 6))
    rows, columns = (lambda d=d: lax.broadcasted_iota(jnp.int32, (5, 5), d) for d in (0, 1))
    assert key(rows) != key(columns)


def attention(heads, length):
    """Masked, with a table of relative positions; planning it may not look at either."""

    def fn(p, x):
        q, k = (jnp.einsum("bti,ihd->bhtd", x, p[n]) for n in "qk")
        mask = jnp.broadcast_to(
            jnp.tril(jnp.ones((length, length), bool)), (4, heads, length, length)
        )
        far = jnp.abs(jnp.arange(length)[:, None] - jnp.arange(length)) / length
        weights = jax.nn.softmax(jnp.where(mask, q @ jnp.swapaxes(k, 2, 3) - far, -jnp.inf))
        return jnp.einsum("bhts,bsi,iho->bto", weights, x, p["out"])

    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    params = {"q": shape(3, heads, 2), "k": shape(3, heads, 2), "out": shape(3, heads, 3)}
    return fn, params, shape(4, length, 3)


def test_planning_computes_no_mask(monkeypatch):
    monkeypatch.setattr(constants, "LIMIT", 1000)
    (small, p, x), (big, grown, _) = attention(2, 512), attention(4, 512)
    assert growth.plan(small, big, p, grown, x).grown_axes


def test_what_would_take_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setattr(constants, "LIMIT", 1000)
    with pytest.raises(growth.GrowthError, match=r"(?s)needs more than .* as inputs"):
        np.asarray(constant(lambda: jnp.sort(jnp.arange(1000))).value)


def _fails(*_):
    raise RuntimeError("a plan ran a callback")


UNTAKEN = {
    "of a constant": lambda h: h * jax.pure_callback(_fails, jnp.zeros(()), jnp.ones(())),
    "of a constant that grows": lambda h: h * jax.pure_callback(
        _fails, jnp.zeros(h.shape[-1]), jnp.ones(h.shape[-1])
    ),
    "in a branch": lambda h: h + lax.cond(
        jnp.sum(TABLE) > 1e9, lambda: jax.pure_callback(_fails, h, h), lambda: jnp.zeros_like(h)
    ),
    "in a branch of branches": lambda h: h * lax.switch(
        jnp.argmax(TABLE[0]) * 0 + 1,
        [lambda: jax.pure_callback(_fails, jnp.ones(()), TABLE), lambda: jnp.ones(())],
    ),
    "where it may be taken": lambda h: lax.cond(
        h[0, 0] > 9, lambda: jax.pure_callback(_fails, h, jnp.ones(())), lambda: h
    ),
}  # fmt: skip
REFUSED = {"of a constant that grows", "where it may be taken"}


@pytest.mark.parametrize("name", list(UNTAKEN))
def test_nothing_foreign_is_run(name):
    def fn(p, x):
        return UNTAKEN[name](jnp.tanh(x @ p["in"])) @ p["out"]

    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    small, big = ({"in": shape(3, n), "out": shape(n, 2)} for n in (4, 6))
    if name in REFUSED:
        with pytest.raises(growth.GrowthError, match="pure_callback"):
            growth.plan(fn, fn, small, big, shape(5, 3))
    else:
        growth.plan(fn, fn, small, big, shape(5, 3))
