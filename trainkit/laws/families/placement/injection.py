"""The law of injection: injecting hyper-parameters changes no update."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.reproducers.source import rule as rule_code
from trainkit.laws.subject import Subject, mini


def injected(subject: Subject) -> Iterator[Violation]:
    """Applies if the call of the factory is known: a functools.partial, or an Optax rule."""
    call = subject.source
    if not isinstance(call, functools.partial):
        raise NotApplicable("give the rule as functools.partial(make, name=value, …) to check this")
    empty = inspect.Parameter.empty
    numeric = {k: v for k, v in call.keywords.items() if isinstance(v, float)}
    if not numeric or call.args:
        raise NotApplicable("the call that made it has no numeric keyword argument")
    # Only real numbers can be injected, not counts, choices or functions.
    values = {k: p.default for k, p in inspect.signature(call.func).parameters.items()}
    values |= call.keywords
    static = tuple(k for k, v in values.items() if not isinstance(v, float) and v is not empty)
    for dtype in ("float32", "bfloat16"):
        params, grads = mini(dtype)
        with ordinary():
            made = optax.inject_hyperparams(call.func, static_args=static)(**call.keywords)
        plain = subject.trajectory(subject.tx, params, grads[:4], apply=False)
        other = subject.trajectory(made, params, grads[:4], apply=False)
        for t, (u, v) in enumerate(zip(plain, other, strict=True)):
            for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
                a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
                near = (1e-4 if dtype == "float32" else 0.05) * (np.abs(a) + np.abs(a).max() / 10)
                if not np.all(np.abs(a - b) <= near):
                    words = ", ".join(f"{k}={v!r}" for k, v in numeric.items())
                    yield Violation(
                        f"with hyper-parameters injected, in {dtype}, update {t + 1} is "
                        f"{b.ravel()[:3]} where {a.ravel()[:3]} was expected",
                        {"params": params, "gradients": grads[: t + 1]},
                        setup(params, grads[: t + 1])
                        + _injected_code(subject, call, static)
                        + f"assert all(map(jnp.all, map(near, a, b))), ({words!r}, a, b)",
                        level="standard" if dtype == "float32" else "strict",
                    )
                    return


def _injected_code(subject: Subject, call: functools.partial[Any], static: tuple[str, ...]) -> str:
    needs = subject.needs or subject.extra_args is not None
    with ordinary():
        held = [rule_code(v, k, None, None) for k, v in call.keywords.items()]
        make = rule_code(call.func, "make", None, None)
    words = ", ".join(f"{k}={k}" for k in call.keywords)
    return (
        "\n".join([*held, make])
        + f"\ninjected = optax.inject_hyperparams(make, static_args={static!r})({words})\n"
        + "injected = supplied(injected)\n" * bool(needs)
        + "def run(tx):\n    state = tx.init(params)\n    for g in grads:\n"
        "        u, state = tx.update(g, state, params)\n"
        "    return [x.astype('float32') for x in jax.tree.leaves(u)]\n"
        "a, b = run(tx), run(injected)\nprint('direct', a)\nprint('injected', b)\n"
        "rough = 1e-4 if params['b'].dtype == 'float32' else 0.05\n"
        "near = lambda x, y: abs(x - y) <= rough * (abs(x) + abs(x).max() / 10)\n"
    )


LAWS = (
    Law("injected is direct", "Injecting hyper-parameters changes no update.", injected,
        level="strict", tolerance="1e-4 relative in float32, 5 % in bfloat16",
        why="an injected constant is rounded to the state's dtype"),
)  # fmt: skip
