"""The code of a rule, for stand-alone reproducers.

A rule is a pair of closures. Optax's rules are written as calls, with arguments from their
closures. Other rules are written as the source of the given function, with the definitions of all
names it uses: libraries are imported, and functions and classes of the user are written out.
Objects that cannot be written are imported, and the reproducer says so.
"""

from __future__ import annotations

import enum
import functools
import inspect
import textwrap
import types
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from trainkit.laws.problems.comparison import same_bits
from trainkit.laws.reproducers.lambdas import text_of
from trainkit.laws.reproducers.literals import CannotWrite, is_literal, literal
from trainkit.laws.reproducers.names import (
    attributes,
    defaults_of,
    free_names,
    imported,
    is_library,
    public,
    source_of,
    values_around,
    values_of,
)
from trainkit.laws.reproducers.optax_calls import call_of, maker_of, transformation

FUTURE = "from __future__ import annotations\n\n"
HEADER = FUTURE + "import jax\nimport jax.numpy as jnp\nimport optax\n"


def header(devices: int = 1) -> str:
    """The imports of a reproducer; several devices are simulated."""
    if devices == 1:
        return HEADER
    flag = f"--xla_force_host_platform_device_count={devices}"
    many = f"import os\n\nos.environ['XLA_FLAGS'] = '{flag}'  # before JAX starts\n"
    return HEADER.replace(FUTURE, FUTURE + many)


class Seen:
    """The definitions that are written so far.

    Attributes:
      lines: name -> the lines that define it, in order.
      of: id of a value -> its name (and the value, which keeps the id valid).
      imports: whether modules of the user may be imported.
    """

    def __init__(self, imports: bool = False):
        self.lines: dict[str, str] = {
            "jax": "import jax", "jnp": "import jax.numpy as jnp", "optax": "import optax"
        }  # fmt: skip
        self.of: dict[int, tuple[str, Any]] = {}
        self.imports = imports

    def bind(self, name: str, line: str) -> bool:
        """Defines a name by a line unless it is defined; returns whether this is its definition."""
        return self.lines.setdefault(name, line) == line

    def fresh(self, name: str) -> str:
        """The name, with a number if it is taken."""
        taken = {*self.lines, *(n for n, _ in self.of.values())}
        names = (name, *(f"{name}_{i}" for i in range(2, 1000)))
        return next(n for n in names if n not in taken)


def rule(subject: Any, name: str, like: str | None, hyperparams: Mapping[str, Any] | None) -> str:
    """Lines that define a factory, a transformation or a schedule, and end with `name = …`."""
    for seen in (Seen(), Seen(imports=True)):
        try:
            expression = _expression(subject, seen, calling=callable(subject) and name == "tx")
            written = [line for line in seen.lines.values() if line not in HEADER.splitlines()]
            code = "\n".join([*written, f"{name} = {expression}"])
            if name in seen.lines:  # a name that the rule itself uses: its own stay apart
                body = textwrap.indent("\n".join([*written, f"return {expression}"]), "    ")
                code = f"def written():\n{body}\n{name} = written()"
            if _is_transformation(subject) and not _is_the_same(subject, code, name):
                raise CannotWrite("its closures do not hold all that made it")
            return code
        except Exception:  # writing it down is a service: nothing that is found may be lost by it
            continue
    module, qualname = getattr(subject, "__module__", None), getattr(subject, "__qualname__", "")
    if module and qualname.isidentifier():
        call = "()" if name == "tx" else ""
        imported = f"from {module} import {qualname}  # its source stands elsewhere"
        return f"{imported}\n{name} = {qualname}{call}"
    made = f"optax.{like}" if like else "your rule"
    return (
        f"# The source of the rule could not be read; put it here (it was said to be {made}).\n"
        f"{name} = ..."
    )


