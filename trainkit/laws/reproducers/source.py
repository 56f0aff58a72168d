"""Writing a rule down again as code, so that a reproducer stands alone.

A rule is a pair of closures. Optax's own are written as the call that made them, from the values in
their closures; anyone else's are written as the source of the function that was given, with every
global that it uses. What cannot be written down that way is imported, and the reproducer says so.
"""

from __future__ import annotations

import builtins
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trainkit.laws.reproducers.lambdas import default_names, names_in, text_of
from trainkit.laws.reproducers.literals import CannotWrite, is_dtype, literal

FUTURE = "from __future__ import annotations\n\n"
HEADER = FUTURE + "import jax\nimport jax.numpy as jnp\nimport optax\n"


def header(devices: int = 1) -> str:
    """The imports of a reproducer; where it needs devices, they are simulated."""
    if devices == 1:
        return HEADER
    flag = f"--xla_force_host_platform_device_count={devices}"
    many = f"import os\n\nos.environ['XLA_FLAGS'] = '{flag}'  # before JAX starts\n"
    return HEADER.replace(FUTURE, FUTURE + many)


class Seen(dict[str, str]):
    """What has been written down so far, by name; whether users' modules may be imported."""

    def __init__(self, imports: bool = False):
        super().__init__()
        self.imports = imports


def rule(subject: Any, name: str, like: str | None, hyperparams: Mapping[str, Any] | None) -> str:
    """Lines that end in `name = …` and rebuild a factory, a transformation or a schedule."""
    for seen in (Seen(), Seen(imports=True)):
        try:
            expression = _expression(subject, seen, calling=callable(subject) and name == "tx")
            written = [line for line in seen.values() if line not in HEADER.splitlines()]
            return "\n".join([*written, f"{name} = {expression}"])
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


def _expression(value: Any, seen: Seen, calling: bool = False) -> str:
    """`value` as an expression; functions and classes that it needs go to `seen`."""
    if _is_transformation(value):
        return _transformation(value, seen)
    if isinstance(value, types.FunctionType):
        text = _function(value, seen)
        return f"({text})()" if calling and text.startswith("lambda") else text + "()" * calling
    if hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        args = [_expression(a, seen) for a in value.args]
        args += [f"{k}={_expression(v, seen)}" for k, v in value.keywords.items()]
        if calling:
            return f"{_expression(value.func, seen)}({', '.join(args)})"
        seen.setdefault("functools", "import functools")
        return f"functools.partial({', '.join([_expression(value.func, seen), *args])})"
    if isinstance(value, type) and not is_dtype(value):
        return _named(value, seen)
    if isinstance(value, types.ModuleType):
        raise CannotWrite("a module")
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        items = "".join(_expression(v, seen) + ", " for v in value)
        return f"({items})" if isinstance(value, tuple) else f"[{items}]"
    if callable(value) and not is_dtype(value):
        return _named(value, seen)
    return literal(value)


def _is_transformation(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "init") and hasattr(value, "update")


def _public(value: Any) -> str | None:
    """How a value that Optax, JAX or NumPy export is called."""
    module, name = getattr(value, "__module__", "") or "", getattr(value, "__name__", "")
    if module.split(".")[0] == "optax":
        import optax

        for prefix, home in (("optax", optax), ("optax.contrib", optax.contrib)):
            if getattr(home, name, None) is value:
                return f"{prefix}.{name}"
        return None
    for prefix, home in (("jnp", jnp), ("jax.lax", jax.lax), ("jax", jax), ("jax.nn", jax.nn)):
        if name and getattr(home, name, None) is value:
            return f"{prefix}.{name}"
    if getattr(builtins, name, None) is value:
        return name
    return None


def _named(value: Any, seen: Seen) -> str:
    public = _public(value)
    if public:
        return public
    name = getattr(value, "__name__", "")
    if not name or (getattr(value, "__module__", "") or "").split(".")[0] in ("jax", "numpy"):
        raise CannotWrite(repr(value))
    if name not in seen:
        seen[name] = ""
        code = textwrap.dedent(inspect.getsource(value))
        before: dict[str, str] = {}
        if isinstance(value, type) and issubclass(value, tuple):
            before["NamedTuple"] = "from typing import Any, NamedTuple"
        seen.pop(name)
        seen.update({k: v for k, v in before.items() if k not in seen})
        seen[name] = code
    return name


