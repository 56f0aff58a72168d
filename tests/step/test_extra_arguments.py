"""What a step hands to its transformation: all that any of ours asks for, the loss's weight too."""

import ast
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt


def mean(params, model_state, batch, rng):
    """The weighted mean of the batch, whose gradient by `params` it is."""
    x, weight = batch["x"], batch["weight"]
    return trainkit.Loss((params * x * weight).sum(), weight.sum())


def batch(x, weight):
    return {"x": np.array(x, np.float32), "weight": np.array(weight, np.float32)}


WINDOWS = {
    "uneven": [batch([2.0, 2.0, 2.0], [1, 1, 1]), batch([2.0, 9.0, 9.0], [1, 0, 0])],
    "all padding": [batch([2.0, 2.0, 2.0], [1, 1, 1]), batch([9.0, 9.0, 9.0], [0, 0, 0])],
    "a mean": [batch([1.0, 1.0, 1.0], [1, 1, 1]), batch([6.0, 9.0, 9.0], [1, 0, 0])],
}
WANTED = {"uneven": 2.0, "all padding": 2.0, "a mean": 9 / 4}


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_of_uneven_batches_is_one_batch(window, guarded):
    tx = tt.accumulate(tt.sgd(1.0), len(WINDOWS[window]))
    tx = tt.chain(tt.skip_nonfinite(tx) if guarded else tx, tt.scale(1.0))
    step = trainkit.make_train_step(mean, tx, norms=False)
    state = step.place(trainkit.TrainState.create(jnp.zeros(()), tx))
    for part in WINDOWS[window]:
        state, _ = step(state, part)
    assert float(state.params) == pytest.approx(-WANTED[window], rel=1e-6)


@pytest.mark.parametrize("placement", ["pmap", "shard_map", "jit"])
def test_the_weight_is_that_of_all_devices_and_micro_batches(placement):
    weight = np.arange(16) % 3
    seen = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()), lambda u, s, p=None, *, weight, **_: (u, weight)
    )
    step = trainkit.make_train_step(mean, seen, placement=placement, microbatches=2)
    state = step.place(trainkit.TrainState.create(jnp.zeros(()), seen))
    state, _ = step(state, batch(np.ones(16), weight))
    assert float(state.opt_state) == weight.sum()


def declared():
    """The extra arguments that the functions of `trainkit.transforms` called update, or product
    for curvature, take by name, with the file of each."""
    room = pathlib.Path(inspect.getfile(tt)).parent
    names = {}
    for file in room.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name in ("update", "product"):
                own = [a.arg for a in node.args.kwonlyargs]
                if node.args.kwarg is not None:
                    own += [a.arg for a in node.args.args]
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("get", "pop")
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "extra"
            ):
                own = [node.args[0].value]
            else:
                continue
            names |= dict.fromkeys(own, file.name)
    return {n: f for n, f in names.items() if n not in ("updates", "state", "params")}


def test_a_step_hands_over_all_that_a_transformation_declares():
    given = set()

    def update(updates, state, params=None, **extra):
        given.update(extra)
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    step = trainkit.make_train_step(mean, tx)
    state = jax.eval_shape(lambda: trainkit.TrainState.create(jnp.zeros(()), tx))
    step.lower(state, batch([1.0], [1.0]))
    asked = declared()
    assert {"weight", "value_fn", "grad"} <= set(asked)
    # Another name for `value_fn`, Optax's own in Sophia; and what a loss does not have: there
    # `gauss_newton` refuses, and says what does the same in a step.
    elsewhere = {"obj_fn", "residual_fn", "output_loss"}
    assert elsewhere <= set(asked)
    assert set(asked) - elsewhere <= given, asked


@pytest.mark.parametrize(
    "tx",
    [
        optax.lbfgs(),
        tt.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
        optax.polyak_sgd(),
    ],
    ids=["lbfgs", "our lbfgs", "backtracking", "polyak"],
)
def test_rules_that_see_the_loss_take_their_step_and_claim_no_learning_rate(tx):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((params - batch["x"]) ** 2).sum(), len(batch["x"]))

    step = trainkit.make_train_step(loss_fn, tx)
    state, losses = trainkit.TrainState.create(jnp.zeros(()), tx), []
    for _ in range(3):
        state, metrics = step(state, {"x": np.array([1.0, 3.0], np.float32)})
        losses.append(float(metrics["loss"]))
    assert losses[0] == 5.0
    assert losses[-1] < 2.0  # 1 at the minimum
    assert "learning_rate" not in metrics  # the step's length depends on the loss