def _is_the_same(subject: Any, code: str, name: str) -> bool:
    """Whether the written transformation gives the same update as the subject, if both run."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(HEADER + code, "the rule", "exec"), scope)
    params = {"b": jnp.array([1.0, -2.0]), "w": jnp.array([[0.5, 3.0]])}
    try:
        one, _ = subject.update(params, subject.init(params), params)
    except Exception:  # it needs more than this, or fails: then nothing can be compared
        return True
    two, _ = scope[name].update(params, scope[name].init(params), params)
    return same_bits(one, two)


def _expression(value: Any, seen: Seen, calling: bool = False) -> str:
    """`value` as an expression; its definitions are added to `seen`."""
    write = functools.partial(_expression, seen=seen)
    if _is_transformation(value):
        return transformation(value, write)
    if isinstance(value, functools.partial):
        args = [_expression(a, seen) for a in value.args]
        args += [f"{k}={_expression(v, seen)}" for k, v in value.keywords.items()]
        if calling:
            return f"{_expression(value.func, seen)}({', '.join(args)})"
        seen.bind("functools", "import functools")
        return f"functools.partial({', '.join([_expression(value.func, seen), *args])})"
    if isinstance(value, types.ModuleType):
        raise CannotWrite("a module")
    text = _container(value, seen) or (literal(value) if is_literal(value) else None)
    text = text or _named(value, seen)
    return (f"({text})()" if text.startswith("lambda") else f"{text}()") if calling else text


def _is_transformation(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "init") and hasattr(value, "update")


def _container(value: Any, seen: Seen) -> str | None:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        held = ", ".join(f"{k}={_expression(v, seen)}" for k, v in fields)
        return f"{_expression(type(value), seen)}({held})"
    if isinstance(value, tuple | list):
        items = "".join(_expression(v, seen) + ", " for v in value)
        return f"({items})" if isinstance(value, tuple) else f"[{items}]"
    if isinstance(value, Mapping):
        items = ", ".join(f"{literal(k)}: {_expression(v, seen)}" for k, v in value.items())
        return f"{{{items}}}"
    return None


def _named(value: Any, seen: Seen) -> str:
    """The name of a function, a class or an object, after adding its definition."""
    if (known := public(value)) is not None:
        return known
    if id(value) in seen.of:
        return seen.of[id(value)][0]
    made = maker_of(value)
    if made is not None:
        return call_of(made, [value], functools.partial(_expression, seen=seen))
    if (library := imported(value)) is not None:
        home, name = library
        if home.split(".")[0] not in ("jax", "optax"):
            seen.bind(home, f"import {home}")
        return f"{home}.{name}"
    if isinstance(value, types.MethodType):
        return f"{_expression(value.__self__, seen)}.{value.__func__.__name__}"
    if isinstance(value, type):
        return _class(value, seen)
    if callable(value) and isinstance(inspect.unwrap(value), types.FunctionType):
        return _function(value, seen)
    return _object(value, seen)


def _function(f: Any, seen: Seen) -> str:
    inner = inspect.unwrap(f)
    if inner.__name__ == "<lambda>":
        code = text_of(inner)
        if code is None:
            raise CannotWrite("a lambda whose source is not known from its neighbours")
        text = f"_ = {code}"
        values = values_of(inner) | defaults_of(inner, text)
        return _written(f, "function", text, values, seen, expression=code)
    outer = inner.__qualname__.rpartition(".")[0]
    if outer and not outer.endswith("<locals>"):  # a static method
        return f"{_expression(inner.__globals__[outer], seen)}.{inner.__name__}"
    code = source_of(inner)
    if inner is not f and not code.startswith("@") and not hasattr(f, "lower"):
        raise CannotWrite("a function that was wrapped where it is not written")
    values = values_of(inner) | defaults_of(inner, code)
    return _written(f, inner.__name__, code, values, seen)


def _class(cls: type, seen: Seen) -> str:
    try:
        code = source_of(cls)
    except (OSError, TypeError):
        if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
            raise
        seen.bind("collections", "import collections")
        code = f"{cls.__name__} = collections.namedtuple({cls.__name__!r}, {cls._fields!r})\n"
        return _written(cls, cls.__name__, code, {}, seen)
    return _written(cls, cls.__name__, code, values_around(cls), seen)


def _object(value: Any, seen: Seen) -> str:
    """An enum member, or an object that is rebuilt from its attributes without its constructor."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return f"{_expression(kind, seen)}.{value.name}"
    if not hasattr(value, "__dict__") or is_library(kind.__module__):
        raise CannotWrite(repr(value))
    made, held = _expression(kind, seen), _container(vars(value), seen)
    name = seen.fresh(kind.__name__.lower())
    seen.of[id(value)] = name, value
    seen.lines[name] = f"{name} = object.__new__({made})\n{name}.__dict__.update({held})"
    return name


def _written(
    value: Any, own: str, code: str, values: Mapping[str, Any], seen: Seen, expression: str = ""
) -> str:
    """Adds the definition of code and of all names it uses; returns its name.

    If one of these names is taken by another value, the code is put into a function of its own.
    """
    name = seen.fresh(own)
    seen.of[id(value)] = name, value
    scope = {}
    for key in free_names(code):
        if key not in values or values[key] is value:
            continue
        line = _binding(key, values[key], code, seen)
        if line and not seen.bind(key, line):
            scope[key] = line
    if expression and not scope:
        del seen.of[id(value)]
        return expression
    if not scope and name == own:
        seen.lines[name] = code
        return name
    body = [*scope.values(), f"return {expression}" if expression else f"{code}return {own}"]
    lines = textwrap.indent("\n".join(body), "    ")
    seen.lines[name] = f"def scope():\n{lines}\n{name} = scope()"
    return name


def _binding(key: str, value: Any, code: str, seen: Seen) -> str | None:
    """The line that binds a name in some code to a value; `None` if it is bound already."""
    if isinstance(value, types.ModuleType):
        if is_library(value.__name__):
            return f"import {value.__name__}" + f" as {key}" * (value.__name__ != key)
        if seen.imports:
            return f"import {value.__name__} as {key}  # its source stands elsewhere"
        # A module of the user: only the attributes that the code uses.
        used = [f"{a}={_expression(getattr(value, a), seen)}" for a in attributes(code, key)]
        seen.bind("types", "import types")
        return f"{key} = types.SimpleNamespace({', '.join(used)})"
    text = _expression(value, seen)
    return None if text == key else f"{key} = {text}"
