"""Complex leaves: a rule turns with the phase of its gradients, or refuses them by name."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt

PHASE = np.exp(0.7j)
PATTERN = ".*"

# Arguments of rules that have no learning rate, or with which they draw no noise.
ARGUMENTS = {
    "adaptive_grad_clip": (0.5,), "add_decayed_weights": (0.1,), "add_noise": (0.0,),
    "centralize": (), "clip": (0.5,), "clip_adaptive": (0.5,), "clip_by_global_norm": (0.5,),
    "clip_by_norm": (0.5,), "clip_by_value": (0.5,), "decoupled_weight_decay": (0.1, 0.1),
    "freeze": (), "gradient_noise": (0.0,), "identity": (), "l1": (0.1,), "l2": (0.1,),
    "layerwise_decay": ([PATTERN], 0.5), "scale": (0.1,), "scale_by_learning_rate": (0.1,),
    "scale_by_path": ([(PATTERN, 0.1)],), "scale_by_schedule": (optax.constant_schedule(0.1),),
    "set_to_zero": (), "sgld": (0.1, 5, 1.0, 0.0), "soft_threshold": (0.1, 0.1),
}  # fmt: skip
# What stands around a rule.
WRAPPERS = {
    "accumulate": lambda: tt.accumulate(tt.adam(0.1), 2),
    "average_params": lambda: tt.average_params(tt.adam(0.1)),
    "cautious": lambda: tt.cautious(tt.sgd(0.1, 0.9)),
    "chain": lambda: tt.chain(tt.clip_by_global_norm(0.5), tt.adam(0.1)),
    "gradual_unfreezing": lambda: tt.gradual_unfreezing(tt.adam(0.1), [(PATTERN, 2)]),
    "groups": lambda: tt.groups([("w", tt.adam(0.1)), (PATTERN, tt.sgd(0.1))]),
    "inject": lambda: tt.inject(tt.yogi)(0.1),
    "lookahead": lambda: tt.lookahead(tt.adam(0.1), 2),
    "named": lambda: tt.named(adam=tt.adam(0.1)),
    "quantise_moments": lambda: tt.quantise_moments(tt.adam(0.1), min_size=1),
    "skip_nonfinite": lambda: tt.skip_nonfinite(tt.adam(0.1)),
    "stochastic_rounding": lambda: tt.stochastic_rounding(tt.adam(0.1)),
    "unfreeze_at": lambda: tt.unfreeze_at(tt.adam(0.1), 2),
}
OPTIONS = {
    "adam, μ of its own dtype": lambda: tt.adam(0.1, mu_dtype=jnp.complex128),
    "adafactor, factored": lambda: tt.adafactor(
        0.1, 2, momentum=0.9, dtype_momentum=None, weight_decay_rate=0.1
    ),
    "adam, ν in bfloat16": lambda: tt.adam(0.1, nesterov=True, nu_dtype=jnp.bfloat16),
    "amsgrad, corrected": lambda: tt.amsgrad(0.1, bias_correction_mu=True, bias_correction_nu=True),
    "dion, of full rank": lambda: tt.dion(0.1, rank_fraction=1.0),
    "muon, adaptive": lambda: tt.muon(0.1, adaptive=True, preconditioning="schatten"),
    "rmsprop, centred": lambda: tt.rmsprop(0.1, centered=True, momentum=0.9, nesterov=True),
    "scion, signs": lambda: tt.scion(0.1, norms={"w|k": "sign"}),
}
# Functions that make no transformation, or for which no leaf is complex.
NO_RULE = {
    "apply_updates", "assign", "averaged", "check_guard", "conjugate_gradient", "decay_mask",
    "decay_table", "dequantise", "edit_state", "get", "gnvp", "has_updated", "hvp", "linearised",
    "quantise", "reset_state", "rule", "safe_norm", "schedule_free_params", "set",
    "stochastic_round", "stop_frozen", "swap",
}  # fmt: skip
REFUSED = {
    "adadelta", "clip", "clip_by_value", "gauss_newton", "kron", "lbfgs", "newton_cg", "shampoo",
    "soap", "sophia",
}  # fmt: skip


def rules():
    """Every public name that makes a transformation, with options too, and how it is made."""
    made = {**WRAPPERS, **OPTIONS}
    for name in set(tt.__all__) - NO_RULE - set(WRAPPERS):
        factory = getattr(tt, name)
        if not inspect.isclass(factory):
            made[name] = functools.partial(factory, *ARGUMENTS.get(name, (0.1,)))
    return dict(sorted(made.items()))


def tree(seed):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))
    return {"w": draw(4, 3), "b": draw(3), "k": draw(2, 2, 3), "s": draw()}


def updates(tx, phase):
    """Of four steps, with parameters and gradients turned by a phase."""
    turn = functools.partial(jax.tree.map, lambda x: x * phase)
    params, out = turn(tree(0)), []
    state = tx.init(params)
    for seed in range(1, 5):
        step, state = tx.update(turn(tree(seed)), state, params)
        params = jax.tree.map(jnp.add, params, step)
        out.append(step)
    return out


@pytest.mark.parametrize("name", rules())
def test_updates_turn_with_the_gradients_or_the_leaf_is_refused(name, x64):
    tx = rules()[name]()
    if name in REFUSED:
        with pytest.raises(TypeError, match=r"params/b is complex128.* as two leaves"):
            tx.init(tree(0))
        return
    for one, turned in zip(updates(tx, 1.0), updates(tx, PHASE), strict=True):
        for key in one:
            # Rounding of a few operations; Muon and the centred root amplify it.
            np.testing.assert_allclose(turned[key], one[key] * PHASE, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["adadelta", "clip_by_value", "kron", "shampoo", "soap"])
def test_what_is_refused_can_be_wrapped_as_the_message_says(name, x64):
    with pytest.raises(TypeError) as caught:
        rules()[name]().init({"z": jnp.ones((2, 2), complex)})
    advised = f"optax.contrib.split_real_and_imaginary({name}(…))"
    assert advised in str(caught.value)
    tx = optax.contrib.split_real_and_imaginary(rules()[name]())
    with jax.numpy_dtype_promotion("standard"):  # as in a train step
        out = updates(tx, 1.0)[-1]["w"]
    assert np.isfinite(out).all()
    assert np.abs(np.imag(out)).min() > 0


@pytest.mark.parametrize("name", ["gauss_newton", "lbfgs", "newton_cg", "sophia"])
def test_rules_that_read_the_loss_are_not_told_to_be_wrapped(name):
    with pytest.raises(TypeError, match=r"two leaves\.$"):
        rules()[name]().init({"z": jnp.ones(2, jnp.complex64)})


@pytest.mark.parametrize(
    "make",
    [
        lambda: tt.adam(0.1, mu_dtype=jnp.bfloat16),
        lambda: tt.sgd(0.1, 0.9, accumulator_dtype=jnp.float32),
        lambda: tt.adafactor(0.1, momentum=0.9),
        lambda: tt.inject(tt.adam)(0.1, mu_dtype=jnp.float32),
    ],
)
def test_a_real_momentum_of_a_complex_leaf_is_refused(make):
    params = {"a": jnp.ones(2), "z": jnp.ones(2, jnp.complex64)}
    with pytest.raises(TypeError, match="params/z is complex64, but its momentum would be kept"):
        make().init(params)
    make().init({"a": jnp.ones(2)})


# -- against NumPy ---------------------------------------------------------------------------------


def moments(gradients, b1, b2, power):
    """μ̂ and ν̂ after these gradients, ν of power(g)."""
    mu = nu = 0
    t = len(gradients)
    for g in gradients:
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * power(g)
    return mu / (1 - b1**t), nu / (1 - b2**t)


def last_step(tx, gradients):
    params = jnp.zeros_like(gradients[0])
    state = tx.init(params)
    for g in gradients:
        step, state = tx.update(jnp.asarray(g), state, params)
    return np.asarray(step)


def drawn(*shape):
    rng = np.random.default_rng(7)
    return [rng.normal(size=shape) + 1j * rng.normal(size=shape) for _ in range(5)]


def test_second_moments_are_of_the_length(x64):
    vectors, matrices = drawn(6), drawn(4, 3)
    length = lambda g: np.abs(g) ** 2
    mu, nu = moments(vectors, 0.9, 0.999, length)
    want = -0.1 * mu / (np.sqrt(nu) + 1e-8)
    np.testing.assert_allclose(last_step(tt.adam(0.1), vectors), want, rtol=1e-12)
    np.testing.assert_allclose(last_step(tt.normuon(0.1), vectors), want, rtol=1e-12)
    columns = lambda g: length(g).mean(axis=0, keepdims=True)
    mu, nu = moments(matrices, 0.9, 0.999, columns)
    want = -0.1 * mu / (np.sqrt(nu) + 1e-8)
    np.testing.assert_allclose(last_step(tt.adam_mini(0.1), matrices), want, rtol=1e-12)
    mu, nu = moments(vectors, 0.9, 0.95, length)
    want = -0.1 * mu / (np.sqrt(nu) + 1e-8)
    np.testing.assert_allclose(last_step(tt.dion(0.1), vectors), want, rtol=1e-12)


def test_yogi_and_mars_with_a_complex_gradient(x64):
    gradients = drawn(6)
    mu, nu = 0, 1e-6
    for g in gradients:
        mu = 0.9 * mu + 0.1 * g
        nu = nu - 0.001 * np.sign(nu - np.abs(g) ** 2) * np.abs(g) ** 2
    want = -0.1 * mu / (np.sqrt(nu) + 1e-3)
    np.testing.assert_allclose(last_step(tt.yogi(0.1), gradients), want, rtol=1e-12)
    share, last, corrected = 0.025 * 0.95 / 0.05, gradients[0], []
    for g in gradients:
        c = g + share * (g - last)
        corrected.append(c / max(np.linalg.norm(c), 1))
        last = g
    mu, nu = moments(corrected, 0.95, 0.99, lambda g: np.abs(g) ** 2)
    want = -0.1 * mu / (np.sqrt(nu) + 1e-8)
    np.testing.assert_allclose(last_step(tt.mars(0.1), gradients), want, rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_the_orthogonal_factor_of_a_complex_matrix(shape, x64):
    """By the singular values, which the iteration maps one by one."""
    g = drawn(*shape)[0]
    left, values, right = np.linalg.svd(0.1 * g, full_matrices=False)
    values = values / (np.linalg.norm(0.1 * g) + 1e-8)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    want = (left * values) @ right
    scion = tt.scion(1.0, unconstrained=True)
    np.testing.assert_allclose(
        last_step(scion, [g]), -((shape[1] / shape[0]) ** 0.5) * want, rtol=1e-9
    )


def test_dion_of_a_complex_matrix(x64):
    """At full rank its step is Q Pᴴ of B = Q |R| Pᴴ, columns of B P of length 1."""
    gradients, m = drawn(4, 2), 0
    tx = tt.dion(0.1, 0.9, rank_fraction=1.0)
    right = np.asarray(tx.init(jnp.asarray(gradients[0]))[0].right_factor)
    for g in gradients:
        b = m + g
        p = np.linalg.qr(b.conj().T @ right)[0]
        image = b @ p
        m = b - 0.1 * image @ p.conj().T
        right = image / np.linalg.norm(image, axis=0)
    want = -0.1 * (2 / 4) ** 0.5 * right @ p.conj().T
    np.testing.assert_allclose(last_step(tx, gradients), want, rtol=1e-9)


def test_cautious_keeps_what_goes_down(x64):
    first, second = drawn(6)[:2]
    second -= first
    u = -0.1 * (0.9 * first + second)
    kept = (u * second.conj()).real < 0
    want = u * kept * len(u) / (kept.sum() + 1)
    got = last_step(tt.cautious(tt.sgd(0.1, 0.9)), [first, second])
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert 0 < kept.sum() < len(u)


@pytest.mark.parametrize("bad", [complex(np.nan, 0), complex(0, np.inf)])
def test_a_complex_gradient_that_is_not_finite_is_skipped(bad):
    tx = tt.skip_nonfinite(tt.sgd(1.0))
    params = jnp.ones(2, jnp.complex64)
    step, state = tx.update(jnp.array([1, bad], jnp.complex64), tx.init(params), params)
    assert step.tolist() == [0, 0]
    assert int(state.skipped) == 1


def test_langevin_dynamics_moves_both_parts_alike(x64):
    """exp(−λ|z|²/2) has the variance 1/λ in the real and in the imaginary part."""
    for prior in (2.0, lambda z: -jnp.sum(jnp.abs(z - (3 + 4j)) ** 2)):
        tx = tt.sgld(0.1, prior=prior)
        start = jnp.full(4000, 1.0 + 0j)

        def step(carry, _, tx=tx):
            z, state = carry
            u, state = tx.update(jnp.zeros_like(z), state, z)
            return (z + u, state), None

        z = np.asarray(jax.lax.scan(step, (start, tx.init(start)), None, 400)[0][0])
        centre = 0 if prior == 2.0 else 3 + 4j
        # x ← (1 − ε) x + √ε ξ has the variance 1/(2 − ε); 4000 draws, 5 standard errors.
        assert abs(z.mean() - centre) < 5 * np.sqrt(2 * 0.526 / 4000)
        for part in (z.real, z.imag):
            assert part.var() == pytest.approx(1 / 1.9, rel=5 * np.sqrt(2 / 4000))
