"""Parameter groups: who is trained by what, what is refused, and what frozen groups hold."""

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit
import trainkit.transforms as tt

PARAMS = {
    "embed": jnp.full((4, 2), 2.0),
    "block_0": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)},
    "block_1": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)},
    "head": {"kernel": jnp.full((2, 3), 4.0)},
}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def test_the_first_match_wins_and_each_group_is_as_alone():
    tx = tt.groups([("bias", tt.sgd(0.5)), ("block", tt.adam(0.1)), (".*", tt.sgd(2.0))])
    alone = tt.adam(0.1)
    state, mine = tx.init(PARAMS), alone.init(PARAMS["block_0"]["kernel"])
    for _ in range(3):
        updates, state = tx.update(ONES, state, PARAMS)
        expected, mine = alone.update(ONES["block_0"]["kernel"], mine)
    assert updates["block_0"]["bias"].tolist() == [-0.5, -0.5]
    assert jnp.allclose(updates["block_1"]["kernel"], expected, rtol=1e-5)
    assert updates["embed"][0].tolist() == [-2, -2]


def test_frozen_groups_hold_no_state_and_do_not_move():
    tx = tt.groups([("head", tt.adam(0.1)), (".*", None)])
    state = tx.init(PARAMS)
    sizes = [x.size for x in jax.tree.leaves(state)]
    assert sum(n for n in sizes if n > 1) == 2 * PARAMS["head"]["kernel"].size
    updates, _ = jax.jit(tx.update)(ONES, state, PARAMS)
    assert not any(bool(u.any()) for u in jax.tree.leaves(updates["block_0"]))
    assert bool(updates["head"]["kernel"].all())


def test_rates_of_groups_are_read_and_set():
    tx = tt.named(opt=tt.groups([("head", tt.sgd(1.0)), (".*", tt.sgd(0.1))]))
    state = tx.init(PARAMS)
    assert float(tt.get(state, ("head", "learning_rate"))) == 1.0
    state = tt.set(state, (".*", "learning_rate"), 0.25)
    updates, _ = tx.update(ONES, state, PARAMS)
    assert float(updates["head"]["kernel"][0, 0]) == -1.0
    assert float(updates["embed"][0, 0]) == -0.25


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("head", None)], r"no rule matches.*'block_0/bias'"),
        ([("heed", None), (".*", None)], r"'heed' matches none"),
        ([(".*", None), ("head", None)], r"'head'.*earlier rule"),
        ([], "empty"),
        ([("(", None)], "regular expression"),
        (["head"], "pair"),
        ([("head", None), ("head", None), (".*", None)], "same expression"),
    ],
)
def test_coverage(rules, message):
    with pytest.raises(ValueError, match=message):
        tt.groups(rules).init(PARAMS)


def test_what_is_no_transformation():
    with pytest.raises(TypeError, match=r"'head'.*float"):
        tt.groups([("head", 0.1), (".*", None)])


def test_layerwise_decay_and_scales():
    tx = tt.chain(tt.sgd(1.0), tt.layerwise_decay(["embed", "block_0", "block_1", "head"], 0.5))
    updates, _ = tx.update(ONES, tx.init(PARAMS), PARAMS)
    found = [float(jax.tree.leaves(updates[k])[0].ravel()[0]) for k in sorted(PARAMS)]
    assert found == [-0.25, -0.5, -0.125, -1.0]
    with pytest.raises(ValueError, match="no rule matches"):
        tt.layerwise_decay(["embed", "head"]).init(PARAMS)
    with pytest.raises(ValueError, match="decay"):
        tt.layerwise_decay(["embed"], 1.5)
    with pytest.raises(ValueError, match="factor"):
        tt.scale_by_path([("embed", -1.0)])


