"""`progressive`: a run that grows its model until a target is reached or a budget is spent."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import jax
import optax

from trainkit._core.validation import keyword_names
from trainkit.loop.arguments.fit_options import FitOptions
from trainkit.loop.fit import fit
from trainkit.loop.record import FitResult
from trainkit.loop.stopping import Budget
from trainkit.progressive.advice.decision import Advice
from trainkit.progressive.advice.expectation import expectation_of, followed
from trainkit.progressive.background import Background
from trainkit.progressive.hook import Growing
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.options import check_options
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.stage_sequence import StageSequence
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
# `fit` needs a number of steps, also where another limit ends the run.
_NO_LIMIT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ProgressiveResult:
    """The result of `progressive`.

    Attributes:
      state: the last state.
      model: `Stage.model` of the last stage.
      prepared: the last stage, with its pure functions, step and evaluation.
      evaluation: name -> metric (float) of the last evaluation, which is of `state`.
      ended: why the run ended: the target that was reached or the limit that was spent.
      satisfied: whether the target was reached.
      stage: the number of the last stage, from 0.
      history: the events as JSON values, one mapping each: growths with their certificates,
        probes with the numbers of every candidate, the decay, the end.
      ledger: FLOPs by category.
      fit: the result of `fit`.
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
    advice: Advice | None = None,
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
    """Trains the first stage's model and grows it, stage by stage.

    When a stage's trigger fires, the state grows (parameters, moments, batch statistics). Training
    continues with the step of the next stage, which was compiled in the background. The run ends
    when `target` is reached or the budget is spent, whichever comes first. The learning rate warms
    up once, stays constant, and falls to 0 over the last `decay` of the budget; nothing grows
    during that decay.

    Args:
      stages: `Stage`s, tuples `(model, until, how)`, or lists of `Stage`s among which a probe
        chooses.
      build: maps a stage's model to a trainkit `Model`: `lambda m: trainkit.from_linen(m, loss)`.
      tx: one gradient transformation for the whole run.
      data: a `Sampler`, or a function `Data -> Sampler` if the stages' data differ.
      validation: the batches to evaluate on, or a function `Data -> batches`.
      steps, epochs, examples, flops, seconds: the budget of the whole run; `flops` counts
        training, evaluations, probes and growth. At least one is needed, or a `target` or an
        `until` of the last stage.
      target: a trigger that ends the run, such as `triggers.reaches("accuracy", 0.98)`.
      probe: before growing, compare the next stage with "do not grow" and "only lower the learning
        rate", from the same state. Always done if a stage has alternatives or `price` is set.
      price: the loss that a parameter or a FLOP must save; see `Price`.
      advice: of `advise`, for the same stages and `flops`; it is followed: the stages that it
        names are trained, and grow when it says. The events of the growth and the end say what
        was expected and what came.
      warmup: steps of learning-rate warm-up at the start.
      decay: the fraction of the budget, at its end, over which the learning rate falls to 0.
      grow: function that plans the growth between two models; default `trainkit.growth`.
      seed: integer seed of parameters and growths.
      placement, options: as for `make_train_step`.
      tokens: tokens per example, for 6·N·D.
      ahead: whether to compile in the background, and run each new program once on zeros.
      wait: whether a stage ends exactly at the step at which its trigger fires, waiting for
        programs that are still compiling. With `False`, training continues until they are ready,
        so growing never stalls the loop; the step of a growth, and so the result, then depends on
        the speed of the machine.
      certify: whether to compute a `trainkit.growth.Certificate` of each growth, in the
        background. Until it is done, the states before and after the growth stay in memory.
      hooks, **fit_options: for `fit`: `out`, `eval_every`, `log_every`, `config`, …

    Raises:
      TypeError, ValueError: an option of the wrong type or out of range, or nothing ends the run.
      StageError: a stage shrinks without `shrink=True`, a trigger can never fire, or a budget is
        below one step.
      GrowthError: a stage cannot be grown from the one before. All are raised before training.
    """
    budget = Budget(steps, epochs, examples, seconds, flops)
    check_options(
        build=build, tx=tx, data=data, grow=grow, seed=seed, warmup=warmup, options=options,
        tokens=tokens, target=target, probe=probe, price=price, advice=advice, decay=decay,
        ahead=ahead, wait=wait, certify=certify, hooks=hooks, fit_options=fit_options,
        own_options=keyword_names(progressive),
    )  # fmt: skip
    stages_of_levels = normalised(followed(stages, normalised(stages), advice, flops))
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
        sequence = StageSequence(levels, _transitions(levels), background, probe, price)
        expectation = None if advice is None else expectation_of(advice)
        hook = Growing(
            sequence, budget, target=target, decay=decay, wait=wait, expectation=expectation
        )
        return _trained(hook, hooks, fit_options)


def _trained(
    hook: Growing, hooks: Sequence[Any], fit_options: Mapping[str, Any]
) -> ProgressiveResult:
    first, budget = hook.current, hook.budget
    hook.stages.prepare()
    result = fit(
        first.step,
        first.initial_state(),
        first.data,
        evaluate=first.evaluation,
        hooks=[hook, *hooks],
        # `fit` itself ends the run by these, with a last evaluation and checkpoint. Only the hook
        # knows the examples, and the FLOPs of everything.
        steps=budget.steps if budget.steps is not None else _NO_LIMIT,
        epochs=budget.epochs,
        seconds=budget.seconds,
        flops=budget.flops,
        **fit_options,
    )
    hook.finish(result)
    return ProgressiveResult(
        state=result.state,
        model=hook.current.stage.model,
        prepared=hook.current,
        evaluation=hook.history.evaluation,
        ended=hook.ended or result.stopped,
        satisfied=hook.satisfied,
        stage=hook.stages.level,
        history=hook.history.events,
        ledger=hook.history.ledger,
        fit=result,
    )


def _transitions(
    levels: Sequence[Sequence[PreparedStage]],
) -> dict[tuple[int, int, int], Transition]:
    """(level, alternative, alternative of the next level) -> the transition between the two."""
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
    """The state with the growths of a history applied, without the training between them.

    Use it for the shapes and structure of a state at any stage, for example to restore a
    checkpoint. From the state that was saved just before a growth, it repeats that growth exactly.

    Args:
      history: `ProgressiveResult.history`, or the one of a checkpoint.
      state: a state of the first stage.
      levels: the prepared alternatives of every level.
      stop_at: leave out growths after this step; `None`: apply all.
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
