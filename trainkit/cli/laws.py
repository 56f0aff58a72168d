"""`trainkit laws package.module:factory [--like adam] [name=value ...]` prints the table."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from trainkit._core.validation import near

EPILOG = """
examples:
  trainkit laws optax:adam --like adam learning_rate=1e-3
  trainkit laws my_project.rules:make_rule
  trainkit laws my_project.rules:my_adam --like adam learning_rate=1e-3 b1=0.95 --level strict
  trainkit laws optax:linear_schedule --like linear_schedule \\
    init_value=1 end_value=0 transition_steps=100

name=value pairs go to the factory, as far as it takes them, and to the function that --like
names.
Exit status: 0 where every law holds, 1 where one is broken, 2 where the rule could not be checked,
3 where there was no time for some laws.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainkit laws",
        description="Check an update rule or a schedule against the laws.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="package.module:factory", help="what to check")
    parser.add_argument("arguments", nargs="*", metavar="name=value", help="its arguments")
    parser.add_argument("--like", help="the Optax function that it claims to be")
    parser.add_argument("--claim", action="append", default=[], help="a further claim, by name")
    parser.add_argument(
        "--law", action="append", default=[], help="check this law only; repeatable"
    )
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME=VALUE",
        help="an extra argument of update; repeatable (value, grad and value_fn are made up)",
    )  # fmt: skip
    parser.add_argument("--level", choices=("standard", "strict"), default="standard")
    parser.add_argument("--examples", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long it may take")
    return parser


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _arguments(pairs: Sequence[str]) -> dict[str, Any]:
    out = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"expected name=value, found {pair!r}")
        out[name] = _value(text)
    return out


def _target(text: str) -> Any:
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"expected package.module:factory, found {text!r}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"cannot import {module}: {error}") from error
    finally:
        sys.path.pop(0)
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in dir(found) if not n.startswith("_")]
            listed = f"; it has {', '.join(names)}" if len(names) <= 20 else ""
            raise ValueError(f"{module} has no {name}{near(part, names) or listed}")
        found = getattr(found, part)
    return found


def _accepted(f: Any, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that `f` takes, and the required ones that are missing."""
    try:
        parameters = inspect.signature(f).parameters
    except (TypeError, ValueError):
        return {}, []
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {k: v for k, v in given.items() if anything or k in parameters}
    wild = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        k for k, p in parameters.items()
        if p.default is p.empty and p.kind not in wild and k not in taken
    ]  # fmt: skip
    return taken, missing


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 where every law holds, 1 where one is broken, 2 on bad input.

    And 3 where the time was up before every law was tried.
    """
    options = _parser().parse_intermixed_args(argv)
    # Before JAX starts its backend: eight simulated devices, so that placements can be checked.
    flag = "--xla_force_host_platform_device_count"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=8".strip()
    try:
        report = _report(options)
    except (ValueError, TypeError) as error:
        hint = " (here: --extra name=value)" if "extra_args=" in str(error) else ""
        print(f"trainkit laws: {error}{hint}", file=sys.stderr)
        return 2
    print(report)
    if not report.ok:
        return 1
    return 3 if report.not_reached else 0


def _report(options: argparse.Namespace) -> Any:
    from trainkit import laws
    from trainkit.laws.oracles.catalogue import bind, function, reference_name
    from trainkit.laws.protocol import is_transformation

    given = _arguments(options.arguments)
    options.like = reference_name(options.like) if options.like else None
    target = _target(options.target)
    common: dict[str, Any] = {
        "like": options.like, "claims": options.claim or None, "laws": options.law or None,
        "level": options.level, "examples": options.examples, "seed": options.seed,
        "seconds": options.seconds,
    }  # fmt: skip
    hyperparams = None
    if options.like:
        known = laws.RULES if options.like not in laws.SCHEDULES else laws.SCHEDULES
        if options.like in known:
            parameters = inspect.signature(function(options.like)).parameters
            hyperparams = {k: v for k, v in given.items() if k in parameters}
            bind(options.like, hyperparams)
    extra = _arguments(options.extra) or None
    if is_transformation(target):
        return laws.check(target, hyperparams=hyperparams, extra_args=extra, **common)
    if not callable(target):
        raise TypeError(
            f"{options.target} is {target!r:.60}, of type {type(target).__name__}: expected an "
            "optax.GradientTransformation, a function that makes one, or a schedule"
        )
    taken, missing = _accepted(target, given)
    unused = sorted(set(given) - set(taken) - set(hyperparams or {}))
    if unused:
        raise ValueError(f"{options.target} takes no {', '.join(unused)}, nor does --like")
    wants_schedule = options.like in laws.SCHEDULES
    if (
        missing
        and (wants_schedule or missing in (["count"], ["step"], ["t"]))
        and len(missing) == 1
    ):
        made = functools.partial(target, **taken) if taken else target  # it is itself a schedule
        return laws.check_schedule(made, hyperparams=hyperparams, **common)
    if missing:
        raise TypeError(
            f"{options.target} needs {', '.join(missing)}: add "
            + " ".join(f"{name}=…" for name in missing)
        )
    factory = functools.partial(target, **taken) if taken else target
    try:
        made = factory()
    except Exception:
        made = None  # check says what it raised
    if is_transformation(made) or not callable(made):
        return laws.check(factory, hyperparams=hyperparams, extra_args=extra, **common)
    return laws.check_schedule(made, hyperparams=hyperparams, **common)
