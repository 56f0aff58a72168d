"""The states of this package's own transformations grow, too."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from tests.growth.catalogue import grow_params, mlp_growth, mlp_params
from tests.growth.opt_state.test_exact import train
from trainkit.growth import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.exact import exact
from trainkit.growth.opt_state.grow import degrees_of, grow_opt_state
from trainkit.growth.opt_state.table import OURS
from trainkit.transforms.wrappers.quantise import Quantised, dequantise

EVEN, UNEVEN = [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 3, 0, 3]


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


RULES = {
    "accumulate": lambda: tt.accumulate(optax.adam(1e-2), 3),
    "average": lambda: tt.average_params(optax.adam(1e-2), 0.9),
    "injected": lambda: tt.adam(1e-2),
    "soap": lambda: tt.soap(1e-2, precondition_frequency=3),
    "shampoo": lambda: tt.shampoo(1e-2, precondition_frequency=3),
    "dion": lambda: tt.dion(1e-2, rank_fraction=0.5),
    "kron": lambda: tt.kron(1e-2),
    "lookahead": lambda: tt.lookahead(tt.adam(1e-2), 3, outer=tt.nesterov(0.7, 0.9)),
    "mars": lambda: tt.mars(1e-2),
    "cautious": lambda: tt.cautious(tt.adam(1e-2)),
    "guard": lambda: tt.skip_nonfinite(tt.lion(1e-3)),
}


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("soap", "shampoo", "dion", "kron") else pytest.param(n, marks=pytest.mark.slow)
        for n in RULES
    ],
)
def test_exact_continuation(name):
    tx, growth, params = RULES[name](), mlp_growth(UNEVEN, "uneven"), mlp_params(4)
    params, state, _ = train(name, tx, params, tx.init(params), 5)
    big = grow_params(params, growth)
    big_state = grow_opt_state(tx, state, growth, params, big)
    small = train(name, tx, params, state, 20, 5)
    follow = train(name, exact(tx, growth, params), big, big_state, 20, 5)
    np.testing.assert_allclose(small[2], follow[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("inner", "degree"), [(tt.adam, 0), (tt.sgd, 1)])
def test_the_outer_momentum_of_a_long_round_scales_as_the_inner_steps_do(inner, degree):
    """Also where the rule has to be run longer than to measure its other slots."""
    found = [
        degrees_of(tt.lookahead(inner(1e-2), k, outer=tt.nesterov(0.7, 0.9)), mlp_params(4))
        for k in (3, 50)
    ]
    (trace,) = [name for name in found[0] if name.endswith("trace") and "outer_state" in name]
    for each in found:
        assert (each[trace].gradient, each[trace].weight) == (degree, 0)


def test_eight_bit_moments():
    tx = tt.quantise_moments(optax.adam(1e-2), min_size=20, block=16)
    growth, params = mlp_growth(EVEN), mlp_params(4)
    _, state = tx.update(params, tx.init(params), params)
    big = grow_params(params, growth)
    grown = grow_opt_state(tx, state, growth, params, big)
    plain = optax.adam(1e-2)
    _, plain_state = plain.update(params, plain.init(params), params)
    expected = grow_opt_state(plain, plain_state, growth, params, big)
    inner, fresh = grown.inner_state[0], tx.init(big).inner_state[0]
    assert jax.tree.structure(inner) == jax.tree.structure(fresh)
    mu = inner.mu["mid"]["w"]
    assert isinstance(mu, Quantised)
    # Two roundings to 8 bits with cubically spaced codes: about 2.4 % of the block's largest each.
    error = np.abs(dequantise(mu, 16) - expected[0].mu["mid"]["w"]).max()
    assert error < 0.05 * np.abs(expected[0].mu["mid"]["w"]).max()
    assert np.all(dequantise(inner.nu["mid"]["w"], 16, signed=False) > 0)


@pytest.mark.parametrize("block", [16, 24])
def test_eight_bit_moments_grow_in_blocks_of_powers_of_two(block):
    """The block length is not kept, and is told from the sizes."""
    tx = tt.quantise_moments(optax.adam(1e-2), min_size=20, block=block)
    axis = AxisMap(np.arange(24) % 12, np.ones(24), np.full(24, 0.5))
    growth, params = MapData({"w": LeafMap((None, axis))}), {"w": jnp.ones((20, 12))}
    big = grow_params(params, growth)
    grown = lambda: grow_opt_state(tx, tx.init(params), growth, params, big)
    if block & (block - 1):
        with pytest.raises(GrowthError, match="mu: to grow, the block length of 8-bit moments"):
            grown()
    else:
        fresh = jax.eval_shape(tx.init, big)
        assert jax.tree.map(jnp.shape, grown()) == jax.tree.map(lambda s: s.shape, fresh)


def test_soap_by_its_meaning():
    """The rotated second moment is that of the grown gradient in the grown basis."""
    tx, params = tt.soap(1e-2), mlp_params(4)
    growth = mlp_growth(EVEN)
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)))
    grads = jax.tree.map(jnp.zeros_like, params) | {"mid": {"w": gradient, "b": jnp.zeros(4)}}
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params)
    big = grow_params(params, growth)
    soap = lambda s: next(x for x in jax.tree.leaves(s, is_leaf=_is_soap) if _is_soap(x))
    before, after = soap(state), soap(grow_opt_state(tx, state, growth, params, big))
    left, right = after.basis["mid"]["w"]
    np.testing.assert_allclose(left.T @ left, np.eye(8), atol=1e-12)
    g = np.tile(gradient, (2, 2)) / 2  # f = 1/2: written by two copies
    rotated = left.T @ g @ right
    # One constant gradient: ν = (1 − β₂²) · rotated² after the two updates that count.
    share = before.nu["mid"]["w"].sum() / jnp.sum(gradient**2)
    np.testing.assert_allclose(
        after.nu["mid"]["w"][:4, :4], share * rotated[:4, :4] ** 2, atol=1e-9
    )
    assert np.all(after.nu["mid"]["w"][4:] > 0)
    covariance = before.gg["mid"]["w"][0]
    expected = np.tile(covariance, (2, 2)) * 0.25 * 2
    np.testing.assert_allclose(after.gg["mid"]["w"][0], expected, atol=1e-12)


def _is_soap(x):
    return type(x).__name__ == "SoapState"


def test_soap_across_its_limit():
    tx = tt.soap(1e-2, max_precond_dim=6)
    axis = AxisMap(np.array([0, 1, 2, 3] * 2), np.ones(8), np.full(8, 0.5))
    params, big = {"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 8))}
    with pytest.raises(GrowthError, match="max_precond_dim"):
        grow_opt_state(tx, tx.init(params), MapData({"w": LeafMap((None, axis))}), params, big)


def test_stacked_states_grow_as_those_of_their_layers_or_are_refused():
    axis = AxisMap(np.array([0, 1, 2, 0, 1, 2]), np.ones(6), np.full(6, 0.5))
    params, big = {"w": jnp.ones((2, 4, 3))}, {"w": jnp.ones((2, 4, 6))}
    grads = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)))}
    layer = lambda tree, i: jax.tree.map(lambda x: x[i], tree)

    def grown(tx, growth, params, big, grads):
        _, state = tx.update(grads, tx.init(params), params)
        return grow_opt_state(tx, state, MapData({"w": LeafMap(growth)}), params, big)

    for make in (lambda **s: tt.novograd(0.1, **s), lambda **s: tt.lamb(0.1, **s)):
        found = grown(make(stacked={"w": 1}), (None, None, axis), params, big, grads)
        for i in range(2):
            own = [layer(tree, i) for tree in (params, big, grads)]
            wanted = jax.tree.leaves(grown(make(), (None, axis), *own))
            for f, w in zip(jax.tree.leaves(found), wanted, strict=True):
                np.testing.assert_allclose(f if f.ndim == 0 else f[i], w, atol=1e-12)
    for tx, message in (
        (tt.soap(0.1, stacked={"w": 1}), "one for each layer"),
        (tt.adafactor(0.1, min_dim_size_to_factor=2, stacked={"w": 1}), r"becomes \(1,\)"),
    ):
        with pytest.raises(GrowthError, match=message):
            grown(tx, (None, None, axis), params, big, grads)


def test_every_state_class_of_ours_is_known():
    found = set()
    for package in (tt, importlib.import_module("trainkit.growth")):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            members = vars(importlib.import_module(module.name)).values()
            found |= {
                c.__name__
                for c in members
                if inspect.isclass(c)
                and issubclass(c, tuple)
                and c.__module__.startswith(trainkit.__name__)
                and c.__name__.endswith("State")
            }
    # These have rules of their own; the training state is no optimizer's.
    assert found - {"SoapState", "ShampooState", "DionState", "KronState"} - set(OURS) == set()


def test_a_second_moment_by_output_grows_with_what_it_is_a_mean_of():
    """Both axes twice as long, with gradients half and a third as large: the mean is (1/6)²."""
    twice = lambda n, f: AxisMap(np.arange(2 * n) % n, np.ones(2 * n), np.full(2 * n, f))
    tx, params, big = tt.adam_mini(0.1), {"w": jnp.ones((3, 2))}, {"w": jnp.ones((6, 4))}
    grads = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))}
    _, state = tx.update(grads, tx.init(params), params)
    how = {"w": LeafMap((twice(3, 1 / 2), twice(2, 1 / 3)))}
    grown = grow_opt_state(tx, state, MapData(how), params, big)
    _, wanted = tx.update({"w": jnp.tile(grads["w"], (2, 2)) / 6}, tx.init(big), big)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grown, wanted)
