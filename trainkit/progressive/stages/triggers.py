"""Triggers decide when a stage ends. They are pure functions of a state and an `Observation`.

Triggers can be jitted. On plain numbers they compute with NumPy, so that a check between two steps
takes microseconds and never waits for the device. They compose with `|` and `&`:

>>> from trainkit.progressive import triggers
>>> trigger = triggers.steps(100) | triggers.reaches("accuracy", 0.98)
>>> state = trigger.init()
>>> seen = triggers.Observation(step=10, metrics={"accuracy": 0.99})
>>> state, over = trigger.update(state, seen)
>>> bool(over), str(trigger)
(True, '100 steps or accuracy ≥ 0.98')
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import units, validation

PyTree = Any


class Observation(NamedTuple):
    """The counts of a run since the start of its stage: scalars, on the host or traced.

    Attributes:
      step: optimizer steps, an integer.
      epoch: passes over the training set, a float.
      examples: training examples, an integer.
      flops: floating-point operations of everything that the ledger counts, a float.
      seconds: wall time in seconds, a float.
      metrics: name -> newest value (float scalar); a trigger ignores those it does not need.
      fresh: bool, whether `metrics` are of a new evaluation, not the last one repeated.
    """

    step: Any = 0
    epoch: Any = 0.0
    examples: Any = 0
    flops: Any = 0.0
    seconds: Any = 0.0
    metrics: Mapping[str, Any] = {}
    fresh: Any = True


@dataclasses.dataclass(frozen=True)
class Trigger:
    """A pure state machine over observations.

    Attributes:
      init: `() -> state`, a pytree of arrays, which checkpoints contain.
      update: `(state, observation) -> (state, over)`, jittable; `over` is a bool scalar.
      metrics: the names of the metrics it needs; `progressive` refuses a run without them.
      text: the trigger as text, for reports.
      counts: count (or "evaluations") -> the least value at which it can fire; `progressive`
        refuses a run whose budget ends before.
    """

    init: Callable[[], PyTree]
    update: Callable[[PyTree, Observation], tuple[PyTree, jax.Array]]
    metrics: frozenset[str]
    text: str
    counts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    def __or__(self, other: Trigger) -> Trigger:
        return any_of(self, other)

    def __and__(self, other: Trigger) -> Trigger:
        return all_of(self, other)


def steps(n: int) -> Trigger:
    """After `n` optimizer steps."""
    return _count("step", n, "{n:,} steps")


def epochs(n: float) -> Trigger:
    """After `n` passes over the training set."""
    return _count("epoch", n, "{n:g} epochs")


def examples(n: int) -> Trigger:
    """After `n` training examples."""
    return _count("examples", n, "{n:,} examples")


def flops(n: float) -> Trigger:
    """After `n` floating-point operations."""
    return _count("flops", n, "{flops}")


def seconds(n: float) -> Trigger:
    """After `n` seconds of wall time."""
    return _count("seconds", n, "{n:g} s")


def reaches(metric: str, value: float, mode: Literal["auto", "max", "min"] = "auto") -> Trigger:
    """When a metric is at least (`"max"`) or at most (`"min"`) `value`, compared in float32.

    `"auto"` is `"min"` for metrics named like a loss, an error or a perplexity, else `"max"`.

    Raises:
      ValueError, TypeError: `value` is not a finite number, or `mode` is unknown.
    """
    validation.number("value", value, f"reaches({metric!r})")
    most = direction(metric, mode) == "max"
    bound = np.float32(value)

    def update(state, seen):
        now = _float32(_metric(seen, metric))
        return state, now >= bound if most else now <= bound

    return Trigger(
        init=lambda: (),
        update=update,
        metrics=frozenset({metric}),
        text=f"{metric} {'≥' if most else '≤'} {value:g}",
        counts={"evaluations": 1},
    )


def plateau(
    metric: str = "loss",
    *,
    slope: float = 0.0,
    patience: int = 5,
    mode: Literal["auto", "max", "min"] = "auto",
) -> Trigger:
    """When a metric has stopped improving.

    Fires when the least-squares line through the last `patience` evaluations improves by at most
    `slope` per evaluation. The line is less sensitive to noise than the best value so far.

    Args:
      metric: the name of an evaluated metric.
      slope: the largest improvement per evaluation, in units of the metric, that counts as flat.
      patience: the number of evaluations in the fit, at least 2.
      mode: whether larger (`"max"`) or smaller (`"min"`) is better; `"auto"`: by the name.

    Raises:
      ValueError, TypeError: an argument of the wrong type or out of range.
    """
    hint = "a slope needs at least 2 evaluations"
    validation.integer("patience", patience, "plateau", least=2, hint=hint)
    validation.number("slope", slope, "plateau", least=0)
    sign = 1.0 if direction(metric, mode) == "max" else -1.0
    # The slope of the least-squares line through equally spaced values: Σ (t − t̄)·y / Σ (t − t̄)².
    centred = [t - (patience - 1) / 2 for t in range(patience)]
    scale = sum(t * t for t in centred)
    combination = [sign * t / scale for t in centred]

    def init():
        return {"window": np.zeros((patience,), np.float32), "seen": np.zeros((), np.int32)}

    def update(state, seen):
        now = _metric(seen, metric)
        xp = jnp if any(isinstance(x, jax.Array) for x in (now, seen.fresh, state["seen"])) else np
        now = _float32(now)
        moved = {
            "window": xp.concatenate([state["window"][1:], now[None]]),
            "seen": xp.minimum(state["seen"] + 1, patience).astype(xp.int32),  # never overflows
        }
        fresh = xp.asarray(seen.fresh)
        state = jax.tree.map(lambda new, old: xp.where(fresh, new, old), moved, state)
        # Subtract the first value, so that a large offset of the metric costs no precision.
        rise = xp.dot(xp.asarray(combination, xp.float32), state["window"] - state["window"][:1])
        return state, (state["seen"] >= patience) & (rise <= slope)

    return Trigger(
        init=init,
        update=update,
        metrics=frozenset({metric}),
        text=f"{metric} flat over {patience} evaluations"
        + (f" (slope ≤ {slope:g})" if slope else ""),
        counts={"evaluations": patience},
    )


def advised() -> Trigger:
    """When the advice of the run says so; see `progressive(advice=…)` and `advise`."""
    return _ADVISED


def any_of(*triggers: Trigger) -> Trigger:
    """When at least one of the triggers fires; all are updated at every observation."""
    return _combine(triggers, operator.or_, " or ", "any_of")


def all_of(*triggers: Trigger) -> Trigger:
    """When all triggers fire at the same observation."""
    return _combine(triggers, operator.and_, " and ", "all_of")


def direction(metric: str, mode: str = "auto") -> Literal["max", "min"]:
    """Whether larger ("max") or smaller ("min") is better; `"auto"` decides by the name."""
    if not isinstance(metric, str):
        raise TypeError(f"a metric must be a name, such as 'loss', not {metric!r}.")
    validation.choice("mode", mode, ("auto", "max", "min"), metric)
    if mode != "auto":
        return cast(Literal["max", "min"], mode)
    small = ("loss", "error", "perplexity", "nll", "bits", "divergence", "distance")
    return "min" if any(word in metric.lower() for word in small) else "max"


def _count(field: str, n: float, text: str) -> Trigger:
    name = {"step": "steps", "epoch": "epochs"}.get(field, field)
    if name in ("steps", "examples"):
        validation.integer("n", n, f"triggers.{name}", below=2**63)
    validation.number("n", n, f"triggers.{name}", above=0)
    return Trigger(
        init=lambda: (),
        update=lambda state, seen: (state, getattr(seen, field) >= n),
        metrics=frozenset(),
        text=text.format(n=n, flops=units.flops(n)),
        counts={field: n},
    )


def _without_advice(state: PyTree, seen: Observation) -> Any:
    raise ValueError("triggers.advised() needs an advice: give it to progressive(advice=…).")


# One object, so that it is known by identity; a run puts steps in its place.
_ADVISED = Trigger(lambda: (), _without_advice, frozenset(), "advised")


def _float32(x: Any) -> Any:
    # float32 everywhere, so that host and device decide the same.
    return jnp.asarray(x, jnp.float32) if isinstance(x, jax.Array) else np.asarray(x, np.float32)


def _metric(seen: Observation, name: str) -> Any:
    try:
        return seen.metrics[name]
    except KeyError:
        have = ", ".join(sorted(seen.metrics)) or "none"
        raise ValueError(
            f"A stage waits for the metric {name!r}, which nothing computes; computed are: {have}."
        ) from None


def _combine(triggers: tuple[Trigger, ...], reduce, word: str, name: str) -> Trigger:
    if not triggers:
        raise ValueError(f"{name}() needs at least one trigger.")
    for trigger in triggers:
        validation.kind("what | and & join", trigger, Trigger, "triggers.steps(100)")

    def update(states, seen):
        pairs = [t.update(s, seen) for t, s in zip(triggers, states, strict=True)]
        return tuple(s for s, _ in pairs), functools.reduce(reduce, (over for _, over in pairs))

    def part(trigger):
        text = str(trigger)
        return f"({text})" if " or " in text and word == " and " else text

    return Trigger(
        init=lambda: tuple(t.init() for t in triggers),
        update=update,
        metrics=frozenset().union(*(t.metrics for t in triggers)),
        text=word.join(part(t) for t in triggers),
        counts=_needed([t.counts for t in triggers], every=reduce is operator.and_),
    )


def _needed(counts: list[Mapping[str, float]], every: bool) -> dict[str, float]:
    """The counts that all triggers need together (`every`), or that any one of them needs."""
    names = set().union(*counts) if every else set(counts[0]).intersection(*counts[1:])
    choose = max if every else min
    return {name: choose(c[name] for c in counts if name in c) for name in names}
