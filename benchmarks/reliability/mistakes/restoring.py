"""Mistakes with `checkpoint.restore`: options, names that match nothing, trees that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax

import trainkit
from benchmarks.reliability.mistakes import base
from benchmarks.reliability.mistakes.base import Mistake, Mistakes


def _quiet(text: str) -> None:
    del text


def _state(**changes: Any) -> trainkit.TrainState:
    params = {"body": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones((3, 2))}}
    return trainkit.TrainState.create(params | changes, base.tx())


def _restored(out: Path, into: Any = None, **options: Any) -> Any:
    trainkit.checkpoint.save(out, _state())
    return trainkit.checkpoint.restore(out, into, **{"say": _quiet} | options)


def mistakes() -> Mistakes:
    options: dict[str, list[Any]] = {
        "step": ["1", 1.5, True, -1],
        "only": [3, tuple, ["params", 3], {"params": 1}, b"params"],
        "rename": ["body", ["body"], {"body": 3}, {3: "body"}],
        "fresh": [3, None, [3], {"head": True}],
        "cast": ["float33", 3, "int32", jnp.int32, None],
        "tx": [3, "adam", optax.adam],
        "grow": [3, "bigger", lambda: None],
        "say": [None, 3, "print"],
    }
    found = {
        f"checkpoint.restore({name}={base.shown(value)})": Mistake(
            lambda out, name=name, value=value: _restored(out, **{name: value}), (name, "must")
        )
        for name, values in options.items()
        for value in values
    }
    calls: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
        "only= of nothing": (lambda out: _restored(out, only="parms"), ("only", "parms", "params")),
        "only= that is no pattern": (lambda out: _restored(out, only="("), ("only", "(")),
        "only= of several, one of nothing": (
            lambda out: _restored(out, only=["params", "optimizer"]),
            ("only", "optimizer"),
        ),
        "rename= of nothing": (
            lambda out: _restored(out, only="params", rename={"trunk": "body"}),
            ("rename", "trunk"),
        ),
        "rename= that is no pattern": (
            lambda out: _restored(out, rename={"(": "a"}),
            ("rename", "("),
        ),
        "rename= of two to one": (
            lambda out: _restored(out, rename={"params/body": "params/head"}),
            ("rename", "params/head/kernel"),
        ),
        "rename= with a group that is not there": (
            lambda out: _restored(out, rename={"params/body": r"params/\1"}),
            ("rename", "group"),
        ),
        "fresh= of nothing": (
            lambda out: _restored(out, _state(), fresh="params/haed"),
            ("fresh", "params/haed"),
        ),
        "fresh= that is no pattern": (
            lambda out: _restored(out, _state(), fresh="["),
            ("fresh", "["),
        ),
        "fresh= without into": (lambda out: _restored(out, fresh="params/head"), ("fresh", "into")),
        "cast=True without into": (lambda out: _restored(out, cast=True), ("cast", "into")),
        "cast= a dtype with into": (
            lambda out: _restored(out, _state(), cast="bfloat16"),
            ("cast", "into"),
        ),
        "tx= without parameters": (
            lambda out: _restored(out, only="step", tx=base.tx()),
            ("tx", "params"),
        ),
        "another head": (
            lambda out: _restored(out, _state(head={"kernel": jnp.ones((3, 5))})),
            ("params/head/kernel", "[3, 5]", "fresh"),
        ),
        "a leaf that is not there": (
            lambda out: _restored(out, _state(extra=jnp.ones(1))),
            ("params/extra", "fresh"),
        ),
        "another dtype": (
            lambda out: _restored(
                out, {"body": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}}, only="params"
            ),
            ("body/kernel", "bfloat16", "cast=True"),
        ),
        "into= of strings": (lambda out: _restored(out, {"body": "a"}), ("into", "must")),
        "into= a number": (lambda out: _restored(out, 3), ("nothing in the checkpoint",)),
        "into= a model": (lambda out: _restored(out, base.model()), ("into", "must")),
        "into= of functions": (lambda out: _restored(out, {"body": jnp.tanh}), ("into", "must")),
        "a step that is not there": (lambda out: _restored(out, step=5), ("step 5", "[0]")),
        "an empty folder": (lambda out: _empty(out), ("no checkpoint",)),
        "grow= that gives nothing": (
            lambda out: _restored(out, only="params", grow=lambda state: None),
            ("grow",),
        ),
    }
    calls["grow= that gives a number"] = (
        lambda out: _restored(out, only="params", grow=lambda state: 3),
        ("grow", "must return"),
    )
    for what, (call, says) in calls.items():
        found[f"checkpoint.restore({what})"] = Mistake(call, says)
    return found


def _empty(out: Path) -> Any:
    out.mkdir()
    return trainkit.checkpoint.restore(out, say=_quiet)
