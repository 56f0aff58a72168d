"""Draws the axis groups of docs/growth.md from plans: python -m tools.growth_pictures"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from trainkit import growth
from trainkit.growth.views.picture import COLOURS, INK

OUT = pathlib.Path(__file__).resolve().parents[1] / "docs" / "img"
plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})


def sizes(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def block(p, x):
    """A pre-norm transformer block with grouped queries and a head."""
    norm = lambda h, w: h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6) * w
    h = x @ p["embed"]
    y = norm(h, p["norm 1"])
    q, k, v = (jnp.einsum("btd,dhe->bthe", y, p[name]) for name in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / np.sqrt(q.shape[-1]))
    h = h + jnp.einsum("bhts,bshe,hed->btd", weights, v, p["out"])
    y = norm(h, p["norm 2"])
    h = h + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]
    return h @ p["head"]


def block_shapes(d, heads, each, hidden):
    return {
        "embed": sizes(5, d), "norm 1": sizes(d), "query": sizes(d, heads, each),
        "key": sizes(d, heads, each), "value": sizes(d, heads, each), "out": sizes(heads, each, d),
        "norm 2": sizes(d), "gate": sizes(d, hidden), "up": sizes(d, hidden),
        "down": sizes(hidden, d), "head": sizes(d, 5),
    }  # fmt: skip


def groups(path: pathlib.Path) -> None:
    """Draws each parameter as a rectangle whose edges have the colours of their axis groups."""
    plan = growth.plan(
        block, block, block_shapes(8, 2, 4, 12), block_shapes(16, 4, 4, 24), sizes(2, 3, 5)
    )
    names = {(8, 16): "residual stream", (2, 4): "heads", (12, 24): "hidden units"}
    plan.draw(leaves=list(block_shapes(8, 2, 4, 12)), names=names, path=path)


def network(ax, copies, shares, title) -> None:
    """Draws three inputs, hidden units and one output; `shares` scale the outgoing weights."""
    hidden = np.linspace(3, 0, len(copies))
    inputs, output = np.linspace(0.5, 2.5, 3), 1.5
    for y, unit, share in zip(hidden, copies, shares, strict=True):
        colour = "#bbbbbb" if unit is None else COLOURS[unit]
        for i in inputs:
            ax.plot([0, 1], [i, y], color=colour, lw=1.1, alpha=0.75, zorder=1)
        ax.plot([1, 2], [y, output], color=colour, lw=0.4 + 3.0 * share, zorder=1,
                ls="-" if share else ":")  # fmt: skip
        ax.scatter([1], [y], s=140, color=colour, zorder=2)
        ax.text(1, y + 0.27, f"× {share:g}", fontsize=8, color=INK, ha="center")
    ax.scatter([0] * 3, inputs, s=70, color=INK, zorder=2)
    ax.scatter([2], [output], s=70, color=INK, zorder=2)
    ax.set_title(title, fontsize=9, color=INK)
    ax.set_xlim(-0.15, 2.15)
    ax.set_ylim(-0.5, 3.6)
    ax.axis("off")


def copies(path: pathlib.Path) -> None:
    """Draws two hidden units and their copies under each option of breaking symmetry."""
    fig, axes = plt.subplots(1, 4, figsize=(9.2, 2.3))
    network(axes[0], [0, 1], [1, 1], "before: 2 units")
    network(axes[1], [0, 0, 1, 1], [0.5] * 4, "even")
    network(axes[2], [0, 0, 1, 1], [0.3, 0.7, 0.6, 0.4], "uneven (the default)")
    network(axes[3], [0, 1, None, None], [1, 1, 0, 0], "append: new units, read with 0")
    fig.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(fig)


def layouts(path: pathlib.Path) -> None:
    """Draws the positions of old units: one index map per row."""
    fig, ax = plt.subplots(figsize=(6.4, 2.9))
    rows: list[tuple[str, list[int | None]]] = [
        ("before", [0, 1, 2]),
        ("repeat", [0, 0, 1, 1, 2, 2]),
        ("tile", [0, 1, 2, 0, 1, 2]),
        ("stride", [0, None, 1, None, 2, None]),
        ("stride end", [None, 0, None, 1, None, 2]),
        ("append", [0, 1, 2, None, None, None]),
        ("centre", [None, 0, 1, 2, None]),
    ]
    for r, (name, units) in enumerate(rows):
        ax.text(-0.3, -r, name, ha="right", va="center", color=INK)
        for j, unit in enumerate(units):
            colour = "#ffffff" if unit is None else COLOURS[unit]
            ax.add_patch(
                Rectangle((j, -r - 0.35), 0.9, 0.7, facecolor=colour, edgecolor=INK, lw=0.8)
            )
            if unit is not None:
                ax.text(j + 0.45, -r, str(unit), color="white", ha="center", va="center")
    notes = ["", "widths; stays on its shard", "tables that repeat as a whole",
             "rotary pairs: the same frequencies",
             "ALiBi: the same slopes", "vocabularies, positions, forced units",
             "convolution kernels, 3 → 5"]  # fmt: skip
    for r, note in enumerate(notes):
        ax.text(6.3, -r, note, va="center", fontsize=8, color=INK)
    ax.set_xlim(-1.6, 11.5)
    ax.set_ylim(-6.6, 0.6)
    ax.axis("off")
    fig.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(fig)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    groups(OUT / "growth-groups.png")
    copies(OUT / "growth-copies.png")
    layouts(OUT / "growth-layouts.png")
