"""100 points of y = 2x + 1 + noise: batch, mini-batch and single-example descent.

trainkit train linear_regression

Cost: about 8 seconds on two CPU cores. Expect: the closed form gives slope 1.967 and intercept
0.927 (off from 2 and 1 by what the noise does to 100 points), and each kind of descent finds the
closed form's numbers: the full batch within 10⁻⁴, mini-batches of 10 within 0.02, single examples
within 0.05.
The picture is runs/linear_regression/fit.png.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trainkit.transforms as tt
from experiments.figures import save
from experiments.options import check
from trainkit import schedules

SLOPE, INTERCEPT = 2.0, 1.0
# kind -> (examples in a batch, tolerance of slope and intercept beside the closed form)
KINDS = {"batch": (100, 1e-4), "mini-batch": (10, 0.02), "single example": (1, 0.05)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fit a line by gradient descent in three ways, beside the closed form."""

    epochs: int = 200
    """Passes over the 100 points."""
    learning_rate: float = 0.1
    """Of the first step; it falls to 0 along half a cosine, which averages the noise away."""
    noise: float = 1.0
    """Standard deviation of the noise in y."""
    seed: int = 0
    """Decides the points and the order in which they are seen."""
    out: str = "runs/linear_regression"
    """The folder for the picture."""

    def __post_init__(self) -> None:
        check(self, "epochs", "learning_rate", least_0=("noise",))


def points(noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """100 points: x uniform in [−2, 2], y = 2x + 1 and Gaussian noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, 100)
    y = SLOPE * x + INTERCEPT + noise * rng.normal(size=100)
    return x.astype(np.float32), y.astype(np.float32)


def closed_form(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of least squares, by the normal equations in float64."""
    design = np.stack([x, np.ones_like(x)], axis=1).astype(np.float64)
    slope, intercept = np.linalg.solve(design.T @ design, design.T @ y)
    return float(slope), float(intercept)


def descend(
    x: np.ndarray, y: np.ndarray, size: int, epochs: int, rate: float, seed: int
) -> np.ndarray:
    """(slope, intercept) after every epoch, (epochs + 1, 2), by batches of `size`."""
    steps = len(x) // size
    tx = tt.sgd(schedules.cosine(rate, epochs * steps))

    def loss(p: dict[str, jax.Array], batch: Any) -> jax.Array:
        a, b = batch
        return jnp.mean((p["slope"] * a + p["intercept"] - b) ** 2) / 2

    def step(carry: Any, batch: Any) -> Any:
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p, batch), state, p)
        return (tt.apply_updates(p, updates), state), None

    def epoch(carry: Any, key: jax.Array) -> Any:
        order = jax.random.permutation(key, len(x)).reshape(steps, size)
        carry, _ = jax.lax.scan(step, carry, (jnp.asarray(x)[order], jnp.asarray(y)[order]))
        return carry, jnp.stack([carry[0]["slope"], carry[0]["intercept"]])

    start = {"slope": jnp.zeros(()), "intercept": jnp.zeros(())}
    keys = jax.random.split(jax.random.key(seed), epochs)
    train = jax.jit(lambda c: jax.lax.scan(epoch, c, keys))
    _, path = train((start, tx.init(start)))
    return np.concatenate([np.zeros((1, 2)), np.asarray(path)])


def run(config: Config) -> dict[str, tuple[float, float]]:
    """Fits in every way, prints a table, draws it; returns way -> (slope, intercept)."""
    if config.epochs < 1:
        raise ValueError(f"--epochs is {config.epochs}; it must be at least 1.")
    x, y = points(config.noise, config.seed)
    exact = closed_form(x, y)
    found, paths = {"closed form": exact}, {}
    print(f"y = {SLOPE:g}x + {INTERCEPT:g} + noise, {len(x)} points, {config.epochs} epochs")
    print(f"  {'way':<16}{'slope':>10}{'intercept':>11}{'off by':>10}{'at most':>10}")
    print(f"  {'closed form':<16}{exact[0]:>10.5f}{exact[1]:>11.5f}")
    for kind, (size, tolerance) in KINDS.items():
        path = descend(x, y, size, config.epochs, config.learning_rate, config.seed)
        paths[kind] = path
        slope, intercept = (float(v) for v in path[-1])
        found[kind] = slope, intercept
        off = max(abs(slope - exact[0]), abs(intercept - exact[1]))
        print(f"  {kind:<16}{slope:>10.5f}{intercept:>11.5f}{off:>10.1e}{tolerance:>10.0e}")
    print(f"Picture: {draw(x, y, found, paths, Path(config.out)).resolve()}")
    return found


def draw(x: Any, y: Any, found: Any, paths: Any, out: Path) -> Path:
    """The points with the fitted lines, and how far each way is from the closed form."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, y, ".", color="0.6")
    ends = np.array([-2.0, 2.0])
    for way, (slope, intercept) in found.items():
        left.plot(ends, slope * ends + intercept, label=way, lw=1.2)
    left.set(xlabel="x", ylabel="y", title="points and lines")
    left.legend(frameon=False)
    for kind, path in paths.items():
        off = np.abs(path - np.array(found["closed form"])).max(axis=1)
        right.semilogy(np.maximum(off, 1e-8), label=kind)
    right.set(xlabel="epoch", ylabel="distance", title="from the closed form")
    right.legend(frameon=False)
    file = out / "fit.png"
    save(figure, file)
    return file
