"""The law of agreement: the updates are those of the float64 reference."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from trainkit.laws.families.numbers.disagreement import disagreement, reference, where_said
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.oracles.catalogue import PREFIX, oracle_for, plain_name
from trainkit.laws.oracles.deviations import DEVIATIONS
from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import Mismatch, mismatch
from trainkit.laws.problems.runs import Run, Runs
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.shrink import violation

# Of x, y and z they keep some, and find the others from the parameters: those that they moved.
FOLLOWED = frozenset({"schedule_free", "schedule_free_adamw", "schedule_free_sgd"})


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
        hint += optaxs_own(subject, dtype)
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


def optaxs_own(subject: Subject, dtype: str) -> str:
    """A sentence for a rule that is not its paper's but Optax's, which departs from it."""
    name = subject.oracle.name if subject.oracle else ""
    if name not in DEVIATIONS:
        return ""
    other = copy.copy(subject)
    other.oracle = oracle_for(PREFIX + name, subject.hyperparams)
    # Its learning rate, if it was inferred, was so from another reference.
    other.memo = {k: v for k, v in subject.memo.items() if k != "rate"}
    other.notes = []
    rate = infer_rate(other)
    if any(disagreement(other, case, run, dtype, rate) for case, run in _tried(other, dtype)):
        return ""
    paper, optax = DEVIATIONS[name][:2]
    return (
        f". This is Optax's rule, which departs from the paper ({paper}; in Optax {optax}): check "
        f"it with like={PREFIX + name!r}"
    )


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
    want = where_said(reference(subject, case, run.params, np.float64, **rate), run.flat)
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