def _function(f: Callable[..., Any], seen: Seen) -> str:
    public = _public(f)
    if public:
        return public
    name = f.__name__
    made = _maker(f)
    if made is not None:
        return _call(made, [f], seen)
    lambda_text = text_of(f) if name == "<lambda>" else None
    if name == "<lambda>" and lambda_text is None:
        raise CannotWrite("a lambda whose source is not known from its neighbours")
    if name in seen:
        return name
    if lambda_text is None:
        seen[name] = ""  # against recursion
    free = inspect.getclosurevars(f)
    for key, value in {**free.globals, **free.nonlocals, **_inner_globals(f)}.items():
        if key in seen or value is f:
            continue
        if isinstance(value, types.ModuleType):
            root = value.__name__
            if root.split(".")[0] in {"jax", "optax", "numpy", *sys.stdlib_module_names}:
                seen[key] = f"import {root} as {key}" if root != key else f"import {root}"
                continue
            if seen.imports:
                seen[key] = f"import {root} as {key}  # its source stands elsewhere"
                continue
            # A user's module: what the function uses of it, under the module's name.
            used = [n for n in names_in(f) if hasattr(value, n)]
            held = [f"{n}={_expression(getattr(value, n), seen)}" for n in used]
            seen["types"] = "import types"
            seen[key] = f"{key} = types.SimpleNamespace({', '.join(held)})"
            continue
        text = _expression(value, seen)
        if text != key:
            seen[key] = f"{key} = {text}"
    if lambda_text is not None:
        for key, value in default_names(f, lambda_text).items():
            seen.setdefault(key, f"{key} = {_expression(value, seen)}")
        return lambda_text
    seen.pop(name)
    code = textwrap.dedent(inspect.getsource(f))
    seen[name] = code[code.index("def ") :] if not code.startswith("def ") else code
    return name


def _inner_globals(f: Callable[..., Any]) -> dict[str, Any]:
    """Globals that `f` or the functions inside it use."""
    return {n: f.__globals__[n] for n in names_in(f) if n in f.__globals__}


def _maker(f: Any) -> Callable[..., Any] | None:
    """The public function of Optax whose inner function `f` is."""
    if (getattr(f, "__module__", "") or "").split(".")[
        0
    ] != "optax" or "<locals>" not in f.__qualname__:
        return None
    import optax

    name = f.__qualname__.split(".")[0]
    for home in (optax, optax.contrib, optax.transforms):
        maker = getattr(home, name, None)
        if callable(maker):
            return maker
    raise CannotWrite(f.__qualname__)


def _closure(fs: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for f in fs:
        found |= inspect.getclosurevars(f).nonlocals if isinstance(f, types.FunctionType) else {}
    return found


def _call(maker: Any, fs: list[Any], seen: Seen) -> str:
    """`maker(…)` with the arguments found in the closures of what it made."""
    public = _public(maker)
    if public is None:
        raise CannotWrite(repr(maker))
    held = _closure(fs)
    args = []
    for key, p in inspect.signature(maker).parameters.items():
        if key not in held:
            if p.default is inspect.Parameter.empty:
                raise CannotWrite(f"{public} needs {key}")
            continue
        if p.default is not inspect.Parameter.empty and p.default is held[key]:
            continue
        args.append(f"{key}={_expression(held[key], seen)}")
    return f"{public}({', '.join(args)})"


def _transformation(tx: Any, seen: Seen) -> str:
    import optax

    init, update = tx.init, tx.update
    name = getattr(update, "__qualname__", "").split(".")[0]
    ours = (getattr(update, "__module__", "") or "").split(".")[0] == "optax"
    held = _closure([init, update])
    if ours and name == "with_extra_args_support":
        return _transformation(held["tx"], seen)
    if ours and name == "chain":
        parts = zip(held["init_fns"], held["update_fns"], strict=True)
        made = [_transformation(optax.GradientTransformation(i, u), seen) for i, u in parts]
        return f"optax.chain({', '.join(made)})"
    if ours and name == "identity":
        return "optax.identity()"
    if ours and name and hasattr(optax, name):
        return _call(getattr(optax, name), [init, update], seen)
    if getattr(init, "__name__", "") == "init_empty_state" or ours:
        maker = _maker(update) if ours else None
        if maker is not None:
            return _call(maker, [init, update], seen)
    return f"optax.GradientTransformation({_expression(init, seen)}, {_expression(update, seen)})"
