"""Noise: its variance, its reproducibility, and whether Langevin dynamics samples the posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt
from tests.transforms import references as r


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_langevin_without_heat_is_descent_on_the_posterior(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        params = {"w": np.float64(np.float32(rng.normal(size=(3, 2))))}
        gs = [{"w": np.float64(np.float32(rng.normal(size=(3, 2))))} for _ in range(100)]
        rate, n, prior = 1e-3, 20, 2.0
        tx = tt.sgld(rate, num_data=n, prior=prior, temperature=0.0)

        def step(carry, g):
            p, s = carry
            u, s = tx.update(g, s, p)
            p = jax.tree.map(jnp.add, p, u)
            return (p, s), p

        to = lambda t: {k: jnp.asarray(v, dtype) for k, v in t.items()}
        stacked = {"w": jnp.stack([to(g)["w"] for g in gs])}
        found = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(
            (to(params), tx.init(to(params))), stacked
        )[1]
        scaled = [{"w": n * g["w"]} for g in gs]
        expected = r.run(r.chain(r.decay(prior), r.learning_rate(rate / 2)), params, scaled)
        error = max(
            np.abs(np.asarray(found["w"][i]) - e["w"]).max() for i, e in enumerate(expected)
        )
        assert error <= tolerance


def test_the_noise_is_the_difference_between_hot_and_cold():
    p = {"w": jnp.zeros((200, 100))}
    g = jax.tree.map(jnp.ones_like, p)
    hot, cold = (tt.sgld(0.04, temperature=t, key=3) for t in (2.0, 0.0))
    noise = hot.update(g, hot.init(p), p)[0]["w"] - cold.update(g, cold.init(p), p)[0]["w"]
    # Standard errors of mean and variance of 20,000 draws: .7 % and 1 % of the deviation.
    assert abs(float(noise.mean())) < 0.03 * (0.04 * 2) ** 0.5
    assert float(noise.var()) == pytest.approx(0.04 * 2, rel=0.05)


def test_langevin_samples_the_posterior():
    """A Gaussian mean with a Gaussian prior: the posterior is known in closed form."""
    rng = np.random.default_rng(1)
    data = jnp.asarray(rng.normal(1.5, 1.0, 20), jnp.float32)
    prior = 4.0
    precision = prior + len(data)
    mean = float(data.sum()) / precision
    tx = tt.sgld(2e-3, num_data=len(data), prior=prior)

    def chain(key):
        p = jnp.zeros(())
        # One key for the noise of each chain, and mini-batches of 10 drawn afresh.
        one = tt.sgld(2e-3, num_data=len(data), prior=prior, key=key)

        def step(carry, k):
            p, s = carry
            batch = jax.random.choice(k, data, (10,), replace=False)
            u, s = one.update(jnp.mean(p - batch), s, p)
            return (p + u, s), p + u

        keys = jax.random.split(jax.random.fold_in(key, 1), 3000)
        return jax.lax.scan(step, (p, one.init(p)), keys)[1][1000:]

    samples = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 64)).ravel()
    # The mini-batches' own noise adds ε/4 · N² var(ḡ) to the stationary variance: within 10 %.
    assert float(samples.mean()) == pytest.approx(mean, abs=0.02)
    assert float(samples.var()) == pytest.approx(1 / precision, rel=0.12)
    del tx


def test_a_prior_of_ones_own():
    """log p = −λ θ²/2 given as a function is the Gaussian prior given as a number."""
    p = jnp.array([1.0, -2.0])
    by_number, by_function = (
        tt.sgld(0.1, prior=x, temperature=0.0) for x in (3.0, lambda q: -1.5 * jnp.sum(q**2))
    )
    one = by_number.update(jnp.ones(2), by_number.init(p), p)[0]
    two = by_function.update(jnp.ones(2), by_function.init(p), p)[0]
    assert jnp.allclose(one, two)


def test_annealed_noise_has_its_variance():
    tx = tt.gradient_noise(0.09, 0.55, key=2)
    g = jnp.zeros(40_000)
    state, deviations = tx.init(g), []
    for _ in range(3):
        u, state = tx.update(g, state)
        deviations.append(float(u.std()))
    expected = [0.3 / (1 + t) ** 0.275 for t in range(3)]
    assert deviations == pytest.approx(expected, rel=0.02)  # 40,000 draws: .35 %


def test_it_draws_the_same_again_and_never_the_same_twice():
    tx = tt.gradient_noise(1.0, key=jax.random.key(5))
    g = {"a": jnp.zeros(50), "b": jnp.zeros(50)}
    state = tx.init(g)
    first, after = tx.update(g, state)
    again, _ = jax.jit(tx.update)(g, state)
    other, _ = tx.update(g, after)
    assert jnp.allclose(first["a"], again["a"], atol=1e-6)
    assert not jnp.allclose(first["a"], first["b"])
    assert not jnp.allclose(first["a"], other["a"])
    # Data of the key rather than the key: it goes through NumPy and back.
    back = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), after)
    assert jnp.array_equal(tx.update(g, back)[0]["a"], other["a"])
