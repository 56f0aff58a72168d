"""One test for each law, with names that read well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainkit.laws import claims as claiming
from trainkit.laws import runner as checking
from trainkit.laws.law import Law, Level
from trainkit.laws.oracles.catalogue import oracle_for, reference_name
from trainkit.laws.oracles.schedules import SCHEDULES


def parametrize(
    tx: Any,
    *,
    like: str | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    claims: Any = None,
    laws: Any = None,
    level: Level = "standard",
    schedule: bool = False,
    **options: Any,
) -> Callable[[Any], Any]:
    """A decorator that gives one pytest test for each law that applies to `tx`.

    The test function takes `law`, and calls it; that raises `LawError` with the counterexample and
    the reproducer where the law is broken. The runs are shared, so the whole costs one `check`.

        @laws.parametrize(lambda: my_adam(1e-3), like="adam", hyperparams={"learning_rate": 1e-3})
        def test_my_adam(law):
            law()

    gives `test_my_adam[purity]`, `test_my_adam[jit is eager]`, `test_my_adam[oracle]`, … A law that
    turns out not to apply to the rule passes.

    Args:
      tx, like, hyperparams, claims, laws, level: as for `check`, or, with `schedule=True` or the
        name of a schedule as `like`, for `check_schedule`.
      options: further arguments of `check` (examples, seed, extra_args).
    """
    import pytest

    like = reference_name(like) if like else None
    is_schedule = schedule or like in SCHEDULES
    known = checking.SCHEDULE_LAWS if is_schedule else checking.TRANSFORMATION_LAWS
    kind = "schedule" if is_schedule else "transformation"
    if like and not is_schedule:
        held = claiming.implied(like, oracle_for(like, hyperparams).hyperparams)
    else:
        held = {"oracle": True} if like else {}
    held = {k: v for k, v in (held | claiming.read(claims)).items() if v is not False}
    chosen = [
        law
        for law in checking._chosen(laws, known, kind)
        if laws is not None
        or (
            (law.claim is None or law.claim in held)
            and (law.level == "standard" or level == "strict")
        )
    ]
    reports: dict[str, Any] = {}

    def report() -> Any:
        if "all" not in reports:
            # Typed loosely: of the two functions' arguments these are the ones they share.
            run: Any = checking.check_schedule if is_schedule else checking.check
            reports["all"] = run(
                tx, like=like, hyperparams=hyperparams, claims=claims, laws=chosen,
                level=level, **options,
            )  # fmt: skip
        return reports["all"]

    def test_of(law: Law) -> Callable[[], None]:
        def run() -> None:
            from trainkit.laws.report import LawError

            broken = [f for f in report().failures if f.law == law.name]
            if broken:
                raise LawError("\n".join(str(f) for f in broken))

        run.__name__ = law.name
        return run

    return pytest.mark.parametrize(
        "law", [test_of(x) for x in chosen], ids=[x.name for x in chosen]
    )
