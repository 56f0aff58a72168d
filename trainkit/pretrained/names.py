"""Names of parameters: families of names that differ in numbers alone, and how alike two are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import jax

# A number that is a part of a name by itself: of layers.3.q and Dense_0, not of w1 or conv2d.
_NUMBER = re.compile(r"(?<![^./_\[])\d+(?![^./_\]])")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Words that say the same; "" for words that say nothing.
_SAME = {
    "attention": "attn", "self": "", "query": "q", "key": "k", "value": "v", "out": "o",
    "output": "o", "proj": "", "projection": "", "embedding": "embed", "embeddings": "embed",
    "emb": "embed", "wte": "embed", "tok": "embed", "tokens": "embed", "token": "embed",
    "layernorm": "norm", "rmsnorm": "norm", "ln": "norm", "layers": "layer", "blocks": "layer",
    "block": "layer", "h": "layer", "ffn": "mlp", "feed": "mlp", "forward": "mlp",
    "feedforward": "mlp", "dense": "fc", "linear": "fc", "lm": "head", "unembed": "head",
    "params": "", "model": "", "transformer": "", "module": "", "encoder": "", "decoder": "",
}  # fmt: skip
_KINDS = {
    "bias": "bias", "b": "bias", "beta": "bias", "mean": "mean", "var": "var", "variance": "var",
}  # fmt: skip
_PLAIN = {"weight", "kernel", "w", "scale", "embedding", "gamma"}
_SILENT = {"running", "state", "stats"}


class Family(NamedTuple):
    """Names that differ in numbers alone, of tensors of one shape and dtype.

    Attributes:
      name: with * for each number, as in "layers/*/attn/q".
      members: the numbers -> the name.
      spec: shape and dtype.
    """

    name: str
    members: dict[tuple[int, ...], str]
    spec: jax.ShapeDtypeStruct


def pattern_of(name: str) -> tuple[str, tuple[int, ...]]:
    """A name with * for its numbers, and the numbers.

    >>> pattern_of("model.layers.11.mlp.w1.weight"), pattern_of("params/Dense_0/kernel")
    (('model.layers.*.mlp.w1.weight', (11,)), ('params/Dense_*/kernel', (0,)))
    """
    return _NUMBER.sub("*", name), tuple(int(n) for n in _NUMBER.findall(name))


def numbered(pattern: str, numbers: tuple[int, ...]) -> str:
    """The name of a pattern for some numbers.

    >>> numbered("layers.*.experts.*.up", (3, 0))
    'layers.3.experts.0.up'
    """
    parts = pattern.split("*")
    if len(parts) != len(numbers) + 1:
        raise ValueError(f"{pattern!r} has {len(parts) - 1} numbers, not {len(numbers)}")
    return parts[0] + "".join(f"{n}{part}" for n, part in zip(numbers, parts[1:], strict=True))


def families(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Family]:
    """Names by family. Where shapes or dtypes of a family differ, each name is one of its own."""
    found: dict[str, dict[tuple[int, ...], str]] = {}
    for name in shapes:
        pattern, numbers = pattern_of(name)
        found.setdefault(pattern, {})[numbers] = name
    result = {}
    for pattern, members in found.items():
        specs = {(shapes[name].shape, str(shapes[name].dtype)) for name in members.values()}
        if len(specs) == 1:
            result[pattern] = Family(pattern, members, shapes[next(iter(members.values()))])
        else:
            result |= {name: Family(name, {(): name}, shapes[name]) for name in members.values()}
    return result


def words_of(name: str) -> Counter[str]:
    """What a name says: its words, in one spelling for words that say the same."""
    words = [word.lower() for word in _WORD.findall(name)]
    last = words.pop() if words and words[-1] in {*_KINDS, *_PLAIN} else ""
    found = Counter(_SAME.get(word, word) for word in words if word not in _SILENT)
    del found[""]
    found[f"({_KINDS.get(last, 'weight')})"] += 1
    if last == "embedding":
        found["embed"] = 1
    return found


def likeness(a: str, b: str) -> float:
    """How alike two names are, from 0 to 1.

    >>> likeness("layers/*/attn/query/kernel", "model.layers.*.self_attn.q_proj.weight")
    1.0
    """
    one, other = words_of(a), words_of(b)
    shared = one & other
    if not any(not word.startswith("(") for word in shared):
        return 0.0
    return 2 * shared.total() / (one.total() + other.total())
