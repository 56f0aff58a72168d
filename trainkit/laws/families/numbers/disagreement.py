"""How far a run is from the float64 reference: its updates, and the tolerance for each."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from trainkit.laws import losses, per_example
from trainkit.laws.oracles.catalogue import plain_name
from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import Mismatch, mismatch
from trainkit.laws.problems.runs import Run
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject

RELATIVE = {"float32": 1e-5, "float64": 1e-12}

# Arguments that may be a schedule.
SCHEDULED = ("learning_rate", "step_size_fn", "adam_learning_rate", "b3", "alpha")

# Their update is the difference of new and old parameters, with the rounding of these.
DIFFERENCES = frozenset({
    "cocob", "fromage", "madgrad", "mechanize", "sam", "scale_by_cocob", "scale_by_madgrad",
    "schedule_free", "schedule_free_adamw", "schedule_free_sgd",
})  # fmt: skip


def reference(
    subject: Subject, case: Case, params: np.ndarray, dtype: Any, **override: Any
) -> np.ndarray:
    """The updates of the reference on a trajectory, computed in `dtype`."""
    assert subject.oracle is not None
    kind = np.dtype(dtype)
    shaped = cases.tree(params[0].astype(kind), case.shapes)
    with ordinary():  # schedules and inner rules are the user's code
        leaves = cases.leaves(params[0].astype(kind), case.shapes)
        step = subject.oracle.start(shaped, **override)(
            per_example.as_taken(subject.claims, leaves, leaves)[1]
        )
        out = np.full(case.grads.shape, np.nan)
        for t, (p, g) in enumerate(zip(params, case.grads, strict=True)):
            ps = cases.leaves(p.astype(kind), case.shapes)
            gs = cases.leaves(g.astype(kind), case.shapes)
            extra = _extra(subject, case, ps, gs)
            gs, ps = per_example.as_taken(subject.claims, gs, ps)
            try:
                us = step(gs, ps, t + 1, **extra)
            except (ArithmeticError, np.linalg.LinAlgError):
                break  # the formula has no value here
            out[t] = np.concatenate([np.ravel(np.asarray(u, np.float64)) for u in us])
    return out


def _extra(subject: Subject, case: Case, ps: list[Any], gs: list[Any]) -> dict[str, Any]:
    """The arguments of the loss, if the rule gets them."""
    if subject.extra_args is None:
        return losses.in_numpy(subject.needs, ps, gs, subject.slope) if subject.needs else {}
    as_tree = lambda xs: cases.tree(np.concatenate([np.ravel(x) for x in xs]), case.shapes)
    value = subject.extra(as_tree(ps), as_tree(gs)).get("value")
    return {} if value is None else {"value": float(value)}


def tolerance(
    subject: Subject, case: Case, params: np.ndarray, expected: np.ndarray, dtype: str,
    **override: Any,
) -> np.ndarray:  # fmt: skip
    """The tolerance: relative, plus eight times the effect of rounding on the reference."""
    assert subject.oracle is not None
    rel = RELATIVE[dtype]
    if any(callable(subject.oracle.hyperparams.get(name)) for name in SCHEDULED):
        rel = max(rel, RELATIVE["float32"])  # values of schedules are always float32
    with np.errstate(all="ignore"):
        so_far = np.maximum.accumulate(np.abs(expected), axis=0)
        near = rel * np.abs(expected) + 0.2 * rel * so_far
        if dtype == "float32":
            rough = np.abs(reference(subject, case, params, np.float32, **override) - expected)
            near = near + 8 * np.maximum.accumulate(np.nan_to_num(rough, nan=np.inf), axis=0)
        if not subject.claims.get("element-wise"):
            near = near + rel / 10 * _largest(case, expected)
        if subject.oracle is not None and plain_name(subject.oracle.name) in DIFFERENCES:
            near = near + 8 * np.finfo(dtype).eps * np.maximum.accumulate(np.abs(params), axis=0)
    return near


def _largest(case: Case, flat: np.ndarray) -> np.ndarray:
    """The largest entry of each leaf: where entries are summed, its rounding is in all of them."""
    ends = itertools.pairwise(cases.offsets(case.shapes))
    parts = [flat[:, a:b] for a, b in ends]
    top = [np.broadcast_to(np.abs(x).max(1, initial=0, keepdims=True), x.shape) for x in parts]
    return np.concatenate(top, axis=1)


def conditioning(
    subject: Subject, case: Case, params: np.ndarray, expected: np.ndarray, dtype: str,
    **override: Any,
) -> np.ndarray:  # fmt: skip
    """Eight times the effect of rounding errors in the inputs, which cancellation amplifies."""
    worst = np.zeros_like(expected)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        off = lambda x, rng=rng: x * (1 + np.finfo(dtype).eps / 2 * rng.choice([-1, 1], x.shape))
        with np.errstate(all="ignore"):
            moved = case._replace(grads=off(case.grads))
            other = reference(subject, moved, off(params), np.float64, **override)
            worst = np.maximum(worst, np.abs(other - expected))
    return 8 * np.maximum.accumulate(np.nan_to_num(worst, nan=0.0), axis=0)


def where_said(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The reference, with what was found in leaves of which the paper says nothing (NaN)."""
    return np.where(np.isnan(expected).all(axis=0), found, expected)


def disagreement(
    subject: Subject, case: Case, run: Run, dtype: str, rate: dict[str, Any]
) -> Mismatch | None:
    """The first difference between a run and the reference beyond the tolerance."""
    expected = reference(subject, case, run.params, np.float64, **rate)
    expected = where_said(expected, run.flat)
    # Compare only as far as the reference has a value.
    end = int(np.argmin([*np.isfinite(expected).all(axis=1), False]))
    if end == 0 or (end < len(expected) and not np.isfinite(case.grads).all()):
        return None
    case = case._replace(params=case.params[:end], grads=case.grads[:end])
    flat, params, expected = run.flat[:end], run.params[:end], expected[:end]
    near = tolerance(subject, case, params, expected, dtype, **rate)
    wrong = mismatch(flat, expected, near)
    if wrong:
        near = near + conditioning(subject, case, params, expected, dtype, **rate)
        wrong = mismatch(flat, expected, near)
    return wrong
