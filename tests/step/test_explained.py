"""An error from inside a step says whose function it comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt

BATCH = {"x": np.eye(4, 3, dtype=np.float32)}


def loss_fn(params, model_state, batch, rng):
    return trainkit.Loss(jnp.square(batch["x"] @ params["w"]).sum(), weight=len(batch["x"]))


def run(tx=None, loss=loss_fn, dtype=jnp.float32, **options):
    tx = tt.sgd(0.1) if tx is None else tx
    step = trainkit.make_train_step(loss, tx, **options)
    state = step.place(trainkit.TrainState.create({"w": jnp.ones(3, dtype)}, tx))
    return step(state, BATCH)[0]


def ruined(update):
    return optax.GradientTransformation(lambda params: (), update)


def notes_of(error):
    return [note for note in error.__notes__ if note.startswith("This error comes from ")]


@pytest.mark.parametrize(
    "options", [{}, {"microbatches": 2}, {"placement": "shard_map", "devices": 2}, {"remat": True}]
)
def test_an_error_of_the_loss(options):
    missing = lambda params, model_state, batch, rng: batch["label"]
    with pytest.raises(KeyError, match="label") as caught:
        run(loss=missing, **options)
    (note,) = notes_of(caught.value)
    assert "the loss_fn of the step" in note
    assert "params {w: float32[3]} and a batch of {x: float32[" in note


def test_an_error_in_evaluation():
    evaluate = trainkit.make_eval_step(lambda p, s, batch, r: batch["label"])
    with pytest.raises(KeyError) as caught:
        evaluate(trainkit.TrainState.create({"w": jnp.ones(3)}, tt.sgd(0.1)), BATCH)
    assert "the loss_fn" in notes_of(caught.value)[0]


def test_an_error_of_the_backward_pass_is_the_losss():
    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, g: {}["residual"])
    with pytest.raises(KeyError, match="residual") as caught:
        run(loss=lambda p, s, b, r: trainkit.Loss(f(p["w"]).sum(), 1))
    assert "the loss_fn" in notes_of(caught.value)[0]


def test_an_error_of_the_rule():
    with pytest.raises(KeyError, match="slot") as caught:
        run(ruined(lambda g, s, p=None: {}["slot"]))
    assert notes_of(caught.value) == [
        "This error comes from tx.update. It was called with gradients {w: float32[3]}."
    ]


def test_an_error_of_a_loss_that_the_rule_calls_is_the_losss():
    def update(updates, state, params=None, *, value_fn, **extra):
        return updates, (value_fn({"w": params["w"][:2]}),)

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    with pytest.raises(TypeError, match="dot_general") as caught:
        run(tx)
    (note,) = notes_of(caught.value)
    assert "the loss_fn" in note
    assert "{w: float32[2]}" in note


def test_an_error_of_a_schedule():
    with pytest.raises(ZeroDivisionError) as caught:
        run(schedules={"rate": lambda step: 1 / 0})
    assert "schedules['rate']" in notes_of(caught.value)[0]
    with pytest.raises(TypeError, match=r"schedules\['rate'\] must be .* number, not 'fast'"):
        run(schedules={"rate": lambda step: "fast"})
    with pytest.raises(ValueError, match="could not convert") as caught:
        run(optax.sgd(lambda step: "fast"))
    assert "tx.update" in notes_of(caught.value)[0]


@pytest.mark.parametrize("result", [(), {"w": jnp.ones(3)}, None])
def test_an_update_that_is_no_pair(result):
    with pytest.raises(TypeError, match=r"tx.update must return a pair \(updates, opt_state\)"):
        run(ruined(lambda g, s, p=None: result))


def cast(dtype):
    return ruined(lambda g, s, p=None: (jax.tree.map(lambda x: -x.astype(dtype), g), s))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.complex64])
def test_updates_of_another_kind_are_refused(dtype):
    with pytest.raises(TypeError, match=f"tx.update returns {jnp.dtype(dtype)} for updates/w"):
        run(cast(dtype))


@pytest.mark.parametrize(
    ("own", "update"), [(jnp.float32, jnp.bfloat16), (jnp.bfloat16, jnp.float32)]
)
def test_updates_of_another_width_are_taken(own, update):
    def loss(params, model_state, batch, rng):
        return trainkit.Loss(params["w"].astype(jnp.float32).sum(), weight=1)

    new = run(cast(update), loss, own)
    assert new.params["w"].dtype == own
    np.testing.assert_array_equal(np.asarray(new.params["w"], np.float32), 0)
