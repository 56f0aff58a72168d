"""Pictures of cost against size, on log-log axes, with the slope of a fitted line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "docs" / "img"


def slope(sizes: Sequence[float], seconds: Sequence[float] | np.ndarray) -> float:
    """The exponent p of seconds ≈ c · sizesᵖ, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def draw(path: Path, title: str, axis: str, sizes: Sequence[float], rounds: np.ndarray) -> None:
    """Medians with quartiles over rounds [rounds, sizes], and a line of the median slope."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    low, middle, high = 1e3 * np.percentile(rounds, [25, 50, 75], axis=0)
    power = np.median([slope(sizes, one) for one in rounds])
    start = np.mean(np.log(middle) - power * np.log(sizes))
    figure, axes = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
    line = np.exp(start) * np.asarray(sizes, float) ** power
    axes.plot(sizes, line, color="0.6", label=f"slope {power:.2f}")
    spread = np.array([middle - low, high - middle])
    axes.errorbar(sizes, middle, spread, fmt="o", capsize=3, color="#00796b")
    axes.set(xscale="log", yscale="log", title=title, xlabel=axis, ylabel="milliseconds")
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=30, ha="right")
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False)
    axes.grid(True, which="both", alpha=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
