"""Masks for weight decay, by a leaf's name, its parent's name and its number of axes."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import compiled, named_leaves
from trainkit.transforms.stacks import Stacked, layer_axes

PyTree = Any

# Leaves that never decay. For biases and scales, any word of the name counts; the others are whole
# names (`lora_b` is not a bias, `scale_proj` is not a scale).
_BIAS = {"bias", "biases"}
_WHOLE = {"b", "g", "scale", "gamma", "beta", "offset", "shift", "a_log", "logit_scale"}
_NORM = re.compile(r"(.*norm|ln|bn|gn|rms)$")
# Words that may follow the word for a norm, as in GPT-2's `ln_f`.
_PLACE = {"f", "final", "in", "out", "pre", "post", "mlp", "attn", "q", "k", "a", "b"}


def decay_mask(params: PyTree, *, exclude: str | None = None, stacked: Stacked = None) -> PyTree:
    """Which leaves to decay: matrices and kernels, not biases, norm scales or other vectors.

    A leaf decays if it has two or more axes (without layer axes; see `stacked`), its name is not
    that of a bias, a scale or Mamba's `A_log`, and its immediate parent is not a norm. Only whole
    words count, and modules further up do not. `exclude` is a regular expression for paths of
    further leaves that do not decay. Pass it to a rule as `mask=decay_mask`, or with arguments by
    `functools.partial`; inside a rule with `stacked` it gets single layers.
    `print(decay_table(params))` shows the decisions with their reasons.

    Raises:
      ValueError: `exclude` is not a regular expression, or `stacked` matches no leaf.

    >>> import jax.numpy as jnp
    >>> decay_mask({"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
    {'dense': {'bias': False, 'kernel': True}}
    """
    reasons = _reasons(params, exclude, stacked)
    return jax.tree.unflatten(jax.tree.structure(params), [not why for why in reasons])


def decay_table(params: PyTree, *, exclude: str | None = None, stacked: Stacked = None) -> str:
    """The decisions of `decay_mask`, one line per leaf: name, shape, and reason.

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
    """For each leaf the reason why it does not decay; "" if it decays."""
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
    # A norm has no kernel, so a module norm_mlp with a kernel is not a norm.
    return f"of the norm {parents[-1]!r}" if _is_norm(parent) and own != "kernel" else ""


def _is_norm(words: list[str]) -> bool:
    """Whether the last word means a norm; a word for its position may follow."""
    if len(words) > 1 and words[-1] in _PLACE:
        words = words[:-1]
    return bool(words and _NORM.match(words[-1]))


def _words(name: str) -> list[str]:
    """The words of a name in lower case, without numbers: RMSNorm_0 is rms, norm."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [part.lower() for part in parts]
