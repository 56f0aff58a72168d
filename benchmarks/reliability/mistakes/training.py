"""Mistakes with the step, the evaluation, states, losses, labels and weights."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from benchmarks.reliability.mistakes import base
from benchmarks.reliability.mistakes.base import (
    Mistake,
    Mistakes,
    batch,
    labels,
    nan,
    of_options,
    weights,
)

softmax = optax.softmax_cross_entropy_with_integer_labels


def mistakes() -> Mistakes:
    return _steps() | _models() | _losses() | _labels() | _weights() | _states() | _batches()


def _make(**changes: Any) -> Any:
    options = {"loss_fn": base.plain_loss, "tx": base.tx()} | changes
    return trainkit.make_train_step(options.pop("loss_fn"), options.pop("tx"), **options)


def _make_eval(**changes: Any) -> Any:
    options = {"loss_fn": base.plain_loss} | changes
    return trainkit.make_eval_step(options.pop("loss_fn"), **options)


def _steps() -> Mistakes:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    found = of_options(
        "make_train_step",
        _make,
        {
            "loss_fn": [None, "mse", 3],
            "tx": [None, "adam", 0.1, optax.adam],
            "placement": ["sinlge", None, 3, True, ("jit",)],
            "devices": ["2", [], [0, 1], 0, -1, 2.0, True, nan],
            "microbatches": [0, -1, 2.0, "2", True, None, nan],
            "steps_per_call": [0, 1.5, "1", True],
            "precision": ["bf61", 16, True, jnp.bfloat16],
            "skip_nonfinite": [-1, 1.5, "yes", None],
            "norms": [-1, 0.5, "no", None],
            "donate": ["no", 1],
            "remat": ["yes", 1],
            "schedules": [["learning_rate"], {"rate": 0.1}, {3: lambda t: t}, 1e-3],
        },
    )
    found |= of_options(
        "make_eval_step",
        _make_eval,
        {
            "loss_fn": [None, "mse", 3],
            "placement": ["sinlge", "", 3],
            "devices": ["2", [], 0, True],
            "precision": ["bf61", 16],
        },
    )
    found |= of_options(
        "Precision",
        lambda **o: trainkit.Precision(**o),
        {
            "compute": ["float61", 3, jnp.int32],
            "loss_scale": ["dynamic", -1.0, 0.0, nan, True],
        },
        says="be",
    )
    found |= of_options(
        "LossScale",
        lambda **o: trainkit.LossScale(**o),
        {
            "initial": [0.0, "big", nan, True],
            "factor": [1.0, "2", nan],
            "interval": [0, 1.5, True],
        },
    )
    plain = {
        "make_train_step(a schedule called loss)": (
            lambda: _make(schedules={"loss": lambda t: t}),
            ("'loss'", "another name"),
        ),
        "make_train_step(an unknown option)": (
            lambda: _make(micro_batches=2),
            ("micro_batches", "microbatches"),
        ),
        "make_train_step(more devices than there are)": (
            lambda: _make(placement="jit", devices=10_000),
            ("devices", "at most"),
        ),
        "make_train_step(a mesh and devices)": (
            lambda: _make(placement=mesh, devices=1),
            ("devices", "mesh"),
        ),
        "make_train_step(a device twice)": (
            lambda: _make(placement="jit", devices=[jax.devices()[0]] * 2),
            ("devices", "twice"),
        ),
        "fsdp(rules of strings)": (
            lambda: trainkit.placement.fsdp(1, rules=["w"]),
            ("rules", "PartitionSpec"),
        ),
        "fsdp(min_size='big')": (
            lambda: trainkit.placement.fsdp(1, min_size="big"),
            ("min_size", "must be"),
        ),
    }
    return found | _plain(plain)


def _plain(calls: dict[str, tuple[Any, tuple[str, ...]]]) -> Mistakes:
    return {
        name: Mistake(lambda out, call=call: call(), says) for name, (call, says) in calls.items()
    }


def _models() -> Mistakes:
    from flax import nnx

    lin, nnxm = base.linen, base.nnx_module
    run = lambda model: model.state(base.tx(), batch())
    return _plain(
        {
            "from_linen(loss='ce')": (
                lambda: trainkit.from_linen(lin(), "ce"),
                ("loss", "function"),
            ),
            "from_linen(loss=None)": (
                lambda: trainkit.from_linen(lin(), None),
                ("loss", "function"),
            ),
            "from_linen(an NNX module)": (
                lambda: trainkit.from_linen(nnxm(), softmax),
                ("module", "from_nnx"),
            ),
            "from_linen(a class)": (
                lambda: trainkit.from_linen(nn.Dense, softmax),
                ("module", "Dense(…)"),
            ),
            "from_linen(None)": (lambda: trainkit.from_linen(None, softmax), ("module", "must be")),
            "from_linen(a function)": (
                lambda: trainkit.from_linen(lambda x: x, softmax),
                ("module", "must be"),
            ),
            "from_linen(inputs=3)": (
                lambda: run(trainkit.from_linen(lin(), softmax, inputs=3)),
                ("inputs", "must be"),
            ),
            "from_linen(inputs of no key)": (
                lambda: run(trainkit.from_linen(lin(), softmax, inputs="pixels")),
                ("pixels", "'x'"),
            ),
            "from_linen(outputs=3)": (
                lambda: trainkit.from_linen(lin(), softmax, outputs=3),
                ("outputs", "must be"),
            ),
            "from_linen(mode='train')": (
                lambda: trainkit.from_linen(lin(), softmax, mode="train"),
                ("mode", "must be"),
            ),
            "from_linen(mode of strings)": (
                lambda: trainkit.from_linen(lin(), softmax, mode={"train": "yes"}),
                ("mode", "must be"),
            ),
            "from_linen(rngs='dropout')": (
                lambda: trainkit.from_linen(lin(), softmax, rngs="dropout"),
                ("rngs", "must be"),
            ),
            "from_linen(sown='losses')": (
                lambda: trainkit.from_linen(lin(), softmax, sown="losses"),
                ("sown", "must be"),
            ),
            "from_nnx(loss='ce')": (lambda: trainkit.from_nnx(nnxm(), "ce"), ("loss", "function")),
            "from_nnx(a Linen module)": (
                lambda: trainkit.from_nnx(lin(), softmax),
                ("module", "from_linen"),
            ),
            "from_nnx(a class)": (
                lambda: trainkit.from_nnx(nnx.Linear, softmax),
                ("module", "rngs"),
            ),
            "from_nnx(None)": (lambda: trainkit.from_nnx(None, softmax), ("module", "must be")),
            "from_nnx(outputs=3)": (
                lambda: trainkit.from_nnx(nnxm(), softmax, outputs=3),
                ("outputs", "must be"),
            ),
            "model.state(tx=None)": (
                lambda: base.model().state(None, batch()),
                ("tx", "must be"),
            ),
            "model.state(rng='0')": (
                lambda: base.model().state(base.tx(), batch(), rng="0"),
                ("rng", "jax.random.key"),
            ),
            "model.state(rng=True)": (
                lambda: base.model().state(base.tx(), batch(), rng=True),
                ("rng", "jax.random.key"),
            ),
            "model.state(rng=1.5)": (
                lambda: base.model().state(base.tx(), batch(), rng=1.5),
                ("rng", "jax.random.key"),
            ),
            "model.state(rng=None)": (
                lambda: base.model().state(base.tx(), batch(), rng=None),
                ("rng", "jax.random.key"),
            ),
            "model.state(params of another)": (
                lambda: base.model().state(base.tx(), batch(), params={"kernel": jnp.ones((9, 9))}),
                ("params", "where the model has"),
            ),
            "model.state(a batch of strings)": (
                lambda: base.model().state(base.tx(), batch(x=np.array(["a"] * 8))),
                ("batch/x", "numbers"),
            ),
            "model.state(batch=None)": (
                lambda: base.model().state(base.tx(), None),
                ("batch", "no arrays"),
            ),
            "model.predict(Flax's state)": (
                lambda: base.model().predict(base.flax_state(), batch()),
                ("state", "TrainState.create"),
            ),
        }
    )


def _loss(value: Any) -> Any:
    """A step with a loss function that returns a given function of parameters and batch."""
    if callable(value):
        fn = lambda params, model_state, batch, rng: value(params["w"], batch)
    else:
        fn = lambda params, model_state, batch, rng: value
    step = trainkit.make_train_step(fn, base.tx())
    return step(base.plain_state(), batch())


def _run_with_metric(out: Any, name: str) -> Any:
    def loss_fn(params: Any, model_state: Any, batch: Any, rng: Any) -> Any:
        total = ((batch["x"] @ params["w"]) ** 2).sum()
        return trainkit.Loss(total, len(batch["x"]), None, {name: total})

    step = trainkit.make_train_step(loss_fn, base.tx())
    return base.fit(out, step=step, state=base.plain_state())


def _losses() -> Mistakes:
    L = trainkit.Loss
    calls = {
        "None": (None, ("loss", "trainkit.Loss")),
        "a float": (0.5, ("weight", "trainkit.Loss")),
        "a pair": (lambda w, b: (w.sum(), 8), ("weight", "trainkit.Loss")),
        "a dict": (lambda w, b: {"loss": w.sum()}, ("weight", "trainkit.Loss")),
        "a string total": (L("1", 8), ("total", "must be")),
        "a total of each example": (lambda w, b: L(b["x"] @ w, 8), ("total", "sum")),
        "an integer total": (lambda w, b: L(b["label"].sum(), 8), ("total", "floating")),
        "a weight of each example": (
            lambda w, b: L(w.sum(), jnp.ones(8)),
            ("weight", "sum"),
        ),
        "weight None": (lambda w, b: L(w.sum(), None), ("weight", "trainkit.Loss")),
        "weight '8'": (lambda w, b: L(w.sum(), "8"), ("weight", "must be")),
        "weight True": (lambda w, b: L(w.sum(), True), ("weight", "must be")),
        "weight nan": (lambda w, b: L(w.sum(), nan), ("weight", "must be")),
        "weight -8": (lambda w, b: L(w.sum(), -8), ("weight", "must be")),
        "weight 0": (lambda w, b: L(w.sum(), 0), ("weight", "must be")),
        "metrics a list": (lambda w, b: L(w.sum(), 8, None, [1.0]), ("metrics", "dict")),
        "a metric called loss": (
            lambda w, b: L(w.sum(), 8, None, {"loss": w.sum()}),
            ("'loss'", "another name"),
        ),
        "a metric called grad_norm": (
            lambda w, b: L(w.sum(), 8, None, {"grad_norm": w.sum()}),
            ("'grad_norm'", "another name"),
        ),
        "a metric called 3": (lambda w, b: L(w.sum(), 8, None, {3: w.sum()}), ("3", "string")),
        "a metric of an array": (lambda w, b: L(w.sum(), 8, None, {"a": w}), ("'a'", "scalar")),
        "a metric of a string": (lambda w, b: L(w.sum(), 8, None, {"a": "x"}), ("'a'", "scalar")),
        "a metric of None": (lambda w, b: L(w.sum(), 8, None, {"a": None}), ("'a'", "scalar")),
        "a metric of a bool": (
            lambda w, b: L(w.sum(), 8, None, {"a": (w > 0).all()}),
            ("'a'", "must be"),
        ),
        "a metric of complex": (
            lambda w, b: L(w.sum(), 8, None, {"a": jnp.sum(w.astype(jnp.complex64))}),
            ("'a'", "must be"),
        ),
        "a metric of three": (
            lambda w, b: L(w.sum(), 8, None, {"a": (w.sum(), 1, 2)}),
            ("'a'", "pair"),
        ),
        "another model state": (
            lambda w, b: L(w.sum(), 8, {"seen": w.sum()}),
            ("model_state", "must"),
        ),
    }
    found = {
        f"loss_fn returns {name}": Mistake(lambda out, value=value: _loss(value), says)
        for name, (value, says) in calls.items()
    }
    for name in ("step", "kind", "seconds", "compile_seconds", "a\nb"):
        found[f"loss_fn returns a metric called {name!r}, in a run"] = Mistake(
            lambda out, name=name: _run_with_metric(out, name),
            (repr(name), "must be" if "\n" in name else "another name"),
        )
    integer = lambda w, b: L(w.sum(), 8, None, {"hits": (b["label"] == 1).sum()})
    found["loss_fn returns a metric of integers"] = Mistake(
        lambda out: abs(float(_loss(integer)[1]["hits"]) - 3 / 8) < 1e-6, (), harmless=True
    )
    adapters = {
        "a mean": (lambda outputs, labels: softmax(outputs, labels).mean(), ("mean()",)),
        "None": (lambda outputs, labels: None, ("loss", "one value per example")),
        "a list": (lambda outputs, labels: [1.0] * 8, ("loss", "one value per example")),
        "metrics a list": (
            lambda outputs, labels: (softmax(outputs, labels), [1.0]),
            ("metrics", "dict"),
        ),
        "three things": (
            lambda outputs, labels: (softmax(outputs, labels), {}, 1),
            ("loss", "pair"),
        ),
        "too few examples": (
            lambda outputs, labels: softmax(outputs, labels)[:3],
            ("loss", "one value per example"),
        ),
        "integers": (lambda outputs, labels: labels, ("loss", "floating")),
    }
    for name, (loss, says) in adapters.items():
        found[f"a model's loss returns {name}"] = Mistake(
            lambda out, loss=loss: trainkit.make_train_step(
                trainkit.from_linen(base.linen(), loss), base.tx()
            )(base.fresh(), batch()),
            says,
        )
    found["a model's loss takes no batch"] = Mistake(
        lambda out: trainkit.from_linen(base.linen(), lambda outputs: outputs),
        ("loss", "outputs"),
    )
    return found


def _loss_of(given: dict[str, Any]) -> float:
    return float(base.step()(base.placed(), given)[1]["loss"])


def _good_loss(drop: slice) -> float:
    """The loss with weight 0 for the examples of a slice."""
    weight = np.ones(8, np.float32)
    weight[drop] = 0
    return _loss_of(batch(weight=weight))


def _visible(given: dict[str, Any]) -> bool:
    """Whether a mistake that only a compiled program can see makes the loss NaN."""
    return bool(np.isnan(_loss_of(given)))


def _in_run(**changes: Any) -> Any:
    return lambda out: base.fit(out, data=base.sampler(batch(**changes)))


def _labels() -> Mistakes:
    refused = ("label", "0 to 2", "-100")
    found = {
        f"fit(labels {name})": Mistake(_in_run(label=given), says)
        for name, given, says in (
            ("one too large", labels(3), refused),
            ("one of -1", labels(-1), refused),
            ("of the last example -2", labels(0, 1, 2, 0, 1, 2, 0, -2), refused),
            ("far too large", labels(2**31 - 1), refused),
            ("counted from 1", labels(size=8) + 1, refused),
            ("wrapped in int8", labels(200, dtype=np.int8), refused),
            ("of int64 beyond int32", labels(2**32, dtype=np.int64), refused),
            ("of floats", labels(dtype=np.float32), ("label", "integers")),
            ("of bools", labels(dtype=bool), ("label", "integers")),
            ("of strings", np.array(list("abcabcab")), ("label", "numbers")),
            ("one-hot", np.eye(3, dtype=np.int32)[labels()], ("label", "shape")),
            ("of one more axis", labels()[:, None], ("label", "shape")),
            ("left out", None, ("label", "looked for")),
        )
    }
    found["step(labels one too large)"] = Mistake(
        lambda out: _visible(batch(label=labels(3))), (), harmless=True
    )
    found["step(labels one of -1)"] = Mistake(
        lambda out: _visible(batch(label=labels(-1))), (), harmless=True
    )
    found["step(labels of -100 weigh 0)"] = Mistake(
        lambda out: _loss_of(batch(label=labels(-100, -100))) == _good_loss(slice(2)),
        (),
        harmless=True,
    )
    found["step(a label of -1 that weighs 0)"] = Mistake(
        lambda out: _loss_of(batch(label=labels(-1), weight=weights(0))) == _good_loss(slice(1)),
        (),
        harmless=True,
    )
    found["evaluation(labels one too large)"] = Mistake(
        lambda out: np.isnan(
            base.evaluation().over(base.placed(), [batch(label=labels(3))])["loss"]
        ),
        (),
        harmless=True,
    )
    found["evaluation(labels of -100 weigh 0)"] = Mistake(
        lambda out: (
            base.evaluation().over(base.placed(), [batch(label=labels(-100))])
            == base.evaluation().over(base.placed(), [batch(weight=weights(0))])
        ),
        (),
        harmless=True,
    )
    smoothing = trainkit.regularise.label_smoothing
    distilled = trainkit.regularise.distillation_loss
    logits = jnp.zeros((8, 3))
    found |= _plain(
        {
            "label_smoothing(a label too large)": (
                lambda: smoothing(labels(3), 0.1, classes=3),
                ("targets", "0 to 2"),
            ),
            "label_smoothing(a label of -1)": (
                lambda: smoothing(labels(-1), 0.1, classes=3),
                ("targets", "0 to 2"),
            ),
            "label_smoothing(classes='3')": (
                lambda: smoothing(labels(), 0.1, classes="3"),
                ("classes", "must be"),
            ),
            "distillation_loss(a label of -1)": (
                lambda: distilled(logits, logits, labels(-1)),
                ("labels", "0 to 2"),
            ),
            "distillation_loss(a label too large)": (
                lambda: distilled(logits, logits, labels(3)),
                ("labels", "0 to 2"),
            ),
            "distillation_loss(float labels)": (
                lambda: distilled(logits, logits, labels(dtype=np.float32)),
                ("labels", "integers"),
            ),
            "one_hot(classes='3')": (
                lambda: trainkit.data.one_hot(labels(), "3"),
                ("classes", "must be"),
            ),
            "one_hot(float labels)": (
                lambda: trainkit.data.one_hot(labels(dtype=np.float32), 3),
                ("labels", "integers"),
            ),
        }
    )
    found["distillation_loss(a label of -1 under jit)"] = Mistake(
        lambda out: bool(np.isnan(jax.jit(distilled)(logits, logits, jnp.asarray(labels(-1)))[0])),
        (),
        harmless=True,
    )
    found["label_smoothing(a label of -1 under jit)"] = Mistake(
        lambda out: bool(
            np.isnan(jax.jit(lambda y: smoothing(y, 0.1, 3))(jnp.asarray(labels(-1)))[0]).all()
        ),
        (),
        harmless=True,
    )
    return found


def _weights() -> Mistakes:
    said = ("weight", "must be")
    found = {
        f"fit(weights {name})": Mistake(_in_run(weight=given), says)
        for name, given, says in (
            ("one NaN", weights(nan), said),
            ("one infinite", weights(np.inf), said),
            ("one negative", weights(-1), said),
            ("of the last example -1", weights(1, 1, 1, 1, 1, 1, 1, -1), said),
            ("all zero", weights(*[0] * 8), ("weight", "0")),
            ("of strings", np.array(["1"] * 8), ("weight", "numbers")),
            ("of complex", np.ones(8, np.complex64), ("weight", "must")),
            ("one for all", np.float32(1), ("weight", "examples")),
            ("of another length", weights(size=7), ("weight", "examples")),
            ("of one more axis", weights()[:, None], ("weight", "shape")),
        )
    }
    for name, given in (("NaN", weights(nan)), ("negative", weights(-1))):
        found[f"step(a weight {name})"] = Mistake(
            lambda out, given=given: _visible(batch(weight=given)), (), harmless=True
        )
    found["step(weights all zero)"] = Mistake(
        lambda out: base.equal(
            base.step()(base.placed(), batch(weight=weights(*[0] * 8)))[0].params,
            base.placed().params,
        ),
        (),
        harmless=True,
    )
    found["step(a mask of bools)"] = Mistake(
        lambda out: _loss_of(batch(mask=weights(0).astype(bool))) == _good_loss(slice(1)),
        (),
        harmless=True,
    )
    found["evaluation(weights all zero)"] = Mistake(
        lambda out: base.evaluation().over(base.placed(), [batch(weight=weights(*[0] * 8))]),
        ("weights", "0"),
    )
    negative = lambda p, s, b, r: trainkit.Loss((b["x"] @ p["w"]).sum(), b["x"].sum() * 0 - 8)
    found["loss_fn returns a traced weight below 0"] = Mistake(
        lambda out: bool(
            np.isnan(
                trainkit.make_train_step(negative, base.tx())(base.plain_state(), batch())[1][
                    "loss"
                ]
            )
        ),
        (),
        harmless=True,
    )
    return found


def _states() -> Mistakes:
    adam = optax.adam(0.1)
    other = lambda **changes: base.fresh().replace(**changes)
    create = lambda **o: trainkit.TrainState.create(
        o.pop("params", {"w": jnp.ones(2)}), o.pop("tx", base.tx()), **o
    )
    found = of_options(
        "TrainState.create",
        create,
        {
            "tx": [None, "adam", optax.adam, 0.1],
            "rng": ["0", 1.5, True, None, -1, np.zeros(3)],
        },
        says="",
    )
    found |= _plain(
        {
            "TrainState.create(params=None)": (
                lambda: create(params=None),
                ("params", "must be"),
            ),
            "TrainState.create(params={})": (lambda: create(params={}), ("params", "no")),
            "TrainState.create(integer params)": (
                lambda: create(params={"w": jnp.arange(2)}),
                ("params/w", "floating"),
            ),
            "TrainState.create(a Python number)": (
                lambda: create(params={"w": 1.0}),
                ("params/w", "floating"),
            ),
            "TrainState.create(a module)": (
                lambda: create(params=nn.Dense(3)),
                ("params", "must be"),
            ),
            "TrainState.create(all variables)": (
                lambda: create(params={"params": {"w": jnp.ones(2)}, "step": jnp.zeros((), int)}),
                ("params/step", "floating"),
            ),
            "step(no state)": (lambda: base.step()(None, batch()), ("TrainState", "create")),
            "step(Flax's state)": (
                lambda: base.step()(base.flax_state(), batch()),
                ("TrainState", "create"),
            ),
            "step(parameters alone)": (
                lambda: base.step()(base.fresh().params, batch()),
                ("TrainState", "create"),
            ),
            "step.place(Flax's state)": (
                lambda: base.step().place(base.flax_state()),
                ("TrainState", "create"),
            ),
            "step.place(None)": (lambda: base.step().place(None), ("TrainState", "create")),
            "evaluation(Flax's state)": (
                lambda: base.evaluation()(base.flax_state(), batch()),
                ("TrainState", "create"),
            ),
            "evaluation(None)": (
                lambda: base.evaluation()(None, batch()),
                ("TrainState", "create"),
            ),
            "step(a state of another optimizer)": (
                lambda: base.step()(base.model().state(adam, batch()), batch()),
                ("opt_state", "tx"),
            ),
            "step(a state of another model)": (
                lambda: base.step()(
                    trainkit.TrainState.create({"kernel": jnp.ones((5, 3))}, base.tx()), batch()
                ),
                ("params", "model"),
            ),
            "step(a state with a key of floats)": (
                lambda: base.step()(other(rng=jnp.zeros(2)), batch()),
                ("rng", "jax.random.key"),
            ),
            "step(a state without a step)": (
                lambda: base.step()(other(step=None), batch()),
                ("step", "must be"),
            ),
            "step(a donated state once more)": (
                lambda: base.step()(base.deleted_state(), batch()),
                ("state", "donate"),
            ),
            "step.place(a donated state)": (
                lambda: base.step().place(base.deleted_state()),
                ("state", "donate"),
            ),
            "evaluation(a donated state)": (
                lambda: base.evaluation()(base.deleted_state(), batch()),
                ("state", "donate"),
            ),
            "model.predict(a donated state)": (
                lambda: base.model().predict(base.deleted_state(), batch()),
                ("state", "donate"),
            ),
            "state.replace(an unknown field)": (
                lambda: base.fresh().replace(parms={}),
                ("parms", "params"),
            ),
        }
    )

    def donated(out: Any) -> Any:
        donating = base.plain_step(donate=True)
        first = donating.place(base.plain_state())
        donating(first, batch())
        return donating(first, batch())

    found["step(what a donating step took)"] = Mistake(donated, ("state", "donate"))
    return found


def _batches() -> Mistakes:
    step = base.step
    return _plain(
        {
            f"step(a batch {name})": (lambda given=given: step()(base.placed(), given), says)
            for name, given, says in (
                ("None", None, ("batch", "no arrays")),
                ("empty", {}, ("batch", "no arrays")),
                ("of lists", {"x": [[1.0, 2.0]], "label": [0]}, ("batch/", "must be an array")),
                ("of strings", batch(x=np.array(["a"] * 8)), ("batch/x", "numbers")),
                ("of objects", batch(x=np.array([None] * 8)), ("batch/x", "numbers")),
                ("of no examples", batch(0), ("batch", "0 examples")),
                ("of uneven leaves", batch(label=labels(size=7)), ("label", "examples")),
                ("of another width", batch(x=np.ones((8, 5), np.float32)), ("params", "model")),
            )
        }
    ) | _plain(
        {
            "evaluation.over(None)": (
                lambda: base.evaluation().over(base.placed(), None),
                ("batches", "must be"),
            ),
            "evaluation.over([])": (
                lambda: base.evaluation().over(base.placed(), []),
                ("no batch",),
            ),
            "evaluation.over(one batch)": (
                lambda: base.evaluation().over(base.placed(), batch()),
                ("batches", "list"),
            ),
            "evaluation(a batch of strings)": (
                lambda: base.evaluation()(base.placed(), batch(x=np.array(["a"] * 8))),
                ("batch/x", "numbers"),
            ),
        }
    )
