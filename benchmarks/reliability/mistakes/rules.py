"""Mistakes with transformations, schedules and wrappers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

import trainkit.schedules as s
import trainkit.transforms as tt
from benchmarks.reliability.mistakes import base
from benchmarks.reliability.mistakes.base import Mistake, Mistakes, nan, of_options


def mistakes() -> Mistakes:
    return _rules() | _wrappers() | _named() | _schedules()


def _rules() -> Mistakes:
    found: Mistakes = {}
    rate: list[Any] = ["0.1", True, nan, -0.1, [0.1], None]
    tables: dict[str, dict[str, list[Any]]] = {
        "sgd": {"learning_rate": rate, "momentum": ["0.9", 1.0, True, nan], "nesterov": ["no", 1]},
        "momentum": {"learning_rate": rate[:3], "beta": [1.0, "0.9", True], "convention": ["mean"]},
        "adam": {"learning_rate": rate, "b1": [1.0, "0.9", True], "b2": [nan], "eps": [-1.0, "0"]},
        "adamw": {"weight_decay": ["0", True, nan, -1.0], "mask": ["kernel", 3], "b1": [2]},
        "lion": {"learning_rate": rate[:2], "b2": ["0.9"]},
        "rmsprop": {"decay": ["0.9", True], "centered": ["no"], "initial_scale": [nan]},
        "muon": {"ns_steps": [0, 1.5, "5", True], "beta": [nan], "nesterov": ["no"]},
        "adafactor": {"decay_rate": ["0.8", nan, True], "factored": ["no"]},
        "soap": {"precondition_frequency": [0, "10", True]},
        "sgld": {"num_data": [0, "1", True], "prior": ["flat"], "key": ["0", True, None, 1.5]},
        "gradient_noise": {"eta": [nan, "1", -1.0], "key": ["0", True]},
        "clip_by_global_norm": {"max_norm": [0, "1", True, nan, -1, None]},
        "clip_by_value": {"max_value": [0, "1", True, nan]},
        "clip_adaptive": {"clipping": [0, "1", True, nan], "eps": ["0"]},
        "centralize": {"output_axis": ["last", 1.5, True]},
        "l1": {"strength": ["1", True, nan, -1]},
        "l2": {"strength": ["1", True, nan, -1]},
        "add_decayed_weights": {"weight_decay": ["1", True, nan]},
        "scale": {"step_size": ["1", True, nan]},
    }
    needed = {
        "l1": {"strength": 0.1},
        "l2": {"strength": 0.1},
        "add_decayed_weights": {"weight_decay": 0.1},
        "scale": {"step_size": 1.0},
        "clip_by_global_norm": {"max_norm": 1.0},
        "clip_by_value": {"max_value": 1.0},
        "clip_adaptive": {"clipping": 1.0},
        "gradient_noise": {"eta": 0.1},
        "centralize": {},
        "adafactor": {},
    }
    for name, table in tables.items():
        given = needed.get(name, {"learning_rate": 0.1})
        call = lambda name=name, given=given, **o: getattr(tt, name)(**(given | o))
        found |= of_options(name, call, table)
    tx, params = tt.adamw(0.1), {"w": jnp.ones(2)}
    state = tx.init(params)
    found |= _plain(
        {
            "adamw.update(without parameters)": (
                lambda: tx.update(params, state),
                ("parameters", "update(updates, state, params)"),
            ),
            "adamw.update(gradients of another shape)": (
                lambda: tx.update({"w": jnp.ones(3)}, state, params),
                ("'w'", "parameters"),
            ),
            "adamw.update(gradients of another tree)": (
                lambda: tx.update({"v": jnp.ones(2)}, state, params),
                ("'v'", "parameters"),
            ),
            "adamw.init(strings)": (lambda: tx.init({"w": "a"}), ("params/w", "floating")),
            "adamw(an option it does not have)": (
                lambda: tt.adamw(0.1, weight_decy=0.1),
                ("weight_decy", "weight_decay"),
            ),
            "adamw(no rate)": (lambda: tt.adamw(), ("learning_rate", "adamw")),
        }
    )
    return found


def _plain(calls: dict[str, tuple[Any, tuple[str, ...]]]) -> Mistakes:
    return {
        name: Mistake(lambda out, call=call: call(), says) for name, (call, says) in calls.items()
    }


def _wrappers() -> Mistakes:
    sgd = tt.sgd(0.1)
    found: Mistakes = {}
    for name, call, table in (
        ("accumulate", lambda **o: tt.accumulate(o.pop("tx", sgd), **({"every": 2} | o)),
         {"tx": [None, "sgd", optax.sgd], "every": [0, 1.5, "2", True, nan]}),
        ("average_params", lambda **o: tt.average_params(o.pop("tx", sgd), **o),
         {"tx": [None, 3], "decay": [1.0, "ema", True, nan], "start": [-1, "0", True],
          "every": [0, 1.5, True]}),
        ("skip_nonfinite", lambda **o: tt.skip_nonfinite(**({"tx": sgd} | o)),
         {"tx": [None, "sgd", 3]}),
        ("unfreeze_at", lambda **o: tt.unfreeze_at(o.pop("tx", sgd), **({"step": 2} | o)),
         {"tx": [None], "step": [-1, 1.5, "2", True]}),
        ("layerwise_decay", lambda **o: tt.layerwise_decay(o.pop("layers", ["w"]), **o),
         {"decay": [0, 2, "0.7", True, nan]}),
    ):  # fmt: skip
        found |= of_options(name, call, table)
    params = {"w": jnp.ones(2)}
    return found | _plain(
        {
            "groups([])": (lambda: tt.groups([]), ("rules", "empty")),
            "groups('w')": (lambda: tt.groups("w"), ("rule", "pair")),
            "groups(None)": (lambda: tt.groups(None), ("rules", "pairs")),
            "groups(a rule that is none)": (lambda: tt.groups([("w", 0.1)]), ("'w'", "must be")),
            "groups(a bad expression)": (
                lambda: tt.groups([("(", sgd)]),
                ("'('", "regular expression"),
            ),
            "groups(nothing covered)": (
                lambda: tt.groups([("v", sgd)]).init(params),
                ("'w'", "'.*'"),
            ),
            "layerwise_decay('w')": (lambda: tt.layerwise_decay("wv"), ("layers", "list")),
            "scale_by_path(a string)": (
                lambda: tt.scale_by_path([("w", "1")]),
                ("'w'", "must be"),
            ),
            "scale_by_path(True)": (lambda: tt.scale_by_path([("w", True)]), ("'w'", "must be")),
            "decay_mask(exclude=3)": (
                lambda: tt.decay_mask(params, exclude=3),
                ("3", "regular expression"),
            ),
            "inject(a transformation)": (
                lambda: tt.inject(optax.adamw(0.1)),
                ("inject", "optax.adamw"),
            ),
            "inject(3)": (lambda: tt.inject(3), ("rule", "must be")),
            "averaged(a state without)": (
                lambda: tt.averaged(sgd.init(params), params),
                ("average_params",),
            ),
            "swap(Flax's state)": (lambda: tt.swap(base.flax_state()), ("state", "average_params")),
            "check_guard(limit='3')": (
                lambda: tt.check_guard(tt.skip_nonfinite(sgd).init(params), "3"),
                ("limit", "must be"),
            ),
        }
    )


def _named() -> Mistakes:
    sgd, params = tt.sgd(0.1), {"w": jnp.ones(2)}
    state = tt.named(a=tt.adamw(0.1)).init(params)
    calls: dict[str, tuple[Any, tuple[str, ...]]] = {
        "named()": (lambda: tt.named(), ("named", "adamw")),
        "named(3)": (lambda: tt.named(3), ("named", "pair")),
        "named(a string)": (lambda: tt.named("adam"), ("named", "pair")),
        "named(a=3)": (lambda: tt.named(a=3), ("'a'", "must be")),
        "named(a name twice)": (lambda: tt.named(("a", sgd), ("a", sgd)), ("'a'", "twice")),
        "get(an unknown name)": (lambda: tt.get(state, "lr"), ("'lr'", "learning_rate")),
        "get(3)": (lambda: tt.get(state, 3), ("name", "must be")),
        "get(None state)": (lambda: tt.get(None, "learning_rate"), ("'learning_rate'", "nothing")),
        "edit_state(no parameter)": (
            lambda: tt.edit_state(state, params, "v", lambda x: x),
            ("'v'", "w"),
        ),
        "edit_state(change=0)": (lambda: tt.edit_state(state, params, "w", 0), ("change", "must")),
        "reset_state(another state)": (
            lambda: tt.reset_state(sgd, state, params, "w"),
            ("tx", "state"),
        ),
    }
    for value in ("0.1", True, nan, -1.0, [0.1, 0.2]):
        calls[f"set(learning_rate={base.shown(value)})"] = (
            lambda value=value: tt.set(state, "learning_rate", value),
            ("learning_rate", "must be"),
        )
    calls["set(learning_rate=None, unscheduled)"] = (
        lambda: tt.set(state, "learning_rate", None),
        ("learning_rate", "schedule"),
    )
    calls["set(mu to another shape)"] = (
        lambda: tt.set(state, "mu", {"w": jnp.ones(5)}),
        ("mu", "shape"),
    )
    return _plain(calls)


def _schedules() -> Mistakes:
    found: Mistakes = {}
    init: list[Any] = ["0.1", True, nan, -0.1, [0.1], None]
    for name, given, table in (
        ("constant", {"init": 0.1}, {"init": init}),
        ("cosine", {"init": 0.1, "steps": 10},
         {"init": init[:3], "steps": [0, "10", 1.5, True, nan], "end": ["0", nan, -1]}),
        ("linear", {"init": 0.1, "end": 0.0, "steps": 10},
         {"init": init[:3], "end": ["0", True], "steps": [0, "10", True], "begin": [-1, "0"]}),
        ("exponential", {"init": 0.1, "rate": 0.5},
         {"rate": [0, "0.5", True, nan], "steps": [0, 1.5], "staircase": ["no", None]}),
        ("wsd", {"peak": 0.1, "decay": 10},
         {"peak": init[:4], "decay": [0, "10", True], "warmup": [-1, True], "shape": ["cube"],
          "decay_start": [-1, "5", True]}),
        ("one_cycle", {"peak": 0.1, "steps": 10},
         {"peak": init[:3], "steps": [0, True], "warmup_fraction": [2, "0.3", nan], "div": [0],
          "shape": ["step"]}),
        ("warmup", {"schedule": 0.1, "steps": 10},
         {"schedule": ["0.1", True, nan, None], "steps": [-1, "10", True, nan], "init": ["0"]}),
        ("step", {"init": 0.1}, {"factor": [0, "0.1", 2], "every": [0, "30", True]}),
        ("multi_step", {"init": 0.1, "boundaries": [3]},
         {"factor": ["0.1", nan], "boundaries": [3, "35", None]}),
        ("reduce_on_plateau", {},
         {"factor": [1.0, "0.1", True, nan], "patience": [0, "3", True, nan], "mode": ["least"],
          "min_delta": ["0", -1]}),
        ("early_stopping", {}, {"patience": [0, nan, "3", True], "min_delta": [nan, "0"]}),
    ):  # fmt: skip
        call = lambda name=name, given=given, **o: getattr(s, name)(**(given | o))
        found |= of_options(f"schedules.{name}", call, table)
    rate = s.cosine(0.1, 10)
    plateau = s.reduce_on_plateau()
    return found | _plain(
        {
            "multi_step(boundaries out of order)": (
                lambda: s.multi_step(0.1, [5, 3]),
                ("boundaries", "increase"),
            ),
            "multi_step(boundaries of bools)": (
                lambda: s.multi_step(0.1, [True]),
                ("boundary", "must be"),
            ),
            "piecewise_constant(values of strings)": (
                lambda: s.piecewise_constant([3], ["1", "2"]),
                ("value", "must be"),
            ),
            "join([])": (lambda: s.join([], []), ("join", "schedule")),
            "join(one boundary too many)": (lambda: s.join([rate], [3]), ("boundaries", "1")),
            "join(3)": (lambda: s.join(3, []), ("schedules", "must be")),
            "a schedule of an epoch": (lambda: rate(0.5), ("step", "integer")),
            "a schedule of a string": (lambda: rate("3"), ("step", "integer")),
            "a schedule of True": (lambda: rate(True), ("step", "integer")),
            "a schedule of None": (lambda: rate(None), ("step", "integer")),
            "plateau.update(a string)": (
                lambda: plateau.update(plateau.init(), "0.1"),
                ("metric", "must be"),
            ),
            "plateau.update(an array)": (
                lambda: plateau.update(plateau.init(), jnp.ones(3)),
                ("metric", "must be"),
            ),
            "plot(steps='10')": (lambda: s.plot(rate, "10"), ("steps", "must be")),
            "plot(3)": (lambda: s.plot(3, 10), ("schedules", "must be")),
        }
    )
