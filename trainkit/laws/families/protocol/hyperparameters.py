"""The law of hyper-parameters: each one that a rule declares changes some update."""

from __future__ import annotations

import functools
import inspect
import numbers
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import build, ordinary
from trainkit.laws.reproducers.literals import literal
from trainkit.laws.reproducers.programs import inner_code
from trainkit.laws.subject import Subject

RATES = {"learning_rate": 1e-2, "lr": 1e-2, "rate": 1e-2}


def updates_of(tx: Any, dtype: str = "float32") -> Any:
    """Updates for ordinary, tiny, broken and steady gradients, one after the other.

    All but the steady ones have a sudden one among them. With them comes what the state keeps of
    the parameters, such as their average.
    """
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    first, step, out = {"b": draw(3), "w": draw(4, 6)}, jax.jit(tx.update), []
    for kind, scale in (("plain", 1.0), ("tiny", 1e-8), ("broken", 0.01), ("steady", 1.0)):
        params, steady = first, {"b": draw(3), "w": draw(4, 6)}
        state = tx.init(params)
        held = [
            i
            for i, x in enumerate(jax.tree.leaves(state))
            for p in jax.tree.leaves(params)
            if jnp.shape(x) == p.shape and np.array_equal(x, p)
        ]
        for t in range(14):
            size = scale * (0 if t == 3 else 300 if t == 8 else 1)
            g = {"b": size * draw(3), "w": size * draw(4, 6)} if kind != "steady" else steady
            if kind == "broken" and t in (5, 6):
                g["w"] = g["w"].at[0, 0].set(jnp.nan)
            u, state = step(g, state, params)
            if kind == "steady":  # where they lead
                params = jax.tree.map(lambda p, x: p + x, params, u)
            kept = [x for i, x in enumerate(jax.tree.leaves(state)) if i in held]
            out.append(np.concatenate([np.ravel(x) for x in [*jax.tree.leaves(u), *kept]]))
    return np.stack(out)


def others(value: Any) -> list[Any]:
    """Values to try in place of one."""
    if isinstance(value, bool):
        return [not value]
    tried: list[Any] = [2 * value if value else 0.1, value / 2, 1e-3, 0.1, 1.0, 10.0]
    if isinstance(value, int):
        tried = [value + 1, 1, 2, 3, max(value - 1, 0)]
    return [v for v in dict.fromkeys(tried) if v != value]


@ordinary()
def effects(subject: Subject) -> Violation | None:
    """claims={"hyperparameters": the factory, or the names to try}

    Without the claim only fractions are tried: an integer may be the size of a block of work.
    """
    claim = subject.claims.get("hyperparameters", True)
    make: Any = claim if callable(claim) else subject.source
    if subject.needs or subject.extra_args or not (callable(claim) or subject.is_factory):
        raise NotApplicable("its hyper-parameters cannot be read: pass a factory of them")
    declared = {
        name: p.default if p.default is not p.empty else RATES.get(name)
        for name, p in inspect.signature(make).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    named = () if callable(claim) or claim is True else tuple(claim)
    kinds = numbers.Real if "hyperparameters" in subject.claims else float
    is_number = lambda v: isinstance(v, kinds) and not isinstance(v, bool)
    chosen = {k: v for k, v in declared.items() if is_number(v) or k in named}
    chosen = {k: v for k, v in chosen.items() if not named or k in named}
    required = {k: RATES[k] for k, p in inspect.signature(make).parameters.items()
                if p.default is p.empty and k in RATES}  # fmt: skip
    if not chosen:
        raise NotApplicable("its factory declares no numbers")
    far = {k: others(v)[0] if isinstance(v, float) else 3 - (v == 3) for k, v in declared.items()
           if isinstance(v, int | float) and not isinstance(v, bool)}  # fmt: skip
    for name, value in chosen.items():
        bases: list[Mapping[str, Any]] = [
            required,
            required | {k: v for k, v in far.items() if k != name},
            *(required | kind for kind in _kinds(make)),
        ]
        tried = [*_tried(subject, make, bases, name, value)]
        if not tried or any(changed for _, changed in tried):
            continue
        with jax.enable_x64(True):  # what is too small for float32 is an effect
            if any(changed for _, changed in _tried(subject, make, bases, name, value, "float64")):
                continue
        values = [v for v, _ in tried]
        return Violation(
            f"{name}={value!r} is declared, but no update is another one with "
            f"{', '.join(map(repr, dict.fromkeys(values)))}: it has no effect",
            {"hyper-parameter": name, "default": value, "tried": values},
            inner_code(make, "make") + "\nimport numpy as np\n" + inspect.getsource(updates_of)
            + f"required = {literal(required)}\n"
            f"one = updates_of(make(**required | {{{name!r}: {value!r}}}))\n"
            f"changed = [v for v in {values!r} if not np.array_equal(\n"
            f"    one, updates_of(make(**required | {{{name!r}: v}})), equal_nan=True)]\n"
            f"assert changed, 'no value of {name} changes an update'",
        )  # fmt: skip
    return None


def _kinds(make: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The other choices of arguments that are no numbers: a number may belong to one of them."""
    inner: Any = make
    while isinstance(inner, functools.partial):
        inner = inner.func
    try:
        hints = typing.get_type_hints(inner)
    except Exception:  # names of annotations that cannot be found
        hints = {}
    for name, p in inspect.signature(make).parameters.items():
        choices = [not p.default] if isinstance(p.default, bool) else []
        if typing.get_origin(hints.get(name)) is typing.Literal:
            choices = [x for x in typing.get_args(hints[name]) if x != p.default]
        yield from ({name: choice} for choice in choices)


def _tried(
    subject: Subject, make: Callable[..., Any], bases: Sequence[Mapping[str, Any]], name: str,
    value: Any, dtype: str = "float32",
) -> Iterator[tuple[Any, bool]]:  # fmt: skip
    """Values of one hyper-parameter, and whether any update was another one, to the first such."""

    def run(base: Mapping[str, Any], new: Any) -> Any:
        key = ("hyper-parameters", id(make), dtype, repr(sorted({**base, name: new}.items())))
        if key not in subject.memo:
            subject.clock.check()
            subject.memo[key] = updates_of(build(make(**{**base, name: new})), dtype)
        return subject.memo[key]

    for base in bases:
        for new in others(value):
            try:
                changed = not np.array_equal(run(base, value), run(base, new), equal_nan=True)
            except Exception:  # a value that the rule refuses
                continue
            yield new, changed
            if changed:
                return


LAWS = (
    Law("hyper-parameters", "Every hyper-parameter that the factory declares as a number changes "
        "some update, or what the state keeps of the parameters.", effects, tolerance="bitwise",
        why="any effect counts"),
)  # fmt: skip
