"""The law of agreement: the updates are those of the float64 reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from trainkit.laws import losses, per_example
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.oracles.catalogue import plain_name
from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import Mismatch, mismatch
from trainkit.laws.problems.runs import Run, Runs
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.shrink import violation

RELATIVE = {"float32": 1e-5, "float64": 1e-12}

# Arguments that may be a schedule.
SCHEDULED = ("learning_rate", "step_size_fn", "adam_learning_rate", "b3", "alpha")

# Their update is the difference of new and old parameters, with the rounding of these.
DIFFERENCES = frozenset({
    "cocob", "fromage", "madgrad", "mechanize", "sam", "scale_by_cocob", "scale_by_madgrad",
    "schedule_free", "schedule_free_adamw", "schedule_free_sgd",
})  # fmt: skip

# Of x, y and z they keep some, and find the others from the parameters: those that they moved.
FOLLOWED = frozenset({"schedule_free", "schedule_free_adamw", "schedule_free_sgd"})


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
        if subject.oracle is not None and plain_name(subject.oracle.name) in DIFFERENCES:
            near = near + 8 * np.finfo(dtype).eps * np.maximum.accumulate(np.abs(params), axis=0)
    return near


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


def infer_rate(subject: Subject) -> dict[str, Any]:
    """The missing learning rate in `hyperparams`, inferred from the first non-zero update.

    Most rules are linear in it. For others, the ratio is computed again at the inferred rate.
    """
    assert subject.oracle is not None
    if "learning_rate" not in subject.oracle.unknown:
        return {}
    if "rate" not in subject.memo:
        rate, ratio = 1.0, _ratio(subject, 1.0)
        for _ in range(30):
            rate *= ratio
            if not (np.isfinite(rate) and rate > 0 and abs(ratio - 1) > 1e-7):
                break
            ratio = _ratio(subject, rate)
        # Round, because the first step has rounding errors (1 − β₂ alone costs 7e-6).
        neat = float(f"{rate:.3g}")
        subject.memo["rate"] = neat if abs(neat - rate) <= 3e-5 * abs(rate) else rate
        if not np.isfinite(subject.memo["rate"]):
            subject.memo["rate"] = 1.0
        subject.notes.append(
            f"learning_rate was not in hyperparams: {subject.memo['rate']:.6g} was read off the "
            "first update, and taken for constant"
        )
    return {"learning_rate": subject.memo["rate"]}


def _ratio(subject: Subject, rate: float) -> float:
    """The ratio of the first non-zero updates to those of the reference at this rate."""
    runs, ratios = subject.runs(), []
    for row in ("plain", "constant", "bursts"):
        case = runs.batch.case(row)
        some = case._replace(params=case.params[:2], grads=case.grads[:2])
        units = reference(subject, some, runs[row].params[:2], np.float64, learning_rate=rate)
        unit, found = next(
            ((u, f) for u, f in zip(units, runs[row].flat, strict=False) if np.any(u)),
            (units[0], runs[row].flat[0]),
        )
        heavy = np.abs(unit) > 0.3 * np.abs(unit).max()
        with np.errstate(all="ignore"):
            ratios.append(np.median(found[heavy] / unit[heavy]) if heavy.any() else np.nan)
    return float(np.median(ratios))


def oracle(subject: Subject, dtype: str = "float32") -> Violation | None:
    if subject.oracle is None:
        raise NotApplicable("no like= was given")
    for argument in ("mu_dtype", "accumulator_dtype", "param_dtype", "state_dtype"):
        low = subject.oracle.hyperparams.get(argument)
        if low is not None and jnp.finfo(low).bits < jnp.finfo(dtype).bits:
            raise NotApplicable(f"{argument} keeps its state in {jnp.dtype(low).name}")
    rate = infer_rate(subject)
    if rate and rate["learning_rate"] <= 0:
        return _uphill(rate["learning_rate"])

    def judge(case: Case) -> Mismatch | None:
        kind = jnp.dtype(dtype)
        as_seen = lambda x: np.asarray(x).astype(kind).astype(np.float64)
        case = case._replace(params=as_seen(case.params), grads=as_seen(case.grads))
        return disagreement(subject, case, subject.replay(case, dtype), dtype, rate)

    batch, rough = len(subject.runs(dtype).batch.rows), False
    for i, (case, run) in enumerate(_tried(subject, dtype)):
        if rough and i < batch:
            continue  # in float64 all of the batch agrees
        wrong = disagreement(subject, case, run, dtype, rate)
        if wrong is None or (rough and _agrees_in_float64(subject, case, rate)):
            continue
        gap = abs(wrong.found - wrong.expected) / max(abs(wrong.expected), 1e-300)
        same = lambda case=case: _same_in_float64(subject, case, rate)
        if dtype == "float32" and not rough and subject.only_rounding(gap, same, "oracle"):
            rough = True
            continue
        hint = (
            f" (with the learning rate {rate['learning_rate']:.6g} that its first step "
            "shows; pass hyperparams where it is a schedule)"
            if rate
            else ""
        )
        return violation(
            subject, case, judge, wrong,
            f"at {{step}}, leaf {{leaf}}: the update is {{found}}, {subject.like} gives "
            f"{{expected}}{hint}", dtype=dtype,
        )  # fmt: skip
    return None


def _uphill(rate: float) -> Violation:
    params, grads = mini()
    return Violation(
        f"its first update is the reference's times {rate:.6g}: it does not go downhill",
        {"params": params, "gradients": grads[0]},
        setup(params, grads[0]) + "u, _ = tx.update(grads, tx.init(params), params)\n"
        "slope = sum((x * y).sum() for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(grads)))"
        "\nprint('update . gradient =', slope)\nassert slope < 0, slope",
    )


def disagreement(
    subject: Subject, case: Case, run: Run, dtype: str, rate: dict[str, Any]
) -> Mismatch | None:
    """The first difference between a run and the reference beyond the tolerance."""
    expected = reference(subject, case, run.params, np.float64, **rate)
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


def _tried(subject: Subject, dtype: str) -> Iterator[tuple[Case, Run]]:
    """The trajectories of the batch; in float32 also odd shapes and a long trajectory.

    Of a rule that finds a part of its state in the parameters, only those where they follow it.
    """
    runs = subject.runs(dtype)
    followed = subject.oracle is not None and plain_name(subject.oracle.name) in FOLLOWED
    for row in runs.batch.rows:
        if not followed or runs.batch.case(row).follow:
            yield as_seen_by(runs, row), runs[row]
    if dtype == "float32":
        single = lambda x: np.asarray(x, np.float32).astype(np.float64)
        seed = subject.seed
        more = [cases.odd_shapes(seed), cases.matrices(seed, 4), cases.long(seed)]
        *odd, far = [c._replace(params=single(c.params), grads=single(c.grads)) for c in more]
        for case in odd:
            # A rule that cannot handle such leaves breaks the law of structure, not this one.
            with contextlib.suppress(Exception):
                if followed:
                    start = np.broadcast_to(case.params[:1], case.params.shape)
                    case = case._replace(params=start, follow=1.0)
                run = subject.replay(case)
                yield case, run
        if not followed:
            yield far, subject.long(far)


def as_seen_by(runs: Runs, row: str) -> Case:
    """The trajectory with the parameters and gradients that the rule got."""
    case, run = runs.batch.case(row), runs[row]
    if not case.pull:
        return case
    return case._replace(params=run.params, grads=run.grads, follow=0.0, pull=0.0)


def _same_in_float64(subject: Subject, wrong: Case, rate: dict[str, Any]) -> bool:
    """Whether in float64 every trajectory agrees with the reference to 1e-9 relative.

    Those of the batch, and the one that is wrong in float32.
    """
    runs = subject.runs("float64")
    rows = [row for row in runs.batch.rows if row != "nan"]
    return _agrees_in_float64(subject, wrong, rate) and all(
        _agrees_in_float64(subject, as_seen_by(runs, row), rate, runs[row]) for row in rows
    )


def _agrees_in_float64(
    subject: Subject, case: Case, rate: dict[str, Any], run: Run | None = None
) -> bool:
    run = subject.replay(case, "float64") if run is None else run
    want = reference(subject, case, run.params, np.float64, **rate)
    near = 1e-9 * np.maximum.accumulate(np.abs(want), axis=0)
    # What is 0 in one program may be the rounding of the largest entry in the other.
    near = near + 1e-14 * np.abs(want).max(axis=1, keepdims=True, initial=0)
    return not (np.isfinite(want).all() and mismatch(run.flat, want, near))


def oracle_f64(subject: Subject) -> Violation | None:
    return oracle(subject, "float64")


PAPER = "a float64 NumPy reference written from the rule's paper (trainkit.laws.oracles)"
LAWS = (
    Law("oracle", "The updates agree with the rule that it claims to be.", oracle,
        claim="oracle", reference=PAPER,
        tolerance="1e-5 relative, plus 8 times the reference's own rounding in float32 and 8 "
        "times what the last digit of its inputs does",
        why="float32 has 6e-8; 1 − β₂ᵗ alone loses 1.3e-5 at the first step"),
    Law("oracle in float64", "In float64 the updates agree with the rule's definition.",
        oracle_f64, claim="oracle", level="strict", reference=PAPER,
        tolerance="1e-12 relative", why="float64 has 1.1e-16, and 30 steps lose little"),
)  # fmt: skip