def test_decay_spares_biases_and_norms():
    params = {
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "LayerNorm_0": {"scale": jnp.ones((2, 2))},
        "unnormal": jnp.ones((2, 2)),
    }
    mask = tt.decay_mask(params)
    assert mask == {
        "dense": {"kernel": True, "bias": False},
        "LayerNorm_0": {"scale": False},
        "unnormal": True,
    }
    tx = tt.adamw(0.5, weight_decay=0.5, mask=tt.decay_mask)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    assert float(updates["dense"]["kernel"][0, 0]) == -0.25
    assert not updates["dense"]["bias"].any()


def test_gradual_unfreezing_is_one_program():
    tx = tt.gradual_unfreezing(tt.adam(0.1), [("head", 0), ("block", 3), ("embed", None)])
    state, update, moved = tx.init(PARAMS), jax.jit(tx.update), []
    for _ in range(5):
        updates, state = update(ONES, state, PARAMS)
        moved.append([bool(jax.tree.leaves(updates[k])[0].any()) for k in ("head", "block_0")])
    assert [m[0] for m in moved] == [True] * 5
    assert [m[1] for m in moved] == [False] * 3 + [True] * 2
    # The unfrozen group starts as a fresh Adam: its first step has length η.
    assert update._cache_size() == 1
    fresh = tt.unfreeze_at(tt.adam(0.1), 2)
    s = fresh.init(jnp.ones(2))
    for _ in range(3):
        u, s = fresh.update(jnp.ones(2), s)
    assert jnp.allclose(u, -0.1, rtol=1e-4)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("stopped", [True, False])
def test_frozen_gradients_are_not_computed(norms, stopped):
    """Of four layers of which one is trained: four products forwards, and one backwards."""
    rules = [("d", tt.adam(1e-3)), (".*", None)]

    def loss_fn(params, model_state, batch, rng):
        params = tt.stop_frozen(rules, params) if stopped else params
        for name in "abcd":
            batch = jnp.tanh(batch @ params[name])
        return trainkit.Loss(jnp.sum(batch**2), jnp.float32(len(batch)))

    params = {name: jnp.full((16, 16), 0.1) for name in "abcd"}
    tx = tt.groups(rules)
    step = trainkit.make_train_step(loss_fn, tx, norms=norms)
    state = step.place(trainkit.TrainState.create(params, tx))
    batch = jnp.ones((8, 16))
    program = step.compile(state, batch).as_text()
    products = program.count(" dot(") + program.count(" custom-call(")
    assert products == (11 if norms and not stopped else 5)
    after, metrics = step(state, batch)
    assert jnp.array_equal(after.params["a"], params["a"])
    assert not jnp.array_equal(after.params["d"], params["d"])
    if norms and stopped:
        grads = jax.grad(lambda p: loss_fn(p, None, batch, None).total / 8)(params)
        assert jnp.allclose(metrics["grad_norm"], jnp.linalg.norm(grads["d"]), rtol=1e-5)


@pytest.mark.parametrize("search", ["lbfgs", "polyak", "newton"])
def test_a_rule_that_asks_for_the_loss_sees_that_of_its_own_group(search):
    make = {
        "lbfgs": lambda: optax.lbfgs(),
        "polyak": lambda: optax.polyak_sgd(),
        "newton": lambda: tt.newton_cg(1.0),
    }[search]

    def loss(p):
        return jnp.sum(jnp.square(p["a"] * p["b"] - 1.0)) + jnp.sum(jnp.square(p["a"])) / 4

    def run(tx, params, loss):
        def step(params, state):
            value, grad = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        for _ in range(4):
            params, state = jax.jit(step)(params, state)
        return params

    start = {"a": jnp.array([0.3, 1.5, 2.0]), "b": jnp.array([0.5, 2.0, 1.0])}
    together = run(tt.groups([("a", make()), ("b", None)]), start, loss)
    alone = run(make(), start["a"], lambda a: loss({"a": a, "b": start["b"]}))
    assert together["b"].tolist() == start["b"].tolist()
    assert jnp.abs(alone - start["a"]).max() > 0.1
    assert jnp.allclose(together["a"], alone, rtol=1e-5)  # float32, two programs of four steps
