"""What is refused, and that the message names it."""

import math

import jax
import jax.numpy as jnp
import pytest

import trainkit.transforms as tt

P = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


@pytest.mark.parametrize("rate", [-1.0, -1e-9, math.nan, math.inf, -math.inf, jnp.float32(-1)])
@pytest.mark.parametrize(
    "make",
    [
        tt.sgd, tt.momentum, tt.nesterov, tt.dynamic_gd, tt.adagrad, tt.rmsprop, tt.adam, tt.adamw,
        tt.lion, tt.muon, tt.adafactor, tt.sophia, tt.schedule_free, tt.schedule_free_adamw,
        tt.soap, tt.lbfgs, tt.newton_cg, tt.gauss_newton, tt.sgld,
    ],
)  # fmt: skip
def test_rates(make, rate):
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
        make(rate)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda b: tt.sgd(0.1, momentum=b), "momentum"),
        (lambda b: tt.momentum(0.1, b), "beta"),
        (lambda b: tt.nesterov(0.1, b), "beta"),
        (lambda b: tt.rmsprop(0.1, decay=b), "decay"),
        (lambda b: tt.adam(0.1, b1=b), "b1"),
        (lambda b: tt.adam(0.1, b2=b), "b2"),
        (lambda b: tt.adamw(0.1, b2=b), "b2"),
        (lambda b: tt.lion(0.1, b1=b), "b1"),
        (lambda b: tt.muon(0.1, beta=b), "beta"),
        (lambda b: tt.soap(0.1, shampoo_beta=b), "shampoo_beta"),
        (lambda b: tt.average_params(tt.sgd(0.1), b), "decay"),
    ],
)
@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, math.nan])
def test_betas(make, name, beta):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\)"):
        make(beta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tt.adamw(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: tt.adam(0.1, eps=-1.0), "eps"),
        (lambda: tt.l1(-1.0), "strength"),
        (lambda: tt.l2(math.nan), "strength"),
        (lambda: tt.clip_by_global_norm(0.0), "max_norm"),
        (lambda: tt.clip_by_norm(-1.0), "max_norm"),
        (lambda: tt.clip_by_value(math.nan), "max_value"),
        (lambda: tt.clip_adaptive(0.0), "clipping"),
        (lambda: tt.gradient_noise(-1.0), "eta"),
        (lambda: tt.sgld(0.1, num_data=0), "num_data"),
        (lambda: tt.sgld(0.1, prior=-1.0), "prior"),
        (lambda: tt.momentum(0.1, convention="both"), "'both'"),
        (lambda: tt.newton_cg(max_iterations=0), "max_iterations"),
        (lambda: tt.lbfgs(memory_size=0), "memory_size"),
        (lambda: tt.soap(0.1, precondition_frequency=0), "precondition_frequency"),
        (lambda: tt.sophia(0.1, update_interval=0), "update_interval"),
        (lambda: tt.quantise_moments(tt.adam(0.1), block=0), "block"),
    ],
)
def test_other_hyperparameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_string_is_no_rate():
    with pytest.raises(TypeError, match=r"adam: learning_rate.*'1e-3'"):
        tt.adam("1e-3")


@pytest.mark.parametrize(
    "tx",
    [tt.adamw(0.1), tt.lion(0.1), tt.l1(0.1), tt.muon(0.1), tt.sgld(0.1), tt.clip_adaptive(0.1),
     tt.named(a=tt.adamw(0.1)), tt.stochastic_rounding(tt.sgd(0.1))],
)  # fmt: skip
def test_the_parameters_are_asked_for(tx):
    with pytest.raises(ValueError, match=r"needs the parameters.*update\(updates, state, params\)"):
        tx.update(P, tx.init(P))


@pytest.mark.parametrize("tx", [tt.adamw(0.1), tt.adam(0.1), tt.sgd(0.1, 0.9)])
def test_the_first_path_that_differs_is_named(tx):
    state = tx.init(P)
    params = P if tx.needs_params else None
    with pytest.raises(ValueError, match="'dense/bias'"):
        tx.update({"dense": {"kernel": P["dense"]["kernel"]}}, state, params)
    bad = {"dense": {"kernel": P["dense"]["kernel"], "gain": jnp.ones(3)}}
    with pytest.raises(ValueError, match="'dense/gain'"):
        tx.update(bad, state, params)
    # Of one tree but another shape: broadcasting would hide it.
    with pytest.raises(ValueError, match=r"\(1, 3\) at 'dense/kernel'.*\(2, 3\)"):
        tx.update({"dense": {"kernel": jnp.ones((1, 3)), "bias": jnp.ones(3)}}, state, params)


def test_traced_hyperparameters_pass():
    make = jax.jit(lambda rate: tt.sgd(rate).update(P, tt.sgd(rate).init(P))[0])
    assert make(-1.0)["dense"]["bias"].tolist() == [1, 1, 1]


def test_clips_survive_what_overflows():
    for dtype, huge in ((jnp.float32, 1e20), (jnp.float32, 3e38), (jnp.float16, 300.0)):
        g = {"a": jnp.full(8, huge, dtype), "b": jnp.full(8, -huge, dtype)}
        # Of 16 equal entries in one norm, or of 8 in each of two.
        for tx, size in ((tt.clip_by_global_norm(1.0), 1 / 4), (tt.clip_by_norm(1.0), 8**-0.5)):
            u, _ = tx.update(g, tx.init(g))
            found = jnp.concatenate([u["a"], -u["b"]]).astype(jnp.float32)
            assert jnp.allclose(found, size, rtol=2e-3)
            assert u["a"].dtype == dtype


def test_clips_of_infinities_zeros_and_nan():
    tx = tt.clip_by_global_norm(2.0)
    update = lambda *x: tx.update(jnp.array(x), tx.init(jnp.array(x)))[0].tolist()
    assert update(jnp.inf, 5.0, -jnp.inf, 0.0) == pytest.approx([2**0.5, 0, -(2**0.5), 0])
    assert update(0.0, 0.0) == [0, 0]
    assert update(1e-42, 0.0) == pytest.approx([1e-42, 0], abs=1e-42)
    assert update(0.5, -1.0) == [0.5, -1.0]
    assert math.isnan(update(math.nan, 1.0)[0])
    w = jnp.ones((2, 2))
    adaptive = tt.clip_adaptive(0.5)
    u, _ = adaptive.update(jnp.array([[1e30, jnp.inf], [1e30, 1.0]]), adaptive.init(w), w)
    assert u.ravel().tolist() == pytest.approx([0.5, 0.5 * 2**0.5, 0.5, 0.0])
