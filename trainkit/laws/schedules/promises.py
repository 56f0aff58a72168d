"""Laws of claims of schedules: a reference, values at given counts, sign, direction, no jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trainkit.laws.law import NotApplicable, Violation
from trainkit.laws.schedules.subject import TOP, ScheduleSubject, at_count


def agrees(s: ScheduleSubject) -> Violation | None:
    if s.value is None:
        raise NotApplicable("no like= was given")
    with np.errstate(all="ignore"):
        want = np.array([s.value(int(c)) for c in s.counts], np.float64)
    try:
        got = s.mapped().astype(np.float64)
    except Exception:
        chosen = s.sample
        got, want = s.eager(), np.array([s.value(int(c)) for c in chosen])
        return _compare(s, chosen, got, want)
    return _compare(s, s.counts, got, want)


def _compare(s: ScheduleSubject, counts: Any, got: Any, want: Any) -> Violation | None:
    if np.shape(got) != np.shape(want):
        raise NotApplicable("its values are no scalars, of which another law speaks")
    near = 1e-5 * np.abs(want) + 1e-6 * np.abs(want).max(initial=0)
    # float32 represents a count beyond 2²⁴ to 6e-8 relative, and a decay amplifies that.
    near = near + _steepness(s, counts)
    with np.errstate(all="ignore"):
        bad = ~((np.abs(got - want) <= near) | (got == want))  # both may be infinite
    if not bad.any():
        return None
    i = int(np.argmax(bad))
    c = int(counts[i])
    return Violation(
        f"at count {c} it is {got[i]:.9g}, {s.like} gives {want[i]:.9g}",
        {"count": c, "found": float(got[i]), "expected": float(want[i])},
        f"value = float(jax.jit(schedule)(jnp.array({c})))\nprint(value)\n"
        f"assert abs(value - {float(want[i])!r}) <= {float(near[i])!r}, value",
    )


def _steepness(s: ScheduleSubject, counts: Any) -> np.ndarray:
    """The change of the reference if the count has float32 rounding errors."""
    assert s.value is not None
    out = []
    with np.errstate(all="ignore"):
        for c in counts:
            off = int(np.ceil(abs(int(c)) * 1.2e-7))
            if int(c) < 2**23:
                out.append(0.0)
            else:
                sides = [s.value(int(c) + d) for d in (-off, 0, off)]
                out.append(float(np.ptp(sides)))
    return np.array(out)


def starts(s: ScheduleSubject) -> Iterator[Violation]:
    wanted = []
    for name, count in (("start", 0), ("end", TOP)):
        if name in s.claims and s.claims[name] is not True:
            wanted.append((name, count, float(s.claims[name])))
    if "peak" in s.claims and s.claims["peak"] is not True:
        c, v = s.claims["peak"]
        wanted.append(("peak", int(c), float(v)))
    if not wanted:
        raise NotApplicable('say which: claims={"start": 0.0, "peak": (100, 1.0), "end": 0.1}')
    for name, c, v in wanted:
        got = float(s.eager(counts=[c])[0])
        if not np.isclose(got, v, rtol=1e-5, atol=1e-7):
            yield Violation(
                f"its {name}, at {c}, is {got:.9g} and not {v:.9g}",
                {"count": c, "found": got, "expected": v},
                at_count(c, f"abs(value - {v!r}) <= 1e-5 * abs({v!r}) + 1e-7"))  # fmt: skip
            return
        if name == "peak" and s.mapped().max() > v * (1 + 1e-5):
            c = int(s.counts[int(s.mapped().argmax())])
            yield Violation(
                f"it is higher than its peak at {c}: {s.mapped().max():.9g}", {"count": c},
                at_count(c, f"value <= {v!r} * (1 + 1e-5)"))  # fmt: skip
            return


def sign(s: ScheduleSubject) -> Violation | None:
    low = s.mapped().astype(np.float64)
    if low.min() >= 0:
        return None
    c = int(s.counts[int(low.argmin())])
    return Violation(f"at {c} it is {low.min():.6g}", {"count": c}, at_count(c, "value >= 0"))


def monotone(direction: int) -> Callable[[ScheduleSubject], Violation | None]:
    def check(s: ScheduleSubject) -> Violation | None:
        values = s.mapped().astype(np.float64)
        slack = float(1e-6 * np.abs(values).max())
        bad = direction * np.diff(values) < -slack
        if not bad.any():
            return None
        i = int(np.argmax(bad))
        a, b = int(s.counts[i]), int(s.counts[i + 1])
        return Violation(
            f"from {a} to {b} it goes from {values[i]:.6g} to {values[i + 1]:.6g}",
            {"counts": (a, b)},
            f"a, b = schedule({a}), schedule({b})\nprint(a, b)\n"
            f"assert {direction} * (b - a) >= -{slack!r}, (a, b)",
        )

    return check


def continuous(s: ScheduleSubject) -> Violation | None:
    claimed = s.claims["continuous"]
    values = s.mapped().astype(np.float64)
    near = np.diff(s.counts) == 1
    steps = np.where(near, np.abs(np.diff(values)), 0.0)
    limit = float(0.2 * np.ptp(values)) if claimed is True else float(claimed)
    if steps.max() <= limit + 1e-6 * np.abs(values).max():
        return None
    i = int(steps.argmax())
    return Violation(
        f"from {s.counts[i]} to {s.counts[i + 1]} it jumps by {steps[i]:.6g}",
        {"count": int(s.counts[i])},
        f"a, b = schedule({int(s.counts[i])}), schedule({int(s.counts[i + 1])})\n"
        f"assert abs(a - b) <= {limit!r}, (a, b)",
    )
