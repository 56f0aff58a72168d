"""Right rules of kinds that the kit accused, and their wrong neighbours, which it must."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit.transforms as tt
from trainkit import laws, schedules

tmap = jax.tree.map


def schedule_free(lr=0.1, b=0.9, keeps_z=True):
    """Updates are the way to a point that the state implies: their rounding is the parameters'."""

    def init(p):
        copy = lambda: tmap(lambda x: jnp.array(x, copy=True), p)
        return {"x": copy(), "t": jnp.zeros([], jnp.int32)} | ({"z": copy()} if keeps_z else {})

    def update(g, s, p):
        t = optax.safe_increment(s["t"])
        share = lambda x: (1 / t).astype(x.dtype)
        z = s["z"] if keeps_z else tmap(lambda y, x: (y - b * x) / (1 - b), p, s["x"])
        z = tmap(lambda z, g: z - lr * g, z, g)
        x = tmap(lambda x, z: (1 - share(x)) * x + share(x) * z, s["x"], z)
        u = tmap(lambda x, z, p: (1 - b) * z + b * x - p, x, z, p)
        return u, {"x": x, "t": t} | ({"z": z} if keeps_z else {})

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize("keeps_z", [True, False])
def test_updates_that_lead_to_a_kept_point_may_be_rounded_as_parameters_are(keeps_z):
    report = laws.check(lambda: schedule_free(keeps_z=keeps_z), laws=["bfloat16"], examples=0)
    report.raise_for_failures()
    assert any("grows inside the rule" in note for note in report.notes)


def test_the_basis_of_a_null_space_is_roundings_own():
    laws.check(lambda: tt.soap(1e-2), laws=["bfloat16"], examples=0).raise_for_failures()


@pytest.mark.parametrize("lost", ["the sign", "small steps", "a factor"])
def test_what_is_lost_in_bfloat16_is_still_said(lost):
    def f(x):
        low = x.dtype == jnp.bfloat16
        if lost == "the sign":
            return jnp.abs(x) if low else x
        return x * (0.1 if low else 1.0) if lost == "a factor" else jnp.round(x / 8) if low else x

    make = lambda: optax.stateless(lambda g, p: tmap(lambda x: -1e-3 * f(x), g))
    assert not laws.check(make, laws=["bfloat16"], examples=0).ok


def counting(how, place=lambda count, rest: (count, rest), dtype=jnp.int32):
    def update(g, state, params=None):
        count = state if isinstance(state, jax.Array) else jax.tree.leaves(state)[0]
        size = jnp.clip(count, 1, 10).astype(jnp.float32)
        return tmap(lambda x: -0.1 * x / size.astype(x.dtype), g), place(how(count), ())

    init = lambda p: place(jnp.zeros([], dtype), ())
    return lambda: optax.GradientTransformation(init, update)


def plus(count):
    return count + 1


COUNTS = {
    "a tuple": (counting(plus), "broken"),
    "an array": (counting(plus, lambda count, rest: count), "broken"),
    "another name": (counting(plus, lambda count, rest: {"n": count}), "broken"),
    "of 16 bits": (counting(plus, dtype=jnp.int16), "broken"),
    "saturating": (counting(optax.safe_increment), "holds"),
    "in a window": (counting(lambda c: jnp.where(c + 1 >= 20, 0, c + 1)), "not applicable"),
    "capped": (counting(lambda c: jnp.minimum(c + 1, 50)), "not applicable"),
    "of rounds": (counting(lambda c: (c + 1) % 7), "not applicable"),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_are_found_by_what_they_do(kind):
    make, outcome = COUNTS[kind]
    report = laws.check(make, laws=["counts"], level="strict", examples=0)
    assert report.results[0].outcome == outcome
    for failure in report.failures:
        with jax.numpy_dtype_promotion("standard"), pytest.raises(AssertionError):
            exec(failure.reproducer, {})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Module:
    """A node of trees that Flax does not know, such as an Equinox module."""

    count: jax.Array
    mu: object


def with_module():
    def update(g, s, p=None):
        mu = tmap(lambda m, g: 0.9 * m + 0.1 * g, s.mu, g)
        return tmap(lambda m: -0.1 * m, mu), Module(optax.safe_increment(s.count), mu)

    def init(p):
        return Module(jnp.zeros([], jnp.int32), tmap(jnp.zeros_like, p))

    return optax.GradientTransformation(init, update)


def test_a_module_as_state_goes_through_bytes_leaf_by_leaf():
    laws.check(with_module, laws=["resume"]).raise_for_failures()


def test_what_no_bytes_hold_is_still_said():
    opaque = optax.GradientTransformation(lambda p: {"held": object()}, lambda g, s, p=None: (g, s))
    assert not laws.check(lambda: opaque, laws=["resume"]).ok


def test_a_state_of_x_alone_is_the_rule_too():
    """z is then read off the parameters, which have to be those that the rule moved."""
    h = {"learning_rate": 0.1, "b1": 0.9}
    check = lambda make: laws.check(make, like="schedule_free_sgd", hyperparams=h, laws=["oracle"])
    check(lambda: schedule_free(keeps_z=False)).raise_for_failures()
    assert not check(lambda: schedule_free(b=0.8, keeps_z=False)).ok


def test_a_step_of_zero_may_be_the_rounding_of_a_kept_point():
    """A warm-up from 0: the way from y to y, which jit rounds otherwise."""
    make = lambda: tt.schedule_free(schedules.warmup(schedules.constant(0.1), 10))
    laws.check(make, laws=["jit is eager", "scan is a loop"]).raise_for_failures()
