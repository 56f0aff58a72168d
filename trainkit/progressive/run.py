"""A run that grows: from a small model to a large one, until satisfied or spent."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import jax
import optax

from trainkit._core.validation import keyword_names
from trainkit.loop.fit import fit
from trainkit.loop.record import FitResult
from trainkit.loop.stopping import Budget
from trainkit.progressive.background import Background
from trainkit.progressive.hook import Growing
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.options import FitOptions, check_options
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.route import Route
from trainkit.progressive.stages.prepared import PreparedStage, Recipe, prepare_levels
from trainkit.progressive.stages.stage import Stage, normalised
from trainkit.progressive.stages.triggers import Trigger
from trainkit.progressive.transition.shrink import grown_or_shrunk
from trainkit.progressive.transition.state_growth import Grow
from trainkit.progressive.transition.switch import Transition
from trainkit.progressive.validation import (
    check_data,
    check_end,
    check_pair,
    check_prepared,
)
from trainkit.step.state import TrainState

PyTree = Any
# The loop ends by its own limits; a run that has another one must give it some number of steps.
_NO_LIMIT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ProgressiveResult:
    """How a growing run ended.

    Attributes:
      state: the last state.
      model: what the last stage was given as its model.
      prepared: the last stage, with its pure functions, step and evaluation.
      evaluation: the metrics of the last evaluation, which is of `state`.
      ended: why it ended: the target that was reached or the limit that was spent.
      satisfied: whether the target was reached.
      stage: the number of the last stage, from 0.
      history: what happened, one mapping an event: growths with their certificates, probes with
        every candidate's numbers, the decay, the end. JSON can hold it.
      ledger: FLOPs by category.
      fit: what the loop itself has to say.
    """

    state: TrainState
    model: Any
    prepared: PreparedStage
    evaluation: Mapping[str, float]
    ended: str
    satisfied: bool
    stage: int
    history: Sequence[Mapping[str, Any]]
    ledger: Ledger
    fit: FitResult


def progressive(
    stages: Sequence[Stage | Sequence[Any]],
    build: Callable[[Any], Any],
    tx: optax.GradientTransformation,
    data: Any,
    validation: Any,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    examples: int | None = None,
    flops: float | None = None,
    seconds: float | None = None,
    target: Trigger | None = None,
    probe: Probe | None = None,
    price: Price | None = None,
    warmup: int = 0,
    decay: float = 0.2,
    grow: Grow | None = None,
    seed: int = 0,
    placement: Any = "single",
    options: Mapping[str, Any] | None = None,
    tokens: int | None = None,
    ahead: bool = True,
    wait: bool = True,
    certify: bool = True,
    hooks: Sequence[Any] = (),
    **fit_options: Unpack[FitOptions],
) -> ProgressiveResult:
    """Trains the first stage's model and grows it, stage by stage, while it trains.

    Each stage lasts until its trigger fires; then the state grows (parameters, moments, batch
    statistics), and training goes on with the next step's program, which was compiled meanwhile.
    The run ends when `target` is reached or the budget is spent, whichever comes first. The
    learning rate warms up once, stays, and falls to 0 over the last `decay` of the budget;
    nothing grows while it falls.

    Args:
      stages: `Stage`s, tuples `(model, until, how)`, or lists of `Stage`s among which a probe
        chooses.
      build: a stage's model -> `trainkit.from_linen(model, loss)` or the like.
      tx: one gradient transformation for the whole run.
      data: a `Sampler`, or `Data -> Sampler` where the data grow.
      validation: batches to evaluate on, or `Data -> batches`.
      steps, epochs, examples, flops, seconds: the budget of the whole run; `flops` counts
        training, evaluations, probes and growth. At least one is needed, or a `target` or an
        `until` of the last stage.
      target: ends the run, such as `triggers.reaches("accuracy", 0.98)`.
      probe: try the next stage, "do not grow" and "only lower the learning rate" from the same
        state first; always done where a stage has alternatives or a `price` is set.
      price: what size must be worth.
      warmup: steps of warm-up at the start.
      decay: the share of the budget over which the learning rate falls to 0 at the end.
      grow: finds the growth between two models; `trainkit.growth`'s own by default.
      seed: of parameters and growths.
      placement, options: of `make_train_step`.
      tokens: tokens of an example, for 6·N·D.
      ahead: whether to compile ahead, and to run each new program once, in the background.
      wait: whether a stage ends at the very step at which its trigger fires, waiting for programs
        that are not compiled by then. `False` trains on until they are, so that growing never
        stalls the loop; how late it comes, and so what comes out, then depends on the machine.
      certify: whether every growth gets its `trainkit.growth.Certificate`, which is made in the
        background when training goes on; until then the states before and after it are kept.
      hooks, **fit_options: for `fit`: `out`, `eval_every`, `log_every`, `config`, …

    Raises:
      StageError: stages that shrink without saying so, triggers that can never fire, budgets below
        one step. GrowthError: a stage that cannot be grown from the one before. Both before
        anything is trained.
    """
    budget = Budget(steps, epochs, examples, seconds, flops)
    check_options(
        build=build, tx=tx, data=data, grow=grow, seed=seed, warmup=warmup, options=options,
        tokens=tokens, target=target, probe=probe, price=price, decay=decay, ahead=ahead,
        wait=wait, certify=certify, hooks=hooks, fit_options=fit_options,
        own_options=keyword_names(progressive),
    )  # fmt: skip
    stages_of_levels = normalised(stages)
    check_end(budget, target, stages_of_levels[-1][-1])
    if not callable(data):
        check_data(stages_of_levels)
    data_of = data if callable(data) else lambda _: data
    recipe = Recipe(
        build, tx, data_of, validation, grow or grown_or_shrunk, seed=seed, warmup=warmup,
        placement=placement, options=dict(options or {}), tokens=tokens, certify=certify,
    )  # fmt: skip
    levels = prepare_levels(recipe, stages_of_levels)
    check_prepared(levels, budget, target, decay, fit_options.get("eval_every"))
    price = price or Price()
    if price != Price() and probe is None:
        probe = Probe()
    with Background(ahead) as background:
        route = Route(levels, _transitions(levels), background, probe, price)
        hook = Growing(route, budget, target=target, decay=decay, wait=wait)
        return _trained(hook, hooks, fit_options)


def _trained(
    hook: Growing, hooks: Sequence[Any], fit_options: Mapping[str, Any]
) -> ProgressiveResult:
    first, budget = hook.here, hook.budget
    hook.route.prepare()
    result = fit(
        first.step,
        first.fresh(),
        first.data,
        evaluate=first.evaluation,
        hooks=[hook, *hooks],
        # The loop ends by these itself, with its last evaluation and checkpoint; examples and
        # FLOPs of everything only the hook knows.
        steps=budget.steps if budget.steps is not None else _NO_LIMIT,
        epochs=budget.epochs,
        seconds=budget.seconds,
        flops=budget.flops,
        **fit_options,
    )
    hook.finish(result)
    return ProgressiveResult(
        state=result.state,
        model=hook.here.stage.model,
        prepared=hook.here,
        evaluation=hook.history.evaluation,
        ended=hook.ended or result.stopped,
        satisfied=hook.satisfied,
        stage=hook.route.level,
        history=hook.history.events,
        ledger=hook.history.ledger,
        fit=result,
    )


def _transitions(
    levels: Sequence[Sequence[PreparedStage]],
) -> dict[tuple[int, int, int], Transition]:
    """(level, alternative, alternative of the next level) -> how the one becomes the other."""
    found = {}
    for number, (level, following) in enumerate(itertools.pairwise(levels)):
        for a, small in enumerate(level):
            for b, big in enumerate(following):
                check_pair(small, big)
                found[number, a, b] = Transition(small, big)
    return found


def replay(
    history: Sequence[Mapping[str, Any]],
    state: TrainState,
    levels: Sequence[Sequence[PreparedStage]],
    stop_at: int | None = None,
) -> TrainState:
    """Applies a history's growths to a state of its first stage, without training in between.

    It gives the shapes and structure that a run had after its growths (for a checkpoint of any
    stage), and, from the state that was saved just before a growth, that growth exactly.
    """
    path, level = [0], 0
    for event in history:
        if event["event"] != "growth" or (stop_at is not None and event["step"] > stop_at):
            continue
        small = levels[level][path[-1]]
        big = levels[level + 1][int(event["alternative"])]
        state = jax.jit(Transition(small, big).apply)(state)
        path.append(int(event["alternative"]))
        level += 1
    return state
