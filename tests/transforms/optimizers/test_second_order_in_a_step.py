"""Rules that call the loss, in a train step: on every placement what they do by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit import placement

PLACEMENTS = {
    "single": placement.single,
    "pmap": placement.pmap,
    "shard_map": placement.shard_map,
    "jit": placement.jit,
    "fsdp": lambda: placement.fsdp(min_size=1),
}
RULES = {
    "lbfgs": tt.lbfgs,
    "optax.lbfgs": optax.lbfgs,
    "newton_cg": lambda: tt.newton_cg(0.5, damping=1.0, max_iterations=15),
    "sophia": lambda: tt.sophia(0.05, update_interval=2),
    "in a chain with names": lambda: tt.named(clip=tt.clip_by_global_norm(1.0), step=tt.lbfgs()),
}


# Every placement once, and the rest of the square, of which the default run takes a sample.
EACH = [("single", 2), ("pmap", 1), ("shard_map", 2), ("jit", 2), ("fsdp", 1)]
OTHERS = [pytest.param(where, 3 - n, marks=pytest.mark.slow) for where, n in EACH]


def model(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


def loss_fn(params, model_state, batch, rng, model=model):
    """A weighted sum: micro-batches and devices have weights of their own."""
    x, y, weight = batch
    each = jnp.sum((model(params, x) - y) ** 2, axis=1)
    return trainkit.Loss(jnp.sum(weight * each), jnp.sum(weight))


def problem():
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(32, 4)), rng.normal(size=(32, 8)), rng.uniform(size=32)
    return {"w": jnp.asarray(rng.normal(size=(4, 8))), "b": jnp.zeros(8)}, batch


def by_itself(tx, params, batch, steps):
    def whole(p):
        loss = loss_fn(p, None, batch, None)
        return loss.total / loss.weight

    @jax.jit
    def step(p, state):
        value, grad = jax.value_and_grad(whole)(p)
        u, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=whole)
        return optax.apply_updates(p, u), state

    with jax.numpy_dtype_promotion("standard"):  # Optax's own under 64 bits
        state = tx.init(params)
        for _ in range(steps):
            params, state = step(params, state)
    return params


@pytest.mark.parametrize(("where", "microbatches"), [*EACH, *OTHERS])
def test_newton_is_what_it_is_by_itself(where, microbatches, x64):
    agrees(RULES["newton_cg"](), PLACEMENTS[where](), microbatches)


# A line search is a large program: two placements by default, and a sample of the rest.
@pytest.mark.parametrize(
    ("where", "microbatches"),
    [("pmap", 2), ("fsdp", 1)]
    + [
        pytest.param(where, n, marks=pytest.mark.slow)
        for where in PLACEMENTS
        for n in (1, 2)
        if (where, n) not in {("pmap", 2), ("fsdp", 1)}
    ],
)
def test_lbfgs_is_what_it_is_by_itself(where, microbatches, x64):
    agrees(RULES["lbfgs"](), PLACEMENTS[where](), microbatches)


@pytest.mark.parametrize(
    "name",
    [
        "sophia",
        pytest.param("optax.lbfgs", marks=pytest.mark.slow),
        pytest.param("in a chain with names", marks=pytest.mark.slow),
    ],
)
def test_other_rules_too(name, x64):
    agrees(RULES[name](), placement.pmap(), 1)


def agrees(tx, where, microbatches, steps=3):
    params, batch = problem()
    expected = by_itself(tx, params, batch, steps)
    step = trainkit.make_train_step(loss_fn, tx, placement=where, microbatches=microbatches)
    state = step.place(trainkit.TrainState.create(params, tx))
    for _ in range(steps):
        state, _ = step(state, batch)
    assert step.compiles == 1
    found = jax.device_get(state.params)
    for key, value in expected.items():
        assert np.abs(found[key] - value).max() < 1e-12, key


@pytest.mark.parametrize("where", ["single", "pmap", "fsdp"])
def test_newton_over_a_linearised_model_is_gauss_newton(where, x64):
    params, batch = problem()
    x, _, weight = batch
    root = jnp.sqrt(2 * weight / weight.sum())[:, None]

    def whole(p):
        loss = loss_fn(p, None, batch, None)
        return loss.total / loss.weight

    direct = tt.gauss_newton(0.5, damping=0.1, max_iterations=15)
    # The loss is ½‖r‖² of these residuals, but for the targets, which no derivative sees.
    residuals = lambda p: root * model(p, x)
    update, _ = direct.update(
        jax.grad(whole)(params), direct.init(params), params, residual_fn=residuals
    )

    tx = tt.newton_cg(0.5, damping=0.1, max_iterations=15)
    flat = lambda *args: loss_fn(*args, model=tt.linearised(model))
    step = trainkit.make_train_step(flat, tx, placement=PLACEMENTS[where]())
    state, _ = step(step.place(trainkit.TrainState.create(params, tx)), batch)
    for key, value in params.items():
        moved = jax.device_get(state.params)[key] - value
        assert np.abs(moved - update[key]).max() < 1e-12, key


@pytest.mark.parametrize(("where", "microbatches"), [*EACH, *OTHERS])
def test_the_function_has_the_derivatives_of_the_whole_batch(where, microbatches, x64):
    """Value, gradient, forward derivative, and the Hessian three ways, random numbers included."""
    params, batch = problem()
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)

    def noisy(params, model_state, batch, rng):
        keep = jax.random.bernoulli(rng, 0.5, batch[0].shape)
        return loss_fn(
            params, model_state, (batch[0] * keep.astype(batch[0].dtype), *batch[1:]), rng
        )

    def look(updates, state, params=None, *, value, grad, value_fn, **_):
        along = lambda p: jax.jvp(value_fn, (p,), (direction,))[1]
        return updates, {
            "value": value_fn(params) - value,
            "grad": jax.tree.map(jnp.subtract, jax.grad(value_fn)(params), grad),
            "along": along(params) - optax.tree.vdot(grad, direction),
            "forward over reverse": tt.hvp(value_fn, params, direction),
            "reverse over forward": jax.grad(along)(params),
            "reverse over reverse": jax.grad(
                lambda p: optax.tree.vdot(jax.grad(value_fn)(p), direction)
            )(params),
        }

    def init(params):
        zero = jnp.zeros(())
        same = ("grad", "forward over reverse", "reverse over forward", "reverse over reverse")
        return {"value": zero, "along": zero} | dict.fromkeys(same, params)

    tx = optax.GradientTransformationExtraArgs(init, look)
    step = trainkit.make_train_step(
        noisy, tx, placement=PLACEMENTS[where](), microbatches=microbatches
    )
    state, _ = step(step.place(trainkit.TrainState.create(params, tx)), batch)
    seen = jax.device_get(state.opt_state)
    assert abs(seen["value"]) < 1e-12
    assert max(np.abs(x).max() for x in seen["grad"].values()) < 1e-12
    hessian = seen["forward over reverse"]
    for other in ("reverse over forward", "reverse over reverse"):
        assert max(np.abs(seen[other][k] - hessian[k]).max() for k in hessian) < 1e-11
    assert any(np.abs(x).max() > 0.1 for x in hessian.values())
    assert abs(seen["along"]) < 1e-12


def test_rules_of_the_first_order_trace_the_loss_once():
    calls = []

    def counted(*args):
        calls.append(1)
        return loss_fn(*args)

    params, batch = problem()
    batch = jax.tree.map(np.float32, batch)
    for tx in (tt.adamw(1e-3), optax.adamw(1e-3)):
        calls.clear()
        step = trainkit.make_train_step(counted, tx, placement="pmap")
        step.lower(trainkit.TrainState.create(params, tx), batch)
        assert len(calls) == 1


def test_a_rule_is_given_what_its_signature_names():
    seen = {}

    def update(updates, state, params=None, *, value):
        seen["value"] = value
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda p: (), update)
    params, batch = problem()
    step = trainkit.make_train_step(loss_fn, tx)
    step.lower(trainkit.TrainState.create(params, tx), jax.tree.map(np.float32, batch))
    assert set(seen) == {"value"}


def test_low_precision_parameters_are_valued_in_their_own_dtype():
    tx = tt.lbfgs()
    params, batch = problem()
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), batch)
    step = trainkit.make_train_step(loss_fn, tx)
    state = step.place(trainkit.TrainState.create(params, tx))
    losses = []
    for _ in range(4):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
