"""New layers are updated as if their own steps were counted; against Adam as its paper has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit._core.paths import named_leaves
from trainkit.data import Sampler
from trainkit.progressive import Stage, triggers
from trainkit.progressive.stages.bias_correction import Decays, correction
from trainkit.progressive.stages.pace import LeafPace, after_growth, paced
from trainkit.progressive.transition.new_moments import begun_anew, decays_of

PARAMS = {"w": jnp.zeros((4, 4)), "b": jnp.zeros(4), "k": jnp.zeros((2, 3, 4))}


def adam(gradients, rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    """Updates of Adam from its first step on, in float64 (Kingma and Ba, 2015, algorithm 1)."""
    m = v = np.zeros_like(gradients[0], np.float64)
    found = []
    for t, g in enumerate(np.asarray(gradients, np.float64), 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        found.append(-rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps))
    return np.array(found)


ADAM = dict.fromkeys(PARAMS, (0.9, 0.999, 0.0))
NOT_MATRICES = {"b": (0.9, 0.999, 1.0), "k": (0.9, 0.999, 1.0)}


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (optax.adam(1e-3), ADAM),
        (tt.adamw(1e-3), ADAM),
        (optax.adam(optax.linear_schedule(0.0, 1e-3, 500)), ADAM),
        (optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3), ADAM),
        (optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-3, 0.8, 0.95)),
         dict.fromkeys(PARAMS, (0.8, 0.95, 0.0))),
        (optax.nadam(1e-3), dict.fromkeys(PARAMS, (0.9, 0.999, 1.0))),
        (optax.rmsprop(1e-3, 0.95), dict.fromkeys(PARAMS, (0.0, 0.95, 0.0))),
        (optax.contrib.muon(1e-3), NOT_MATRICES),
        (tt.muon(1e-3), NOT_MATRICES),
        (tt.groups([("w", optax.adam(1e-3)), (".*", optax.sgd(1e-3, momentum=0.9))]),
         {"w": ADAM["w"]}),
        # No second moment, or one that another formula corrects.
        (optax.sgd(1e-3, momentum=0.9), {}),
        (optax.lion(1e-3), {}),
        (optax.adagrad(1e-3), {}),
        (optax.amsgrad(1e-3), {}),
        (optax.adabelief(1e-3), {}),
        (optax.rmsprop(1e-3, momentum=0.9), {}),
        (optax.contrib.ademamix(1e-3), {}),
        (optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(), {}),
        (tt.soap(1e-3), {}),
        (optax.polyak_sgd(), {}),  # needs the loss
    ],
)  # fmt: skip
def test_the_decays_of_a_rule_are_measured(tx, expected):
    found = {name: tuple(decays) for name, decays in decays_of(tx, PARAMS).items()}
    assert set(found) == set(expected)
    for name, decays in expected.items():
        # The ratio of two float32: an error of 10⁻⁷ in β₂ is one of 10⁻⁴ in 1 − β₂.
        np.testing.assert_allclose(found[name], decays, atol=1e-6)


def test_a_new_leaf_takes_the_steps_of_a_fresh_adam_and_the_old_ones_go_on():
    before, after = 150, 300
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(before + after, 4)) * np.exp(rng.normal(size=(before + after, 1)))
    tx = paced(optax.adam(1e-3))
    update = jax.jit(tx.update)
    params = {"old": jnp.zeros(4), "new": jnp.zeros(4)}
    state, found = tx.init(params), []
    for step, g in enumerate(gradients):
        if step == before:
            inner = begun_anew(state.inner, lambda leaf: leaf == "new")
            decays = decays_of(optax.adam(1e-3), params)["new"]
            leaves = {"old": LeafPace(), "new": LeafPace(born=state.step, decays=decays)}
            state = after_growth(state, inner, leaves)
        g = jnp.asarray(g, jnp.float32)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update({"old": g, "new": g}, state, params)
        found.append(updates)
    # 1 − β₂ᵗ of float32's β₂ loses four digits at first.
    np.testing.assert_allclose([u["old"] for u in found], adam(gradients), rtol=1e-3)
    new = np.array([u["new"] for u in found])[before:]
    np.testing.assert_allclose(new, adam(gradients[before:]), rtol=2e-3)
    # Without the correction the first steps would be up to 2.5 times as long here.
    worst = correction(Decays(0.9, 0.999), before + np.arange(1.0, 21), np.arange(1.0, 21))
    assert worst.min() < 0.4


class Stack(nn.Module):
    """Pre-norm blocks between two dense layers."""

    depth: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(x)
        for layer in range(self.depth):
            h = nn.gelu(nn.Dense(8, name=f"up_{layer}")(nn.LayerNorm(name=f"norm_{layer}")(x)))
            x = x + nn.Dense(6, name=f"down_{layer}")(h)
        return nn.Dense(3, name="last")(x)


def trained(depths, steps, tx, **options):
    """The state of a run that grows after 12 and 20 steps."""
    rng = np.random.default_rng(0)
    data = {
        "inputs": rng.normal(size=(64, 5)).astype(np.float32),
        "label": rng.integers(0, 3, 64).astype(np.int32),
    }
    first, second, last = map(Stack, depths)
    stages = [Stage(first, triggers.steps(12)), Stage(second, triggers.steps(8), **options)]
    run = trainkit.progressive.progressive(
        [*stages, Stage(last, **options)],
        lambda model: trainkit.from_linen(model, optax.softmax_cross_entropy_with_integer_labels),
        tx, Sampler(data, 16), [data], steps=steps, decay=0.0, certify=False, progress=False,
        eval_every=100, log_every=100,
    )  # fmt: skip
    state = run.state
    moments = state.opt_state.inner[0]
    values = [state.params, moments.mu, moments.nu, state.opt_state.leaves]
    return [dict(named_leaves(jax.tree.map(np.asarray, tree))) for tree in values]


@pytest.mark.parametrize("depths", [(0, 1, 2), (1, 2, 4)])
def test_a_progressive_run_counts_the_steps_of_its_new_layers(depths):
    rate, b1, b2, eps = 3e-3, 0.9, 0.999, 1e-8
    tx = optax.adam(rate)
    before = trained(depths, 24, tx)[0]
    params, mu, nu, leaves = trained(depths, 25, tx)
    born = {name: int(LeafPace.of(packed).born) for name, packed in leaves.items()}
    assert born["first/kernel"] == born["last/bias"] == 0
    assert set(born.values()) == {0, 12, 20}
    for name, at in born.items():
        age = 25 - at
        m, v = mu[name].astype(np.float64), nu[name].astype(np.float64)
        step = -rate * (m / (1 - b1**age)) / (np.sqrt(v / (1 - b2**age)) + eps)
        # float32: of β₂ in 1 − β₂ᵃ (10⁻³), and of the parameters, whose difference this is.
        np.testing.assert_allclose(params[name] - before[name], step, rtol=2e-3, atol=2e-7)


def test_the_moments_of_new_layers_begin_at_nothing():
    _, mu, nu, leaves = trained((1, 2, 4), 21, optax.adam(3e-3))
    new = [name for name, packed in leaves.items() if LeafPace.of(packed).born == 20]
    assert new
    for name in new:  # of one gradient: μ = .1 g, ν = .001 g²
        np.testing.assert_allclose(nu[name], 0.1 * mu[name] ** 2, rtol=1e-4)
    assert any(mu[name].any() for name in new)


def test_a_state_that_is_reset_has_a_count_of_its_own():
    *_, leaves = trained((0, 1, 2), 21, optax.adam(3e-3), moments="reset")
    assert not any(LeafPace.of(packed).born for packed in leaves.values())
