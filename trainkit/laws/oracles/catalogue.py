"""Which reference a name of Optax stands for, and which defaults its arguments have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from trainkit._core import validation
from trainkit.laws.oracles import contrib, rules, wrapped
from trainkit.laws.oracles import pieces as P
from trainkit.laws.oracles.deviations import DEVIATIONS
from trainkit.laws.oracles.papers import PAPERS
from trainkit.laws.oracles.rules import Builder

PREFIX = "optax."


def _of_paper(paper: Callable[..., P.Start]) -> Builder:
    def build(h: Mapping[str, Any], mask: Callable[[Any], Any]) -> P.Start:
        return paper(**h | ({"mask": mask(h["mask"])} if "mask" in h else {}))

    return build


RULES: dict[str, Builder] = (
    rules.RULES | wrapped.RULES | contrib.RULES
    | {name: _of_paper(paper) for name, paper in PAPERS.items()}
    | {PREFIX + name: deviation.build for name, deviation in DEVIATIONS.items()}
)  # fmt: skip


class Oracle(NamedTuple):
    """A reference for one name.

    Attributes:
      name: the Optax function, or that of a paper.
      hyperparams: its arguments, defaults filled in.
      unknown: required arguments that were not given (only `learning_rate` can be inferred).
      build: `(hyperparams, params tree) -> start`, see `pieces`.
    """

    name: str
    hyperparams: dict[str, Any]
    unknown: tuple[str, ...]

    def start(self, params: Any, **override: Any) -> P.Start:
        """The piece for this tree of parameters (masks are resolved against it)."""

        def resolve(mask: Any) -> list[Any] | None:
            """A mask or a tree of labels, leaf by leaf; None where it holds everywhere."""
            if mask is None or mask is True:
                return None
            if mask is False:
                return [False] * len(jax.tree.leaves(params))
            tree = mask(params) if callable(mask) else mask
            return list(jax.tree.leaves(jax.tree.broadcast(tree, params)))

        return RULES[self.name](self.hyperparams | override, resolve)


# Required arguments that can be read off what the rule does.
INFERABLE = ("learning_rate",)


def plain_name(like: str) -> str:
    """`adam` for "adam", "optax.adam" and "optax.contrib.adam"."""
    return like.removeprefix(PREFIX).removeprefix("contrib.")


def reference_name(like: str) -> str:
    """The reference that `like` means: the paper's, or, said with "optax.", Optax's own."""
    name = plain_name(like)
    own = PREFIX + name
    return own if like.startswith(PREFIX) and own in RULES else name


def function(like: str) -> Any:
    """What has the arguments of this name: Optax, its contrib, or the reference itself."""
    name = plain_name(like)
    if name in PAPERS:
        return PAPERS[name]
    home = optax.contrib if hasattr(optax.contrib, name) else optax  # aliases in optax may warn
    return getattr(home, name)


def _called(name: str) -> str:
    plain = plain_name(name)
    return plain if plain in PAPERS else PREFIX + plain


def bind(name: str, hyperparams: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `optax.<name>`, defaults filled in, and the required ones still missing.

    Where a default of Optax's chooses another rule than the paper's, the paper has its own.
    """
    signature = inspect.signature(function(name))
    own = {} if name.startswith(PREFIX) or name not in DEVIATIONS else DEVIATIONS[name].plain
    given = dict(hyperparams or {})
    wrong = sorted(set(given) - set(signature.parameters))
    if wrong:
        raise TypeError(
            f"{_called(name)} has no argument {', '.join(wrong)}; hyperparams may have "
            f"{', '.join(signature.parameters) or 'nothing'}"
        )
    bound = {
        key: given.get(key, own.get(key, p.default))
        for key, p in signature.parameters.items()
        if key in given or p.default is not inspect.Parameter.empty
    }
    return bound, [key for key in signature.parameters if key not in bound]


def needed(name: str, missing: list[str]) -> str:
    """What to pass for the required arguments of `like=name` that are missing."""
    example = ", ".join(f"{key!r}: …" for key in missing)
    return (
        f"like={name!r} needs {', '.join(missing)}, which {_called(name)} has no "
        f"default for: pass hyperparams={{{example}}}"
    )


def oracle_for(name: str, hyperparams: Mapping[str, Any] | None) -> Oracle:
    """The reference for `like=name`.

    Raises:
      ValueError: no such name, or a required argument is missing that cannot be inferred.
      TypeError: an argument that the Optax function does not have.
    """
    if name not in RULES:
        raise ValueError(
            f"like={name!r} is no update rule with a reference"
            f"{validation.near(name, RULES) or '.'} "
            f"Known: {', '.join(sorted(RULES))}"
        )
    bound, missing = bind(name, hyperparams)
    hopeless = [key for key in missing if key not in INFERABLE]
    if hopeless:
        raise ValueError(needed(name, hopeless))
    return Oracle(name, bound, tuple(missing))
