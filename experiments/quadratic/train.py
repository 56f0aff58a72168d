"""Paths on x², an ill-conditioned valley and Rosenbrock's: six rules from one start.

trainkit train quadratic

Cost: about 10 seconds on two CPU cores. Expect: every rule ends at the minimum of x² (|x| < 0.02)
and lowers the loss of the valley at least 100 times; a loss of 10⁻³ there takes plain descent 232
steps, momentum 96 and Adam 81, while the rates of dynamic GD fall too soon. On Rosenbrock's
function only Adam comes below 10⁻³ (767 steps).
The picture is runs/quadratic/paths.png.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit.transforms as tt
from experiments.figures import save
from experiments.options import check

Surface = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Follow the classical rules down three surfaces and draw their paths."""

    steps: int = 1000
    """Steps of each rule on each surface."""
    noise: float = 0.1
    """Standard deviation of the noise in the gradient of stochastic descent."""
    seed: int = 0
    """Decides that noise."""
    out: str = "runs/quadratic"
    """The folder for the picture."""

    def __post_init__(self) -> None:
        check(self, "steps", least_0=("noise",))


def parabola(p: jax.Array) -> jax.Array:
    """x², with nothing in y."""
    return p[0] ** 2


def valley(p: jax.Array) -> jax.Array:
    """A quadratic of condition number 100."""
    return 0.5 * (p[0] ** 2 + 100 * p[1] ** 2)


def rosenbrock(p: jax.Array) -> jax.Array:
    """(1 − x)² + 100 (y − x²)², with its minimum at (1, 1)."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def rates(*values: float) -> dict[str, float]:
    """The learning rates by rule."""
    return dict(zip(("gd", "sgd", "dynamic", "momentum", "adam", "rmsprop"), values, strict=True))


# surface -> its start, its minimum, and the learning rate of each rule, chosen by hand for speed.
# A rate of plain descent above 2/λ diverges: λ is 2, 100 and about 2500 at the start.
SURFACES: dict[str, tuple[Surface, tuple[float, float], tuple[float, float], dict[str, float]]] = {
    "x²": (
        parabola,
        (3.0, 0.0),
        (0.0, 0.0),
        rates(0.1, 0.05, 0.3, 0.02, 0.1, 0.02),
    ),
    "valley": (
        valley,
        (3.0, 1.0),
        (0.0, 0.0),
        rates(0.018, 0.015, 0.019, 0.018, 0.1, 0.02),
    ),
    "Rosenbrock": (
        rosenbrock,
        (-1.0, 1.5),
        (1.0, 1.0),
        rates(0.001, 0.001, 0.001, 0.0005, 0.1, 0.01),
    ),
}


def rules(chosen: dict[str, float], noise: float, seed: int) -> dict[str, Any]:
    """The six rules at their rates."""
    return {
        "GD": tt.sgd(chosen["gd"]),
        "SGD": optax.chain(tt.gradient_noise(noise**2, 0.0, key=seed), tt.sgd(chosen["sgd"])),
        "dynamic GD": tt.dynamic_gd(chosen["dynamic"]),
        "momentum": tt.momentum(chosen["momentum"], 0.9),
        "Adam": tt.adam(chosen["adam"]),
        "RMSProp": tt.rmsprop(chosen["rmsprop"]),
    }


def path(surface: Surface, tx: Any, start: tuple[float, float], steps: int) -> np.ndarray:
    """The points visited, (steps + 1, 2)."""
    p = jnp.array(start)

    def step(carry: Any, _: None) -> Any:
        p, state = carry
        updates, state = tx.update(jax.grad(surface)(p), state, p)
        p = p + updates
        return (p, state), p

    _, points = jax.jit(lambda c: jax.lax.scan(step, c, None, length=steps))((p, tx.init(p)))
    return np.concatenate([np.asarray(p)[None], np.asarray(points)])


def run(config: Config) -> dict[str, dict[str, float]]:
    """Follows every path, prints a table and draws it; returns surface -> rule -> last loss."""
    if config.steps < 1:
        raise ValueError(f"--steps is {config.steps}; it must be at least 1.")
    paths: dict[str, dict[str, np.ndarray]] = {}
    ends: dict[str, dict[str, float]] = {}
    for name, (surface, start, minimum, chosen) in SURFACES.items():
        paths[name], ends[name] = {}, {}
        print(f"\n{name}: from {start}, minimum at {minimum}, {config.steps} steps")
        print(f"  {'rule':<12}{'first loss':>12}{'last loss':>12}{'within 1e-3 at':>16}  end")
        for rule, tx in rules(chosen, config.noise, config.seed).items():
            points = path(surface, tx, start, config.steps)
            losses = np.asarray(jax.vmap(surface)(jnp.asarray(points)))
            reached = np.flatnonzero(losses < 1e-3)
            at = str(reached[0]) if len(reached) else "never"
            x, y = points[-1]
            print(
                f"  {rule:<12}{losses[0]:>12.4g}{losses[-1]:>12.3g}{at:>16}  ({x:z.3f}, {y:z.3f})"
            )
            paths[name][rule], ends[name][rule] = points, float(losses[-1])
    print(f"\nPicture: {draw(paths, Path(config.out)).resolve()}")
    return ends


def draw(paths: dict[str, dict[str, np.ndarray]], out: Path) -> Path:
    """Contours with the paths on them, and the losses below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, len(paths))
    for column, (name, by_rule) in enumerate(paths.items()):
        surface, start, minimum, _ = SURFACES[name]
        x, y = np.meshgrid(np.linspace(-3.5, 3.5, 200), np.linspace(-2, 3, 200))
        z = jax.vmap(jax.vmap(surface))(jnp.stack([x, y], -1))
        top, below = axes[0][column], axes[1][column]
        top.contour(x, y, np.log10(np.asarray(z) + 1e-3), 14, colors="0.8", linewidths=0.7)
        for i, (rule, points) in enumerate(by_rule.items()):
            # On x² all paths lie on one line: each is lifted a little, to be seen.
            lift = 0.25 * i if name == "x²" else 0.0
            top.plot(points[:, 0], points[:, 1] + lift, ".-", ms=2.5, lw=1, label=rule)
            losses = np.asarray(jax.vmap(surface)(jnp.asarray(points)))
            below.semilogy(np.maximum(losses, 1e-12), lw=1.2, label=rule)
        top.plot(*start, "ko", ms=5)
        top.plot(*minimum, "k*", ms=11)
        top.set(title=name, xlim=(-3.5, 3.5), ylim=(-2, 3))
        below.set(xlabel="step", ylabel="loss")
    axes[0][0].legend(fontsize=8, frameon=False)
    file = out / "paths.png"
    save(figure, file)
    return file
