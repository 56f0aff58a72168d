"""Mistakes with growth, and with progressive runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
from benchmarks.reliability.mistakes import base
from benchmarks.reliability.mistakes.base import Mistake, Mistakes, batch, nan, of_options
from trainkit import growth
from trainkit.progressive import Data, Price, Probe, Stage, progressive, triggers


def mistakes() -> Mistakes:
    return _plans() | _grow() | _stages() | _triggers() | _runs()


class Net(nn.Module):
    """A network with one hidden layer."""

    width: int = 4

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(base.CLASSES)(nn.relu(nn.Dense(self.width)(x)))


def mlp(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def sizes(width: int) -> Any:
    return {"in": jnp.ones((3, width)), "out": jnp.ones((width, 2))}


X = np.ones((5, 3), np.float32)


@functools.cache
def plan() -> Any:
    return growth.plan(mlp, mlp, sizes(4), sizes(8), X)


def _plain(calls: dict[str, tuple[Any, tuple[str, ...]]]) -> Mistakes:
    return {
        name: Mistake(lambda out, call=call: call(), says) for name, (call, says) in calls.items()
    }


def _plans() -> Mistakes:
    make = lambda **o: growth.plan(
        o.pop("small_fn", mlp), o.pop("big_fn", mlp), o.pop("small_params", sizes(4)),
        o.pop("big_params", sizes(8)), o.pop("x", X), **o,
    )  # fmt: skip
    found = of_options(
        "growth.plan",
        make,
        {
            "small_fn": [None, 3, "mlp"],
            "big_fn": [None, 3],
            "small_params": [None, 3, {"in": "a", "out": "b"}],
            "big_params": [None, {"in": "a", "out": "b"}],
            "how": ["stak", None, 3, "stack+identity"],
            "append": ["in", 3, [("in",)], [("in", "0")], [("(", 0)], [("nowhere", 0)]],
            "trainable": [None, "in", True],
        },
        says="",
    )
    key = jax.random.key(0)
    realise = lambda **o: plan().realise(**({"key": key} | o))
    found |= of_options(
        "plan.realise",
        realise,
        {"key": [None, "0", True, jnp.ones(3)], "how": ["unevn", None, 3]},
        says="",
    )
    prune = lambda **o: growth.prune(plan(), sizes(8), **o)
    found |= of_options(
        "growth.prune",
        prune,
        {"score": ["size", None, 3, "gradient"], "how": ["drop", None]},
        says="",
    )
    return found | _plain(
        {
            "growth.plan(a model that shrinks)": (
                lambda: make(small_params=sizes(8), big_params=sizes(4)),
                ("shrink", "swap"),
            ),
            "growth.plan(two models)": (
                lambda: make(big_fn=lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]),
                ("small", "big"),
            ),
            "growth.plan(an input of another size)": (lambda: make(x=X[:, :2]), ("small",)),
            "growth.plan(no inputs)": (
                lambda: growth.plan(mlp, mlp, sizes(4), sizes(8)),
                ("small", "input"),
            ),
            "plan.grow(other parameters)": (
                lambda: plan().grow(sizes(5), key=key),
                ("in", "plan"),
            ),
            "plan.grow(None)": (lambda: plan().grow(None, key=key), ("parameters", "plan")),
            "plan.grow(strings)": (
                lambda: plan().grow({"in": "a", "out": "b"}, key=key),
                ("in", "arrays"),
            ),
            "Plan.from_json('{')": (lambda: growth.Plan.from_json("{"), ("plan", "to_json")),
            "Plan.from_json(3)": (lambda: growth.Plan.from_json(3), ("text", "must be")),
            "Plan.from_json('{}')": (lambda: growth.Plan.from_json("{}"), ("plan", "to_json")),
            "Plan.of_experts(other leaves)": (
                lambda: growth.Plan.of_experts({"a": jnp.ones(2)}, {"b": jnp.ones(4)}),
                ("a", "b"),
            ),
            "Plan.of_mixture(names of strings)": (
                lambda: growth.Plan.of_mixture(
                    {"w": jnp.ones((2, 3))}, {"w": jnp.ones((4, 2, 3))}, names="w"
                ),
                ("names", "must be"),
            ),
        }
    )


def _net_state() -> Any:
    return _build(4).state(base.tx(), batch())


def _build(width: int) -> Any:
    return trainkit.from_linen(Net(width), optax.softmax_cross_entropy_with_integer_labels)


def _grow() -> Mistakes:
    x = batch()["x"]
    make = lambda **o: growth.grow(
        o.pop("state", _net_state()), o.pop("small", Net(4)), o.pop("big", Net(6)),
        o.pop("example", x), **({"tx": base.tx()} | o),
    )  # fmt: skip
    found = of_options(
        "growth.grow",
        make,
        {
            "state": [None, 3, {"w": jnp.ones(2)}],
            "small": [None, 3, "net"],
            "big": [None, 3, Net],
            "tx": [None, "sgd", optax.sgd],
            "how": ["stak", None, 3],
            "key": ["0", None, True, 1.5],
            "example": [None, "x"],
            "reset": ["nowhere", "(", 3, None],
            "with_map": ["no", None],
            "donate": ["no", None],
        },
        says="",
    )
    return found | _plain(
        {
            "growth.grow(Flax's state)": (
                lambda: make(state=base.flax_state()),
                ("state", "TrainState.create"),
            ),
            "growth.grow(a donated state)": (
                lambda: make(state=jax.tree.map(_deleted, _build(4).state(base.tx(), batch()))),
                ("state", "donate"),
            ),
            "growth.grow(a state of another model)": (
                lambda: make(state=base.fresh()),
                ("small", "state"),
            ),
            "growth.grow(a state of another optimizer)": (
                lambda: make(tx=optax.adam(0.1)),
                ("tx", "state"),
            ),
            "growth.grow(to a smaller model)": (lambda: make(big=Net(2)), ("shrink", "swap")),
            "growth.grow(a plain function, no sizes)": (
                lambda: make(big=lambda p, x: x),
                ("big", "big_params="),
            ),
        }
    )


def _deleted(x: Any) -> Any:
    x = jnp.array(x, copy=True)
    x.delete()
    return x


def _stages() -> Mistakes:
    found = of_options(
        "Stage",
        lambda **o: Stage(o.pop("model", 4), **o),
        {
            "until": ["steps", 10, True],
            "how": [3, None],
            "data": [None, 3, {"batch_size": 4}],
            "moments": ["keep", None],
            "rewarm": [-1, "10", 1.5, True, nan],
            "anneal": [-1, "10", True, nan],
            "learning_rate": [0, "1", True, nan, -1],
            "mup": ["adamw", True],
            "shrink": ["no", None, 1],
            "name": [3, True],
        },
    )
    found["Stage(how='presrve')"] = Mistake(
        lambda out: Stage(4, how="presrve"), ("how=", "'preserve'")
    )
    found |= of_options(
        "Probe",
        lambda **o: Probe(**o),
        {
            "steps": [0, 1.5, "40", True],
            "batches": [1, 1.5, "8"],
            "lower": [0, 1, "0.3", True, nan],
            "errors": [-1, "2", nan, True],
            "anneal": ["no", 1],
            "unroll": ["no", 2],
        },
    )
    return found | of_options(
        "Price",
        lambda **o: Price(**o),
        {"per_parameter": [-1, "0", nan, True], "per_flop": [nan, "0"]},
    )


def _triggers() -> Mistakes:
    found: Mistakes = {}
    for name, values in (
        ("steps", [0, "10", True, nan, 1.5]), ("epochs", [0, "1", nan]),
        ("examples", [0, 1.5, "8"]), ("flops", ["1e9", nan]), ("seconds", [0, "1", True]),
    ):  # fmt: skip
        found |= of_options(
            f"triggers.{name}", lambda name=name, n=None: getattr(triggers, name)(n), {"n": values}
        )
    found |= of_options(
        "triggers.plateau",
        lambda **o: triggers.plateau(o.pop("metric", "loss"), **o),
        {
            "metric": [3, None],
            "slope": [-1, "0", nan, True],
            "patience": [1, "5", nan, True],
            "mode": ["least", None],
        },
    )
    found |= of_options(
        "triggers.reaches",
        lambda **o: triggers.reaches(o.pop("metric", "loss"), o.pop("value", 0.5), **o),
        {"metric": [3], "value": ["0.5", nan, True, None], "mode": ["least"]},
    )
    return found | _plain(
        {
            "a trigger | a number": (lambda: triggers.steps(3) | 3, ("|", "must be")),
            "triggers.any_of()": (lambda: triggers.any_of(), ("any_of", "trigger")),
        }
    )


def _run(out: Path | None = None, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "stages": [Stage(4, triggers.steps(2)), Stage(6)], "build": _build, "tx": base.tx(),
        "data": base.sampler(), "validation": [batch()], "steps": 4, "progress": False,
        "report": False, "out": out,
    } | changes  # fmt: skip
    names = ("stages", "build", "tx", "data", "validation")
    given = [options.pop(name) for name in names]
    return progressive(*given, **options)


def _runs() -> Mistakes:
    options: dict[str, list[Any]] = {
        "stages": [None, [], 3, "stages", [3], [[]], [Stage(4), Stage(6)], [Stage(None)]],
        "build": [None, 3, "net"],
        "tx": [None, "sgd", optax.sgd],
        "data": [None, 3, batch()],
        "validation": [None, [], batch(), 3, [3], lambda amount: None],
        "steps": [0, "4", True, nan, None],
        "target": [3, "loss", 0.5],
        "probe": [3, True, "yes"],
        "price": [3, 0.1],
        "warmup": [-1, "2", True, 1.5],
        "decay": [1.0, -0.1, "0.2", True, nan],
        "grow": [3, "preserve"],
        "seed": [-1, "0", True, 1.5, None],
        "placement": ["sinlge", 3],
        "options": ["fast", 3, {"micro": 2}],
        "tokens": [0, "1", True],
        "ahead": ["no", None],
        "wait": ["no", None],
        "certify": ["no", None],
        "hooks": [None, 3],
        "eval_every": [0, "2", True],
        "keep": [0, "2"],
        "evalevery": [2],
    }
    says = {
        "steps": {None: ("steps=", "never end")},
        "stages": {},
        "evalevery": {2: ("evalevery", "eval_every")},
    }
    found = {}
    for name, values in options.items():
        for value in values:
            wanted = ("Stage",) if name == "stages" else (name, "")
            if name in says and isinstance(value, int | None):
                wanted = says[name].get(value, wanted)
            found[f"progressive({name}={base.shown(value)})"] = Mistake(
                lambda out, name=name, value=value: _run(out, **{name: value}), wanted
            )
    more = {
        "progressive(a trigger nothing computes)": (
            {"stages": [Stage(4, triggers.reaches("bleu", 1.0)), Stage(6)]},
            ("'bleu'", "loss"),
        ),
        "progressive(stages that shrink)": (
            {"stages": [Stage(6, triggers.steps(2)), Stage(4)]},
            ("Stage 1", "shrink=True"),
        ),
        "progressive(data of one size for stages of two)": (
            {"stages": [Stage(4, triggers.steps(2)), Stage(6, data=Data(batch_size=8))]},
            ("data", "Data -> Sampler"),
        ),
        "progressive(labels too large)": (
            {"data": base.sampler(batch(label=base.labels(3)))},
            ("label", "0 to 2"),
        ),
        "progressive(a validation of labels too large)": (
            {"validation": [batch(label=base.labels(3))]},
            ("label", "0 to 2"),
        ),
        "progressive(build gives a module)": ({"build": Net}, ("build", "from_linen")),
        "progressive(build gives None)": ({"build": lambda model: None}, ("build", "from_linen")),
    }
    return found | {
        name: Mistake(lambda out, changes=changes: _run(out, **changes), wanted)
        for name, (changes, wanted) in more.items()
    }
