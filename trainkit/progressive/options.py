"""Checks of the options of `progressive`, before any stage is prepared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from trainkit._core import validation
from trainkit.loop.fit import fit
from trainkit.progressive.advice.decision import Advice
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.stages.triggers import Trigger
from trainkit.step.train_step import make_train_step


def check_options(
    *,
    build: Any,
    tx: Any,
    data: Any,
    grow: Any,
    seed: Any,
    warmup: Any,
    options: Any,
    tokens: Any,
    target: Any,
    probe: Any,
    price: Any,
    advice: Any,
    decay: Any,
    ahead: bool,
    wait: bool,
    certify: bool,
    hooks: Any,
    fit_options: Iterable[str],
    own_options: Iterable[str],
) -> None:
    """Raises TypeError or ValueError for an option of the wrong type or out of range."""
    validation.function("build", build, "of a stage's model, such as trainkit.from_linen", takes=1)
    validation.transformation(tx)
    if not (callable(data) or hasattr(data, "draw")):
        raise TypeError(
            "data must be a trainkit.data.Sampler, or a function Data -> Sampler, not "
            f"{data!r:.60}."
        )
    if grow is not None:
        validation.function("grow", grow, "that finds the growth between two models")
    validation.integer("seed", seed, least=0, below=validation.SEEDS)
    validation.integer("warmup", warmup, least=0, hint="it counts steps")
    if options is not None:
        validation.mapping("options", options, "{'microbatches': 2}")
        own = validation.keyword_names(make_train_step)
        validation.keywords(options, own, "options (of make_train_step)")
    if tokens is not None:
        validation.integer("tokens", tokens)
    for name, flag in (("ahead", ahead), ("wait", wait), ("certify", certify)):
        validation.flag(name, flag)
    validation.listed("hooks", hooks, "[hook]")
    for name, value, kind, example in (
        ("target", target, Trigger, "triggers.reaches('accuracy', 0.98)"),
        ("probe", probe, Probe, "Probe()"),
        ("price", price, Price, "Price(per_parameter=1e-6)"),
        ("advice", advice, Advice, "advise(stages, …)"),
    ):
        if value is not None:
            validation.kind(name, value, kind, example)
    validation.number("decay", decay, least=0, below=1, hint="it is a share of the budget")
    if not wait and (not ahead or jax.process_count() > 1):
        raise ValueError(
            "wait=False trains on until the next stage is compiled in the background: "
            + ("it needs ahead=True." if not ahead else "in several processes, not all at once.")
        )
    known = {*own_options, *validation.keyword_names(fit)}
    validation.keywords(fit_options, sorted(known), "progressive")
