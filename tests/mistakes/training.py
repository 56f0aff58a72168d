"""Mistakes with a step, its batches, a model and an evaluation."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState as FlaxState

import trainkit
from tests.mistakes.parts import (
    ROWS,
    TX,
    Dropping,
    Net,
    deleted,
    fit,
    fresh,
    model,
    noisy,
    plain,
    rows,
    softmax,
    step,
)
from trainkit.data import Sampler

STEP = {
    "an option with a typing error": (
        lambda: trainkit.make_train_step(model(), TX, microbatch=2),
        "'microbatch'",
        "did you mean 'microbatches'",
    ),
    "the class of the rule": (
        lambda: trainkit.make_train_step(model(), optax.sgd),
        "tx must be",
        "call it: sgd(…)",
    ),
    "a learning rate in place of the rule": (
        lambda: trainkit.make_train_step(model(), 1e-3),
        "tx must be",
        "such as optax.adam(1e-3)",
    ),
    "rule and loss the wrong way round": (
        lambda: trainkit.make_train_step(TX, model()),
        "loss_fn",
        "the loss function first",
    ),
    "a module in place of a model": (
        lambda: trainkit.make_train_step(Net(), TX),
        "loss_fn",
        "give trainkit.from_linen(module, loss)",
    ),
    "a loss without rng": (
        lambda: trainkit.make_train_step(lambda params, state, batch: 0.0, TX),
        "loss_fn",
        "(params, model_state, batch, rng)",
    ),
    "a loss that returns a mean": (
        lambda: trainkit.make_train_step(lambda p, s, b, r: jnp.mean(b["x"] @ p["w"]), TX)(
            plain(), ROWS
        ),
        "the loss has no weight",
        "trainkit.Loss(total, weight",
    ),
    "a loss that is not summed": (
        lambda: trainkit.make_train_step(lambda p, s, b, r: trainkit.Loss(b["x"] @ p["w"], 16), TX)(
            plain(), ROWS
        ),
        "the loss's total",
        "sum over the examples",
    ),
    "a loss of integers": (
        lambda: trainkit.make_train_step(
            lambda p, s, b, r: trainkit.Loss(jnp.sum(b["label"]), 16), TX
        )(plain(), ROWS),
        "the loss's total is int32",
        "must be floating",
    ),
    "a metric that is an array": (
        lambda: trainkit.make_train_step(
            lambda p, s, b, r: trainkit.Loss((b["x"] @ p["w"]).sum(), 16, None, {"all": b["x"]}), TX
        )(plain(), ROWS),
        "the metric 'all'",
        "give (x.sum(), len(x))",
    ),
    "no micro-batch": (
        lambda: trainkit.make_train_step(model(), TX, microbatches=0),
        "microbatches",
        "at least 1, not 0",
    ),
    "a precision that is none": (
        lambda: trainkit.make_train_step(model(), TX, precision="bfloat"),
        "precision",
        "did you mean 'bfloat16'",
    ),
    "a schedule that is a number": (
        lambda: trainkit.make_train_step(model(), TX, schedules={"learning_rate": 1e-3}),
        "schedules['learning_rate']",
        "a function of the step",
    ),
    "a schedule that returns text": (
        lambda: trainkit.make_train_step(model(), TX, schedules={"rate": lambda step: "fast"})(
            fresh(), ROWS
        ),
        "schedules['rate']",
        "a number, not 'fast'",
    ),
    "a rule whose update is no pair": (
        lambda: trainkit.make_train_step(model(), TX._replace(update=lambda g, s, p: g))(
            fresh(), ROWS
        ),
        "tx.update",
        "a pair (updates, opt_state)",
    ),
    "skipping by a word": (
        lambda: trainkit.make_train_step(model(), TX, skip_nonfinite="yes"),
        "skip_nonfinite",
        "give True, False, or the number",
    ),
    "parameters in place of a state": (
        lambda: step()(fresh().params, ROWS),
        "state must be",
        "TrainState.create(params, tx)",
    ),
    "Flax's own state": (
        lambda: step()(
            FlaxState.create(apply_fn=None, params=fresh().params, tx=TX),
            ROWS,
        ),
        "not flax.training.train_state.TrainState",
        "model.state(tx, batch)",
    ),
    "a state after it was donated": (
        lambda: step()(deleted(), ROWS),
        "state/step has been deleted",
        "Continue with the state that it returned",
    ),
    "the state of another rule": (
        lambda: step()(model().state(optax.adam(1e-3), ROWS), ROWS),
        "opt_state",
        "Create the state with the tx of the step",
    ),
    "the state of another model": (
        lambda: step()(
            trainkit.from_linen(Net(8), softmax)
            .state(TX, ROWS)
            .replace(opt_state=fresh().opt_state),
            ROWS,
        ),
        "'Dense_0/kernel'",
        "give parameters of this model",
    ),
    "integer parameters": (
        lambda: trainkit.TrainState.create({"w": jnp.arange(3)}, TX),
        "params/w",
        "must be a floating array",
    ),
    "create without a rule": (
        lambda: trainkit.TrainState.create({"w": jnp.ones(3)}, None),
        "tx must be",
        "such as optax.adam(1e-3)",
    ),
    "a seed that is text": (
        lambda: model().state(TX, ROWS, rng="0"),
        "rng",
        "give jax.random.key(0)",
    ),
}

BATCH = {
    "a batch that does not divide by the devices": (
        lambda: step(placement="jit")(fresh(), rows(x=ROWS["x"][:12], label=ROWS["label"][:12])),
        "12 examples",
        "Use a batch of 8 or 16",
    ),
    "a batch that does not divide by the micro-batches": (
        lambda: step(microbatches=3)(fresh(), ROWS),
        "3 microbatches",
        "Use a batch of 15 or 18",
    ),
    "leaves of different length": (
        lambda: step()(fresh(), rows(label=ROWS["label"][:15])),
        "batch/label has 15",
        "the same number",
    ),
    "examples with other features": (
        lambda: step()(fresh(), rows(x=np.ones((16, 5), np.float32))),
        "'Dense_1/kernel'",
        "batches of the shape that they are for",
    ),
    "strings": (
        lambda: step()(fresh(), rows(name=np.array(["a"] * 16))),
        "batch/name",
        "encode it first",
    ),
    "an object array": (
        lambda: step()(fresh(), rows(x=np.array([[object()] * 3] * 16))),
        "batch/x",
        "remove it from the batch",
    ),
    "two keys that may be the labels": (
        lambda: step()(fresh(), rows(target=ROWS["label"])),
        "'label' or 'target'",
        "say which: labels=",
    ),
    "a third element that is no weight": (
        lambda: step()(fresh(), (ROWS["x"], ROWS["label"], ROWS["label"])),
        "element 2",
        "weights=2, or weights=()",
    ),
    "no labels": (
        lambda: step()(fresh(), {"x": ROWS["x"]}),
        "the labels",
        "Pass a loss(outputs, batch)",
    ),
    "another name for the inputs": (
        lambda: step()(fresh(), {"pixels": ROWS["x"], "label": ROWS["label"]}),
        "the module's inputs",
        "Pass inputs=, a key",
    ),
    "labels of floats": (
        lambda: fit(data=Sampler(rows(label=ROWS["label"] + 0.5), 8)),
        "batch/label",
        "astype(int32)",
    ),
    "a class too many": (
        lambda: fit(data=Sampler(rows(label=ROWS["label"] + 1), 8)),
        "data/label",
        "from 0 to 3",
    ),
    "labels one-hot": (
        lambda: step()(fresh(), rows(label=np.eye(4, dtype=np.int32)[ROWS["label"]])),
        "batch/label",
        "take the argmax",
    ),
    "negative weights": (
        lambda: fit(data=Sampler(rows(weight=-np.ones(16, np.float32)), 8)),
        "data/weight",
        "a weight of 0 ignores",
    ),
    "weights of another shape": (
        lambda: step()(fresh(), rows(weight=np.ones((16, 2), np.float32))),
        "the batch's weight",
        "must have the first axes of the loss",
    ),
    "non-finite weights": (
        lambda: fit(data=Sampler(rows(weight=np.full(16, np.nan, np.float32)), 8)),
        "data/weight",
        "must be finite",
    ),
    "a scalar in the batch": (
        lambda: step()(fresh(), rows(temperature=np.float32(1.0))),
        "batch/temperature",
        "Repeat for each",
    ),
    "a list of numbers in the batch": (
        lambda: step()(fresh(), rows(x=ROWS["x"].tolist())),
        "batch/x/0/0",
        "np.asarray",
    ),
    "one batch where a call takes two": (
        lambda: step(steps_per_call=2)(fresh(), ROWS),
        "steps_per_call=2",
        "stack 2 batches",
    ),
}

MODELS = {
    "the class of the module": (
        lambda: trainkit.from_linen(Net, softmax),
        "module must be",
        "pass an instance, Net(…)",
    ),
    "an NNX module for Linen": (
        lambda: trainkit.from_linen(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), softmax),
        "module must be",
        "use trainkit.from_nnx",
    ),
    "a Linen module for NNX": (
        lambda: trainkit.from_nnx(Net(), softmax),
        "module must be",
        "use trainkit.from_linen",
    ),
    "an option of a model with a typing error": (
        lambda: trainkit.from_linen(Net(), softmax, input="x"),
        "'input'",
        "did you mean 'inputs'",
    ),
    "no loss": (
        lambda: trainkit.from_linen(Net(), "cross entropy"),
        "loss must be",
        "(outputs, batch) -> losses",
    ),
    "a loss that averages": (
        lambda: trainkit.make_train_step(
            trainkit.from_linen(Net(), lambda o, y: softmax(o, y).mean()), TX
        )(fresh(), ROWS),
        "loss has shape ()",
        "remove the mean()",
    ),
    "outputs that broadcast against the targets": (
        lambda: trainkit.make_train_step(trainkit.from_linen(nn.Dense(1), optax.huber_loss), TX)(
            trainkit.from_linen(nn.Dense(1), optax.huber_loss).state(TX, ROWS),
            rows(label=np.ones(16, np.float32)),
        ),
        "loss has shape (16, 16)",
        "outputs=lambda outputs: outputs[..., 0]",
    ),
    "a loss whose labels have to be named": (
        lambda: trainkit.from_linen(Net(), lambda outputs, *, labels: softmax(outputs, labels)),
        "only by name, labels",
        "remove the * before it",
    ),
    "labels under a key that is not there": (
        lambda: trainkit.make_train_step(trainkit.from_linen(Net(), softmax, labels="digit"), TX)(
            fresh(), ROWS
        ),
        "'digit'",
        "pass labels= other keys",
    ),
    "an input that is not in the batch": (
        lambda: trainkit.from_linen(Net(), softmax, inputs="image").state(TX, ROWS),
        "'image'",
        "pass inputs= other keys",
    ),
    "inputs that the module does not take": (
        lambda: trainkit.from_linen(Net(), softmax, inputs=("x", "label")).state(TX, ROWS),
        "inputs= gives 2",
        "Pass inputs= a key",
    ),
    "an output that is not there": (
        lambda: trainkit.make_train_step(trainkit.from_linen(Net(), softmax, outputs="logits"), TX)(
            fresh(), ROWS
        ),
        "outputs='logits'",
        "pass another key",
    ),
    "a mode that the module does not have": (
        lambda: trainkit.from_linen(Dropping(), softmax, mode={"training": True}).state(TX, ROWS),
        "mode={'training'",
        "its call takes x, train",
    ),
    "dropout that nothing switches": (
        lambda: trainkit.from_linen(
            nn.Sequential([nn.Dense(4), nn.Dropout(0.5, deterministic=True)]), softmax
        ).state(TX, ROWS),
        "Sequential has dropout",
        "mode={'use_dropout': True}",
    ),
    "pretrained parameters of another size": (
        lambda: model().state(
            TX, ROWS, params=trainkit.from_linen(Net(8), softmax).state(TX, ROWS).params
        ),
        "'Dense_0/kernel'",
        "give parameters of this model",
    ),
    "pretrained parameters without a leaf": (
        lambda: model().state(TX, ROWS, params={"Dense_0": fresh().params["Dense_0"]}),
        "'Dense_1/bias'",
        "give parameters of this model",
    ),
    "init's variables in place of parameters": (
        lambda: model().state(TX, ROWS, params={"params": fresh().params}),
        "params:",
        'variables["params"]',
    ),
    "a random stream that is not named": (
        lambda: trainkit.make_train_step(noisy(), TX)(noisy().state(TX, ROWS), ROWS),
        "random stream",
        "name it in rngs=",
    ),
    "a class of NNX": (
        lambda: trainkit.from_nnx(nnx.Linear, softmax),
        "module must be",
        "rngs=nnx.Rngs(0)",
    ),
    "an input by a wrong name": (
        lambda: trainkit.from_linen(Net(), softmax, inputs={"image": "x"}).state(TX, ROWS),
        "'image'",
        "Pass inputs= a key",
    ),
    "predicting with parameters": (
        lambda: model().predict(fresh().params, ROWS),
        "state must be",
        "model.state(tx, batch)",
    ),
}

EVALUATION = {
    "evaluating with the train step": (
        lambda: fit(evaluate=lambda state: step()(state, ROWS)),
        "evaluate",
        "make_eval_step(model).over",
    ),
    "evaluating a step": (lambda: trainkit.make_eval_step(step()), "loss_fn", "give its loss_fn"),
    "a rule for evaluation": (
        lambda: trainkit.make_eval_step(model(), TX),
        "make_eval_step takes 1",
        "by name: placement=",
    ),
    "evaluating a data set as batches": (
        lambda: trainkit.make_eval_step(model()).over(fresh(), ROWS),
        "batches must be a list",
        "such as [batch]",
    ),
    "a state that is on other devices": (
        lambda: trainkit.make_eval_step(model(), placement="jit")(step().place(fresh()), ROWS),
        "state/params/Dense_0/bias",
        "step.place(state)",
    ),
    "evaluating no batches": (
        lambda: trainkit.make_eval_step(model()).over(fresh(), []),
        "no batch to evaluate",
        "make a new one",
    ),
    "evaluate without a state": (
        lambda: fit(evaluate=lambda: {"loss": 1.0}),
        "evaluate",
        "state -> {name: number}",
    ),
    "evaluate called already": (
        lambda: fit(evaluate={"loss": 1.0}),
        "evaluate",
        "must be a function",
    ),
    "evaluate without a result": (
        lambda: fit(evaluate=lambda state: None),
        "evaluate",
        "must give a dict",
    ),
    "an evaluation that returns predictions": (
        lambda: fit(evaluate=lambda state: {"logits": np.ones((16, 4))}),
        "'logits'",
        "take its mean",
    ),
    "an evaluation with a reserved name": (
        lambda: fit(evaluate=lambda state: {"step": 1.0}),
        "'step'",
        "give the metric another name",
    ),
}
