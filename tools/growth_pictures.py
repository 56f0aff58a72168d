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
from trainkit.growth.axes.structures import numbers_in

OUT = pathlib.Path(__file__).resolve().parents[1] / "docs" / "img"
COLOURS = ["#3b6fb6", "#d1742f", "#3d9a5b", "#a14f9e", "#b8a02a", "#5aa9b5"]
INK = "#333333"
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
    order = [
        "embed",
        "norm 1",
        "query",
        "key",
        "value",
        "out",
        "norm 2",
        "gate",
        "up",
        "down",
        "head",
    ]
    leaves = {leaf.path: leaf for leaf in plan.leaves}
    names = {8: "residual stream", 2: "heads", 12: "hidden units"}
    fig, ax = plt.subplots(figsize=(10.5, 3.5))
    x = 0.0
    for name in order:
        leaf = leaves[name]
        colours = [
            [
                COLOURS[a % len(COLOURS)]
                for a in sorted(numbers_in(axis.structure if axis else None))
            ]
            or ["#c8c8c8"]
            for axis in leaf.axes
        ]
        vector = len(leaf.small) == 1
        rows = leaf.small[0] * 0.16 if not vector else 0.0
        columns = leaf.small[-1] if vector else int(np.prod(leaf.small[1:]))
        wide, high = max(columns * 0.11, 0.35), max(rows, 0.3)
        ax.add_patch(Rectangle((x, -high), wide, high, facecolor="#f4f2ee", edgecolor=INK, lw=0.8))
        top = [c for axis in (colours if vector else colours[1:]) for c in axis]
        top = [c for c in top if c != "#c8c8c8"] or ["#c8c8c8"]
        for j, c in enumerate(top):
            part = wide / len(top)
            ax.add_patch(Rectangle((x + j * part, 0.03), part, 0.13, facecolor=c))
        if not vector:
            left = [c for c in colours[0] if c != "#c8c8c8"] or ["#c8c8c8"]
            ax.add_patch(Rectangle((x - 0.16, -high), 0.13, high, facecolor=left[0]))
        ax.text(x + wide / 2, 0.27, name, ha="center", va="bottom", color=INK)
        small, big = ("×".join(map(str, s)) for s in (leaf.small, leaf.big))
        shown = f"{small}\n→ {big}\n× {leaf.weight:g}"
        ax.text(x + wide / 2, -high - 0.08, shown, ha="center", va="top", fontsize=7, color=INK)
        x += max(wide, 1.0) + 0.65
    for i, grown in enumerate(plan.grown_axes):
        y = -3.15
        ax.add_patch(Rectangle((i * 4.6, y), 0.3, 0.2, facecolor=COLOURS[i % len(COLOURS)]))
        text = f"{names[grown.small]}, {grown.small} → {grown.big}"
        ax.text(i * 4.6 + 0.4, y + 0.1, text, va="center", color=INK)
    ax.add_patch(Rectangle((13.8, -3.15), 0.3, 0.2, facecolor="#c8c8c8"))
    ax.text(14.2, -3.05, "does not grow", va="center", color=INK)
    ax.set_xlim(-0.3, x)
    ax.set_ylim(-3.3, 0.6)
    ax.set_aspect("equal")
    ax.axis("off")
    fig.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(fig)


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
    fig, ax = plt.subplots(figsize=(6.4, 2.5))
    rows: list[tuple[str, list[int | None]]] = [
        ("before", [0, 1, 2]),
        ("repeat", [0, 0, 1, 1, 2, 2]),
        ("tile", [0, 1, 2, 0, 1, 2]),
        ("stride", [0, None, 1, None, 2, None]),
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
             "rotary pairs: the same frequencies", "vocabularies, positions, forced units",
             "convolution kernels, 3 → 5"]  # fmt: skip
    for r, note in enumerate(notes):
        ax.text(6.3, -r, note, va="center", fontsize=8, color=INK)
    ax.set_xlim(-1.6, 11.5)
    ax.set_ylim(-5.6, 0.6)
    ax.axis("off")
    fig.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(fig)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    groups(OUT / "growth-groups.png")
    copies(OUT / "growth-copies.png")
    layouts(OUT / "growth-layouts.png")
