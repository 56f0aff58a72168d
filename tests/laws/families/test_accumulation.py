"""The law of accumulation: means, sums, weights, and a NaN that must not stay."""

import jax
import jax.numpy as jnp
import optax
import pytest

from trainkit import laws

SGD = optax.sgd(0.1)


def weighted(every: int, fault: str = ""):
    """Accumulation of gradients with weights; `fault` plants one error."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return jnp.zeros([], jnp.int32), jnp.zeros([]), zeros

    def update(g, state, params=None, *, weight=1.0, **extra):
        count, total, held = state
        w = 1.0 if fault == "forgets the weight" else weight
        first, last = count == 0, count == every - 1
        held = jax.tree.map(lambda x, a: jnp.where(first, 0, a) + w * x, g, held)
        if fault == "clears by multiplying":
            held = jax.tree.map(lambda x, a: (1 - first) * a + w * x, g, state[2])
        total = jnp.where(first, 0, total) + w
        divisor = every if fault == "divides by the number" else total
        out = jax.tree.map(lambda a: jnp.where(last, -0.1 * a / divisor, 0), held)
        if fault == "moves in between":
            out = jax.tree.map(lambda a: -0.1 * a / divisor, held)
        return out, (jnp.where(last, 0, count + 1), total, held)

    return optax.GradientTransformationExtraArgs(init, update)


def check(make, **claim):
    claims = {"accumulation": {"k": 3, "inner": SGD} | claim}
    return laws.check(make, claims=claims, laws=["accumulation"])


def test_a_weighted_mean_holds():
    check(lambda: weighted(3), weight="weight").raise_for_failures()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("forgets the weight", "uneven weight"),
        ("divides by the number", "uneven weight"),
        ("moves in between", "zero in between"),
        ("clears by multiplying", "NaN"),
    ],
)
def test_a_fault_is_named(fault, words):
    report = check(lambda: weighted(3, fault), weight="weight")
    assert words in report.failures[0].message


def test_a_sum_is_no_mean_unless_it_is_said_to_be():
    make = lambda: optax.chain(optax.apply_every(3), SGD)
    assert not check(make).ok
    assert check(make, mean=False, poison=False).ok  # as MultiSteps, it clears by multiplying


def test_what_the_rule_inside_remembers_is_not_held_against_it():
    inner = optax.adam(1e-2)  # a NaN stays in its moments
    make = lambda: optax.MultiSteps(inner, 3)
    claims = {"accumulation": {"k": 3, "inner": inner}}
    laws.check(make, claims=claims, laws=["accumulation"]).raise_for_failures()
    assert "NaN" in check(lambda: optax.MultiSteps(SGD, 3)).failures[0].message
