"""Constant gradients, and rules that use the first of them to look around."""

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit.transforms as tt
from trainkit import laws


def check(make):
    return laws.check(make, claims=["adapts"], laws=["constant gradients"], examples=0)


@pytest.mark.parametrize("make", [lambda: optax.contrib.adopt(1e-2), lambda: tt.soap(1e-2)])
def test_a_first_update_of_zero_is_no_stall(make):
    check(make).raise_for_failures()


def scaled(factor):
    """−g, times a factor of the count."""

    def update(g, count, params=None):
        return jax.tree.map(lambda x: -factor(count).astype(x.dtype) * x, g), count + 1

    return lambda: optax.GradientTransformation(lambda p: jnp.zeros([], jnp.int32), update)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (lambda t: jnp.zeros(()), "never move"),
        (lambda t: jnp.where(t == 5, jnp.inf, 1.0), "step 6 is not finite"),
        (lambda t: jnp.where(t == 0, 0.0, 1.0 / t**2), "goes from 1 to"),
    ],
)
def test_what_is_said_is_what_was_found(factor, words):
    assert words in check(scaled(factor)).failures[0].message
