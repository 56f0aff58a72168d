"""A run that grows: from a small model to a large one, until satisfied or spent."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from trainkit.loop.fit import fit
from trainkit.loop.record import FitResult
from trainkit.progressive.background import Ahead
from trainkit.progressive.checks import check_built, check_data, check_options, check_pair
from trainkit.progressive.hook import Growing
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.limits import Limits
from trainkit.progressive.prepare import Built, Recipe, levels_built
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.stages import Stage, normalised
from trainkit.progressive.transition.state_growth import Grow
from trainkit.progressive.transition.switch import Transition
from trainkit.progressive.triggers import Trigger
from trainkit.step.state import TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class ProgressiveResult:
    """How a growing run ended.

    Attributes:
      state: the last state.
      model: what the last stage was given as its model.
      built: the last stage, with its pure functions, step and evaluation.
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
    built: Built
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
    **fit_options: Any,
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
      target: ends the run, such as `until.reaches("accuracy", 0.98)`.
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
    if not wait and (not ahead or jax.process_count() > 1):
        raise ValueError(
            "wait=False trains on until the next stage is compiled in the background: "
            + ("it needs ahead=True." if not ahead else "in several processes, not all at once.")
        )
    limits = Limits(steps, epochs, examples, flops, seconds)
    check_options(
        limits,
        build=build,
        tx=tx,
        target=target,
        probe=probe,
        price=price,
        decay=decay,
        fit_options=fit_options,
        own_options=inspect.signature(progressive).parameters,
    )
    price = price or Price()
    if price != Price() and probe is None:
        probe = Probe()
    levels = normalised(stages)
    if limits == Limits() and target is None and levels[-1][-1].until is None:
        raise ValueError(
            "This run would never end: give it steps=, epochs=, examples=, flops= or seconds=, a "
            "target=, or an until= of the last stage."
        )
    if grow is None:
        from trainkit.progressive.transition.shrink import (
            grown_or_shrunk,  # it brings the whole analysis with it
        )

        grow = grown_or_shrunk
    recipe = Recipe(
        build=build,
        tx=tx,
        data=data if callable(data) else lambda _: data,
        validation=validation,
        grow=grow,
        seed=seed,
        warmup=warmup,
        placement=placement,
        options=dict(options or {}),
        tokens=tokens,
        certify=certify,
    )
    if not callable(data):
        check_data(levels)
    built = levels_built(recipe, levels)
    check_built(built, limits, target, decay, fit_options.get("eval_every"))
    transitions = _transitions(built)
    with Ahead(ahead) as worker:
        hook = Growing(
            built,
            transitions,
            limits,
            target=target,
            probe=probe,
            price=price,
            decay=decay,
            ahead=worker,
            wait=wait,
        )
        first = hook.here
        hook.prepare()
        result = fit(
            first.step,
            first.fresh(),
            first.data,
            evaluate=first.evaluation,
            hooks=[hook, *hooks],
            # The loop ends by these itself, with its last evaluation and checkpoint; examples and
            # FLOPs of everything only the hook knows.
            steps=steps if steps is not None else _NO_LIMIT,
            epochs=epochs,
            seconds=seconds,
            flops=flops,
            **fit_options,
        )
        hook.finish(result)
    return ProgressiveResult(
        state=result.state,
        model=hook.here.stage.model,
        built=hook.here,
        evaluation=hook.books.evaluation,
        ended=hook.ended or result.stopped,
        satisfied=hook.satisfied,
        stage=hook.level,
        history=hook.books.history,
        ledger=hook.books.ledger,
        fit=result,
    )


_NO_LIMIT = 2**31 - 1


def _transitions(built: Sequence[Sequence[Built]]) -> dict[tuple[int, int, int], Transition]:
    transitions = {}
    for number in range(len(built) - 1):
        for a, small in enumerate(built[number]):
            for b, big in enumerate(built[number + 1]):
                check_pair(small, big)
                transitions[number, a, b] = Transition(small, big)
    return transitions


def replay(
    history: Sequence[Mapping[str, Any]],
    state: TrainState,
    built: Sequence[Sequence[Built]],
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
        small = built[level][path[-1]]
        big = built[level + 1][int(event["alternative"])]
        state = jax.jit(Transition(small, big).apply)(state)
        path.append(int(event["alternative"]))
        level += 1
    return state
