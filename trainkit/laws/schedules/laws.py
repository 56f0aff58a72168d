"""Laws of all schedules (functions from a step count to a value)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import first_line, ordinary
from trainkit.laws.schedules.promises import agrees, continuous, monotone, sign, starts
from trainkit.laws.schedules.subject import TOP, ScheduleSubject, at_count, refuses


def within(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The law, restricted to schedules that can be called."""

    def checked(s: Any) -> Any:
        if refuses(s):
            raise NotApplicable("it refuses a horizon beyond 2³¹ − 1 steps, as it may")
        return check(s)

    return checked


def defined(s: ScheduleSubject) -> Iterator[Violation]:
    for c in s.sample:
        with ordinary():
            try:
                v = np.asarray(s.fn(int(c)))
            except Exception as error:
                yield Violation(
                    f"schedule({int(c)}) raised {type(error).__name__}: {first_line(error)}",
                    {"count": int(c)}, f"schedule({int(c)})")  # fmt: skip
                return
        if v.shape != () or (v.dtype.kind not in "fiu" and v.dtype.name != "bfloat16"):
            yield Violation(
                f"schedule({int(c)}) has shape {v.shape} and dtype {v.dtype}, not a real scalar",
                {"count": int(c), "found": v}, at_count(c, "jnp.shape(value) == ()"))  # fmt: skip
            return
        if not np.isfinite(v.astype(np.float64)):
            yield Violation(
                f"schedule({int(c)}) is {v}", {"count": int(c), "found": float(v)},
                at_count(c, "jnp.isfinite(value)"))  # fmt: skip
            return
    for name, make in (
        ("numpy.int32", np.int32),
        ("a jax int32", lambda c: jnp.array(c, jnp.int32)),
    ):
        try:
            got, want = s.eager(make), s.eager()
        except Exception as error:
            yield Violation(
                f"given {name} it raised {type(error).__name__}: {first_line(error)}",
                {"count": name}, "import numpy as np\nschedule(np.int32(3))\n"
                "schedule(jnp.array(3, 'int32'))")  # fmt: skip
            return
        bad = ~np.isclose(got, want, rtol=1e-5, atol=1e-7 * np.abs(want).max())
        if bad.any():
            c = int(s.sample[np.argmax(bad)])
            yield Violation(
                f"at {c} it gives {want[bad][0]:.9g} for an int and {got[bad][0]:.9g} for {name}",
                {"count": c, "found": float(got[bad][0]), "expected": float(want[bad][0])},
                f"a, b = schedule({c}), schedule(jnp.array({c}, 'int32'))\nprint(a, b)\n"
                "assert jnp.allclose(a, b, rtol=1e-5), (a, b)",
            )
            return


def traced(s: ScheduleSubject) -> Violation | None:
    script = "print(jax.jit(jax.vmap(schedule))(jnp.arange(5)))"
    try:
        values = s.mapped().astype(np.float64)
    except Exception as error:
        return Violation(
            f"under jit and vmap it raised {type(error).__name__}: {first_line(error)}",
            {"counts": "an array"}, script)  # fmt: skip
    if values.shape != s.counts.shape:
        return Violation(
            f"vmapped it gives the shape {values.shape}",
            {"shape": values.shape},
            "values = jax.jit(jax.vmap(schedule))(jnp.arange(5))\n"
            "assert values.shape == (5,), values",
        )
    bad = ~np.isfinite(values)
    if bad.any():
        c = int(s.counts[np.argmax(bad)])
        return Violation(
            f"at {c} it is {values[bad][0]} under jit", {"count": c, "found": values[bad][0]},
            f"value = jax.jit(schedule)(jnp.array({c}))\nprint(value)\n"
            "assert jnp.isfinite(value), value",
        )  # fmt: skip
    table = dict(zip(s.counts.tolist(), values.tolist(), strict=True))
    for c, want in zip(s.sample.tolist(), s.eager().tolist(), strict=True):
        got = table.get(c, want)
        if not np.isclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(values).max()):
            return Violation(
                f"at {c} it is {want:.9g} eagerly and {got:.9g} under jit",
                {"count": c, "found": got, "expected": want},
                f"a, b = schedule({c}), jax.jit(schedule)(jnp.array({c}))\nprint(a, b)\n"
                "assert jnp.allclose(a, b, rtol=1e-5), (a, b)",
            )
    with ordinary():
        one = jax.jit(s.fn)
        for c in (0, 1, 7, TOP):
            got, want = float(one(jnp.array(c, jnp.int32))), table.get(c)
            if want is not None and not np.isclose(got, want, rtol=1e-5, atol=1e-7):
                return Violation(
                    f"at {c} jit gives {got:.9g} and jit of vmap {want:.9g}",
                    {"count": c, "found": got, "expected": want}, script)  # fmt: skip
    return None


def pure(s: ScheduleSubject) -> Violation | None:
    first = s.eager()
    again = s.eager()
    backwards = s.eager(counts=s.sample[::-1])[::-1]
    bad = ~((first == again) & (first == backwards) | np.isnan(first))
    if not bad.any():
        return None
    c = int(s.sample[np.argmax(bad)])
    return Violation(
        f"schedule({c}) is not the same when it is called again", {"count": c},
        "first = [float(schedule(c)) for c in range(5)]\n"
        "again = [float(schedule(c)) for c in reversed(range(5))][::-1]\n"
        "assert first == again, (first, again)")  # fmt: skip


