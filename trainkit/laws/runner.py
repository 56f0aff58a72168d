"""`check` and `check_schedule`: laws in, report out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainkit.laws import claims as claiming
from trainkit.laws import losses, per_example
from trainkit.laws.crashes import crashed_as
from trainkit.laws.families import algebra, form, numbers, persistence
from trainkit.laws.law import Law, Level, NotApplicable, Violation
from trainkit.laws.oracles.catalogue import RULES, bind, oracle_for, plain_name, reference_name
from trainkit.laws.oracles.schedules import SCHEDULES
from trainkit.laws.protocol import find_needs, is_transformation, near, ordinary
from trainkit.laws.report import Failure, Outcome, Report, Result
from trainkit.laws.reproducers import source
from trainkit.laws.schedules.laws import LAWS as SCHEDULE_LAWS
from trainkit.laws.schedules.subject import ScheduleSubject
from trainkit.laws.subject import Crash, Subject

TRANSFORMATION_LAWS: tuple[Law, ...] = (*form.LAWS, *algebra.LAWS, *numbers.LAWS, *persistence.LAWS)

ALL: tuple[Law, ...] = (*TRANSFORMATION_LAWS, *SCHEDULE_LAWS)


def check(
    tx: Any,
    *,
    like: str | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    claims: Any = None,
    laws: Sequence[Law | str] | None = None,
    level: Level = "standard",
    examples: int = 25,
    seed: int = 0,
    extra_args: Any = None,
) -> Report:
    """Checks an update rule against the laws that every rule obeys, and those that it claims.

        >>> import optax
        >>> from trainkit import laws
        >>> report = laws.check(optax.sgd(0.1), like="sgd", hyperparams={"learning_rate": 0.1})
        >>> report.ok
        True

    Args:
      tx: an `optax.GradientTransformation`, or a function of no arguments that makes one. Give the
        function: only then can it be seen whether two instances share hidden state.
      like: the Optax function that it claims to be, such as "adam". It must then obey that rule's
        claims and agree with a float64 reference (see `trainkit.laws.RULES` for the names).
      hyperparams: the keyword arguments that this Optax function would get; what is missing has
        Optax's default. A missing learning rate is read off the first update.
      claims: names of further laws that hold ("element-wise", "odd", …), or a mapping from names
        to values; a value of False withdraws a claim that `like` implies.
      laws: which laws to check, as names or `Law` objects; all of them by default.
      level: "standard" is ordinary use; "strict" adds float16, mixed dtypes, x64, extremes and
        saturated counts.
      examples: how many random trajectories beside the named ones.
      seed: of everything random.
      extra_args: what `update` needs beside gradients, state and parameters, as a mapping or as
        a function of (params, grads); value, grad and value_fn are supplied without asking.

    Returns:
      A `Report`: print it, ask `report.ok`, or call `report.raise_for_failures()`.

    Raises:
      TypeError: `tx` is no transformation, or needs an argument that must be passed.
      ValueError: an unknown name in `like`, `claims` or `laws`; a factory that raises.
    """
    began = time.perf_counter()
    _known_level(level)
    like = reference_name(like) if like else None
    if like is not None and like in SCHEDULES:
        raise ValueError(
            f"like={like!r} is a schedule, and this an update rule: schedules are for "
            "check_schedule"
        )
    oracle = oracle_for(like, hyperparams) if like else None
    if like is None and hyperparams:
        raise ValueError("hyperparams say what like= would get: pass like='adam', or whichever")
    _masks_are_functions(hyperparams or {})
    implied = claiming.implied(like, oracle.hyperparams if oracle else {})
    claimed = implied | claiming.read(claims)
    chosen = _chosen(laws, TRANSFORMATION_LAWS, "transformation")
    subject = Subject(
        tx, like=like, hyperparams=hyperparams,
        claims={k: v for k, v in claimed.items() if v is not False},
        level=level, examples=_positive(examples), seed=seed, extra_args=extra_args,
    )  # fmt: skip
    subject.oracle = oracle
    find_needs(subject)
    words = like or getattr(tx, "__qualname__", None) or "the rule"
    code = lambda: (
        source.rule(tx, "tx", like and plain_name(like), hyperparams)
        + per_example.code(subject.claims)
        + losses.code(subject.needs, extra_args, subject.slope)
    )
    return _examine(subject, chosen, laws is not None, code, words, began)


def check_schedule(
    fn: Any,
    *,
    like: str | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    claims: Any = None,
    laws: Sequence[Law | str] | None = None,
    level: Level = "standard",
    examples: int = 25,
    seed: int = 0,
) -> Report:
    """Checks a schedule, a function from a step count to a value; see `check`.

        >>> import optax
        >>> from trainkit import laws
        >>> h = {"init_value": 1.0, "decay_steps": 100}
        >>> fn = optax.cosine_decay_schedule(**h)
        >>> laws.check_schedule(fn, like="cosine_decay_schedule", hyperparams=h).ok
        True

    Args:
      fn: the schedule, `count -> value`.
      like: the Optax schedule that it claims to be (see `trainkit.laws.SCHEDULES`).
      hyperparams: the keyword arguments that this Optax function would get.
      claims: "non-negative", "non-increasing", {"start": v, "peak": (count, v), "end": v}, …
      laws, level, examples, seed: as for `check`; `examples` random counts are tried beside the
        chosen ones.
    """
    began = time.perf_counter()
    _known_level(level)
    if is_transformation(fn):
        raise TypeError("expected a schedule (count -> value), found a transformation: use check")
    if not callable(fn):
        raise TypeError(
            f"expected a schedule, a function from a count to a value, found {type(fn).__name__}: "
            f"{fn!r:.200}; a constant is optax.constant_schedule({fn!r:.20})"
        )
    value = None
    bound: dict[str, Any] = {}
    like = plain_name(like) if like else None
    if like is None and hyperparams:
        raise ValueError("hyperparams say what like= would get: pass like='linear_schedule', …")
    if like is not None:
        if like not in SCHEDULES:
            raise ValueError(
                f"like={like!r} is an update rule, and this a schedule: update rules are for check"
                if like in RULES
                else f"like={like!r} is no schedule with a reference.{near(like, SCHEDULES)} "
                f"Known: {', '.join(sorted(SCHEDULES))}"
            )
        bound, missing = bind(like, hyperparams)
        if missing:
            example = ", ".join(f"{key!r}: …" for key in missing)
            raise ValueError(
                f"like={like!r} needs {', '.join(missing)}, which optax.{like} has no default "
                f"for: pass hyperparams={{{example}}}"
            )
        value = SCHEDULES[like](bound)
    chosen = _chosen(laws, SCHEDULE_LAWS, "schedule")
    claimed = ({"oracle": True} if like else {}) | claiming.read(claims)
    subject = ScheduleSubject(
        fn, like, bound, {k: v for k, v in claimed.items() if v is not False},
        level, _positive(examples), seed, value,
    )  # fmt: skip
    words = like or getattr(fn, "__qualname__", None) or "the schedule"
    code = lambda: source.rule(fn, "schedule", like, hyperparams)
    return _examine(subject, chosen, laws is not None, code, words, began)


def _masks_are_functions(hyperparams: Mapping[str, Any]) -> None:
    for name, value in hyperparams.items():
        if "mask" in name and not (value is None or isinstance(value, bool) or callable(value)):
            raise ValueError(
                f"{name} is a tree, which fits one tree of parameters only, and the laws try many: "
                f"make the rule with a function of the parameters, {name}=lambda params: …"
            )


def _known_level(level: str) -> None:
    if level not in ("standard", "strict"):
        raise ValueError(f'level is "standard" or "strict", not {level!r}')


def _positive(examples: int) -> int:
    if not isinstance(examples, int) or examples < 0:
        raise ValueError(f"examples is a number of trajectories, not {examples!r}")
    return examples


def _chosen(laws: Any, known: Iterable[Law], kind: str) -> list[Law]:
    table = {law.name: law for law in known}
    if laws is None:
        return list(table.values())
    if isinstance(laws, str | Law):
        laws = [laws]
    out = []
    for law in laws:
        if isinstance(law, Law):
            out.append(law)
            continue
        name = {claiming.plain(n): n for n in table}.get(claiming.plain(str(law)), str(law))
        if name not in table:
            raise ValueError(
                f"there is no law {law!r} of a {kind}.{near(str(law), table)} "
                f"The laws are: {', '.join(table)}"
            )
        out.append(table[name])
    return out


def _examine(
    subject: Any, laws: list[Law], asked: bool, code: Any, words: str, began: float
) -> Report:
    results: list[Result] = []
    failures: list[Failure] = []
    crashed: dict[str, str] = {}
    prelude: list[str] = []

    def reproducer(law: Law, found: Violation) -> str:
        if not found.script:
            return ""
        if not prelude:
            with ordinary():
                prelude.append(code())
        head = source.header(found.devices)
        return f"# {law.name}: {law.statement}\n{head}\n{prelude[0]}\n\n{found.script}\n"

    for law in laws:
        start = time.perf_counter()
        outcome: Outcome = "holds"
        note, found = "", []
        excepted = claiming.excepted(subject.claims, law.name)
        unclaimed = law.claim is not None and law.claim not in subject.claims
        if law.level == "strict" and subject.level != "strict" and not asked:
            continue
        if excepted:
            outcome, note = "excepted", excepted
        elif unclaimed and not (asked and law.claim not in _NEED_A_VALUE):
            outcome = "not claimed"
        else:
            if unclaimed:
                subject.claims[law.claim] = True
            try:
                made = law.check(subject)
                found = [made] if isinstance(made, Violation) else list(made or ())
            except NotApplicable as reason:
                outcome, note = "not applicable", str(reason)
            except Crash as crash:
                if crash.where in crashed:
                    outcome = "not applicable"
                    note = f"the run crashed, see {crashed[crash.where]!r}"
                else:
                    crashed[crash.where] = law.name
                    found = [crashed_as(crash.cause, crash.where, law)]
            except Exception as error:
                found = [crashed_as(error, law.name, law)]
        if found:
            outcome, note = "broken", found[0].message
        for one in found:
            failures.append(
                Failure(
                    law.name, law.statement, one.message, one.level or law.level,
                    one.counterexample or {"law": law.name}, reproducer(law, one),
                    law.reference, law.tolerance,
                )
            )  # fmt: skip
        level = found[0].level or law.level if found else law.level
        results.append(
            Result(law.name, law.group, level, outcome, note, time.perf_counter() - start)
        )
    return Report(
        words, subject.level, tuple(results), tuple(failures), tuple(subject.notes),
        time.perf_counter() - began,
    )  # fmt: skip


# Claims that mean nothing without a reference or a value.
_NEED_A_VALUE = ("oracle",)
