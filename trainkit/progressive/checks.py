"""What a growing run refuses before anything is trained."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import jax

from trainkit._core.validation import near
from trainkit.loop.fit import fit
from trainkit.progressive.limits import Limits
from trainkit.progressive.prepare import Built, shapes_of
from trainkit.progressive.probe import Price, Probe
from trainkit.progressive.stage_checks import check_sizes, check_triggers
from trainkit.progressive.stages import Data, Stage, StageError
from trainkit.progressive.triggers import Trigger


def check_options(
    limits: Limits,
    *,
    build: Any,
    tx: Any,
    target: Any,
    probe: Any,
    price: Any,
    decay: Any,
    fit_options: Mapping[str, Any],
    own_options: Iterable[str],
) -> None:
    """Refuses options of the wrong kind, and says what they should be."""
    for name, value in {**dataclasses.asdict(limits), "decay": decay}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise TypeError(f"{name}={value!r} must be a number.")
    for name, value in dataclasses.asdict(limits).items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be more than 0, or None for no limit.")
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay} must be a share of the budget, from 0 to below 1.")
    if not callable(build):
        raise TypeError(
            f"build={build!r} must be a function of a stage's model, such as "
            "lambda module: trainkit.from_linen(module, loss)."
        )
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(f"tx={tx!r} must be a gradient transformation, such as optax.adam(1e-3).")
    kinds = {"target": (target, Trigger), "probe": (probe, Probe), "price": (price, Price)}
    examples = {
        "target": "until.reaches('accuracy', 0.98)",
        "probe": "Probe()",
        "price": "Price(per_parameter=1e-6)",
    }
    for name, (value, kind) in kinds.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name}={value!r} must be a {kind.__name__}: {examples[name]}.")
    known = {*own_options, *inspect.signature(fit).parameters}
    for name in fit_options:
        if name not in known:
            raise TypeError(f"progressive has no option {name!r}{near(name, sorted(known)) or '.'}")


def check_data(levels: Sequence[Sequence[Stage]]) -> None:
    """Refuses stages whose data grow where there is one sampler for all of them."""
    for number, level in enumerate(levels):
        for stage in level:
            if stage.data != Data():
                raise ValueError(
                    f"Stage {number} asks for {stage.data}, but `data` is one sampler for all "
                    "stages: give a function Data -> Sampler, such as trainkit.data.staged(…)."
                )


def check_built(
    built: Sequence[Sequence[Built]],
    limits: Limits,
    target: Trigger | None,
    decay: float,
    eval_every: int | None,
) -> None:
    """Refuses triggers that can never fire, budgets below one step, stages that shrink silently."""
    first = built[0][0]
    rates = [[_rates(b) for b in level] for level in built]
    per_step = {**rates[0][0], "flops": first.counted_flops()}
    check_triggers(
        [tuple(b.stage for b in level) for level in built],
        metrics=first.evaluation.metrics,
        budget=dataclasses.asdict(limits),
        one_step=per_step,
        decay=decay,
        rates=rates,
        eval_every=eval_every or getattr(first.data, "steps_per_epoch", None),
    )
    if target is not None:
        missing = sorted(target.metrics - first.evaluation.metrics)
        if missing:
            raise ValueError(
                f"The target {str(target)!r} waits for {', '.join(map(repr, missing))}, which the "
                f"evaluation does not compute: {', '.join(sorted(first.evaluation.metrics))}."
            )


def _rates(built: Built) -> dict[str, float]:
    """What one step uses of what steps count."""
    size = getattr(built.data, "size", None)
    epochs = {"epochs": built.per_batch / size} if size else {}
    return {"steps": 1.0, "examples": float(built.per_batch), **epochs}


def check_pair(small: Built, big: Built) -> None:
    """Refuses a stage that is smaller than the one before, or that its data do not follow."""
    check_sizes(
        small.stage,
        big.stage,
        shapes_of(small.like.params),
        shapes_of(big.like.params),
        big.number,
    )
    shapes = [jax.tree.map(lambda x: x.shape, b.batch_shapes) for b in (small, big)]
    if shapes[0] != shapes[1]:
        return
    for name in ("sequence_length", "resolution", "batch_size"):
        before, after = (getattr(b.stage.data, name) for b in (small, big))
        if None not in (before, after) and before != after:
            raise StageError(
                f"Stage {big.number} asks for {name}={after} after {before}, but its batches have "
                f"the same shapes: `data` takes no notice of {name}."
            )
