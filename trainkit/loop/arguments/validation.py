"""What `fit` refuses before anything is compiled or written."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from trainkit._core import validation
from trainkit._core.run_files import CSV, JSONL, TENSORBOARD
from trainkit._core.validation import steps
from trainkit.data.loader import Loader
from trainkit.data.stacked import Stacked
from trainkit.loop.arguments.run_identity import RESUME, first_batch
from trainkit.loop.saved import position as data_position
from trainkit.loop.stopping import Budget, EarlyStopping
from trainkit.transforms.wrappers.average import averaged

PyTree = Any


def check_options(
    *,
    eval_every: Any,
    checkpoint_every: Any,
    log_every: Any,
    prefetch: Any,
    best_metric: Any,
    best_mode: Any,
    resume: Any,
    config: Any,
    **flags: Any,
) -> None:
    """Refuses options of another kind or out of range; what is left over are flags."""
    for name, every in (("eval_every", eval_every), ("checkpoint_every", checkpoint_every)):
        if every is not None:
            validation.integer(name, every, hint="it counts steps")
    validation.integer("log_every", log_every, hint="it counts steps")
    validation.integer("prefetch", prefetch, least=0, hint="0 is no looking ahead")
    validation.text("best_metric", best_metric, hint="the name of a metric of the evaluation")
    validation.choice("best_mode", best_mode, ("min", "max"))
    validation.choice("resume", resume, RESUME)
    if config is not None:
        validation.kind("config", config, Mapping, "{'learning_rate': 1e-3}")
    for name, flag in flags.items():
        validation.flag(name, flag)


def check_parts(step: Any, data: Any, evaluate: Any, hooks: Any, early_stopping: Any) -> None:
    """Refuses what is no step, no stream of batches, no evaluation or no list of hooks."""
    if early_stopping is not None:
        example = "trainkit.EarlyStopping('loss', patience=3)"
        validation.kind("early_stopping", early_stopping, EarlyStopping, example)
        if evaluate is None:
            raise ValueError(
                "early_stopping must have evaluations to look at, but there are none; give "
                "evaluate=, a function of the state."
            )
    validation.function("step", step, "(state, batch) -> (state, metrics)", takes=2)
    check_data(data)
    if evaluate is not None:
        validation.function("evaluate", evaluate, "state -> {name: number}", takes=1)
    validation.listed("hooks", hooks, "[hook]")
    for number, hook in enumerate(hooks):
        name = f"hooks[{number}]"
        if inspect.isclass(hook):
            raise TypeError(f"{name} must be a hook, not the class; give {hook.__name__}().")
        validation.function(name, hook, "of what a hook sees (now) -> Change | None", takes=1)


def check_loggers(loggers: Any) -> None:
    """Refuses what is no list of loggers."""
    example = "trainkit.loggers.TensorBoard('boards/mine')"
    validation.listed("loggers", loggers, f"[{example}]")
    for number, logger in enumerate(loggers):
        name = f"loggers[{number}]"
        if inspect.isclass(logger):
            raise TypeError(f"{name} must be a logger, not the class; give {logger.__name__}(…).")
        for method, takes in (("start", 1), ("log", 3), ("close", 1)):
            if not hasattr(logger, method):
                raise TypeError(
                    f"{name} must be a logger, such as {example}, or another object with the "
                    f"methods start, log and close; {logger!r:.60} has no {method}."
                )
            arguments = {"start": "(run)", "log": "(step, values, kind)", "close": "(stopped)"}
            validation.function(
                f"{name}.{method}", getattr(logger, method), arguments[method], takes=takes
            )


def check_paths(loggers: Any, out: Any) -> None:
    """Refuses a logger that writes to what the run itself writes in its folder."""
    if out is None:
        return
    path = getattr(out, "path", out)
    validation.path("out", path)
    folder = Path(path).expanduser().resolve()
    own = [folder / name for name in (JSONL, CSV, TENSORBOARD)]
    for number, logger in enumerate(loggers):
        path = getattr(logger, "path", None)
        if isinstance(path, Path) and path.expanduser().resolve() in own:
            raise ValueError(
                f"loggers[{number}] must not write to {path}: the run writes that itself. Leave "
                "it out, or give it another path."
            )


def check_data(data: Any) -> None:
    """Refuses what no batches can be drawn from."""
    if not hasattr(data, "__next__"):
        example = "trainkit.data.Sampler(arrays, batch_size=32), a loader or a list of batches"
        if isinstance(data, Mapping):
            raise TypeError(f"data must be a stream of batches, not a dict; give {example}.")
        validation.listed("data", data, example)


def check_run(
    step: Any, data: Any, budget: Budget, early_stopping: Any, eval_every: int | None, out: Any
) -> None:
    """Refuses a run that nothing would end, and one that step or data are not made for."""
    if early_stopping and eval_every is None and not hasattr(data, "steps_per_epoch"):
        raise ValueError(
            "early_stopping must have evaluations to look at, but these data have no epochs after "
            "which there would be one; give eval_every=."
        )
    unlimited = budget == Budget() and early_stopping is None
    if unlimited and hasattr(data, "position") and not isinstance(data, Loader):
        raise ValueError(
            "This run would never end: give it steps=, epochs=, seconds=, flops= or "
            "early_stopping=."
        )
    per_call = getattr(step, "steps_per_call", 1)
    if budget.steps is not None and budget.steps % per_call:
        raise ValueError(
            f"steps={budget.steps} is not a multiple of the step's steps_per_call={per_call}."
        )
    if out is not None:
        data_position.to_json(data.position)


def check_averages(averages: Any, step: Any, state: Any, data: Any) -> None:
    """Refuses averages that there are none of, or whose statistics could not be computed."""
    if not isinstance(averages, bool):
        validation.integer("averages", averages, hint="True, False or a number of batches")
    if averages is False:
        return
    averaged(state)
    if jax.tree.leaves(state.model_state) and not (
        hasattr(step, "loss_fn") and hasattr(data, "draw")
    ):
        raise ValueError(
            f"averages={averages} computes the model's statistics anew, which needs a step from "
            "make_train_step and data with draw, such as trainkit.data.Sampler. Without them let "
            "evaluate do it: trainkit.refresh_statistics(model, trainkit.transforms.swap(state), "
            "batches)."
        )


def check_first_batch(step: Any, state: Any, data: Any) -> None:
    """Lets the step refuse the state, and a batch where the data can be peeked at."""
    if hasattr(step, "place"):
        steps.state(state)
    one = first_batch(data)
    if one is None and isinstance(data, Loader):
        raise ValueError(
            "data must give batches, but there is none: it is empty, or an iterator that was used "
            "up; make a new one."
        )
    if one is None or not hasattr(step, "place_batch"):
        return
    batch, _ = next(Stacked(itertools.repeat(one), getattr(step, "steps_per_call", 1)))
    placed = step.place_batch(batch)
    if not hasattr(step, "refuse"):
        return
    steps.row_names(step.refuse(state, placed), "the loss")
    check_values(step.loss_fn, state, one, data)


def check_values(loss_fn: Any, state: Any, batch: PyTree, data: Any = None) -> None:
    """Names labels and weights that are not allowed, of a whole data set in memory."""
    refuse = getattr(loss_fn, "refuse_values", None)
    if refuse is None:
        return
    whole = getattr(data, "data", None)
    if isinstance(whole, dict | list | tuple):
        refuse(state.params, state.model_state, batch, whole)
    else:
        refuse(state.params, state.model_state, batch)


def result_of(given: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a step returned, where it is what a step must return."""
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)):
        raise TypeError(
            "step must return (state, metrics), metrics a dict of names and scalars, not "
            f"{given!r:.100}."
        )
    return given
