"""Names in source code: free names, their values, and imports of library objects."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import inspect
import symtable
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PUBLIC = (
    ("optax", optax), ("optax.contrib", optax.contrib), ("jnp", jnp), ("jax.lax", jax.lax),
    ("jax", jax), ("jax.nn", jax.nn),
)  # fmt: skip


def free_names(code: str) -> list[str]:
    """The free names of code, including built-in ones."""
    whole = symtable.symtable(code, "a rule", "exec")
    own = {s.get_name() for s in whole.get_symbols() if s.is_assigned() or s.is_imported()}
    found: dict[str, None] = {}

    def walk(scope: symtable.SymbolTable) -> None:
        for symbol in scope.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or scope is whole):
                found[symbol.get_name()] = None
        for child in scope.get_children():
            walk(child)

    walk(whole)
    return [name for name in found if name not in own]


def values_of(f: Callable[..., Any]) -> dict[str, Any]:
    """The values of the free names in a function's source."""
    held = zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
    return {**f.__globals__, **{name: cell.cell_contents for name, cell in held if _full(cell)}}


def defaults_of(f: Callable[..., Any], code: str) -> dict[str, Any]:
    """The values of names in default arguments, such as `k` in `lambda x, k=k: …`.

    These are the values at the definition of the function, not the current ones.
    """
    kinds = ast.Lambda | ast.FunctionDef
    node = next(n for n in ast.walk(ast.parse(code)) if isinstance(n, kinds))
    pairs = zip(reversed(node.args.defaults), reversed(f.__defaults__ or ()), strict=False)
    named = {x.id: value for x, value in pairs if isinstance(x, ast.Name)}
    held = f.__kwdefaults__ or {}
    only = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return named | {x.id: held[a.arg] for a, x in only if isinstance(x, ast.Name)}


def values_around(cls: type) -> dict[str, Any]:
    """The values of the free names in a class's source."""
    methods = [m for m in vars(cls).values() if isinstance(m, types.FunctionType)]
    inner = {k: v for m in methods for k, v in values_of(m).items() if k != "__class__"}
    return {**vars(sys.modules[cls.__module__]), **inner}


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not yet assigned
        return False


def attributes(code: str, name: str) -> list[str]:
    """The attributes of a name that code uses, such as `a` and `b` in `name.a + name.b.c`.

    >>> attributes("name.b.c + name.a", "name")
    ['a', 'b']
    """
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
    return sorted({x.attr for x in nodes if isinstance(x.value, ast.Name) and x.value.id == name})


def is_library(module: str) -> bool:
    """Whether a module belongs to Python or to an installed package."""
    return _installed(module.split(".")[0])


@functools.cache
def _installed(root: str) -> bool:
    if root in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ValueError, ImportError):
        return False
    # An environment may see packages of another one, of the user or of the system.
    places = {sysconfig.get_paths()[k] for k in ("purelib", "platlib")}
    origin = str(spec.origin).replace("\\", "/") if spec is not None else ""
    named = any(f"/{folder}/" in origin for folder in ("site-packages", "dist-packages"))
    return named or any(origin.startswith(p.replace("\\", "/")) for p in places)


def public(value: Any) -> str | None:
    """The public name of a value of Optax, JAX or Python that needs no import, or `None`."""
    name = _name(value)
    if getattr(builtins, name, None) is value:
        return name
    return next((f"{p}.{name}" for p, home in PUBLIC if getattr(home, name, None) is value), None)


def imported(value: Any) -> tuple[str, str] | None:
    """(module, name) of the export of a library object, or `None`."""
    module, name = getattr(value, "__module__", None), _name(value)
    if not isinstance(module, str) or not name or not is_library(module):
        return None
    root = module.split(".")[0]
    public = [m for m in sys.modules if m.split(".")[0] == root and "._" not in m]
    for home in (*sorted(public, key=len), module):
        if getattr(sys.modules.get(home), name, None) is value:
            return home, name
    return None


def _name(value: Any) -> str:
    name = getattr(value, "__name__", None) or getattr(value, "_name", None)
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def source_of(value: Any) -> str:
    """The source of a function or a class with its decorators, dedented."""
    return textwrap.dedent(inspect.getsource(value))
