"""The public functions: `check`, `check_schedule`, and `parametrize` for one test per law."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trainkit._core import validation
from trainkit.laws import claims as claiming
from trainkit.laws import implied as implying
from trainkit.laws import losses, per_example, runner
from trainkit.laws.clock import Clock
from trainkit.laws.families.listing import TRANSFORMATION_LAWS
from trainkit.laws.law import Law, Level
from trainkit.laws.oracles.catalogue import (
    RULES,
    bind,
    needed,
    oracle_for,
    plain_name,
    reference_name,
)
from trainkit.laws.oracles.schedules import SCHEDULES
from trainkit.laws.protocol import is_transformation, with_rate
from trainkit.laws.report import LawError, Report
from trainkit.laws.reproducers import source
from trainkit.laws.schedules.laws import LAWS as SCHEDULE_LAWS
from trainkit.laws.schedules.subject import ScheduleSubject
from trainkit.laws.subject import Subject
from trainkit.laws.subject.needs import find_needs
from trainkit.laws.validation import check_arguments, check_extra, check_masks

RATE = 1e-3  # of a factory that needs one, where none is given
ALL: tuple[Law, ...] = (*TRANSFORMATION_LAWS, *SCHEDULE_LAWS)


@validation.named_options
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
    seconds: float | None = 300.0,
    progress: bool | None = None,
) -> Report:
    """Checks an update rule against the laws of all rules, and those that it claims.

        >>> import optax
        >>> from trainkit import laws
        >>> report = laws.check(optax.sgd(0.1), like="sgd", hyperparams={"learning_rate": 0.1})
        >>> report.ok
        True

    Args:
      tx: an `optax.GradientTransformation`, or a factory without arguments. Pass the factory: only
        then can the laws see whether two instances share hidden state. With `like`, a factory that
        needs nothing but a `learning_rate` gets that of `hyperparams`, or 0.001.
      like: the Optax function that the rule claims to be, such as "adam" (names: `laws.RULES`). The
        rule must then obey its claims, and agree with a float64 reference.
      hyperparams: keyword arguments of that Optax function; missing ones have Optax's defaults. A
        missing learning rate is inferred from the first update.
      claims: names of further claims ("element-wise", "odd", …), or a mapping from names to values.
        The value False withdraws a claim that `like` implies.
      laws: the laws to check, as names or `Law` objects; by default all.
      level: "standard" is ordinary use. "strict" adds float16, mixed dtypes, x64, extreme gradients
        and saturated counts.
      examples: the number of random trajectories, in addition to the named ones.
      seed: the seed of all random values.
      extra_args: extra arguments of `update`, as a mapping or as a function of (params, grads).
        `value`, `grad` and `value_fn` are supplied automatically.
      seconds: the time limit; `None` for no limit. At the limit, and on Ctrl-C, the report has the
        results so far, and the laws that were not reached.
      progress: whether to print the current law on the terminal; by default if there is a terminal.

    Returns:
      A `Report`: print it, test `report.ok`, or call `report.raise_for_failures()`.

    Raises:
      TypeError: `tx` is not a transformation, or needs an argument that was not passed.
      ValueError: an unknown name in `like`, `claims` or `laws`, or a factory that raises.
    """
    clock = _clock(seconds)
    check_arguments(level, examples, seed, like, hyperparams)
    check_extra(extra_args)
    like = reference_name(like) if like else None
    if like in SCHEDULES:
        raise ValueError(f"like={like!r} must not be a schedule: use check_schedule for schedules")
    oracle = oracle_for(like, hyperparams) if like else None
    check_masks(hyperparams or {})
    chosen = _chosen(laws, TRANSFORMATION_LAWS, "transformation")
    if like:
        tx = with_rate(tx, (hyperparams or {}).get("learning_rate", RATE))
    subject = Subject(
        tx, like=like, hyperparams=hyperparams, claims=_claims_of(like, hyperparams, claims),
        level=level, examples=examples, seed=seed, extra_args=extra_args, oracle=oracle,
        clock=clock,
    )  # fmt: skip
    find_needs(subject)
    words = like or getattr(tx, "__qualname__", None) or "the rule"
    code = lambda: (
        source.rule(tx, "tx", like and plain_name(like), hyperparams)
        + per_example.code(subject.claims)
        + losses.code(subject.needs, extra_args, subject.slope)
    )
    return runner.run(subject, chosen, code, words, laws is not None, progress)


@validation.named_options
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
    seconds: float | None = 300.0,
    progress: bool | None = None,
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
      like: the name of the Optax schedule that it claims to be; see `trainkit.laws.SCHEDULES`.
      hyperparams: keyword arguments of that Optax function.
      claims: "non-negative", "non-increasing", {"start": v, "peak": (count, v), "end": v}, …
      laws, level, examples, seed, seconds, progress: as for `check`; examples are random counts.

    Returns:
      A `Report`.

    Raises:
      TypeError: `fn` is not a function of a count.
      ValueError: an unknown name in `like`, `claims` or `laws`.
    """
    clock = _clock(seconds)
    check_arguments(level, examples, seed, like, hyperparams)
    if is_transformation(fn):
        raise TypeError("expected a schedule (count -> value), found a transformation: use check")
    if not callable(fn):
        raise TypeError(
            f"expected a schedule, a function from a count to a value, found {type(fn).__name__}: "
            f"{fn!r:.200}; a constant is optax.constant_schedule({fn!r:.20})"
        )
    like = plain_name(like) if like else None
    bound = _bound(like, hyperparams)
    subject = ScheduleSubject(
        fn, like, bound, _claims_of(like, hyperparams, claims), level, examples, seed,
        SCHEDULES[like](bound) if like else None, clock,
    )  # fmt: skip
    chosen = _chosen(laws, SCHEDULE_LAWS, "schedule")
    words = like or getattr(fn, "__qualname__", None) or "the schedule"
    code = lambda: source.rule(fn, "schedule", like, hyperparams)
    return runner.run(subject, chosen, code, words, laws is not None, progress)


