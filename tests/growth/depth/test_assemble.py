"""One plan for width and depth: data, training that goes on, copies, layers under a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.checking import small
from trainkit import growth
from trainkit.growth.depth.cut import cut_layers
from trainkit.growth.ir.program import Folder


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


KEY = jax.random.key(0)
CHAIN = "layers named by numbers"  # 8 wide; 16 wide and a layer more


def test_a_new_layer_of_another_width():
    """Identities are widened as all else is: 4 → 4 becomes 8 → 12."""
    it, case = small("a new layer of another width", "float64"), "deeper, identity"
    plan, big_fn = it.plan(case), it.big(case)[0]
    wanted = it.fn(it.params, *it.inputs)
    for how in ("uneven", "zero_out"):
        grown = plan.grow(it.params, key=KEY, how=how)
        np.testing.assert_allclose(big_fn(grown, *it.inputs), wanted, rtol=0, atol=1e-13)
    assert plan.mup().leaves["more/w"].kind == "hidden"


def test_a_plan_with_layers_is_data():
    it = small(CHAIN, "float64")
    plan = it.plan("wider too, identity")
    again = growth.Plan.from_json(plan.to_json())
    assert (again, hash(again)) == (plan, hash(plan))
    for word in ("new: eye", "new: zero", "new layers by 'identity'"):
        assert word in plan.table()
    key = jax.random.key(3)
    grown = plan.grow(it.params, key=key)
    jax.tree.map(np.testing.assert_array_equal, again.grow(it.params, key=key), grown)
    # Back again: new layers go, copies become one.
    back = plan.shrink(grown, how="merge")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), back, it.params)
    pruned = plan.shrink(it.model.params(depth=4, width=16))
    assert jax.tree.map(jnp.shape, pruned) == jax.tree.map(jnp.shape, it.params)
    fresh = plan.mup().init(it.params, key)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, grown)


def test_training_goes_on_through_width_and_depth():
    """Moments follow, new layers rest under exact continuation, and the certificate says so."""
    it, case, tx = small(CHAIN, "float64"), "wider too, identity", optax.adamw(1e-2)
    small_fn, big_fn = it.fn, it.big(case)[0]
    loss = lambda fn: lambda p: jnp.mean(jnp.square(fn(p, *it.inputs) - 1.0))

    def train(tx, fn, params, state, steps):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss(fn))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda c: jax.lax.scan(step, c, None, steps))((params, state))

    (params, state), _ = train(tx, small_fn, it.params, tx.init(it.params), 3)
    plan = it.plan(case)
    grown = plan.grow(params, key=KEY)
    moments = plan.realise(KEY).opt_state(tx, state, params, grown)
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(jnp.shape, tx.init(grown))
    new = [leaf.path for leaf in plan.leaves if leaf.new]
    assert {path.split("/")[0] for path in new} == {"Dense_2"}
    assert not np.any(moments[0].mu["Dense_2"]["w"])
    assert np.all(np.asarray(moments[0].nu["Dense_2"]["w"]) > 0)
    jax.tree.map(np.testing.assert_array_equal, plan.realise(KEY).opt_state(tx, state), moments)
    jax.tree.map(  # under the user's own jit
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        jax.jit(lambda s: plan.realise(KEY).opt_state(tx, s))(state),
        moments,
    )
    _, before = train(tx, small_fn, params, state, 5)
    _, after = train(plan.realise(KEY).exact(tx), big_fn, grown, moments, 5)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)
    certificate = plan.realise(KEY).certificate(
        small_fn, big_fn, params, *it.inputs, tx=tx, opt_state=state
    )
    assert certificate.forward_error["float64"] < 1e-12
    assert set(certificate.new_layers) == set(new)
    assert certificate.zeroed == ("Dense_2/b",)


@pytest.mark.parametrize("how", ["stack", "interpose", "last"])
def test_copies_in_width_and_depth(how):
    """Post-norm blocks, no identity: the widths are proved on the program without the copies."""
    it = small("post-norm with a head", "float64")
    copied = it.plan(f"deeper, {how}").grow(it.params)
    grown = it.plan(f"wider too, {how}").grow(it.params, key=KEY)
    # Wider than the copied model, and the same function.
    run = jax.jit(it.fn)
    wanted = run(copied, *it.inputs)
    np.testing.assert_allclose(run(grown, *it.inputs), wanted, rtol=0, atol=1e-12)


def test_stacked_layers_in_width_and_depth():
    it, tx = small("under a scan, no head", "float64"), optax.adam(1e-2)
    plan = it.plan("wider too, identity")
    assert growth.Plan.from_json(plan.to_json()) == plan
    assert plan.zeroed == ("layers/bias", "layers/down")
    grown = plan.grow(it.params, key=KEY)
    state = plan.realise(KEY).opt_state(tx, tx.init(it.params), it.params, grown)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(grown))
    back = plan.shrink(grown, how="merge")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), back, it.params)


def test_a_stretch_is_cut_out_only_where_the_rest_is_the_small_program():
    def net(*args):
        *layers, x = args
        for w in layers:
            x = jnp.sin(x @ w)
        return x

    w, x = jnp.ones((3, 3)), jnp.ones((6, 3))
    one, two = (Folder().flatten(jax.make_jaxpr(net)(*[w] * n, x)) for n in (1, 2))
    for new in (0, 1):
        assert cut_layers(one, two, {0: 1 - new, 1: 2}, {new}, 1) is not None
    other = Folder().flatten(jax.make_jaxpr(lambda a, b, x: jnp.cos(x @ a) @ b)(w, w, x))
    assert cut_layers(one, other, {0: 0, 1: 2}, {1}, 1) is None
