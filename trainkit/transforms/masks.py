"""Which leaves decay: by a leaf's own name, its parent's and how many axes it has."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import compiled, named_leaves
from trainkit.transforms.stacks import Stacked, layer_axes

PyTree = Any

# Leaves that are spared whatever their shape. Of a bias and a norm's scale any word of the name
# says so; the others are whole names (`lora_b` is no bias, `scale_proj` no scale).
_BIAS = {"bias", "biases"}
_WHOLE = {"b", "g", "scale", "gamma", "beta", "offset", "shift", "a_log", "logit_scale"}
_NORM = re.compile(r"(.*norm|ln|bn|gn|rms)$")
# What may stand behind the word that says "norm", as in GPT-2's `ln_f`.
_PLACE = {"f", "final", "in", "out", "pre", "post", "mlp", "attn", "q", "k", "a", "b"}


def decay_mask(params: PyTree, *, exclude: str | None = None, stacked: Stacked = None) -> PyTree:
    """Which leaves to decay: matrices and kernels, not biases, norm scales or other vectors.

    A leaf decays where it has two axes or more (without the layer axes that `stacked` says it has),
    its own name is not that of a bias, a scale or Mamba's `A_log`, and its immediate parent is not
    a norm: modules further up have no say, nor have parts of words. `exclude`, a regular expression
    that is searched for in the whole path, spares more. Give it to any rule as `mask=decay_mask`,
    with `functools.partial` where it takes arguments; inside a rule that is `stacked` itself it
    sees single layers. `print(decay_table(params))` shows what it decides, and why.

    Raises:
      ValueError: `exclude` is no regular expression; `stacked` matches no leaf.

    >>> import jax.numpy as jnp
    >>> decay_mask({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
    {'dense': {'bias': False, 'kernel': True}}
    """
    reasons = _reasons(params, exclude, stacked)
    return jax.tree.unflatten(jax.tree.structure(params), [not why for why in reasons])


def decay_table(params: PyTree, *, exclude: str | None = None, stacked: Stacked = None) -> str:
    """What `decay_mask` decides, a line a leaf: its name, its shape, and why it is spared.

    >>> import jax.numpy as jnp
    >>> print(decay_table({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}))
    dense/bias    (3,)    spared: a vector
    dense/kernel  (2, 3)  decays
    """
    rows = [
        (name, str(jnp.shape(x)), f"spared: {why}" if why else "decays")
        for (name, x), why in zip(
            named_leaves(params).items(), _reasons(params, exclude, stacked), strict=True
        )
    ]
    names, shapes = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    return "\n".join(f"{n:<{names}}  {s:<{shapes}}  {why}" for n, s, why in rows)


def _reasons(params: PyTree, exclude: str | None, stacked: Stacked) -> list[str]:
    """For each leaf why it is spared, "" where it decays."""
    more = [] if exclude is None else compiled([exclude])
    axes = layer_axes(stacked, params, "decay_mask")
    return [
        _reason(name, jnp.ndim(x) - n)
        or next((f"excluded by {p.pattern!r}" for p in more if p.search(name)), "")
        for (name, x), n in zip(named_leaves(params).items(), axes, strict=True)
    ]


def _reason(name: str, rank: int) -> str:
    if rank < 2:
        return ("a scalar", "a vector")[max(rank, 0)]
    *parents, own = [part for part in re.split(r"[/.]", name) if not part.isdigit()] or [""]
    words = _words(own)
    if _BIAS & set(words):
        return "a bias by its name"
    parent = _words(parents[-1]) if parents else []
    if "_".join(words) in _WHOLE and "lora" not in parent:
        return f"called {own!r}"
    if _is_norm(words):
        return "a norm by its name"
    # A norm has no kernel: a module called norm_mlp that has one is another.
    return f"of the norm {parents[-1]!r}" if _is_norm(parent) and own != "kernel" else ""


def _is_norm(words: list[str]) -> bool:
    """Whether the last word says "norm", but for one that says where the norm is."""
    if len(words) > 1 and words[-1] in _PLACE:
        words = words[:-1]
    return bool(words and _NORM.match(words[-1]))


def _words(name: str) -> list[str]:
    """The words of a name in lower case, numbers left out: RMSNorm_0 is rms, norm."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [part.lower() for part in parts]