@validation.named_options
def parametrize(
    tx: Any,
    *,
    like: str | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    claims: Any = None,
    laws: Any = None,
    level: Level = "standard",
    schedule: bool = False,
    examples: int = 25,
    seed: int = 0,
    seconds: float | None = 300.0,
    extra_args: Any = None,
) -> Callable[[Any], Any]:
    """A decorator that makes one pytest test for each law that applies to `tx`.

    The test function has a parameter `law` and calls it. If the law is broken, that raises a
    `LawError` with the counterexample and the reproducer. All tests together cost one `check`.

        @laws.parametrize(lambda: my_adam(1e-3), like="adam", hyperparams={"learning_rate": 1e-3})
        def test_my_adam(law):
            law()

    makes `test_my_adam[purity]`, `test_my_adam[jit is eager]`, `test_my_adam[oracle]`, … The test
    of a law that does not apply to the rule passes.

    Args:
      tx, like, hyperparams, claims, laws, level: as for `check`, or, with `schedule=True` or the
        name of a schedule as `like`, for `check_schedule`.
      examples, seed, seconds, extra_args: as for `check`; a schedule takes no `extra_args`.
    """
    import pytest

    like = reference_name(like) if like else None
    is_schedule = schedule or like in SCHEDULES
    known = SCHEDULE_LAWS if is_schedule else TRANSFORMATION_LAWS
    held = _claims_of(like, hyperparams, claims)
    applies = lambda law: (law.claim is None or law.claim in held) and law.level in (
        "standard", level
    )  # fmt: skip
    chosen = _chosen(laws, known, "schedule" if is_schedule else "transformation")
    chosen = [law for law in chosen if laws is not None or applies(law)]
    reports: list[Report] = []

    def test_of(law: Law) -> Callable[[], None]:
        def run() -> None:
            if not reports:
                # Typed loosely: of the two functions' arguments these are the ones they share.
                call: Any = check_schedule if is_schedule else check
                extra = {} if extra_args is None else {"extra_args": extra_args}
                reports.append(call(
                    tx, like=like, hyperparams=hyperparams, claims=claims, laws=chosen,
                    level=level, examples=examples, seed=seed, seconds=seconds, **extra,
                ))  # fmt: skip
            if law.name in reports[0].not_reached:
                pytest.skip("there was no time for it; give it more: seconds=…")
            broken = [f for f in reports[0].failures if f.law == law.name]
            if broken:
                raise LawError("\n".join(str(f) for f in broken))

        run.__name__ = law.name
        return run

    return pytest.mark.parametrize(
        "law", [test_of(x) for x in chosen], ids=[x.name for x in chosen]
    )


def _clock(seconds: float | None) -> Clock:
    if seconds is not None:
        validation.number("seconds", seconds, "check", above=0, hint="None for ever")
    return Clock(seconds)


def _claims_of(
    like: str | None, hyperparams: Mapping[str, Any] | None, claims: Any
) -> dict[str, Any]:
    """The claims that `like` implies and those that are given, without withdrawn ones."""
    implied: dict[str, Any] = {}
    if like in SCHEDULES:
        implied = {"oracle": True}
    elif like is not None:
        implied = implying.implied(like, oracle_for(like, hyperparams).hyperparams)
    return {k: v for k, v in (implied | claiming.read(claims)).items() if v is not False}


def _bound(like: str | None, hyperparams: Mapping[str, Any] | None) -> dict[str, Any]:
    """The complete arguments of the schedule `like`."""
    if like is None:
        return {}
    if like not in SCHEDULES:
        raise ValueError(
            f"like={like!r} must be a schedule, not an update rule: use check for update rules"
            if like in RULES
            else f"like={like!r} is not a schedule with a reference"
            f"{validation.near(like, SCHEDULES) or '.'} "
            f"Known: {', '.join(sorted(SCHEDULES))}"
        )
    bound, missing = bind(like, hyperparams)
    if missing:
        raise ValueError(needed(like, missing))
    return bound


def _chosen(laws: Any, known: Iterable[Law], kind: str) -> list[Law]:
    table = {law.name: law for law in known}
    if laws is None:
        return list(table.values())
    if isinstance(laws, str | Law):
        laws = [laws]
    validation.listed("laws", laws, "['purity', 'odd']")
    if not list(laws):
        raise ValueError("laws must name at least one law, or be None for all of them.")
    out = []
    for law in laws:
        if isinstance(law, Law):
            out.append(law)
            continue
        name = {claiming.plain(n): n for n in table}.get(claiming.plain(str(law)), str(law))
        if name not in table:
            raise ValueError(
                f"there is no law {law!r} of a {kind}{validation.near(law, table) or '.'} "
                f"The laws are: {', '.join(table)}"
            )
        out.append(table[name])
    return out