def dtype(s: ScheduleSubject) -> Violation | None:
    with ordinary():
        out = jax.eval_shape(s.fn, jax.ShapeDtypeStruct((), jnp.int32))
    kind = getattr(out, "dtype", jnp.result_type(out))
    if not jnp.issubdtype(kind, jnp.floating) or (
        kind == jnp.float64 and not jax.config.read("jax_enable_x64")
    ):
        if jnp.issubdtype(kind, jnp.integer) and _whole(s):
            return None
        return Violation(
            f"its values are {kind}, not floating", {"dtype": str(kind)},
            "value = jax.jit(schedule)(jnp.array(1))\nprint(value.dtype)\n"
            "assert jnp.issubdtype(value.dtype, jnp.floating), value.dtype")  # fmt: skip
    return None


def _whole(s: ScheduleSubject) -> bool:
    """Whether the schedule is a constant integer, which may also scale gradients."""
    return bool(np.all(s.mapped() == s.mapped().flat[0]))


def x64(s: ScheduleSubject) -> Violation | None:
    with ordinary(), jax.enable_x64(True):
        out = jax.eval_shape(s.fn, jax.ShapeDtypeStruct((), jnp.int32))
    if str(out.dtype) == "float64" and not getattr(out, "weak_type", False):
        return Violation(
            "in x64 mode its values turn float64, and so does what they multiply",
            {"dtype": "float64"},
            "jax.config.update('jax_enable_x64', True)\n"
            "value = jax.jit(schedule)(jnp.array(1, 'int32'))\n"
            "assert (value * jnp.ones(2, 'float32')).dtype == 'float32', value.dtype",
        )
    return None


FAR = (2**31, 2**31 + 1, 2**33 + 7, 2**40)


def horizon(s: ScheduleSubject) -> Violation | None:
    """Counts beyond int32 are refused, or have the correct value."""
    values = s.mapped().astype(np.float64)
    # Without a reference, a schedule that has ended must stay constant.
    ended = values[-1] == values[-2] == values[-3]
    kinds: dict[str, tuple[Callable[[int], Any], str]] = {
        "an int": (lambda c: s.fn(c), "schedule({c})"),
        "a NumPy int64": (lambda c: s.fn(np.int64(c)), "schedule(np.int64({c}))"),
        "an int64 under jit, in x64 mode": (
            lambda c: jax.jit(s.fn)(jnp.asarray(c, jnp.int64)),
            "jax.jit(schedule)(jnp.array({c}, 'int64'))",
        ),
    }
    for c in FAR:
        want = float(s.value(c)) if s.value else float(values[-1])
        if not np.isfinite(want):
            continue  # it grows beyond float32, and another law says so
        for words, (call, code) in kinds.items():
            wide = "x64" in words
            with ordinary(), jax.enable_x64(wide):
                try:
                    got = float(call(c))
                except Exception:  # refused, which is as good
                    continue
            off = abs(got - want) > 1e-5 * abs(want) + 1e-6 * np.abs(values).max()
            if not np.isfinite(got) or ((s.value or ended) and off):
                return Violation(
                    f"at {c}, given as {words}, it is {got:.9g} where {want:.9g} was expected: the "
                    "count wraps around unseen",
                    {"count": c, "found": got, "expected": want},
                    "import numpy as np\n"
                    + "jax.config.update('jax_enable_x64', True)\n" * wide
                    + f"value = float({code.format(c=c)})\nprint(value)\n"
                    f"assert abs(value - {want!r}) <= 1e-5 * {abs(want)!r} + "
                    f"{1e-6 * float(np.abs(values).max())!r}, value",
                )
    return None


def law(name: str, statement: str, check: Any, **more: Any) -> Law:
    base = {"kind": "schedule", "group": "schedules", "reference": "the protocol of optax.Schedule"}
    return Law(name, statement, within(check), **(base | more))


LAWS = (
    law("defined everywhere", "A finite real scalar for every count from 0 to 2³¹ − 1, as an int, "
        "a NumPy int or a JAX int.", defined, tolerance="1e-5 between them", why="float32"),
    law("schedule under jit", "Under jit and vmap it is what it is eagerly.", traced,
        tolerance="1e-5 relative", why="XLA rounds otherwise"),
    law("schedule purity", "The same count gives the same value, in whatever order it is asked.",
        pure, tolerance="exact", why="the same operations"),
    law("schedule dtype", "Its values are floating, in the default precision.", dtype,
        tolerance="exact", why="a type"),
    law("schedule oracle", "Its values agree with the schedule that it claims to be.", agrees,
        claim="oracle", reference="a float64 NumPy reference (trainkit.laws.oracles.schedules)",
        tolerance="1e-5 relative, 1e-6 of the largest value",
        why="float32 has 6e-8, and cos near its end loses digits"),
    law("start, peak and end", "It takes the claimed values where it claims to.", starts,
        claim="start", tolerance="1e-5 relative", why="float32"),
    law("non-negative", "It is never below 0.", sign, claim="non-negative", tolerance="exact",
        why="a negative rate climbs"),
    law("non-increasing", "It never rises.", monotone(-1), claim="non-increasing",
        tolerance="1e-6 of its largest value", why="float32"),
    law("non-decreasing", "It never falls.", monotone(1), claim="non-decreasing",
        tolerance="1e-6 of its largest value", why="float32"),
    law("continuous", "From one count to the next it does not jump.", continuous,
        claim="continuous", tolerance="the claimed step, or a fifth of its range", why="a jump at "
        "a boundary is a schedule put together wrongly"),
    law("horizon", "A count beyond 2³¹ − 1 has the value that it should, or is refused.", horizon,
        level="strict", tolerance="1e-5 relative", why="float32"),
    law("schedule in x64", "In x64 mode it does not turn what it scales into float64.", x64,
        level="strict", tolerance="exact", why="a type"),
)  # fmt: skip
